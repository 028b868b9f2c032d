"""The arguments of `Trainer` that the whole workflow hands on, for type checkers and editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from flowercnn.models.recipe import Recipe
from flowercnn.models.twin import Precision
from flowercnn.preprocessing.preprocessing import BadImages, Preprocessing

__all__ = ["TrainerSettings"]


class TrainerSettings(TypedDict, total=False):
    """All arguments of `Trainer` but ``model`` and ``seed``, with their meanings there."""

    epochs: int | None
    batch_size: int | None
    image_size: tuple[int, int] | None
    learning_rate: float | None
    recipe: Recipe | None
    preprocessing: Preprocessing | None
    model_options: Mapping[str, Any]
    precision: Precision
    time_budget: str | float | None
    early_stopping: int | None
    bad_images: BadImages
