"""Decoded pictures of one size: uint8, in memory or in a cache on disk, never all of them as floats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flowercnn.errors import SourceError

__all__ = ["DiskPixels", "MemoryPixels", "Pixels"]


class Pixels(Protocol):
    """Pictures of one size, taken by position."""

    def __len__(self) -> int:
        """Return how many pictures there are."""
        ...

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Return the pictures at ``indices``, shape (n, height, width, 3), uint8."""
        ...


class MemoryPixels:
    """Pictures in one array.

    Args:
        array: Shape (n, height, width, 3), uint8.
    """

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Return the pictures at ``indices``, shape (n, height, width, 3), uint8."""
        return self._array[np.asarray(indices, dtype=np.int64)]


class DiskPixels:
    """Pictures in files of raw pixels, read when taken.

    They are read, not mapped: mapped files count as memory of the process.

    Args:
        paths: One file per picture.
        image_size: (height, width) of all.
    """

    def __init__(self, paths: Sequence[Path], image_size: tuple[int, int]) -> None:
        self._paths = tuple(paths)
        self._shape = (*image_size, 3)

    def __len__(self) -> int:
        return len(self._paths)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Return the pictures at ``indices``, shape (n, height, width, 3), uint8.

        Raises:
            SourceError: If a file of the cache was removed or cut since it was listed.
        """
        pictures = np.empty((len(indices), *self._shape), dtype=np.uint8)
        for picture, index in zip(pictures, indices, strict=True):
            path = self._paths[index]
            try:
                with path.open("rb", buffering=0) as file:
                    read = file.readinto(picture.data.cast("B"))
            except OSError as error:
                read, reason = 0, error.strerror
            else:
                reason = "cut short"
            if read != picture.nbytes:
                raise SourceError(f"{path}: a file of the picture cache was lost while in use ({reason}). Run again.")
        return pictures
