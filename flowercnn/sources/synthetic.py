"""Pictures of flowers the library draws itself: nothing to download, as many as wanted, the same for everybody.

A picture is made in four steps: a background out of focus, a stem, one or two blooms, the light. All of it is
drawn at twice the size and reduced at the end, which smooths the edges. What chance decides depends on nothing but
the seed, the species and the picture's number.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from flowercnn.errors import ConfigurationError
from flowercnn.sources.base import Sample
from flowercnn.sources.drawing import (
    GREEN,
    PALETTE,
    POINTED,
    SPECIES,
    Brush,
    Colour,
    Points,
    Species,
    curve,
    mix,
    shade,
)

__all__ = ["DrawnFlower", "SyntheticFlowers"]

_SUPERSAMPLING = 2
_SMALLEST = 32
_FEWEST_CLASSES = 2
_WITH_COMPANION = 0.3  # the part of the pictures with a second, smaller bloom


class SyntheticFlowers:
    r"""Flowers the library draws itself: for demonstrations, documentation and tests.

    Up to 17 species, told apart by the number and shape of their petals, their centre and how they grow. Colours
    and backgrounds are shared, so a model has to look at shapes. Picture number ``i`` of a species is the same
    whatever ``per_class`` and ``num_classes`` are. Nothing is drawn before a sample's ``image`` is called.

    Args:
        per_class: Pictures of each species, at least 1.
        num_classes: How many species, 2 to 17: the first of a fixed order.
        seed: An integer from 0 on. Another seed draws other pictures.
        image_size: Height and width in pixels, each at least 32.

    Attributes:
        class_names: The species' names, in their fixed order.

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
        self, per_class: int = 60, num_classes: int = 17, seed: int = 0, *, image_size: tuple[int, int] = (160, 160)
    ) -> None:
        self.per_class = _whole_number("per_class", per_class, 1)
        self.seed = _whole_number("seed", seed, 0)
        self.image_size = _checked_size(image_size)
        num_classes = _whole_number("num_classes", num_classes, _FEWEST_CLASSES, len(SPECIES))
        self.class_names = tuple(species.name for species in SPECIES[:num_classes])

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
            f"SyntheticFlowers(per_class={self.per_class}, num_classes={len(self.class_names)}, seed={self.seed}, "
            f"image_size={self.image_size})"
        )


@dataclass(frozen=True, slots=True)
class DrawnFlower:
    """A picture that is drawn when it is called; a few numbers until then, so it is cheap to keep and to pickle.

    Args:
        species: Index into the fixed order of species, 0 to 16.
        number: Which picture of the species, from 0 on.
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
        """Return the picture as the bytes of a PNG file."""
        buffer = io.BytesIO()
        self.draw().save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def draw(self) -> Image.Image:
        """Return the picture in mode RGB."""
        rng = np.random.default_rng([self.seed, self.species, self.number])
        height, width = (_SUPERSAMPLING * side for side in self.image_size)
        angle = rng.uniform(-math.pi, 0)  # from above: y points down
        light = np.array([math.cos(angle), math.sin(angle)])
        canvas = _background(rng, width, height)
        _paint_blooms(canvas, SPECIES[self.species], light, rng)
        return _lit(canvas.reduce(_SUPERSAMPLING), light, rng)


def _whole_number(name: str, value: object, lowest: int, highest: int | None = None) -> int:
    """Return ``value`` as an int, or say why it is none that fits."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        number = int(value)
        if lowest <= number and (highest is None or number <= highest):
            return number
    rule = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
    raise ConfigurationError(f"{name} must be a whole number, {rule}. Received: {name}={value!r}")


def _checked_size(image_size: object) -> tuple[int, int]:
    """Return ``image_size`` as (height, width), or say why it is none."""
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:  # noqa: PLR2004 - height and width
        raise ConfigurationError(
            f"image_size must be two whole numbers, (height, width). Received: image_size={image_size!r}"
        )
    height, width = (_whole_number(f"image_size[{i}]", side, _SMALLEST) for i, side in enumerate(image_size))
    return height, width


def _paint_blooms(canvas: Image.Image, species: Species, light: Points, rng: np.random.Generator) -> None:
    """Paint one bloom in the middle of the canvas, or a smaller one and then one beside it."""
    short = min(canvas.size)
    middle = np.array(canvas.size) / 2
    scale = short * rng.uniform(0.32, 0.44)  # the radius of the bloom in pixels
    colour = _jittered(PALETTE[species.colours[int(rng.integers(len(species.colours)))]], rng)
    brush = Brush(ImageDraw.Draw(canvas), np.eye(2) * scale, middle + rng.uniform(-0.08, 0.08, 2) * short, light, rng)
    if rng.random() < _WITH_COMPANION:
        aside = rng.uniform(0.9, 1.2) * rng.choice((-1, 1))
        _paint_bloom(brush.at(aside, rng.uniform(-0.7, 0.7), scale=rng.uniform(0.45, 0.6)), species, colour)
        brush = brush.at(-0.2 * aside, 0.0)
    _paint_bloom(brush, species, colour)


def _paint_bloom(brush: Brush, species: Species, colour: Colour) -> None:
    """Paint the stem, and the bloom turned and tilted."""
    if species.stem is not None:
        _paint_stem(brush, species.stem)
    turn = brush.vary(0.22, 0.0) if species.upright else brush.vary(math.pi, 0.0)
    axis = brush.vary(math.pi, 0.0)
    squash = brush.rng.uniform(0.85 if species.upright else 0.68, 1.0)
    species.paint(brush.at(angle=axis, squash=squash).at(angle=turn - axis), colour)


def _paint_stem(brush: Brush, start: float) -> None:
    """Paint a stem from (0, ``start``) down and out of the picture, with up to two leaves."""
    sway = brush.vary(0.5, 0.0)
    green = shade(GREEN, brush.vary(0.15, -0.1))
    brush.line(curve((0, start), (sway * 0.2, start + 1.5), (sway, start + 5)), 0.09, green)
    for number in range(int(brush.rng.integers(0, 3))):
        side = -1 if number % 2 else 1
        angle = math.pi / 2 - side * brush.vary(0.25, 1.9)
        leaf = brush.at(sway * 0.1, start + brush.vary(0.25, 0.75 + 0.2 * number), angle=angle)
        leaf.petal(POINTED, 0.2, green, vein=0.25)


def _jittered(colour: Colour, rng: np.random.Generator) -> Colour:
    """Return a colour near ``colour``."""
    other = rng.integers(0, 256, 3)
    near = mix(colour, (int(other[0]), int(other[1]), int(other[2])), 0.1)
    return shade(near, rng.uniform(-0.1, 0.1))


def _lit(picture: Image.Image, light: Points, rng: np.random.Generator) -> Image.Image:
    """Return the picture brighter towards the light, under a cool or warm, weak or strong sun."""
    width, height = picture.size
    warmth = rng.uniform(-0.07, 0.07)
    sun = rng.uniform(0.85, 1.12) * np.array([1 + warmth, 1.0, 1 - warmth])
    slope = np.linspace(-1, 1, width) * light[0] + np.linspace(-1, 1, height)[:, None] * light[1]
    gain = (1 + 0.12 * slope)[..., None] * sun
    return Image.fromarray(np.clip(np.asarray(picture) * gain.astype(np.float32), 0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a background: drawn small and enlarged, so that it is out of focus."""
    focus = rng.uniform(0.2, 0.6)
    size = (max(8, round(width * focus)), max(8, round(height * focus)))
    paint = (_grass, _sky, _soil, _foliage, _meadow)[int(rng.integers(5))]
    small = paint(rng, size).filter(ImageFilter.BoxBlur(1))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _clouded(rng: np.random.Generator, size: tuple[int, int], cells: int, dark: Colour, light: Colour) -> Image.Image:
    """Return a picture that wanders between two colours, ``cells`` times from side to side."""
    amount = rng.random((cells, cells, 1))
    colours = np.array(dark) + amount * (np.array(light) - np.array(dark))
    return Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _scatter(
    picture: Image.Image, rng: np.random.Generator, count: int, colours: tuple[Colour, ...], size: tuple[float, float]
) -> Image.Image:
    """Scatter ``count`` discs over the picture, their radius a part of its width between the two of ``size``."""
    draw = ImageDraw.Draw(picture)
    for x, y, r, tone in rng.random((count, 4)):
        radius = picture.width * (size[0] + r * (size[1] - size[0]))
        colour = shade(colours[int(rng.integers(len(colours)))], 0.5 * tone - 0.25)
        draw.circle((x * picture.width, y * picture.height), radius, fill=colour)
    return picture


def _grass(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return blades of grass."""
    picture = _clouded(rng, size, 6, (44, 84, 34), (104, 150, 62))
    draw = ImageDraw.Draw(picture)
    width, height = size
    for x, foot, length, lean, tone in rng.random((60, 5)):
        start = (x * width, height * (0.2 + foot))
        tip = (start[0] + (lean - 0.5) * 0.3 * width, start[1] - (0.2 + 0.4 * length) * height)
        blade = mix((40, 92, 30), (150, 190, 84), tone)
        draw.polygon([(start[0] - 0.015 * width, start[1]), (start[0] + 0.015 * width, start[1]), tip], fill=blade)
    return picture


def _sky(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return a sky with soft clouds."""
    top = mix((92, 150, 222), (150, 160, 190), rng.random())
    gradient = Image.fromarray(np.array([[top], [(206, 224, 240)]], dtype=np.uint8)).resize(size)
    cover = Image.fromarray((255 * np.clip(rng.uniform(-0.6, 0.9, (5, 4)), 0, 1)).astype(np.uint8))
    gradient.paste((246, 246, 248), mask=cover.resize(size, Image.Resampling.BICUBIC))
    return gradient


def _soil(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return crumbly earth with pebbles."""
    patches = _clouded(rng, size, 5, (62, 44, 32), (142, 112, 84))
    picture = Image.blend(patches, _clouded(rng, size, 29, (50, 36, 26), (142, 108, 78)), 0.5)
    return _scatter(picture, rng, 40, ((120, 104, 90), (84, 62, 46), (150, 134, 112)), (0.008, 0.03))


def _foliage(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return leaves in the shade."""
    picture = _clouded(rng, size, 5, (18, 40, 26), (76, 112, 56))
    return _scatter(picture, rng, 22, ((38, 78, 40), (84, 124, 58), (24, 50, 34)), (0.04, 0.12))


def _meadow(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return a meadow with flowers of every colour far away."""
    picture = _clouded(rng, size, 5, (70, 116, 52), (136, 168, 84))
    return _scatter(picture, rng, 16, tuple(PALETTE.values()), (0.02, 0.07))
