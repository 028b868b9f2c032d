from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fitting import SIZE, fit, own_model, same, weights

import flowercnn as fc
from flowercnn.models.keras3 import import_keras
from flowercnn.models.recipe import Recipe


def test_settings_of_keras_for_all_layers_do_not_matter_or_are_refused(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = import_keras().config
    usual = fit(coloured, epochs=1)
    policy = config.dtype_policy()
    config.set_dtype_policy("mixed_float16")
    try:
        assert same(usual, fit(coloured, epochs=1))
        mixed = fc.Trainer(own_model(), epochs=1).fit(coloured, progress=False)
    finally:
        config.set_dtype_policy(policy)
    assert np.isfinite(mixed.history.to_dict()["loss"]).all()
    monkeypatch.setattr(config, "image_data_format", lambda: "channels_first")
    with pytest.raises(fc.ConfigurationError, match="channels_last"):
        fit(coloured)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_with_penalties_counts_and_any_name_are_trained(coloured: fc.Dataset, precision: Any) -> None:
    layers = import_keras().layers
    normalization = layers.Normalization(mean=[120.0] * 3, variance=[4000.0] * 3)
    convolution = layers.Conv2D(4, 3, activity_regularizer="l2", name="members")
    counted = layers.BatchNormalization()
    end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    own = import_keras().Sequential([import_keras().Input((*SIZE, 3)), normalization, convolution, counted, *end])
    recipe = Recipe(image_size=SIZE, batch_size=8, epochs=1, average=0.9)
    run = fc.Trainer(own, recipe=recipe, precision=precision).fit(coloured, progress=False)
    assert np.isfinite(run.history.to_dict()["loss"]).all()


def test_a_layer_with_a_name_that_tensorflow_refuses_is_named(coloured: fc.Dataset) -> None:
    layers = import_keras().layers
    end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    own = import_keras().Sequential([import_keras().Input((*SIZE, 3)), layers.Conv2D(4, 3, name="blüte 1"), *end])
    with pytest.raises(fc.ConfigurationError, match="a layer or an input named 'blüte 1'"):
        fc.Trainer(own, epochs=1).fit(coloured, progress=False)


def test_a_layer_that_cannot_be_copied_is_named(coloured: fc.Dataset) -> None:
    keras = import_keras()

    class Times(keras.layers.Layer):  # type: ignore[name-defined, misc]  # Keras is untyped
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def call(self, inputs: Any) -> Any:
            return inputs * self.factor

    end = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    own = keras.Sequential([keras.Input((*SIZE, 3)), Times(1 / 255), *end])
    with pytest.raises(fc.ConfigurationError, match=r"(?s)cannot be copied.*Times"):
        fc.Trainer(own, epochs=1).fit(coloured, progress=False)


def test_a_model_of_ones_own_is_trained_as_a_copy(coloured: fc.Dataset) -> None:
    keras = import_keras()
    own = keras.Sequential(
        [
            keras.Input((24, 20, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.Dropout(0.2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    before = own.get_weights()
    run = fc.Trainer(own, epochs=1).fit(coloured, progress=False)
    assert run.predictor.image_size == (24, 20)
    assert all(np.array_equal(a, b) for a, b in zip(before, own.get_weights(), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(before, weights(run), strict=True))


def test_a_model_that_ends_in_something_else_than_probabilities_is_refused(coloured: fc.Dataset) -> None:
    layers = import_keras().layers
    for activation in (None, "sigmoid"):
        end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation=activation)]
        own = import_keras().Sequential([import_keras().Input((24, 20, 3)), layers.Rescaling(1 / 255), *end])
        with pytest.raises(fc.ConfigurationError, match=r"must return probabilities.*Dense\(3, activation='softmax'"):
            fc.Trainer(own, epochs=1).fit(coloured, progress=False)
