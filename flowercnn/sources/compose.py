"""Sources made of sources; nothing is listed or read before iteration."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from flowercnn._utils import check_count, check_seed, stable_hash
from flowercnn.errors import ConfigurationError, DataError, UnknownNameError, closest
from flowercnn.sources.base import DataSource, Sample, declared_class_names

__all__ = ["concat", "filter", "limit", "map_labels"]


def concat(*sources: DataSource, **named: DataSource) -> DataSource:
    """Return the samples of several sources, one source after the other, as one source.

    The declared classes are those of all in order, if all declare theirs. Groups of the same name
    are one group.

    Args:
        *sources: Sources whose keys are taken as they are.
        **named: Sources whose keys are prefixed with the name and a ``/``, so that two folders with
            the same file names can be joined.

    Raises:
        ConfigurationError: If there is no source, or an argument is not a source.
        DataError: If two samples have the same key (when iterated).

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> both = concat(first=SyntheticFlowers(1, 2), second=SyntheticFlowers(1, 2, seed=1))
        >>> [sample.key for sample in both]
        ['first/daisy/0000', 'first/tulip/0000', 'second/daisy/0000', 'second/tulip/0000']
    """
    if not sources and not named:
        raise ConfigurationError("concat needs at least one source. Received: none")
    parts = [("", _checked(source)) for source in sources]
    parts += [(f"{name}/", _checked(source)) for name, source in named.items()]
    return _Concat(tuple(parts))


def filter(  # noqa: A001 - sources.filter is clear
    source: DataSource, keep: Callable[[Sample], bool]
) -> DataSource:
    """Return a source with the samples for which ``keep`` is true, with the same classes.

    Args:
        source: Source to choose from.
        keep: Function of a `Sample`.

    Raises:
        ConfigurationError: If an argument is of the wrong kind.

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> tulips = filter(SyntheticFlowers(2, 2), lambda sample: sample.label == "tulip")
        >>> [sample.key for sample in tulips]
        ['tulip/0000', 'tulip/0001']
    """
    if not callable(keep):
        raise ConfigurationError(f"keep must be a function of a Sample. Received: keep={keep!r}")
    return _Filter(_checked(source), keep)


def map_labels(
    source: DataSource, mapping: Mapping[str, str | None] | Callable[[str], str | None]
) -> DataSource:
    """Return a source with other class names: renamed, or several merged into one.

    Args:
        source: Source of the samples. Those without a label stay without.
        mapping: Mapping of old names to new ones, where missing names stay; or a function of the
            old name. The new name ``None`` removes the label; to remove the sample too, use
            ``Dataset.from_source(..., unlabelled="skip")``.

    Raises:
        ConfigurationError: If an argument is of the wrong kind.
        UnknownNameError: If the mapping has a name that no sample has (when iterated to the end).

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> flowers = map_labels(SyntheticFlowers(1, 3), {"tulip": "other", "sunflower": "other"})
        >>> flowers.class_names, [sample.label for sample in flowers]
        (('daisy', 'other'), ['daisy', 'other', 'other'])
    """
    if not isinstance(mapping, Mapping) and not callable(mapping):
        raise ConfigurationError(
            f"mapping must be a mapping or a function of a name. Received: mapping={mapping!r}"
        )
    return _MapLabels(_checked(source), mapping)


def limit(source: DataSource, *, per_class: int, seed: int | None = None) -> DataSource:
    """Return a source with at most ``per_class`` samples of each class.

    Samples without a label count as a class.

    Args:
        source: Source to choose from.
        per_class: Number of samples, at least 1.
        seed: Seed of the choice, the same for the same keys; ``None`` takes the first samples.

    Raises:
        ConfigurationError: If an argument has a type or value it cannot have.

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> [sample.key for sample in limit(SyntheticFlowers(5, 2), per_class=1)]
        ['daisy/0000', 'tulip/0000']
    """
    count = check_count("per_class", per_class)
    return _Limit(_checked(source), count, None if seed is None else check_seed(seed))


@dataclass(frozen=True, slots=True)
class _Concat:
    parts: tuple[tuple[str, DataSource], ...]

    def __iter__(self) -> Iterator[Sample]:
        seen: set[str] = set()
        for prefix, source in self.parts:
            for sample in _samples(source):
                new = replace(sample, key=prefix + sample.key) if prefix else sample
                if new.key in seen:
                    raise DataError(
                        f"Two samples have the key {new.key!r}. Name the sources, such as "
                        "concat(garden=..., field=...), to put the names in front of the keys."
                    )
                seen.add(new.key)
                yield new

    @property
    def class_names(self) -> tuple[str, ...] | None:
        declared = [declared_class_names(source) for _, source in self.parts]
        if not all(declared):
            return None
        return tuple(dict.fromkeys(name for names in declared for name in names or ()))


@dataclass(frozen=True, slots=True)
class _Filter:
    source: DataSource
    keep: Callable[[Sample], bool]

    def __iter__(self) -> Iterator[Sample]:
        return (sample for sample in _samples(self.source) if self.keep(sample))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return declared_class_names(self.source)


@dataclass(frozen=True, slots=True)
class _MapLabels:
    source: DataSource
    mapping: Mapping[str, str | None] | Callable[[str], str | None]

    def __iter__(self) -> Iterator[Sample]:
        seen = set(declared_class_names(self.source) or ())
        for sample in _samples(self.source):
            if sample.label is None:
                yield sample
                continue
            seen.add(sample.label)
            new = self._new(sample.label)
            yield sample if new == sample.label else replace(sample, label=new)
        for name in self.mapping if isinstance(self.mapping, Mapping) else ():
            if name not in seen:
                raise UnknownNameError(
                    f"No sample has this label of mapping.{closest(name, seen)} Received: {name!r}"
                )

    @property
    def class_names(self) -> tuple[str, ...] | None:
        declared = declared_class_names(self.source)
        if declared is None:
            return None
        new = map(self._new, declared)
        return tuple(dict.fromkeys(name for name in new if name is not None))

    def _new(self, name: str) -> str | None:
        return (
            self.mapping.get(name, name)
            if isinstance(self.mapping, Mapping)
            else self.mapping(name)
        )


@dataclass(frozen=True, slots=True)
class _Limit:
    source: DataSource
    per_class: int
    seed: int | None

    def __iter__(self) -> Iterator[Sample]:
        if self.seed is not None:
            yield from self._drawn(self.seed)
            return
        counts: defaultdict[str | None, int] = defaultdict(int)
        for sample in _samples(self.source):
            counts[sample.label] += 1
            if counts[sample.label] <= self.per_class:
                yield sample

    def _drawn(self, seed: int) -> Iterator[Sample]:
        """Yield the samples with the lowest hashes of each class, in the order of the source."""
        chosen: defaultdict[str | None, list[tuple[int, int, Sample]]] = defaultdict(list)
        for place, sample in enumerate(_samples(self.source)):
            heap = chosen[sample.label]
            item = (-stable_hash(seed, "limit", sample.key), place, sample)
            if len(heap) < self.per_class:
                heapq.heappush(heap, item)
            else:
                heapq.heappushpop(heap, item)
        drawn = (item for heap in chosen.values() for item in heap)
        for _, _, sample in sorted(drawn, key=lambda item: item[1]):
            yield sample

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return declared_class_names(self.source)


def _checked(source: DataSource) -> DataSource:
    if isinstance(source, (str, bytes)) or not isinstance(source, DataSource):
        raise ConfigurationError(
            "Every source must be an object that yields samples, such as "
            f"flowercnn.ImageFolder('photos'). Received: {type(source).__name__} {source!r}"
        )
    return source


def _samples(source: DataSource) -> Iterator[Sample]:
    """Yield the samples of a source; a list may hold anything."""
    for sample in source:
        if not isinstance(sample, Sample):
            raise ConfigurationError(
                "A source must yield flowercnn.Sample(key, label, image). "
                f"Received from {type(source).__name__}: {type(sample).__name__}"
            )
        yield sample
