from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import BACKBONE_OPTIONS, backbone_trainer, same
from PIL import Image

import flowercnn as fc
from flowercnn.models.backend import import_keras, seeded_weights
from flowercnn.models.graph import head_of
from flowercnn.models.registry import recipe_of
from flowercnn.preprocessing.views import Views
from flowercnn.training.optimizers import make_optimizer_by_depth
from flowercnn.training.transfer import backbone
from flowercnn.training.transfer.features import (
    compute_features,
    fit_on_features,
    freeze,
    stages,
)


def test_a_backbone_is_trained_on_features_and_saved_as_an_ordinary_model(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    train, val, test = coloured.split(0.2, 0.2)
    run = backbone_trainer().fit(train, val, progress=False)
    assert fc.evaluate(run.predictor, test, progress=False).accuracy == 1
    assert set(run.history.epochs[0]) >= {"loss", "accuracy", "val_loss", "val_accuracy"}
    run.predictor.save(tmp_path / "model.keras")
    loaded = fc.Predictor.load(tmp_path / "model.keras")
    model = fc.build_model(
        "backbone:mobilenet", image_size=(32, 32), num_classes=3, seed=0, **BACKBONE_OPTIONS
    )
    features = compute_features(model, train, run.predictor.preprocessing, views=Views(mirror=True))
    head = fit_on_features(features, train, run.recipe, seed=0)
    pixels = np.stack([run.predictor.preprocessing.decode(sample.image) for sample in train])
    assert (
        np.abs(loaded.predict_proba(pixels) - head.probabilities(features.rows[:, 0])).max() < 1e-4
    )
    stock = import_keras().saving.load_model(tmp_path / "model.keras")
    assert np.abs(stock.predict(pixels, verbose=0) - loaded.predict_proba(pixels)).max() < 1e-5


def test_the_same_seed_gives_the_same_weights(coloured: fc.Dataset) -> None:
    train, val, _ = coloured.split(0.2, 0.2)
    first, second = (backbone_trainer(seed=3).fit(train, val, progress=False) for _ in range(2))
    assert same(first, second)


def count_views(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep the keys of the pictures whose views are made."""
    decoded: list[str] = []
    of = Views.of

    def counted(self: Views, sample: fc.Sample, preprocessing: fc.Preprocessing) -> Any:
        decoded.append(sample.key)
        return of(self, sample, preprocessing)

    monkeypatch.setattr(Views, "of", counted)
    return decoded


def test_features_are_computed_once_and_kept(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(sample: fc.Sample) -> fc.Sample:
        def content() -> bytes:
            calls.append(sample.key)
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(sample.image, dtype=np.uint8)).save(buffer, "PNG")
            return buffer.getvalue()

        return dataclasses.replace(sample, image=content)

    watched = fc.Dataset(tuple(map(counted, coloured.samples)), coloured.encoder)
    model = fc.build_model(
        "backbone:mobilenet", image_size=(32, 32), num_classes=3, **BACKBONE_OPTIONS
    )
    preprocessing, views = fc.Preprocessing(image_size=(32, 32)), Views(mirror=True, parts=1)
    first = compute_features(
        model, watched.subset(range(20)), preprocessing, views=views, cache=tmp_path
    )
    assert sorted(calls) == sorted(watched.keys[:20])
    calls.clear()
    decoded = count_views(monkeypatch)
    again = compute_features(model, watched, preprocessing, views=views, cache=tmp_path)
    assert sorted(calls) == sorted(watched.keys)  # read, to see that they are the same still
    assert sorted(decoded) == sorted(watched.keys[20:])
    assert np.array_equal(first.rows, again.rows[:20])


def test_features_of_other_pictures_under_the_same_keys_are_not_used(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    turned = [
        dataclasses.replace(sample, image=np.asarray(sample.image)[..., ::-1])
        for sample in coloured
    ]
    other = fc.Dataset.from_source(turned)
    backbone_trainer().fit(coloured, checkpoint_dir=tmp_path, progress=False)
    expected = backbone_trainer().fit(other, progress=False).predictor.predict(other)
    found = (
        backbone_trainer()
        .fit(other, checkpoint_dir=tmp_path, progress=False)
        .predictor.predict(other)
    )
    assert [each.label for each in found] == [each.label for each in expected]
    assert sum(each.label == sample.label for each, sample in zip(found, other, strict=True)) > 20


def test_callbacks_of_learning_rates_find_an_optimizer(coloured: fc.Dataset) -> None:
    callback = import_keras().callbacks.ReduceLROnPlateau(monitor="loss", patience=1)
    backbone_trainer().fit(coloured, callbacks=[callback], progress=False)


def test_bad_pictures_are_all_named_or_left_out(coloured: fc.Dataset) -> None:
    samples = list(coloured.samples)
    for number in (3, 17):
        samples[number] = dataclasses.replace(samples[number], image=b"no picture")
    broken = fc.Dataset(tuple(samples), coloured.encoder)
    with pytest.raises(fc.ImageError, match="2 of 30 images") as caught:
        backbone_trainer().fit(broken, progress=False)
    assert all(samples[number].key in str(caught.value) for number in (3, 17))
    run = backbone_trainer(bad_images="skip").fit(broken, progress=False)
    assert run.skipped == (samples[3].key, samples[17].key)


@pytest.mark.parametrize("fine_tune", ["auto", "top", "all"])
def test_fine_tuning_goes_on_from_the_head_and_keeps_what_is_better_on_val(
    coloured: fc.Dataset, fine_tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 1)
    train, val, _ = coloured.split(0.3, 0.2)
    recipe = dataclasses.replace(
        recipe_of("backbone:mobilenet"), fine_tune=fine_tune, epochs=2, batch_size=8
    )
    run = backbone_trainer(recipe=recipe, precision="float32").fit(train, val, progress=False)
    assert len(run.history) == 3
    losses = [epoch["val_loss"] for epoch in run.history.epochs]
    pixels = np.stack([run.predictor.preprocessing.decode(sample.image) for sample in val])
    of_truth = run.predictor.predict_proba(pixels)[np.arange(len(val)), val.labels]
    kept = losses[-1] if fine_tune == "auto" and losses[-1] < losses[0] else min(losses)
    assert -np.log(of_truth).mean() == pytest.approx(kept, abs=2e-3)
    assert any("did not help" in note for note in run.notes) == (kept == losses[0])


def test_bad_pictures_may_not_leave_a_backbone_one_class(coloured: fc.Dataset) -> None:
    broken = [dataclasses.replace(sample, image=b"no picture") for sample in coloured.samples[10:]]
    dataset = fc.Dataset((*coloured.samples[:10], *broken), coloured.encoder)
    with pytest.raises(fc.DataError, match="fewer than two classes are left"):
        backbone_trainer(bad_images="skip").fit(dataset, progress=False)


def test_layers_far_from_the_head_learn_slower_and_normalisation_is_frozen() -> None:
    model = fc.build_model(
        "backbone:mobilenet", image_size=(64, 64), num_classes=3, **BACKBONE_OPTIONS
    )
    depth = stages(model)
    assert depth["probabilities"] == 0
    assert depth["conv_pw_3"] == 1
    assert depth["conv1"] > depth["conv_pw_2"] >= depth["conv_pw_3"]
    freeze(model, 1)
    assert model.get_layer("conv_pw_3").trainable
    assert not model.get_layer("conv1").trainable
    freeze(model, None)
    assert model.get_layer("conv1").trainable
    assert not any(
        layer.trainable for layer in model.layers if type(layer).__name__ == "BatchNormalization"
    )
    optimizer = make_optimizer_by_depth(recipe_of("backbone:mobilenet"), model, stages(model))
    before = model.get_weights()
    names = [weight.path for weight in model.weights]
    optimizer.build(model.trainable_variables)
    optimizer.apply([np.ones(weight.shape, np.float32) for weight in model.trainable_variables])
    moved = dict(
        zip(
            names,
            (np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True)),
            strict=True,
        )
    )
    assert moved["probabilities/kernel"] == pytest.approx(2.6 * moved["conv_pw_3/kernel"], rel=1e-2)
    assert moved["conv_pw_1_bn/gamma"] == 0


def nested_net() -> Any:
    """A network with a functional model in it, which has batch normalisation and weights of its
    own."""
    keras = import_keras()
    layers = keras.layers
    with seeded_weights(0):
        pixels = keras.Input((32, 32, 3))
        inner_output = layers.BatchNormalization()(layers.Conv2D(4, 3, 2)(pixels))
        inner = keras.Model(pixels, inner_output, name="inner")
        scaled = layers.Rescaling(1 / 255)(pixels)  # without it the head may saturate: no gradient
        return keras.Model(pixels, layers.Conv2D(4, 3, 2, activation="relu")(inner(scaled)))


def test_a_model_within_a_backbone_keeps_its_weights_and_its_normalisation(
    coloured: fc.Dataset,
) -> None:
    net = nested_net()
    for part in net.get_layer("inner").layers:
        part.set_weights([weight + 0.5 for weight in part.get_weights()])
    recipe = dataclasses.replace(
        recipe_of("backbone:own"), image_size=(32, 32), fine_tune="all", epochs=1
    )
    options = {"backbone": net}
    model = fc.build_model("backbone:own", image_size=(32, 32), num_classes=3, **options)
    copied = model.get_layer("inner").get_weights()
    assert all(
        np.array_equal(a, b)
        for a, b in zip(copied, net.get_layer("inner").get_weights(), strict=True)
    )
    run = fc.Trainer("backbone:own", model_options=options, recipe=recipe).fit(
        coloured, progress=False
    )
    assert len(run.history) == 2
    (kernel, *_), before = (
        run.predictor.model.get_layer("inner").get_weights(),
        net.get_layer("inner").get_weights(),
    )
    assert not np.array_equal(kernel, before[0])
    freeze(model, None)
    normalisation = model.get_layer("inner").layers[-1]
    assert not normalisation.trainable
    assert model.get_layer("inner").layers[1].trainable


def test_callbacks_are_told_and_epochs_without_effect_are_said(coloured: fc.Dataset) -> None:
    keras = import_keras()
    seen: list[Any] = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs)))
    )
    run = backbone_trainer(epochs=3).fit(coloured, callbacks=[callback], progress=False)
    assert seen == [(0, ["accuracy", "loss"])]
    assert any("epochs had no effect" in note for note in run.notes)
    told = backbone_trainer(batch_size=8, learning_rate=0.1).fit(coloured, progress=False)
    assert told.notes[0].startswith("batch_size and learning_rate had no effect: ")


def test_the_head_of_a_network_is_its_last_dense_layer() -> None:
    keras = import_keras()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="logits"),
            keras.layers.Softmax(),
        ]
    )
    assert head_of(model).name == "logits"
    with pytest.raises(fc.ConfigurationError, match="no feature vectors"):
        head_of(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]))
