from __future__ import annotations

import numpy as np
import pytest

from flowercnn import build_model
from flowercnn.models.recipe import Recipe
from flowercnn.preprocessing.batches import MicroBatch
from flowercnn.training.optimizers import make_optimizer
from flowercnn.training.step import TrainStep

pytestmark = pytest.mark.versions

RECIPE = Recipe(image_size=(32, 32), optimizer="sgd", learning_rate=0.01, label_smoothing=0.1)


def part() -> MicroBatch:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    return MicroBatch(pixels, np.array([0, 1, 2, 0, 1, 2]), None, None)


def test_networks_side_by_side_learn_as_each_would_alone() -> None:
    joined = build_model("accurate", image_size=(32, 32), num_classes=3, members=2, width=16)
    singles = []
    for number in (1, 2):
        single = build_model("fast", image_size=(32, 32), num_classes=3, width=16)
        for layer in single.layers[:-1]:
            if layer.weights:
                layer.set_weights(joined.get_layer(f"member{number}_{layer.name}").get_weights())
        kernel, bias = joined.layers[-1].get_weights()
        single.layers[-1].set_weights([kernel.reshape(2, -1, 3)[number - 1], bias])
        singles.append(single)
    before = joined.get_layer("member2_down3_conv").get_weights()[0]

    loss, _ = TrainStep(joined, make_optimizer(RECIPE), RECIPE)([part()], 6, (32, 32))
    losses = [
        TrainStep(single, make_optimizer(RECIPE), RECIPE)([part()], 6, (32, 32))[0]
        for single in singles
    ]

    assert loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)
    # The common loss is the mean of theirs, so each has half the gradient it would have alone.
    change = joined.get_layer("member2_down3_conv").get_weights()[0] - before
    alone = singles[1].get_layer("down3_conv").get_weights()[0] - before
    assert np.abs(alone).max() > 1e-6
    assert np.allclose(2 * change, alone, atol=1e-3 * np.abs(alone).max() + 1e-8)
