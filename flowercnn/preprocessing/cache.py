"""A cache of decoded pictures on disk, addressed by content and settings."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn.atomic import replace_file
from flowercnn.errors import ImageError, SourceError
from flowercnn.home import expanded, user_cache

__all__ = ["PixelCache", "clear_cache", "content_digest", "default_cache_dir"]

_SUBFOLDER = "flowercnn-pixels"
_FORM = "d"  # of the files, a part of their folder's name: change it with them
_DIGEST = 16  # bytes at the end of every file


def default_cache_dir() -> Path:
    """Return the folder used unless another is given: the platform's place for a user's caches."""
    return user_cache()


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Remove all decoded pictures from a cache folder, and nothing else."""
    shutil.rmtree(expanded(cache_dir or default_cache_dir()) / _SUBFOLDER, ignore_errors=True)


class PixelCache:
    """One file of raw pixels per picture, named by a hash of its content, in a folder named by the settings.

    So an entry serves every data set and split the picture is in, a changed picture is another entry, and several
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

    def get(self, content: bytes | Image.Image, pixels: Callable[[], npt.NDArray[np.uint8]]) -> Path:
        """Return the file with the pixels of a picture, made from ``pixels()`` if it is not there yet.

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
                f"{self._folder}: the picture cache cannot be written ({error.strerror or error}). Free some space, "
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


def content_digest(content: bytes | Image.Image) -> str:
    """Return a name for a picture's content.

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
