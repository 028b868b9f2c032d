"""Very many pictures at once, on TensorFlow: in bfloat16, and those it is not sure of again in float32.

A processor that multiplies bfloat16 in hardware does so twice as fast as float32. Rounded so, a picture's logits are
a little off. That changes nothing where one class has nearly all the probability, and may where it has not.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.runtimes import KerasRuntime, Outputs, RuntimeName

__all__ = ["BulkRuntime"]

_log = logging.getLogger(__name__)

_SURE: Final = 0.9
_NEAR_THE_LIMIT: Final = 0.9
_LARGEST_DIFFERENCE: Final = 0.01
_FEWEST_SURE: Final = 0.5
_BATCH: Final = 32


class BulkRuntime:
    """A network that computes in bfloat16 what is sure there, and the rest in float32.

    The first batch is computed both ways. If the processor has no bfloat16, or the ways differ in a label or by more
    than 0.01 in a probability, or few pictures are sure, everything is computed in float32.

    Args:
        model: A Keras model.
        calibration: What tells unknown pictures, or ``None``.
    """

    name: RuntimeName = "keras"

    def __init__(self, model: Any, calibration: Calibration | None) -> None:
        from flowercnn.models.parts import pictures_at_once

        self.batch = pictures_at_once(model, most=_BATCH, itemsize=2)
        self._familiarity = None if calibration is None else calibration.familiarity
        self._limit = (
            np.inf
            if calibration is None or self._familiarity is None
            else self._familiarity.threshold(calibration.false_alarms)
        )
        self._model = model
        self._layers = () if self._familiarity is None else self._familiarity.layers
        self._exact = KerasRuntime(model, self._layers)
        self._quick: KerasRuntime | None = None
        self._is_tried = False
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `flowercnn.prediction.runtimes.Runtime`."""
        return self.outputs(pixels)[0]

    def outputs(self, pixels: npt.NDArray[Any]) -> Outputs:
        """Return probabilities and mean activations; see `flowercnn.prediction.runtimes.Runtime`."""
        with self._lock:
            if not self._is_tried:
                self._quick, self._is_tried = self._try(pixels), True
        if self._quick is None:
            return self._exact.outputs(pixels)
        probabilities, features = self._quick.outputs(pixels)
        doubtful = self._doubtful(probabilities, features)
        if doubtful.any():
            probabilities[doubtful], features[doubtful] = self._exact.outputs(pixels[doubtful])
        return probabilities, features

    def _doubtful(
        self, probabilities: npt.NDArray[np.float32], features: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        doubtful = np.asarray(probabilities.max(axis=1) < _SURE)
        if self._familiarity is not None:
            doubtful |= self._familiarity.score(features) > _NEAR_THE_LIMIT * self._limit
        return doubtful

    def _try(self, pixels: npt.NDArray[Any]) -> KerasRuntime | None:
        """Return the bfloat16 network if these pictures show it to be as good and the processor is made for it."""
        from flowercnn.models.twin import has_bfloat16, make_twin

        if not has_bfloat16():
            return None
        quick = KerasRuntime(make_twin(self._model, precision="bfloat16"), self._layers)
        probabilities, features = quick.outputs(pixels)
        expected = self._exact(pixels)
        sure = ~self._doubtful(probabilities, features)
        same_labels = np.array_equal(probabilities[sure].argmax(axis=1), expected[sure].argmax(axis=1))
        difference = np.abs(probabilities[sure] - expected[sure]).max(initial=0)
        is_good = same_labels and difference <= _LARGEST_DIFFERENCE and sure.mean() >= _FEWEST_SURE
        _log.info("Many pictures: bfloat16 is sure of %.0f %%, differs by %.2g there.", 100 * sure.mean(), difference)
        return quick if is_good else None
