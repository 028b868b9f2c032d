"""The LiteRT runtime, which needs no TensorFlow."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import cpu_count
from flowercnn.errors import MissingDependencyError
from flowercnn.runtimes.keras import LARGEST_BATCH, Features, RuntimeName, no_features

__all__ = ["LiteRTRuntime", "litert_interpreter", "litert_is_installed"]

_BYTES_OF_COPIES: Final = 512 * 2**20
_BYTES_OF_BATCH: Final = 128 * 2**20


class LiteRTRuntime:
    """LiteRT network: one image on all processors, or several images on one processor each.

    Args:
        flatbuffer: The network, for one image at a time; checked, if it is from a file.

    Raises:
        MissingDependencyError: If ai-edge-litert is not installed.
    """

    name: RuntimeName = "litert"

    def __init__(self, flatbuffer: bytes) -> None:
        self._flatbuffer = flatbuffer
        self._one = _Interpreter(flatbuffer, threads=cpu_count())
        # Each interpreter has weights and activations of its own.
        self._copies = max(1, min(cpu_count(), _BYTES_OF_COPIES // self._one.bytes))
        self.batch = max(1, min(LARGEST_BATCH, _BYTES_OF_BATCH // self._one.bytes_of_image))
        self._many: list[_Interpreter] = []
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        return self.with_features(pixels)[0]

    def with_features(self, pixels: npt.NDArray[Any]) -> Features:
        """Return probabilities and mean activations; see `Runtime`."""
        if len(pixels) == 1 or self._copies == 1:
            return self._one(pixels)
        with self._lock:
            if not self._many:
                count = range(self._copies)
                self._many = [_Interpreter(self._flatbuffer, threads=1) for _ in count]
        parts = np.array_split(pixels, min(len(self._many), len(pixels)))
        with ThreadPoolExecutor(len(parts)) as pool:
            rows = pool.map(lambda interpreter, part: interpreter(part), self._many, parts)
            probabilities, features = zip(*rows, strict=True)
        return np.concatenate(probabilities), np.concatenate(features)


class _Interpreter:
    """LiteRT interpreter, used by one thread at a time."""

    def __init__(self, flatbuffer: bytes, *, threads: int) -> None:
        self._interpreter = litert_interpreter()(model_content=flatbuffer, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._interpreter.invoke()  # a network that cannot run fails now
        pixels = self._interpreter.get_input_details()[0]
        tensors = self._interpreter.get_tensor_details()
        self._input = pixels["index"]
        self.bytes_of_image = _bytes_of(pixels)
        self.bytes = sum(map(_bytes_of, tensors))
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> Features:
        with self._lock:
            rows = [self._rows(image[None]) for image in pixels]
        probabilities, *features = (np.concatenate(each) for each in zip(*rows, strict=True))
        return probabilities, features[0] if features else no_features(len(pixels))

    def _rows(self, image: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        self._interpreter.set_tensor(self._input, image.astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output) for output in self._outputs]


def _bytes_of(tensor: dict[str, Any]) -> int:
    size: int = math.prod(tensor["shape"].tolist()) * np.dtype(tensor["dtype"]).itemsize
    return size


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
