"""YCbCr to RGB conversion, equal to that of the JPEG decoder to the bit.

Inspection needs grey apart from colour, training needs RGB. Decoding takes most of the time of
both, so one decoding serves both wherever the conversion is proved exact in this process.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["is_exact", "ycbcr_to_rgb"]

# Tables of the JPEG standard (ITU-T T.871) in 16-bit fixed-point numbers, rounded as in libjpeg.
_OFFSETS: Final = np.arange(256) - 128
_HALF: Final = 1 << 15
_RED_OF_CR: Final = ((91881 * _OFFSETS + _HALF) >> 16).astype(np.int16)
_BLUE_OF_CB: Final = ((116130 * _OFFSETS + _HALF) >> 16).astype(np.int16)
_GREEN_OF_CB: Final = (-22554 * _OFFSETS + _HALF).astype(np.int32)
_GREEN_OF_CR: Final = (-46802 * _OFFSETS).astype(np.int32)


def ycbcr_to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of mode YCbCr in mode RGB."""
    values = np.asarray(image)
    grey, blueness, redness = values[..., 0].astype(np.int16), values[..., 1], values[..., 2]
    colours = np.empty(values.shape, dtype=np.int16)
    np.add(grey, _RED_OF_CR[redness], out=colours[..., 0])
    green: npt.NDArray[np.int32] = (_GREEN_OF_CB[blueness] + _GREEN_OF_CR[redness]) >> 16
    np.add(grey, green.astype(np.int16), out=colours[..., 1])
    np.add(grey, _BLUE_OF_CB[blueness], out=colours[..., 2])
    return Image.fromarray(np.clip(colours, 0, 255, out=colours).astype(np.uint8))


@cache
def is_exact() -> bool:
    """Return whether this JPEG decoder converts noise to RGB exactly as `ycbcr_to_rgb` does."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=60)
    for scale in (1, 2, 4, 8):
        rgb, ycbcr = Image.open(buffer), Image.open(buffer)
        rgb.draft(None, (48 // scale, 64 // scale))
        ycbcr.draft("YCbCr", (48 // scale, 64 // scale))
        if ycbcr.mode != "YCbCr" or rgb.tobytes() != ycbcr_to_rgb(ycbcr).tobytes():
            return False
    return True
