"""SVG charts in the colours of the page that contains them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby, starmap
from typing import Final

from flowercnn.evaluation.metrics import ReliabilityBin

__all__ = ["interval_chart", "line_chart", "reliability_chart"]

_WIDTH: Final = 340
_HEIGHT: Final = 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 30
_STYLES: Final = ("a", "b")


def interval_chart(value: float, low: float, high: float, *, chance: float) -> str:
    """Return a bar from 0 to 1 with a value, its interval, and the value by chance."""
    label = f"{value:.1%}, interval {low:.1%} to {high:.1%}, by chance {chance:.1%}"
    return (
        f'<svg class="interval" viewBox="0 0 1000 44" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">'
        '<rect x="0" y="17" width="1000" height="10" rx="5" style="fill:var(--track)"/>'
        f'<rect x="{1000 * low:.1f}" y="12" width="{1000 * (high - low):.1f}" height="20" rx="4" '
        f'class="bar"/><rect x="{1000 * value - 2:.1f}" y="6" width="4" height="32" rx="2" '
        f'style="fill:var(--accent)"/><rect x="{1000 * chance - 1:.1f}" y="12" width="2" '
        'height="20" style="fill:var(--soft)"/></svg>'
    )


def line_chart(
    title: str, curves: Mapping[str, Sequence[float]], *, top: float | None = None
) -> str:
    """Return curves over epochs, 0 at the bottom; empty if they have no finite value.

    Args:
        title: Title of the chart.
        curves: At most two, by name; a curve has a gap where a value is not finite.
        top: Top of the scale; by default the largest value.
    """
    finite = {name: [*filter(math.isfinite, values)] for name, values in curves.items()}
    last = {name: values[-1] for name, values in finite.items() if values}
    if not last:
        return ""
    highest = top or max(max(finite[name]) for name in last) or 1.0
    epochs = max(len(values) for values in curves.values())

    def place(epoch: int, value: float) -> str:
        return f"{_across(epoch / max(epochs - 1, 1)):.1f},{_down(value / highest):.1f}"

    styles = dict(zip(curves, _STYLES, strict=False))
    lines = "".join(
        f'<polyline class="{styles[name]}" points="{" ".join(starmap(place, stretch))}"/>'
        for name in last
        for stretch in _finite_stretches(curves[name])
    )
    keys = "".join(
        '<span class="key"><svg width="26" height="8" aria-hidden="true"><line x1="0" x2="26" '
        f'y1="4" y2="4" class="{styles[name]}"/></svg>{escape(name)} {value:.3g}</span>'
        for name, value in last.items()
    )
    label = "; ".join(f"{name} ends at {value:.3g}" for name, value in last.items())
    ticks = _scale(highest) + _label(_LEFT, "1") + _label(_WIDTH - _RIGHT, str(epochs))
    caption = f"<strong>{escape(title)}</strong> {keys}"
    return _figure(f"{title} over {epochs} epochs: {label}", ticks + lines, caption)


def reliability_chart(bins: Sequence[ReliabilityBin]) -> str:
    """Return accuracy over confidence; calibrated probabilities are on the diagonal."""
    ends = f'x1="{_across(0)}" y1="{_down(0)}" x2="{_across(1)}" y2="{_down(1)}"'
    diagonal = f'<line class="diagonal" {ends}/>'
    points = [(_across(each.confidence), _down(each.accuracy)) for each in bins]
    gaps = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_down(each.confidence):.1f}" y2="{y:.1f}" '
        'style="stroke:var(--band)" stroke-width="7"/>'
        for each, (x, y) in zip(bins, points, strict=True)
    )
    texts = [f"confidence {each.confidence:.0%}, accuracy {each.accuracy:.0%}" for each in bins]
    dots = "".join(
        f'<circle class="dot" r="4" cx="{x:.1f}" cy="{y:.1f}">'
        f"<title>{each.count} images: {text}</title></circle>"
        for each, text, (x, y) in zip(bins, texts, points, strict=True)
    )
    labels = ((0, "0"), (0.5, "confidence"), (1, "1"))
    ticks = _scale(1.0) + "".join(_label(_across(share), text) for share, text in labels)
    line = f'<polyline class="a" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    return _figure(
        f"Accuracy over confidence: {'; '.join(texts)}",
        ticks + diagonal + gaps + line + dots,
        "Accuracy over confidence. The dashed line is perfect.",
    )


def _finite_stretches(values: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    """Yield the positions and values of each run of finite values."""
    for finite, run in groupby(enumerate(values), key=lambda point: math.isfinite(point[1])):
        if finite:
            yield list(run)


def _across(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share


def _down(share: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _scale(highest: float) -> str:
    """Return lines and numbers at each quarter of the scale."""
    return "".join(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(share * highest)}</text>'
        for share, y in ((share, _down(share)) for share in (0, 0.25, 0.5, 0.75, 1))
    )


def _short(value: float) -> str:
    if value == 0 or value >= 0.01:  # noqa: PLR2004 - fits
        return f"{value:.2g}"
    return f"{value:.0e}".replace("e-0", "e-")


def _label(across: float, text: str) -> str:
    y = _HEIGHT - 10
    return f'<text x="{across:.1f}" y="{y}" text-anchor="middle">{escape(text)}</text>'


def _figure(label: str, body: str, caption: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{body}</svg><figcaption>{caption}</figcaption></figure>"
    )
