"""Every figure of an evaluation, computed again from its pictures drawn with replacement (Efron 1979)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn.evaluation.metrics import (
    bootstrap_weights,
    brier_scores,
    calibration_error,
    log_losses,
    mean_of_known,
    rank_classes,
)

__all__ = ["Bootstrap"]

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
