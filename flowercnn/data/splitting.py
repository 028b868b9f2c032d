"""Drawing of splits and folds: stratified, units kept whole, saved as JSON.

A unit holds the samples that belong together (of one group, duplicates of one image) and is never
divided. The order in which units are drawn is a hash of the seed and their content (or group), so
a split depends neither on the order of listing nor on names, and adding images moves few of those
already there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import (
    as_path,
    check_count,
    check_seed,
    check_share,
    stable_hash,
    write_result,
)
from flowercnn.errors import ConfigurationError, SplitError, few

__all__ = [
    "PARTS",
    "Units",
    "check_fractions",
    "draw_folds",
    "draw_split",
    "draw_units",
    "read_split_file",
    "write_split_file",
]

PARTS: Final = ("train", "val", "test")

_FORMAT: Final = "flowercnn-splits"

Indices = npt.NDArray[np.int64]
Units = Sequence[Sequence[int]]
"""Positions of samples that stay together, in the order in which they are drawn."""


def check_fractions(val: float, test: float) -> None:
    """Check that val and test are shares that leave something for train.

    Raises:
        ConfigurationError: Unless both are from 0 to below 1 with a sum below 1.
    """
    val, test = check_share("val", val), check_share("test", test)
    if val + test >= 1:
        raise ConfigurationError(
            "val + test must be below 1, so that something is left for train. "
            f"Received: val={val!r}, test={test!r}"
        )


def draw_split(
    units: Units, labels: Indices, class_names: Sequence[str], *, val: float, test: float
) -> tuple[Indices, Indices, Indices]:
    """Return the positions of train, val and test, each in ascending order.

    Each class gives ``round(share * count)`` samples, at least one, to each part asked for. Units
    are taken in order; a unit goes to test if that brings test closer to its share, otherwise to
    val on the same condition, otherwise to train.

    Raises:
        ConfigurationError: If the shares are out of range.
        SplitError: If a class has too few samples, or too large units, to be in every part.
    """
    check_fractions(val, test)
    counts = np.bincount(labels, minlength=len(class_names))
    wanted = _quotas(counts, val=val, test=test)
    _check_class_sizes(counts, class_names, 1 + (val > 0) + (test > 0))
    parts: dict[str, list[int]] = {name: [] for name in PARTS}
    for unit in units:
        classes, unit_counts = np.unique(labels[list(unit)], return_counts=True)
        fits = (
            part for part in ("test", "val") if np.all(2 * wanted[part][classes] >= unit_counts)
        )
        name = next(fits, "train")
        if name != "train":
            wanted[name][classes] -= unit_counts
        parts[name].extend(unit)
    drawn = {name: np.array(sorted(part), dtype=np.int64) for name, part in parts.items()}
    for name, share in (("val", val), ("test", test), ("train", 1.0)):
        absent = set(np.flatnonzero(counts).tolist()) - set(labels[drawn[name]].tolist())
        if share and absent:
            names = few([class_names[label] for label in sorted(absent)])
            raise SplitError(
                "The groups (duplicates of an image are one) of these classes are too few or too "
                f"large to put some of each into {name}: {names}. Use smaller groups or other "
                "shares. Dataset.audit() lists duplicates; if they are not, duplicates='ignore' "
                "takes each image by itself."
            )
    return drawn["train"], drawn["val"], drawn["test"]


def draw_folds(
    units: Units, labels: Indices, class_names: Sequence[str], *, k: int
) -> list[Indices]:
    """Return the positions of each of ``k`` folds: disjoint, stratified, units kept whole.

    Raises:
        ConfigurationError: If ``k`` is not an int of at least 2.
        SplitError: If a class has fewer samples than folds, or all of them in one unit, so that
            nothing of it is left to learn from.
    """
    folds = check_count("k", k, least=2)
    counts = np.bincount(labels, minlength=len(class_names))
    _check_class_sizes(counts, class_names, folds)
    filled = np.zeros((folds, len(class_names)), dtype=np.int64)
    members: list[list[int]] = [[] for _ in range(folds)]
    for unit in units:
        classes, unit_counts = np.unique(labels[list(unit)], return_counts=True)
        # The fold with fewest of these classes; of equal ones the smallest, then the first.
        fold = min(range(folds), key=lambda f: (filled[f, classes].sum(), filled[f].sum(), f))
        filled[fold, classes] += unit_counts
        members[fold].extend(unit)
    if not all(members):
        raise SplitError(f"There are fewer groups than folds. Received: k={k!r}. Use fewer folds.")
    whole = np.flatnonzero((counts > 0) & (filled == counts).any(axis=0)).tolist()
    if whole:
        raise SplitError(
            "All samples of these classes are in one group (duplicates of an image are one), so "
            f"that nothing is left to learn from: {few([class_names[label] for label in whole])}. "
            "Leave them out, or use smaller groups."
        )
    return [np.array(sorted(fold), dtype=np.int64) for fold in members]


def draw_units(
    names: Sequence[tuple[str, str]], together: Sequence[Sequence[int]], seed: int
) -> Units:
    """Return the positions of samples that stay together, in the order of their hashes.

    Args:
        names: Identity of each sample: ``("group", ...)``, ``("content", ...)`` or
            ``("key", ...)``.
        together: Positions of samples that must not be divided, a list each; each sample is in
            one.
        seed: Seed of the order.
    """
    check_seed(seed)
    # The first of a unit's hashes stands for it: a duplicate added later seldom changes that.
    ordered = {
        tuple(unit): min((stable_hash(seed, *names[index]), names[index]) for index in unit)
        for unit in together
    }
    return sorted(ordered, key=lambda unit: ordered[unit])


def _quotas(counts: Indices, *, val: float, test: float) -> dict[str, Indices]:
    """Return how many samples of each class val and test take; one is left for train."""
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
    if too_small:
        small = few([f"{class_names[label]!r} ({counts[label]})" for label in too_small])
        raise SplitError(
            f"Every class needs at least {least} samples to be in each of {least} parts. "
            f"Received: {small}. Add images, leave these classes out, or ask for fewer parts."
        )


def write_split_file(
    path: str | os.PathLike[str], class_names: Sequence[str], keys: Mapping[str, Sequence[str]]
) -> Path:
    """Write the keys of each part, whole or not at all, and return the path.

    Raises:
        OutputError: If the file cannot be written.
    """
    content = {"format": _FORMAT, "version": 1, "class_names": list(class_names)}
    text = json.dumps(
        content | {name: list(keys[name]) for name in PARTS}, ensure_ascii=True, indent=1
    )
    return write_result(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_split_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``class_names``, and the keys of ``train``, ``val`` and ``test``: lists of strings.

    Raises:
        SplitError: If it cannot be read or is not a split file.
    """
    file = as_path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SplitError(f"{path}: the split file cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise _not_a_split_file(path) from error
    lists = ("class_names", *PARTS)
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or not all(isinstance(content.get(name), list) for name in lists)
        or not all(isinstance(item, str) for name in lists for item in content[name])
    ):
        raise _not_a_split_file(path)
    return content


def _not_a_split_file(path: str | os.PathLike[str]) -> SplitError:
    return SplitError(f"{path}: not a split file; write one with Splits.save.")
