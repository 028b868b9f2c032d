"""The graph of a Keras model: feature maps, the head, and how much memory a call takes."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np

from flowercnn.errors import ConfigurationError, few
from flowercnn.models.backend import import_keras

__all__ = [
    "LAYER_NAME",
    "activation_bytes",
    "call_count",
    "check_dropout",
    "check_layers",
    "check_side",
    "couples_pictures",
    "feature_layers",
    "head_of",
    "last_feature_map",
    "no_feature_maps",
    "output_shapes",
    "pictures_at_once",
    "with_features",
]


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
    from flowercnn.models.backend import import_keras

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


_DEPTHS = 4
_FEATURE_MAP_DIMENSIONS = 4  # (n, height, width, channels)


def feature_layers(model: Any) -> tuple[str, ...]:
    """Return the names of the last layers of the four smallest sizes of feature maps, from shallow to deep.

    Empty if the model has no feature maps.
    """
    last_of_size: dict[tuple[int, int], str] = {}
    for name, shape in _feature_maps(model).items():
        height, width = shape[1:3]
        last_of_size.pop((height, width), None)
        last_of_size[(height, width)] = name
    return tuple(last_of_size.values())[-_DEPTHS:]


def last_feature_map(model: Any) -> str | None:
    """Return the name of the deepest layer whose output has height and width, or ``None``."""
    return next(reversed(_feature_maps(model)), None)


def no_feature_maps(model: Any) -> str:
    """Return what to say of a model of which `last_feature_map` is ``None``, without a full stop."""
    inner = [str(layer.name) for layer in model.layers if hasattr(layer, "layers")]
    if not inner:
        return "the network has no feature maps, that is, outputs with height and width"
    return (
        f"the network has no feature maps outside the models within it ({few(inner)}); build those with pooling=None "
        "and put GlobalAveragePooling2D after them"
    )


def output_shapes(model: Any) -> dict[str, tuple[Any, ...]]:
    """Return the shape of the output of each layer that has one, by name; models within the model are layers."""
    return {name: tuple(tensor.shape) for name, tensor in _outputs(model).items()}


def check_layers(model: Any, layers: tuple[str, ...]) -> None:
    """Refuse layers a model has not.

    Raises:
        ConfigurationError: If it has not all of them.
    """
    missing = set(layers) - set(_outputs(model))
    if missing:
        raise ConfigurationError(
            f"The calibration is of another network: this one has no layer {few(sorted(missing))}."
        )


def with_features(model: Any, layers: tuple[str, ...]) -> Any:
    """Return a Keras model with the probabilities and, after them, the outputs of some layers."""
    check_layers(model, layers)
    outputs = _outputs(model)
    return import_keras().Model(model.inputs, [model.outputs[0], *(outputs[name] for name in layers)])


def _feature_maps(model: Any) -> dict[str, tuple[Any, ...]]:
    """Shapes of the outputs of known height and width, from shallow to deep, beyond those of rescaled pixels."""
    pixels = tuple(model.input_shape[1:])
    shapes = output_shapes(model)
    found = {str(layer.name): shapes.get(layer.name, ()) for layer in model.layers}
    return {
        name: shape
        for name, shape in found.items()
        if len(shape) == _FEATURE_MAP_DIMENSIONS and None not in shape[1:3] and shape[1:] != pixels
    }


def _outputs(model: Any) -> dict[str, Any]:
    """The one output of each layer, by name, in the graph of the model; the first of a layer that is used repeatedly.

    ``layer.output`` can be of another graph: of a model within the model it is a tensor inside that model, of a layer
    taken from another model a tensor of that one.
    """
    found: dict[str, tuple[int, Any]] = {}
    seen = set()
    waiting = list(getattr(model, "outputs", None) or ())  # a subclass of Model has no graph
    while waiting:
        operation, call, _ = waiting.pop()._keras_history  # noqa: SLF001 - no public way
        if (id(operation), call) in seen:
            continue
        seen.add((id(operation), call))
        node = operation._inbound_nodes[call]  # noqa: SLF001
        waiting += node.input_tensors
        name = str(operation.name)
        if len(node.outputs) == 1 and (name not in found or call < found[name][0]):
            found[name] = (call, node.outputs[0])
    return {name: tensor for name, (_, tensor) in found.items()}
