"""Comparison of two classifiers on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from flowercnn._utils import check_instance
from flowercnn.errors import ConfigurationError, few
from flowercnn.evaluation.evaluation import Evaluation

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two classifiers on the same images.

    Args:
        samples: Number of images.
        only_a: Number that only the first classifies correctly.
        only_b: Number that only the second does.
        difference: Accuracy of the second minus that of the first.
        interval: Interval of the difference at 95 % (Agresti & Min 2005).
        p_value: Of the exact McNemar test.
    """

    samples: int
    only_a: int
    only_b: int
    difference: float
    interval: tuple[float, float]
    p_value: float

    def summary(self) -> str:
        """Return the result in one line."""
        low, high = self.interval
        return (
            f"second minus first: {self.difference:+.1%} "
            f"(95 % interval {low:+.1%} to {high:+.1%}), "
            f"p = {self.p_value:.3g}; only the first is right on {self.only_a}, "
            f"only the second on {self.only_b} of {self.samples} images"
        )


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Compare two evaluations of the same images by the exact McNemar test (McNemar 1947).

    Only images on which the two differ count; if both are equally good, either is right on half of
    those. Images are matched by key and classes by name.

    Raises:
        ConfigurationError: If one is not an `Evaluation`, or the images or true classes differ.

    Example:
        >>> import numpy as np
        >>> truth, keys = np.array([0, 1] * 4), tuple("12345678")
        >>> a = Evaluation(("x", "y"), keys, truth, np.eye(2)[truth])
        >>> b = Evaluation(("x", "y"), keys, truth, np.eye(2)[[0] * 8])
        >>> compare(a, b).only_a, compare(a, b).p_value
        (4, 0.125)
    """
    for name, value in (("a", a), ("b", b)):
        hint = "make one with flowercnn.evaluate(predictor, dataset)"
        check_instance(name, value, Evaluation, hint)
    of_a, of_b = _outcomes(a), _outcomes(b)
    keys = {**of_a, **of_b}
    differing = [key for key in keys if of_a.get(key, "-")[0] != of_b.get(key, "-")[0]]
    if differing:
        raise ConfigurationError(
            "Both evaluations must be of the same images with the same true classes. "
            f"Received: {len(differing)} that differ: {few(differing)}"
        )
    right_a = np.array([of_a[key][1] for key in a.keys])
    right_b = np.array([of_b[key][1] for key in a.keys])
    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    count = len(right_a)
    return Comparison(
        samples=count,
        only_a=only_a,
        only_b=only_b,
        difference=(only_b - only_a) / count,
        interval=_interval(only_a, only_b, count),
        p_value=_mcnemar(only_a, only_b),
    )


def _outcomes(evaluation: Evaluation) -> dict[str, tuple[str, bool]]:
    """Return the true class of each image and whether it is predicted, by key."""
    true = [evaluation.class_names[label] for label in evaluation.y_true]
    outcomes = zip(true, evaluation.right.tolist(), strict=True)
    return dict(zip(evaluation.keys, outcomes, strict=True))


def _mcnemar(only_a: int, only_b: int) -> float:
    """Return the p-value of the exact McNemar test."""
    if only_a == only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(min(only_a, only_b), only_a + only_b, 0.5).pvalue)


def _interval(only_a: int, only_b: int, count: int) -> tuple[float, float]:
    """Return the Wald interval after adding half an image to each cell."""
    a, b, n = only_a + 0.5, only_b + 0.5, count + 2
    spread = NormalDist().inv_cdf(0.975) * math.sqrt(a + b - (b - a) ** 2 / n) / n
    return max(-1.0, (b - a) / n - spread), min(1.0, (b - a) / n + spread)
