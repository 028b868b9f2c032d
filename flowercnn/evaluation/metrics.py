"""Classification metrics and their confidence intervals, as values and as functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError

__all__ = [
    "Bootstrap",
    "ClassMetrics",
    "Confusion",
    "Metric",
    "Mistake",
    "ReliabilityBin",
    "brier_scores",
    "calibration_error",
    "in_top_k",
    "interval_text",
    "log_losses",
    "loss_and_accuracy",
    "mean_of_known",
    "mirrored_interval",
    "percentile_interval",
    "rank_classes",
    "reliability",
    "weighted_ranking",
    "wilson_interval",
]

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

_PROBABILITIES: Final = 20_000_000  # that the bootstrap works on; decides the number of draws
_FEWEST_DRAWS, _MOST_DRAWS = 200, 1000
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Metric:
    """Metric with its confidence interval.

    Args:
        value: The metric; NaN where it is not defined.
        interval: At 95 %; as wide as possible where the data say nothing about it, such as for the
            balanced accuracy if all images are correct; (nan, nan) where the metric is not defined.
        method: ``"wilson"`` (for a share) or ``"bootstrap"`` (percentiles over images drawn with
            replacement; mirrored for the calibration error, which chance makes larger).
    """

    value: float
    interval: tuple[float, float]
    method: Literal["wilson", "bootstrap"]


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of one class.

    Args:
        class_name: The class.
        precision: Share of the images predicted as the class that are of it, 0-1; 0 without any.
        recall: Share of the images of the class that are predicted as it, 0-1; 0 without any.
        f1: Harmonic mean of both, 0-1.
        recall_interval: Wilson interval of the recall at 95 %.
        support: Number of images of the class.
        precision_interval: Wilson interval of the precision at 95 %.
        f1_interval: Bootstrap interval of F1 at 95 %; 0 to 1 where the data say nothing about it.
        roc_auc: Area under the ROC curve of the class against the rest, 0-1; NaN if one is empty.
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
    """Pair of a true and a predicted class.

    Args:
        true: True class of the images.
        predicted: Predicted class.
        count: Number of images.
        share: Their share of the images of the true class, 0-1.
        keys: Their keys.
    """

    true: str
    predicted: str
    count: int
    share: float
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """Misclassified image.

    Args:
        key: Key of the image.
        true: True class.
        predicted: Predicted class.
        confidence: Probability of the predicted class, 0-1.
        probability_of_truth: Probability of the true class, 0-1.
        index: Position of the image in the evaluation.
    """

    key: str
    true: str
    predicted: str
    confidence: float
    probability_of_truth: float
    index: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images of similar confidence.

    Args:
        confidence: Mean confidence, 0-1.
        accuracy: Share of the images classified correctly, 0-1.
        count: Number of images.
    """

    confidence: float
    accuracy: float
    count: int


class Bootstrap:
    """Bootstrap of all metrics (Efron 1979), each over the same samples of the images.

    Args:
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes), rows sum to 1.
    """

    def __init__(self, y_true: Labels, y_prob: Probabilities) -> None:
        self._y_true, self._y_prob = y_true, y_prob
        self._y_pred = y_prob.argmax(axis=1)
        draws = int(np.clip(_PROBABILITIES // max(y_prob.size, 1), _FEWEST_DRAWS, _MOST_DRAWS))
        self._weights = _bootstrap_weights(len(y_true), draws)

    def metrics(self) -> dict[str, Floats]:
        """Return each metric by name, shape (draws,); NaN in samples where it is not defined."""
        weights, count = self._weights, len(self._y_true)
        ranking = weighted_ranking(self._y_true, self._y_prob, weights)
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

    def f1(self) -> Floats:
        """Return F1 of each class in each sample, shape (draws, num_classes)."""
        hits, actual, predicted = self._counts
        drawn: Floats = 2 * hits / np.maximum(actual + predicted, 1)
        return drawn

    @cached_property
    def _counts(self) -> tuple[Floats, Floats, Floats]:
        """Hits, true and predicted images of each class, each of shape (draws, num_classes)."""
        unit = np.eye(self._y_prob.shape[1])
        true, predicted = unit[self._y_true], unit[self._y_pred]
        return self._weights @ (true * predicted), self._weights @ true, self._weights @ predicted

    def _calibration_errors(self) -> Floats:
        confidence = self._y_prob.max(axis=1).astype(np.float64)
        right = self._y_pred == self._y_true
        drawn = [np.repeat(np.arange(len(right)), row.astype(np.int64)) for row in self._weights]
        return np.array([calibration_error(confidence[each], right[each]) for each in drawn])


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927).

    Unlike the normal approximation it stays within 0 and 1 and holds for small samples and for
    shares near 0 or 1.

    Args:
        hits: From 0 to ``total``.
        total: Size of the sample; the interval of an empty one is (0, 1).
        confidence: Coverage of the interval, above 0 and below 1.

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
    # At the ends one bound is exactly 0 or 1, whatever rounding gives.
    lower = 0.0 if hits == 0 else (centre - spread) / scale
    upper = 1.0 if hits == total else (centre + spread) / scale
    return lower, upper


def interval_text(interval: tuple[float, float], form: str) -> str:
    """Return an interval as text, its ends in a format such as ``".1%"``."""
    low, high = interval
    return "no interval" if math.isnan(low) else f"{low:{form}} to {high:{form}}"


def in_top_k(y_true: Labels, y_prob: Probabilities, k: int) -> npt.NDArray[np.bool_]:
    """Return whether each true class is among the ``k`` most probable, shape (n,).

    Of equal probabilities the first counts, as for ``argmax``; scikit-learn takes the last.
    """
    best = np.argsort(-np.asarray(y_prob), axis=1, kind="stable")[:, :k]
    return np.asarray((best == y_true[:, None]).any(axis=1))


def log_losses(y_true: Labels, y_prob: Probabilities) -> Floats:
    """Return the log loss of each image, shape (n,); a probability of 0 counts as 2.2e-16."""
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
    """Return the Brier score of each image (1950), shape (n,), 0-2; 0-1 with two classes."""
    classes = y_prob.shape[1]
    errors = np.asarray(y_prob, dtype=np.float64) - np.eye(classes)[y_true]
    scores: Floats = (errors**2).sum(axis=1)
    return scores / 2 if classes == 2 else scores  # noqa: PLR2004 - as in scikit-learn


def reliability(
    confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 10
) -> list[ReliabilityBin]:
    """Return bins of about equally many images, from the least confident to the most.

    Images of equal confidence share a bin, so the order of the images does not matter.

    Args:
        confidence: Shape (n,), the probability of the predicted class.
        right: Shape (n,), whether the prediction is correct.
        bins: Number of bins; fewer if there are fewer distinct values.
    """
    order = np.argsort(confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])) + 1, len(order))
    parts = np.array_split(order, max(1, min(bins, len(order))))
    cuts = np.unique(ends[np.searchsorted(ends, np.cumsum([len(part) for part in parts]))])
    return [
        ReliabilityBin(float(confidence[part].mean()), float(right[part].mean()), len(part))
        for part in np.split(order, cuts[:-1])
    ]


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy over the bins.

    (Naeini et al. 2015, with bins of about equally many images as in Nixon et al. 2019.) Few images
    per bin make it larger than 0 even for perfect probabilities.
    """
    parts = reliability(confidence, right, bins)
    gaps = sum(each.count * abs(each.accuracy - each.confidence) for each in parts)
    return gaps / len(confidence)


def rank_classes(y_true: Labels, y_prob: Probabilities) -> Floats:
    """Return ROC-AUC and average precision of each class against the rest.

    Returns:
        Shape (num_classes, 2), NaN where a class is empty, the ROC-AUC also where the rest is.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    ranking = np.full((y_prob.shape[1], 2), np.nan)
    for label in np.unique(y_true):
        truth, score = y_true == label, y_prob[:, label]
        if not truth.all():
            ranking[label, 0] = roc_auc_score(truth, score)
        ranking[label, 1] = average_precision_score(truth, score)
    return ranking


def weighted_ranking(y_true: Labels, y_prob: Probabilities, weights: Floats) -> Floats:
    """Return the `rank_classes` of every row of weights.

    Args:
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes).
        weights: Shape (draws, n), how often each image counts.

    Returns:
        Shape (num_classes, draws, 2), NaN as in `rank_classes`.
    """
    classes = range(y_prob.shape[1])
    return np.stack([_ranking(y_true == label, y_prob[:, label], weights) for label in classes])


def _ranking(truth: npt.NDArray[np.bool_], score: Probabilities, weights: Floats) -> Floats:
    """Return the weighted ROC-AUC and average precision of one class, shape (draws, 2)."""
    order = np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")
    ends = np.append(
        np.diff(score[order]) != 0, True
    )  # a threshold is not put between equal scores
    mass = weights[:, order]
    hits = np.cumsum(mass * truth[order], axis=1)[:, ends]
    alarms = np.cumsum(mass * ~truth[order], axis=1)[:, ends]
    steps = np.diff(hits, axis=1, prepend=0)
    below = alarms[:, -1:] - alarms + np.diff(alarms, axis=1, prepend=0) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_steps = steps / hits[:, -1:]
        area = (recall_steps * below).sum(axis=1) / alarms[:, -1]
        predicted = np.maximum(hits + alarms, np.finfo(np.float64).tiny)
        precision = (recall_steps * (hits / predicted)).sum(axis=1)
    return np.stack([area, precision], axis=1)


def mean_of_known(values: Floats) -> Floats:
    """Return the mean of shape (n, ...) over the first axis without NaN; NaN where all are."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return mean


def _bootstrap_weights(count: int, draws: int) -> Floats:
    """Return how often each image is in each bootstrap sample, shape (draws, count)."""
    random = np.random.default_rng(0)
    rows = [np.bincount(random.integers(count, size=count), minlength=count) for _ in range(draws)]
    return np.stack(rows).astype(np.float64)


def percentile_interval(
    values: Floats, confidence: float = 0.95, *, widest: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Return the percentile interval of bootstrap values, such as the middle 95 %.

    Where the values do not differ, as when all images are correct or there is only one, they say
    nothing about other images: then it is ``widest``. (nan, nan) if no value is finite.
    """
    return _unless_empty(*_percentiles(values, confidence), widest)


def mirrored_interval(
    values: Floats, value: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the basic bootstrap interval (Davison & Hinkley 1997) of a metric from 0 to 1.

    Chance makes some metrics larger, such as the calibration error, and their bootstrap values
    larger again by as much. Mirroring the percentiles at the metric takes that off. The interval
    always contains the metric itself.

    Args:
        values: Bootstrap values.
        value: The metric itself, 0-1.
        confidence: Intended coverage of the interval, 0-1.

    Returns:
        Lower and upper end, each 0-1; (0, 1) where the values do not differ.
    """
    low, high = _percentiles(values, confidence)
    if math.isclose(low, high, abs_tol=_ROUNDING):
        return 0.0, 1.0
    mirrored = (min(value, max(0.0, 2 * value - high)), max(value, min(1.0, 2 * value - low)))
    return _unless_empty(*mirrored, (0.0, 1.0))


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _unless_empty(low: float, high: float, widest: tuple[float, float]) -> tuple[float, float]:
    return widest if math.isclose(low, high, abs_tol=_ROUNDING) else (low, high)
