"""Which samples belong on one side of a split, and which pairs are on two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from flowercnn.data.duplicates import exact_copies, join, near_pairs
from flowercnn.data.inspection import Content
from flowercnn.data.splitting import Overlap, Splits
from flowercnn.sources import Sample

if TYPE_CHECKING:
    from flowercnn.data.dataset import Dataset

__all__ = ["find_overlaps", "names_and_links", "overlapping", "units_of"]


def names_and_links(
    samples: Sequence[Sample], contents: Sequence[Content] | None
) -> tuple[list[tuple[str, str]], list[list[int]]]:
    """Return what each sample is known by, and the positions of samples that belong together.

    Args:
        samples: The samples.
        contents: What was read of them; ``None`` where copies are to be ignored.
    """
    near = () if contents is None else near_pairs(contents)
    names = [_name(sample, None if contents is None else contents[index]) for index, sample in enumerate(samples)]
    return names, units_of(samples, contents, near)


def units_of(
    samples: Sequence[Sample], contents: Sequence[Content] | None, near: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Return the positions of samples that belong together: of one group, exact copies, and the pairs ``near``."""
    exact = () if contents is None else _copies(contents)
    return join(len(samples), [*_same([sample.group for sample in samples]), *exact, *near])


def find_overlaps(parts: Mapping[str, Dataset], *, progress: bool) -> list[Overlap]:
    """Return the pairs of samples in different parts that are the same, or nearly, or of one group.

    Args:
        parts: Data sets by the name to call them by.
        progress: Whether to show a progress bar while pictures are read.
    """
    samples = [sample for part in parts.values() for sample in part.samples]
    side = [name for name, part in parts.items() for _ in part.samples]
    contents = [content for part in parts.values() for content in part.contents(progress=progress)]

    def told(index: int) -> str:
        return f"{side[index]} {samples[index].key}"

    found: dict[tuple[int, int], Overlap] = {}
    for reason, links in (
        ("same key", _same([sample.key for sample in samples])),
        ("same group", _same([sample.group for sample in samples])),
        ("same file", _copies(contents)),
        ("near-duplicate", near_pairs(contents)),
    ):
        for pair in _across(links, side):
            found.setdefault(pair, Overlap(told(pair[0]), told(pair[1]), reason))
    return [found[pair] for pair in sorted(found)]


def overlapping(splits: Splits) -> list[set[int]]:
    """Return, for each part, the positions of its samples that are in a later part too."""
    samples = [sample for part in splits for sample in part.samples]
    side = [number for number, part in enumerate(splits) for _ in part.samples]
    contents = [content for part in splits for content in part.contents(progress=False)]
    first = [0, len(splits.train), len(splits.train) + len(splits.val)]
    doubled: list[set[int]] = [set(), set(), set()]
    for together in names_and_links(samples, contents)[1]:
        last = max(side[index] for index in together)
        for index in together:
            if side[index] < last:
                doubled[side[index]].add(index - first[side[index]])
    return doubled


def _name(sample: Sample, content: Content | None) -> tuple[str, str]:
    if sample.group is not None:
        return "group", sample.group
    if content is None or content.digest is None or content.error is not None or content.blank:
        return "key", sample.key
    return "content", content.digest


def _same(values: Sequence[str | None]) -> Iterator[list[int]]:
    """Yield the positions of equal values, for each that occurs again."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if value is not None:
            places[value].append(index)
    yield from (same for same in places.values() if len(same) > 1)


def _copies(contents: Sequence[Content]) -> Iterator[list[int]]:
    """Yield the positions of exact copies; blank pictures show nothing that could be recognised."""
    yield from (copies for copies in exact_copies(contents) if not contents[copies[0]].blank)


def _across(links: Iterator[list[int]] | Sequence[Sequence[int]], side: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of positions that are linked but on different sides."""
    for link in links:
        yield from ((a, b) for a, b in combinations(sorted(link), 2) if side[a] != side[b])
