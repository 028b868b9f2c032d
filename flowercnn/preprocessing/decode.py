"""Image decoding: any image input to an upright RGB image."""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flowercnn.errors import FlowerCNNError, ImageError
from flowercnn.sources import ImageInput

__all__ = [
    "FORMATS",
    "decode_image",
    "decode_upright",
    "draft_scale",
    "draft_size",
    "is_turned",
    "read_content",
    "to_mode",
]

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "AVIF", "TIFF", "PPM")
"""Formats accepted, detected by content and not by suffix (the MPO of some cameras is JPEG).

Pillow knows many more, but each is more to attack."""

_MAX_FILE_BYTES: Final = 2**30
_DRAFT_MARGIN: Final = 1.25
_EXIF_ORIENTATION: Final = 0x0112
_JPEG: Final = ("JPEG", "MPO")
_TURNED: Final = range(2, 9)
_TURNED_BY_QUARTER: Final = range(5, 9)
_VIA: Final = {"La": "LA", "LAB": "RGB"}  # modes that Pillow does not convert to all others


def read_content(image: ImageInput) -> bytes | Image.Image:
    """Return the encoded bytes of an image, or a Pillow image if it is already decoded.

    Raises:
        ImageError: If it cannot be read, or is of an unsupported type.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_file(image)
    if isinstance(image, (bytes, Image.Image)):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if callable(image):
        content = _call(image)
        if not isinstance(content, bytes):
            received = type(content).__name__
            raise ImageError(f"an image function must return bytes. Received: {received}")
        return content
    raise ImageError(
        "an image must be a path, bytes, a Pillow image, a uint8 array of shape (height, width, 3) "
        f"or a function that returns bytes. Received: {type(image).__name__}"
    )


def decode_image(
    content: bytes | Image.Image,
    *,
    background: tuple[int, int, int],
    max_pixels: int,
    mode: Literal["RGB", "L", "YCbCr"] = "RGB",
    at_least: tuple[int, int] | None = None,
    inspect: Callable[[Image.Image], object] = lambda _: None,
) -> Image.Image:
    """Return an image in colour or grey, rotated by its EXIF orientation.

    Palettes and greys become RGB, CMYK is converted without a colour profile, transparent areas
    show ``background``, 16-bit greys keep their high byte, and only the first frame is used.

    Args:
        content: Encoded bytes or a Pillow image, which is not changed.
        background: RGB, 0-255, behind transparent areas.
        max_pixels: Larger images are rejected before they are decoded.
        mode: ``"RGB"``, ``"L"`` for grey, or ``"YCbCr"`` for grey beside colour.
        at_least: (height, width) after resizing. A JPEG at least 2.5 times as large each way is
            decoded at a half, a quarter or an eighth of its size, which saves time, but never below
            1.25 times this size, so that resizing still averages.
        inspect: Called with the opened image before it is decoded: size, format and metadata.

    Raises:
        ImageError: If it is not an image, has no pixels, is damaged or cut short, too large, or in
            a mode without defined colours.
    """
    upright = decode_upright(content, max_pixels=max_pixels, at_least=at_least, inspect=inspect)
    return to_mode(mode, upright, background)


def decode_upright(
    content: bytes | Image.Image,
    *,
    max_pixels: int,
    at_least: tuple[int, int] | None = None,
    inspect: Callable[[Image.Image], object] = lambda _: None,
) -> Image.Image:
    """Return an image in its own mode, rotated by its EXIF orientation; see `decode_image`."""
    with _explained():
        if isinstance(content, Image.Image):
            _check_has_pixels(content)
            inspect(content)
            return _upright(content)
        if not content:
            raise ImageError("the file is empty (0 bytes).")
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_has_pixels(image)
            inspect(image)
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{width} x {height} pixels are more than max_pixels={max_pixels:,}. "
                    "Scale the image down, or raise max_pixels if you trust it."
                )
            if at_least is not None:
                image.draft(None, draft_size(image, at_least))
            return _upright(image)


def to_mode(mode: str, image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return an image in another mode, transparent areas on ``background``.

    Raises:
        ImageError: If it is in a mode without defined colours, or damaged.
    """
    with _explained():
        return _converted(mode, image, background)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image in one of the formats {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"too large: {error}") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ImageError(f"damaged or cut short ({type(error).__name__}: {error}).") from error


def _call(function: Callable[[], bytes]) -> bytes:
    try:
        return function()
    except FlowerCNNError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ImageError(f"the image function failed ({reason}).") from error


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb", buffering=0, opener=_open_nonblocking) as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{os.fspath(path)}: not a regular file.")
            if size > _MAX_FILE_BYTES:
                limit = f"{size:,} bytes are more than {_MAX_FILE_BYTES:,}"
                raise ImageError(f"{os.fspath(path)}: {limit}.")
            content = file.read(size)
            # Usually complete: each further call costs two switches of threads.
            return content if len(content) == size else content + file.read()
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{os.fspath(path)!r}: cannot be read ({reason}).") from error


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file without waiting, as it would on a named pipe called photo.jpg."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2:] or (1,)
    is_image = array.ndim in (2, 3) and channels in ((1,), (3,), (4,)) and array.size > 0
    if array.dtype != np.uint8 or not is_image:
        rule = "an array must be uint8 of shape (height, width, 3), values 0-255."
        raise ImageError(f"{rule} Received: dtype {array.dtype}, shape {array.shape}")
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _check_has_pixels(image: Image.Image) -> None:
    width, height = image.size
    if not width * height:
        raise ImageError(f"{width} x {height} pixels: an image must have at least one.")


def draft_size(image: Image.Image, at_least: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest (width, height) of a JPEG's draft for a final (height, width)."""
    height, width = at_least
    if image.format in _JPEG and image.getexif().get(_EXIF_ORIENTATION) in _TURNED_BY_QUARTER:
        height, width = width, height
    return math.ceil(_DRAFT_MARGIN * width), math.ceil(_DRAFT_MARGIN * height)


def draft_scale(image: Image.Image, size: tuple[int, int]) -> int:
    """Return the factor by which a JPEG's draft of (width, height) shrinks it; 1 for others."""
    if image.format not in _JPEG:
        return 1
    scale = min(image.width // size[0], image.height // size[1])
    return next(each for each in (8, 4, 2, 1) if scale >= each or each == 1)


def is_turned(image: Image.Image) -> bool:
    """Return whether an image is stored rotated or mirrored, with an EXIF orientation."""
    return image.getexif().get(_EXIF_ORIENTATION) in _TURNED


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # metadata can follow the pixels
    return ImageOps.exif_transpose(image) if is_turned(image) else image  # not copied if upright


def _converted(mode: str, image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode in _VIA:
        image = image.convert(_VIA[image.mode])
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert(mode)
    if image.mode == "F":
        raise ImageError("32-bit float pixels have no defined range. Save it with 8 or 16 bits.")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image.convert(mode)


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise ImageError("greys beyond 16 bits have no defined range. Save it with 8 or 16 bits.")
    return Image.fromarray((values >> 8).astype(np.uint8))
