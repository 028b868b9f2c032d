"""Listing a source: its samples, checked before anything is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from flowercnn.errors import ConfigurationError, DataError, few
from flowercnn.sources import DataSource, Sample

__all__ = ["list_labelled"]


def list_labelled(source: DataSource, *, skip_unlabelled: bool) -> tuple[Sample, ...]:
    """Return the samples of a source that have a label.

    Args:
        source: Any object that yields samples.
        skip_unlabelled: Whether samples without a label are left out; otherwise they are an error.

    Raises:
        ConfigurationError: If the source yields something else.
        DataError: If there are no samples, a key occurs twice, or a sample has no label.
    """
    samples = list(_checked(source))
    unlabelled = [sample.key for sample in samples if sample.label is None]
    if unlabelled and not skip_unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(samples)} samples have no label: {few(unlabelled)}. "
            "Label them, or leave them out with unlabelled='skip'."
        )
    labelled = tuple(sample for sample in samples if sample.label is not None)
    if not labelled:
        raise DataError(
            f"The source has no {'labelled ' if samples else ''}samples. Received: {source!r}"
        )
    _refuse_repeated_keys(labelled)
    return labelled


def _checked(source: DataSource) -> Iterator[Sample]:
    """Yield the samples of a source, or raise an error for its author."""
    for sample in source:
        if not isinstance(sample, Sample):
            raise ConfigurationError(
                f"A source must yield flowercnn.Sample(key, label, image). "
                f"Received from {type(source).__name__}: {type(sample).__name__}"
            )
        yield sample


def _refuse_repeated_keys(samples: Sequence[Sample]) -> None:
    if len({sample.key for sample in samples}) == len(samples):
        return
    repeated = [
        f"{key!r} ({n} times)"
        for key, n in Counter(sample.key for sample in samples).items()
        if n > 1
    ]
    raise DataError(
        f"Every key must be unique. Received: {len(repeated)} repeated keys: {few(repeated)}"
    )
