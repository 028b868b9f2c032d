"""A recipe fitted to a wall-clock budget."""

from __future__ import annotations

import dataclasses
import math
import re
from bisect import bisect_right
from typing import Final

import numpy as np

from flowercnn.errors import ConfigurationError
from flowercnn.models import Recipe
from flowercnn.training.checkpoint import Checkpoint
from flowercnn.training.run import History

__all__ = ["deadline_of", "fit_epochs", "measured", "parse_time"]

_UNITS: Final = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
_RESERVE: Final = 0.95  # of the budget: epochs are not all equally long
_MOST_EPOCHS: Final = 10_000


def parse_time(budget: str | float) -> float:
    """Return a time in seconds.

    Args:
        budget: Seconds, or a number with a unit: ``"90s"``, ``"10min"``, ``"1.5h"``.

    Raises:
        ConfigurationError: If it is neither, or not over 0.

    Example:
        >>> parse_time("10min"), parse_time(90)
        (600.0, 90.0)
    """
    seconds = math.nan
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)\s*", budget)
        if match:
            seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(budget, (int, float)) and not isinstance(budget, bool):
        seconds = float(budget)
    if not 0 < seconds < math.inf:
        raise ConfigurationError(
            "time_budget must be seconds over 0 or a text such as '90s', '10min' or '1h'. "
            f"Received: {budget!r}"
        )
    return seconds


def deadline_of(
    budget: str | float | None, started: float, checkpoint: Checkpoint | None = None
) -> float | None:
    """Return when a training must end, or ``None`` without a budget.

    Args:
        budget: What `parse_time` reads.
        started: Its beginning, of ``time.perf_counter``.
        checkpoint: Of the epochs that took their time before, or ``None``.
    """
    if budget is None:
        return None
    return started + parse_time(budget) - (0 if checkpoint is None else checkpoint.seconds)


def fit_epochs(recipe: Recipe, seconds: float, seconds_per_area: float, *, done: int = 0) -> Recipe:
    """Return the recipe with as many epochs as the time allows: at least those done, and one.

    Args:
        recipe: How to train.
        seconds: What is left of the budget.
        seconds_per_area: Seconds of an epoch per square pixel of the image.
        done: Epochs that are over.
    """
    fewest = max(1, done)

    def needed(epochs: int) -> float:
        return (
            _area(dataclasses.replace(recipe, epochs=epochs, adapt=False), done) * seconds_per_area
        )

    more = bisect_right(range(fewest + 1, _MOST_EPOCHS + 1), seconds * _RESERVE, key=needed)
    return dataclasses.replace(recipe, epochs=fewest + more, adapt=False)


def _area(recipe: Recipe, done: int) -> int:
    """Return the square pixels of the images, summed over the epochs from ``done`` on."""
    since = [max(done, math.ceil(start * recipe.epochs)) for start, _ in recipe.progressive] or [
        done
    ]
    until = [*since[1:], recipe.epochs]
    return sum(
        (end - start) * math.prod(recipe.training_size(start))
        for start, end in zip(since, until, strict=True)
        if start < end
    )


def measured(recipe: Recipe, history: History) -> float:
    """Return the median seconds of all epochs but the first, per square pixel of the image."""
    times = [
        each / math.prod(recipe.training_size(number))
        for number, each in enumerate(history.seconds)
    ]
    return float(np.median(times[1:]))
