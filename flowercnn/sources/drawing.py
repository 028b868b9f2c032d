"""Drawing of flowers: a brush, petal outlines, and the seventeen species of `SyntheticFlowers`.

A `Brush` draws in the flower's own coordinates: the origin is its heart, its petals reach about 1,
x points right and y down. ``brush.at(...)`` gives a brush for a smaller coordinate system inside
(one petal, one bell of a spike), so each species is a few lines that place petals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

__all__ = ["PALETTE", "SPECIES", "Brush", "Colour", "Points", "Species", "mix", "shade"]

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Points: TypeAlias = npt.NDArray[np.float64]

_DOWN = math.pi / 2
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))

# Several species share each colour: colours alone do not tell them apart.
PALETTE: dict[str, Colour] = {
    "white": (244, 242, 236),
    "cream": (248, 234, 190),
    "yellow": (250, 208, 40),
    "orange": (243, 135, 36),
    "red": (214, 40, 44),
    "pink": (240, 138, 176),
    "magenta": (204, 56, 142),
    "violet": (136, 82, 188),
    "blue": (84, 112, 214),
}
_GREEN: Colour = (86, 138, 60)
_GOLD: Colour = (240, 186, 48)
_DARK: Colour = (52, 34, 40)
_SHADOW: Colour = (52, 8, 16)  # warm: yellow in the shade is orange, not khaki


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """Return the colour ``amount`` (0 to 1) of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: Colour, amount: float) -> Colour:
    """Return the colour made lighter (``amount`` up to 1) or darker (down to -1)."""
    return mix(colour, (255, 255, 255) if amount > 0 else _SHADOW, min(abs(amount), 1.0))


def _outline(rise: float, fall: float) -> Points:
    """Return a petal's outline of shape (24, 2): from (0, 0) to (1, 0), half-width 1.

    A small ``rise`` is broad at the base, a small ``fall`` broad at the tip; 1 is pointed.
    """
    along = 0.5 - 0.5 * np.cos(np.linspace(0, math.pi, 13))
    width = along**rise * (1 - along) ** fall
    width /= width.max()
    return np.column_stack([np.r_[along, along[-2:0:-1]], np.r_[width, -width[-2:0:-1]]])


def _bell_outline() -> Points:
    """Return a bell hanging from (0, 0), its mouth with three teeth at x = 1, half-width 1."""
    along = np.array([0.0, 0.03, 0.12, 0.3, 0.5, 0.7, 0.84, 0.94, 1.0, 0.88, 1.03])
    width = np.array([0.1, 0.28, 0.5, 0.66, 0.7, 0.72, 0.8, 0.95, 1.1, 0.42, 0.0])
    return np.column_stack([np.r_[along, along[-2::-1]], np.r_[width, -width[-2::-1]]])


def _star_outline(rays: int, depth: float) -> Points:
    """Return a star of radius 1, hollowed between its rays to the radius ``depth``."""
    angles = np.arange(2 * rays) * math.pi / rays
    radius = np.where(np.arange(2 * rays) % 2, depth, 1.0)
    return np.column_stack([radius * np.cos(angles), radius * np.sin(angles)])


_ROUND = _outline(0.8, 0.45)  # poppy
_EGG = _outline(0.7, 0.55)  # tulip
_STRAP = _outline(0.35, 0.25)  # daisy
_POINTED = _outline(0.8, 0.95)  # lily, leaves
_DROP = _outline(1.1, 0.45)  # snowdrop
_PROPELLER = _outline(0.9, 0.25) @ np.array([[1.0, 0.0], [0.22, 1.0]])  # leaning to one side
_BELL = _bell_outline()
_STAR = _star_outline(6, 0.4)
_CIRCLE = _star_outline(8, 1.0)


@dataclass(frozen=True, slots=True)
class Brush:
    """Draws in its own coordinate system.

    Args:
        draw: What is drawn on.
        matrix: Array of shape (2, 2): own coordinates to pixels.
        origin: Array of shape (2,): the pixel where the own origin is.
        light: Array of shape (2,), length 1: where the light comes from, in pixels.
        rng: Generator of everything random.
    """

    draw: ImageDraw.ImageDraw
    matrix: Points
    origin: Points
    light: Points
    rng: np.random.Generator

    def at(
        self, x: float = 0, y: float = 0, *, angle: float = 0, scale: float = 1, squash: float = 1
    ) -> Brush:
        """Return a brush for the coordinates at (x, y): turned in radians, scaled, y squashed."""
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        turn = np.array([[cos, -sin * squash], [sin, cos * squash]])
        origin = self.matrix @ np.array([x, y]) + self.origin
        return replace(self, matrix=self.matrix @ turn, origin=origin)

    def vary(self, spread: float, centre: float = 1.0) -> float:
        """Return a random number between ``centre - spread`` and ``centre + spread``."""
        return centre + spread * (2 * float(self.rng.random()) - 1)

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill the polygon with these corners (shape (n, 2))."""
        self.draw.polygon(self._pixels(points), fill=colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """Draw a line through the points (shape (n, 2)), ``width`` wide in own units."""
        pixels = round(width * math.sqrt(abs(float(np.linalg.det(self.matrix)))))
        self.draw.line(self._pixels(points), fill=colour, width=max(1, pixels))

    def _pixels(self, points: Points) -> list[float]:
        pixels: list[float] = (points @ self.matrix.T + self.origin).ravel().tolist()
        return pixels

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        self.fill(_CIRCLE * radius + (x, y), colour)

    def petal(self, outline: Points, width: float, colour: Colour, *, vein: float = 0.0) -> None:
        """Draw a petal from the origin to (1, 0): dark edge, blade, lighter middle, a vein."""
        facing = float(self.matrix[:, 0] @ self.light) / float(np.hypot(*self.matrix[:, 0]))
        colour = shade(colour, self.vary(0.05, 0.1 * facing - 0.02))
        self.fill(outline * (1, width), shade(colour, -0.28))
        self.fill(outline * (0.96, 0.88 * width), colour)
        self.fill(outline * (0.8, 0.5 * width) + (0.12, 0), shade(colour, 0.16))
        if vein:
            self.line(np.array([[0.05, 0.0], [0.8, 0.0]]), 0.03, shade(colour, -vein))

    def ring(
        self, count: int, petal: Points, width: float, colour: Colour, *, length: float = 1
    ) -> None:
        """Draw ``count`` petals around the origin."""
        for number in range(count):
            angle = (number + self.vary(0.12, 0.0)) * 2 * math.pi / count
            self.at(angle=angle, scale=length * self.vary(0.06)).petal(petal, width, colour)

    def seeds(self, count: int, radius: float, size: float, colour: Colour) -> None:
        """Draw ``count`` dots in the spiral of a sunflower's seeds, out to ``radius``."""
        for number in range(count):
            x, y = _in_spiral(number, radius * math.sqrt((number + 0.5) / count))
            self.dot(x, y, size, shade(colour, self.vary(0.2, 0.0)))

    def stamens(self, count: int, length: float, tip: float, stalk: Colour, top: Colour) -> None:
        """Draw ``count`` threads around the origin, each with a dot at its end."""
        for number in range(count):
            angle = (number + self.vary(0.2, 0.5)) * 2 * math.pi / count
            reach = length * self.vary(0.12)
            x, y = reach * math.cos(angle), reach * math.sin(angle)
            self.line(np.array([[0.0, 0.0], [x, y]]), 0.035, stalk)
            self.dot(x, y, tip, top)


def _in_spiral(number: int, reach: float) -> Point:
    angle = number * _GOLDEN_ANGLE
    return reach * math.cos(angle), reach * math.sin(angle)


def _curve(start: Point, bend: Point, end: Point) -> Points:
    """Return the quadratic Bezier curve from ``start`` to ``end`` as points of shape (13, 2)."""
    t = np.linspace(0, 1, 13)[:, None]
    straight = (1 - t) ** 2 * np.array(start)
    points: Points = straight + 2 * t * (1 - t) * np.array(bend) + t**2 * np.array(end)
    return points


# Each species paints one bloom (or spike, or cluster) of a colour, within about 1 of the origin.


def _daisy(b: Brush, colour: Colour) -> None:
    count = int(b.rng.integers(15, 21))
    b.ring(count, _STRAP, 0.12, shade(colour, -0.12))
    b.at(angle=math.pi / count).ring(count, _STRAP, 0.12, colour, length=0.94)
    b.dot(0, 0, 0.28, shade(_GOLD, -0.2))
    b.seeds(25, 0.25, 0.045, _GOLD)


def _tulip(b: Brush, colour: Colour) -> None:
    cup = b.at(0, 0.75, scale=1.6)
    for x, lean in ((-0.1, -0.16), (0.1, 0.16)):
        cup.at(x, 0, angle=lean - _DOWN).petal(_EGG, 0.27, shade(colour, -0.25))
    for x, lean in ((-0.13, -0.2), (0.13, 0.2)):
        side = cup.at(x, 0, angle=lean * b.vary(0.3) - _DOWN, scale=0.98)
        side.petal(_EGG, 0.29, shade(colour, -0.06))
    cup.at(0, 0.02, angle=-_DOWN, scale=0.9).petal(_EGG, 0.3, colour, vein=0.1)


def _sunflower(b: Brush, colour: Colour) -> None:
    count = int(b.rng.integers(14, 19))
    b.ring(count, _POINTED, 0.17, shade(colour, -0.18))
    b.at(angle=math.pi / count).ring(count, _POINTED, 0.16, colour, length=0.92)
    b.dot(0, 0, 0.5, (66, 40, 22))
    b.seeds(55, 0.47, 0.04, (128, 82, 40))
    b.dot(0, 0, 0.14, (84, 84, 36))


def _bluebell(b: Brush, colour: Colour) -> None:
    stem = _curve((0.15, 5), (-0.75, -2.2), (0.75, -0.5))
    b.line(stem, 0.07, _GREEN)
    for number, where in enumerate(np.linspace(6, 12, int(b.rng.integers(5, 8)))):
        x, y = stem[round(where)]
        side = 0.34 if number % 2 else -0.34
        size = b.vary(0.05, 0.62 - 0.03 * number)
        tip_x, tip_y = x + 0.5 * side, y + 0.12
        b.line(_curve((x, y), (tip_x, y - 0.08), (tip_x, tip_y)), 0.05, shade(colour, -0.4))
        b.at(tip_x, tip_y, angle=_DOWN - side * b.vary(0.4), scale=size).petal(_BELL, 0.4, colour)


def _rose(b: Brush, colour: Colour) -> None:
    for layer, (count, length) in enumerate(((6, 1.0), (5, 0.8), (5, 0.62), (4, 0.45), (3, 0.3))):
        tone = shade(colour, 0.06 - 0.09 * layer)
        b.at(angle=layer * 0.8).ring(count, _ROUND, 0.62, tone, length=length)
    turns = np.linspace(0.5, 11, 24)[:, None]
    b.line(np.hstack([np.cos(turns), np.sin(turns)]) * turns * 0.016, 0.04, shade(colour, -0.5))


def _lavender(b: Brush, colour: Colour) -> None:
    for x, lean, size in ((-0.5, -0.2, 0.85), (0.55, 0.22, 0.8), (0.0, 0.0, 1.0)):
        spike = b.at(x, 0.1, angle=lean * b.vary(0.4), scale=size)
        spike.line(_curve((0, -0.8), (0, 1), (-1.5 * lean, 5)), 0.06, shade(_GREEN, 0.1))
        for y in np.linspace(0.85, -1.05, 10):
            width = 0.13 + 0.1 * (y + 1.05) * (1.3 - y)
            for side in (-1.0, 1.0, 0.0):
                tone = shade(colour, b.vary(0.2, -0.1 + 0.15 * (side == 0)))
                floret = spike.at(side * width, y, angle=-_DOWN + 0.7 * side, scale=0.25)
                floret.fill(_DROP * (1, 0.4), tone)


def _poppy(b: Brush, colour: Colour) -> None:
    for angle in (0.0, math.pi, _DOWN, -_DOWN):
        petal = b.at(angle=angle + b.vary(0.1, 0.0), scale=b.vary(0.05))
        petal.petal(_ROUND, 0.8, colour)
        for ray in np.linspace(-0.5, 0.5, 5):
            points = np.array([[0.3, 0], [b.vary(0.1, 0.78), 0]])
            petal.at(angle=float(ray)).line(points, 0.02, shade(colour, -0.2))
        petal.fill(_DROP * (0.42, 0.2), _DARK)
    b.stamens(18, 0.33, 0.045, _DARK, _DARK)
    b.dot(0, 0, 0.16, (150, 170, 110))
    b.stamens(8, 0.12, 0.01, _DARK, _DARK)


def _lily(b: Brush, colour: Colour) -> None:
    for angle in (0, 2, 4, 1, 3, 5):
        petal = b.at(angle=angle * math.pi / 3 + b.vary(0.06, 0.0), scale=b.vary(0.05, 1.05))
        petal.petal(_POINTED, 0.27, colour)
        petal.fill(_POINTED * (0.85, 0.05), shade(colour, -0.3))
        for _ in range(5):
            petal.dot(b.vary(0.15, 0.36), b.vary(0.13, 0.0), 0.02, (110, 30, 40))
    b.dot(0, 0, 0.1, (170, 190, 90))
    b.stamens(6, 0.55, 0.06, (200, 214, 140), (122, 62, 26))


def _forget_me_not(b: Brush, colour: Colour) -> None:
    for number in range(int(b.rng.integers(10, 14)), 0, -1):
        reach = 0.23 * math.sqrt(number)
        floret = b.at(*_in_spiral(number, reach), angle=b.vary(1, 0.0), scale=b.vary(0.03, 0.31))
        floret.ring(5, _ROUND, 0.55, shade(colour, b.vary(0.12, 0.0)))
        floret.dot(0, 0, 0.26, shade(colour, 0.8))
        floret.dot(0, 0, 0.18, _GOLD)


def _daffodil(b: Brush, colour: Colour) -> None:
    b.ring(3, _EGG, 0.36, shade(colour, -0.1))
    b.at(angle=math.pi / 3).ring(3, _EGG, 0.36, colour)
    trumpet = (_GOLD, PALETTE["orange"], shade(_GOLD, -0.08))[int(b.rng.integers(3))]
    frill = _star_outline(12, 0.9) * 0.47
    b.fill(frill, shade(trumpet, -0.25))
    b.fill(frill * 0.92, shade(trumpet, 0.1))
    b.fill(_star_outline(12, 0.85) * 0.34, shade(trumpet, -0.2))
    b.dot(0.02, 0.03, 0.22, shade(trumpet, -0.42))
    b.stamens(6, 0.12, 0.04, _GOLD, shade(_GOLD, 0.4))


def _allium(b: Brush, colour: Colour) -> None:
    b.dot(0, 0, 0.7, shade(mix(colour, _GREEN, 0.4), -0.4))
    for number in range(70, 0, -1):
        reach = 0.95 * math.sqrt(number / 70)
        tone = shade(colour, b.vary(0.12, 0.18 - 0.5 * reach**2))
        floret = b.at(*_in_spiral(number, reach), angle=b.vary(1, 0.0), scale=b.vary(0.03, 0.19))
        floret.fill(_STAR, tone)
        floret.dot(0, 0, 0.2, shade(tone, -0.4))


def _foxglove(b: Brush, colour: Colour) -> None:
    b.line(np.array([[0.0, -1.2], [0.0, 5.0]]), 0.1, _GREEN)
    for number, y in enumerate(np.linspace(-1.15, 0.6, 10)):
        side = 1 if number % 2 else -1
        size = 0.16 + 0.052 * number
        lean = _DOWN - side * b.vary(0.15, 0.6)
        bell = b.at(0.04 * side, y, angle=lean, scale=size)
        bell.petal(_BELL, 0.42, colour)
        if size > 0.35:  # noqa: PLR2004 - the smaller ones above are still buds
            bell.fill(_CIRCLE * (0.16, 0.36) + (0.97, 0), shade(colour, -0.45))
            bell.fill(_CIRCLE * (0.1, 0.26) + (1.0, 0), shade(colour, 0.5))
            bell.dot(0.98, 0.1, 0.06, _DARK)
            bell.dot(1.0, -0.12, 0.06, _DARK)


def _pansy(b: Brush, colour: Colour) -> None:
    upper = shade(colour, -0.45)
    for lean in (-0.5, 0.5):
        b.at(0, -0.05, angle=lean * b.vary(0.15) - _DOWN, scale=0.98).petal(_ROUND, 0.58, upper)
    for angle in (math.pi - 0.12, 0.12, _DOWN):
        petal = b.at(0, 0.04, angle=angle + b.vary(0.06, 0.0), scale=0.88)
        petal.petal(_ROUND, 0.68 if angle == _DOWN else 0.55, colour)
        petal.fill(_ROUND * (0.58, 0.3), _DARK)
        for ray in (-0.55, -0.28, 0.0, 0.28, 0.55):
            petal.at(angle=ray).line(np.array([[0.2, 0], [0.66, 0]]), 0.025, _DARK)
    b.dot(0, 0.06, 0.13, _GOLD)
    b.dot(0, 0.02, 0.06, (250, 250, 235))


def _buttercup(b: Brush, colour: Colour) -> None:
    b.ring(5, _ROUND, 0.66, colour)
    for number in range(5):
        gloss = _DROP * (0.36, 0.13) + (0.5, 0.06)
        b.at(angle=(number + 0.1) * 2 * math.pi / 5).fill(gloss, shade(colour, 0.4))
    b.stamens(22, 0.3, 0.04, _GOLD, shade(_GOLD, 0.25))
    b.dot(0, 0, 0.13, (150, 176, 60))


def _iris(b: Brush, colour: Colour) -> None:
    for lean in (-0.55, 0.55, 0.0):
        standard = b.at(0, 0.15, angle=lean * b.vary(0.2) - _DOWN, scale=1.15)
        standard.petal(_EGG, 0.33, shade(colour, 0.25))
    for angle in (_DOWN + 1.1, _DOWN - 1.1, _DOWN):
        fall = b.at(0, 0.1, angle=angle + b.vary(0.1, 0.0), scale=1.05)
        fall.petal(_DROP, 0.42, shade(colour, -0.15), vein=0.3)
        fall.fill(_POINTED * (0.6, 0.13) + (0.08, 0), shade(_GOLD, 0.1))
        fall.fill(_POINTED * (0.5, 0.05) + (0.1, 0), (190, 110, 30))


def _snowdrop(b: Brush, colour: Colour) -> None:
    b.line(_curve((-0.3, 5), (-0.75, -3.0), (0.1, -0.75)), 0.07, _GREEN)
    b.at(0.1, -0.78, angle=_DOWN, scale=0.36).petal(_EGG, 0.42, shade(_GREEN, 0.1))
    head = b.at(0.1, -0.48)
    head.at(angle=_DOWN, scale=1.0).petal(_BELL, 0.36, shade(colour, -0.08))
    head.dot(-0.1, 0.82, 0.07, _GREEN)
    head.dot(0.1, 0.82, 0.07, _GREEN)
    for lean in (-0.45, 0.45, 0.0):
        petal = head.at(angle=_DOWN + lean * b.vary(0.25), scale=1.3 - 0.35 * (lean == 0))
        petal.petal(_DROP, 0.22, colour)


def _rose_bay(b: Brush, colour: Colour) -> None:
    b.ring(5, _PROPELLER, 0.4, colour)
    for number in range(5):
        b.at(angle=(number + 0.08) * 2 * math.pi / 5).fill(_DROP * (0.5, 0.1), shade(colour, -0.35))
    b.fill(_star_outline(5, 0.5) * 0.32, shade(colour, 0.6))
    b.fill(_star_outline(5, 0.5) * 0.16, (222, 190, 90))


@dataclass(frozen=True, slots=True)
class Species:
    """A kind of flower.

    Args:
        name: Label of its images.
        paint: Paints one bloom of a colour with a brush.
        colours: Its colours, by their names in `PALETTE`.
        upright: Seen from the side, so only tilted a little; the others are turned at will.
        stem: Where its stem starts, below the heart, or ``None`` where ``paint`` draws the stem.
    """

    name: str
    paint: Callable[[Brush, Colour], None]
    colours: tuple[str, ...]
    upright: bool = False
    stem: float | None = 0.0

    def draw(self, brush: Brush, colour: Colour) -> None:
        """Draw the stem, and the bloom turned and tilted."""
        if self.stem is not None:
            _draw_stem(brush, self.stem)
        turn = brush.vary(0.22, 0.0) if self.upright else brush.vary(math.pi, 0.0)
        axis = brush.vary(math.pi, 0.0)
        squash = brush.rng.uniform(0.85 if self.upright else 0.68, 1.0)
        self.paint(brush.at(angle=axis, squash=squash).at(angle=turn - axis), colour)


def _draw_stem(brush: Brush, start: float) -> None:
    """Draw a stem from (0, ``start``) down and out of the image, with up to two leaves."""
    sway = brush.vary(0.5, 0.0)
    green = shade(_GREEN, brush.vary(0.15, -0.1))
    brush.line(_curve((0, start), (sway * 0.2, start + 1.5), (sway, start + 5)), 0.09, green)
    for number in range(int(brush.rng.integers(0, 3))):
        side = -1 if number % 2 else 1
        angle = math.pi / 2 - side * brush.vary(0.25, 1.9)
        leaf = brush.at(sway * 0.1, start + brush.vary(0.25, 0.75 + 0.2 * number), angle=angle)
        leaf.petal(_POINTED, 0.2, green, vein=0.25)


# The order never changes: labels and what a seed draws depend on it. The first few differ most.
SPECIES: tuple[Species, ...] = (
    Species("daisy", _daisy, ("white", "white", "white", "pink")),
    Species("tulip", _tulip, ("red", "yellow", "pink", "violet"), upright=True, stem=0.7),
    Species("sunflower", _sunflower, ("yellow", "yellow", "yellow", "orange")),
    Species("bluebell", _bluebell, ("blue", "blue", "violet", "pink"), upright=True, stem=None),
    Species("rose", _rose, ("pink", "pink", "red", "white", "yellow")),
    Species("lavender", _lavender, ("violet", "violet", "blue"), upright=True, stem=None),
    Species("poppy", _poppy, ("red", "red", "red", "orange", "white")),
    Species("lily", _lily, ("orange", "orange", "white", "pink")),
    Species("forget-me-not", _forget_me_not, ("blue", "blue", "blue", "pink")),
    Species("daffodil", _daffodil, ("yellow", "yellow", "cream", "white")),
    Species("allium", _allium, ("violet", "magenta", "magenta", "white"), upright=True, stem=0.8),
    Species(
        "foxglove", _foxglove, ("magenta", "magenta", "pink", "white"), upright=True, stem=None
    ),
    Species("pansy", _pansy, ("violet", "violet", "yellow", "orange", "blue"), upright=True),
    Species("buttercup", _buttercup, ("yellow", "yellow", "yellow", "orange", "white")),
    Species("iris", _iris, ("violet", "blue", "blue", "yellow"), upright=True, stem=0.3),
    Species("snowdrop", _snowdrop, ("white", "white", "cream"), upright=True, stem=None),
    Species("rose-bay", _rose_bay, ("pink", "pink", "magenta", "white")),
)
