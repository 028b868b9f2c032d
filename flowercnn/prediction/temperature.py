"""Temperature scaling: the number that logits are divided by (Guo et al. 2017)."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.models import copy_model, import_keras

__all__ = ["SMALLEST_PROBABILITY", "divide_logits", "fit_temperature", "logits_layer"]

SMALLEST_PROBABILITY: Final = float(np.finfo(np.float32).tiny)
"""Smaller probabilities count as this one, so that their logarithm is finite."""


def fit_temperature(y_true: npt.NDArray[np.int64], y_prob: npt.NDArray[np.floating[Any]]) -> float:
    """Return the temperature whose probabilities fit best, from 0.05 to 20.

    This is the maximum a posteriori estimate: the least log loss, with a standard normal prior on
    the logarithm of the temperature. The prior matters where there are few images, such as some
    that are all predicted correctly.

    Args:
        y_true: Shape (n,), labels.
        y_prob: Shape (n, num_classes), of a softmax.
    """
    logits = np.log(np.maximum(np.asarray(y_prob, dtype=np.float64), SMALLEST_PROBABILITY))

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        highest = scaled.max(axis=1, keepdims=True)
        norms = highest[:, 0] + np.log(np.exp(scaled - highest).sum(axis=1))
        losses = norms - scaled[np.arange(len(y_true)), y_true]
        return float(losses.sum()) + log_temperature**2 / 2

    from scipy.optimize import minimize_scalar

    bounds = (math.log(0.05), math.log(20))
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def logits_layer(model: Any) -> str | None:
    """Return the name of the dense layer of the final softmax's logits, or ``None``."""
    layers = import_keras().layers
    last = model.layers[-1]
    if type(last) is layers.Dense and _activation(last) == "softmax":
        return str(last.name)
    is_softmax = type(last) is layers.Softmax
    is_softmax = is_softmax or (type(last) is layers.Activation and _activation(last) == "softmax")
    if is_softmax and len(model.layers) > 1:
        before = model.layers[-2]
        is_linear = type(before) is layers.Dense and _activation(before) == "linear"
        if is_linear and last.input is before.output:
            return str(before.name)
    return None


def _activation(layer: Any) -> str:
    return getattr(layer.activation, "__name__", "")


def divide_logits(model: Any, layer: str, temperature: float) -> Any:
    """Return a copy of the model with a layer's logits divided by the temperature."""
    copy = copy_model(model)
    dense = copy.get_layer(layer)
    dense.set_weights([weights / temperature for weights in dense.get_weights()])
    return copy
