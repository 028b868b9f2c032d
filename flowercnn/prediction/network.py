"""The network of a classifier in the forms it is needed in, each made when it is first asked for."""

from __future__ import annotations

import threading
from typing import Any, Literal, TypeAlias

from flowercnn.errors import ConfigurationError, ModelFileError
from flowercnn.models import check_has_layers
from flowercnn.runtimes import KerasRuntime, LiteRTRuntime, Runtime, light_copy, litert_is_installed
from flowercnn.saving import ModelFile, rebuilt

__all__ = ["Network", "RuntimeChoice"]

RuntimeChoice: TypeAlias = Literal["auto", "keras", "litert", "onnx"]
"""What computes: Keras on TensorFlow, LiteRT, ONNX Runtime; ``"auto"`` is LiteRT where it can be had, else Keras."""


class Network:
    """A Keras model, a model file or an export, and what computes it. Several threads may use one.

    Args:
        model: The Keras model, or ``None`` to build it from ``file`` when it is wanted.
        file: The model file, or ``None``.
        runtime: What computes; ``None`` to choose when it is wanted.
        light: The network as LiteRT flatbuffer, if it was made already.
        layers: Names of layers whose mean activations are computed beside the probabilities.
        wanted: Which runtime to choose.
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
    def of_file(cls, file: ModelFile, runtime: RuntimeChoice, layers: tuple[str, ...] = ()) -> Network:
        """Return the network in a model file, checked for the runtime that will compute it.

        Raises:
            MissingDependencyError: If the runtime asked for is not installed.
            ModelFileError: If it cannot be used, or is not in the file for that runtime.
        """
        if runtime == "onnx" or (runtime == "litert" and file.litert is None):
            raise ModelFileError(
                f"{file.path}: holds no network for runtime={runtime!r}. "
                + (
                    "Export it to .onnx and load that."
                    if runtime == "onnx"
                    else "Save it again with flowercnn[litert]."
                )
            )
        if runtime == "keras" or file.litert is None or (runtime == "auto" and not litert_is_installed()):
            # A file that cannot be built is refused now, not at the first picture.
            try:
                return cls(file.keras_model(), layers=layers, wanted=runtime)
            except ConfigurationError as error:
                raise ModelFileError(f"{file.path}: {error}") from error
        size, classes = file.description.preprocessing.image_size, len(file.description.class_names)
        light = rebuilt(file.litert, str(file.path), (1, *size, 3), classes, features=bool(layers))
        try:
            return cls(file=file, runtime=LiteRTRuntime(light), light=light, layers=layers, wanted=runtime)
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"{file.path}: the LiteRT network cannot be used: {error}") from error

    @property
    def model(self) -> Any:
        """The Keras model.

        Raises:
            ModelFileError: If this is an export for another runtime, or the file's weights cannot be used.
        """
        with self._lock:
            if self._model is None:
                if self._file is None:
                    raise ModelFileError("An export for LiteRT or ONNX holds no Keras model; load the .keras file.")
                self._model = self._file.keras_model()
            return self._model

    def with_layers(self, layers: tuple[str, ...]) -> Network:
        """Return the network with other layers whose mean activations are computed; itself if they are the same."""
        return self if layers == self._layers else Network(self.model, layers=layers, wanted=self._wanted)

    @property
    def light(self) -> bytes | None:
        """The network as LiteRT flatbuffer, or ``None`` where that cannot be had."""
        with self._lock:
            if not self._light_is_known:
                self._light, self._light_is_known = light_copy(self.model, self._layers), True
            return self._light

    @property
    def runtime(self) -> Runtime:
        """What computes."""
        with self._lock:
            if self._runtime is None:
                light = None if self._wanted == "keras" else self.light
                self._runtime = KerasRuntime(self.model, self._layers) if light is None else LiteRTRuntime(light)
            return self._runtime
