"""A training plan: every decision that settings and data lead to, made once before the training."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from flowercnn.data import Dataset
from flowercnn.errors import ConfigurationError, counted, few
from flowercnn.models import (
    Recipe,
    build_model,
    check_probabilities,
    check_shapes,
    copy_model,
    is_backbone,
    model_fingerprint,
)
from flowercnn.preprocessing import BadImages, Preprocessing
from flowercnn.training.checkpoint import Checkpoints
from flowercnn.training.loop import Data

__all__ = ["Plan", "load"]

_WITHOUT_EFFECT: Final = ("mirror", "progress")  # options that do not change a backbone
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of a training, made by `Trainer.plan`.

    Args:
        model: A registered name, or a Keras model that is copied.
        model_options: Options of the model's builder.
        num_classes: How many classes the network distinguishes.
        recipe: The recipe with the user's settings, before it adapts to the number of images.
        explicit: Names of the settings the user gave: these do not adapt.
        preprocessing: That of the classifier.
        precision: Of the activations in training.
        seed: Of first weights, order and augmentation.
        patience: Epochs without a lower ``val_loss`` before the training stops, or ``None``.
        budget: Seconds the training may take, or ``None``.
        bad_images: What to do about images that cannot be decoded.
    """

    model: Any
    model_options: Mapping[str, Any]
    num_classes: int
    recipe: Recipe
    explicit: frozenset[str]
    preprocessing: Preprocessing
    precision: Literal["float32", "bfloat16"]
    seed: int
    patience: int | None
    budget: float | None
    bad_images: BadImages

    @property
    def name(self) -> str:
        """The name of the network in the model file."""
        name = self.model if isinstance(self.model, str) else str(self.model.name)
        return name.lower() if is_backbone(self.model) else name

    def adapted_recipe(self, images: int) -> Recipe:
        """Return the recipe for a number of training images."""
        return self.recipe.adapted(images).replace(
            epochs=self.recipe.epochs if "epochs" in self.explicit else None,
            batch_size=self.recipe.batch_size if "batch_size" in self.explicit else None,
        )

    def build(self, *, progress: bool = True) -> Any:
        """Return the untrained network, a Keras model.

        Args:
            progress: Whether a backbone shows the progress of its download.

        Raises:
            ConfigurationError: If it does not map images of this size to probabilities of so many
                classes.
        """
        image_size = self.preprocessing.image_size
        if isinstance(self.model, str):
            options = {
                **({"progress": progress} if is_backbone(self.model) else {}),
                **self.model_options,
            }
            return build_model(
                self.model,
                image_size=image_size,
                num_classes=self.num_classes,
                seed=self.seed,
                **options,
            )
        check_shapes(self.model, "model", image_size, self.num_classes)
        check_probabilities(self.model, "model")
        try:
            return copy_model(self.model)
        except ConfigurationError:  # a ValueError too
            raise
        # What Keras raises for layers without get_config or from_config.
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ConfigurationError(
                "model has a layer that cannot be copied; each needs get_config and from_config. "
                f"{error}"
            ) from error

    def checkpoints(
        self, folder: Path | None, train: Dataset, val: Dataset | None
    ) -> Checkpoints | None:
        """Return the checkpoints of this training; the arguments are those of `fingerprint`."""
        return None if folder is None else Checkpoints(folder, self.fingerprint(train, val))

    def fingerprint(self, train: Dataset, val: Dataset | None = None) -> str:
        """Return a hash of everything that determines the weights.

        Args:
            train: The training data.
            val: The data that decides which epoch's weights are kept, or ``None``.
        """
        parts: Sequence[object] = (
            self._network(),
            self.recipe,
            self.budget,
            self.patience,
            self.preprocessing.to_dict(),
            self.precision,
            self.seed,
            train.content_fingerprint(),
            train.keys,
            None if not val else (val.content_fingerprint(), val.keys),
        )
        return hashlib.blake2b(
            repr(parts).encode("utf-8", "backslashreplace"), digest_size=16
        ).hexdigest()

    def _network(self) -> object:
        """Return what identifies the untrained network; a name can be registered again."""
        if not is_backbone(self.model):
            return model_fingerprint(self.build())
        options = {
            name: _content(value)
            for name, value in self.model_options.items()
            if name not in _WITHOUT_EFFECT
        }
        return str(self.model).lower(), sorted(options.items())


def load(dataset: Dataset, plan: Plan, *, progress: bool) -> tuple[Data, tuple[str, ...]]:
    """Return pixels and labels of a data set, and the keys of images that were left out."""
    loaded = dataset.load(plan.preprocessing, bad_images=plan.bad_images, progress=progress)
    if loaded.skipped:
        _log.warning(
            "%s cannot be decoded and are left out: %s",
            counted(len(loaded.skipped), "image"),
            few(loaded.skipped),
        )
    return (loaded.pixels, loaded.labels), loaded.skipped


def _content(option: Any) -> object:
    """Return what an option stands for: a network's weights, a file's content, or itself."""
    if hasattr(option, "get_weights"):
        return model_fingerprint(option)
    if isinstance(option, (str, os.PathLike)) and Path(option).is_file():
        with Path(option).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return option.item() if isinstance(option, np.generic) else option
