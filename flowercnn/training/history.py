"""What happened in each epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowercnn.evaluation.plots import history_figure, learning_rate_figure, save_figure

__all__ = ["History"]


@dataclass(frozen=True, slots=True)
class History:
    """One mapping per finished epoch, with the keys ``loss``, ``accuracy`` and ``learning_rate``.

    With validation data there are ``val_loss`` and ``val_accuracy`` too. ``loss`` and ``accuracy`` are means over the
    pictures as they were trained on, augmented, while the weights changed; those of val are taken at the epoch's end.

    Args:
        epochs: The mappings, in order.
        seconds: How long each epoch took. No two trainings take as long, so histories are compared without it.
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

        Where a training went on with other validation data than before, epochs without any have NaN.
        """
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        return {name: [epoch.get(name, math.nan) for epoch in self.epochs] for name in names}

    def figure(self, *, dark: bool = False) -> Any:
        """Return a ``matplotlib.figure.Figure`` with the curves of accuracy and loss over the epochs."""
        return history_figure(self.to_dict(), dark=dark)

    def plot(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the curves to a picture file (``.png``, ``.svg`` or ``.pdf``) and return its path."""
        return save_figure(self.figure(dark=dark), path)

    def plot_learning_rate(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the curve of the learning rate to a picture file and return its path."""
        return save_figure(learning_rate_figure(self.to_dict(), dark=dark), path)
