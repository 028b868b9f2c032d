"""What a predictor consists of, read from a model file or an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from flowercnn.errors import ConfigurationError, ModelFileError
from flowercnn.models import output_shapes
from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.network import Network, RuntimeChoice
from flowercnn.runtimes import litert_is_installed
from flowercnn.saving import Description, read_export, read_model

__all__ = ["check_layers", "feature_layers", "read_predictor"]

_FEATURE_MAP_DIMENSIONS: Final = 4  # (n, height, width, channels)


def read_predictor(
    path: Path, runtime: RuntimeChoice, max_pixels: int | None
) -> tuple[Description, Calibration | None, Network]:
    """Return the parts of the predictor in a file; arguments and errors are those of `Predictor.load`."""
    if runtime not in get_args(RuntimeChoice):
        raise ConfigurationError(
            f"runtime must be one of {', '.join(get_args(RuntimeChoice))}. Received: runtime={runtime!r}"
        )
    if path.suffix.lower() in (".tflite", ".onnx"):
        return _exported(path, runtime, max_pixels)
    file = read_model(path)
    calibration = _read_calibration(file.description, path)
    network = Network.of_file(file, runtime, feature_layers(calibration))
    try:
        if runtime == "keras" or file.litert is None or not litert_is_installed():
            check_layers(network.model, calibration)
        else:
            _check_features(network, calibration, file.description)
    except ConfigurationError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return _limited(file.description, max_pixels), calibration, network


def _exported(
    path: Path, runtime: RuntimeChoice, max_pixels: int | None
) -> tuple[Description, Calibration | None, Network]:
    description, computes = read_export(path)
    calibration = _read_calibration(description, path)
    if runtime not in ("auto", computes.name):
        raise ModelFileError(f"{path}: holds no network for runtime={runtime!r}, only for {computes.name!r}.")
    return _limited(description, max_pixels), calibration, Network(runtime=computes)


def feature_layers(calibration: Calibration | None) -> tuple[str, ...]:
    """The layers whose mean activations tell pictures of nothing known."""
    return () if calibration is None or calibration.familiarity is None else calibration.familiarity.layers


def check_layers(model: Any, calibration: Calibration | None) -> None:
    """Refuse layers of a Keras model that have not the feature maps the calibration was fitted to.

    Raises:
        ConfigurationError: If there is one.
    """
    known = None if calibration is None else calibration.familiarity
    if known is None:
        return
    shapes = output_shapes(model)
    for name, part in zip(known.layers, known.parts, strict=True):
        shape = shapes.get(name, ())
        if len(shape) != _FEATURE_MAP_DIMENSIONS or shape[-1] != part.size:
            raise ConfigurationError(
                f"The calibration is of another network: it knows {part.size} feature maps of the layer {name!r}. "
                f"Received: a layer with outputs of shape {shape}"
            )


def _check_features(network: Network, calibration: Calibration | None, description: Description) -> None:
    """Refuse a LiteRT network that computes other features than the calibration knows.

    Raises:
        ConfigurationError: If it does.
    """
    if calibration is not None and calibration.familiarity is not None:
        black = np.zeros((1, *description.preprocessing.image_size, 3), np.uint8)
        calibration.unknown(network.runtime.outputs(black)[1])


def _read_calibration(description: Description, path: Path) -> Calibration | None:
    try:
        return Calibration.from_dict(description.calibration) if description.calibration else None
    except ConfigurationError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _limited(description: Description, max_pixels: int | None) -> Description:
    if max_pixels is None:
        return description
    limited = description.preprocessing.replace(max_pixels=max_pixels)
    if max_pixels > description.preprocessing.max_pixels:
        return description
    return replace(description, preprocessing=limited)
