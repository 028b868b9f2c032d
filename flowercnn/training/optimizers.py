"""Optimizers: those of recipes, AdamW by depth, and Muon for convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from flowercnn.models import Recipe, import_keras

__all__ = ["make_muon", "make_optimizer", "make_optimizer_by_depth"]

_SLOWER: Final = 1 / 2.6  # per stage towards the pixels (Howard & Ruder 2018)
_MOMENTUM: Final = 0.9
_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 4
_ADAM_SHARE: Final = 0.15
_BETAS: Final = (0.9, 0.999)
_KERNEL_DIMENSIONS: Final = 4


def make_optimizer(recipe: Recipe) -> Any:
    """Return the recipe's Keras optimizer."""
    optimizers = import_keras().optimizers
    if recipe.optimizer == "sgd":
        return optimizers.SGD(recipe.learning_rate, momentum=0.9, nesterov=True)
    if recipe.optimizer == "adam":
        return optimizers.Adam(recipe.learning_rate)
    if recipe.optimizer == "muon":
        return make_muon(recipe.learning_rate, recipe.weight_decay)
    optimizer = optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def make_optimizer_by_depth(recipe: Recipe, model: Any, stages: Mapping[str, int]) -> Any:
    """Return AdamW with a lower rate for each stage farther from the head.

    Args:
        recipe: Learning rate and weight decay.
        model: A classifier; its trainable variables are optimized.
        stages: The distance of each layer from the head, by the layer's name.
    """
    optimizers = import_keras().optimizers
    # By variable, not by name: those of a model within the model do not have its name.
    by_variable = {
        id(each): _SLOWER ** stages[layer.name] for layer in model.layers for each in layer.weights
    }
    rates = [by_variable[id(each)] for each in model.trainable_variables]

    class AdamByDepth(optimizers.AdamW):  # type: ignore[name-defined, misc]  # Keras is untyped
        def build(self, variables: Any) -> None:
            super().build(variables)
            if len(rates) != len(variables):
                raise ValueError(f"Made for {len(rates)} variables. Received: {len(variables)}")

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = rates[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * rate)

    optimizer = AdamByDepth(recipe.learning_rate, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def make_muon(learning_rate: float, weight_decay: float) -> Any:
    """Return Muon (Jordan et al. 2024), also for convolutions; Adam for other variables.

    Each step of a kernel, seen as a matrix (height x width x channels in, channels out), has all
    singular values near one, so that every direction is learned at the same pace. Keras's own Muon
    leaves kernels of convolutions to Adam.

    Args:
        learning_rate: Of the kernels; Adam's is 0.15 times that.
        weight_decay: Decoupled, of the kernels.
    """
    return _muon_class()(learning_rate=learning_rate, weight_decay=weight_decay, name="muon")


def orthogonalized(matrix: Any) -> Any:
    """Return a matrix with the same singular vectors and singular values near one.

    Newton and Schulz's iteration with Jordan's coefficients, four rounds, computed on the small
    square matrix of inner products; the result is applied to ``matrix`` once.

    Args:
        matrix: Tensor of shape (rows, columns), float32.
    """
    import tensorflow as tf

    rows, columns = matrix.shape
    tall = rows > columns
    x = matrix / (tf.norm(matrix) + 1e-7)
    square = tf.matmul(x, x, transpose_a=tall, transpose_b=not tall)
    identity = tf.eye(min(rows, columns))
    a, b, c = _QUINTIC
    product = identity
    for left in reversed(range(_ITERATIONS)):
        factor = a * identity + b * square + c * tf.matmul(square, square)
        product = tf.matmul(product, factor) if product is not identity else factor
        if left:  # all of these are polynomials of one matrix, so their order does not matter
            square = tf.matmul(tf.matmul(square, factor), factor)
    return tf.matmul(x, product) if tall else tf.matmul(product, x)


@cache
def _muon_class() -> Any:
    """The class is made when first needed: its base comes with Keras."""
    keras = import_keras()
    import tensorflow as tf

    class Muon(keras.optimizers.Optimizer):  # type: ignore[name-defined, misc]  # Keras is untyped
        def build(self, variables: list[Any]) -> None:
            if self.built:
                return
            self.exclude_from_weight_decay(var_list=[v for v in variables if not _is_kernel(v)])
            super().build(variables)
            self.momentums = self.add_optimizer_variables(variables, "momentum")
            self.velocities = [
                None
                if _is_kernel(variable)
                else self.add_variable_from_reference(variable, name="velocity")
                for variable in variables
            ]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            momentum, velocity = self.momentums[index], self.velocities[index]
            rate = tf.cast(learning_rate, tf.float32)
            if velocity is None:
                momentum.assign(_MOMENTUM * momentum + gradient)
                matrix = tf.reshape(gradient + _MOMENTUM * momentum, [-1, variable.shape[-1]])
                # A kernel with more outputs than inputs needs longer steps to change its outputs as
                # much.
                scale = math.sqrt(max(1.0, matrix.shape[1] / matrix.shape[0]))
                variable.assign_sub(
                    rate * scale * tf.reshape(orthogonalized(matrix), variable.shape)
                )
                return
            first, second = _BETAS
            step = tf.cast(self.iterations + 1, tf.float32)
            momentum.assign(first * momentum + (1 - first) * gradient)
            velocity.assign(second * velocity + (1 - second) * tf.square(gradient))
            correction = tf.sqrt(1 - second**step) / (1 - first**step)
            variable.assign_sub(
                _ADAM_SHARE * rate * correction * momentum / (tf.sqrt(velocity) + 1e-7)
            )

    return Muon


def _is_kernel(variable: Any) -> bool:
    return len(variable.shape) == _KERNEL_DIMENSIONS
