"""What an evaluation tells, as values: a figure with its interval, a class, classes mixed up, a mistake."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["ClassMetrics", "Confusion", "Metric", "Mistake", "interval_text"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure and what luck in the choice of test pictures leaves open.

    Args:
        value: The figure; NaN where it is not defined.
        interval: Where it lies, at 95 %; as wide as can be where nothing is known, as of the balanced accuracy if all
            pictures are right; (nan, nan) where the figure is not defined.
        method: How the interval was found: ``"wilson"`` (of a share) or ``"bootstrap"`` (percentiles over pictures
            drawn again with replacement; of the calibration error, which chance makes larger, mirrored at it).
    """

    value: float
    interval: tuple[float, float]
    method: Literal["wilson", "bootstrap"]


def interval_text(interval: tuple[float, float], form: str) -> str:
    """Return an interval as text, its ends in a format such as ``".1%"``; or that there is none."""
    low, high = interval
    return "no interval" if math.isnan(low) else f"{low:{form}} to {high:{form}}"


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How well one class is told from the others.

    Args:
        class_name: The class.
        precision: Share of the pictures called so that are it, 0-1; 0 if none was called so.
        recall: Share of its pictures called so, 0-1; 0 if it has none.
        f1: Harmonic mean of both, 0-1.
        recall_interval: Wilson interval of the recall at 95 %.
        support: How many pictures it has.
        precision_interval: Wilson interval of the precision at 95 %.
        f1_interval: Bootstrap interval of F1 at 95 %; 0 to 1 where nothing is known.
        roc_auc: Area under the ROC curve of this class against the rest, 0-1; NaN if one of them has no picture.
        average_precision: Area under the precision-recall curve, likewise.
    """

    class_name: str
    precision: float
    recall: float
    f1: float
    recall_interval: tuple[float, float]
    support: int
    precision_interval: tuple[float, float] = (0.0, 1.0)
    f1_interval: tuple[float, float] = (0.0, 1.0)
    roc_auc: float = math.nan
    average_precision: float = math.nan


@dataclass(frozen=True, slots=True)
class Confusion:
    """Two classes taken for one another.

    Args:
        true: What the pictures are.
        predicted: What they were taken for.
        count: How many.
        share: Of the pictures of the true class, 0-1.
        keys: Which.
    """

    true: str
    predicted: str
    count: int
    share: float
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture classified wrongly.

    Args:
        key: Which picture.
        true: What it is.
        predicted: What it was taken for.
        confidence: How sure the classifier was, 0-1.
        probability_of_truth: What it gave to the true class, 0-1.
        index: The picture's place in the evaluation.
    """

    key: str
    true: str
    predicted: str
    confidence: float
    probability_of_truth: float
    index: int
