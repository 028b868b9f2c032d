"""Grouping: samples that must stay in one part of a split, and pairs in two parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from flowercnn.data.duplicates import exact_duplicates, join, near_pairs
from flowercnn.data.inspection import Content
from flowercnn.sources import Sample

__all__ = ["Overlap", "find_overlaps", "in_a_later_part", "names_and_links", "units_of"]


class Overlap(NamedTuple):
    """Two samples in different parts that should not be.

    Args:
        first: Part and key, such as ``"train rose/1.jpg"``.
        second: Part and key of the other sample.
        reason: ``"same key"``, ``"same group"``, ``"same file"`` or ``"near-duplicate"``.
    """

    first: str
    second: str
    reason: str

    def __str__(self) -> str:
        return f"{self.first} = {self.second} ({self.reason})"


def names_and_links(
    samples: Sequence[Sample], contents: Sequence[Content] | None
) -> tuple[list[tuple[str, str]], list[list[int]]]:
    """Return the identity of each sample, and the positions of samples that belong together.

    Args:
        samples: Samples.
        contents: Inspection of each image, or ``None`` to ignore duplicates.
    """
    near = () if contents is None else near_pairs(contents)
    names = [
        _name(sample, None if contents is None else contents[index])
        for index, sample in enumerate(samples)
    ]
    return names, units_of(samples, contents, near)


def units_of(
    samples: Sequence[Sample], contents: Sequence[Content] | None, near: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Return the positions of samples of one group, exact duplicates, and the pairs ``near``."""
    exact = () if contents is None else _duplicates(contents)
    return join(len(samples), [*_same([sample.group for sample in samples]), *exact, *near])


def find_overlaps(
    samples: Sequence[Sample], contents: Sequence[Content], parts: Sequence[str]
) -> list[Overlap]:
    """Return the pairs of samples in different parts that are duplicates or of one group.

    Args:
        samples: Samples of all parts.
        contents: Inspection of each image.
        parts: Name of the part of each sample.
    """

    def named(index: int) -> str:
        return f"{parts[index]} {samples[index].key}"

    found: dict[tuple[int, int], Overlap] = {}
    for reason, links in (
        ("same key", _same([sample.key for sample in samples])),
        ("same group", _same([sample.group for sample in samples])),
        ("same file", _duplicates(contents)),
        ("near-duplicate", near_pairs(contents)),
    ):
        for pair in _across(links, parts):
            found.setdefault(pair, Overlap(named(pair[0]), named(pair[1]), reason))
    return [found[pair] for pair in sorted(found)]


def in_a_later_part(
    samples: Sequence[Sample], contents: Sequence[Content], parts: Sequence[int]
) -> set[int]:
    """Return the positions of samples that belong together with one of a later part.

    Args:
        samples: Samples of all parts.
        contents: Inspection of each image.
        parts: Number of the part of each sample.
    """
    doubled: set[int] = set()
    for together in names_and_links(samples, contents)[1]:
        last = max(parts[index] for index in together)
        doubled.update(index for index in together if parts[index] < last)
    return doubled


def _name(sample: Sample, content: Content | None) -> tuple[str, str]:
    if sample.group is not None:
        return "group", sample.group
    if content is None or content.digest is None or content.error is not None or content.blank:
        return "key", sample.key
    return "content", content.digest


def _same(values: Sequence[str | None]) -> Iterator[list[int]]:
    """Yield the positions of each value that occurs more than once."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if value is not None:
            places[value].append(index)
    yield from (same for same in places.values() if len(same) > 1)


def _duplicates(contents: Sequence[Content]) -> Iterator[list[int]]:
    """Yield the positions of exact duplicates; blank images are not duplicates."""
    yield from (same for same in exact_duplicates(contents) if not contents[same[0]].blank)


def _across(
    links: Iterator[list[int]] | Sequence[Sequence[int]], parts: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of positions that are linked but in different parts."""
    for link in links:
        yield from ((a, b) for a, b in combinations(sorted(link), 2) if parts[a] != parts[b])
