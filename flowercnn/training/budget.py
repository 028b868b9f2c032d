"""A recipe fitted to a wall-clock budget."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from typing import Final

from flowercnn.errors import ConfigurationError
from flowercnn.models.recipe import Recipe

__all__ = ["fit_epochs", "parse_time"]

_UNITS: Final = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
_RESERVE: Final = 0.92  # of the budget: epochs are not all equally long


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
            f"time_budget must be seconds over 0 or a text such as '90s', '10min' or '1h'. Received: {budget!r}"
        )
    return seconds


def fit_epochs(recipe: Recipe, seconds: float, epoch_seconds: dict[tuple[int, int], float]) -> Recipe:
    """Return the recipe with as many epochs as the time allows, at least one.

    Args:
        recipe: How to train.
        seconds: What is left of the budget.
        epoch_seconds: How long an epoch takes at each (height, width) the recipe trains at.
    """
    shares = Counter(recipe.training_size(epoch) for epoch in range(recipe.epochs))
    mean = sum(epoch_seconds[size] * count for size, count in shares.items()) / recipe.epochs
    return dataclasses.replace(recipe, epochs=max(1, int(seconds * _RESERVE / mean)), adapt=False)
