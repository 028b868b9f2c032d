"""What one reading of a picture tells: a hash, size and format, a thumbnail, or why it is no use."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

from flowercnn.errors import FlowerCNNError
from flowercnn.parallel import cpu_count, ordered_map
from flowercnn.preprocessing.cache import content_digest
from flowercnn.preprocessing.decode import FORMATS, decode, read_content
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.progress import tracked
from flowercnn.sources.base import Sample

__all__ = ["THUMBNAIL_SIDE", "Content", "read_contents"]

THUMBNAIL_SIDE: Final = 32
_NETWORK_WORKERS: Final = 16
_BLANK_THUMBNAIL: Final = 5.0  # spread of grey values, of 255; the plainest of 1,088 flower photographs has 15
_BLANK_PICTURE: Final = 12.0
_EXIF_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = (None, 1)
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
    """

    digest: str | None = None
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    format: str | None = None
    rotated: bool = False
    truncated: bool = False
    blank: bool = False
    thumbnail: npt.NDArray[np.uint8] | None = None


def read_contents(samples: Sequence[Sample], *, description: str, progress: bool) -> tuple[Content, ...]:
    """Read every picture once, in threads; JPEGs are decoded at a fraction of their size.

    Args:
        samples: What to read.
        description: What the progress bar says.
        progress: Whether to show it.
    """
    # Where pictures come over a network, waiting is what takes the time.
    workers = max(_NETWORK_WORKERS if samples and callable(samples[0].image) else 1, cpu_count())
    found = ordered_map(_examine, samples, workers=workers, window=8 * workers)
    return tuple(tracked(found, total=len(samples), description=description, unit="img", enabled=progress))


def _examine(sample: Sample) -> Content:
    try:
        content = read_content(sample.image)
    except FlowerCNNError as error:
        return Content(error=str(error))
    digest = content_digest(content)
    size, format_, orientation = _header(content)
    truncated = isinstance(content, bytes) and format_ in ("JPEG", "MPO") and _has_no_end(content)
    try:
        picture = _decode(content, at_least=(THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    except FlowerCNNError as error:
        cut = truncated or "truncated" in str(error)
        return Content(digest, str(error), size, format_, rotated=orientation not in _UPRIGHT, truncated=cut)
    grey = picture.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    thumbnail = np.asarray(grey)
    # A thumbnail of fine noise is plain too: the few that look blank are decoded again at full size.
    blank = bool(thumbnail.std() < _BLANK_THUMBNAIL) and max(ImageStat.Stat(_decode(content)).stddev) < _BLANK_PICTURE
    return Content(
        digest,
        size=size,
        format=format_,
        rotated=orientation not in _UPRIGHT,
        truncated=truncated,
        blank=blank,
        thumbnail=thumbnail,
    )


def _decode(content: bytes | Image.Image, at_least: tuple[int, int] | None = None) -> Image.Image:
    return decode(content, background=_DEFAULTS.background, max_pixels=_DEFAULTS.max_pixels, at_least=at_least)


def _header(content: bytes | Image.Image) -> tuple[tuple[int, int], str | None, int | None]:
    """Size, format and EXIF orientation, without decoding."""
    if isinstance(content, Image.Image):
        return content.size, None, content.getexif().get(_EXIF_ORIENTATION)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.size, image.format, image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 - whatever it is, decoding will say it better
        return (0, 0), None, None


def _has_no_end(jpeg: bytes) -> bool:
    """Whether the mark that ends a JPEG is missing; within the coded picture it cannot occur."""
    return jpeg.rfind(_JPEG_END) < len(jpeg) // 2
