"""Fine-tuning of the last convolution of a backbone, on what goes into it, computed once.

Many light networks end in a pointwise convolution that holds much of their weights. With its inputs
for several views of each image at hand, an epoch takes seconds, and no image is computed again.
Two copies of these layers learn from other views in another order; the mean of their weights is
kept, which errs less on average (Wortsman et al. 2022).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from flowercnn._utils import generator, progress_bar, stable_hash
from flowercnn.errors import TrainingError
from flowercnn.evaluation import loss_and_accuracy
from flowercnn.models import (
    Recipe,
    head_of,
    import_keras,
    make_training_copy,
    operation_of,
    seeded_weights,
)
from flowercnn.training.budget import fit_epochs, measured
from flowercnn.training.callbacks import make_callback_list
from flowercnn.training.checks import check_finite
from flowercnn.training.early_stopping import BestEpoch
from flowercnn.training.run import History
from flowercnn.training.transfer.features import Features, freeze

__all__ = ["ConvolutionalHead", "last_convolution"]

_PARTS: Final = 2
_COPIES: Final = 2
_MOST_BYTES: Final = 2**30
_AT_ONCE: Final = 64
_log = logging.getLogger(__name__)

Labels = npt.NDArray[np.int64]


def last_convolution(model: Any) -> Any | None:
    """Return the pointwise convolution before the global layers at a classifier's end.

    ``None`` if it ends in another: in a sum of branches, say, or in a convolution that would take
    long to train.
    """
    layer = head_of(model)
    while not isinstance(layer.input, (list, tuple)):
        layer = operation_of(layer.input)
        kind = type(layer).__name__
        if kind == "Conv2D":
            return layer if tuple(layer.kernel_size) == (1, 1) else None
        if kind == "InputLayer" or (layer.trainable_weights and kind != "BatchNormalization"):
            return None
    return None


class ConvolutionalHead:
    """Convolutional head: the layers of a classifier from its last convolution on, shared.

    Args:
        model: A classifier; `tune` changes it.
        convolution: What `last_convolution` found in it.
        precision: Of the activations while it is tuned.
    """

    def __init__(
        self, model: Any, convolution: Any, *, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        keras = import_keras()
        self._model, self._convolution, self._precision = model, convolution, precision
        self._shape = tuple(convolution.input.shape[1:])
        self._network = keras.Model(convolution.input, model.outputs[0])
        self._to_features = keras.Model(convolution.input, head_of(model).input)
        self.inputs = keras.layers.Flatten()(convolution.input)
        self._compiling = 0.0
        self.recipe = Recipe()
        """That of the last `tune`, with as many epochs as fitted into its time."""

    def parts_that_fit(self, images: int) -> int:
        """Return how many crops of each image fit in memory, besides itself and its mirror."""
        views: int = _MOST_BYTES // (2 * images * math.prod(self._shape))  # float16
        return max(0, min(_PARTS, views - 2))

    def features(self, inputs: Features) -> Features:
        """Return the feature vectors that the convolution and what follows make of its inputs."""
        images, views, _ = inputs.rows.shape
        rows = self._compute(self._to_features, inputs.rows.reshape(images * views, -1))
        return Features(rows.reshape(images, views, -1), inputs.kept, inputs.skipped)

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
        """Train the convolution and the last layer; return history and whether interrupted.

        The mean weights of the copies become those of the classifier after each epoch.

        Args:
            inputs: Of the convolution, shape (n, views, height * width * channels): a view is drawn
                at each sight.
            labels: Shape (n,).
            recipe: Epochs, batch size, learning rates, label smoothing and balance; its
                augmentation plays no part.
            seed: Of order and views.
            watched: Inputs and labels of images that are watched.
            patience: Stop after so many epochs without a lower ``val_loss``; the best one's weights
                are kept.
            deadline: Take fewer epochs than the recipe's, so that they end before this time of
                ``time.perf_counter``; none begins after it.
            callbacks: Keras callbacks. They see the whole classifier; a learning rate they set
                holds where the recipe's schedule is constant.
            progress: Whether to show a progress bar.

        Raises:
            TrainingError: If the loss, the weights or the network's answers are no longer finite.
        """
        model, end = self._model, math.inf if deadline is None else deadline
        freeze(model, 0)  # normalisation stays as it was learned from many images
        self._convolution.trainable = True
        self.recipe, self._compiling = recipe, 0.0
        copies = [self._copy(recipe, seed, number) for number in range(_COPIES)]
        # Its learning rate is what callbacks read and set; the copies follow it.
        optimizer = import_keras().optimizers.Adam(recipe.learning_rate)
        callback_list = make_callback_list(
            callbacks,
            model,
            epochs=recipe.epochs,
            steps=_steps(labels, recipe),
            optimizer=optimizer,
        )
        best = None if patience is None or watched is None else BestEpoch(patience)
        history, interrupted = History(), False
        model.stop_training = False
        callback_list.on_train_begin()
        with progress_bar(
            total=_COPIES * recipe.epochs * len(labels),
            description="Fine-tuning",
            unit="img",
            enabled=progress,
        ) as bar:
            try:
                while (
                    len(history) < self.recipe.epochs
                    and not model.stop_training
                    and time.perf_counter() < end
                ):
                    epoch, started = len(history), time.perf_counter()
                    callback_list.on_epoch_begin(epoch)
                    logs = self._epoch(epoch, copies, inputs.rows, labels, seed, bar)
                    if watched is not None:
                        seen = loss_and_accuracy(
                            watched[1], self._compute(self._network, watched[0].rows[:, 0])
                        )
                        logs |= {f"val_{name}": value for name, value in seen.items()}
                        check_finite(
                            [logs["val_loss"]],
                            f"val_loss in epoch {epoch + 1} is",
                            recipe.learning_rate,
                        )
                    callback_list.on_epoch_end(epoch, dict(logs))
                    if best is not None and best.see(logs, model.get_weights()):
                        model.stop_training = True
                    history = history.followed_by(logs, time.perf_counter() - started)
                    self.recipe = self._fitted(recipe, history, end - time.perf_counter())
                    bar.total = _COPIES * self.recipe.epochs * len(labels)
            except KeyboardInterrupt:
                _log.warning(
                    "Stopped by Ctrl-C in epoch %d; what was learned is kept.", len(history) + 1
                )
                interrupted = True
        if best is not None and best.weights:
            model.set_weights(best.weights)
        callback_list.on_train_end()
        answers = [*self._network.get_weights(), self._compute(self._network, inputs.rows[:1, 0])]
        check_finite(answers, "what the network answers after fine-tuning is", recipe.learning_rate)
        return history, interrupted

    def _copy(self, recipe: Recipe, seed: int, number: int) -> Any:
        """Return the convolutional head with weights of its own, the same ones, ready to learn."""
        keras = import_keras()
        with seeded_weights(
            stable_hash(seed, "ending", number) >> 1
        ):  # for the random numbers of dropout layers
            copy = make_training_copy(self._network, precision=self._precision)
        copy.compile(
            optimizer=keras.optimizers.Adam(recipe.learning_rate, beta_2=0.99),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
            metrics=["accuracy"],
        )
        return copy

    def _epoch(
        self,
        epoch: int,
        copies: list[Any],
        rows: npt.NDArray[np.floating],
        labels: Labels,
        seed: int,
        bar: Any,
    ) -> dict[str, float]:
        """Train each copy for an epoch and average them; return mean metrics and the rate."""
        seen: list[dict[str, float]] = []
        try:
            for number, copy in enumerate(copies):
                random = generator(seed, "ending", number, epoch)
                seen.append(self._learn(copy, epoch, rows, labels, random, bar))
        finally:  # Ctrl-C, too, keeps what was learned
            weights = zip(*(copy.get_weights() for copy in copies), strict=True)
            self._network.set_weights([np.mean(each, axis=0) for each in weights])
        return {name: float(np.mean([logs[name] for logs in seen])) for name in seen[0]}

    def _learn(
        self,
        copy: Any,
        epoch: int,
        rows: npt.NDArray[np.floating],
        labels: Labels,
        random: np.random.Generator,
        bar: Any,
    ) -> dict[str, float]:
        """Take all steps of an epoch; return mean loss, mean accuracy and the last rate."""
        recipe = self.recipe
        steps = _steps(labels, recipe)
        num_classes = self._model.output_shape[1]
        weights = recipe.class_weights(np.bincount(labels, minlength=num_classes))
        of_class = None if weights is None else dict(enumerate(weights.tolist()))
        loss = accuracy = 0.0
        times = [time.perf_counter()]
        for number, chosen in enumerate(np.array_split(random.permutation(len(labels)), steps)):
            views = random.integers(0, rows.shape[1], len(chosen))
            if recipe.schedule != "constant":
                rate = recipe.learning_rate_at(epoch * steps + number, recipe.epochs * steps)
                self._model.optimizer.learning_rate = rate
            copy.optimizer.learning_rate = float(np.asarray(self._model.optimizer.learning_rate))
            copy.reset_metrics()  # they would go on over batches
            logs = copy.train_on_batch(
                self._shaped(rows[chosen, views]),
                np.eye(num_classes, dtype=np.float32)[labels[chosen]],
                class_weight=of_class,
                return_dict=True,
            )
            loss += float(logs["loss"]) * len(chosen) / len(labels)
            accuracy += float(logs["accuracy"]) * len(chosen) / len(labels)
            bar.update(len(chosen))
            times.append(time.perf_counter())
        if not epoch and steps > 1:
            first, *others = np.diff(times)
            self._compiling += float(max(first - np.median(others), 0.0))
        if not math.isfinite(loss):
            raise TrainingError(
                f"Fine-tuning diverged: the loss in epoch {epoch + 1} is {loss}. Use a lower "
                "learning_rate "
                f"(it was {recipe.learning_rate:g})."
            )
        return {
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": float(np.asarray(copy.optimizer.learning_rate)),
        }

    def _fitted(self, recipe: Recipe, history: History, seconds: float) -> Recipe:
        """Return the recipe with as many of its epochs as the remaining time allows."""
        if seconds == math.inf:
            return recipe
        first = history.seconds[0] - self._compiling
        pace = measured(recipe, history if len(history) > 1 else History(seconds=(first, first)))
        epochs = min(recipe.epochs, fit_epochs(recipe, seconds, pace, done=len(history)).epochs)
        return dataclasses.replace(recipe, epochs=epochs)

    def _compute(self, network: Any, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        parts = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
        return np.concatenate(
            [np.asarray(network(self._shaped(part), training=False)) for part in parts]
        )

    def _shaped(self, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        return rows.reshape(len(rows), *self._shape).astype(np.float32)


def _steps(labels: Labels, recipe: Recipe) -> int:
    return math.ceil(len(labels) / recipe.batch_size)
