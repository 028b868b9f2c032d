"""A small residual network of dense 3x3 convolutions: trained from scratch in minutes on a CPU."""

from __future__ import annotations

from typing import Any

from flowercnn.models.keras3 import import_keras
from flowercnn.models.parts import check_side

__all__ = ["build_fast"]

_SMALLEST_SIDE = 32  # four halvings leave two pixels
_MEAN, _SPREAD = 120.0, 64.0  # of natural photographs, roughly; the exact value matters little


def build_fast(
    image_size: tuple[int, int], num_classes: int, *, width: int = 32, blocks: int = 1, dropout: float = 0.0
) -> Any:
    """Return a strided stem and four stages of residual blocks (He et al. 2016), global average pooling, softmax.

    Dense 3x3 convolutions are what a CPU computes fastest for its arithmetic; grouped and depthwise ones wait for
    memory.

    Args:
        image_size: (height, width), each at least 32.
        num_classes: At least 2.
        width: Channels of the first stage; later stages have 1.5, 3 and 6 times as many.
        blocks: Residual blocks per stage.
        dropout: Share of features dropped before the last layer in training.

    Returns:
        A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.

    Raises:
        ConfigurationError: If ``image_size`` is too small.
    """
    check_side("fast", image_size, _SMALLEST_SIDE)
    keras = import_keras()
    layers = keras.layers

    def conv(x: Any, filters: int, name: str, *, strides: int = 1, size: int = 3) -> Any:
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
        return layers.BatchNormalization(name=f"{name}_norm", momentum=0.9, epsilon=1e-3)(x)

    def block(x: Any, filters: int, name: str) -> Any:
        y = layers.ReLU(name=f"{name}_relu1")(conv(x, filters, f"{name}_1"))
        y = conv(y, filters, f"{name}_2")
        return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, y]))

    pixels = keras.Input((*image_size, 3), name="pixels")
    x = layers.Rescaling(1 / _SPREAD, offset=-_MEAN / _SPREAD, name="rescale")(pixels)
    x = layers.ReLU(name="stem_relu")(conv(x, width, "stem", strides=2))
    for stage, filters in enumerate([width * 3 // 2, width * 3, width * 6], start=1):
        x = layers.ReLU(name=f"down{stage}_relu")(conv(x, filters, f"down{stage}"))
        x = layers.MaxPooling2D(2, name=f"down{stage}_pool")(x)
        for number in range(1, blocks + 1):
            x = block(x, filters, f"block{stage}{number}")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    probabilities = layers.Dense(num_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, probabilities, name="fast")
