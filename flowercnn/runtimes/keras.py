"""The Keras runtime, on TensorFlow."""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.models import memory_errors, micro_batch_size
from flowercnn.runtimes.base import LARGEST_BATCH, Features, RuntimeName, no_features
from flowercnn.runtimes.convert import constant_function, variable_function

__all__ = ["KerasRuntime"]

_MOST_CONSTANTS: Final = 16 * 10**6


class KerasRuntime:
    """A Keras model, compiled to one TensorFlow function at the first call.

    Args:
        model: A Keras model. Its weights are those of the first call; a large network's are read at
            every call.
        layers: Names of layers whose mean activations are computed, too.
    """

    name: RuntimeName = "keras"

    def __init__(self, model: Any, layers: tuple[str, ...] = ()) -> None:
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

        with self._lock:
            if self._function is None and self._model.count_params() > _MOST_CONSTANTS:
                self._function = variable_function(self._model, layers=self._layers)
            elif self._function is None:
                self._function = constant_function(
                    self._model, batch=None, dtype="float32", layers=self._layers
                )
        with memory_errors("The network"):
            outputs = self._function(tf.constant(pixels, tf.float32))
        if not self._layers:
            return outputs.numpy(), no_features(len(pixels))
        return outputs[0].numpy(), outputs[1].numpy()
