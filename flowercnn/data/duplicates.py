"""Near-duplicates: perceptual hashes (Zauner 2010) in buckets, then a comparison of details.

An image is described by the 8 x 8 lowest frequencies of its grey thumbnail (a cosine transform),
weighted so that all count alike in natural images; their signs are its 63-bit hash. A recompressed,
resized or brightened duplicate has nearly the same description. A cropped one has nearly that of a
window of the original, so each image is looked up by its whole and by 85 windows that leave up to
15 % of a side away.

Hashes that agree in all 14 bits of one of 16 fixed choices meet in one bucket (locality-sensitive
hashing; Indyk & Motwani 1998). Of those that meet, differ in few bits and have descriptions that
correlate, one is laid over a window of the other and the correlation of their details decides: two
daisies on dark ground are alike in their large parts, one photograph is alike in its details.
Images with few details (handwritten digits) may be alike in those, too: if more pairs are slightly
below the limit than above it, the limit rises. Images of different colours must be more alike,
unless one is grey.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import cpu_count, ordered_map
from flowercnn.data.inspection import THUMBNAIL_SIDE, Content

__all__ = ["details_alike", "exact_duplicates", "join", "near_pairs"]


_PAIRS_AT_ONCE: Final = 256
_HOPELESS: Final = (0.45, 0.7, 0.8)  # correlations that duplicates exceed before each step
_LARGEST_MOVE: Final = 0.05  # of a side, at a step
_LOCAL: Final = 9  # pixels: what is larger than this is no detail

Floats = npt.NDArray[np.float32]


def details_alike(
    images: npt.NDArray[np.uint8],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    windows: Floats,
    enough: float,
) -> Floats:
    """Return how the details of pairs of images correlate, one laid over a window of the other.

    The windows are moved and scaled a little until they fit (Gauss-Newton, as Lucas & Kanade 1981
    register images).

    Args:
        images: Shape (n, side, side), grey.
        first: Shape (pairs,): positions of images in which a window is looked for.
        second: Likewise, of those laid over the window.
        windows: Shape (pairs, 4): where to begin: top, bottom, left and right as shares of a side.
        enough: From what correlation on no better fit is looked for.
    """

    def compare(start: int) -> Floats:
        part = slice(start, start + _PAIRS_AT_ONCE)
        return _compare(images[first[part]], images[second[part]], windows[part], enough)

    starts = range(0, len(first), _PAIRS_AT_ONCE)
    compared = ordered_map(compare, starts, workers=cpu_count(), window=2 * cpu_count())
    return np.concatenate([np.empty(0, dtype=np.float32), *compared])


def _compare(
    wholes: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8], windows: Floats, enough: float
) -> Floats:
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
        place = np.clip(
            place + _improvement(place, seen, target[left]), -_LARGEST_MOVE, 1 + _LARGEST_MOVE
        )
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


def _view(images: Floats, place: Floats) -> Floats:
    """Return a window of each image, scaled to the size of the image."""
    side = images.shape[1]
    down, across = (
        _sampling(place[:, 0], place[:, 1], side),
        _sampling(place[:, 2], place[:, 3], side),
    )
    seen: Floats = (down @ images @ across.transpose(0, 2, 1)).astype(np.float32, copy=False)
    return seen


def _sampling(start: Floats, end: Floats, side: int) -> Floats:
    """Return matrices (n, side, side) that sample a stretch of a side linearly."""
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    places = np.clip((start[:, None] + (end - start)[:, None] * centres) * side - 0.5, 0, side - 1)
    shares: Floats = np.maximum(
        0, 1 - np.abs(places[..., None] - np.arange(side, dtype=np.float32))
    )
    return shares


def _standard(images: Floats) -> Floats:
    """Return images with mean 0 and standard deviation 1."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    spread = images.std(axis=(1, 2), keepdims=True)
    standard: Floats = (images - mean) / np.maximum(spread, 1e-3)
    return standard


def _details(images: Floats) -> Floats:
    """Return images without what is larger than a few pixels."""
    apart = np.abs(np.subtract.outer(np.arange(images.shape[1]), np.arange(images.shape[1])))
    near = (apart <= _LOCAL // 2).astype(np.float32)
    blur = near / near.sum(axis=1, keepdims=True)
    details: Floats = images - blur @ images @ blur.T
    return details


def _correlation(first: Floats, second: Floats) -> Floats:
    lengths = np.einsum("ijk,ijk->i", first, first) * np.einsum("ijk,ijk->i", second, second)
    alike: Floats = np.einsum("ijk,ijk->i", first, second) / np.maximum(np.sqrt(lengths), 1e-6)
    return alike


_ALIKE: Final = (
    0.85  # correlation of descriptions; duplicates are above, and so are some different photographs
)
_SAME: Final = (0.87, 0.9, 0.92, 0.95, 0.97)  # correlation of details; which of them, `_limit` says
_SURE: Final = 0.95  # here duplicates may have other colours: of photographs they are tinted ones
_GREY: Final = 6.0  # of 128: less colour on average is grey
_SAME_COLOURS: Final = 0.4  # cosine; duplicates with 15 % of a side cut away are above 0.56
_BELOW: Final = 0.07  # pairs so little below the limit are different images that look alike
_MANY: Final = 10
_MOST_BITS_APART: Final = 14
_FREQUENCIES: Final = 8
_GRID: Final = 16
_OFFSETS: Final = {0.92: 3, 0.85: 4}  # places of a window along a side, by its share of it
_ORDERS: Final = 4
_BITS_PER_KEY: Final = 14
_MOST_PER_BUCKET: Final = 64  # bounds the work if thousands of images look alike
_IMAGES_AT_ONCE: Final = 512

Ints = npt.NDArray[np.int64]


def exact_duplicates(contents: Sequence[Content]) -> list[list[int]]:
    """Return the positions of images with exactly the same content, a list per content."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        if content.digest is not None and content.error is None:
            places[content.digest].append(index)
    return [same for same in places.values() if len(same) > 1]


def near_pairs(contents: Sequence[Content]) -> list[tuple[int, int]]:
    """Return pairs of positions (first < second) of near-duplicates that are not the same file.

    Of several exact duplicates only the first is compared. Blank images are left out.
    """
    seen: set[str | None] = set()
    chosen = []
    for index, content in enumerate(contents):
        if content.thumbnail is not None and not content.blank and content.digest not in seen:
            seen.add(content.digest)
            chosen.append(index)
    if len(chosen) < 2:  # noqa: PLR2004 - a pair
        return []
    colours = np.array([contents[index].colours for index in chosen])
    pairs = _similar(np.array([contents[index].thumbnail for index in chosen]), colours)
    return sorted((chosen[min(pair)], chosen[max(pair)]) for pair in pairs)


def join(count: int, links: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the groups that ``links`` make of the positions below ``count``, in order."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, *others in links:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(count):
        groups[root(index)].append(index)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Table:
    """Positions of images in the order of their keys, and where each key begins."""

    order: Ints
    starts: Ints

    @classmethod
    def of(cls, keys: Ints) -> _Table:
        counts = np.bincount(keys, minlength=2**_BITS_PER_KEY)
        return cls(np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))

    def look_up(self, keys: Ints) -> tuple[Ints, Ints]:
        """Return positions of queries and of the images in their buckets, side by side."""
        starts = self.starts[keys]
        sizes = np.minimum(self.starts[keys + 1] - starts, _MOST_PER_BUCKET)
        queries = np.repeat(np.arange(len(keys)), sizes)
        before = np.cumsum(sizes) - sizes
        return queries, self.order[(starts - before)[queries] + np.arange(len(queries))]


def _similar(thumbnails: npt.NDArray[np.uint8], colours: Floats) -> Iterator[tuple[int, int]]:
    """Yield pairs of thumbnails (n, 32, 32), one like the other or like a window of it."""
    windows = _windows()
    whole = np.concatenate([_frequencies(part, [(0, 0)])[:, 0] for part in _parts(thumbnails)])
    hashes, keys, descriptions = *_hashes_and_keys(whole), _weighted(whole)
    tables = [_Table.of(column) for column in keys]

    def alike_to(part: npt.NDArray[np.uint8]) -> tuple[Ints, Ints, Floats]:
        """Return window numbers (image, then window), images like them, correlations."""
        views = _frequencies(part, windows)
        own_hashes, own_keys = _hashes_and_keys(views)
        met = [
            _near_in_bits(*table.look_up(column), own_hashes, hashes)
            for table, column in zip(tables, own_keys, strict=True)
        ]
        view, other = np.divmod(np.unique(np.concatenate(met)), len(thumbnails))
        alike = np.einsum(
            "ij,ij->i", _weighted(views.reshape(-1, whole.shape[-1])[view]), descriptions[other]
        )
        kept = alike >= _ALIKE
        return view[kept], other[kept], alike[kept]

    found = ordered_map(alike_to, _parts(thumbnails), workers=cpu_count(), window=2 * cpu_count())
    numbered = [
        (view + number * _IMAGES_AT_ONCE * len(windows), other, alike)
        for number, (view, other, alike) in enumerate(found)
    ]
    view, other, alike = (np.concatenate(column) for column in zip(*numbered, strict=True))
    image, window = np.divmod(view, len(windows))
    best = _best_of_each_pair(image, other, alike)
    image, other, window = image[best], other[best], window[best]
    edges = np.array(
        [[*_stretches()[down], *_stretches()[across]] for down, across in windows], dtype=np.float32
    )
    details = details_alike(thumbnails, image, other, edges[window], _SAME[-1])
    same = (details >= _limit(details)) & (
        (details >= _SURE) | _like_in_colour(colours, image, other)
    )
    yield from zip(image[same].tolist(), other[same].tolist(), strict=True)


def _like_in_colour(colours: Floats, first: Ints, second: Ints) -> npt.NDArray[np.bool_]:
    """Return which pairs do not differ in colour; a grey image does not differ from any."""
    rows = colours.reshape(len(colours), -1)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    alike = np.einsum("ij,ij->i", rows[first], rows[second])
    grey = np.minimum(lengths[first], lengths[second]) < _GREY * np.sqrt(rows.shape[1])
    fits: npt.NDArray[np.bool_] = grey | (alike >= _SAME_COLOURS * lengths[first] * lengths[second])
    return fits


def _limit(details: Floats) -> float:
    """Return the correlation from which on pairs are near-duplicates.

    Near-duplicate photographs are above 0.9 and others below 0.83, with few in between.
    """
    for limit in _SAME:
        below = np.count_nonzero((details >= limit - _BELOW) & (details < limit))
        if below < _MANY or below <= np.count_nonzero(details >= limit):
            break
    return limit


def _best_of_each_pair(first: Ints, second: Ints, alike: Floats) -> Ints:
    """Return where each pair, in either order, is most alike; pairs of one image are left out."""
    places = np.flatnonzero(first != second)
    low, high = np.minimum(first, second)[places], np.maximum(first, second)[places]
    pair = (low << 32) | high
    order = np.lexsort((-alike[places], pair))
    new = np.append(True, np.diff(pair[order]) != 0)[: len(order)]
    best: Ints = places[order[new]]
    return best


def _parts(thumbnails: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(thumbnails), _IMAGES_AT_ONCE):
        yield thumbnails[start : start + _IMAGES_AT_ONCE]


def _frequencies(thumbnails: npt.NDArray[np.uint8], windows: Sequence[tuple[int, int]]) -> Floats:
    """Return the lowest frequencies of each window, without the mean: shape (n, windows, 63)."""
    used = 1 + max(max(window) for window in windows)
    transform = np.concatenate([_transform_of(*stretch) for stretch in _stretches()[:used]])
    every = transform @ thumbnails.astype(np.float32) @ transform.T
    places = (
        np.arange(every[0].size)
        .reshape(used, _FREQUENCIES, used, _FREQUENCIES)
        .transpose(0, 2, 1, 3)
    )
    chosen = places[tuple(np.transpose(windows))].reshape(len(windows), -1)[:, 1:]
    frequencies: Floats = np.take(every.reshape(len(thumbnails), -1), chosen, axis=1)
    return frequencies


def _weighted(frequencies: Floats) -> Floats:
    """Return rows of length 1 whose products are correlations, frequencies weighted equally."""
    # Natural images have amplitudes that fall with frequency (Field 1987).
    weights = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES]).ravel()[1:].astype(np.float32)
    rows = frequencies * weights
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    weighted: Floats = rows / np.maximum(lengths, 1e-6)
    return weighted


def _stretches() -> list[tuple[float, float]]:
    """Return the parts of a side that windows span, from 0 to 1; the first is all of it."""
    return [(0.0, 1.0)] + [
        (start, start + share)
        for share, count in _OFFSETS.items()
        for start in np.linspace(0, 1 - share, count).tolist()
    ]


def _windows() -> list[tuple[int, int]]:
    """Return windows as two numbers of stretches: whole, parts of one side or of both."""
    lengths = [round(end - start, 6) for start, end in _stretches()]
    every = range(len(lengths))
    return [(a, b) for a in every for b in every if 0 in (a, b) or lengths[a] == lengths[b]]


def _transform_of(start: float, end: float) -> Floats:
    """Return the matrix (8, 32) from the pixels of a side to the frequencies of a stretch."""
    places, waves = np.arange(_GRID) + 0.5, np.arange(_FREQUENCIES)[:, None]
    return (np.cos(np.pi / _GRID * waves * places) @ _averages(start, end)).astype(np.float32)


def _averages(start: float, end: float) -> npt.NDArray[np.float64]:
    """Return the matrix (16, 32) that averages a side over 16 equal stretches of a window."""
    edges = np.linspace(start, end, _GRID + 1) * THUMBNAIL_SIDE
    pixels = np.arange(THUMBNAIL_SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(overlap, 0)
    shares: npt.NDArray[np.float64] = covered / covered.sum(axis=1, keepdims=True)
    return shares


def _hashes_and_keys(frequencies: Floats) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Return the signs of (..., 63) frequencies as bits of (n,) numbers, and (16, n) keys."""
    signs = np.zeros((*frequencies.shape[:-1], _FREQUENCIES**2), dtype=bool)
    signs[..., 1:] = frequencies > 0
    # Exact: a float32 holds whole numbers of 24 bits. Picture by image, or BLAS would use more
    # threads for each.
    keys = (signs.astype(np.float32) @ _choices().T).reshape(-1, len(_choices()))
    return np.packbits(signs, axis=-1).view(np.uint64).ravel(), keys.T.astype(np.int64, order="C")


def _choices() -> Floats:
    """Return the matrix (16, 64) from bits to keys; four at a time share no bit."""
    random = np.random.default_rng(0)
    orders = [random.permutation(_FREQUENCIES**2) for _ in range(_ORDERS)]
    chosen = np.concatenate([order.reshape(4, -1)[:, :_BITS_PER_KEY] for order in orders])
    matrix = np.zeros((len(chosen), _FREQUENCIES**2), dtype=np.float32)
    np.put_along_axis(matrix, chosen, 2.0 ** np.arange(_BITS_PER_KEY), axis=1)
    return matrix


def _near_in_bits(
    queries: Ints, candidates: Ints, own: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]
) -> Ints:
    """Return the pairs whose hashes differ in few bits, as numbers: query * n + candidate."""
    near = np.bitwise_count(own[queries] ^ others[candidates]) <= _MOST_BITS_APART
    pairs: Ints = queries[near] * len(others) + candidates[near]
    return pairs
