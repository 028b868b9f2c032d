"""Training loop: epochs, steps, validation, callbacks, checkpoints, Ctrl-C."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from flowercnn._utils import progress_bar
from flowercnn.errors import TrainingError
from flowercnn.evaluation import loss_and_accuracy
from flowercnn.models import (
    Recipe,
    check_training_size,
    make_training_copy,
    micro_batch_size,
    seeded_weights,
    uses_batch_statistics,
)
from flowercnn.preprocessing import MicroBatch, Pixels, TrainingBatches
from flowercnn.training.budget import fit_epochs, measured
from flowercnn.training.callbacks import make_callback_list
from flowercnn.training.checkpoint import Checkpoint, Checkpoints
from flowercnn.training.checks import check_finite
from flowercnn.training.early_stopping import BestEpoch
from flowercnn.training.optimizers import make_optimizer
from flowercnn.training.run import History
from flowercnn.training.step import TrainStep

__all__ = ["Data", "Loop"]

Data = tuple[Pixels, npt.NDArray[np.int64]]

_TIMED: Final = 4  # steps after the first, which compiles
_log = logging.getLogger(__name__)


class Loop:
    """One training of one model.

    Args:
        model: The Keras model; it has the trained weights in the end.
        recipe: How to train.
        train: What to learn from.
        val: What to watch, or ``None``.
        seed: Of order and augmentation.
        precision: Of the activations in training.
        optimizer: Another Keras optimizer than the recipe's, or ``None``.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        train: Data,
        val: Data | None = None,
        *,
        seed: int,
        precision: Literal["float32", "bfloat16"],
        optimizer: Any = None,
    ) -> None:
        import tensorflow as tf

        self.model = model
        self.recipe = recipe
        self._train, self._val = train, val
        with seeded_weights(seed):  # for the random numbers of dropout layers
            self._twin = make_training_copy(
                model, precision=precision, any_size=bool(recipe.progressive)
            )
        for since, _ in recipe.progressive:
            check_training_size(self._twin, recipe.training_size(math.ceil(since * recipe.epochs)))
        self._optimizer = optimizer or make_optimizer(recipe)
        counts = np.bincount(train[1], minlength=model.output_shape[1])
        self._step = TrainStep(self._twin, self._optimizer, recipe, recipe.class_weights(counts))
        self._infer = tf.function(
            lambda pixels: self.model(tf.cast(pixels, tf.float32), training=False),
            reduce_retracing=True,
        )
        self._part = micro_batch_size(
            model, most=recipe.batch_size, itemsize=2 if precision == "bfloat16" else 4
        )
        whole = uses_batch_statistics(model) or recipe.mixing is not None
        self._batches = TrainingBatches(
            *train,
            image_size=recipe.image_size,
            batch_size=recipe.batch_size,
            micro_batch_size=recipe.batch_size + 1 if whole else self._part,
            augmentation=recipe.augmentation,
            seed=seed,
            mixing=recipe.mixing,
        )
        self._stopping: BestEpoch | None = None
        self._deadline: float | None = None

    def run(
        self,
        *,
        callbacks: Sequence[Any] = (),
        progress: bool = False,
        patience: int | None = None,
        deadline: float | None = None,
        checkpoints: Checkpoints | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[History, bool]:
        """Train all epochs that are left; return the history and whether Ctrl-C ended it early.

        Args:
            callbacks: Keras callbacks.
            progress: Whether to show a bar.
            patience: Stop after so many epochs without a lower ``val_loss`` and keep the best
                epoch's weights.
            deadline: Fit the epochs that are left to this time of ``time.perf_counter``.
            checkpoints: Where the state is kept after each epoch, or ``None``.
            checkpoint: Where to continue, or ``None`` for the beginning.

        Raises:
            TrainingError: If the loss is no longer finite, or a checkpoint cannot be written.
        """
        self._stopping = None if patience is None else BestEpoch(patience)
        self._deadline = deadline
        history = History() if checkpoint is None else self._resume(checkpoint)
        self._refit(history)
        epochs, steps = self.recipe.epochs, len(self._batches)
        callback_list = make_callback_list(
            callbacks, self.model, epochs=epochs, steps=steps, optimizer=self._optimizer
        )
        self.model.stop_training = self._stopping is not None and self._stopping.has_waited
        callback_list.on_train_begin()
        interrupted = False
        begun, images = len(history), len(self._batches.labels)
        total = (self.recipe.epochs - begun) * images
        with progress_bar(total=total, description="Training", unit="img", enabled=progress) as bar:
            try:
                while len(history) < self.recipe.epochs and not self.model.stop_training:
                    history = self._epoch(history, callback_list, bar)
                    self._refit(history)
                    bar.total = (self.recipe.epochs - begun) * images
                    if checkpoints is not None:
                        checkpoints.write(self._state(history))
            except KeyboardInterrupt:
                _log.warning(
                    "Stopped by Ctrl-C in epoch %d; what was learned is kept.", len(history) + 1
                )
                interrupted = True
        best = self._stopping.weights if self._stopping is not None else ()
        self.model.set_weights(best or self._step.weights())
        callback_list.on_train_end()
        self._check_answers()
        return history, interrupted

    def _refit(self, history: History) -> None:
        """Fit the epochs that are left to the deadline."""
        if self._deadline is not None and len(history) > 1:  # the first epoch compiles
            left, pace = self._deadline - time.perf_counter(), measured(self.recipe, history)
            self.recipe = fit_epochs(self.recipe, left, pace, done=len(history))

    def _refit_early(self, ended: Sequence[float], image_size: tuple[int, int]) -> None:
        """Fit the epochs to the deadline in the first epoch, as soon as some steps are timed.

        What was planned came from a trial; where the plan is one epoch, no other would be there to
        tell better.

        Args:
            ended: When each of its steps was over.
            image_size: At which it is trained.
        """
        steps = len(self._batches)
        if self._deadline is None or len(ended) != min(_TIMED, steps - 1) + 1 or len(ended) == 1:
            return
        each = float(np.median(np.diff(ended)))  # the first step compiles
        left = self._deadline - ended[-1] - each * (steps - len(ended))
        self.recipe = fit_epochs(self.recipe, left, each * steps / math.prod(image_size), done=1)

    def _check_answers(self) -> None:
        """Make sure that the network answers in numbers: the last step may have destroyed it."""
        pixels = self._train[0].take(np.arange(1)).astype(np.float32)
        answers = [*self.model.get_weights(), self.model(pixels, training=False)]
        check_finite(answers, "what the network answers is", self.recipe.learning_rate)

    def seconds_per_epoch(self, *, steps: int = 4) -> float:
        """Return the seconds of the first epoch, estimated from some steps.

        Args:
            steps: How many steps to time, after a first one that compiles.
        """
        image_size = self.recipe.training_size(0)
        times = []
        for batch, size in self._endless(image_size):
            started = time.perf_counter()
            self._step(batch, size, image_size)
            times.append((time.perf_counter() - started) / size)
            if len(times) > steps:
                break
        return float(np.median(times[1:] or times)) * len(self._batches.labels)

    def losses_at(self, rates: Sequence[float]) -> Iterator[float]:
        """Take a step at each learning rate and yield its loss, until it is not finite."""
        for rate, (batch, size) in zip(rates, self._endless(), strict=False):
            self._optimizer.learning_rate = rate
            loss, _ = self._step(batch, size, self.recipe.image_size)
            if not math.isfinite(loss):
                return
            yield loss / size

    def _endless(
        self, output_size: tuple[int, int] | None = None
    ) -> Iterator[tuple[Iterator[MicroBatch], int]]:
        """Yield batches and their sizes, epoch after epoch."""
        for epoch in count():
            yield from zip(
                self._batches.epoch(epoch, output_size=output_size),
                self._batches.sizes(),
                strict=True,
            )

    def _epoch(self, history: History, callback_list: Any, bar: Any) -> History:
        epoch = len(history)
        started = time.perf_counter()
        callback_list.on_epoch_begin(epoch)
        logs = self._learn(epoch, callback_list, bar)
        weights = self._step.weights()
        check_finite(weights, f"the weights after epoch {epoch + 1} are", self.recipe.learning_rate)
        self.model.set_weights(weights)
        if self._val is not None:
            logs |= self._validate(*self._val)
            check_finite(
                [logs["val_loss"]],
                f"val_loss after epoch {epoch + 1} is",
                self.recipe.learning_rate,
            )
        callback_list.on_epoch_end(epoch, logs)
        if self._stopping is not None and self._stopping.see(logs, self._step.weights()):
            _log.info("val_loss has not fallen for long: stopped after epoch %d.", epoch + 1)
            self.model.stop_training = True
        rate = float(np.asarray(self._optimizer.learning_rate))
        record, seconds = {**logs, "learning_rate": rate}, time.perf_counter() - started
        bar.set_postfix({name: f"{value:.3f}" for name, value in logs.items()})
        _log.info("Epoch %d of %d in %.1f s: %s", epoch + 1, self.recipe.epochs, seconds, record)
        return history.followed_by(record, seconds)

    def _learn(self, epoch: int, callback_list: Any, bar: Any) -> dict[str, float]:
        """Take all steps of an epoch; return the mean loss and accuracy over its images."""
        recipe, batches = self.recipe, self._batches
        image_size = recipe.training_size(epoch)
        mix = recipe.mixing is not None and epoch < recipe.mixing.until * recipe.epochs
        ended: list[float] = []
        losses, hits = 0.0, 0
        stream = batches.epoch(epoch, output_size=image_size, mix=mix)
        for number, (batch, size) in enumerate(zip(stream, batches.sizes(), strict=True)):
            callback_list.on_train_batch_begin(number)
            if recipe.schedule != "constant":
                step, steps = epoch * len(batches) + number, self.recipe.epochs * len(batches)
                self._optimizer.learning_rate = recipe.learning_rate_at(step, steps)
            loss, correct = self._step(batch, size, image_size)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"The training diverged: the loss in epoch {epoch + 1} is {loss}. Use a lower "
                    "learning_rate "
                    f"(it was {recipe.learning_rate:g})."
                )
            losses, hits = losses + loss, hits + correct
            callback_list.on_train_batch_end(
                number, {"loss": loss / size, "accuracy": correct / size}
            )
            bar.update(size)
            if not epoch:
                ended.append(time.perf_counter())
                self._refit_early(ended, image_size)
        return {"loss": losses / len(batches.labels), "accuracy": hits / len(batches.labels)}

    def _validate(self, pixels: Pixels, labels: npt.NDArray[np.int64]) -> dict[str, float]:
        """Return loss and accuracy on val, computed from all predictions at once."""
        parts = [
            np.arange(i, min(i + self._part, len(labels)))
            for i in range(0, len(labels), self._part)
        ]
        probabilities = np.concatenate(
            [self._infer(pixels.take(part)).numpy() for part in parts]
        ).astype(np.float64)
        return {
            f"val_{name}": value for name, value in loss_and_accuracy(labels, probabilities).items()
        }

    def _state(self, history: History) -> Checkpoint:
        # All variables, not the weights alone: dropout layers keep the state of their random
        # numbers.
        arrays = {
            name: [np.asarray(variable) for variable in values]
            for name, values in self._variables().items()
        }
        if self._stopping is not None:
            arrays["best"] = list(self._stopping.weights)
        return Checkpoint(arrays, history, self.recipe.epochs)

    def _resume(self, checkpoint: Checkpoint) -> History:
        _log.info("Continuing after epoch %d.", len(checkpoint.history))
        for name, variables in self._variables().items():
            for variable, value in zip(variables, checkpoint.arrays[name], strict=True):
                variable.assign(value)
        if self._stopping is not None:
            self._stopping.resume(checkpoint.history, checkpoint.arrays.get("best", ()))
        return checkpoint.history

    def _variables(self) -> dict[str, Sequence[Any]]:
        """Everything that changes during a training."""
        return {
            "model": self._twin.variables,
            "optimizer": self._optimizer.variables,
            "average": [*self._step.average, self._step.steps],
        }
