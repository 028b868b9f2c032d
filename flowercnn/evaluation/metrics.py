"""What predictions are worth: plain functions of arrays."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError

__all__ = ["confusion_matrix", "precision_recall_f1", "wilson_interval"]

Labels = npt.NDArray[np.int64]


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
