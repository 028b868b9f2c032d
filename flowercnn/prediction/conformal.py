"""Conformal prediction: quantiles of nonconformity scores. NumPy only."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["conformal_quantile", "nonconformity_scores"]

_FINEST: Final = 2.0**-30  # 1 minus a float32 probability from here on is exact in float64


def conformal_quantile(scores: npt.NDArray[np.float64], share: float) -> float:
    """Return the quantile of split conformal prediction (Vovk et al. 2005), or infinity.

    A new score is at most this large with at least the probability ``share``. It is infinite if
    there are too few scores.

    Args:
        scores: Sorted scores of images of the same kind, shape (n,).
        share: From 0 to 1.
    """
    place = math.ceil((len(scores) + 1) * share - 1e-9)  # rounding must not make 19 of 20 the 20th
    return float(scores[max(place, 1) - 1]) if place <= len(scores) else math.inf


def nonconformity_scores(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return sorted nonconformity scores: 1 minus the probability of the true class.

    1 minus a score is the probability itself to the last bit, so that rounding moves no image
    across its threshold. Probabilities below 1e-9 count as 0: a threshold that low accepts every
    class.

    Args:
        probabilities: Of the true class of each image, shape (n,).
    """
    of_truth = np.asarray(probabilities, dtype=np.float64)
    scores: npt.NDArray[np.float64] = np.sort(1 - np.where(of_truth < _FINEST, 0, of_truth))
    return scores
