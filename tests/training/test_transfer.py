from __future__ import annotations

import dataclasses
import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowercnn as fc
from flowercnn.models.features import head_of
from flowercnn.models.keras3 import import_keras
from flowercnn.models.registry import recipe_of
from flowercnn.preprocessing.views import Views
from flowercnn.training import auto, backbone, ending
from flowercnn.training.auto import choose_trainer, weights_at_hand
from flowercnn.training.ending import Ending, last_convolution
from flowercnn.training.head import fit_head
from flowercnn.training.transfer import (
    Features,
    compute_features,
    fit_on_features,
    freeze,
    make_optimizer_by_depth,
    stages,
)

OPTIONS: dict[str, Any] = {"weights": None, "until": "conv_pw_3_relu"}  # a few random layers tell colours apart


def trainer(**settings: Any) -> fc.Trainer:
    return fc.Trainer("backbone:mobilenet", image_size=(32, 32), model_options=OPTIONS, **settings)


def blobs(per_class: int, num_classes: int, size: int) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    centres = random.normal(0, 1, (num_classes, size))
    return (centres[labels] + random.normal(0, 1, (len(labels), size))).astype(np.float32)[:, None], labels


def thirds(count: int) -> list[Any]:
    return [np.arange(start, count, 3) for start in range(3)]


def test_the_head_tells_classes_apart_and_is_as_sure_as_it_is_right() -> None:
    features, labels = blobs(60, 4, 20)
    head = fit_head(features, labels, 4, thirds(len(labels)))
    probabilities = head.probabilities(features[:, 0])
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    assert head.accuracy > 0.9
    assert abs(probabilities.max(axis=1).mean() - head.accuracy) < 0.05


@pytest.mark.parametrize("size", [5, 300])
def test_the_head_is_the_linear_discriminant_of_scikit_learn(size: int) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels = blobs(30, 3, size)
    head = fit_head(features, labels, 3)
    rows = features[:, 0].astype(np.float64)
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    # Scikit-learn's own shrinkage scales the rows of each class by themselves.
    centred = scaled - np.stack([scaled[labels == label].mean(axis=0) for label in range(3)])[labels]
    covariance = centred.T @ centred / len(labels)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / size * np.eye(size)
    estimator = type("Fixed", (), {"fit": lambda self, _: self, "covariance_": shrunk})()
    peer = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=estimator).fit(scaled, labels)
    assert np.allclose(head.probabilities(rows), peer.predict_proba(scaled), atol=1e-3)


def test_a_class_without_a_picture_is_never_predicted() -> None:
    features, labels = blobs(9, 3, 8)
    head = fit_head(features, np.where(labels == 1, 3, labels), 4, thirds(len(labels)))
    assert head.probabilities(features[:, 0])[:, 1].max() < 1e-6


@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_few_pictures_of_a_class_are_enough_to_learn_from(per_class: int) -> None:
    features, labels = blobs(per_class, 5, 16)
    folds = [np.arange(start, len(labels), per_class) for start in range(per_class)] if per_class > 1 else []
    head = fit_head(features, labels, 5, folds)
    assert (head.probabilities(features[:, 0]).argmax(axis=1) == labels).all()


def of_blobs(per_class: int, num_classes: int) -> tuple[Features, fc.Dataset]:
    """Feature vectors of classes far apart, and pictures to go with them."""
    rows, labels = blobs(per_class, num_classes, 16)
    pictures = np.random.default_rng(1).integers(0, 256, (len(labels), 24, 24, 3), dtype=np.uint8)
    names = [f"class {label}" for label in labels]
    dataset = fc.Dataset.from_source(fc.InMemory(list(pictures), names))
    return Features(rows, np.arange(len(labels)), ()), dataset


def test_a_class_with_one_picture_does_not_keep_the_others_from_cross_validation() -> None:
    features, dataset = of_blobs(9, 4)
    one = np.flatnonzero((dataset.labels != 3) | (np.arange(len(dataset)) == 30))
    part = dataset.subset(one)
    found = Features(features.rows[one], np.arange(len(one)), ())
    head = fit_on_features(found, part, recipe_of("backbone:mobilenet"), seed=0)
    assert head.accuracy > 0.8
    assert head.sharpness != 1
    assert head.probabilities(found.rows[:, 0])[-1].argmax() == 3
    alone = dataset.subset(np.arange(4) * 9)
    found = Features(features.rows[::9], np.arange(4), ())
    assert np.isnan(fit_on_features(found, alone, recipe_of("backbone:mobilenet"), seed=0).accuracy)


def test_a_fold_of_one_group_is_not_left_out() -> None:
    features, dataset = of_blobs(8, 3)
    grouped = [dataclasses.replace(sample, group="same") for sample in dataset.samples[:8]]
    dataset = fc.Dataset((*grouped, *dataset.samples[8:]), dataset.encoder)
    head = fit_on_features(features, dataset, recipe_of("backbone:mobilenet"), seed=0)
    assert head.accuracy > 0.8


def test_copies_of_a_picture_that_are_known_are_not_torn_apart_by_cross_validation() -> None:
    random = np.random.default_rng(0)
    pictures = np.repeat(random.integers(0, 256, (40, 24, 24, 3), dtype=np.uint8), 2, axis=0)
    names = [f"class {label}" for label in np.repeat(np.arange(40) % 2, 2)]
    dataset = fc.Dataset.from_source(fc.InMemory(list(pictures), names))
    rows = np.repeat(random.normal(0, 1, (40, 1, 64)), 2, axis=0).astype(np.float32)  # chance, and no class

    def accuracy(of: fc.Dataset) -> float:
        recipe = recipe_of("backbone:mobilenet")
        return fit_on_features(Features(rows, np.arange(80), ()), of, recipe, seed=0).accuracy

    assert dataset.known_contents() is None
    assert accuracy(dataset) > 0.9
    dataset.contents(progress=False)
    assert dataset.known_contents() == dataset.contents()
    assert accuracy(dataset) < 0.75


def test_a_backbone_is_trained_on_features_and_saved_as_an_ordinary_model(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    train, val, test = coloured.split(0.2, 0.2)
    run = trainer().fit(train, val, progress=False)
    assert fc.evaluate(run.predictor, test, progress=False).accuracy == 1
    assert set(run.history.epochs[0]) >= {"loss", "accuracy", "val_loss", "val_accuracy"}
    run.predictor.save(tmp_path / "model.keras")
    loaded = fc.Predictor.load(tmp_path / "model.keras")
    model = fc.build_model("backbone:mobilenet", image_size=(32, 32), num_classes=3, seed=0, **OPTIONS)
    features = compute_features(model, train, run.predictor.preprocessing, views=Views(mirror=True))
    head = fit_on_features(features, train, run.recipe, seed=0)
    pixels = np.stack([run.predictor.preprocessing.decode(sample.image) for sample in train])
    assert np.abs(loaded.predict_proba(pixels) - head.probabilities(features.rows[:, 0])).max() < 1e-4
    stock = import_keras().saving.load_model(tmp_path / "model.keras")
    assert np.abs(stock.predict(pixels, verbose=0) - loaded.predict_proba(pixels)).max() < 1e-5


def test_the_same_seed_gives_the_same_weights(coloured: fc.Dataset) -> None:
    train, val, _ = coloured.split(0.2, 0.2)
    first, second = (trainer(seed=3).fit(train, val, progress=False).predictor.model.get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


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
    model = fc.build_model("backbone:mobilenet", image_size=(32, 32), num_classes=3, **OPTIONS)
    preprocessing, views = fc.Preprocessing(image_size=(32, 32)), Views(mirror=True, parts=1)
    first = compute_features(model, watched.subset(range(20)), preprocessing, views=views, cache=tmp_path)
    assert sorted(calls) == sorted(watched.keys[:20])
    calls.clear()
    decoded = count_views(monkeypatch)
    again = compute_features(model, watched, preprocessing, views=views, cache=tmp_path)
    assert sorted(calls) == sorted(watched.keys)  # read, to see that they are the same still
    assert sorted(decoded) == sorted(watched.keys[20:])
    assert np.array_equal(first.rows, again.rows[:20])


def test_features_of_other_pictures_under_the_same_keys_are_not_used(coloured: fc.Dataset, tmp_path: Path) -> None:
    turned = [dataclasses.replace(sample, image=np.asarray(sample.image)[..., ::-1]) for sample in coloured]
    other = fc.Dataset.from_source(turned)
    trainer().fit(coloured, checkpoint_dir=tmp_path, progress=False)
    expected = trainer().fit(other, progress=False).predictor.predict(other)
    found = trainer().fit(other, checkpoint_dir=tmp_path, progress=False).predictor.predict(other)
    assert [each.label for each in found] == [each.label for each in expected]
    assert sum(each.label == sample.label for each, sample in zip(found, other, strict=True)) > 20


def test_callbacks_of_learning_rates_find_an_optimizer(coloured: fc.Dataset) -> None:
    callback = import_keras().callbacks.ReduceLROnPlateau(monitor="loss", patience=1)
    trainer().fit(coloured, callbacks=[callback], progress=False)


def test_bad_pictures_are_all_named_or_left_out(coloured: fc.Dataset) -> None:
    samples = list(coloured.samples)
    for number in (3, 17):
        samples[number] = dataclasses.replace(samples[number], image=b"no picture")
    broken = fc.Dataset(tuple(samples), coloured.encoder)
    with pytest.raises(fc.ImageError, match="2 of 30 pictures") as caught:
        trainer().fit(broken, progress=False)
    assert all(samples[number].key in str(caught.value) for number in (3, 17))
    run = trainer(bad_images="skip").fit(broken, progress=False)
    assert run.skipped == (samples[3].key, samples[17].key)


@pytest.mark.parametrize("fine_tune", ["auto", "top", "all"])
def test_fine_tuning_goes_on_from_the_head_and_keeps_what_is_better_on_val(
    coloured: fc.Dataset, fine_tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 1)
    train, val, _ = coloured.split(0.3, 0.2)
    recipe = dataclasses.replace(recipe_of("backbone:mobilenet"), fine_tune=fine_tune, epochs=2, batch_size=8)
    run = trainer(recipe=recipe, precision="float32").fit(train, val, progress=False)
    assert len(run.history) == 3
    losses = [epoch["val_loss"] for epoch in run.history.epochs]
    pixels = np.stack([run.predictor.preprocessing.decode(sample.image) for sample in val])
    of_truth = run.predictor.predict_proba(pixels)[np.arange(len(val)), val.labels]
    kept = losses[-1] if fine_tune == "auto" and losses[-1] < losses[0] else min(losses)
    assert -np.log(of_truth).mean() == pytest.approx(kept, abs=2e-3)
    assert any("did not help" in note for note in run.notes) == (kept == losses[0])


def test_by_default_the_ending_is_tuned_where_pictures_and_memory_are_enough(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epochs() -> int:
        return len(trainer(epochs=1).fit(coloured, progress=False).history)

    assert epochs() == 1
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 5)
    assert epochs() == 2
    monkeypatch.setattr(ending, "_MOST_BYTES", 1000)
    assert epochs() == 1


def test_a_pointwise_convolution_at_the_end_is_found() -> None:
    keras = import_keras()
    layers = keras.layers

    def ends_in(make: Any) -> Any:
        pixels = keras.Input((8, 8, 3))
        pooled = layers.GlobalAveragePooling2D()(make(layers.Conv2D(4, 3, name="first")(pixels)))
        return last_convolution(keras.Model(pixels, layers.Dense(2, activation="softmax")(pooled)))

    def normalised(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 1, name="pointwise")(x)))

    assert ends_in(normalised).name == "pointwise"
    assert ends_in(lambda x: layers.Add()([x, normalised(x)])) is None
    assert ends_in(lambda x: layers.Conv2D(4, 3, name="wide")(normalised(x))) is None
    assert ends_in(lambda x: layers.LayerNormalization()(normalised(x))) is None
    assert ends_in(lambda x: x) is None


def make_ending(dataset: fc.Dataset, **options: Any) -> tuple[Any, Ending, Features]:
    """A backbone, its ending, and what goes into that of a data set."""
    model = fc.build_model("backbone:mobilenet", image_size=(32, 32), num_classes=3, **OPTIONS)
    found = Ending(model, last_convolution(model), **options)
    views = Views(mirror=True, parts=1)
    return (
        model,
        found,
        compute_features(model, dataset, fc.Preprocessing(image_size=(32, 32)), views=views, output=found.inputs),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_last_convolution_is_trained_on_its_inputs_and_nothing_before_it(
    coloured: fc.Dataset, precision: str
) -> None:
    model, found, inputs = make_ending(coloured, precision=precision)
    assert inputs.rows.dtype == np.float16
    assert inputs.rows.shape[:2] == (len(coloured), 3)
    views = Views(mirror=True, parts=1)
    features = compute_features(model, coloured, fc.Preprocessing(image_size=(32, 32)), views=views)
    assert np.allclose(found.features(inputs).rows, features.rows, atol=1e-3)
    before = {weight.path: np.array(weight) for weight in model.weights}
    recipe = dataclasses.replace(recipe_of("backbone:mobilenet"), epochs=4, batch_size=8)
    history, interrupted = found.tune(inputs, coloured.labels, recipe, seed=0)
    assert not interrupted
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    changed = {weight.path for weight in model.weights if not np.array_equal(weight, before[weight.path])}
    assert changed == {"conv_pw_3/kernel", "probabilities/kernel", "probabilities/bias"}


def test_tuning_that_diverges_or_is_stopped_says_so(coloured: fc.Dataset) -> None:
    _, found, inputs = make_ending(coloured)
    recipe = recipe_of("backbone:mobilenet")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    stop = import_keras().callbacks.LambdaCallback(on_epoch_begin=interrupt)
    history, interrupted = found.tune(inputs, coloured.labels, recipe, seed=0, callbacks=[stop])
    assert (len(history), interrupted) == (0, True)
    assert len(found.tune(inputs, coloured.labels, recipe, seed=0, deadline=0.0)[0]) == 0
    with pytest.raises(fc.TrainingError, match="lower learning_rate"):
        found.tune(inputs, coloured.labels, dataclasses.replace(recipe, learning_rate=1e38), seed=0)
    _, found, inputs = make_ending(coloured)
    with pytest.raises(fc.TrainingError, match="network answers after fine-tuning is not finite"):  # one step each
        found.tune(inputs, coloured.labels, dataclasses.replace(recipe, learning_rate=1e38, epochs=1), seed=0)


def test_tuning_with_dropout_depends_on_the_seed_alone(coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 1)

    def tuned(seed: int) -> Any:
        options = {**OPTIONS, "dropout": 0.5}
        settings: dict[str, Any] = {"seed": seed, "epochs": 1, "precision": "float32", "image_size": (32, 32)}
        run = fc.Trainer("backbone:mobilenet", model_options=options, **settings).fit(coloured, progress=False)
        return run.predictor.model.get_weights()[-2]

    first = tuned(0)
    assert np.array_equal(first, tuned(0))
    assert not np.array_equal(first, tuned(1))


def test_callbacks_set_the_rate_of_tuning_where_its_schedule_is_constant(coloured: fc.Dataset) -> None:
    _, found, inputs = make_ending(coloured)
    halve = import_keras().callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
    constant = dataclasses.replace(recipe_of("backbone:mobilenet"), epochs=2, schedule="constant", learning_rate=1e-3)
    history, _ = found.tune(inputs, coloured.labels, constant, seed=0, callbacks=[halve])
    assert history.to_dict()["learning_rate"] == pytest.approx([1e-3, 5e-4])
    cosine = dataclasses.replace(constant, schedule="cosine")
    history, _ = found.tune(inputs, coloured.labels, cosine, seed=0, callbacks=[halve])
    assert history.to_dict()["learning_rate"] == pytest.approx(
        [cosine.learning_rate_at(step, 2) for step in range(2)]
    )


def test_tuning_on_a_budget_takes_the_epochs_that_fit_and_ends_with_a_low_rate(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found, inputs = make_ending(coloured)
    recipe = dataclasses.replace(recipe_of("backbone:mobilenet"), epochs=10_000, batch_size=8)
    history, _ = found.tune(inputs, coloured.labels, recipe, seed=0, deadline=time.perf_counter() + 12)
    assert 1 < len(history) == found.recipe.epochs < 10_000
    assert history.epochs[-1]["learning_rate"] < 0.5 * recipe.learning_rate
    found.tune(
        inputs, coloured.labels, dataclasses.replace(recipe, epochs=3), seed=0, deadline=time.perf_counter() + 60
    )
    assert found.recipe.epochs == 3
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 1)
    run = trainer(time_budget=0.001).fit(coloured, progress=False)
    assert any("time_budget was over before fine-tuning" in note for note in run.notes)


def test_bad_pictures_may_not_leave_a_backbone_one_class(coloured: fc.Dataset) -> None:
    broken = [dataclasses.replace(sample, image=b"no picture") for sample in coloured.samples[10:]]
    dataset = fc.Dataset((*coloured.samples[:10], *broken), coloured.encoder)
    with pytest.raises(fc.DataError, match="fewer than two classes are left"):
        trainer(bad_images="skip").fit(dataset, progress=False)


def test_the_ending_kept_is_the_mean_of_two_that_learned_apart(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, found, inputs = make_ending(coloured)
    learn = Ending._learn
    learned: list[np.ndarray] = []

    def learn_and_look(self: Ending, copy: Any, *rest: Any) -> dict[str, float]:
        if len(learned) == 3:
            raise KeyboardInterrupt
        logs = learn(self, copy, *rest)
        learned.append(copy.layers[-1].get_weights()[0])
        return logs

    monkeypatch.setattr(Ending, "_learn", learn_and_look)
    recipe = dataclasses.replace(recipe_of("backbone:mobilenet"), epochs=4, batch_size=8)
    history, interrupted = found.tune(inputs, coloured.labels, recipe, seed=0)
    assert (len(history), interrupted) == (1, True)
    kernel = model.get_layer("probabilities").get_weights()[0]
    assert not np.allclose(learned[0], learned[1])
    # The second epoch was stopped between the two; what the first learned in it is kept.
    assert np.allclose(kernel, (learned[1] + learned[2]) / 2, atol=1e-6)


def test_layers_far_from_the_head_learn_slower_and_normalisation_is_frozen() -> None:
    model = fc.build_model("backbone:mobilenet", image_size=(64, 64), num_classes=3, **OPTIONS)
    depth = stages(model)
    assert depth["probabilities"] == 0
    assert depth["conv_pw_3"] == 1
    assert depth["conv1"] > depth["conv_pw_2"] >= depth["conv_pw_3"]
    freeze(model, 1)
    assert model.get_layer("conv_pw_3").trainable
    assert not model.get_layer("conv1").trainable
    freeze(model, None)
    assert model.get_layer("conv1").trainable
    assert not any(layer.trainable for layer in model.layers if type(layer).__name__ == "BatchNormalization")
    optimizer = make_optimizer_by_depth(recipe_of("backbone:mobilenet"), model)
    before = model.get_weights()
    names = [weight.path for weight in model.weights]
    optimizer.build(model.trainable_variables)
    optimizer.apply([np.ones(weight.shape, np.float32) for weight in model.trainable_variables])
    moved = dict(
        zip(names, (np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True)), strict=True)
    )
    assert moved["probabilities/kernel"] == pytest.approx(2.6 * moved["conv_pw_3/kernel"], rel=1e-2)
    assert moved["conv_pw_1_bn/gamma"] == 0


def nested_net() -> Any:
    """A network with a functional model in it, which has batch normalisation and weights of its own."""
    keras = import_keras()
    layers = keras.layers
    pixels = keras.Input((32, 32, 3))
    inner = keras.Model(pixels, layers.BatchNormalization()(layers.Conv2D(4, 3, 2)(pixels)), name="inner")
    return keras.Model(pixels, layers.Conv2D(4, 3, 2, activation="relu")(inner(pixels)))


def test_a_model_within_a_backbone_keeps_its_weights_and_its_normalisation(coloured: fc.Dataset) -> None:
    net = nested_net()
    for part in net.get_layer("inner").layers:
        part.set_weights([weight + 0.5 for weight in part.get_weights()])
    recipe = dataclasses.replace(recipe_of("backbone:own"), image_size=(32, 32), fine_tune="all", epochs=1)
    options = {"backbone": net}
    model = fc.build_model("backbone:own", image_size=(32, 32), num_classes=3, **options)
    copied = model.get_layer("inner").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(copied, net.get_layer("inner").get_weights(), strict=True))
    run = fc.Trainer("backbone:own", model_options=options, recipe=recipe).fit(coloured, progress=False)
    assert len(run.history) == 2
    (kernel, *_), before = run.predictor.model.get_layer("inner").get_weights(), net.get_layer("inner").get_weights()
    assert not np.array_equal(kernel, before[0])
    freeze(model, None)
    normalisation = model.get_layer("inner").layers[-1]
    assert not normalisation.trainable
    assert model.get_layer("inner").layers[1].trainable


def test_callbacks_are_told_and_epochs_without_effect_are_said(coloured: fc.Dataset) -> None:
    keras = import_keras()
    seen: list[Any] = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs))))
    run = trainer(epochs=3).fit(coloured, callbacks=[callback], progress=False)
    assert seen == [(0, ["accuracy", "loss"])]
    assert any("epochs had no effect" in note for note in run.notes)
    told = trainer(batch_size=8, learning_rate=0.1).fit(coloured, progress=False)
    assert told.notes[0].startswith("batch_size and learning_rate had no effect: ")


def test_weights_at_hand_are_those_in_the_cache_and_those_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert weights_at_hand() == {}
    (tmp_path / "models").mkdir()
    cached = tmp_path / "models" / "mobilenet_1_0_224_tf_no_top.h5"
    cached.touch()
    assert weights_at_hand() == {"backbone:mobilenet": cached}
    assert weights_at_hand(["EfficientNetV2-B0.weights.h5"])["backbone:efficientnetv2b0"].name.startswith("Eff")
    assert weights_at_hand({"vgg16": "mine.h5"})["backbone:vgg16"] == Path("mine.h5")
    with pytest.raises(fc.ConfigurationError, match=r"mine\.h5 does not say"):
        weights_at_hand("mine.h5")


@pytest.mark.slow
def test_auto_compares_by_cross_validation_and_says_why(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    net = import_keras().applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3))
    part = import_keras().Model(net.input, net.get_layer("conv_pw_3_relu").output)
    part.save_weights(tmp_path / "mobilenet.weights.h5")
    (tmp_path / "vgg16.weights.h5").write_text("damaged")
    settings: dict[str, Any] = {
        "image_size": (32, 32),
        "epochs": 1,
        "model_options": {"weights": [tmp_path / "mobilenet.weights.h5", tmp_path / "vgg16.weights.h5"]},
    }
    _, reason = choose_trainer(coloured, settings=settings)
    found = re.findall(r"([a-z:]+) ([0-9.]+)%", reason)
    assert {name for name, _ in found} == {"backbone:mobilenet", "fast"}
    assert float(found[0][1]) >= float(found[1][1])
    assert "Not tried: backbone:vgg16" in reason
    run = fc.train(coloured, model="auto", progress=False, **settings)
    assert run.notes[0].startswith(f"auto chose {run.predictor.info['model']}:")
    assert run.evaluation is not None


@pytest.mark.parametrize(
    ("backbone", "scratch", "chosen", "said"),
    [
        (0.9, 0.8, "backbone:mobilenet", "backbone:mobilenet 90.0%, fast 80.0%"),
        (0.8, 0.9, "fast", "fast 90.0%, backbone:mobilenet 80.0%"),
        (0.9, 0.9, "backbone:mobilenet", "backbone:mobilenet 90.0%, fast 90.0%"),
        (np.nan, np.nan, "backbone:mobilenet", "mobilenet, fast could not be cross-validated"),
        (np.nan, 0.0, "fast", "backbone:mobilenet could not be cross-validated"),
    ],
)
def test_auto_takes_the_best_of_equals_the_backbone_and_says_what_it_compared(
    coloured: fc.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone: float,
    scratch: float,
    chosen: str,
    said: str,
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(auto, "_score_backbone", lambda *_, **__: backbone)
    monkeypatch.setattr(auto, "_score_scratch", lambda *_, **__: scratch)
    settings = {"model_options": {"weights": {"mobilenet": "some.weights.h5"}}}
    trainer, reason = choose_trainer(coloured, settings=settings)
    assert trainer.model == chosen
    assert reason.startswith(f"auto chose {chosen}: ")
    assert said in reason
    assert "nan" not in reason


def test_auto_learns_a_class_with_one_picture_and_tests_the_others(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    learned: list[dict[str, int]] = []
    fit = fc.Trainer.fit

    def watched(self: fc.Trainer, train: fc.Dataset, **options: Any) -> fc.TrainingRun:
        learned.append(train.class_counts())
        return fit(self, train, **options)

    monkeypatch.setattr(fc.Trainer, "fit", watched)
    settings = {"epochs": 1, "image_size": (32, 32)}
    _, reason = choose_trainer(coloured.subset(range(21)), settings=settings)
    assert learned == [{"blue": 5, "green": 5, "red": 1}] * 2
    assert re.search(r"on train was fast [0-9.]+%", reason)
    _, reason = choose_trainer(coloured.subset([0, 10, 20]), settings=settings)
    assert "fast could not be cross-validated" in reason


@pytest.mark.slow
def test_auto_without_weights_trains_from_scratch_and_says_so(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    run = fc.train(coloured, model="auto", time_budget="4s", image_size=(32, 32), progress=False)
    assert run.predictor.info["model"] == "fast"
    assert "No pretrained weights were at hand" in run.notes[0]


def test_auto_takes_what_only_a_training_with_val_can_use(coloured: fc.Dataset) -> None:
    settings = {"image_size": (32, 32), "epochs": 1, "early_stopping": 1}
    chosen, _ = choose_trainer(coloured, settings=settings)
    assert chosen.early_stopping == 1


def test_ctrl_c_while_auto_compares_ends_it(coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowercnn.training.loop.Loop._learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        choose_trainer(coloured, settings={"image_size": (32, 32), "epochs": 1})


def test_the_head_of_a_network_is_its_last_dense_layer() -> None:
    keras = import_keras()
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, name="logits"), keras.layers.Softmax()]
    )
    assert head_of(model).name == "logits"
    with pytest.raises(fc.ConfigurationError, match="no feature vectors"):
        head_of(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]))
