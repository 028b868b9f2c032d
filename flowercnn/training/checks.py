"""Checks before, during and after a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError, DataError, TrainingError, few
from flowercnn.models import import_keras

__all__ = ["check_classes_left", "check_finite", "listed_callbacks"]


def check_classes_left(labels: npt.NDArray[np.int64], skipped: Sequence[str]) -> None:
    """Check that images of at least two classes are left.

    Args:
        labels: Of the images that are left.
        skipped: Keys of those left out.

    Raises:
        DataError: If there are not two classes.
    """
    if len(np.unique(labels)) < 2:  # noqa: PLR2004 - one class leaves nothing to tell apart
        raise DataError(
            "Without the images that cannot be decoded, fewer than two classes are left. "
            f"Replace those: {few(skipped)}"
        )


def check_finite(arrays: Iterable[Any], what: str, learning_rate: float) -> None:
    """Check that numbers are finite; the last step may have destroyed a network.

    Args:
        arrays: Numbers.
        what: What they are, as in ``"the weights after epoch 3 are"``.
        learning_rate: The highest there was.

    Raises:
        TrainingError: If a number is infinite or NaN.
    """
    if not all(np.isfinite(np.asarray(array)).all() for array in arrays):
        raise TrainingError(
            f"The training diverged: {what} not finite. Use a lower learning_rate (it was "
            f"{learning_rate:g})."
        )


def listed_callbacks(callbacks: Any) -> list[Any]:
    """Return callbacks as a list; one alone may be given without.

    Raises:
        ConfigurationError: If something else is among them.
    """
    kind = import_keras().callbacks.Callback
    given = [callbacks] if isinstance(callbacks, kind) else callbacks
    if not isinstance(given, Iterable) or isinstance(given, str):
        given = [given]
    found = list(given)
    foreign = [callback for callback in found if not isinstance(callback, kind)]
    if foreign:
        received = few([repr(callback) for callback in foreign])
        raise ConfigurationError(
            f"callbacks must be a list of keras.callbacks.Callback objects. Received: {received}"
        )
    return found
