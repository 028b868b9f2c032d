"""How a network is trained, as a value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_choice, check_count, check_instance, check_number, check_share
from flowercnn.errors import ConfigurationError
from flowercnn.preprocessing import Augmentation, Mixing, Preprocessing, ResizeMode

__all__ = ["Recipe"]

Optimizer = Literal["adam", "adamw", "sgd", "muon"]
Schedule = Literal["constant", "cosine"]
Balance = Literal["auto", "none"]
FineTune = Literal["auto", "none", "top", "all"]

_REFERENCE_SAMPLES: Final = 1000
_MOST_EPOCHS_FACTOR: Final = 4.0
_FEWEST_EPOCHS: Final = 6
_STEPS_PER_EPOCH: Final = 16
_SMALLEST_BATCH: Final = 8
_UNBALANCED: Final = 2.0
_HEAVIEST: Final = 10.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training of a network; each model registered by name comes with one.

    Args:
        image_size: (height, width) in pixels.
        resize: How pictures are brought to that size.
        epochs: How often every training picture is seen.
        batch_size: Pictures per step.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"`` (with Nesterov momentum 0.9), or ``"muon"`` (Jordan et al. 2024)
            for the kernels of convolutions and Adam for the rest.
        learning_rate: The highest rate.
        schedule: ``"constant"``, or ``"cosine"``: rising linearly over ``warmup``, then falling to 0 along a cosine
            (Loshchilov & Hutter 2017).
        warmup: Share of all steps during which the rate rises.
        weight_decay: Decoupled weight decay of ``adamw`` (Loshchilov & Hutter 2019) and ``muon``, on kernels only.
        label_smoothing: Share of the target given to all classes alike (Szegedy et al. 2016).
        augmentation: Random changes to training pictures, or ``None``.
        mixing: Blending of training pictures with one another, or ``None``.
        average: Decay per step of the moving average of the weights that is kept in place of the last ones (Polyak &
            Juditsky 1992), from 0 (none) to below 1; in the first steps it is lower.
        progressive: Pairs ``(since, scale)``: from the share ``since`` of the training on, pictures are learned from
            at ``scale`` times ``image_size`` (Howard 2018; the last scale may stay below 1, Touvron et al. 2019). The
            network must take pictures of any size. Empty: always at ``image_size``.
        balance: ``"auto"`` gives pictures of rare classes more weight in the loss if the largest class has at least
            twice as many as the smallest; ``"none"`` never does.
        fine_tune: Of backbones, what is trained after the last layer: ``"none"``, the ``"top"`` (all layers at the
            last resolution) or ``"all"``, farther layers at a lower rate. ``"auto"``: the last convolution, if it is
            pointwise and there are 30 pictures per class on average and memory enough; else nothing.
        adapt: Whether ``epochs`` and ``batch_size`` are meant for a thousand pictures and change with their number;
            see `adapted`.

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
    mixing: Mixing | None = None
    average: float = 0.0
    progressive: tuple[tuple[float, float], ...] = ()
    balance: Balance = "auto"
    fine_tune: FineTune = "auto"
    adapt: bool = False

    def __post_init__(self) -> None:
        sizes = Preprocessing(image_size=self.image_size, resize=self.resize)
        object.__setattr__(self, "image_size", sizes.image_size)
        for name in ("epochs", "batch_size"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        for name, options in (
            ("optimizer", get_args(Optimizer)),
            ("schedule", get_args(Schedule)),
            ("balance", get_args(Balance)),
            ("fine_tune", get_args(FineTune)),
        ):
            object.__setattr__(self, name, check_choice(name, getattr(self, name), options))
        for name, kind in (("augmentation", Augmentation), ("mixing", Mixing)):
            if getattr(self, name) is not None:
                check_instance(name, getattr(self, name), kind, "None switches it off")
        for name in ("warmup", "label_smoothing", "average"):
            object.__setattr__(self, name, check_share(name, getattr(self, name)))
        rate, decay = self.learning_rate, self.weight_decay
        object.__setattr__(self, "learning_rate", check_number("learning_rate", rate, above=0))
        object.__setattr__(self, "weight_decay", check_number("weight_decay", decay, least=0))
        object.__setattr__(self, "progressive", _check_progressive(self.progressive))

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with those settings changed that are not ``None``."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

    def adapted(self, num_samples: int) -> Recipe:
        """Return the recipe for this many training pictures; itself if ``adapt`` is off.

        Epochs fall with the square root of the number of pictures: ten thousand take three times as long as one
        thousand, not ten times, and a hundred are seen three times as often. Batches of few pictures are smaller, so
        that an epoch has steps enough.

        Raises:
            ConfigurationError: If ``num_samples`` is not an int of at least 1.
        """
        check_count("num_samples", num_samples)
        if not self.adapt:
            return self
        factor = min(_MOST_EPOCHS_FACTOR, math.sqrt(_REFERENCE_SAMPLES / num_samples))
        batch = min(self.batch_size, max(_SMALLEST_BATCH, 2 ** round(math.log2(num_samples / _STEPS_PER_EPOCH))))
        epochs = max(min(self.epochs, _FEWEST_EPOCHS), round(self.epochs * factor))
        return dataclasses.replace(self, epochs=epochs, batch_size=batch, adapt=False)

    def class_weights(self, counts: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.float32] | None:
        """Return the weight of each class in the loss, with mean 1 over the pictures; ``None`` if all are equal.

        Args:
            counts: How many training pictures each class has; classes with none get no weight.
        """
        numbers = np.asarray(counts, dtype=np.float64)
        present = numbers[numbers > 0]
        if self.balance == "none" or not len(present) or present.max() < _UNBALANCED * present.min():
            return None
        weights = np.where(numbers > 0, np.minimum(present.max() / np.maximum(numbers, 1), _HEAVIEST), 0)
        return np.asarray(weights * numbers.sum() / (weights * numbers).sum(), dtype=np.float32)

    def training_size(self, epoch: int) -> tuple[int, int]:
        """Return the (height, width) at which pictures are learned from in an epoch, counted from 0."""
        scales = [scale for since, scale in self.progressive if since * self.epochs <= epoch]
        height, width = self.image_size
        scale = scales[-1] if scales else 1.0
        return max(1, round(height * scale)), max(1, round(width * scale))

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step ``step`` (from 0) of ``steps``."""
        if self.schedule == "constant":
            return self.learning_rate
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def _check_progressive(progressive: Any) -> tuple[tuple[float, float], ...]:
    """Return the pairs of ``progressive`` as floats, or raise a ConfigurationError."""
    try:
        pairs = tuple((0.0 + since, 0.0 + scale) for since, scale in progressive)
    except (TypeError, ValueError):
        pairs = None
    since = [pair[0] for pair in pairs or ()]
    if (
        pairs is None
        or since != sorted(set(since))
        or since[:1] not in ([], [0])
        or not all(0 <= start < 1 and 0 < scale <= 1 for start, scale in pairs)
    ):
        raise ConfigurationError(
            "progressive must be pairs (since, scale), since rising from 0 to below 1, scale over 0 to 1, such as "
            f"((0, 0.5), (0.5, 1)). Received: progressive={progressive!r}"
        )
    return tuple((float(start), float(scale)) for start, scale in pairs)
