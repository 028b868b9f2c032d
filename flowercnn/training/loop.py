"""The training loop: epochs, steps, validation, callbacks, checkpoints; stopped by Ctrl-C without loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowercnn.errors import TrainingError
from flowercnn.models.keras3 import import_keras, seeded_weights
from flowercnn.models.parts import couples_pictures, pictures_at_once
from flowercnn.models.recipe import Recipe
from flowercnn.models.twin import make_twin
from flowercnn.preprocessing.batches import TrainingBatches
from flowercnn.preprocessing.pixels import Pixels
from flowercnn.progress import progress_bar
from flowercnn.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from flowercnn.training.history import History
from flowercnn.training.step import TrainStep, make_optimizer

__all__ = ["Loop"]

Data = tuple[Pixels, npt.NDArray[np.int64]]

_log = logging.getLogger(__name__)


class Loop:
    """One training of one model.

    Args:
        model: The Keras model; it has the trained weights in the end.
        recipe: How to train.
        seed: Of order and augmentation.
        precision: Of the activations in training.
        checkpoint_dir: Where the state is kept, or ``None``.
        fingerprint: A name for everything that decides about the weights.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        *,
        seed: int,
        precision: Literal["float32", "bfloat16"],
        checkpoint_dir: Path | None,
        fingerprint: str,
    ) -> None:
        import tensorflow as tf

        self.model = model
        self._recipe = recipe
        self._seed = seed
        self._checkpoint_dir = checkpoint_dir
        self._fingerprint = fingerprint
        with seeded_weights(seed):  # for the random numbers of dropout layers
            self._twin = make_twin(model, precision=precision)
        self._optimizer = make_optimizer(recipe)
        self._step = TrainStep(self._twin, self._optimizer, recipe)
        self._infer = tf.function(
            lambda pixels: self._twin(tf.cast(pixels, tf.float32), training=False), reduce_retracing=True
        )
        itemsize = 2 if precision == "bfloat16" else 4
        self._part = pictures_at_once(model, most=recipe.batch_size, itemsize=itemsize)
        self._whole_batches = couples_pictures(model)

    def run(self, train: Data, val: Data | None, *, callbacks: Sequence[Any], progress: bool) -> tuple[History, bool]:
        """Train all epochs that are left; return the history and whether Ctrl-C ended it early.

        Raises:
            TrainingError: If the loss is no longer finite, or a checkpoint cannot be used.
        """
        batches = TrainingBatches(
            *train,
            image_size=self._recipe.image_size,
            batch_size=self._recipe.batch_size,
            part_size=self._recipe.batch_size + 1 if self._whole_batches else self._part,
            augmentation=self._recipe.augmentation,
            seed=self._seed,
        )
        history = self._resume()
        self.model.compile(optimizer=self._optimizer, loss="sparse_categorical_crossentropy")
        hooks = import_keras().callbacks.CallbackList(
            list(callbacks), model=self.model, epochs=self._recipe.epochs, steps=len(batches), verbose=0
        )
        self.model.stop_training = False
        hooks.on_train_begin()
        interrupted = False
        total = (self._recipe.epochs - len(history)) * len(batches.labels)
        with progress_bar(total=total, description="Training", unit="img", enabled=progress) as bar:
            try:
                while len(history) < self._recipe.epochs and not self.model.stop_training:
                    history = self._epoch(history, batches, val, hooks, bar)
            except KeyboardInterrupt:
                _log.warning("Stopped by Ctrl-C in epoch %d; what was learned is kept.", len(history) + 1)
                interrupted = True
        self._hand_over()
        hooks.on_train_end()
        return history, interrupted

    def _epoch(self, history: History, batches: TrainingBatches, val: Data | None, hooks: Any, bar: Any) -> History:
        epoch = len(history)
        started = time.perf_counter()
        hooks.on_epoch_begin(epoch)
        losses, hits, seen = 0.0, 0, 0
        for number, (batch, size) in enumerate(zip(batches.epoch(epoch), batches.sizes(), strict=True)):
            hooks.on_train_batch_begin(number)
            if self._recipe.schedule != "constant":
                step, steps = epoch * len(batches) + number, self._recipe.epochs * len(batches)
                self._optimizer.learning_rate = self._recipe.learning_rate_at(step, steps)
            loss, correct = self._step(batch, size)
            losses, hits, seen = losses + loss, hits + correct, seen + size
            hooks.on_train_batch_end(number, {"loss": loss / size, "accuracy": correct / size})
            bar.update(size)
        if not math.isfinite(losses):
            raise TrainingError(
                f"The training diverged: the loss of epoch {epoch + 1} is {losses}. Use a lower learning_rate "
                f"(it was {self._recipe.learning_rate:g})."
            )
        logs = {"loss": losses / seen, "accuracy": hits / seen}
        if val is not None:
            logs |= self._validate(*val)
        self._hand_over()
        hooks.on_epoch_end(epoch, logs)
        rate = float(np.asarray(self._optimizer.learning_rate))
        record = {**logs, "learning_rate": rate, "seconds": time.perf_counter() - started}
        history = History((*history.epochs, record))
        bar.set_postfix({name: f"{value:.3f}" for name, value in logs.items()})
        _log.info("Epoch %d of %d: %s", epoch + 1, self._recipe.epochs, record)
        self._keep(history)
        return history

    def _validate(self, pixels: Pixels, labels: npt.NDArray[np.int64]) -> dict[str, float]:
        """Loss and accuracy on val, computed from predictions (not diluted as batch-wise metrics are)."""
        parts = [np.arange(i, min(i + self._part, len(labels))) for i in range(0, len(labels), self._part)]
        probabilities = np.concatenate([self._infer(pixels.take(part)).numpy() for part in parts]).astype(np.float64)
        of_truth = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7)
        return {
            "val_loss": float(-np.log(of_truth).mean()),
            "val_accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
        }

    def _hand_over(self) -> None:
        """Give the twin's weights to the model that callbacks see and that is kept."""
        self.model.set_weights(self._twin.get_weights())

    def _keep(self, history: History) -> None:
        if self._checkpoint_dir is not None:
            # All variables, not the weights alone: dropout layers keep the state of their random numbers.
            model, optimizer = ([np.asarray(v) for v in owner.variables] for owner in (self._twin, self._optimizer))
            checkpoint = Checkpoint(model, optimizer, history)
            write_checkpoint(self._checkpoint_dir, self._fingerprint, checkpoint)

    def _resume(self) -> History:
        if self._checkpoint_dir is None:
            return History()
        checkpoint = read_checkpoint(self._checkpoint_dir, self._fingerprint)
        if checkpoint is None:
            return History()
        _log.info("Continuing after epoch %d from %s", len(checkpoint.history), self._checkpoint_dir)
        for owner, values in ((self._twin, checkpoint.model), (self._optimizer, checkpoint.optimizer)):
            for variable, value in zip(owner.variables, values, strict=True):
                variable.assign(value)
        return checkpoint.history
