"""Inspection of an image: hash, size and format, a thumbnail, or why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

from flowercnn.errors import FlowerCNNError
from flowercnn.preprocessing import (
    Preprocessing,
    decode_image,
    decode_upright,
    draft_scale,
    draft_size,
    is_exact,
    is_turned,
    to_mode,
    ycbcr_to_rgb,
)

__all__ = ["THUMBNAIL_SIDE", "Content", "Inspector"]

THUMBNAIL_SIDE: Final = 32
_BLANK_THUMBNAIL: Final = (
    5.0  # spread of grey values, of 255; the plainest of 1,088 flower photographs has 15
)
_BLANK_IMAGE: Final = 12.0
_JPEG_END: Final = b"\xff\xd9"
_DEFAULTS: Final = Preprocessing()
_DRAFT: Final = (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Inspection of one image.

    Args:
        digest: Hash of the file's bytes, or of the pixels if there is no file; ``None`` if it
            cannot be read.
        error: Why it cannot be used, or ``None``.
        size: (width, height) in pixels as stored; (0, 0) if unknown.
        format: ``"JPEG"``, ``"PNG"`` and so on, by content; ``None`` if unknown or decoded already.
        rotated: Whether it is stored rotated or mirrored, with the EXIF orientation to undo it.
        truncated: Whether its end is missing.
        blank: Whether it is of one colour, or nearly.
        thumbnail: Shape (32, 32), uint8, grey, upright, stretched; ``None`` if there is an error.
        colours: Shape (4, 4, 2), float32: mean Cb and Cr of each sixteenth of the image, from -128,
            0 for grey; ``None`` if there is an error.
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


class Inspector:
    """Inspects one image and decodes it for training, in one decoding if that gives the same.

    Args:
        content: Encoded image, or a Pillow image.
    """

    def __init__(self, content: bytes | Image.Image) -> None:
        self._content = content
        self._decoded: Image.Image | None = None
        self._size: tuple[int, int] = (0, 0)
        self._format: str | None = None
        self._rotated = False

    def pixels(self, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
        """Return the pixels that `Preprocessing.decode` returns.

        Raises:
            ImageError: If the image cannot be used.
        """
        serves = False

        def open_for_both(image: Image.Image) -> None:
            nonlocal serves
            self._look_at(image)
            size = draft_size(image, preprocessing.image_size)
            serves = draft_scale(image, size) == draft_scale(image, _DRAFT) and _is_usual(
                preprocessing
            )
            if serves and image.mode == "RGB" and image.format in ("JPEG", "MPO") and is_exact():
                image.draft("YCbCr", size)

        upright = decode_upright(
            self._content,
            max_pixels=preprocessing.max_pixels,
            at_least=preprocessing.image_size,
            inspect=open_for_both,
        )
        if serves:
            self._decoded = upright
        is_drafted = serves and upright.mode == "YCbCr" and self._format in ("JPEG", "MPO")
        rgb = (
            ycbcr_to_rgb(upright)
            if is_drafted
            else to_mode("RGB", upright, preprocessing.background)
        )
        return preprocessing.fit(rgb)

    def content(self, digest: str | None) -> Content:
        """Return the inspection; a JPEG is decoded at a fraction of its size.

        Args:
            digest: Hash of the image.
        """
        content = self._content
        try:
            upright = self._decoded or decode_upright(
                content, max_pixels=_DEFAULTS.max_pixels, inspect=self._draft
            )
            image = to_mode("YCbCr", upright, _DEFAULTS.background)
        except FlowerCNNError as error:
            cut = (
                _has_no_end(content, self._format)
                or _is_too_short(content)
                or "truncated" in str(error).lower()
            )
            return Content(
                digest, str(error), self._size, self._format, self._rotated, truncated=cut
            )
        side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        small = np.asarray(image.resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0))
        grey = small[..., 0].copy()
        colours = (
            small[..., 1:].reshape(4, THUMBNAIL_SIDE // 4, 4, -1, 2).mean((1, 3), dtype=np.float32)
        )
        return Content(
            digest,
            size=self._size,
            format=self._format,
            rotated=self._rotated,
            truncated=_has_no_end(content, self._format),
            blank=_is_blank(grey, content),
            thumbnail=grey,
            colours=colours - 128,
        )

    def _look_at(self, image: Image.Image) -> None:
        self._size, self._format = image.size, image.format
        self._rotated = is_turned(image)

    def _draft(self, image: Image.Image) -> None:
        self._look_at(image)
        image.draft("YCbCr", _DRAFT)


def _is_usual(preprocessing: Preprocessing) -> bool:
    """Return whether an inspection may use what is decoded for training."""
    return (preprocessing.background, preprocessing.max_pixels) == (
        _DEFAULTS.background,
        _DEFAULTS.max_pixels,
    )


def _decode(content: bytes | Image.Image) -> Image.Image:
    return decode_image(content, background=_DEFAULTS.background, max_pixels=_DEFAULTS.max_pixels)


def _is_blank(grey: npt.NDArray[np.uint8], content: bytes | Image.Image) -> bool:
    """Return whether an image is of one colour, or nearly, given its thumbnail."""
    values = grey.ravel().astype(np.float32)
    mean = values.sum() / len(values)
    if (
        values @ values / len(values) - mean**2 >= _BLANK_THUMBNAIL**2
    ):  # a fifth of the time of std()
        return False
    # The thumbnail of fine noise is plain, too: decode the few that look blank at full size.
    return max(ImageStat.Stat(_decode(content)).stddev) < _BLANK_IMAGE


def _is_too_short(content: bytes | Image.Image) -> bool:
    """Return whether a WEBP or AVIF file is shorter than its header says; Pillow does not."""
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
    """Return whether the end mark of a JPEG is missing; it cannot occur within the data."""
    if not isinstance(content, bytes) or format_ not in ("JPEG", "MPO"):
        return False
    filled = content.rstrip(b"\0")  # some programs fill up what they write
    return filled.rfind(_JPEG_END) < len(filled) // 2
