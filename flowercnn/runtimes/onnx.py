"""The ONNX runtime, which needs no TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import cpu_count
from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.runtimes.keras import LARGEST_BATCH, Features, RuntimeName, no_features

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """ONNX Runtime network.

    Args:
        model: The bytes of a checked ONNX file.
        shape: Of an image: (height, width, 3).
        num_classes: The number of its probabilities.
        batch: The number of images it computes at once in bounded memory.

    Raises:
        MissingDependencyError: If onnxruntime is not installed.
        ModelFileError: If the network cannot compute probabilities of an image of noise.
    """

    name: RuntimeName = "onnx"

    def __init__(
        self, model: bytes, shape: tuple[int, ...], num_classes: int, batch: int = LARGEST_BATCH
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "runtime='onnx' needs the package onnxruntime: pip install 'flowercnn[onnx]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()
        options.log_severity_level = 4
        # Otherwise the bytes decide, and a file checked as one format is read as another.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        session, providers = onnxruntime.InferenceSession, ["CPUExecutionProvider"]
        self._session = session(model, options, providers=providers)
        self.batch = batch
        noise = np.random.default_rng(0).uniform(0, 255, (1, *shape)).astype(np.float32)
        output = self(noise)  # a network that cannot run fails now
        fits = output.shape == (1, num_classes) and output.dtype == np.float32
        if not fits or not np.isfinite(output).all():
            raise ModelFileError("the network gives no probabilities of an image of noise.")

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        try:
            outputs = self._session.run(None, {"pixels": pixels.astype(np.float32)})
        except Exception as error:  # ONNX Runtime has a class of errors per cause
            raise ModelFileError(f"The ONNX network cannot be computed: {error}") from error
        probabilities: npt.NDArray[np.float32] = outputs[0]
        return probabilities

    def with_features(self, pixels: npt.NDArray[Any]) -> Features:
        """Return probabilities and no activations; see `Runtime`."""
        return self(pixels), no_features(len(pixels))
