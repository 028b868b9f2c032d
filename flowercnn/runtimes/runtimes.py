"""What computes probabilities from pixels: Keras on TensorFlow, or LiteRT or ONNX Runtime without it."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from flowercnn._utils import cpu_count
from flowercnn.errors import MissingDependencyError, ModelFileError

__all__ = [
    "Computer",
    "KerasRuntime",
    "LiteRTRuntime",
    "OnnxRuntime",
    "Runtime",
    "RuntimeName",
    "light_copy",
    "litert_interpreter",
    "litert_is_installed",
]

_log = logging.getLogger(__name__)

RuntimeName: TypeAlias = Literal["keras", "litert", "onnx"]
Outputs: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

_BATCH: Final = 32
_BYTES_OF_COPIES: Final = 512 * 2**20
_BYTES_OF_BATCH: Final = 128 * 2**20
_MOST_CONSTANTS: Final = 16 * 10**6
_MOST_IN_LIGHT_COPY: Final = 32 * 10**6
_TOLERANCE: Final = 1e-4
_FEATURE_TOLERANCE: Final = 1e-3
_NO_LIGHT_COPY: Final = (
    "This network has no copy for LiteRT, neither here nor in its model file: %s. Predictions need TensorFlow, which "
    "starts slower; docs/how-to/predict.md lists the layers."
)


class Computer(Protocol):
    """Computes; several threads may call one.

    Args:
        name: Which it is.
        batch: How many pictures at once are computed well.
    """

    name: RuntimeName
    batch: int

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities, shape (n, num_classes), float32.

        Args:
            pixels: Shape (n, height, width, 3), uint8 or float32, values 0-255, n at least 1.
        """
        ...


class Runtime(Computer, Protocol):
    """Computes for a `Predictor`: what tells unknown pictures, too."""

    def outputs(self, pixels: npt.NDArray[Any]) -> Outputs:
        """Return probabilities, and the mean activations of some layers, shape (n, features), or (n, 0)."""
        ...


class KerasRuntime:
    """A network as one TensorFlow function for the life of the process, made at the first call.

    Args:
        model: A Keras model. Its weights as they are at the first call are used, or, of a large network, as they are.
        layers: Names of layers whose mean activations are computed, too.
    """

    name: RuntimeName = "keras"

    def __init__(self, model: Any, layers: tuple[str, ...] = ()) -> None:
        from flowercnn.models import micro_batch_size

        self.batch = micro_batch_size(model, most=_BATCH)
        self._model = model
        self._layers = layers
        self._function: Any = None
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        return self.outputs(pixels)[0]

    def outputs(self, pixels: npt.NDArray[Any]) -> Outputs:
        """Return probabilities and mean activations; see `Runtime`."""
        import tensorflow as tf

        from flowercnn.runtimes.convert import constant_function, variable_function

        with self._lock:
            if self._function is None and self._model.count_params() > _MOST_CONSTANTS:
                self._function = variable_function(self._model, layers=self._layers)
            elif self._function is None:
                self._function = constant_function(self._model, batch=None, dtype="float32", layers=self._layers)
        outputs = self._function(tf.constant(pixels, tf.float32))
        if not self._layers:
            return outputs.numpy(), _no_features(len(pixels))
        return outputs[0].numpy(), outputs[1].numpy()


class LiteRTRuntime:
    """A network in LiteRT: one picture by all processors, or several pictures by one processor each.

    Args:
        flatbuffer: The network, for one picture at a time.

    Raises:
        MissingDependencyError: If ai-edge-litert is not installed.
    """

    name: RuntimeName = "litert"

    def __init__(self, flatbuffer: bytes) -> None:
        self._flatbuffer = flatbuffer
        self._one = _Interpreter(flatbuffer, threads=cpu_count())
        # Each interpreter has weights and activations of its own.
        self._copies = max(1, min(cpu_count(), _BYTES_OF_COPIES // self._one.bytes))
        self.batch = max(1, min(_BATCH, _BYTES_OF_BATCH // self._one.bytes_of_picture))
        self._many: list[_Interpreter] = []
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        return self.outputs(pixels)[0]

    def outputs(self, pixels: npt.NDArray[Any]) -> Outputs:
        """Return probabilities and mean activations; see `Runtime`."""
        if len(pixels) == 1 or self._copies == 1:
            return self._one(pixels)
        with self._lock:
            if not self._many:
                self._many = [_Interpreter(self._flatbuffer, threads=1) for _ in range(self._copies)]
        parts = np.array_split(pixels, min(len(self._many), len(pixels)))
        with ThreadPoolExecutor(len(parts)) as pool:
            probabilities, features = zip(*pool.map(lambda one, part: one(part), self._many, parts), strict=True)
        return np.concatenate(probabilities), np.concatenate(features)


class _Interpreter:
    """A LiteRT interpreter, which one thread at a time may use."""

    def __init__(self, flatbuffer: bytes, *, threads: int) -> None:
        self._interpreter = litert_interpreter()(model_content=flatbuffer, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._interpreter.invoke()  # a network that cannot run says so now
        pixels, tensors = self._interpreter.get_input_details()[0], self._interpreter.get_tensor_details()
        self._input = pixels["index"]
        self.bytes_of_picture = _bytes_of(pixels)
        self.bytes = sum(map(_bytes_of, tensors))
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> Outputs:
        with self._lock:
            rows = [self._rows(picture[None]) for picture in pixels]
        probabilities, *features = (np.concatenate(each) for each in zip(*rows, strict=True))
        return probabilities, features[0] if features else _no_features(len(pixels))

    def _rows(self, picture: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        self._interpreter.set_tensor(self._input, picture.astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output) for output in self._outputs]


def _bytes_of(tensor: dict[str, Any]) -> int:
    size: int = math.prod(tensor["shape"].tolist()) * np.dtype(tensor["dtype"]).itemsize
    return size


class OnnxRuntime:
    """A network in ONNX Runtime.

    Args:
        model: The bytes of an ONNX file that is known to be harmless.
        shape: Of a picture: (height, width, 3).
        num_classes: How many probabilities it gives.
        batch: How many pictures at once it computes in bounded memory.

    Raises:
        MissingDependencyError: If onnxruntime is not installed.
        ModelFileError: If the network cannot compute probabilities of a picture of noise.
    """

    name: RuntimeName = "onnx"

    def __init__(self, model: bytes, shape: tuple[int, ...], num_classes: int, batch: int = _BATCH) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "runtime='onnx' needs the package onnxruntime: pip install 'flowercnn[onnx]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()
        options.log_severity_level = 4
        # Else bytes within decide, and what was checked as one format would be read as another.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.batch = batch
        noise = np.random.default_rng(0).uniform(0, 255, (1, *shape)).astype(np.float32)
        answer = self(noise)  # a network that cannot run says so now
        if answer.shape != (1, num_classes) or answer.dtype != np.float32 or not np.isfinite(answer).all():
            raise ModelFileError("the network gives no probabilities of a picture of noise.")

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        try:
            probabilities: npt.NDArray[np.float32] = self._session.run(None, {"pixels": pixels.astype(np.float32)})[0]
        except Exception as error:  # ONNX Runtime has a class of errors per cause
            raise ModelFileError(f"The ONNX network cannot be computed: {error}") from error
        return probabilities

    def outputs(self, pixels: npt.NDArray[Any]) -> Outputs:
        """Return probabilities and no activations; see `Runtime`."""
        return self(pixels), _no_features(len(pixels))


def _no_features(count: int) -> npt.NDArray[np.float32]:
    return np.empty((count, 0), np.float32)


def litert_interpreter() -> Any:
    """Return the class of the LiteRT interpreter, without importing TensorFlow.

    Raises:
        MissingDependencyError: If ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingDependencyError(
            "LiteRT needs the package ai-edge-litert: pip install 'flowercnn[litert]'."
        ) from error
    return Interpreter


def litert_is_installed() -> bool:
    """Return whether LiteRT can compute here."""
    try:
        return find_spec("ai_edge_litert") is not None
    except (ImportError, ValueError):  # of a finder that hides it, or a module put in its place
        return False


def light_copy(model: Any, layers: tuple[str, ...] = ()) -> bytes | None:
    """Return a Keras model as LiteRT flatbuffer, proved on noise, or ``None`` where that cannot be had.

    That is without the interpreter, for a network so large that the conversion takes gigabytes, or with layers or
    numbers that LiteRT computes otherwise.
    """
    from flowercnn.runtimes.convert import to_litert
    from flowercnn.saving import rebuilt

    if model.count_params() > _MOST_IN_LIGHT_COPY:
        _log.info("No LiteRT copy of so large a network. Predictor.export makes one.")
        return None
    try:
        litert_interpreter()
        flatbuffer = to_litert(model, layers=layers)
        # What would be refused when it is loaded is not kept.
        rebuilt(flatbuffer, "", (1, *model.input_shape[1:]), model.output_shape[-1], features=bool(layers))
        pixels = np.random.default_rng(0).integers(0, 256, (2, *model.input_shape[1:]), dtype=np.uint8)
        light, features = LiteRTRuntime(flatbuffer).outputs(pixels)
        expected, expected_features = KerasRuntime(model, layers).outputs(pixels)
        same = np.allclose(features, expected_features, rtol=_FEATURE_TOLERANCE, atol=_FEATURE_TOLERANCE)
        difference = np.abs(light - expected).max() if same else math.inf
    except MissingDependencyError as error:
        _log.info("No LiteRT copy of the network: %s", error)
        return None
    except (ModelFileError, RuntimeError, ValueError) as error:
        _log.warning(_NO_LIGHT_COPY, str(error).removeprefix(": ").rstrip("."))
        return None
    if not difference <= _TOLERANCE:
        _log.warning(_NO_LIGHT_COPY, f"its probabilities would differ by {difference:g}")
        return None
    return flatbuffer
