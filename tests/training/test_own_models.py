from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import SIZE, fit, own_model, same, weights

import flowercnn as fc
from flowercnn.models import registry
from flowercnn.models.backend import import_keras, seeded_weights
from flowercnn.models.copies import (
    copy_model,
    fold_normalization,
    make_training_copy,
    model_fingerprint,
)
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
def test_layers_with_penalties_counts_and_any_name_are_trained(
    coloured: fc.Dataset, precision: Any
) -> None:
    layers = import_keras().layers
    normalization = layers.Normalization(mean=[120.0] * 3, variance=[4000.0] * 3)
    convolution = layers.Conv2D(4, 3, activity_regularizer="l2", name="members")
    counted = layers.BatchNormalization()
    end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    own = import_keras().Sequential(
        [import_keras().Input((*SIZE, 3)), normalization, convolution, counted, *end]
    )
    recipe = Recipe(image_size=SIZE, batch_size=8, epochs=1, average=0.9)
    run = fc.Trainer(own, recipe=recipe, precision=precision).fit(coloured, progress=False)
    assert np.isfinite(run.history.to_dict()["loss"]).all()


def test_a_layer_with_a_name_that_tensorflow_refuses_is_named(coloured: fc.Dataset) -> None:
    layers = import_keras().layers
    end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    own = import_keras().Sequential(
        [import_keras().Input((*SIZE, 3)), layers.Conv2D(4, 3, name="blüte 1"), *end]
    )
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


def test_a_model_that_ends_in_something_else_than_probabilities_is_refused(
    coloured: fc.Dataset,
) -> None:
    layers = import_keras().layers
    for activation in (None, "sigmoid"):
        end = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation=activation)]
        own = import_keras().Sequential(
            [import_keras().Input((24, 20, 3)), layers.Rescaling(1 / 255), *end]
        )
        with pytest.raises(
            fc.ConfigurationError,
            match=r"must return probabilities.*Dense\(3, activation='softmax'",
        ):
            fc.Trainer(own, epochs=1).fit(coloured, progress=False)


def adapted(*, nested: bool) -> Any:
    """A network with a normalisation that was adapted to pictures, in a model within the model or
    not."""
    keras = import_keras()
    layers = keras.layers
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(60, 180, (8, *SIZE, 3)))
    with seeded_weights(
        0
    ):  # a layer takes the seed of its weights when it is made, not when it is built
        if nested:
            normalization = keras.Sequential(
                [keras.Input((*SIZE, 3)), normalization, layers.Conv2D(4, 1)]
            )
        end = [
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, "softmax"),
        ]
        return keras.Sequential([keras.Input((*SIZE, 3)), normalization, *end])


@pytest.mark.parametrize("nested", [False, True])
def test_a_normalization_that_was_adapted_is_copied_as_it_is(
    tmp_path: Path, *, nested: bool
) -> None:
    own = adapted(nested=nested)
    pixels = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    expected = np.asarray(own(pixels.astype(np.float32)))
    for copy in (
        copy_model(own),
        make_training_copy(own, precision="float32"),
        fold_normalization(own),
    ):
        assert np.allclose(copy(pixels.astype(np.float32)), expected, atol=1e-5)
    predictor = fc.Predictor(own, ("a", "b", "c"), fc.Preprocessing(image_size=SIZE))
    assert np.allclose(predictor.predict_proba(pixels), expected, atol=1e-5)
    predictor.save(tmp_path / "own.keras")
    predictor.export(tmp_path / "own.tflite")
    stock = import_keras().saving.load_model(tmp_path / "own.keras")
    assert np.allclose(stock(pixels.astype(np.float32)), expected, atol=1e-5)
    for file in ("own.keras", "own.tflite"):
        assert np.allclose(
            fc.Predictor.load(tmp_path / file).predict_proba(pixels), expected, atol=1e-4
        )


def test_training_sees_what_a_normalization_was_adapted_to(coloured: fc.Dataset) -> None:
    own = adapted(nested=False)
    run = fc.Trainer(own, epochs=1, learning_rate=1e-12, precision="float32").fit(
        coloured, progress=False
    )
    pixels = np.stack([run.predictor.preprocessing.decode(sample.image) for sample in coloured])
    assert np.allclose(
        run.predictor.predict_proba(pixels),
        own(pixels.astype(np.float32), training=False),
        atol=0.02,
    )


def fingerprint(
    dataset: fc.Dataset, model: Any, val: fc.Dataset | None = None, **settings: Any
) -> str:
    settings.setdefault("image_size", SIZE)
    return fc.Trainer(model, **settings).plan(dataset).fingerprint(dataset, val)


def test_the_fingerprint_of_a_training_tells_networks_apart_by_what_they_are(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    seen = []
    for activation in ("relu", "tanh"):
        own = own_model(activation=activation)
        fc.register_model("mine", lambda *_, own=own: copy_model(own), overwrite=True)
        seen.append(fingerprint(coloured, "mine"))
        assert fingerprint(coloured, "mine") == seen[-1]
    part = import_keras().applications.MobileNet(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    for number in range(2):
        part.layers[1].set_weights([part.layers[1].get_weights()[0] + number])
        part.save_weights(tmp_path / "net.weights.h5")
        seen.append(fingerprint(coloured, "backbone:own", model_options={"backbone": part}))
        seen.append(
            fingerprint(
                coloured,
                "backbone:MobileNet",
                model_options={"weights": tmp_path / "net.weights.h5"},
            )
        )
    seen.append(
        fingerprint(coloured, "backbone:mobilenet", model_options={"weights": None, "dropout": 0.1})
    )
    assert len(set(seen)) == len(seen)


def test_the_fingerprint_of_a_training_depends_on_values_not_on_their_types(
    coloured: fc.Dataset,
) -> None:
    plain: dict[str, Any] = {
        "seed": 3,
        "batch_size": 8,
        "learning_rate": 1.0,
        "early_stopping": 2,
        "time_budget": 600,
    }
    other: dict[str, Any] = {
        "seed": np.int64(3),
        "batch_size": np.int8(8),
        "learning_rate": 1,
        "early_stopping": np.int64(2),
    }
    expected = fingerprint(coloured, "article", **plain)
    assert (
        fingerprint(coloured, "article", image_size=np.array(SIZE), time_budget="10min", **other)
        == expected
    )
    options: dict[str, Any] = {"weights": None, "dropout": 0.5}
    expected = fingerprint(coloured, "backbone:mobilenet", model_options=options)
    options = {"progress": False, "dropout": np.float64(0.5), "weights": None}
    assert fingerprint(coloured, "backbone:MobileNet", model_options=options) == expected


def test_the_fingerprint_of_a_training_has_the_pictures_that_choose_the_epoch(
    coloured: fc.Dataset,
) -> None:
    train, val, test = coloured.split(0.2, 0.2)
    found = {fingerprint(train, "article", part) for part in (None, val, test, test.subset([]))}
    assert len(found) == 3


def test_precision_is_part_of_what_a_network_is() -> None:
    own = own_model()
    low = import_keras().models.clone_model(
        own,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "dtype": "mixed_bfloat16"}
        ),
    )
    low.set_weights(own.get_weights())
    assert model_fingerprint(own) == model_fingerprint(own_model())
    assert model_fingerprint(own) != model_fingerprint(low)


def test_another_val_is_no_longer_the_same_early_stopping(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    train, val, test = coloured.split(0.2, 0.2)
    trainer = fc.Trainer("article", epochs=1, image_size=SIZE, early_stopping=1)
    trainer.fit(train, val, checkpoint_dir=tmp_path, progress=False)
    with pytest.raises(fc.TrainingError, match="belongs to another training"):
        trainer.fit(train, test, checkpoint_dir=tmp_path, progress=False)
