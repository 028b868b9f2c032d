"""The trainer: a network, a recipe and data in, a classifier and its history out."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict, get_args

import numpy as np

from flowercnn._utils import as_path, check_seed, tracked
from flowercnn.data import Dataset, check_printable
from flowercnn.errors import ConfigurationError, DataError, SplitError, closest, few
from flowercnn.models import (
    Precision,
    Recipe,
    check_precision,
    choose_precision,
    is_backbone,
    recipe_of,
)
from flowercnn.preprocessing import BadImages, Preprocessing
from flowercnn.training.budget import parse_time
from flowercnn.training.checks import listed_callbacks
from flowercnn.training.learning_rate import LearningRates, read_suggestion
from flowercnn.training.loop import Loop
from flowercnn.training.plan import Plan, load
from flowercnn.training.run import TrainingRun

__all__ = ["Trainer", "TrainerSettings"]


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


_FEWEST_RATES: Final = 20
_MUCH_WORSE: Final = 4.0


@dataclass(frozen=True)
class Trainer:
    """Trains a network by its recipe; every argument left ``None`` is what the recipe says.

    Args:
        model: A registered name (see `list_models`), or a Keras model of your own from pixels 0-255
            to probabilities, which is copied and not changed.
        epochs: How often every training image is seen; where the recipe adapts, by their number
            (`Recipe.adapted`).
        batch_size: Images per step; likewise.
        image_size: (height, width) in pixels.
        learning_rate: The highest learning rate.
        seed: Of first weights, order and augmentation. Same seed, data, machine and number of
            threads: same weights.
        recipe: Another recipe than the model's own.
        preprocessing: Other preprocessing than the recipe's; for the cache, too.
        model_options: Options of the model's builder.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``: how activations are held in
            training.
        time_budget: Seconds, or a text such as ``"10min"``: take as many epochs as fit, at least
            one, estimated from the time of some steps and then of each epoch; of a backbone's last
            convolution, at most those of the recipe. A training that continues from a checkpoint
            has the rest of it. Runs are then not repeatable: other work on the machine changes
            the number of epochs.
        early_stopping: Stop when ``val_loss`` has not fallen for so many epochs, and keep the best
            epoch's weights. That selects on ``val``; its figures are then flattering.
        bad_images: ``"error"`` or ``"skip"``: what to do about images that cannot be decoded.

    Raises:
        UnknownNameError: If nobody registered ``model``.
        ConfigurationError: If a setting is wrong.

    Example:
        >>> from flowercnn import Dataset, SyntheticFlowers, Trainer
        >>> flowers = SyntheticFlowers(per_class=10, num_classes=2)
        >>> train, val, test = Dataset.from_source(flowers).split()
        >>> run = Trainer("fast", epochs=2, image_size=(32, 32)).fit(train, val, progress=False)
        >>> len(run.history), run.predictor.class_names == train.class_names
        (2, True)
    """

    model: Any = "fast"
    epochs: int | None = field(default=None, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    image_size: tuple[int, int] | None = field(default=None, kw_only=True)
    learning_rate: float | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    recipe: Recipe | None = field(default=None, kw_only=True)
    preprocessing: Preprocessing | None = field(default=None, kw_only=True)
    model_options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    precision: Precision = field(default="auto", kw_only=True)
    time_budget: str | float | None = field(default=None, kw_only=True)
    early_stopping: int | None = field(default=None, kw_only=True)
    bad_images: BadImages = field(default="error", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_precision(self.precision)
        for name, kind in (("recipe", Recipe), ("preprocessing", Preprocessing)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ConfigurationError(
                    f"{name} must be a {kind.__name__} or None. Received: {name}={value!r}"
                )
        if self.bad_images not in get_args(BadImages):
            raise ConfigurationError(
                f"bad_images must be 'error' or 'skip'. Received: bad_images={self.bad_images!r}"
            )
        if self.time_budget is not None:
            parse_time(self.time_budget)
            if self.epochs is not None:
                raise ConfigurationError(
                    "epochs and time_budget exclude each other. Give one of them."
                )
        patience = self.early_stopping
        if isinstance(patience, np.integer) and patience > 0:
            object.__setattr__(self, "early_stopping", int(patience))
        elif patience is not None and (
            isinstance(patience, bool) or not isinstance(patience, int) or patience < 1
        ):
            raise ConfigurationError(
                "early_stopping must be a number of epochs of at least 1. Received: "
                f"early_stopping={patience!r}"
            )
        if not isinstance(self.model_options, Mapping):
            raise ConfigurationError(
                "model_options must be a dict of the builder's options by name. "
                f"Received: model_options={self.model_options!r}"
            )
        self._preprocessing()

    def plan(self, train: Dataset) -> Plan:
        """Return what training on ``train`` will do; an internal value, without a stable interface.

        Args:
            train: The training data.
        """
        names = ("epochs", "batch_size", "learning_rate", "early_stopping")
        return Plan(
            model=self.model,
            model_options=self.model_options,
            num_classes=train.num_classes,
            recipe=self._recipe(),
            explicit=frozenset(name for name in names if getattr(self, name) is not None),
            preprocessing=self._preprocessing(),
            precision=choose_precision(self.precision),
            seed=self.seed,
            patience=self.early_stopping,
            budget=None if self.time_budget is None else parse_time(self.time_budget),
            bad_images=self.bad_images,
        )

    def fit(
        self,
        train: Dataset,
        val: Dataset | None = None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        callbacks: Iterable[Any] = (),
        progress: bool = True,
    ) -> TrainingRun:
        """Train on ``train`` and watch ``val``; return the classifier of the last epoch.

        Ctrl-C ends the training after the step under way and returns what was learned.

        Args:
            train: The data learned from.
            val: Watched after each epoch, never learned from; ``None`` or empty for none.
            checkpoint_dir: A folder where the state is kept after each epoch. If it holds the
                checkpoint of the same training, that one is continued, to the same result as if it
                had never stopped.
            callbacks: ``keras.callbacks.Callback`` objects, or one alone. They see the model with
                the weights of the epoch's end; weights they set are kept if set at the end of
                training, as ``EarlyStopping`` does. Learning rates they set are overwritten unless
                the recipe's schedule is constant. What ``ModelCheckpoint`` writes has the optimizer
                in it: load it with ``compile=False``.
            progress: Whether to show progress bars.

        Returns:
            The run, with ``predictor`` and ``history``.

        Raises:
            DataError: If there is less than two classes to tell apart.
            SplitError: If a key is in both ``train`` and ``val``, or their classes differ.
            ImageError: If images cannot be decoded (all are named).
            TrainingError: If the loss, the weights or the network's answers are no longer finite,
                or a checkpoint cannot be used.
        """
        listed = listed_callbacks(callbacks)
        _check_data(train, val)
        if self.early_stopping is not None and not val:
            raise DataError(
                "early_stopping needs val, images to stop by: give fit a second data set. "
                "Cross-validation has "
                "none: leave early_stopping out."
            )
        folder = None if checkpoint_dir is None else as_path(checkpoint_dir, "checkpoint_dir")
        if is_backbone(self.model):
            from flowercnn.training.transfer.backbone import fit_backbone as fit
        else:
            from flowercnn.training.scratch import fit_from_scratch as fit
        return fit(
            self.plan(train), train, val, checkpoint_dir=folder, callbacks=listed, progress=progress
        )

    def find_learning_rate(
        self,
        train: Dataset,
        *,
        lowest: float = 1e-5,
        highest: float = 1.0,
        steps: int = 100,
        progress: bool = True,
    ) -> LearningRates:
        """Train for some steps with a rising learning rate and suggest one (Smith 2017).

        The network trained for this is thrown away. Give the suggestion to a trainer as
        ``learning_rate``.

        Args:
            train: The data learned from.
            lowest: The first rate, over 0.
            highest: The last rate, over ``lowest``.
            steps: How many rates to try, evenly spaced on a logarithmic scale; at least 20.
            progress: Whether to show a progress bar.

        Raises:
            ConfigurationError: If the rates do not rise or the steps are too few.
            TrainingError: If the loss falls at none of the rates.
        """
        whole = hasattr(steps, "__index__") and not isinstance(steps, bool)
        if not 0 < lowest < highest < math.inf or not whole or steps < _FEWEST_RATES:
            raise ConfigurationError(
                f"Rates must rise from over 0, in a whole number of at least {_FEWEST_RATES} "
                "steps. "
                f"Received: lowest={lowest!r}, highest={highest!r}, steps={steps!r}"
            )
        _check_data(train, None)
        plan = self.plan(train)
        model = plan.build(progress=progress)
        data, _ = load(train, plan, progress=progress)
        loop = Loop(
            model, plan.adapted_recipe(len(data[1])), data, seed=plan.seed, precision=plan.precision
        )
        rates = np.geomspace(lowest, highest, steps).tolist()
        losses: list[float] = []
        for loss in tracked(
            loop.losses_at(rates), total=steps, description="Rates", unit="step", enabled=progress
        ):
            losses.append(loss)
            if loss > _MUCH_WORSE * min(losses):
                break
        return read_suggestion(rates[: len(losses)], losses)

    def _recipe(self) -> Recipe:
        """Return the recipe with this trainer's own settings."""
        if isinstance(self.model, str):
            base = self.recipe or recipe_of(self.model)
        else:
            shape = getattr(self.model, "input_shape", None)
            if not isinstance(shape, tuple) or len(shape) != 4:  # noqa: PLR2004 - (n, height, width, channels)
                raise ConfigurationError(
                    "model must be a registered name or a Keras model with one image input. "
                    f"Received: model={self.model!r}"
                )
            base = self.recipe or (
                Recipe() if None in shape[1:3] else Recipe(image_size=shape[1:3])
            )
        image_size = self.image_size
        if self.preprocessing is not None:
            if image_size is not None and tuple(image_size) != self.preprocessing.image_size:
                raise ConfigurationError(
                    f"image_size and preprocessing.image_size must agree. Received: {image_size} "
                    "and "
                    f"{self.preprocessing.image_size}. Give one of them."
                )
            image_size = self.preprocessing.image_size
        return base.replace(
            epochs=self.epochs,
            batch_size=self.batch_size,
            image_size=image_size,
            learning_rate=self.learning_rate,
        )

    def _preprocessing(self) -> Preprocessing:
        """Return the preprocessing of the classifier."""
        recipe = self._recipe()
        if self.preprocessing is not None:
            return self.preprocessing
        return Preprocessing(image_size=recipe.image_size, resize=recipe.resize)


def _check_data(train: Dataset, val: Dataset | None) -> None:
    for name, dataset in (("train", train), ("val", val)):
        if dataset is not None and not isinstance(dataset, Dataset):
            raise ConfigurationError(
                f"{name} must be a flowercnn.Dataset; make one with Dataset.from_source(source). "
                f"Received: {type(dataset).__name__}"
            )
    check_printable(train.class_names)  # the model file would refuse them, after all the work
    present = np.unique(train.labels)
    if len(present) < 2:  # noqa: PLR2004 - one class leaves nothing to tell apart
        raise DataError(
            f"A classifier needs images of at least two classes. Received: {len(train)} images "
            "of "
            f"{few(train.encoder.decode(present)) or 'none'}. If the folders of the classes are in "
            "that one, give it "
            "as the source."
        )
    if not val:
        return
    if val.class_names != train.class_names:
        raise SplitError(
            "train and val must have the same class_names: make both with Dataset.split."
        )
    both = sorted(set(train.keys) & set(val.keys))
    if both:
        raise SplitError(
            f"{len(both)} samples are in both train and val: {few(both)}. Make both with "
            "Dataset.split."
        )


def make_trainer(
    caller: Callable[..., Any], model: Any, seed: int, settings: TrainerSettings
) -> Trainer:
    """Return a trainer from the keyword arguments of `train` or `cross_validate`.

    Raises:
        ConfigurationError: If there is one that neither takes.
    """
    fields = {field.name for field in dataclasses.fields(Trainer)}
    known = sorted((fields | set(inspect.signature(caller).parameters)) - {"settings"})
    for name in settings:
        if name not in fields:
            raise ConfigurationError(
                f"{caller.__name__} has no argument {name!r}.{closest(name, known)} Known: "
                f"{', '.join(known)}."
            )
    return Trainer(model, seed=seed, **settings)
