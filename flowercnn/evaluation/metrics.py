"""Metrics as plain functions of arrays, and the bootstrap of all of them (Efron 1979)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError

__all__ = [
    "Bootstrap",
    "ReliabilityBin",
    "balanced_accuracy",
    "bootstrap_weights",
    "brier_scores",
    "calibration_error",
    "confusion_matrix",
    "in_top_k",
    "log_losses",
    "loss_and_accuracy",
    "mean_of_known",
    "mirrored_interval",
    "percentile_interval",
    "precision_recall_f1",
    "rank_classes",
    "ranking_scores",
    "reliability",
    "top_k_accuracy",
    "wilson_interval",
]


_WORK = 20_000_000  # probabilities looked at; decides how many samples are drawn
_FEWEST_DRAWS, _MOST_DRAWS = 200, 1000


class Bootstrap:
    """The same samples for every figure; a sample is how often each picture is in it.

    Args:
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes), rows sum to 1.
    """

    def __init__(self, y_true: npt.NDArray[np.int64], y_prob: npt.NDArray[np.floating[Any]]) -> None:
        self._y_true, self._y_prob = y_true, y_prob
        self._y_pred = y_prob.argmax(axis=1)
        draws = int(np.clip(_WORK // max(y_prob.size, 1), _FEWEST_DRAWS, _MOST_DRAWS))
        self._weights = bootstrap_weights(len(y_true), draws)

    def figures(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return each figure about all classes by name, shape (draws,); NaN in samples where it is not defined."""
        weights, count = self._weights, len(self._y_true)
        ranking = rank_classes(self._y_true, self._y_prob, weights)
        hits, actual, _ = self._counts
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls = hits / actual
        return {
            "balanced_accuracy": mean_of_known(recalls.T),
            "log_loss": weights @ log_losses(self._y_true, self._y_prob) / count,
            "brier": weights @ brier_scores(self._y_true, self._y_prob) / count,
            "calibration_error": self._calibration_errors(),
            "roc_auc": mean_of_known(ranking[:, :, 0]),
            "average_precision": mean_of_known(ranking[:, :, 1]),
        }

    def f1(self) -> npt.NDArray[np.float64]:
        """Return F1 of each class in each sample, shape (draws, num_classes)."""
        hits, actual, called = self._counts
        drawn: npt.NDArray[np.float64] = 2 * hits / np.maximum(actual + called, 1)
        return drawn

    @cached_property
    def _counts(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Right, actual and called pictures of each class in each sample, each of shape (draws, num_classes)."""
        unit = np.eye(self._y_prob.shape[1])
        true, predicted = unit[self._y_true], unit[self._y_pred]
        return self._weights @ (true * predicted), self._weights @ true, self._weights @ predicted

    def _calibration_errors(self) -> npt.NDArray[np.float64]:
        confidence = self._y_prob.max(axis=1).astype(np.float64)
        right = self._y_pred == self._y_true
        drawn = [np.repeat(np.arange(len(right)), row.astype(np.int64)) for row in self._weights]
        return np.array([calibration_error(confidence[each], right[each]) for each in drawn])


_ROUNDING: Final = 1e-12
Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927): where the true share lies, given a sample.

    Unlike the textbook's plus-or-minus it stays within 0 and 1 and holds for small samples and shares near 0 or 1.

    Args:
        hits: From 0 to ``total``.
        total: Size of the sample; for 0 nothing is known and the interval is (0, 1).
        confidence: How often such an interval holds, over 0 to below 1.

    Returns:
        Lower and upper end, each 0-1.

    Raises:
        ConfigurationError: If an argument is out of its range.

    Example:
        >>> [round(end, 3) for end in wilson_interval(90, 100)]
        [0.826, 0.945]
    """
    if not 0 <= hits <= total or not 0 < confidence < 1:
        raise ConfigurationError(
            "hits must be from 0 to total and confidence between 0 and 1. "
            f"Received: hits={hits!r}, total={total!r}, confidence={confidence!r}"
        )
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At the ends one bound is exactly 0 or 1; rounding must not say otherwise.
    lower = 0.0 if hits == 0 else (centre - spread) / scale
    upper = 1.0 if hits == total else (centre + spread) / scale
    return lower, upper


def confusion_matrix(y_true: Labels, y_pred: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """Return how often each true class (row) was predicted as each class (column).

    Args:
        y_true: Shape (n,), labels from 0 to ``num_classes - 1``.
        y_pred: Likewise.
        num_classes: At least 1.

    Returns:
        Shape (num_classes, num_classes), int64, sum n.
    """
    pairs = np.asarray(y_true, dtype=np.int64) * num_classes + np.asarray(y_pred, dtype=np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def precision_recall_f1(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return precision, recall and F1 of each class; 0 where a class was never predicted or never there.

    Args:
        confusion: From `confusion_matrix`.

    Returns:
        Shape (num_classes, 3), float64, 0-1.
    """
    hits = np.diag(confusion).astype(np.float64)
    predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(actual, 1)
    f1 = 2 * hits / np.maximum(predicted + actual, 1)
    return np.stack([precision, recall, f1], axis=1)


def top_k_accuracy(y_true: Labels, y_prob: Probabilities, k: int) -> float:
    """Return the share of pictures whose true class is among the ``k`` most probable; of equal ones the first counts.

    Args:
        y_true: Shape (n,), labels from 0 to ``num_classes - 1``.
        y_prob: Shape (n, num_classes).
        k: At least 1.
    """
    return float(in_top_k(y_true, y_prob, k).mean())


def in_top_k(y_true: Labels, y_prob: Probabilities, k: int) -> npt.NDArray[np.bool_]:
    """Return whether each true class is among the ``k`` most probable, shape (n,)."""
    best = np.argsort(-np.asarray(y_prob), axis=1, kind="stable")[:, :k]  # of equal ones the first, as argmax has it
    return np.asarray((best == np.asarray(y_true)[:, None]).any(axis=1))


def balanced_accuracy(confusion: npt.NDArray[np.int64]) -> float:
    """Return the mean recall of the classes that have pictures: what accuracy would be if all were equally many."""
    actual = confusion.sum(axis=1)
    return float((np.diag(confusion)[actual > 0] / actual[actual > 0]).mean())


def log_losses(y_true: Labels, y_prob: Probabilities) -> Floats:
    """Return minus the logarithm of the probability given to each truth, shape (n,); 0 counts as 2.2e-16."""
    smallest = np.finfo(np.float64).eps
    of_truth = np.asarray(y_prob, dtype=np.float64)[np.arange(len(y_true)), y_true]
    losses: Floats = -np.log(np.clip(of_truth, smallest, 1 - smallest))
    return losses


def loss_and_accuracy(y_true: Labels, y_prob: Probabilities) -> dict[str, float]:
    """Return the mean cross-entropy and the accuracy, as ``{"loss": ..., "accuracy": ...}``.

    Computed in the precision of ``y_prob``; probabilities below 1e-7 count as 1e-7, as in Keras.

    Args:
        y_true: Shape (n,), labels from 0 to ``num_classes - 1``.
        y_prob: Shape (n, num_classes).
    """
    of_truth = np.maximum(y_prob[np.arange(len(y_true)), y_true], 1e-7)
    accuracy = float((y_prob.argmax(axis=1) == y_true).mean())
    return {"loss": float(-np.log(of_truth).mean()), "accuracy": accuracy}


def brier_scores(y_true: Labels, y_prob: Probabilities) -> Floats:
    """Return the squared distance of each row from the truth (Brier 1950), shape (n,), 0-2; of two classes half."""
    truth = np.eye(y_prob.shape[1])[y_true]
    scores: Floats = ((np.asarray(y_prob, dtype=np.float64) - truth) ** 2).sum(axis=1)
    return scores / 2 if y_prob.shape[1] == 2 else scores  # noqa: PLR2004 - as scikit-learn has it


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pictures of like confidence.

    Args:
        confidence: Their mean confidence, 0-1.
        accuracy: The share of them classified correctly, 0-1.
        count: How many they are.
    """

    confidence: float
    accuracy: float
    count: int


def reliability(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 10) -> list[ReliabilityBin]:
    """Return bins of about equally many pictures each, from the least confident to the most.

    Pictures of equal confidence are in one bin, so that the order of the pictures does not matter.

    Args:
        confidence: Shape (n,), the probability of the predicted class.
        right: Shape (n,), whether it was true.
        bins: How many; fewer if there are fewer pictures, or many of equal confidence.
    """
    order = np.argsort(confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])) + 1, len(order))  # of pictures of equal confidence
    wanted = np.cumsum([len(part) for part in np.array_split(order, max(1, min(bins, len(order))))])
    cuts = np.unique(ends[np.searchsorted(ends, wanted)])
    parts = np.split(order, cuts[:-1])
    return [ReliabilityBin(float(confidence[p].mean()), float(right[p].mean()), len(p)) for p in parts]


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, averaged over equal-mass bins.

    (Naeini et al. 2015, with bins of about equally many pictures as Nixon et al. 2019 have them.) Few pictures per
    bin make it larger than 0 even for perfect probabilities.
    """
    found = reliability(confidence, right, bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in found) / len(confidence)


def ranking_scores(truth: npt.NDArray[np.bool_], score: Probabilities, weights: Floats | None = None) -> Floats:
    """Return the area under the ROC curve and the average precision of one class against the rest.

    Args:
        truth: Shape (n,), whether it is the class.
        score: Shape (n,), higher for those more likely to be.
        weights: Shape (draws, n), how often each picture counts; by default once.

    Returns:
        Shape (draws, 2), NaN where the class, or the rest, has no picture.
    """
    counted = np.ones((1, len(truth))) if weights is None else weights
    order = np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")
    ends = np.append(np.diff(score[order]) != 0, True)  # a threshold is not put between equal scores
    mass = counted[:, order]
    hits = np.cumsum(mass * truth[order], axis=1)[:, ends]
    alarms = np.cumsum(mass * ~truth[order], axis=1)[:, ends]
    steps = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_steps = steps / hits[:, -1:]
        area = (recall_steps * (alarms[:, -1:] - alarms + np.diff(alarms, axis=1, prepend=0) / 2)).sum(axis=1)
        area = area / alarms[:, -1]
        called = np.maximum(hits + alarms, np.finfo(np.float64).tiny)
        precision = (recall_steps * (hits / called)).sum(axis=1)
    return np.stack([area, precision], axis=1)


def rank_classes(y_true: Labels, y_prob: Probabilities, weights: Floats | None = None) -> Floats:
    """Return the `ranking_scores` of every class against the rest.

    Args:
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes).
        weights: Shape (draws, n), how often each picture counts; by default once.

    Returns:
        Shape (num_classes, draws, 2), NaN where the class, or the rest, has no picture.
    """
    return np.stack([ranking_scores(y_true == k, y_prob[:, k], weights) for k in range(y_prob.shape[1])])


def mean_of_known(values: Floats) -> Floats:
    """Return the mean of shape (n, ...) over the first axis without NaN; NaN where all are."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return mean


def bootstrap_weights(count: int, draws: int, seed: int = 0) -> Floats:
    """Return how often each picture is in each bootstrap sample (Efron 1979), shape (draws, count)."""
    random = np.random.default_rng(seed)
    return np.stack([np.bincount(random.integers(count, size=count), minlength=count) for _ in range(draws)]).astype(
        np.float64
    )


def percentile_interval(
    values: Floats, confidence: float = 0.95, *, widest: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Return what the middle share ``confidence`` of bootstrap values spans.

    Where they do not differ, as when all pictures are right or there is only one, they say nothing about other
    pictures: then it is ``widest``. (nan, nan) if no value is finite.
    """
    return _unless_empty(*_percentiles(values, confidence), widest)


def mirrored_interval(values: Floats, value: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the basic bootstrap interval (Davison & Hinkley 1997) of a figure from 0 to 1.

    Bootstrap values of a figure that chance makes larger, such as the calibration error, are larger by that once
    more. Here their percentiles are mirrored at the figure, so that it is taken off. The figure itself is always
    within.

    Args:
        values: Bootstrap values.
        value: The figure itself, 0-1.
        confidence: How often such an interval should hold, 0-1.

    Returns:
        Lower and upper end, each 0-1; where nothing is known as `percentile_interval`.
    """
    low, high = _percentiles(values, confidence)
    if math.isclose(low, high, abs_tol=_ROUNDING):
        return 0.0, 1.0
    return _unless_empty(min(value, max(0.0, 2 * value - high)), max(value, min(1.0, 2 * value - low)), (0.0, 1.0))


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _unless_empty(low: float, high: float, widest: tuple[float, float]) -> tuple[float, float]:
    return widest if math.isclose(low, high, abs_tol=_ROUNDING) else (low, high)
