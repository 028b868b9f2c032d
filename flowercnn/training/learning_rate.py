"""Finding a learning rate: a short training with a rising one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import TrainingError
from flowercnn.evaluation import save_figure

__all__ = ["LearningRates", "read_suggestion"]

_SMOOTHING: Final = 0.9
_FEWEST: Final = 10


@dataclass(frozen=True, slots=True)
class LearningRates:
    """Range test: the loss at a rising learning rate.

    Args:
        rates: The rates tried, rising.
        losses: The smoothed loss of the training batch at each.
        suggestion: A rate to train with: where the loss fell fastest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float

    def figure(self) -> Any:
        """Return a ``matplotlib.figure.Figure`` with the loss over the rate, and the suggestion."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(self.rates, self.losses)
        axes.axvline(
            self.suggestion,
            linestyle="--",
            color="tab:orange",
            label=f"suggested: {self.suggestion:.2g}",
        )
        axes.set(xlabel="learning rate", ylabel="loss", title="Learning rate")
        axes.grid(alpha=0.3)
        axes.legend()
        return figure

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Save the curve to an image file (``.png``, ``.svg`` or ``.pdf``) and return its path."""
        return save_figure(self.figure(), path)


def read_suggestion(rates: Sequence[float], losses: Sequence[float]) -> LearningRates:
    """Return the smoothed curve of a range test (Smith 2017) and the suggested rate.

    Args:
        rates: Rising rates.
        losses: The loss of one training step at each; at least ten.

    Raises:
        TrainingError: If the loss never falls.
    """
    if len(losses) < _FEWEST:
        raise TrainingError(
            f"The loss is no number, or far too large, from a rate of {rates[len(losses) - 1]:g} "
            "on. Try lower rates."
            if losses
            else "The loss is no number at the lowest rate. Try lower rates."
        )
    smooth = _smoothed(losses)
    # Fastest per factor of the rate, before the lowest loss; the first steps say more of the batch
    # than of the rate.
    slopes = np.gradient(smooth, np.log(rates))
    skipped = len(rates) // _FEWEST
    lowest = int(smooth.argmin())
    falling = slopes[skipped : lowest + 1]
    if not len(falling) or falling.min() >= 0:
        raise TrainingError(
            f"The loss did not fall at any rate from {rates[0]:g} to {rates[-1]:g}. Try lower "
            "rates."
        )
    return LearningRates(
        tuple(rates), tuple(smooth.tolist()), float(rates[skipped + int(falling.argmin())])
    )


def _smoothed(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Exponential means, without the pull towards zero of the first ones."""
    means, mean = [], 0.0
    for count, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - math.pow(_SMOOTHING, count)))
    return np.array(means)
