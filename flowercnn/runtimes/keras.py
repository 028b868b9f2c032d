"""Runtimes: the protocol of all, and Keras on TensorFlow."""

from __future__ import annotations

import threading
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "LARGEST_BATCH",
    "Computer",
    "Features",
    "KerasRuntime",
    "Runtime",
    "RuntimeName",
    "no_features",
]

_MOST_CONSTANTS: Final = 16 * 10**6

RuntimeName: TypeAlias = Literal["keras", "litert", "onnx"]
Features: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Probabilities, shape (n, num_classes), and mean activations, shape (n, features)."""

LARGEST_BATCH: Final = 32


class Computer(Protocol):
    """Function from pixels to probabilities, which several threads may call.

    Args:
        name: Its name.
        batch: The largest number of images to compute at once.
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
    """Runtime of a `Predictor`, whose out-of-distribution detector needs mean activations."""

    def with_features(self, pixels: npt.NDArray[Any]) -> Features:
        """Return probabilities and the mean activations of some layers: (n, features) or (n, 0)."""
        ...


def no_features(count: int) -> npt.NDArray[np.float32]:
    """Return the mean activations of ``count`` images where none are computed, shape (count, 0)."""
    return np.empty((count, 0), np.float32)


class KerasRuntime:
    """A Keras model, compiled to one TensorFlow function at the first call.

    Args:
        model: A Keras model. Its weights are those of the first call; a large network's are read at
            every call.
        layers: Names of layers whose mean activations are computed, too.
    """

    name: RuntimeName = "keras"

    def __init__(self, model: Any, layers: tuple[str, ...] = ()) -> None:
        from flowercnn.models import micro_batch_size  # LiteRT starts without it

        self.batch = micro_batch_size(model, most=LARGEST_BATCH)
        self._model = model
        self._layers = layers
        self._function: Any = None
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        return self.with_features(pixels)[0]

    def with_features(self, pixels: npt.NDArray[Any]) -> Features:
        """Return probabilities and mean activations; see `Runtime`."""
        import tensorflow as tf

        from flowercnn.models import memory_errors
        from flowercnn.runtimes.convert import constant_function, variable_function

        model, layers = self._model, self._layers
        with self._lock:
            if self._function is None and model.count_params() > _MOST_CONSTANTS:
                self._function = variable_function(model, layers=layers)
            elif self._function is None:
                function = constant_function(model, batch=None, dtype="float32", layers=layers)
                self._function = function
        with memory_errors("The network"):
            outputs = self._function(tf.constant(pixels, tf.float32))
        if not self._layers:
            return outputs.numpy(), no_features(len(pixels))
        return outputs[0].numpy(), outputs[1].numpy()
