"""What size of pictures a network takes, and how many at once without wasting memory."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np

from flowercnn.errors import ConfigurationError

__all__ = [
    "LAYER_NAME",
    "activation_bytes",
    "call_count",
    "check_dropout",
    "check_side",
    "couples_pictures",
    "pictures_at_once",
]

LAYER_NAME: Final = re.compile(r"[A-Za-z0-9_.>-]*")  # as TensorFlow has it, without those that separate folders
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


def check_dropout(dropout: Any) -> float:
    """Return a share of features to drop as a float of Python.

    Raises:
        ConfigurationError: If it is not a number from 0 to below 1.
    """
    is_number = isinstance(dropout, (int, float, np.integer, np.floating)) and not isinstance(dropout, bool)
    if not is_number or not 0 <= dropout < 1:
        raise ConfigurationError(f"dropout must be a share from 0 to below 1. Received: dropout={dropout!r}")
    return float(dropout)


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
    """Return how many bytes the outputs of all layers take for one picture, at every call of a layer."""
    return itemsize * _calls(model, {})[1]


def call_count(model: Any) -> int:
    """Return how many times layers are called for a picture, those of models within the model included."""
    return _calls(model, {})[0]


def _calls(model: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many calls there are and how many numbers come out of them; each inner model is counted once."""
    if id(model) not in known:
        count = numbers = 0
        for operation, shapes in _nodes(model):
            inner = _calls(operation, known) if hasattr(operation, "layers") else (1, 0)
            count += inner[0]
            numbers += inner[1] or sum(math.prod(size or 1 for size in shape[1:]) for shape in shapes)
        known[id(model)] = count, numbers
    return known[id(model)]


def _nodes(model: Any) -> list[tuple[Any, list[tuple[int | None, ...]]]]:
    """Return every call of a layer in a model, with the shapes of what comes out; none if it is not built."""
    functional = getattr(model, "_functional", model)  # a sequential model holds one
    by_depth = getattr(functional, "_nodes_by_depth", None) or {}  # no public way
    return [
        (node.operation, [*(tuple(tensor.shape) for tensor in node.output_tensors), *_beside(node)])
        for nodes in by_depth.values()
        for node in nodes
    ]


def _beside(node: Any) -> list[tuple[int | None, ...]]:
    """What a call takes besides its outputs: a transposed convolution lays out a window per place of its input."""
    if type(node.operation).__name__ != "Conv2DTranspose":
        return []
    *window, channels = node.operation.kernel.shape
    places = math.prod(size or 1 for size in node.input_tensors[0].shape[1:]) // channels
    return [(None, places, *window)]


def _layers(model: Any) -> list[Any]:
    """All layers, those of models within the model included."""
    found = []
    for layer in model.layers:
        found.extend(_layers(layer) if hasattr(layer, "layers") else [layer])
    return found
