"""What a classifier sees in a picture before it decides: the input of its last layer."""

from __future__ import annotations

from typing import Any

from flowercnn.errors import ConfigurationError

__all__ = ["head_of"]


def head_of(model: Any) -> Any:
    """Return the last dense layer of a classifier.

    Raises:
        ConfigurationError: If the model does not end in one, with or without an activation layer after it.
    """
    for layer in reversed(model.layers):
        if type(layer).__name__ == "Dense":
            return layer
        if type(layer).__name__ not in ("Activation", "Softmax"):
            break
    raise ConfigurationError(f"{model.name} does not end in a dense layer, so it has no feature vectors.")
