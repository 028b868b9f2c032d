"""Which of two classifiers is better, on the same pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from flowercnn.errors import ConfigurationError, few
from flowercnn.evaluation.evaluation import Evaluation

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two classifiers make of the same pictures.

    Args:
        samples: How many pictures.
        only_a: How many only the first classifies correctly.
        only_b: How many only the second does.
        difference: Accuracy of the second minus that of the first.
        interval: Where that difference lies, at 95 % (Agresti & Min 2005).
        p_value: How often chance alone would part two equal classifiers at least so (exact McNemar test).
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
            f"second minus first: {self.difference:+.1%} (95 % interval {low:+.1%} to {high:+.1%}), "
            f"p = {self.p_value:.3g}; only the first is right on {self.only_a}, only the second on {self.only_b} of "
            f"{self.samples} pictures"
        )


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Compare two evaluations of the same pictures by the exact McNemar test (McNemar 1947).

    Only pictures on which the two differ tell anything; if both are equally good, each of those goes either way like
    a coin. Pictures are matched by key and classes by name.

    Raises:
        ConfigurationError: If one is no evaluation, or the pictures or their true classes are not the same.

    Example:
        >>> import numpy as np
        >>> truth, keys = np.array([0, 1] * 4), tuple("12345678")
        >>> a = Evaluation(("x", "y"), keys, truth, np.eye(2)[truth])
        >>> b = Evaluation(("x", "y"), keys, truth, np.eye(2)[[0] * 8])
        >>> compare(a, b).only_a, compare(a, b).p_value
        (4, 0.125)
    """
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, Evaluation):
            raise ConfigurationError(
                f"{name} must be an Evaluation; make one with flowercnn.evaluate(predictor, dataset). "
                f"Received: {type(value).__name__}"
            )
    of_a = {key: (a.class_names[label], right) for key, label, right in zip(a.keys, a.y_true, a.right, strict=True)}
    of_b = {key: (b.class_names[label], right) for key, label, right in zip(b.keys, b.y_true, b.right, strict=True)}
    differing = [key for key in {**of_a, **of_b} if of_a.get(key, "-")[0] != of_b.get(key, "-")[0]]
    if differing:
        raise ConfigurationError(
            f"Both evaluations must be of the same pictures with the same true classes. Received: {len(differing)} "
            f"that differ: {few(differing)}"
        )
    right_a = np.array([of_a[key][1] for key in a.keys])
    right_b = np.array([of_b[key][1] for key in a.keys])
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    count = len(right_a)
    return Comparison(
        samples=count,
        only_a=only_a,
        only_b=only_b,
        difference=(only_b - only_a) / count,
        interval=_interval(only_a, only_b, count),
        p_value=_mcnemar(only_a, only_b),
    )


def _mcnemar(only_a: int, only_b: int) -> float:
    """Twice the chance that a fair coin falls so unevenly, at most 1."""
    if only_a == only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(min(only_a, only_b), only_a + only_b, 0.5).pvalue)


def _interval(only_a: int, only_b: int, count: int) -> tuple[float, float]:
    """The Wald interval of a difference of paired shares after adding half a picture to each cell."""
    a, b, n = only_a + 0.5, only_b + 0.5, count + 2
    spread = NormalDist().inv_cdf(0.975) * math.sqrt(a + b - (b - a) ** 2 / n) / n
    return max(-1.0, (b - a) / n - spread), min(1.0, (b - a) / n + spread)
