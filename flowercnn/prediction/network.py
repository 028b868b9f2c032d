"""Network of a classifier: a Keras model, model file or export, and its runtime."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from flowercnn._utils import check_choice
from flowercnn.errors import ConfigurationError, ModelFileError
from flowercnn.models import check_has_layers, output_shapes
from flowercnn.prediction.calibration import Calibration
from flowercnn.runtimes import KerasRuntime, LiteRTRuntime, Runtime, litert_is_installed
from flowercnn.saving import Description, ModelFile, light_copy, read_export, read_model

__all__ = ["Network", "RuntimeChoice", "check_feature_maps", "layers_of", "read_predictor"]

RuntimeChoice: TypeAlias = Literal["auto", "keras", "litert", "onnx"]
"""Runtime: Keras, LiteRT or ONNX Runtime; ``"auto"`` is LiteRT if possible, otherwise Keras."""

_FEATURE_MAP_DIMENSIONS: Final = 4  # (n, height, width, channels)


class Network:
    """Network and its runtime, for several threads.

    Args:
        model: The Keras model, or ``None`` to build it from ``file`` when needed.
        file: The model file, or ``None``.
        runtime: The runtime, or ``None`` to choose it when needed.
        light: The network as LiteRT flatbuffer, if it was made already.
        layers: Names of layers whose mean activations are computed beside the probabilities.
        wanted: The runtime to choose.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        file: ModelFile | None = None,
        runtime: Runtime | None = None,
        light: bytes | None = None,
        layers: tuple[str, ...] = (),
        wanted: RuntimeChoice = "auto",
    ) -> None:
        if model is not None:
            check_has_layers(model, layers)
        self._model = model
        self._file = file
        self._runtime = runtime
        self._light = light
        self._light_is_known = light is not None
        self._layers = layers
        self._wanted = wanted
        self._lock = threading.RLock()

    @classmethod
    def of_file(
        cls, file: ModelFile, runtime: RuntimeChoice, layers: tuple[str, ...] = ()
    ) -> Network:
        """Return the network in a model file, checked for the runtime that will compute it.

        Raises:
            MissingDependencyError: If the runtime asked for is not installed.
            ModelFileError: If it cannot be used, or is not in the file for that runtime.
        """
        if runtime == "onnx" or (runtime == "litert" and file.litert is None):
            way_out = "Save it again with flowercnn[litert]."
            if runtime == "onnx":
                way_out = "Export it to .onnx and load that."
            reason = f"holds no network for runtime={runtime!r}"
            raise ModelFileError(f"{file.path}: {reason}. {way_out}")
        is_keras = runtime == "keras" or (runtime == "auto" and not litert_is_installed())
        light = None if is_keras else file.litert_network(features=bool(layers))
        if light is None:
            # A file that cannot be built is rejected now, not at the first image.
            try:
                return cls(file.keras_model(), layers=layers, wanted=runtime)
            except ConfigurationError as error:
                raise ModelFileError(f"{file.path}: {error}") from error
        try:
            litert = LiteRTRuntime(light)
        except (RuntimeError, ValueError) as error:
            reason = f"the LiteRT network cannot be used: {error}"
            raise ModelFileError(f"{file.path}: {reason}") from error
        return cls(file=file, runtime=litert, light=light, layers=layers, wanted=runtime)

    @property
    def model(self) -> Any:
        """The Keras model.

        Raises:
            ModelFileError: If this is an export for another runtime, or the file's weights cannot
                be used.
        """
        with self._lock:
            if self._model is None:
                if self._file is None:
                    raise ModelFileError(
                        "An export for LiteRT or ONNX holds no Keras model; load the .keras file."
                    )
                self._model = self._file.keras_model()
            return self._model

    def with_layers(self, layers: tuple[str, ...]) -> Network:
        """Return the network with these layers' mean activations computed, itself if it is so."""
        same = layers == self._layers
        return self if same else Network(self.model, layers=layers, wanted=self._wanted)

    @property
    def light(self) -> bytes | None:
        """The network as LiteRT flatbuffer, or ``None`` if LiteRT cannot compute it."""
        with self._lock:
            if not self._light_is_known:
                self._light, self._light_is_known = light_copy(self.model, self._layers), True
            return self._light

    @property
    def runtime(self) -> Runtime:
        """The runtime, chosen when it is first needed."""
        with self._lock:
            if self._runtime is None:
                light = None if self._wanted == "keras" else self.light
                if light is None:
                    self._runtime = KerasRuntime(self.model, self._layers)
                else:
                    self._runtime = LiteRTRuntime(light)
            return self._runtime


def read_predictor(
    path: Path, runtime: RuntimeChoice, max_pixels: int | None
) -> tuple[Description, Calibration | None, Network]:
    """Return the parts of a predictor; arguments and errors are those of `Predictor.load`."""
    check_choice("runtime", runtime, get_args(RuntimeChoice))
    if path.suffix.lower() in (".tflite", ".onnx"):
        return _exported(path, runtime, max_pixels)
    file = read_model(path)
    calibration = _read_calibration(file.description, path)
    network = Network.of_file(file, runtime, layers_of(calibration))
    try:
        if runtime == "keras" or file.litert is None or not litert_is_installed():
            check_feature_maps(network.model, calibration)
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
        reason = f"holds no network for runtime={runtime!r}, only for {computes.name!r}"
        raise ModelFileError(f"{path}: {reason}.")
    return _limited(description, max_pixels), calibration, Network(runtime=computes)


def layers_of(calibration: Calibration | None) -> tuple[str, ...]:
    """Return the layers whose mean activations a calibration needs; empty without one."""
    return () if calibration is None else calibration.layers


def check_feature_maps(model: Any, calibration: Calibration | None) -> None:
    """Reject a calibration that was fitted to other feature maps than those of a Keras model.

    Raises:
        ConfigurationError: If it was.
    """
    if calibration is None or calibration.detector is None:
        return
    detector = calibration.detector
    shapes = output_shapes(model)
    for name, gaussian in zip(detector.layers, detector.gaussians, strict=True):
        shape = shapes.get(name, ())
        if len(shape) != _FEATURE_MAP_DIMENSIONS or shape[-1] != gaussian.size:
            raise ConfigurationError(
                f"The calibration is of another network: it knows {gaussian.size} feature maps of "
                f"the layer {name!r}. Received: a layer with outputs of shape {shape}"
            )


def _check_features(
    network: Network, calibration: Calibration | None, description: Description
) -> None:
    """Reject a calibration that was fitted to other features than those of a LiteRT network.

    Raises:
        ConfigurationError: If it was.
    """
    if calibration is not None and calibration.detector is not None:
        black = np.zeros((1, *description.preprocessing.image_size, 3), np.uint8)
        calibration.unknown(network.runtime.with_features(black)[1])


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
