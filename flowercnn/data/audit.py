"""Audit: faults of the images and classes of a data set, as a value."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import PurePath
from typing import Any, Final, Literal

import numpy as np

from flowercnn.data.duplicates import exact_duplicates, join, near_pairs
from flowercnn.data.grouping import units_of
from flowercnn.data.inspection import Content
from flowercnn.errors import counted, few
from flowercnn.sources import Sample

__all__ = ["KINDS", "AuditReport", "Finding", "FindingKind", "audit"]

FindingKind = Literal[
    "unreadable",
    "truncated",
    "wrong_suffix",
    "tiny",
    "huge",
    "odd_aspect",
    "blank",
    "rotated",
    "exact_duplicates",
    "near_duplicates",
    "label_conflict",
    "imbalance",
    "small_class",
]

_TINY: Final = 32  # pixels of the shorter side
_HUGE: Final = 20_000_000  # pixels
_ODD_ASPECT: Final = 2.5
_IMBALANCE: Final = 5.0
_TOO_FEW_TO_SPLIT: Final = 3  # one each for train, val and test

KINDS: Final[dict[FindingKind, str]] = {
    "unreadable": "cannot be read or decoded",
    "truncated": "cut short: the end of the file is missing",
    "wrong_suffix": "not of the format that the suffix says",
    "tiny": f"tiny: a side is shorter than {_TINY} pixels",
    "huge": f"huge: more than {_HUGE // 10**6} million pixels",
    "odd_aspect": f"of odd proportions: one side is at least {_ODD_ASPECT} times the other",
    "blank": "blank, or nearly: one colour",
    "rotated": "stored rotated, with the EXIF orientation to undo it (not a fault)",
    "exact_duplicates": "groups of the same file",
    "near_duplicates": "groups of nearly the same image",
    "label_conflict": "groups of the same image under different labels",
    "imbalance": f"imbalance: the largest class is {_IMBALANCE:g} times the smallest",
    "small_class": f"classes with fewer than {_TOO_FEW_TO_SPLIT} distinct images, too few to split",
}
"""Meaning of each kind of finding. All but ``rotated`` are faults."""

_SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_FORMAT_OF: Final = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes}
_SAME_FORMAT: Final = {"MPO": "JPEG", "DIB": "BMP"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of an audit.

    Args:
        kind: Kind of finding, a key of `KINDS`.
        keys: Keys of the images, or names of the classes.
        detail: What was measured.
    """

    kind: FindingKind
    keys: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Report of an audit.

    Args:
        samples: Number of images.
        class_counts: Number of images of each class.
        findings: All findings, in the order of `KINDS`.
    """

    samples: int
    class_counts: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there are no faults; images stored rotated are not a fault."""
        return all(finding.kind == "rotated" for finding in self.findings)

    def of(self, *kinds: FindingKind) -> tuple[Finding, ...]:
        """Return the findings of the given kinds."""
        return tuple(finding for finding in self.findings if finding.kind in kinds)

    def counts(self) -> dict[FindingKind, int]:
        """Return the number of findings of each kind, including zeros."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS}

    @property
    def unusable(self) -> tuple[tuple[str, str], ...]:
        """Key and reason of each image that cannot be decoded or is cut short."""
        return tuple((f.keys[0], f.detail) for f in self.of("unreadable", "truncated"))

    @property
    def duplicates(self) -> tuple[tuple[str, ...], ...]:
        """Keys of images with exactly the same content, a tuple per content."""
        return tuple(finding.keys for finding in self.of("exact_duplicates"))

    @property
    def near_duplicates(self) -> tuple[tuple[str, ...], ...]:
        """Keys of near-duplicates, a tuple per group."""
        return tuple(finding.keys for finding in self.of("near_duplicates"))

    @property
    def conflicts(self) -> tuple[tuple[str, ...], ...]:
        """Keys of duplicates under different labels, a tuple per group."""
        return tuple(finding.keys for finding in self.of("label_conflict"))

    @property
    def too_small(self) -> tuple[str, ...]:
        """Classes with too few distinct images for train, val and test."""
        return tuple(finding.keys[0] for finding in self.of("small_class"))

    def table(self) -> list[dict[str, str]]:
        """Return a dict per finding with ``kind``, ``keys`` and ``detail``, for a DataFrame."""
        return [
            {"kind": f.kind, "keys": " = ".join(f.keys), "detail": f.detail} for f in self.findings
        ]

    def summary(self) -> str:
        """Return a line for each kind of finding."""
        lines = [_headline(self)]
        for kind, count in self.counts().items():
            if count:
                lines.append(
                    f"{count} {KINDS[kind]}: {few([_described(each) for each in self.of(kind)])}"
                )
        return "\n".join(lines if len(lines) > 1 else [*lines, "Nothing found."])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        return {
            "samples": self.samples,
            "class_counts": self.class_counts,
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self, limit: int = 50) -> str:
        """Return the report as HTML: a table for each kind, names escaped.

        Args:
            limit: Number of findings listed for each kind; the others are counted.
        """
        parts = [f"<p>{escape(_headline(self))}.</p>"]
        for kind, count in self.counts().items():
            if not count:
                continue
            rows = "".join(
                f"<tr><td>{escape(' = '.join(each.keys))}</td><td>{escape(each.detail)}</td></tr>"
                for each in self.of(kind)[:limit]
            )
            more = f"<p>and {count - limit} more</p>" if count > limit else ""
            parts.append(
                f"<details><summary><strong>{count}</strong> {escape(KINDS[kind])}</summary>"
                f"<table><tbody>{rows}</tbody></table>{more}</details>"
            )
        if len(parts) == 1:
            parts.append("<p>Nothing found.</p>")
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return self.to_html()


def audit(
    samples: Sequence[Sample],
    labels: Sequence[int],
    class_names: Sequence[str],
    contents: Sequence[Content],
) -> AuditReport:
    """Return the faults of the images and classes of a data set.

    Args:
        samples: Samples.
        labels: Label of each sample.
        class_names: Class names in the order of the labels.
        contents: Inspection of each image.
    """
    near = near_pairs(contents)
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    units = np.zeros(len(class_names), dtype=np.int64)
    for together in units_of(samples, contents, near):
        units[np.unique(np.asarray(labels)[together])] += 1
    findings = [
        *_of_images(samples, contents),
        *_of_duplicates(samples, contents, near),
        *_of_classes(class_names, counts, units.tolist()),
    ]
    order = {kind: place for place, kind in enumerate(KINDS)}
    findings.sort(key=lambda finding: order[finding.kind])
    return AuditReport(len(samples), dict(zip(class_names, counts, strict=True)), tuple(findings))


def _of_images(samples: Sequence[Sample], contents: Sequence[Content]) -> Iterator[Finding]:
    for sample, content in zip(samples, contents, strict=True):
        for kind, detail in _faults_of(sample, content):
            yield Finding(kind, (sample.key,), detail)


def _faults_of(sample: Sample, content: Content) -> Iterator[tuple[FindingKind, str]]:
    width, height = content.size
    short, long = sorted((width, height))
    if content.truncated:
        yield "truncated", content.error or "the image has no end mark, but can be decoded"
    elif content.error is not None and long * short <= _HUGE:
        yield "unreadable", content.error
    suffix = _suffix(sample)
    actual = _SAME_FORMAT.get(content.format or "", content.format)
    if actual is not None and suffix in _FORMAT_OF and _FORMAT_OF[suffix] != actual:
        yield "wrong_suffix", f"{actual} content in a file named {suffix}"
    if long and short < _TINY:
        yield "tiny", f"{width} x {height}"
    if long * short > _HUGE:
        yield "huge", f"{width} x {height}" + (f"; {content.error}" if content.error else "")
    if long and long >= _ODD_ASPECT * short:
        yield "odd_aspect", f"{width} x {height}"
    if content.blank:
        yield "blank", f"{width} x {height}"
    if content.rotated:
        yield "rotated", f"{width} x {height} as stored"


def _suffix(sample: Sample) -> str:
    name = os.fspath(sample.image) if isinstance(sample.image, (str, os.PathLike)) else sample.key
    return PurePath(name).suffix.lower()


def _of_duplicates(
    samples: Sequence[Sample], contents: Sequence[Content], near: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    exact = exact_duplicates(contents)
    for group in exact:
        yield Finding("exact_duplicates", _keys(samples, group), _labels(samples, group))
    of_near = {index for pair in near for index in pair}
    for group in join(len(samples), near):
        if group[0] in of_near:
            yield Finding("near_duplicates", _keys(samples, group), _labels(samples, group))
    visible = [group for group in exact if not contents[group[0]].blank]
    for group in join(len(samples), [*visible, *near]):
        if len({samples[index].label for index in group}) > 1:
            yield Finding("label_conflict", _keys(samples, group), _labels(samples, group))


def _of_classes(
    class_names: Sequence[str], counts: Sequence[int], units: Sequence[int]
) -> Iterator[Finding]:
    present = [label for label, count in enumerate(counts) if count]
    if not present:
        return
    largest, smallest = (
        max(present, key=lambda label: counts[label]),
        min(present, key=lambda label: counts[label]),
    )
    if counts[largest] >= _IMBALANCE * counts[smallest]:
        named = (class_names[largest], class_names[smallest])
        sizes = [f"{class_names[i]}: {counted(counts[i], 'image')}" for i in (largest, smallest)]
        yield Finding("imbalance", named, ", ".join(sizes))
    for label, name in enumerate(class_names):
        if units[label] < _TOO_FEW_TO_SPLIT:
            images = counted(counts[label], "image")
            grouped = (
                "" if units[label] == counts[label] else f" in {counted(units[label], 'group')}"
            )
            yield Finding("small_class", (name,), images + grouped)


def _keys(samples: Sequence[Sample], group: Sequence[int]) -> tuple[str, ...]:
    return tuple(samples[index].key for index in group)


def _labels(samples: Sequence[Sample], group: Sequence[int]) -> str:
    return ", ".join(sorted({str(samples[index].label) for index in group}))


def _headline(report: AuditReport) -> str:
    counts = report.class_counts.values()
    spread = f", {min(counts)} to {max(counts)} per class" if counts else ""
    return f"{counted(report.samples, 'image')} of {len(counts)} classes{spread}"


def _described(finding: Finding) -> str:
    together = finding.kind in ("exact_duplicates", "near_duplicates", "label_conflict")
    keys = (" = " if together else ", ").join(finding.keys)
    return (
        keys
        if finding.kind in ("exact_duplicates", "near_duplicates")
        else f"{keys} ({finding.detail})"
    )
