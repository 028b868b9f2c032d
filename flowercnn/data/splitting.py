"""Who learns from what: stratified train/val/test that share no picture, saved and checked again.

Samples that belong together (of one group, copies and near-copies of one picture) are one unit and are never divided.
The order in which units are drawn is a hash of the seed and their content (or group), so a split depends neither on
the order of listing nor on names, and adding pictures moves few of those already there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_count, check_seed, check_share, stable_hash
from flowercnn.errors import ConfigurationError, SplitError, few

__all__ = ["Units", "check_fractions", "draw_folds", "draw_split", "draw_units"]

_NAMES = ("train", "val", "test")

Indices = npt.NDArray[np.int64]
Units = Sequence[Sequence[int]]
"""Positions of samples that stay together, in the order in which they are drawn."""


def check_fractions(val: float, test: float) -> None:
    """Refuse shares that leave nothing to learn from.

    Raises:
        ConfigurationError: Unless both are numbers of at least 0 with a sum below 1.
    """
    val, test = check_share("val", val), check_share("test", test)
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
    folds = check_count("k", k, least=2)
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
