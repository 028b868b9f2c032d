"""Decoded images of one size: uint8, in memory or in a cache on disk, never all as floats."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

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

Uint8: TypeAlias = npt.NDArray[np.uint8]
CacheDir: TypeAlias = str | os.PathLike[str] | None
Encoded = bytes | Image.Image
Decode = Callable[[], Uint8]
Indices = Sequence[int] | npt.NDArray[np.integer]

_SUBFOLDER = "flowercnn-pixels"
_FORM = "d"  # the files' format, part of their folder's name: change it with them
_DIGEST = 16  # bytes at the end of every file


class Pixels(Protocol):
    """Images of one size, taken by position."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def take(self, indices: Indices) -> Uint8:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8."""
        ...


class MemoryPixels:
    """Images in one array of shape (n, height, width, 3), uint8."""

    def __init__(self, array: Uint8) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def take(self, indices: Indices) -> Uint8:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8."""
        return self._array[np.asarray(indices, dtype=np.int64)]


class DiskPixels:
    """Images in files of raw pixels, read when they are taken.

    They are not memory-mapped, as mapped files count as memory of the process.
    """

    def __init__(self, paths: Sequence[Path], image_size: tuple[int, int]) -> None:
        self._paths = tuple(paths)
        self._shape = (*image_size, 3)

    def __len__(self) -> int:
        return len(self._paths)

    def take(self, indices: Indices) -> Uint8:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8.

        Raises:
            SourceError: If a file of the cache was removed or cut short.
        """
        images = np.empty((len(indices), *self._shape), dtype=np.uint8)
        for image, index in zip(images, indices, strict=True):
            path, reason = self._paths[index], None
            try:
                with path.open("rb", buffering=0) as file:
                    if file.readinto(image.data.cast("B")) != image.nbytes:
                        reason = "cut short"
            except OSError as error:
                reason = str(error.strerror)
            if reason is not None:
                lost = f"{path}: a file of the image cache was lost while in use ({reason})."
                raise SourceError(f"{lost} Run again.")
        return images


class JoinedPixels:
    """Selection of loaded images in any order, such as one split of a data set.

    Args:
        loaded: Images that were loaded together.
        places: Index into ``loaded`` and position there of each image, shape (n, 2).
    """

    def __init__(self, loaded: Sequence[Pixels], places: npt.NDArray[np.int64]) -> None:
        self._loaded, self._places = tuple(loaded), places.reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, indices: Indices) -> Uint8:
        """Return the images at ``indices``, shape (n, height, width, 3), uint8."""
        numbers, positions = self._places[np.asarray(indices, dtype=np.int64)].T
        used = np.unique(numbers).tolist()
        parts: list[Uint8] = [
            self._loaded[number].take(positions[numbers == number]) for number in used
        ]
        if len(parts) == 1:
            return parts[0]
        shape = parts[0].shape[1:] if parts else (0, 0, 3)
        images = np.empty((len(numbers), *shape), dtype=np.uint8)
        for number, part in zip(used, parts, strict=True):
            images[numbers == number] = part
        return images


class MemoryStore:
    """Store of at most ``count`` decoded images in memory."""

    def __init__(self, count: int, image_size: tuple[int, int]) -> None:
        self._array = np.empty((count, *image_size, 3), dtype=np.uint8)
        self._filled = 0

    def prepare(self, _content: Encoded, pixels: Decode) -> Uint8:
        """Return the pixels of an image."""
        return pixels()

    def add(self, image: Uint8) -> None:
        """Add a result of ``prepare`` as the next image."""
        self._array[self._filled] = image
        self._filled += 1

    def pixels(self) -> MemoryPixels:
        """Return the images added so far."""
        return MemoryPixels(self._array[: self._filled])


class DiskStore:
    """Store of decoded images in the cache on disk."""

    def __init__(self, cache: PixelCache, image_size: tuple[int, int]) -> None:
        self._cache, self._image_size = cache, image_size
        self._paths: list[Path] = []

    def prepare(self, content: Encoded, pixels: Decode) -> Path:
        """Return the file of an image, decoded only if it is not in the cache."""
        return self._cache.get(content, pixels)

    def add(self, path: Path) -> None:
        """Add a result of ``prepare`` as the next image."""
        self._paths.append(path)

    def pixels(self) -> DiskPixels:
        """Return the images added so far."""
        return DiskPixels(self._paths, self._image_size)


def default_cache_dir() -> Path:
    """Return the default cache folder, the platform's place for a user's caches."""
    return user_cache()


def clear_cache(cache_dir: CacheDir = None) -> None:
    """Remove all decoded images from a cache folder, and nothing else."""
    shutil.rmtree(expanded(cache_dir or default_cache_dir()) / _SUBFOLDER, ignore_errors=True)


class PixelCache:
    """Cache of raw pixels: a file per image, named by its hash, in a folder named by the settings.

    So an entry serves every data set and split of the image, a changed image is another entry, and
    several processes can share a cache: complete entries are moved into place. A 16-byte digest
    follows the pixels, so that a changed or damaged file is detected.

    Args:
        cache_dir: The folder; ``None`` for `default_cache_dir`.
        settings: Hash of everything that determines pixels.
        image_size: (height, width) of the entries.
    """

    def __init__(self, cache_dir: CacheDir, settings: str, image_size: tuple[int, int]) -> None:
        self._folder = expanded(cache_dir or default_cache_dir()) / _SUBFOLDER / (settings + _FORM)
        self._bytes = image_size[0] * image_size[1] * 3

    def get(self, content: Encoded, pixels: Decode) -> Path:
        """Return the file of an image's pixels, written from ``pixels()`` if it does not exist.

        Raises:
            SourceError: If it cannot be written.
        """
        digest = content_digest(content)
        path = self._folder / digest[:2] / f"{digest}.rgb"
        try:
            if self._is_whole(path):
                return path
            entry = pixels().tobytes()
            return replace_file(
                path, lambda temporary: temporary.write_bytes(entry + _digest(entry))
            )
        except OSError as error:
            raise SourceError(
                f"{self._folder}: the image cache cannot be written ({error.strerror or error}). "
                "Free some space, set cache_dir to another folder, or raise memory_limit."
            ) from error

    def _is_whole(self, path: Path) -> bool:
        try:
            entry = path.read_bytes()
        except OSError:
            return False
        return len(entry) == self._bytes + _DIGEST and entry.endswith(_digest(entry[: self._bytes]))


def _digest(entry: bytes) -> bytes:
    return hashlib.blake2b(entry, digest_size=_DIGEST).digest()


def content_digest(content: Encoded) -> str:
    """Return the hash of an image's content, in hex.

    Raises:
        ImageError: If it is a Pillow image that cannot be decoded.
    """
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        orientation, transparency = content.getexif().get(0x0112), content.info.get("transparency")
        described = f"{content.mode} {content.size} {orientation} {transparency}"
        digest = hashlib.blake2b(described.encode(), digest_size=16)
        digest.update(bytes(content.getpalette() or ()))
        digest.update(content.tobytes())
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ImageError(f"damaged or cut short ({type(error).__name__}: {error}).") from error
    return digest.hexdigest()
