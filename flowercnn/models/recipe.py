"""Training settings of a network, as a value."""

from __future__ import annotations

import contextlib
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

Optimizer = Literal["adam", "adamw", "sgd", "muon"]
Schedule = Literal["constant", "cosine"]
Balance = Literal["auto", "none"]
FineTune = Literal["auto", "none", "top", "all"]
_CHOICES: Final[dict[str, Any]] = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "balance": Balance,
    "fine_tune": FineTune,
}

_REFERENCE_SAMPLES: Final = 1000
_MOST_EPOCHS_FACTOR: Final = 4.0
_FEWEST_EPOCHS: Final = 6
_STEPS_PER_EPOCH: Final = 16
_SMALLEST_BATCH: Final = 8
_UNBALANCED: Final = 2.0
_HEAVIEST: Final = 10.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training settings of a network; each registered model comes with a recipe.

    Args:
        image_size: (height, width) in pixels.
        resize: Resize mode, as in `Preprocessing`.
        epochs: Number of passes over the training images.
        batch_size: Images per step.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"`` (with Nesterov momentum 0.9), or ``"muon"``
            (Jordan et al. 2024) for the kernels of convolutions and Adam for the rest.
        learning_rate: The highest rate.
        schedule: ``"constant"``, or ``"cosine"``: rising linearly over ``warmup``, then falling to
            0 along a cosine (Loshchilov & Hutter 2017).
        warmup: Share of all steps during which the rate rises.
        weight_decay: Decoupled weight decay of ``adamw`` (Loshchilov & Hutter 2019) and ``muon``,
            on kernels only.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016).
        augmentation: Random changes to training images, or ``None``.
        mixing: Blending of training images with one another, or ``None``.
        average: Decay per step of the moving average of the weights that replaces the last weights
            (Polyak & Juditsky 1992), from 0 (no average) to below 1; lower in the first steps.
        progressive: Pairs ``(since, scale)``: from the share ``since`` of the training, images have
            ``scale`` times ``image_size`` (Howard 2018; the last scale can stay below 1, Touvron et
            al. 2019). Needs a network that takes images of any size. Empty: one size.
        balance: ``"auto"`` weights images of rare classes more in the loss if the largest class has
            at least twice as many as the smallest; ``"none"`` never does.
        fine_tune: Layers of a backbone trained after the head: ``"none"``, the ``"top"`` (all at
            the last resolution) or ``"all"``, earlier layers at a lower rate. ``"auto"``: the last
            convolution, if it is pointwise, memory suffices and classes have 30 images on average;
            otherwise none.
        adapt: Whether ``epochs`` and ``batch_size`` are meant for a thousand images and are adapted
            to their number; see `adapted`.

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
        checked: dict[str, Any] = {
            "image_size": Preprocessing(image_size=self.image_size, resize=self.resize).image_size,
            "learning_rate": check_number("learning_rate", self.learning_rate, above=0),
            "weight_decay": check_number("weight_decay", self.weight_decay, least=0),
            "progressive": _check_progressive(self.progressive),
        }
        for name in ("epochs", "batch_size"):
            checked[name] = check_count(name, getattr(self, name))
        for name in ("warmup", "label_smoothing", "average"):
            checked[name] = check_share(name, getattr(self, name))
        for name, choices in _CHOICES.items():
            checked[name] = check_choice(name, getattr(self, name), get_args(choices))
        for name, kind in (("augmentation", Augmentation), ("mixing", Mixing)):
            if getattr(self, name) is not None:
                check_instance(name, getattr(self, name), kind, "None switches it off")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with the changes that are not ``None``."""
        changed = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **changed)

    def adapted(self, num_samples: int) -> Recipe:
        """Return the recipe for a number of training images; itself if ``adapt`` is off.

        Epochs are inversely proportional to the square root of the number of images: ten thousand
        images take three times as long as one thousand, not ten times, and a hundred get three
        times the epochs. Batches shrink for few images, so that an epoch has enough steps.

        Raises:
            ConfigurationError: If ``num_samples`` is not an int of at least 1.
        """
        check_count("num_samples", num_samples)
        if not self.adapt:
            return self
        factor = min(_MOST_EPOCHS_FACTOR, math.sqrt(_REFERENCE_SAMPLES / num_samples))
        fitting = 2 ** round(math.log2(num_samples / _STEPS_PER_EPOCH))
        batch = min(self.batch_size, max(_SMALLEST_BATCH, fitting))
        epochs = max(min(self.epochs, _FEWEST_EPOCHS), round(self.epochs * factor))
        return dataclasses.replace(self, epochs=epochs, batch_size=batch, adapt=False)

    def class_weights(
        self, counts: Sequence[int] | npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32] | None:
        """Return the weight of each class in the loss, with mean 1 over the images.

        ``None`` stands for equal weights.

        Args:
            counts: Training images of each class; a class without images gets weight 0.
        """
        numbers = np.asarray(counts, dtype=np.float64)
        present = numbers[numbers > 0]
        balanced = not len(present) or present.max() < _UNBALANCED * present.min()
        if self.balance == "none" or balanced:
            return None
        inverse = np.minimum(present.max() / np.maximum(numbers, 1), _HEAVIEST)
        weights = np.where(numbers > 0, inverse, 0)
        return np.asarray(weights * numbers.sum() / (weights * numbers).sum(), dtype=np.float32)

    def training_size(self, epoch: int) -> tuple[int, int]:
        """Return the (height, width) of training images in an epoch, counted from 0."""
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
        cosine = math.cos(math.pi * (step - rising) / (steps - rising))
        return self.learning_rate * 0.5 * (1 + cosine)


def _check_progressive(progressive: Any) -> tuple[tuple[float, float], ...]:
    """Return the pairs of ``progressive`` as floats, or raise a ConfigurationError."""
    with contextlib.suppress(TypeError, ValueError):
        pairs = tuple((float(0.0 + since), float(0.0 + scale)) for since, scale in progressive)
        starts = [since for since, _ in pairs]
        rising = starts == sorted(set(starts)) and starts[:1] in ([], [0])
        if rising and all(since < 1 and 0 < scale <= 1 for since, scale in pairs):
            return pairs
    raise ConfigurationError(
        "progressive must be pairs (since, scale), since rising from 0 to below 1, scale over 0 "
        f"to 1, such as ((0, 0.5), (0.5, 1)). Received: progressive={progressive!r}"
    )
