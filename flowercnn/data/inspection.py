"""Inspection of an image: hash, size and format, a thumbnail, or why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

from flowercnn.errors import FlowerCNNError
from flowercnn.preprocessing import Preprocessing, decode_image, is_turned

__all__ = ["THUMBNAIL_SIDE", "Content", "inspect_image"]

THUMBNAIL_SIDE: Final = 32
_BLANK_THUMBNAIL: Final = 5.0  # spread of grey values, of 255; the plainest of 1,088 flower photographs has 15
_BLANK_PICTURE: Final = 12.0
_JPEG_END: Final = b"\xff\xd9"
_DEFAULTS: Final = Preprocessing()


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """One picture as it was found.

    Args:
        digest: A hash of the file's bytes, or of the pixels where there is no file; ``None`` if it cannot be read.
        error: Why it cannot be used, or ``None``.
        size: (width, height) in pixels as stored; (0, 0) if not known.
        format: ``"JPEG"``, ``"PNG"`` and so on, told by the content; ``None`` if not known or decoded already.
        rotated: Whether it is stored turned or mirrored, with an EXIF note to put it right.
        truncated: Whether its end is missing.
        blank: Whether it shows nothing: one colour, or nearly.
        thumbnail: Shape (32, 32), uint8, grey, upright, whatever its proportions; ``None`` if there is an error.
        colours: Shape (4, 4, 2), float32: mean Cb and Cr of each sixteenth of it, from -128, 0 for grey; or ``None``.
    """

    digest: str | None = None
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    format: str | None = None
    rotated: bool = False
    truncated: bool = False
    blank: bool = False
    thumbnail: npt.NDArray[np.uint8] | None = None
    colours: npt.NDArray[np.float32] | None = None


def inspect_image(content: bytes | Image.Image, digest: str | None) -> Content:
    """Return what an image shows of itself; JPEGs are decoded at a fraction of their size.

    Args:
        content: The encoded image, or a Pillow image.
        digest: A hash of it.
    """
    header = _Header()
    try:
        picture = _decode(content, mode="YCbCr", inspect=header.read)
    except FlowerCNNError as error:
        cut = _has_no_end(content, header.format) or _is_too_short(content) or "truncated" in str(error).lower()
        return Content(digest, str(error), header.size, header.format, header.rotated, truncated=cut)
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = np.asarray(picture.resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0))
    grey = small[..., 0].copy()
    return Content(
        digest,
        size=header.size,
        format=header.format,
        rotated=header.rotated,
        truncated=_has_no_end(content, header.format),
        blank=_shows_nothing(grey, content),
        thumbnail=grey,
        colours=small[..., 1:].reshape(4, THUMBNAIL_SIDE // 4, 4, -1, 2).mean((1, 3), dtype=np.float32) - 128,
    )


class _Header:
    """What can be known of a picture before it is decoded; a JPEG is then decoded small, grey apart from colour."""

    size: tuple[int, int] = (0, 0)
    format: str | None = None
    rotated = False

    def read(self, image: Image.Image) -> None:
        self.size, self.format = image.size, image.format
        self.rotated = is_turned(image)
        image.draft("YCbCr", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))


def _decode(content: bytes | Image.Image, **options: Any) -> Image.Image:
    return decode_image(content, background=_DEFAULTS.background, max_pixels=_DEFAULTS.max_pixels, **options)


def _shows_nothing(grey: npt.NDArray[np.uint8], content: bytes | Image.Image) -> bool:
    """Whether a picture is of one colour, or nearly, given its thumbnail."""
    values = grey.ravel().astype(np.float32)
    mean = values.sum() / len(values)
    if values @ values / len(values) - mean**2 >= _BLANK_THUMBNAIL**2:  # a fifth of the time of std()
        return False
    # The thumbnail of fine noise is plain too: the few that look blank are decoded again at full size.
    return max(ImageStat.Stat(_decode(content)).stddev) < _BLANK_PICTURE


def _is_too_short(content: bytes | Image.Image) -> bool:
    """Whether a WEBP or AVIF file is shorter than it says itself; Pillow only says that it cannot decode those."""
    if not isinstance(content, bytes):
        return False
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if content[4:12] not in (b"ftypavif", b"ftypavis"):
        return False
    start = 0
    while (
        start < len(content) and (size := int.from_bytes(content[start : start + 4], "big")) > 1
    ):  # else: to the end
        start += size
    return start > len(content)


def _has_no_end(content: bytes | Image.Image, format_: str | None) -> bool:
    """Whether the mark that ends a JPEG is missing; within the coded picture it cannot occur."""
    if not isinstance(content, bytes) or format_ not in ("JPEG", "MPO"):
        return False
    filled = content.rstrip(b"\0")  # some programs fill up what they write
    return filled.rfind(_JPEG_END) < len(filled) // 2
