"""Networks of the library: the tutorial's, and small residual networks to train from scratch."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from flowercnn._utils import check_count, check_share
from flowercnn.models.backend import import_keras
from flowercnn.models.checks import check_smallest_size

MEMBERS: Final = "members"
"""Name of the layer that joins networks trained side by side."""

_SMALLEST_ARTICLE_SIDE: Final = 12  # three poolings by 3, 2 and 2 leave one pixel
_SMALLEST_SIDE: Final = 32  # four halvings leave two pixels
_MEAN: Final = 120.0  # of natural photographs, roughly; the exact value matters little
_SPREAD: Final = 64.0  # likewise


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
    check_smallest_size("article", image_size, _SMALLEST_ARTICLE_SIDE)
    keras = import_keras()
    layers = keras.layers
    stack = [
        keras.Input((*image_size, 3), name="pixels"),
        layers.Rescaling(1 / 255, name="rescale"),
    ]
    for number, (filters, pool) in enumerate([(8, 3), (16, 2), (32, 2)], start=1):
        name = f"conv{number}"
        stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu", name=name))
        stack.append(layers.MaxPooling2D(pool, name=f"pool{number}"))
    stack.append(layers.Flatten(name="flatten"))
    stack.append(layers.Dense(32, activation="relu", name="dense"))
    stack.append(layers.Dense(num_classes, activation="softmax", name="probabilities"))
    return keras.Sequential(stack, name="article")


def build_fast(
    image_size: tuple[int, int],
    num_classes: int,
    *,
    width: int = 32,
    blocks: int = 1,
    dropout: float = 0.0,
) -> Any:
    """Return a strided stem, four residual stages (He et al. 2016), average pooling, softmax.

    Dense 3x3 convolutions run fastest on a CPU for their arithmetic; grouped and depthwise ones
    wait for memory.

    Args:
        image_size: (height, width), each at least 32.
        num_classes: At least 2.
        width: Channels of the first stage; later stages have 1.5, 3 and 6 times as many.
        blocks: Residual blocks per stage.
        dropout: Share of features dropped before the last layer in training.

    Returns:
        A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.

    Raises:
        ConfigurationError: If ``image_size`` is too small, or an option is out of range.
    """
    return _residual("fast", image_size, num_classes, 1, width, blocks, dropout)


def build_accurate(
    image_size: tuple[int, int],
    num_classes: int,
    *,
    members: int = 2,
    width: int = 48,
    blocks: int = 1,
    dropout: float = 0.0,
) -> Any:
    """Return an ensemble in one model: wider `build_fast` networks whose logits are averaged.

    The members differ in their initial weights only, and make different errors (Lakshminarayanan
    et al. 2017). In training each has its own loss. ``members`` is their number, at least 1; the
    other arguments, the returned model and the errors are those of `build_fast`.
    """
    count = check_count("members", members)
    return _residual("accurate", image_size, num_classes, count, width, blocks, dropout)


def member_count(model: Any) -> int:
    """Return the number of networks whose last feature maps the layer ``members`` joins, or 1."""
    for layer in model.layers:
        if layer.name == MEMBERS and type(layer).__name__ == "Concatenate":
            return len(layer.input)
    return 1


def _residual(
    name: str,
    image_size: tuple[int, int],
    num_classes: int,
    members: int,
    width: int,
    blocks: int,
    dropout: float,
) -> Any:
    check_smallest_size(name, image_size, _SMALLEST_SIDE)
    width, blocks = check_count("width", width), check_count("blocks", blocks)
    dropout = check_share("dropout", dropout)
    keras = import_keras()
    layers = keras.layers
    pixels = keras.Input((*image_size, 3), name="pixels")
    x = layers.Rescaling(1 / _SPREAD, offset=-_MEAN / _SPREAD, name="rescale")(pixels)
    if members > 1:
        towers = [_tower(x, f"member{number + 1}_", width, blocks) for number in range(members)]
        x = layers.Concatenate(name=MEMBERS)(towers)
    else:
        x = _tower(x, "", width, blocks)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    if members > 1:
        x = layers.Rescaling(1 / members, name="mean")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    probabilities = layers.Dense(num_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, probabilities, name=name)


def _tower(x: Any, prefix: str, width: int, blocks: int) -> Any:
    """From scaled pixels to the last feature map."""
    layers = import_keras().layers
    conv3x3 = partial(layers.Conv2D, kernel_size=3, padding="same", use_bias=False)

    def conv(x: Any, filters: int, name: str, *, strides: int = 1) -> Any:
        x = conv3x3(filters, strides=strides, name=f"{prefix}{name}_conv")(x)
        return layers.BatchNormalization(name=f"{prefix}{name}_norm", momentum=0.9, epsilon=1e-3)(x)

    def relu(x: Any, name: str) -> Any:
        return layers.ReLU(name=f"{prefix}{name}")(x)

    def block(x: Any, filters: int, name: str) -> Any:
        y = relu(conv(x, filters, f"{name}_1"), f"{name}_relu1")
        y = conv(y, filters, f"{name}_2")
        return relu(layers.Add(name=f"{prefix}{name}_add")([x, y]), f"{name}_relu2")

    x = relu(conv(x, width, "stem", strides=2), "stem_relu")
    for stage, filters in enumerate([width * 3 // 2, width * 3, width * 6], start=1):
        x = relu(conv(x, filters, f"down{stage}"), f"down{stage}_relu")
        x = layers.MaxPooling2D(2, name=f"{prefix}down{stage}_pool")(x)
        for number in range(1, blocks + 1):
            x = block(x, filters, f"block{stage}{number}")
    return x
