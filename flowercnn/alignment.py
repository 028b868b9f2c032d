"""How much two pictures are one photograph: one is laid over a window of the other, and their details compared.

Pictures that are only alike (two daisies on dark ground) agree in their large parts; the same photograph agrees in
its details too, wherever it was cropped.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from flowercnn.parallel import cpu_count, ordered_map

__all__ = ["details_alike"]

_PAIRS_AT_ONCE: Final = 256
_HOPELESS: Final = (0.45, 0.7, 0.8)  # correlations that copies exceed before each step
_LARGEST_MOVE: Final = 0.05  # of a side, at a step
_LOCAL: Final = 9  # pixels: what is larger than this is no detail

Floats = npt.NDArray[np.float32]


def details_alike(
    pictures: npt.NDArray[np.uint8],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    windows: Floats,
    enough: float,
) -> Floats:
    """Return for pairs of pictures how their details correlate when one is laid over a window of the other.

    The windows are moved and scaled a little until they fit (Gauss-Newton, as Lucas & Kanade 1981 register pictures).

    Args:
        pictures: Shape (n, side, side), grey.
        first: Shape (pairs,): positions of pictures in which a window is looked for.
        second: Likewise, of those laid over the window.
        windows: Shape (pairs, 4): where to begin: top, bottom, left and right as shares of a side.
        enough: From what correlation on no better fit is looked for.
    """

    def compare(start: int) -> Floats:
        part = slice(start, start + _PAIRS_AT_ONCE)
        return _compare(pictures[first[part]], pictures[second[part]], windows[part], enough)

    starts = range(0, len(first), _PAIRS_AT_ONCE)
    compared = ordered_map(compare, starts, workers=cpu_count(), window=2 * cpu_count())
    return np.concatenate([np.empty(0, dtype=np.float32), *compared])


def _compare(wholes: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8], windows: Floats, enough: float) -> Floats:
    wide, target, place = wholes.astype(np.float32), _standard(others.astype(np.float32)), windows
    details = _details(target)
    best = np.zeros(len(wide), dtype=np.float32)
    left = np.arange(len(wide))  # pairs that may fit better yet
    for hopeless in (*_HOPELESS, 1.0):
        seen = _standard(_view(wide[left], place))
        alike = _correlation(_details(seen), details[left])
        best[left] = np.maximum(best[left], alike)
        better = (alike < enough) & (alike > hopeless)
        left, seen, place = left[better], seen[better], place[better]
        if not len(left):
            break
        place = np.clip(place + _improvement(place, seen, target[left]), -_LARGEST_MOVE, 1 + _LARGEST_MOVE)
    return best


def _improvement(place: Floats, seen: Floats, target: Floats) -> Floats:
    """Return by how much to move the four edges of each window, by least squares."""
    count, side = seen.shape[:2]
    along = ((np.arange(side, dtype=np.float32) + 0.5) / side)[:, None]
    down = np.gradient(seen, 1 / side, axis=1) / (place[:, 1] - place[:, 0])[:, None, None]
    across = np.gradient(seen, 1 / side, axis=2) / (place[:, 3] - place[:, 2])[:, None, None]
    moved = (down * (1 - along), down * along, across * (1 - along.T), across * along.T)
    slopes = np.stack([each.reshape(count, -1) for each in moved], axis=1)
    slopes -= slopes.mean(axis=2, keepdims=True)
    normal = slopes @ slopes.transpose(0, 2, 1)
    damping = 1e-3 * np.trace(normal, axis1=1, axis2=2) + 1e-6
    normal += damping[:, None, None] * np.eye(4, dtype=np.float32)
    moves = np.linalg.solve(normal, slopes @ (target - seen).reshape(count, -1, 1))[..., 0]
    return np.clip(moves, -_LARGEST_MOVE, _LARGEST_MOVE)


def _view(pictures: Floats, place: Floats) -> Floats:
    """Return what is seen in a window of each picture, at the size of the picture."""
    side = pictures.shape[1]
    down, across = _sampling(place[:, 0], place[:, 1], side), _sampling(place[:, 2], place[:, 3], side)
    seen: Floats = (down @ pictures @ across.transpose(0, 2, 1)).astype(np.float32, copy=False)
    return seen


def _sampling(start: Floats, end: Floats, side: int) -> Floats:
    """Return the matrices (n, side, side) that sample a stretch of a side, between pixels linearly."""
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    places = np.clip((start[:, None] + (end - start)[:, None] * centres) * side - 0.5, 0, side - 1)
    shares: Floats = np.maximum(0, 1 - np.abs(places[..., None] - np.arange(side, dtype=np.float32)))
    return shares


def _standard(pictures: Floats) -> Floats:
    """Return pictures of mean 0 and spread 1: brightness and contrast do not count."""
    mean = pictures.mean(axis=(1, 2), keepdims=True)
    spread = pictures.std(axis=(1, 2), keepdims=True)
    standard: Floats = (pictures - mean) / np.maximum(spread, 1e-3)
    return standard


def _details(pictures: Floats) -> Floats:
    """Return pictures without what is larger than a few pixels."""
    apart = np.abs(np.subtract.outer(np.arange(pictures.shape[1]), np.arange(pictures.shape[1])))
    near = (apart <= _LOCAL // 2).astype(np.float32)
    blur = near / near.sum(axis=1, keepdims=True)
    details: Floats = pictures - blur @ pictures @ blur.T
    return details


def _correlation(first: Floats, second: Floats) -> Floats:
    lengths = np.einsum("ijk,ijk->i", first, first) * np.einsum("ijk,ijk->i", second, second)
    alike: Floats = np.einsum("ijk,ijk->i", first, second) / np.maximum(np.sqrt(lengths), 1e-6)
    return alike
