"""Graph of a Keras model: origins of tensors, feature maps, the head, and memory of a call.

This is the only module that touches Keras's private graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from flowercnn.errors import ConfigurationError, few
from flowercnn.models.backend import import_keras

MOST_ACTIVATION_BYTES: Final = 2 * 2**30
"""Limit for one image: a network that needs more is not run, saved or loaded."""

_BYTES_AT_ONCE: Final = 128 * 2**20
_DEPTHS: Final = 4
_FEATURE_MAP_DIMENSIONS: Final = 4  # (n, height, width, channels)


def operation_of(tensor: Any) -> Any:
    """Return the layer or operation whose output a tensor of a graph is."""
    return tensor._keras_history.operation  # noqa: SLF001 - no public way


def inputs_of(tensor: Any) -> list[Any]:
    """Return the tensors of a graph from which a tensor is computed."""
    return list(_call_of(tensor)[1].input_tensors)


def consumers_of(layer: Any) -> list[Any]:
    """Return the layers and operations that take a layer's outputs, once for every call."""
    return [node.operation for node in layer._outbound_nodes]  # noqa: SLF001 - no public way


def is_called_once(layer: Any) -> bool:
    """Return whether a layer has exactly one place in the graphs it belongs to."""
    return len(layer._inbound_nodes) == 1  # noqa: SLF001 - no public way


def flatten_layers(layer: Any) -> Iterator[Any]:
    """Return a layer or model and all layers within it, at any depth and in wrappers."""
    yield from layer._flatten_layers()  # noqa: SLF001 - no public way


def _call_of(tensor: Any) -> tuple[int, Any]:
    """Number and node of the call that a tensor comes from."""
    operation, number, _ = tensor._keras_history  # noqa: SLF001 - no public way
    return number, operation._inbound_nodes[number]  # noqa: SLF001


def head_of(model: Any) -> Any:
    """Return the last dense layer of a classifier.

    Raises:
        ConfigurationError: If the model does not end in one, with or without an activation layer.
    """
    for layer in reversed(model.layers):
        if type(layer).__name__ == "Dense":
            return layer
        if type(layer).__name__ not in ("Activation", "Softmax"):
            break
    raise ConfigurationError(f"{model.name} has no feature vectors: no dense layer at its end.")


def uses_batch_statistics(model: Any) -> bool:
    """Return whether a model has batch normalisation, so that micro-batches differ from a batch."""
    kind = import_keras().layers.BatchNormalization
    return any(isinstance(layer, kind) for layer in flatten_layers(model))


def micro_batch_size(model: Any, *, most: int, itemsize: int = 4) -> int:
    """Return how many images have activations that fit into 128 MiB together, from 1 to ``most``.

    Parts of a batch also run faster where all its activations would exceed the processor's caches.

    Args:
        model: A built Keras model.
        most: The whole batch.
        itemsize: Bytes per activation.
    """
    return max(1, min(most, _BYTES_AT_ONCE // max(activation_bytes(model, itemsize=itemsize), 1)))


def activation_bytes(model: Any, *, itemsize: int = 4) -> int:
    """Return the bytes of all layer outputs for one image, at every call of a layer."""
    return itemsize * _calls(model, {})[1]


def call_count(model: Any) -> int:
    """Return the number of layer calls for an image, including those in inner models."""
    return _calls(model, {})[0]


def _calls(model: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Calls and the numbers they return; each inner model is counted once."""
    if id(model) not in known:
        count = numbers = 0
        for operation, shapes in _nodes(model):
            inner = _calls(operation, known) if hasattr(operation, "layers") else (1, 0)
            count += inner[0]
            numbers += inner[1] or sum(
                math.prod(size or 1 for size in shape[1:]) for shape in shapes
            )
        known[id(model)] = count, numbers
    return known[id(model)]


def _nodes(model: Any) -> Iterator[tuple[Any, list[tuple[int | None, ...]]]]:
    """Every layer call in a model with the shapes of its outputs; empty if it is not built."""
    functional = getattr(model, "_functional", model)  # a sequential model holds one
    by_depth = getattr(functional, "_nodes_by_depth", None) or {}  # no public way
    for nodes in by_depth.values():
        for node in nodes:
            shapes = [tuple(tensor.shape) for tensor in node.output_tensors]
            yield node.operation, shapes + _workspace_shapes(node)


def _workspace_shapes(node: Any) -> list[tuple[int | None, ...]]:
    """Extra memory: a transposed convolution lays out a window per place of its input."""
    if type(node.operation).__name__ != "Conv2DTranspose":
        return []
    *window, channels = node.operation.kernel.shape
    places = math.prod(size or 1 for size in node.input_tensors[0].shape[1:]) // channels
    return [(None, places, *window)]


def feature_map_layers(model: Any) -> tuple[str, ...]:
    """Return the last layer at each of the four smallest feature-map sizes, shallow to deep.

    Empty if the model has no feature maps.
    """
    last_of_size: dict[tuple[Any, ...], str] = {}
    for name, shape in _feature_maps(model).items():
        last_of_size.pop(shape[1:3], None)
        last_of_size[shape[1:3]] = name
    return tuple(last_of_size.values())[-_DEPTHS:]


def last_feature_map(model: Any) -> str | None:
    """Return the name of the deepest layer whose output has height and width, or ``None``."""
    return next(reversed(_feature_maps(model)), None)


def no_feature_maps(model: Any) -> str:
    """Return why `last_feature_map` of a model is ``None``, for errors, without a full stop."""
    inner = [str(layer.name) for layer in model.layers if hasattr(layer, "layers")]
    if not inner:
        return "the network has no feature maps, that is, outputs with height and width"
    return (
        f"the network has no feature maps outside the models within it ({few(inner)}); build those "
        "with pooling=None and put GlobalAveragePooling2D after them"
    )


def layer_outputs(model: Any) -> dict[str, Any]:
    """Return the one output of each layer, by name, in the graph of the model.

    Of a layer called repeatedly it is the first. ``layer.output`` can belong to another graph: that
    of an inner model, or of the model a layer was taken from.
    """
    outputs: dict[str, tuple[int, Any]] = {}
    visited = set()
    waiting = list(getattr(model, "outputs", None) or ())  # a subclass of Model has no graph
    while waiting:
        tensor = waiting.pop()
        operation = operation_of(tensor)
        number, node = _call_of(tensor)
        if (id(operation), number) in visited:
            continue
        visited.add((id(operation), number))
        waiting += node.input_tensors
        name = str(operation.name)
        if len(node.outputs) == 1 and (name not in outputs or number < outputs[name][0]):
            outputs[name] = (number, node.outputs[0])
    return {name: tensor for name, (_, tensor) in outputs.items()}


def output_shapes(model: Any) -> dict[str, tuple[Any, ...]]:
    """Return the output shape of each layer that has one output; inner models are layers."""
    return {name: tuple(tensor.shape) for name, tensor in layer_outputs(model).items()}


def _feature_maps(model: Any) -> dict[str, tuple[Any, ...]]:
    """Shapes of the outputs with known height and width, shallow to deep, without scaled pixels."""
    pixels = tuple(model.input_shape[1:])
    shapes = output_shapes(model)
    layers = {str(layer.name): shapes.get(layer.name, ()) for layer in model.layers}
    return {
        name: shape
        for name, shape in layers.items()
        if len(shape) == _FEATURE_MAP_DIMENSIONS and None not in shape[1:3] and shape[1:] != pixels
    }
