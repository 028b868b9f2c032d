"""Pictures of results, as ``matplotlib.figure.Figure`` objects: nothing is shown, no global state is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["confusion_figure", "prediction_grid"]

_RIGHT, _WRONG = "#0072b2", "#d55e00"  # blue and vermilion of Okabe & Ito: told apart by everybody
_MOST_NUMBERED_CLASSES = 30


def confusion_figure(confusion: npt.NDArray[np.int64], class_names: Sequence[str]) -> Any:
    """Return the confusion matrix as a figure: rows are true, colour is the share of the row.

    Args:
        confusion: Shape (num_classes, num_classes), counts.
        class_names: In order.
    """
    from matplotlib.figure import Figure

    count = len(class_names)
    side = min(3 + 0.42 * count, 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= _MOST_NUMBERED_CLASSES else 5
    axes.set_xticks(range(count), class_names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), class_names, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(confusion > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"  # noqa: PLR2004 - the darker half of the scale
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=size - 1)
    return figure


def prediction_grid(
    pictures: Sequence[npt.NDArray[np.uint8]],
    truth: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
) -> Any:
    """Return a figure of pictures with what they are and what they were taken for.

    Args:
        pictures: uint8 arrays of shape (height, width, 3).
        truth: The true class names.
        predicted: The predicted ones.
        confidence: Their probabilities, 0-1.
    """
    from matplotlib.figure import Figure

    columns = min(5, len(pictures)) or 1
    rows = max(1, math.ceil(len(pictures) / columns))
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, picture, true, guess, share in zip(grid, pictures, truth, predicted, confidence, strict=False):
        axes.imshow(picture)
        right = true == guess
        title = f"{guess} {share:.0%}" if right else f"{guess} {share:.0%}\nreally {true}"
        axes.set_title(title, fontsize=9, color=_RIGHT if right else _WRONG, parse_math=False)
    return figure
