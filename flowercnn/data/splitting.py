"""Who learns from what: stratified train/val/test that share no picture, saved and checked again.

Samples that belong together (of one group, copies and near-copies of one picture) are one unit and are never divided.
The order in which units are drawn is a hash of the seed and their content (or group), so a split depends neither on
the order of listing nor on names, and adding pictures moves few of those already there.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flowercnn._utils import as_path, check_seed, stable_hash, write_result
from flowercnn.errors import ConfigurationError, SplitError, few

if TYPE_CHECKING:
    from flowercnn.data.dataset import Dataset

__all__ = ["Fold", "Overlap", "Splits", "check_fractions", "draw_folds", "draw_split", "draw_units"]

_FORMAT = "flowercnn-splits"
_NAMES = ("train", "val", "test")
_NUMBERS = (int, float, np.integer, np.floating)

Indices = npt.NDArray[np.int64]
Units = Sequence[Sequence[int]]
"""Positions of samples that stay together, in the order in which they are drawn."""


class Overlap(NamedTuple):
    """Two samples in different parts that should not be.

    Args:
        first: Part and key of the one, such as ``"train rose/1.jpg"``.
        second: Part and key of the other.
        reason: ``"same key"``, ``"same group"``, ``"same file"`` or ``"near-duplicate"``.
    """

    first: str
    second: str
    reason: str

    def __str__(self) -> str:
        return f"{self.first} = {self.second} ({self.reason})"


class Splits(NamedTuple):
    """The three parts of a data set: ``train, val, test = dataset.split()``.

    Args:
        train: What the weights are learned from.
        val: What choices are made on (early stopping, calibration). Empty if not asked for.
        test: What the final figure is measured on; nothing is ever selected on it. Empty if not asked for.
    """

    train: Dataset
    val: Dataset
    test: Dataset

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the keys of each part to a JSON file, whole or not at all, and return its path.

        Raises:
            OutputError: If the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "version": 1,
            "class_names": list(self.train.class_names),
            **{name: list(part.keys) for name, part in zip(_NAMES, self, strict=True)},
        }
        text = json.dumps(content, ensure_ascii=True, indent=1)
        return write_result(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], dataset: Dataset, *, check: bool = True, progress: bool = True
    ) -> Splits:
        """Return the saved parts of ``dataset``, checked again.

        Args:
            path: A file that `save` has written.
            dataset: The data set that was split.
            check: Whether to look for pictures in two parts, as `check` does.
            progress: Whether to show a progress bar while pictures are read.

        Raises:
            ConfigurationError: If ``dataset`` is none.
            SplitError: If the file is no split file, names keys the data set has not, puts one key in two parts,
                or was made for other classes, or if a picture is in two parts. Samples that are new since then are an
                error too: split again.
        """
        if not hasattr(dataset, "encoder"):  # the class cannot be imported here: it imports this module
            raise ConfigurationError(
                "dataset must be a flowercnn.Dataset; make one with Dataset.from_source(source). "
                f"Received: {type(dataset).__name__}"
            )
        content = _read_split_file(as_path(path))
        if tuple(content["class_names"]) != dataset.class_names:
            raise SplitError(
                f"{path}: the split was made for other classes. Received: {few(dataset.class_names)}; "
                f"saved: {few(content['class_names'])}. Split the data set again."
            )
        position = {key: index for index, key in enumerate(dataset.keys)}
        listed = [key for name in _NAMES for key in content[name]]
        missing = [key for key in listed if key not in position]
        new = sorted(position.keys() - set(listed))
        twice = len(listed) - len(set(listed))
        if missing or new or twice:
            raise SplitError(
                f"{path}: a split must name every sample of the data set once. Received: {len(missing)} keys the "
                f"data set has not ({few(missing, 3)}), {len(new)} samples the split has not ({few(new, 3)}), "
                f"{twice} keys in two parts. Split the data set again."
            )
        if check:
            dataset.contents(progress=progress)  # now: the parts know then what was read
        splits = cls(*(dataset.subset([position[key] for key in content[name]]) for name in _NAMES))
        if check:
            splits.check(progress=progress)
        return splits

    def overlaps(self, *, progress: bool = True) -> list[Overlap]:
        """Return the pairs of samples in different parts with one key, one group, one file, or nearly one picture.

        Pictures are read if the data set has not read them yet.
        """
        from flowercnn.data.grouping import find_overlaps

        return find_overlaps(dict(zip(_NAMES, self, strict=True)), progress=progress)

    def check(self, *, progress: bool = True) -> None:
        """Make sure that nothing is on two sides.

        Raises:
            SplitError: If something is; the pairs are listed.
        """
        found = self.overlaps(progress=progress)
        if found:
            raise SplitError(
                f"{len(found)} pairs of samples are in different parts though they are the same or nearly: "
                f"{few(found)}. Split again with Dataset.split, which keeps them together."
            )


class Fold(NamedTuple):
    """One turn of a cross-validation.

    Args:
        train: All samples but this fold's.
        test: This fold's samples.
    """

    train: Dataset
    test: Dataset


def check_fractions(val: float, test: float) -> None:
    """Refuse shares that leave nothing to learn from.

    Raises:
        ConfigurationError: Unless both are numbers of at least 0 with a sum below 1.
    """
    for name, value in (("val", val), ("test", test)):
        if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 <= value < 1:
            raise ConfigurationError(f"{name} must be a share from 0 to below 1. Received: {name}={value!r}")
    if val + test >= 1:
        raise ConfigurationError(
            f"val + test must be below 1, so that something is left for train. Received: val={val!r}, test={test!r}"
        )


def draw_split(
    units: Units,
    labels: Indices,
    class_names: Sequence[str],
    *,
    val: float,
    test: float,
) -> tuple[Indices, Indices, Indices]:
    """Return the positions of train, val and test, each in ascending order.

    Every class gives ``round(share * count)`` samples, at least one, to each part asked for. Units are taken in the
    order given; a unit goes to test if that brings test nearer to what it should have, else to val, else to train.

    Raises:
        ConfigurationError: If the shares are out of range.
        SplitError: If a class has too few samples, or its units are too large, to be in every part.
    """
    check_fractions(val, test)
    counts = np.bincount(labels, minlength=len(class_names))
    wanted = _quotas(counts, val=val, test=test)
    parts_asked = 1 + (val > 0) + (test > 0)
    _check_class_sizes(counts, class_names, parts_asked)
    parts: dict[str, list[int]] = {name: [] for name in _NAMES}
    for unit in units:
        classes, unit_counts = np.unique(labels[list(unit)], return_counts=True)
        name = next((part for part in ("test", "val") if np.all(2 * wanted[part][classes] >= unit_counts)), "train")
        if name != "train":
            wanted[name][classes] -= unit_counts
        parts[name].extend(unit)
    train, validation, testing = (np.array(sorted(parts[name]), dtype=np.int64) for name in _NAMES)
    for name, share, part in (("val", val, validation), ("test", test, testing), ("train", 1.0, train)):
        absent = set(np.flatnonzero(counts)) - set(labels[part].tolist()) if share else set()
        if absent:
            raise SplitError(
                f"The groups (copies of a picture are one) of these classes are too few or too large to put some of "
                f"each into {name}: {few([class_names[int(label)] for label in sorted(absent)])}. Use smaller groups "
                "or other shares. Dataset.audit() lists copies; where they are none, duplicates='ignore' takes "
                "every picture by itself."
            )
    return train, validation, testing


def draw_folds(units: Units, labels: Indices, class_names: Sequence[str], *, k: int) -> list[Indices]:
    """Return the positions of each of ``k`` folds: disjoint, together everything, stratified, units kept whole.

    Raises:
        ConfigurationError: If ``k`` is not an int of at least 2.
        SplitError: If a class has fewer samples than folds, or all in one unit, so that a fold has nothing of it to
            learn from.
    """
    try:
        folds = operator.index(k)
    except TypeError:
        folds = 0
    if folds < 2:  # noqa: PLR2004 - one fold leaves nothing to learn from
        raise ConfigurationError(f"k must be an int of at least 2. Received: k={k!r}")
    counts = np.bincount(labels, minlength=len(class_names))
    _check_class_sizes(counts, class_names, folds)
    filled = np.zeros((folds, len(class_names)), dtype=np.int64)
    members: list[list[int]] = [[] for _ in range(folds)]
    for unit in units:
        classes, unit_counts = np.unique(labels[list(unit)], return_counts=True)
        # The fold that has least of these classes; of equal ones the smallest, then the first.
        fold = min(range(folds), key=lambda f: (filled[f, classes].sum(), filled[f].sum(), f))
        filled[fold, classes] += unit_counts
        members[fold].extend(unit)
    if not all(members):
        raise SplitError(f"There are fewer groups than folds. Received: k={k!r}. Use fewer folds.")
    whole = np.flatnonzero((counts > 0) & (filled == counts).any(axis=0)).tolist()
    if whole:
        raise SplitError(
            "All samples of these classes are in one group (copies of a picture are one), so that nothing of them is "
            f"left to learn from: {few([class_names[label] for label in whole])}. Leave them out, or use "
            "smaller groups."
        )
    return [np.array(sorted(fold), dtype=np.int64) for fold in members]


def _quotas(counts: Indices, *, val: float, test: float) -> dict[str, Indices]:
    """How many samples of each class val and test take: rounded half up, at least one, and one left for train."""
    wanted = {}
    for name, share in (("val", val), ("test", test)):
        rounded = np.floor(share * counts + 0.5).astype(np.int64)
        wanted[name] = np.where((counts > 0) & (share > 0), np.maximum(rounded, 1), 0)
    too_many = np.maximum(wanted["val"] + wanted["test"] - (counts - 1), 0)
    larger_is_test = wanted["test"] >= wanted["val"]
    wanted["test"] -= np.where(larger_is_test, too_many, 0)
    wanted["val"] -= np.where(larger_is_test, 0, too_many)
    return wanted


def _check_class_sizes(counts: Indices, class_names: Sequence[str], least: int) -> None:
    too_small = np.flatnonzero((counts > 0) & (counts < least)).tolist()
    small = [f"{class_names[label]!r} ({counts[label]})" for label in too_small]
    if small:
        raise SplitError(
            f"Every class needs at least {least} samples to be in each of {least} parts. Received: {few(small)}. "
            "Add pictures, leave these classes out, or ask for fewer parts."
        )


def draw_units(names: Sequence[tuple[str, str]], together: Sequence[Sequence[int]], seed: int) -> Units:
    """Return the positions of samples that stay together, in the order of their hashes.

    Args:
        names: What each sample is known by: ``("group", ...)``, ``("content", ...)`` or ``("key", ...)``.
        together: Positions of samples that must not be divided, a list each; every sample is in one.
        seed: Which of the possible orders.
    """
    check_seed(seed)
    # The first of a unit's hashes stands for it: a copy added later seldom changes that.
    ordered = {
        tuple(unit): min((stable_hash(seed, *names[index]), names[index]) for index in unit) for unit in together
    }
    return sorted(ordered, key=lambda unit: ordered[unit])


def _read_split_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SplitError(f"{path}: the split file cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SplitError(f"{path}: not a split file; write one with Splits.save.") from error
    lists = ("class_names", *_NAMES)
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or not all(isinstance(content.get(name), list) for name in lists)
        or not all(isinstance(item, str) for name in lists for item in content[name])
    ):
        raise SplitError(f"{path}: not a split file; write one with Splits.save.")
    return content
