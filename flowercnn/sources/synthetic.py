"""Flowers the library draws itself: nothing to download, as many as wanted, the same everywhere.

An image is made in four steps: a background out of focus, a stem, one or two blooms, the light. All
of it is drawn at twice the size and reduced at the end, which smooths the edges. Chance depends on
nothing but the seed, the species and the image's number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from flowercnn._utils import check_count, check_pair
from flowercnn.sources.base import Sample
from flowercnn.sources.drawing import PALETTE, SPECIES, Brush, Colour, Points, Species, mix, shade

__all__ = ["DrawnFlower", "SyntheticFlowers"]

_SUPERSAMPLING = 2
_SMALLEST, _LARGEST = 32, 2**14  # pixels of a side
_WITH_COMPANION = 0.3  # share of images with a second, smaller bloom


class SyntheticFlowers:
    r"""Flowers the library draws itself: for demonstrations, documentation and tests.

    Up to 17 species differ in the number and shape of their petals, their centre and how they grow.
    Colours and backgrounds are shared, so a model has to look at shapes. Image number ``i`` of a
    species is the same whatever ``per_class`` and ``num_classes`` are. Nothing is drawn before a
    sample's ``image`` is called.

    Args:
        per_class: Images of each species, at least 1.
        num_classes: Number of species, 2 to 17: the first of a fixed order.
        seed: Integer from 0 on. Another seed draws other images.
        image_size: Height and width in pixels, each from 32 to 16,384.

    Attributes:
        class_names: Names of the species, in their fixed order.

    Raises:
        ConfigurationError: If an argument has a value or a type it cannot have.

    Example:
        >>> flowers = SyntheticFlowers(per_class=2, num_classes=3)
        >>> flowers.class_names
        ('daisy', 'tulip', 'sunflower')
        >>> [sample.key for sample in flowers][:3]
        ['daisy/0000', 'daisy/0001', 'tulip/0000']
        >>> next(iter(flowers)).image()[:4]
        b'\x89PNG'
    """

    def __init__(
        self,
        per_class: int = 60,
        num_classes: int = 17,
        seed: int = 0,
        *,
        image_size: tuple[int, int] = (160, 160),
    ) -> None:
        self.per_class = check_count("per_class", per_class)
        self.seed = check_count("seed", seed, least=0)
        self.image_size = check_pair("image_size", image_size, least=_SMALLEST, most=_LARGEST)
        count = check_count("num_classes", num_classes, least=2, most=len(SPECIES))
        self.class_names = tuple(species.name for species in SPECIES[:count])

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.per_class * len(self.class_names)

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample, species by species."""
        for species, name in enumerate(self.class_names):
            for number in range(self.per_class):
                image = DrawnFlower(species, number, self.seed, self.image_size)
                yield Sample(key=f"{name}/{number:04d}", label=name, image=image)

    def __repr__(self) -> str:
        """Return the call that makes this source again."""
        return (
            f"SyntheticFlowers(per_class={self.per_class}, num_classes={len(self.class_names)}, "
            f"seed={self.seed}, image_size={self.image_size})"
        )


@dataclass(frozen=True, slots=True)
class DrawnFlower:
    """Image that is drawn when it is called; until then a few numbers, cheap to keep and to pickle.

    Args:
        species: Index into the fixed order of species, 0 to 16.
        number: Number of the image within the species, from 0 on.
        seed: From 0 on.
        image_size: Height and width in pixels.

    Example:
        >>> flower = DrawnFlower(species=0, number=7, seed=0, image_size=(64, 96))
        >>> flower.draw().size  # Pillow says width first
        (96, 64)
    """

    species: int
    number: int
    seed: int
    image_size: tuple[int, int]

    def __call__(self) -> bytes:
        """Return the bytes of a PNG file."""
        buffer = io.BytesIO()
        self.draw().save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def draw(self) -> Image.Image:
        """Return the image in mode RGB."""
        rng = np.random.default_rng([self.seed, self.species, self.number])
        height, width = (_SUPERSAMPLING * side for side in self.image_size)
        angle = rng.uniform(-math.pi, 0)  # from above: y points down
        light = np.array([math.cos(angle), math.sin(angle)])
        canvas = _background(rng, width, height)
        _paint_blooms(canvas, SPECIES[self.species], light, rng)
        return _lit(canvas.reduce(_SUPERSAMPLING), light, rng)


def _paint_blooms(
    canvas: Image.Image, species: Species, light: Points, rng: np.random.Generator
) -> None:
    """Paint one bloom in the middle of the canvas, or a smaller one and then one beside it."""
    short = min(canvas.size)
    middle = np.array(canvas.size) / 2
    scale = short * rng.uniform(0.32, 0.44)  # the radius of the bloom in pixels
    colour = _jittered(PALETTE[species.colours[int(rng.integers(len(species.colours)))]], rng)
    origin = middle + rng.uniform(-0.08, 0.08, 2) * short
    brush = Brush(ImageDraw.Draw(canvas), np.eye(2) * scale, origin, light, rng)
    if rng.random() < _WITH_COMPANION:
        aside = rng.uniform(0.9, 1.2) * rng.choice((-1, 1))
        companion = brush.at(aside, rng.uniform(-0.7, 0.7), scale=rng.uniform(0.45, 0.6))
        species.draw(companion, colour)
        brush = brush.at(-0.2 * aside, 0.0)
    species.draw(brush, colour)


def _jittered(colour: Colour, rng: np.random.Generator) -> Colour:
    """Return a colour near ``colour``."""
    other = rng.integers(0, 256, 3)
    near = mix(colour, (int(other[0]), int(other[1]), int(other[2])), 0.1)
    return shade(near, rng.uniform(-0.1, 0.1))


def _lit(image: Image.Image, light: Points, rng: np.random.Generator) -> Image.Image:
    """Return the image brighter towards the light, under a cool or warm, weak or strong sun."""
    width, height = image.size
    warmth = rng.uniform(-0.07, 0.07)
    sun = rng.uniform(0.85, 1.12) * np.array([1 + warmth, 1.0, 1 - warmth])
    slope = np.linspace(-1, 1, width) * light[0] + np.linspace(-1, 1, height)[:, None] * light[1]
    gain = (1 + 0.12 * slope)[..., None] * sun
    pixels = np.clip(np.asarray(image) * gain.astype(np.float32), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a background, drawn small and enlarged, so that it is out of focus."""
    focus = rng.uniform(0.2, 0.6)
    size = (max(8, round(width * focus)), max(8, round(height * focus)))
    paint = (_grass, _sky, _soil, _foliage, _meadow)[int(rng.integers(5))]
    small = paint(rng, size).filter(ImageFilter.BoxBlur(1))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _clouded(
    rng: np.random.Generator, size: tuple[int, int], cells: int, dark: Colour, light: Colour
) -> Image.Image:
    """Return an image of clouds between two colours, ``cells`` from side to side."""
    amount = rng.random((cells, cells, 1))
    colours = np.array(dark) + amount * (np.array(light) - np.array(dark))
    return Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _scatter(
    image: Image.Image,
    rng: np.random.Generator,
    count: int,
    colours: tuple[Colour, ...],
    size: tuple[float, float],
) -> Image.Image:
    """Scatter discs over the image; ``size`` limits their radius, as a share of its width."""
    draw = ImageDraw.Draw(image)
    for x, y, r, tone in rng.random((count, 4)):
        radius = image.width * (size[0] + r * (size[1] - size[0]))
        colour = shade(colours[int(rng.integers(len(colours)))], 0.5 * tone - 0.25)
        draw.circle((x * image.width, y * image.height), radius, fill=colour)
    return image


def _grass(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return blades of grass."""
    image = _clouded(rng, size, 6, (44, 84, 34), (104, 150, 62))
    draw = ImageDraw.Draw(image)
    width, height = size
    for x, foot, length, lean, tone in rng.random((60, 5)):
        left, top = x * width, height * (0.2 + foot)
        tip = (left + (lean - 0.5) * 0.3 * width, top - (0.2 + 0.4 * length) * height)
        foot_corners = [(left - 0.015 * width, top), (left + 0.015 * width, top)]
        draw.polygon([*foot_corners, tip], fill=mix((40, 92, 30), (150, 190, 84), tone))
    return image


def _sky(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return a sky with soft clouds."""
    top = mix((92, 150, 222), (150, 160, 190), rng.random())
    sky = Image.fromarray(np.array([[top], [(206, 224, 240)]], dtype=np.uint8)).resize(size)
    cover = Image.fromarray((255 * np.clip(rng.uniform(-0.6, 0.9, (5, 4)), 0, 1)).astype(np.uint8))
    sky.paste((246, 246, 248), mask=cover.resize(size, Image.Resampling.BICUBIC))
    return sky


def _soil(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return crumbly earth with pebbles."""
    patches = _clouded(rng, size, 5, (62, 44, 32), (142, 112, 84))
    image = Image.blend(patches, _clouded(rng, size, 29, (50, 36, 26), (142, 108, 78)), 0.5)
    pebbles = ((120, 104, 90), (84, 62, 46), (150, 134, 112))
    return _scatter(image, rng, 40, pebbles, (0.008, 0.03))


def _foliage(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return leaves in the shade."""
    image = _clouded(rng, size, 5, (18, 40, 26), (76, 112, 56))
    leaves = ((38, 78, 40), (84, 124, 58), (24, 50, 34))
    return _scatter(image, rng, 22, leaves, (0.04, 0.12))


def _meadow(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return a meadow with flowers of every colour far away."""
    image = _clouded(rng, size, 5, (70, 116, 52), (136, 168, 84))
    return _scatter(image, rng, 16, tuple(PALETTE.values()), (0.02, 0.07))
