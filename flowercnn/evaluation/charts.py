"""Small charts as SVG, drawn in the colours of the page they stand in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Final

from flowercnn.evaluation.metrics import ReliabilityBin

__all__ = ["interval_chart", "line_chart", "reliability_chart"]

_WIDTH: Final = 340
_HEIGHT: Final = 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 30
_STYLES: Final = ("a", "b")


def interval_chart(value: float, low: float, high: float, *, chance: float) -> str:
    """Return a bar from 0 to 1 with a value, its interval, and what guessing would reach."""
    told = f"{value:.1%}, interval {low:.1%} to {high:.1%}, by chance {chance:.1%}"
    return (
        f'<svg class="interval" viewBox="0 0 1000 44" preserveAspectRatio="none" role="img" aria-label="{told}">'
        '<rect x="0" y="17" width="1000" height="10" rx="5" style="fill:var(--track)"/>'
        f'<rect x="{1000 * low:.1f}" y="12" width="{1000 * (high - low):.1f}" height="20" rx="4" class="bar"/>'
        f'<rect x="{1000 * value - 2:.1f}" y="6" width="4" height="32" rx="2" style="fill:var(--accent)"/>'
        f'<rect x="{1000 * chance - 1:.1f}" y="12" width="2" height="20" style="fill:var(--soft)"/></svg>'
    )


def line_chart(title: str, curves: Mapping[str, Sequence[float]], *, top: float | None = None) -> str:
    """Return curves over epochs, 0 at the bottom; nothing if they have no finite value.

    Args:
        title: What is drawn.
        curves: At most two, by name. Where a value is not finite, the curve has a gap.
        top: Of the scale; by default the largest value.
    """
    finite = {name: [value for value in values if math.isfinite(value)] for name, values in curves.items()}
    last = {name: values[-1] for name, values in finite.items() if values}
    if not last:
        return ""
    highest = top or max(max(finite[name]) for name in last) or 1.0
    epochs = max(len(values) for values in curves.values())

    def place(epoch: int, value: float) -> str:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch / max(epochs - 1, 1))
        return f"{across:.1f},{_down(value / highest):.1f}"

    styles = dict(zip(curves, _STYLES, strict=False))
    lines = "".join(
        f'<polyline class="{styles[name]}" points="{" ".join(place(*point) for point in stretch)}"/>'
        for name in last
        for stretch in _finite_stretches(curves[name])
    )
    keys = "".join(
        f'<span class="key"><svg width="26" height="8" aria-hidden="true"><line class="{styles[name]}" x1="0" '
        f'x2="26" y1="4" y2="4"/></svg>{escape(name)} {value:.3g}</span>'
        for name, value in last.items()
    )
    told = "; ".join(f"{name} ends at {value:.3g}" for name, value in last.items())
    ticks = _scale(highest) + _label(_LEFT, "1") + _label(_WIDTH - _RIGHT, str(epochs))
    return _figure(f"{title} over {epochs} epochs: {told}", ticks + lines, f"<strong>{escape(title)}</strong> {keys}")


def reliability_chart(bins: Sequence[ReliabilityBin]) -> str:
    """Return accuracy over confidence; on the diagonal confidence can be believed."""
    span = _WIDTH - _LEFT - _RIGHT
    diagonal = f'<line class="diagonal" x1="{_LEFT}" y1="{_down(0)}" x2="{_WIDTH - _RIGHT}" y2="{_down(1)}"/>'
    gaps = "".join(
        f'<line x1="{_LEFT + span * b.confidence:.1f}" x2="{_LEFT + span * b.confidence:.1f}" '
        f'y1="{_down(b.confidence):.1f}" y2="{_down(b.accuracy):.1f}" style="stroke:var(--band)" stroke-width="7"/>'
        for b in bins
    )
    points = " ".join(f"{_LEFT + span * b.confidence:.1f},{_down(b.accuracy):.1f}" for b in bins)
    dots = "".join(
        f'<circle class="dot" r="4" cx="{_LEFT + span * b.confidence:.1f}" cy="{_down(b.accuracy):.1f}"><title>'
        f"{b.count} pictures: confidence {b.confidence:.0%}, accuracy {b.accuracy:.0%}</title></circle>"
        for b in bins
    )
    ticks = _scale(1.0) + _label(_LEFT, "0") + _label(_WIDTH - _RIGHT, "1") + _label(_LEFT + span / 2, "confidence")
    told = "; ".join(f"confidence {b.confidence:.0%}, accuracy {b.accuracy:.0%}" for b in bins)
    body = ticks + diagonal + gaps + f'<polyline class="a" points="{points}"/>' + dots
    return _figure(f"Accuracy over confidence: {told}", body, "Accuracy over confidence. The dashed line is perfect.")


def _finite_stretches(values: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    """Yield the places and values of each run of finite values."""
    for finite, run in groupby(enumerate(values), key=lambda point: math.isfinite(point[1])):
        if finite:
            yield list(run)


def _down(share: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _scale(highest: float) -> str:
    """Lines and numbers at a quarter, a half and so on of the scale."""
    return "".join(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_down(share):.1f}" y2="{_down(share):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_down(share) + 4:.1f}" text-anchor="end">{_short(share * highest)}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if value == 0 or value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")  # noqa: PLR2004 - fits


def _label(across: float, text: str) -> str:
    return f'<text x="{across:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(text)}</text>'


def _figure(told: str, body: str, caption: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(told)}">{body}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
