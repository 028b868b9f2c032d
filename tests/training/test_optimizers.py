from __future__ import annotations

import numpy as np
import pytest

from flowercnn.models.backend import import_keras
from flowercnn.training.optimizers import make_muon, orthogonalized

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("shape", [(27, 32), (432, 48), (48, 432), (5, 5)])
def test_every_direction_of_a_step_is_about_equally_long(shape: tuple[int, int]) -> None:
    import tensorflow as tf

    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step = np.asarray(orthogonalized(tf.constant(gradient)))
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    # In the basis of the gradient's singular vectors the step is near diagonal, with entries near
    # one.
    inner = left.T @ step @ right.T
    assert np.all(np.diag(inner) > 0.2)
    assert np.all(np.diag(inner) < 1.4)
    assert np.median(np.diag(inner)) > 0.6
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.1


def test_kernels_take_orthogonal_steps_and_the_rest_those_of_adam() -> None:
    keras = import_keras()
    kernel = keras.Variable(np.zeros((3, 3, 2, 4), np.float32), name="kernel")
    bias = keras.Variable(np.zeros(4, np.float32), name="bias")
    optimizer = make_muon(0.1, 0.0)
    gradients = [
        np.random.default_rng(0).normal(size=variable.shape).astype(np.float32)
        for variable in (kernel, bias)
    ]
    optimizer.apply(gradients, [kernel, bias])
    singular = np.linalg.svd(np.asarray(kernel).reshape(18, 4), compute_uv=False)
    assert singular.min() > 0.05
    assert singular.max() < 0.13
    assert np.allclose(np.asarray(bias), -0.015 * np.sign(gradients[1]), atol=1e-4)


def test_only_kernels_decay() -> None:
    keras = import_keras()
    kernel = keras.Variable(np.ones((1, 1, 2, 2), np.float32), name="kernel")
    scale = keras.Variable(np.ones(2, np.float32), name="gamma")
    optimizer = make_muon(0.1, 0.5)
    optimizer.apply([np.zeros((1, 1, 2, 2), np.float32), np.zeros(2, np.float32)], [kernel, scale])
    assert np.allclose(np.asarray(kernel), 0.95)
    assert np.array_equal(np.asarray(scale), np.ones(2, np.float32))
