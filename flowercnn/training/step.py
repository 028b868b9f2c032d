"""One step of gradient descent, compiled; the batch is computed in parts where that is the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from flowercnn.models.keras3 import import_keras
from flowercnn.models.recipe import Recipe
from flowercnn.preprocessing.augment import apply_augmentation
from flowercnn.preprocessing.batches import Part

__all__ = ["TrainStep", "make_optimizer"]


def make_optimizer(recipe: Recipe) -> Any:
    """Return the recipe's Keras optimizer."""
    optimizers = import_keras().optimizers
    if recipe.optimizer == "sgd":
        return optimizers.SGD(recipe.learning_rate, momentum=0.9, nesterov=True)
    if recipe.optimizer == "adam":
        return optimizers.Adam(recipe.learning_rate)
    optimizer = optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class TrainStep:
    """Gradients of a model, compiled once, and their application.

    Args:
        model: The Keras model to train, in place.
        optimizer: A Keras optimizer.
        recipe: For label smoothing and the picture size.
    """

    def __init__(self, model: Any, optimizer: Any, recipe: Recipe) -> None:
        import tensorflow as tf

        self._model = model
        self._recipe = recipe
        self._gradients = tf.function(self._compute_gradients, reduce_retracing=True)
        optimizer.build(model.trainable_variables)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow is untyped
        def update(gradients: list[Any]) -> None:
            optimizer.apply(gradients, model.trainable_variables)

        self._update = update

    def __call__(self, parts: Iterable[Part], batch_size: int) -> tuple[float, int]:
        """Change the weights once by the mean gradient of ``batch_size`` pictures given in parts.

        Returns:
            The sum of the pictures' losses, and how many were classified correctly before the change.
        """
        total: list[Any] | None = None
        losses, hits = 0.0, 0
        for part in parts:
            augmented = [] if part.draw is None else list(part.draw)
            loss, correct, gradients = self._gradients(part.pixels, part.labels, np.float32(batch_size), *augmented)
            total = gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
            losses, hits = losses + float(loss), hits + int(correct)
        if total is not None:
            self._update(total)
        return losses, hits

    def _compute_gradients(self, pixels: Any, labels: Any, batch_size: Any, *draw: Any) -> tuple[Any, Any, Any]:
        import tensorflow as tf

        size = self._recipe.image_size
        pixels = apply_augmentation(pixels, draw, size) if draw else tf.cast(pixels, tf.float32)
        with tf.GradientTape() as tape:
            probabilities = self._model(pixels, training=True)
            num_classes = probabilities.shape[1]
            smoothing = self._recipe.label_smoothing
            targets = tf.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes
            logs = tf.math.log(tf.maximum(probabilities, 1e-7))
            loss = -tf.reduce_sum(targets * logs)
            # A penalty on weights counts once per picture here, so that the parts of a batch add up to one of it.
            penalty = sum(self._model.losses) * tf.cast(tf.shape(pixels)[0], tf.float32)
            objective = (loss + penalty) / batch_size
        variables = [variable.value for variable in self._model.trainable_variables]
        gradients = tape.gradient(objective, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        correct = tf.reduce_sum(tf.cast(tf.equal(tf.argmax(probabilities, axis=1), labels), tf.int64))
        return loss, correct, gradients
