"""The protocol of a runtime, which computes probabilities from pixels."""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_BATCH", "Computer", "Features", "Runtime", "RuntimeName", "no_features"]

RuntimeName: TypeAlias = Literal["keras", "litert", "onnx"]
Features: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Probabilities, shape (n, num_classes), and mean activations, shape (n, features)."""

LARGEST_BATCH: Final = 32


class Computer(Protocol):
    """Computes probabilities; several threads may call one.

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
    """Computes for a `Predictor`, whose out-of-distribution detector needs mean activations,
    too."""

    def with_features(self, pixels: npt.NDArray[Any]) -> Features:
        """Return probabilities, and the mean activations of some layers: (n, features), or (n,
        0)."""
        ...


def no_features(count: int) -> npt.NDArray[np.float32]:
    """Return the mean activations of ``count`` images where none are computed, shape (count, 0)."""
    return np.empty((count, 0), np.float32)
