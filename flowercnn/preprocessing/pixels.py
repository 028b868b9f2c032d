"""Decoded images of one size: uint8, in memory or in a cache on disk, never all of them as floats."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import expanded, replace_file, user_cache
from flowercnn.errors import ImageError, SourceError

__all__ = [
    "DiskPixels",
    "DiskStore",
    "JoinedPixels",
    "MemoryPixels",
    "MemoryStore",
    "PixelCache",
    "Pixels",
    "clear_cache",
    "content_digest",
    "default_cache_dir",
]

Encoded = bytes | Image.Image
Decode = Callable[[], npt.NDArray[np.uint8]]
Indices = Sequence[int] | npt.NDArray[np.integer]

_SUBFOLDER = "flowercnn-pixels"
_FORM = "d"  # of the files, a part of their folder's name: change it with them
_DIGEST = 16  # bytes at the end of every file


class Pixels(Protocol):
    """Images of one size, taken by position."""

    def __len__(self) -> int:
        """Return how many images there are."""
        ...

    def take(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8."""
        ...


class MemoryPixels:
    """Images in one array.

    Args:
        array: Shape (n, height, width, 3), uint8.
    """

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def take(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8."""
        return self._array[np.asarray(indices, dtype=np.int64)]


class DiskPixels:
    """Images in files of raw pixels, read when they are taken.

    They are read, not mapped: mapped files count as memory of the process.

    Args:
        paths: One file per image.
        image_size: (height, width) of all.
    """

    def __init__(self, paths: Sequence[Path], image_size: tuple[int, int]) -> None:
        self._paths = tuple(paths)
        self._shape = (*image_size, 3)

    def __len__(self) -> int:
        return len(self._paths)

    def take(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8.

        Raises:
            SourceError: If a file of the cache was removed or cut since it was listed.
        """
        images = np.empty((len(indices), *self._shape), dtype=np.uint8)
        for image, index in zip(images, indices, strict=True):
            path = self._paths[index]
            try:
                with path.open("rb", buffering=0) as file:
                    read = file.readinto(image.data.cast("B"))
            except OSError as error:
                read, reason = 0, error.strerror
            else:
                reason = "cut short"
            if read != image.nbytes:
                raise SourceError(f"{path}: a file of the image cache was lost while in use ({reason}). Run again.")
        return images


class JoinedPixels:
    """Some images of others, in any order: a part of a data set whose images are loaded.

    Args:
        loaded: Images that were loaded together.
        places: Of each image the number of its ``loaded`` and its position there, shape (n, 2).
    """

    def __init__(self, loaded: Sequence[Pixels], places: npt.NDArray[np.int64]) -> None:
        self._loaded, self._places = tuple(loaded), places.reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, indices: Indices) -> npt.NDArray[np.uint8]:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8."""
        numbers, positions = self._places[np.asarray(indices, dtype=np.int64)].T
        used = np.unique(numbers).tolist()
        if len(used) == 1:
            chosen: npt.NDArray[np.uint8] = self._loaded[used[0]].take(positions)
            return chosen
        parts = {number: self._loaded[number].take(positions[numbers == number]) for number in used}
        shape = next(iter(parts.values())).shape[1:] if parts else (0, 0, 3)
        images = np.empty((len(numbers), *shape), dtype=np.uint8)
        for number, part in parts.items():
            images[numbers == number] = part
        return images


class MemoryStore:
    """Decoded images on their way into memory.

    Args:
        count: How many there will be at most.
        image_size: (height, width) of all.
    """

    def __init__(self, count: int, image_size: tuple[int, int]) -> None:
        self._array = np.empty((count, *image_size, 3), dtype=np.uint8)
        self._filled = 0

    def prepare(self, _content: Encoded, pixels: Decode) -> npt.NDArray[np.uint8]:
        """Return the pixels of an image."""
        return pixels()

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """Keep what ``prepare`` returned, as the next image."""
        self._array[self._filled] = image
        self._filled += 1

    def pixels(self) -> MemoryPixels:
        """Return the images that were added."""
        return MemoryPixels(self._array[: self._filled])


class DiskStore:
    """Decoded images on their way into the cache on disk.

    Args:
        cache: Where they are kept.
        image_size: (height, width) of all.
    """

    def __init__(self, cache: PixelCache, image_size: tuple[int, int]) -> None:
        self._cache, self._image_size = cache, image_size
        self._paths: list[Path] = []

    def prepare(self, content: Encoded, pixels: Decode) -> Path:
        """Return the file of an image; it is decoded only if the cache does not have it."""
        return self._cache.get(content, pixels)

    def add(self, path: Path) -> None:
        """Keep what ``prepare`` returned, as the next image."""
        self._paths.append(path)

    def pixels(self) -> DiskPixels:
        """Return the images that were added."""
        return DiskPixels(self._paths, self._image_size)


def default_cache_dir() -> Path:
    """Return the folder used unless another is given: the platform's place for a user's caches."""
    return user_cache()


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Remove all decoded images from a cache folder, and nothing else."""
    shutil.rmtree(expanded(cache_dir or default_cache_dir()) / _SUBFOLDER, ignore_errors=True)


class PixelCache:
    """One file of raw pixels per image, named by a hash of its content, in a folder named by the settings.

    So an entry serves every data set and split the image is in, a changed image is another entry, and several
    processes can fill one cache: entries are moved into place whole. 16 bytes of digest follow the pixels, so that
    a file that was changed or damaged is not believed.

    Args:
        cache_dir: The folder; ``None`` for `default_cache_dir`.
        settings: A name for everything that decides about pixels.
        image_size: (height, width) of the entries.
    """

    def __init__(self, cache_dir: str | os.PathLike[str] | None, settings: str, image_size: tuple[int, int]) -> None:
        self._folder = expanded(cache_dir or default_cache_dir()) / _SUBFOLDER / (settings + _FORM)
        self._bytes = image_size[0] * image_size[1] * 3

    def get(self, content: Encoded, pixels: Decode) -> Path:
        """Return the file with the pixels of an image, made from ``pixels()`` if it is not there yet.

        Raises:
            SourceError: If it cannot be written.
        """
        digest = content_digest(content)
        path = self._folder / digest[:2] / f"{digest}.rgb"
        try:
            if self._is_whole(path):
                return path
            entry = pixels().tobytes()
            return replace_file(path, lambda temporary: temporary.write_bytes(entry + _digest(entry)))
        except OSError as error:
            raise SourceError(
                f"{self._folder}: the image cache cannot be written ({error.strerror or error}). Free some space, "
                "set cache_dir to another folder, or raise memory_limit."
            ) from error

    def _is_whole(self, path: Path) -> bool:
        try:
            entry = path.read_bytes()
        except OSError:
            return False
        return len(entry) == self._bytes + _DIGEST and _digest(entry[: self._bytes]) == entry[self._bytes :]


def _digest(entry: bytes) -> bytes:
    return hashlib.blake2b(entry, digest_size=_DIGEST).digest()


def content_digest(content: Encoded) -> str:
    """Return a name for an image's content.

    Raises:
        ImageError: If it is a Pillow image that cannot be decoded.
    """
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        described = (
            f"{content.mode} {content.size} {content.getexif().get(0x0112)} {content.info.get('transparency')}"
        )
        digest = hashlib.blake2b(described.encode(), digest_size=16)
        digest.update(bytes(content.getpalette() or ()))
        digest.update(content.tobytes())
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ImageError(f"damaged or cut short ({type(error).__name__}: {error}).") from error
    return digest.hexdigest()
