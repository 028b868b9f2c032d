"""From a picture of any size to the one size a network sees."""

from __future__ import annotations

from typing import Literal, TypeAlias

from PIL import Image

__all__ = ["ResizeMode", "resize"]

ResizeMode: TypeAlias = Literal["stretch", "crop", "pad"]
"""``stretch`` changes the proportions, ``crop`` keeps them and cuts, ``pad`` keeps them and fills."""

_FILTER = Image.Resampling.HAMMING  # two thirds of the time of bicubic; exported SavedModels repeat it in TensorFlow


def resize(
    image: Image.Image, image_size: tuple[int, int], mode: ResizeMode, background: tuple[int, int, int]
) -> Image.Image:
    """Return the picture at exactly ``image_size`` = (height, width), antialiased by Hamming's window.

    Args:
        image: In mode RGB; not changed.
        image_size: (height, width) in pixels.
        mode: What happens where the proportions differ; crops and pads are centred.
        background: RGB, 0-255, of the filled borders of ``pad``.
    """
    height, width = image_size
    if mode == "stretch":
        return image.resize((width, height), _FILTER)
    if mode == "crop":
        return image.resize((width, height), _FILTER, box=_centred_box(image.size, (width, height)))
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (width, height), background)
    canvas.paste(image.resize(inner, _FILTER), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _centred_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred box of ``size`` (width, height) with the proportions of ``target``."""
    scale = max(target[0] / size[0], target[1] / size[1])
    box_width, box_height = min(size[0], target[0] / scale), min(size[1], target[1] / scale)
    left, top = (size[0] - box_width) / 2, (size[1] - box_height) / 2
    return left, top, left + box_width, top + box_height
