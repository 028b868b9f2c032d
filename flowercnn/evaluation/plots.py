"""Pictures of results, as ``matplotlib.figure.Figure`` objects: nothing is shown, no global state is touched.

All are told apart by everybody (colours of Okabe & Ito 2008, and never by colour alone), on light ground or dark.
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

_SUFFIXES: Final = (".png", ".svg", ".pdf")
_MOST_LARGE_NAMES: Final = 30
_DARKER_HALF: Final = 0.5
_FAINTEST: Final = 0.2  # share of a colour: one mistake of a hundred pictures must be seen


@dataclass(frozen=True, slots=True)
class _Colours:
    ground: str
    ink: str
    right: str
    wrong: str
    band: str


_LIGHT: Final = _Colours(ground="white", ink="#22252a", right="#0072b2", wrong="#d55e00", band="#cfe3f2")
_DARK: Final = _Colours(ground="#1d2025", ink="#e8e6e1", right="#7cc0f2", wrong="#f59a62", band="#29465c")


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Save a figure to a file (``.png``, ``.svg`` or ``.pdf``), whole or not at all, and return its path.

    Raises:
        ConfigurationError: If the suffix is another.
        OutputError: If the file cannot be written.
    """
    if as_path(path).suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(f"A figure's name must end in .png, .svg or .pdf. Received: path={str(path)!r}")
    return write_result(path, lambda temporary: figure.savefig(temporary, dpi=120))


def history_figure(curves: Mapping[str, Sequence[float]], *, dark: bool = False) -> Any:
    """Return the curves of accuracy and loss over the epochs.

    Args:
        curves: A list per quantity, as `History.to_dict` has it.
        dark: Whether to draw on dark ground.
    """
    colours, figure = _new(10, 4, dark=dark)
    epochs = len(next(iter(curves.values()), ()))
    for axes, quantity in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for name, label, style, colour in (
            (quantity, "train", "-", colours.right),
            (f"val_{quantity}", "val", "--", colours.wrong),
        ):
            if name in curves:
                marker = "." if epochs == 1 else None
                axes.plot(range(1, epochs + 1), curves[name], style, label=label, marker=marker, color=colour)
        axes.set(xlabel="epoch", ylabel=quantity, title=quantity.capitalize())
        _dress(axes, colours, legend=bool(axes.lines))
        axes.set_ylim(bottom=0, top=1 if quantity == "accuracy" else None)
    return figure


def learning_rate_figure(curves: Mapping[str, Sequence[float]], *, dark: bool = False) -> Any:
    """Return the learning rate at the end of each epoch; the arguments are those of `history_figure`."""
    colours, figure = _new(6, 3.5, dark=dark)
    axes = figure.subplots()
    rates = curves.get("learning_rate", ())
    axes.plot(range(1, len(rates) + 1), rates, color=colours.right, marker="." if len(rates) == 1 else None)
    axes.set(xlabel="epoch", ylabel="learning rate", title="Learning rate")
    _dress(axes, colours)
    axes.set_ylim(bottom=0)
    return figure


def class_counts_figure(counts: Mapping[str, int], *, dark: bool = False) -> Any:
    """Return a bar per class with its number of pictures, as `Dataset.class_counts` gives them."""
    colours, figure = _new(7, 1.2 + 0.26 * len(counts), dark=dark)
    axes = figure.subplots()
    bars = axes.barh(range(len(counts)), list(counts.values()), color=colours.right)
    axes.bar_label(bars, padding=3, color=colours.ink, fontsize=8)
    axes.set_yticks(range(len(counts)), list(counts), parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="pictures", title="Pictures per class")
    _dress(axes, colours)
    return figure


def sample_grid(
    pictures: Sequence[npt.NDArray[np.uint8]], class_names: Sequence[str], *, columns: int = 6, dark: bool = False
) -> Any:
    """Return a figure of pictures with their class names.

    Args:
        pictures: uint8 arrays of shape (height, width, 3).
        class_names: One each.
        columns: How many side by side.
        dark: Whether to draw on dark ground.
    """
    colours, figure, grid = _grid(len(pictures), columns, dark=dark)
    for axes, picture, name in zip(grid, pictures, class_names, strict=False):
        axes.imshow(picture)
        axes.set_title(name, fontsize=9, color=colours.ink, parse_math=False)
    return figure


def confusion_figure(confusion: npt.NDArray[np.int64], class_names: Sequence[str], *, dark: bool = False) -> Any:
    """Return the confusion matrix as a figure: rows are true, colour is the share of the row, mistakes in another.

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
    ground, right, wrong = (np.array(to_rgb(colour)) for colour in (colours.ground, colours.right, colours.wrong))
    axes.imshow(ground + strength * (np.where(np.eye(count, dtype=bool)[..., None], right, wrong) - ground))
    size = 8 if many else 9
    axes.set_xticks(range(count), class_names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), class_names, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    _dress(axes, colours, grid=False)
    if many:  # thin lines lead the eye from a number to its names
        axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=colours.ink, alpha=0.12, linewidth=0.4)
        axes.tick_params(which="minor", length=0)
        top, right_side = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
        top.set_xticks(range(count), class_names, rotation=90, fontsize=size, color=colours.ink, parse_math=False)
        right_side.set_yticks(range(count), class_names, fontsize=size, color=colours.ink, parse_math=False)
    for row, column in np.argwhere(confusion > 0):
        colour = colours.ground if strength[row, column, 0] > _DARKER_HALF else colours.ink
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=size - 1)
    return figure


def reliability_figure(bins: Sequence[ReliabilityBin], *, dark: bool = False) -> Any:
    """Return accuracy over confidence: on the dashed line confidence can be believed.

    Args:
        bins: From `Evaluation.reliability`.
        dark: Whether to draw on dark ground.
    """
    colours, figure = _new(5, 5, dark=dark)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=colours.ink, alpha=0.6, label="perfect")
    confidence, accuracy = [each.confidence for each in bins], [each.accuracy for each in bins]
    axes.vlines(confidence, confidence, accuracy, color=colours.band, linewidth=7)
    axes.plot(
        confidence, accuracy, "o-", color=colours.right, label=f"{len(bins)} bins of about equally many pictures"
    )
    axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability", xlim=(0, 1), ylim=(0, 1))
    _dress(axes, colours, legend=True)
    return figure


def per_class_figure(per_class: Sequence[ClassMetrics], *, dark: bool = False) -> Any:
    """Return a bar per class with its recall and the interval of that, the hardest class last."""
    ordered = sorted(per_class, key=lambda each: -each.recall)
    colours, figure = _new(7, 1.2 + 0.26 * len(ordered), dark=dark)
    axes = figure.subplots()
    recalls = np.array([each.recall for each in ordered])
    ends = np.array([each.recall_interval for each in ordered]).reshape(-1, 2)
    errors = np.abs(np.stack([recalls - ends[:, 0], ends[:, 1] - recalls]))
    axes.barh(range(len(ordered)), recalls, xerr=errors, color=colours.right, ecolor=colours.ink, capsize=2)
    axes.set_yticks(range(len(ordered)), [each.class_name for each in ordered], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="recall, with 95 % interval", xlim=(0, 1), title="Recall per class")
    _dress(axes, colours)
    return figure


def prediction_grid(
    pictures: Sequence[npt.NDArray[np.uint8]],
    truth: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    *,
    dark: bool = False,
) -> Any:
    """Return a figure of pictures with what they are and what they were taken for.

    Args:
        pictures: uint8 arrays of shape (height, width, 3).
        truth: The true class names.
        predicted: The predicted ones.
        confidence: Their probabilities, 0-1.
        dark: Whether to draw on dark ground.
    """
    colours, figure, grid = _grid(len(pictures), 5, dark=dark)
    for axes, picture, true, guess, share in zip(grid, pictures, truth, predicted, confidence, strict=False):
        axes.imshow(picture)
        right = true == guess
        title = f"{guess} {share:.0%}" if right else f"{guess} {share:.0%}\nreally {true}"
        axes.set_title(title, fontsize=9, color=colours.right if right else colours.wrong, parse_math=False)
    return figure


def overlay_figure(
    pictures: Sequence[npt.NDArray[np.uint8]],
    overlays: Sequence[npt.NDArray[np.uint8]],
    titles: Sequence[str],
    *,
    dark: bool = False,
) -> Any:
    """Return pictures side by side with the same under a heat map, a row each.

    Args:
        pictures: uint8 arrays of shape (height, width, 3).
        overlays: Likewise, as `flowercnn.prediction.explain.Explanation.overlay` gives them.
        titles: One each.
        dark: Whether to draw on dark ground.
    """
    colours, figure, grid = _grid(2 * len(pictures), 2, dark=dark)
    for number, (picture, overlay, title) in enumerate(zip(pictures, overlays, titles, strict=True)):
        grid[2 * number].imshow(picture)
        grid[2 * number].set_title(title, fontsize=9, color=colours.ink, parse_math=False)
        grid[2 * number + 1].imshow(overlay)
        grid[2 * number + 1].set_title("what counted", fontsize=9, color=colours.ink)
    return figure


def _new(width: float, height: float, *, dark: bool) -> tuple[_Colours, Any]:
    from matplotlib.figure import Figure

    colours = _DARK if dark else _LIGHT
    return colours, Figure(figsize=(width, height), layout="constrained", facecolor=colours.ground)


def _grid(count: int, columns: int, *, dark: bool) -> tuple[_Colours, Any, npt.NDArray[Any]]:
    """Return colours, a figure, and its places for pictures, without axes."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    colours, figure = _new(2.2 * columns, 2.6 * rows, dark=dark)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    return colours, figure, places


def _dress(axes: Any, colours: _Colours, *, legend: bool = False, grid: bool = True) -> None:
    """Give axes the colours of the ground they are on."""
    axes.set_facecolor(colours.ground)
    axes.tick_params(colors=colours.ink)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_color(colours.ink)
    for spine in axes.spines.values():
        spine.set_color(colours.ink)
        spine.set_alpha(0.4)
    if grid:
        axes.grid(alpha=0.25, color=colours.ink)
        axes.set_axisbelow(True)
    if legend:
        axes.legend(facecolor=colours.ground, edgecolor=colours.band, labelcolor=colours.ink)
