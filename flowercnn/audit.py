"""What is wrong with a data set, as a value. Reads every picture, changes none."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from flowercnn.errors import FlowerCNNError, few
from flowercnn.parallel import cpu_count, ordered_map
from flowercnn.preprocessing.decode import decode, read_content
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.progress import tracked
from flowercnn.sources.base import Sample

if TYPE_CHECKING:
    from flowercnn.dataset import Dataset

__all__ = ["AuditReport", "audit"]

_TOO_FEW_TO_SPLIT = 3  # one each for train, val and test


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    Args:
        samples: How many pictures were looked at.
        class_counts: Pictures of each class.
        unusable: Key and reason of each picture that cannot be decoded.
        duplicates: Keys of pictures with exactly the same content, a tuple per content.
        conflicts: Those of the duplicates that carry different labels.
        too_small: Classes with too few pictures for train, val and test.
    """

    samples: int
    class_counts: dict[str, int]
    unusable: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    conflicts: tuple[tuple[str, ...], ...]
    too_small: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.unusable or self.duplicates or self.too_small)

    def summary(self) -> str:
        """Return what was found, a line each."""
        counts = self.class_counts.values()
        lines = [
            f"{self.samples} pictures of {len(self.class_counts)} classes, {min(counts)} to {max(counts)} per class",
            f"{len(self.unusable)} cannot be decoded: {few([f'{key}: {why}' for key, why in self.unusable])}",
            f"{len(self.duplicates)} groups of exact duplicates: {few([' = '.join(g) for g in self.duplicates])}",
            f"{len(self.conflicts)} of these with different labels: {few([' = '.join(g) for g in self.conflicts])}",
            f"{len(self.too_small)} classes too small to split: {few(self.too_small)}",
        ]
        return "\n".join(line.removesuffix(": ") for line in lines)


def audit(dataset: Dataset, *, progress: bool = True) -> AuditReport:
    """Decode every picture of a data set and compare contents.

    Args:
        dataset: What to look at.
        progress: Whether to show a progress bar.
    """
    results = ordered_map(_examine, dataset.samples, workers=cpu_count(), window=4 * cpu_count())
    unusable: list[tuple[str, str]] = []
    same: dict[str, list[Sample]] = defaultdict(list)
    shown = tracked(results, total=len(dataset), description="Auditing", unit="img", enabled=progress)
    for sample, (digest, error) in zip(dataset.samples, shown, strict=True):
        if error is not None:
            unusable.append((sample.key, error))
        if digest is not None:
            same[digest].append(sample)
    repeated = [samples for samples in same.values() if len(samples) > 1]
    counts = dataset.class_counts()
    return AuditReport(
        samples=len(dataset),
        class_counts=counts,
        unusable=tuple(unusable),
        duplicates=tuple(tuple(sample.key for sample in samples) for samples in repeated),
        conflicts=tuple(
            tuple(sample.key for sample in samples)
            for samples in repeated
            if len({sample.label for sample in samples}) > 1
        ),
        too_small=tuple(name for name, count in counts.items() if count < _TOO_FEW_TO_SPLIT),
    )


def _examine(sample: Sample) -> tuple[str | None, str | None]:
    """Return a hash of the content, if it can be read, and why it cannot be used, if so."""
    defaults = Preprocessing()
    digest = None
    try:
        content = read_content(sample.image)
        digest = hashlib.blake2b(
            content.tobytes() if isinstance(content, Image.Image) else content, digest_size=16
        ).hexdigest()
        decode(content, background=defaults.background, max_pixels=defaults.max_pixels)
    except FlowerCNNError as error:
        return digest, str(error)
    return digest, None
