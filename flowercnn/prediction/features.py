"""What a network makes of a picture on the way to its answer."""

from __future__ import annotations

from typing import Any

from flowercnn.errors import ConfigurationError, few
from flowercnn.models.keras3 import import_keras

__all__ = ["check_layers", "feature_layers", "last_feature_map", "no_feature_maps", "output_shapes", "with_features"]

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
