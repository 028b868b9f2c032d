"""What a network makes of a picture on the way to its answer."""

from __future__ import annotations

from typing import Any

from flowercnn.errors import ConfigurationError, few
from flowercnn.models.keras3 import import_keras

__all__ = ["check_layers", "feature_layers", "last_feature_map", "with_features"]

_DEPTHS = 4
_FEATURE_MAP_DIMENSIONS = 4  # (n, height, width, channels)


def feature_layers(model: Any) -> tuple[str, ...]:
    """Return the names of the last layers of the four smallest sizes of feature maps, from shallow to deep.

    Empty if the model has no feature maps.
    """
    last_of_size: dict[tuple[int, int], str] = {}
    for layer in _feature_maps(model):
        height, width = layer.output.shape[1:3]
        last_of_size.pop((height, width), None)
        last_of_size[(height, width)] = str(layer.name)
    return tuple(last_of_size.values())[-_DEPTHS:]


def last_feature_map(model: Any) -> str | None:
    """Return the name of the deepest layer whose output has height and width, or ``None``."""
    found = _feature_maps(model)
    return str(found[-1].name) if found else None


def check_layers(model: Any, layers: tuple[str, ...]) -> None:
    """Refuse layers a model has not.

    Raises:
        ConfigurationError: If it has not all of them.
    """
    missing = set(layers) - {layer.name for layer in model.layers}
    if missing:
        raise ConfigurationError(
            f"The calibration is of another network: this one has no layer {few(sorted(missing))}."
        )


def with_features(model: Any, layers: tuple[str, ...]) -> Any:
    """Return a Keras model with the probabilities and, after them, the outputs of some layers."""
    keras = import_keras()
    return keras.Model(model.inputs, [model.outputs[0], *(model.get_layer(name).output for name in layers)])


def _feature_maps(model: Any) -> list[Any]:
    """Layers with one output of known height and width, beyond those that only rescale the pixels.

    Models within the model are passed over: what they call their output is of another graph.
    """
    pixels = tuple(model.input_shape[1:])
    found = []
    for layer in (each for each in model.layers if not hasattr(each, "layers")):
        shape = getattr(getattr(layer, "output", None), "shape", ())
        if len(shape) == _FEATURE_MAP_DIMENSIONS and None not in shape[1:3] and tuple(shape[1:]) != pixels:
            found.append(layer)
    return found
