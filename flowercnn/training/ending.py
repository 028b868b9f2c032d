"""Fine-tuning of the last convolution of a backbone, on what goes into it, computed once.

Many light networks end in a pointwise convolution that holds much of their weights. With its inputs at hand, an epoch
takes a second or two, and no picture is computed again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import TrainingError
from flowercnn.models.features import head_of
from flowercnn.models.keras3 import import_keras
from flowercnn.models.recipe import Recipe
from flowercnn.progress import progress_bar
from flowercnn.seeding import generator
from flowercnn.training.history import History
from flowercnn.training.transfer import Features, figures, freeze, make_optimizer_by_depth
from flowercnn.training.watch import BestEpoch

__all__ = ["Ending", "last_convolution"]

_AT_ONCE: Final = 64
_log = logging.getLogger(__name__)

Labels = npt.NDArray[np.int64]


def last_convolution(model: Any) -> Any | None:
    """Return the pointwise convolution a classifier ends in, but for layers that do not see single places.

    ``None`` if it ends in another: in a sum of branches, say, or in a convolution that would take long to train.
    """
    layer = head_of(model)
    while not isinstance(layer.input, (list, tuple)):
        layer = layer.input._keras_history.operation  # noqa: SLF001 - no public way
        kind = type(layer).__name__
        if kind == "Conv2D":
            return layer if tuple(layer.kernel_size) == (1, 1) else None
        if kind == "InputLayer" or (layer.trainable_weights and kind != "BatchNormalization"):
            return None
    return None


class Ending:
    """The layers of a classifier from its last convolution to its probabilities, which they share.

    Args:
        model: A classifier; `tune` changes it.
        convolution: What `last_convolution` found in it.
    """

    def __init__(self, model: Any, convolution: Any) -> None:
        keras = import_keras()
        self._model, self._trained = model, (convolution, head_of(model))
        self._shape = tuple(convolution.input.shape[1:])
        self._network = keras.Model(convolution.input, [model.outputs[0], head_of(model).input])
        self.inputs = keras.layers.Flatten()(convolution.input)

    def features(self, inputs: Features) -> Features:
        """Return the feature vectors that the convolution and what follows make of its inputs."""
        pictures, views, _ = inputs.rows.shape
        rows = self._outputs(inputs.rows.reshape(pictures * views, -1))[1]
        return Features(rows.reshape(pictures, views, -1), inputs.kept, inputs.skipped)

    def tune(
        self,
        inputs: Features,
        labels: Labels,
        recipe: Recipe,
        *,
        seed: int,
        watched: tuple[Features, Labels] | None = None,
        patience: int | None = None,
        deadline: float | None = None,
        callbacks: Iterable[Any] = (),
        progress: bool = False,
    ) -> tuple[History, bool]:
        """Train the convolution and the last layer; return the history and whether Ctrl-C ended it early.

        Args:
            inputs: Of the convolution, shape (n, views, height * width * channels): a view is drawn at each sight.
            labels: Shape (n,).
            recipe: Epochs, batch size and learning rates; pictures are not augmented again.
            seed: Of the order.
            watched: Inputs and labels of pictures that are watched.
            patience: Stop after so many epochs without a lower ``val_loss``; the best one's weights are kept.
            deadline: Begin no epoch after this time of ``time.perf_counter``.
            callbacks: Keras callbacks.
            progress: Whether to show a progress bar.

        Raises:
            TrainingError: If the loss is no longer finite.
        """
        model, total = self._model, recipe.epochs * len(labels)
        step = self._make_step(recipe, np.bincount(labels, minlength=model.output_shape[1]))
        hooks = import_keras().callbacks.CallbackList(
            list(callbacks), model=model, epochs=recipe.epochs, steps=_steps(labels, recipe), verbose=0
        )
        best = None if patience is None or watched is None else BestEpoch(patience)
        history, interrupted = History(), False
        model.stop_training = False
        hooks.on_train_begin()
        with progress_bar(total=total, description="Fine-tuning", unit="img", enabled=progress) as bar:
            try:
                while len(history) < recipe.epochs and not model.stop_training:
                    epoch, started = len(history), time.perf_counter()
                    if deadline is not None and started > deadline:
                        break
                    hooks.on_epoch_begin(epoch)
                    logs = self._learn(
                        epoch, step, inputs.rows, labels, recipe, generator(seed, "ending", epoch), bar
                    )
                    if watched is not None:
                        measured = figures(self._outputs(watched[0].rows[:, 0])[0], watched[1])
                        logs |= {f"val_{name}": value for name, value in measured.items()}
                    hooks.on_epoch_end(epoch, logs)
                    if best is not None and best.see(logs, model.get_weights()):
                        model.stop_training = True
                    steps = _steps(labels, recipe)
                    rate = recipe.learning_rate_at(len(history) * steps, recipe.epochs * steps)
                    record = {**logs, "learning_rate": rate, "seconds": time.perf_counter() - started}
                    history = History((*history.epochs, record))
            except KeyboardInterrupt:
                _log.warning("Stopped by Ctrl-C in epoch %d; what was learned is kept.", len(history) + 1)
                interrupted = True
        if best is not None and best.weights:
            model.set_weights(best.weights)
        hooks.on_train_end()
        return history, interrupted

    def _learn(
        self,
        epoch: int,
        step: Any,
        rows: npt.NDArray[np.float32],
        labels: Labels,
        recipe: Recipe,
        random: np.random.Generator,
        bar: Any,
    ) -> dict[str, float]:
        """Take all steps of an epoch; return the mean loss and accuracy over its pictures."""
        losses, hits, steps = 0.0, 0, _steps(labels, recipe)
        parts = np.array_split(random.permutation(len(labels)), steps)
        for number, chosen in enumerate(parts):
            views = random.integers(0, rows.shape[1], len(chosen))
            rate = recipe.learning_rate_at(epoch * steps + number, recipe.epochs * steps)
            seen = rows[chosen, views].reshape(len(chosen), *self._shape)
            loss, correct = step(seen, labels[chosen], np.float32(rate))
            losses, hits = losses + float(loss), hits + int(correct)
            bar.update(len(chosen))
        if not math.isfinite(losses):
            raise TrainingError(
                f"Fine-tuning diverged: the loss in epoch {epoch + 1} is {losses}. Use a lower learning_rate (it was "
                f"{recipe.learning_rate:g})."
            )
        return {"loss": losses / len(labels), "accuracy": hits / len(labels)}

    def _make_step(self, recipe: Recipe, counts: Labels) -> Any:
        """Return a function of inputs, labels and learning rate that changes the weights once."""
        import tensorflow as tf

        freeze(self._model, 0)
        for layer in self._trained:
            layer.trainable = True
        weights = [weight for layer in self._trained for weight in layer.trainable_weights]
        optimizer = make_optimizer_by_depth(recipe, self._model)
        of_class = recipe.class_weights(counts)
        weight_of = tf.constant(np.ones(len(counts), np.float32) if of_class is None else of_class)
        optimizer.build(weights)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow is untyped
        def step(rows: Any, labels: Any, rate: Any) -> Any:
            optimizer.learning_rate.assign(rate)
            targets = tf.one_hot(labels, len(counts))
            targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / len(counts)
            with tf.GradientTape() as tape:
                # Not in training mode: normalisation stays as it was learned from many pictures.
                probabilities = tf.clip_by_value(self._network(rows, training=False)[0], 1e-7, 1.0)
                losses = -tf.reduce_sum(targets * tf.math.log(probabilities), axis=1)
                loss = tf.reduce_mean(tf.gather(weight_of, labels) * losses)
            gradients = tape.gradient(loss, [weight.value for weight in weights])
            optimizer.apply(gradients, weights)
            correct = tf.argmax(probabilities, axis=1, output_type=labels.dtype) == labels
            return tf.reduce_sum(losses), tf.math.count_nonzero(correct)

        return step

    def _outputs(self, rows: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """Return probabilities and feature vectors for rows of inputs."""
        parts = []
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            outputs = self._network(part.reshape(len(part), *self._shape), training=False)
            parts.append([np.asarray(output) for output in outputs])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _steps(labels: Labels, recipe: Recipe) -> int:
    return math.ceil(len(labels) / recipe.batch_size)
