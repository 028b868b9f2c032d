"""What size of pictures a network takes, and how many at once without wasting memory."""

from __future__ import annotations

import math
from typing import Any, Final

from flowercnn.errors import ConfigurationError

__all__ = ["activation_bytes", "check_side", "couples_pictures", "pictures_at_once"]

_BYTES_AT_ONCE: Final = 128 * 2**20


def check_side(name: str, image_size: tuple[int, int], smallest: int) -> None:
    """Refuse pictures of which a network's poolings would leave nothing.

    Raises:
        ConfigurationError: If a side of ``image_size`` is below ``smallest``.
    """
    if min(image_size) < smallest:
        raise ConfigurationError(
            f"{name} needs pictures of at least {smallest} x {smallest}. Received: image_size={image_size}"
        )


def couples_pictures(model: Any) -> bool:
    """Return whether training on half a batch twice differs from training on the whole: batch statistics do that."""
    from flowercnn.models.keras3 import import_keras

    return any(isinstance(layer, import_keras().layers.BatchNormalization) for layer in _layers(model))


def pictures_at_once(model: Any, *, most: int, itemsize: int = 4) -> int:
    """Return how many pictures' activations fit into 128 MiB, from 1 to ``most``.

    Smaller parts are also faster where the activations of a whole batch leave the processor's caches.

    Args:
        model: A built Keras model.
        most: The whole batch.
        itemsize: Bytes per activation.
    """
    return max(1, min(most, _BYTES_AT_ONCE // max(activation_bytes(model, itemsize=itemsize), 1)))


def activation_bytes(model: Any, *, itemsize: int = 4) -> int:
    """Return how many bytes the outputs of all layers take for one picture."""
    return itemsize * sum(
        math.prod(size or 1 for size in shape[1:]) for layer in _layers(model) for shape in _output_shapes(layer)
    )


def _layers(model: Any) -> list[Any]:
    """All layers, those of models within the model included."""
    found = []
    for layer in model.layers:
        found.extend(_layers(layer) if hasattr(layer, "layers") else [layer])
    return found


def _output_shapes(layer: Any) -> list[tuple[int | None, ...]]:
    """The output shapes of a layer, none where Keras cannot tell."""
    try:
        outputs = layer.output
    except (AttributeError, ValueError):
        return []
    return [tuple(tensor.shape) for tensor in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
