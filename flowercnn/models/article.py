"""The network of the tutorial, exactly."""

from __future__ import annotations

from typing import Any

from flowercnn.models.keras3 import import_keras
from flowercnn.models.parts import check_side

__all__ = ["build_article"]

_SMALLEST_SIDE = 12  # three poolings by 3, 2 and 2 leave one pixel


def build_article(image_size: tuple[int, int], num_classes: int) -> Any:
    """Return three convolutions (8, 16, 32; 3x3, ReLU), max-pooling by 3, 2, 2, dense 32, softmax.

    With (500, 500) and 17 classes it has 1,727,969 parameters.

    Args:
        image_size: (height, width), each at least 12.
        num_classes: At least 2.

    Returns:
        A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.

    Raises:
        ConfigurationError: If ``image_size`` is too small.
    """
    check_side("article", image_size, _SMALLEST_SIDE)
    keras = import_keras()
    layers = keras.layers
    stack = [keras.Input((*image_size, 3), name="pixels"), layers.Rescaling(1 / 255, name="rescale")]
    for number, (filters, pool) in enumerate([(8, 3), (16, 2), (32, 2)], start=1):
        stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}"))
        stack.append(layers.MaxPooling2D(pool, name=f"pool{number}"))
    stack.append(layers.Flatten(name="flatten"))
    stack.append(layers.Dense(32, activation="relu", name="dense"))
    stack.append(layers.Dense(num_classes, activation="softmax", name="probabilities"))
    return keras.Sequential(stack, name="article")
