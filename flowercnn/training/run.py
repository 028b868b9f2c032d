"""The result of a training: history and classifier."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from flowercnn.data import Splits
from flowercnn.evaluation import (
    Evaluation,
    history_figure,
    learning_rate_figure,
    line_chart,
    save_figure,
)
from flowercnn.models import Recipe
from flowercnn.prediction import Predictor

__all__ = ["History", "TrainingRun"]


@dataclass(frozen=True, slots=True)
class History:
    """One mapping per finished epoch, with the keys ``loss``, ``accuracy`` and ``learning_rate``.

    With validation data there are ``val_loss`` and ``val_accuracy`` too. ``loss`` and ``accuracy``
    are means over the images as they were trained on, augmented, while the weights changed; those
    of val are taken at the epoch's end.

    Args:
        epochs: The mappings, in order.
        seconds: How long each epoch took. No two trainings take as long, so histories are compared
            without it.
    """

    epochs: tuple[Mapping[str, float], ...] = ()
    seconds: tuple[float, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.epochs)

    def followed_by(self, epoch: Mapping[str, float], seconds: float) -> History:
        """Return the history with one more epoch."""
        return History((*self.epochs, epoch), (*self.seconds, seconds))

    def to_dict(self) -> dict[str, list[float]]:
        """Return a list per quantity, as ``keras.callbacks.History.history`` has it.

        Where a training went on with other validation data than before, epochs without any have
        NaN.
        """
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        return {name: [epoch.get(name, math.nan) for epoch in self.epochs] for name in names}

    def figure(self, *, dark: bool = False) -> Any:
        """Return a ``matplotlib`` figure with accuracy and loss over the epochs."""
        return history_figure(self.to_dict(), dark=dark)

    def plot(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the curves to a ``.png``, ``.svg`` or ``.pdf`` file and return its path."""
        return save_figure(self.figure(dark=dark), path)

    def plot_learning_rate(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the curve of the learning rate to an image file and return its path."""
        return save_figure(learning_rate_figure(self.to_dict(), dark=dark), path)


_NOTEBOOK_STYLE = """
.flowercnn svg { max-width: 22rem }
.flowercnn .a { stroke: #0072b2; fill: none; stroke-width: 2 }
.flowercnn .b { stroke: #d55e00; fill: none; stroke-width: 2; stroke-dasharray: 6 4 }
.flowercnn .axis { stroke: #8886 }
.flowercnn text { fill: currentColor; font-size: 11px }
.flowercnn figure { display: inline-block; margin: 0 1em 0 0 }
"""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The result of `Trainer.fit`.

    Args:
        predictor: The trained classifier.
        history: What happened in each epoch; `History.plot` draws it.
        recipe: How it was trained.
        seed: The seed of weights, order and augmentation.
        precision: ``"float32"`` or ``"bfloat16"``: how activations were held.
        seconds: Wall-clock seconds by step: ``"decode"``, ``"train"``, ``"total"``.
        interrupted: Whether Ctrl-C ended the training early. What was learned until then is in
            ``predictor``.
        skipped: Keys of training and validation images that could not be decoded and were left
            out.
        notes: What a user should know about how the training went, in sentences; usually nothing.
        splits: Who learned from what, if `train` split the data.
        evaluation: The figures on ``test``, if `train` measured them.
    """

    predictor: Predictor
    history: History
    recipe: Recipe
    seed: int
    precision: str
    seconds: Mapping[str, float]
    interrupted: bool = False
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    splits: Splits | None = None
    evaluation: Evaluation | None = None

    def _repr_html_(self) -> str:
        curves = self.history.to_dict()
        last = ", ".join(f"{name} {values[-1]:.3f}" for name, values in curves.items())
        charts = "".join(
            line_chart(title, {key: curves[key] for key in (name, f"val_{name}") if key in curves})
            for title, name in (("Accuracy", "accuracy"), ("Loss", "loss"))
            if name in curves
        )
        ended = ", stopped early" if self.interrupted else ""
        tested = self.evaluation._repr_html_() if self.evaluation is not None else ""
        return (
            f"<div><style>{_NOTEBOOK_STYLE}</style><div class='flowercnn'><p>Trained "
            f"{len(self.history)} epochs in "
            f"{self.seconds.get('total', 0):.0f} s{ended}: "
            f"{escape(last)}</p>{charts}{tested}</div></div>"
        )
