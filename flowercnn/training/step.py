"""One step of gradient descent, compiled; the batch is computed in parts where that is the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn.models import Recipe, import_keras, member_count
from flowercnn.preprocessing import MicroBatch, apply_augmentation, apply_mixing

__all__ = ["TrainStep"]


class TrainStep:
    """Gradients of a model, compiled once per image size, and their application.

    Args:
        model: The Keras model to train, in place.
        optimizer: A Keras optimizer.
        recipe: For label smoothing and the moving average.
        class_weights: Shape (num_classes,), float32: the weight of each class in the loss; ``None``
            for equal ones.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        recipe: Recipe,
        class_weights: npt.NDArray[np.float32] | None = None,
    ) -> None:
        import tensorflow as tf

        self._model = model
        self._members = member_count(model)
        self._recipe = recipe
        self._class_weights = class_weights
        self._gradients = tf.function(self._compute_gradients, reduce_retracing=True)
        self.average = (
            [tf.Variable(weight.value) for weight in model.weights] if recipe.average else []
        )
        self.steps = tf.Variable(0, dtype=tf.int64)
        optimizer.build(model.trainable_variables)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow is untyped
        def update(gradients: list[Any]) -> None:
            optimizer.apply(gradients, model.trainable_variables)
            # The average forgets the first weights fast: after k steps it reaches back at most k of
            # them.
            steps = tf.cast(self.steps.assign_add(1), tf.float32)
            decay = tf.minimum(recipe.average, steps / (steps + 9.0))
            for average, weight in zip(self.average, model.weights, strict=bool(self.average)):
                if average.dtype.is_floating:
                    average.assign_sub((1 - decay) * (average - weight))
                else:  # a count
                    average.assign(weight)

        self._update = update

    def __call__(
        self, parts: Iterable[MicroBatch], batch_size: int, image_size: tuple[int, int]
    ) -> tuple[float, int]:
        """Change the weights once by the mean gradient of ``batch_size`` images given in parts.

        Args:
            parts: The batch.
            batch_size: How many images it has.
            image_size: (height, width) to augment or shrink them to.

        Returns:
            The sum of the images' losses, and how many were classified correctly before the
            change.
        """
        total: list[Any] | None = None
        losses, hits = 0.0, 0
        for part in parts:
            loss, correct, gradients = self._gradients(part, np.float32(batch_size), image_size)
            total = (
                gradients
                if total is None
                else [a + b for a, b in zip(total, gradients, strict=True)]
            )
            losses, hits = losses + float(loss), hits + int(correct)
        if total is not None:
            self._update(total)
        return losses, hits

    def weights(self) -> list[npt.NDArray[np.float32]]:
        """Return the weights to keep: their moving average where the recipe wants it."""
        return [np.asarray(weight) for weight in (self.average or self._model.weights)]

    def _compute_gradients(
        self, part: MicroBatch, batch_size: Any, image_size: tuple[int, int]
    ) -> tuple[Any, Any, Any]:
        import tensorflow as tf

        pixels = self._pixels(part, image_size)
        num_classes = self._model.output_shape[1]
        smoothing = self._recipe.label_smoothing
        targets = tf.one_hot(part.labels, num_classes) * (1 - smoothing) + smoothing / num_classes
        if self._class_weights is not None:
            targets *= tf.gather(tf.constant(self._class_weights), part.labels)[:, None]
        if part.mixing is not None:
            pixels, targets = apply_mixing(pixels, targets, part.mixing, image_size)
        weights = tf.reduce_sum(targets, axis=1, keepdims=True)
        with tf.GradientTape() as tape:
            losses, probabilities = self._losses(pixels, targets / weights)
            loss = tf.reduce_sum(losses * weights[:, 0])
            # A penalty on weights counts once per image here, so that the parts of a batch add up
            # to one of it.
            penalty = sum(tf.cast(each, tf.float32) for each in self._model.losses) * tf.cast(
                tf.shape(pixels)[0], tf.float32
            )
            objective = (loss + penalty) / batch_size
        variables = [variable.value for variable in self._model.trainable_variables]
        gradients = tape.gradient(
            objective, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        correct = tf.reduce_sum(
            tf.cast(tf.equal(tf.argmax(probabilities, axis=1), part.labels), tf.int64)
        )
        return loss, correct, gradients

    def _losses(self, pixels: Any, targets: Any) -> tuple[Any, Any]:
        """Return the loss of each image and its probabilities.

        Networks that are trained side by side each have their own loss; a common one would let them
        divide the work, and their errors would no longer average out.
        """
        import tensorflow as tf

        keras = import_keras()
        if self._members == 1:
            probabilities = self._model(pixels, training=True)
            if probabilities.dtype != tf.float32:  # a model of the user's own
                probabilities = tf.cast(probabilities, tf.float32)
            # Keras computes this from the logits where the model ends in a softmax: exact for any
            # probability.
            return keras.ops.categorical_crossentropy(targets, probabilities), probabilities
        last = self._model.layers[-1]
        both = keras.Model(self._model.inputs[0], [self._model.outputs[0], last.input])
        probabilities, mean = both(pixels, training=True)
        # The last layer sees the features of all, divided by their number: each has its own rows of
        # the kernel.
        size = mean.shape[1] // self._members
        features = tf.reshape(tf.cast(mean, tf.float32) * self._members, [-1, self._members, size])
        kernels = tf.reshape(last.kernel.value, [self._members, size, last.units])
        logits = tf.einsum("nmf,mfc->mnc", features, kernels) + last.bias.value
        losses = -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=2)
        return tf.reduce_mean(losses, axis=0), probabilities

    @staticmethod
    def _pixels(part: MicroBatch, image_size: tuple[int, int]) -> Any:
        """Return the images as the network sees them in training: float32, 0-255."""
        import tensorflow as tf

        if part.draw is not None:
            return apply_augmentation(part.pixels, part.draw, image_size)
        if tuple(part.pixels.shape[1:3]) != image_size:
            return tf.image.resize(part.pixels, image_size, antialias=True)
        return tf.cast(part.pixels, tf.float32)
