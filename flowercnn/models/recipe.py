"""How a network is trained, as a value."""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flowercnn.errors import ConfigurationError
from flowercnn.preprocessing.augment import Augmentation
from flowercnn.preprocessing.geometry import ResizeMode

__all__ = ["Recipe"]

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training of a network; each model registered by name comes with one.

    Args:
        image_size: (height, width) in pixels.
        resize: How pictures are brought to that size.
        epochs: How often every training picture is seen.
        batch_size: Pictures per step.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (with Nesterov momentum 0.9).
        learning_rate: The highest rate.
        schedule: ``"constant"``, or ``"cosine"``: rising linearly over ``warmup``, then falling to 0 along a cosine
            (Loshchilov & Hutter 2017).
        warmup: Share of all steps during which the rate rises.
        weight_decay: Decoupled weight decay of ``adamw`` (Loshchilov & Hutter 2019), on kernels only.
        label_smoothing: Share of the target given to all classes alike (Szegedy et al. 2016).
        augmentation: Random changes to training pictures, or ``None``.

    Raises:
        ConfigurationError: If a setting has a wrong type or value.
    """

    image_size: tuple[int, int] = (128, 128)
    resize: ResizeMode = "crop"
    epochs: int = 20
    batch_size: int = 32
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
                raise ConfigurationError(f"{name} must be an int of at least 1. Received: {name}={value!r}")
        for name, options in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in options:
                raise ConfigurationError(
                    f"{name} must be one of {', '.join(options)}. Received: {name}={getattr(self, name)!r}"
                )
        for name, low, high in (
            ("learning_rate", 0, math.inf),
            ("warmup", 0, 1),
            ("weight_decay", 0, math.inf),
            ("label_smoothing", 0, 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
                raise ConfigurationError(
                    f"{name} must be a number from {low} to below {high}. Received: {name}={value!r}"
                )
        if not self.learning_rate:
            raise ConfigurationError("learning_rate must be over 0. Received: learning_rate=0")

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with those settings changed that are not ``None``."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step ``step`` (from 0) of ``steps``."""
        if self.schedule == "constant":
            return self.learning_rate
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
