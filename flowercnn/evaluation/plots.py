"""Plots as ``matplotlib.figure.Figure`` objects, without pyplot and its global state.

Colours are those of Okabe & Ito (2008), safe for colour-blind readers, on light or dark ground.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import as_path, write_result
from flowercnn.errors import ConfigurationError

if TYPE_CHECKING:
    from flowercnn.evaluation.metrics import ClassMetrics, ReliabilityBin

__all__ = [
    "class_counts_figure",
    "confusion_figure",
    "history_figure",
    "learning_rate_figure",
    "overlay_figure",
    "per_class_figure",
    "prediction_grid",
    "reliability_figure",
    "sample_grid",
    "save_figure",
]

Images = Sequence[npt.NDArray[np.uint8]]

_SUFFIXES: Final = (".png", ".svg", ".pdf")
_MOST_LARGE_NAMES: Final = 30
_DARKER_HALF: Final = 0.5
_FAINTEST: Final = 0.2  # share of a colour: one mistake in a hundred images must be visible


@dataclass(frozen=True, slots=True)
class _Colours:
    ground: str
    ink: str
    right: str
    wrong: str
    band: str


_LIGHT: Final = _Colours("white", "#22252a", "#0072b2", "#d55e00", "#cfe3f2")
_DARK: Final = _Colours("#1d2025", "#e8e6e1", "#7cc0f2", "#f59a62", "#29465c")


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Save a figure (``.png``, ``.svg`` or ``.pdf``), whole or not at all, and return its path.

    Raises:
        ConfigurationError: If the suffix is another.
        OutputError: If the file cannot be written.
    """
    if as_path(path).suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(
            f"A figure's name must end in .png, .svg or .pdf. Received: path={str(path)!r}"
        )
    return write_result(path, lambda temporary: figure.savefig(temporary, dpi=120))


def history_figure(curves: Mapping[str, Sequence[float]], *, dark: bool = False) -> Any:
    """Return the curves of accuracy and loss over the epochs.

    Args:
        curves: Values of each quantity, as from `History.to_dict`.
        dark: Whether to draw on dark ground.
    """
    colours, figure = _new(10, 4, dark=dark)
    epochs = len(next(iter(curves.values()), ()))
    for axes, quantity in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        lines = ((quantity, "train", "-"), (f"val_{quantity}", "val", "--"))
        for (name, label, style), colour in zip(lines, (colours.right, colours.wrong), strict=True):
            if name in curves:
                look = {"label": label, "color": colour, "marker": "." if epochs == 1 else None}
                axes.plot(range(1, epochs + 1), curves[name], style, **look)
        axes.set(xlabel="epoch", ylabel=quantity, title=quantity.capitalize())
        _dress(axes, colours, legend=bool(axes.lines))
        axes.set_ylim(bottom=0, top=1 if quantity == "accuracy" else None)
    return figure


def learning_rate_figure(curves: Mapping[str, Sequence[float]], *, dark: bool = False) -> Any:
    """Return the learning rate at the end of each epoch; arguments as in `history_figure`."""
    colours, figure = _new(6, 3.5, dark=dark)
    axes = figure.subplots()
    rates = curves.get("learning_rate", ())
    marker = "." if len(rates) == 1 else None
    axes.plot(range(1, len(rates) + 1), rates, color=colours.right, marker=marker)
    axes.set(xlabel="epoch", ylabel="learning rate", title="Learning rate")
    _dress(axes, colours)
    axes.set_ylim(bottom=0)
    return figure


def class_counts_figure(counts: Mapping[str, int], *, dark: bool = False) -> Any:
    """Return a bar chart of the number of images of each class, as from `Dataset.class_counts`."""
    colours, figure = _new(7, 1.2 + 0.26 * len(counts), dark=dark)
    axes = figure.subplots()
    bars = axes.barh(range(len(counts)), list(counts.values()), color=colours.right)
    axes.bar_label(bars, padding=3, color=colours.ink, fontsize=8)
    axes.set_yticks(range(len(counts)), list(counts), parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="images", title="Images per class")
    _dress(axes, colours)
    return figure


def sample_grid(
    images: Images, class_names: Sequence[str], *, columns: int = 6, dark: bool = False
) -> Any:
    """Return a grid of images with their class names.

    Args:
        images: uint8 arrays of shape (height, width, 3).
        class_names: One per image.
        columns: Number of columns.
        dark: Whether to draw on dark ground.
    """
    colours, figure, grid = _grid(len(images), columns, dark=dark)
    for axes, image, name in zip(grid, images, class_names, strict=False):
        axes.imshow(image)
        axes.set_title(name, fontsize=9, color=colours.ink, parse_math=False)
    return figure


def confusion_figure(
    confusion: npt.NDArray[np.int64], class_names: Sequence[str], *, dark: bool = False
) -> Any:
    """Return the confusion matrix: rows are true classes, the colour is the share of the row.

    Args:
        confusion: Shape (num_classes, num_classes), counts.
        class_names: In order.
        dark: Whether to draw on dark ground.
    """
    from matplotlib.colors import to_rgb

    count = len(class_names)
    many = count > _MOST_LARGE_NAMES
    side = 3 + (0.29 if many else 0.42) * count
    colours, figure = _new(side, side, dark=dark)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    strength = np.where(confusion > 0, _FAINTEST + (1 - _FAINTEST) * shares, 0)[..., None]
    ground, right, wrong = map(
        np.array, map(to_rgb, (colours.ground, colours.right, colours.wrong))
    )
    full = np.where(np.eye(count, dtype=bool)[..., None], right, wrong)
    axes.imshow(ground + strength * (full - ground))
    size = 8 if many else 9
    ticks = {"ticks": range(count), "labels": class_names, "fontsize": size, "parse_math": False}
    axes.set_xticks(**ticks, rotation=90)
    axes.set_yticks(**ticks)
    axes.set(xlabel="predicted", ylabel="true")
    _dress(axes, colours, grid=False)
    if many:  # thin lines connect each number with its names
        axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=colours.ink, alpha=0.12, linewidth=0.4)
        axes.tick_params(which="minor", length=0)
        axes.secondary_xaxis("top").set_xticks(**ticks, rotation=90, color=colours.ink)
        axes.secondary_yaxis("right").set_yticks(**ticks, color=colours.ink)
    for row, column in np.argwhere(confusion > 0):
        colour = colours.ground if strength[row, column, 0] > _DARKER_HALF else colours.ink
        place = {"ha": "center", "va": "center", "fontsize": size - 1}
        axes.text(column, row, str(confusion[row, column]), color=colour, **place)
    return figure


def reliability_figure(bins: Sequence[ReliabilityBin], *, dark: bool = False) -> Any:
    """Return the reliability diagram; calibrated probabilities are on the dashed line.

    Args:
        bins: From `Evaluation.reliability`.
        dark: Whether to draw on dark ground.
    """
    colours, figure = _new(5, 5, dark=dark)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=colours.ink, alpha=0.6, label="perfect")
    confidence = [each.confidence for each in bins]
    accuracy = [each.accuracy for each in bins]
    axes.vlines(confidence, confidence, accuracy, color=colours.band, linewidth=7)
    label = f"{len(bins)} bins of about equally many images"
    axes.plot(confidence, accuracy, "o-", color=colours.right, label=label)
    axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability", xlim=(0, 1), ylim=(0, 1))
    _dress(axes, colours, legend=True)
    return figure


def per_class_figure(per_class: Sequence[ClassMetrics], *, dark: bool = False) -> Any:
    """Return a bar chart of the recall of each class with its interval, the hardest last."""
    ordered = sorted(per_class, key=lambda each: -each.recall)
    colours, figure = _new(7, 1.2 + 0.26 * len(ordered), dark=dark)
    axes = figure.subplots()
    recalls = np.array([each.recall for each in ordered])
    ends = np.array([each.recall_interval for each in ordered]).reshape(-1, 2)
    errors = np.abs(np.stack([recalls - ends[:, 0], ends[:, 1] - recalls]))
    rows = range(len(ordered))
    axes.barh(rows, recalls, xerr=errors, color=colours.right, ecolor=colours.ink, capsize=2)
    axes.set_yticks(rows, [each.class_name for each in ordered], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="recall, with 95 % interval", xlim=(0, 1), title="Recall per class")
    _dress(axes, colours)
    return figure


def prediction_grid(
    images: Images,
    truth: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    *,
    dark: bool = False,
) -> Any:
    """Return a grid of images with their predicted and, where it differs, true classes.

    Args:
        images: uint8 arrays of shape (height, width, 3).
        truth: True class names.
        predicted: Predicted class names.
        confidence: Probabilities of the predicted classes, 0-1.
        dark: Whether to draw on dark ground.
    """
    colours, figure, grid = _grid(len(images), 5, dark=dark)
    rows = zip(grid, images, truth, predicted, confidence, strict=False)
    for axes, image, true, prediction, share in rows:
        axes.imshow(image)
        right = true == prediction
        title = f"{prediction} {share:.0%}" + ("" if right else f"\nreally {true}")
        colour = colours.right if right else colours.wrong
        axes.set_title(title, fontsize=9, color=colour, parse_math=False)
    return figure


def overlay_figure(
    images: Images, overlays: Images, titles: Sequence[str], *, dark: bool = False
) -> Any:
    """Return images beside their heat maps, one row each.

    Args:
        images: uint8 arrays of shape (height, width, 3).
        overlays: Likewise, as from `flowercnn.prediction.Explanation.overlay`.
        titles: One per image.
        dark: Whether to draw on dark ground.
    """
    colours, figure, grid = _grid(2 * len(images), 2, dark=dark)
    for number, (image, overlay, title) in enumerate(zip(images, overlays, titles, strict=True)):
        grid[2 * number].imshow(image)
        grid[2 * number].set_title(title, fontsize=9, color=colours.ink, parse_math=False)
        grid[2 * number + 1].imshow(overlay)
        grid[2 * number + 1].set_title("explanation", fontsize=9, color=colours.ink)
    return figure


def _new(width: float, height: float, *, dark: bool) -> tuple[_Colours, Any]:
    from matplotlib.figure import Figure

    colours = _DARK if dark else _LIGHT
    return colours, Figure(figsize=(width, height), layout="constrained", facecolor=colours.ground)


def _grid(count: int, columns: int, *, dark: bool) -> tuple[_Colours, Any, npt.NDArray[Any]]:
    """Return colours, a figure, and its axes for images, which are not drawn."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    colours, figure = _new(2.2 * columns, 2.6 * rows, dark=dark)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    return colours, figure, grid


def _dress(axes: Any, colours: _Colours, *, legend: bool = False, grid: bool = True) -> None:
    """Set the colours of axes."""
    axes.set_facecolor(colours.ground)
    axes.tick_params(colors=colours.ink)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(colours.ink)
    for spine in axes.spines.values():
        spine.set_color(colours.ink)
        spine.set_alpha(0.4)
    if grid:
        axes.grid(alpha=0.25, color=colours.ink)
        axes.set_axisbelow(True)
    if legend:
        axes.legend(facecolor=colours.ground, edgecolor=colours.band, labelcolor=colours.ink)
