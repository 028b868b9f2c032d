"""Resizing of images to the input size of the network."""

from __future__ import annotations

from typing import Literal, TypeAlias

from PIL import Image

__all__ = ["ResizeMode", "resize"]

ResizeMode: TypeAlias = Literal["stretch", "crop", "pad"]
"""``stretch`` changes the proportions; ``crop`` cuts and ``pad`` fills to keep them."""

# Two thirds of the time of bicubic. Exported SavedModels repeat it in TensorFlow.
_FILTER = Image.Resampling.HAMMING

Size: TypeAlias = tuple[int, int]


def resize(
    image: Image.Image, image_size: Size, mode: ResizeMode, background: tuple[int, int, int]
) -> Image.Image:
    """Return an image at ``image_size``, antialiased with a Hamming window.

    Args:
        image: In mode RGB; not changed.
        image_size: (height, width) in pixels.
        mode: How different proportions are handled; crops and pads are centred.
        background: RGB, 0-255, of the borders that ``pad`` fills.
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


def _centred_box(size: Size, target: Size) -> tuple[float, float, float, float]:
    """Return the largest centred box of a (width, height) with the proportions of another."""
    scale = max(target[0] / size[0], target[1] / size[1])
    width, height = min(size[0], target[0] / scale), min(size[1], target[1] / scale)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height
