"""Views of an image for features: itself, its mirror image and random crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import generator
from flowercnn.preprocessing.decode import read_content
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.sources import Sample

__all__ = ["Views"]

_LARGER: Final = 1.5  # parts are cut out of an image of so many times the size: they stay sharp
_SMALLEST_AREA: Final = 0.45
_PROPORTIONS: Final = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class Views:
    """Views of each image that features are computed from; the first is the image itself.

    Args:
        mirror: Whether the mirror image follows.
        parts: How many random parts of 45 to 100 % of the area follow, every other mirrored.
        seed: Of the parts.
    """

    mirror: bool = False
    parts: int = 0
    seed: int = 0

    def __len__(self) -> int:
        return 1 + self.mirror + self.parts

    def of(self, sample: Sample, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
        """Return the views of an image, shape (views, height, width, 3), uint8, 0-255.

        Raises:
            ImageError: If it cannot be decoded.
        """
        content = read_content(sample.image)
        whole = preprocessing.decode(content)
        views = [whole, whole[:, ::-1]] if self.mirror else [whole]
        if self.parts:
            height, width = (math.ceil(_LARGER * side) for side in preprocessing.image_size)
            large = Image.fromarray(
                preprocessing.replace(image_size=(height, width)).decode(content)
            )
            random = generator(self.seed, "parts", sample.key)
            for number in range(self.parts):
                part = _random_part(large, preprocessing.image_size, random)
                views.append(part[:, ::-1] if number % 2 else part)
        return np.stack(views)


def _random_part(
    image: Image.Image, image_size: tuple[int, int], random: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return a crop of random area, place and proportions (Szegedy et al. 2015)."""
    area = random.uniform(_SMALLEST_AREA, 1)
    proportions = math.exp(random.uniform(*np.log(_PROPORTIONS)))
    across, down = min(1.0, math.sqrt(area * proportions)), min(1.0, math.sqrt(area / proportions))
    width, height = across * image.width, down * image.height
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize(image_size[::-1], Image.Resampling.BICUBIC, box=box))
