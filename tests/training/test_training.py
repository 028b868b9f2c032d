from __future__ import annotations

import dataclasses
import io
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowercnn as fc
from flowercnn.models.fold import fold_normalization
from flowercnn.models.keras3 import import_keras, seeded_weights
from flowercnn.models.recipe import Recipe
from flowercnn.preprocessing.augment import Augmentation
from flowercnn.preprocessing.mixing import Mixing
from flowercnn.training import loop, trainer
from flowercnn.training.finder import read_suggestion
from flowercnn.training.history import History
from flowercnn.training.watch import advice

SIZE = (32, 32)


def fit(dataset: fc.Dataset, *, epochs: int = 2, model: Any = "fast", **options: Any) -> fc.TrainingRun:
    settings = {"image_size": SIZE, "batch_size": 8} | options.pop("settings", {})
    train, val, _ = dataset.split(val=0.2, test=0)
    return fc.Trainer(model, epochs=epochs, **settings).fit(train, val, progress=False, **options)


def weights(run: fc.TrainingRun) -> list[Any]:
    return list(run.predictor.model.get_weights())


def same(a: fc.TrainingRun, b: fc.TrainingRun) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def without_seconds(history: History) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history.epochs]


def test_training_learns_colours(run: fc.TrainingRun) -> None:
    assert run.evaluation is not None
    assert run.evaluation.accuracy > 0.8
    assert len(run.history) == 16


@pytest.mark.parametrize("model", ["article", "fast"])
def test_the_same_seed_gives_the_same_history_weights_and_predictions(coloured: fc.Dataset, model: str) -> None:
    a, b = fit(coloured, model=model), fit(coloured, model=model)
    assert without_seconds(a.history) == without_seconds(b.history)
    assert same(a, b)
    probabilities = [
        np.stack([p.probabilities for p in r.predictor.predict(coloured) if p.probabilities is not None])
        for r in (a, b)
    ]
    assert np.array_equal(probabilities[0], probabilities[1])


def test_another_seed_gives_other_weights(coloured: fc.Dataset) -> None:
    assert not same(fit(coloured), fit(coloured, settings={"seed": 1}))


def test_a_batch_in_parts_gives_what_the_whole_batch_gives(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 12, "precision": "float32"}
    whole = fit(coloured, model="article", settings=settings)
    monkeypatch.setattr(loop, "pictures_at_once", lambda *_args, **_options: 5)
    parts = fit(coloured, model="article", settings=settings)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(weights(whole), weights(parts), strict=True))
    assert np.isclose(whole.history.epochs[-1]["loss"], parts.history.epochs[-1]["loss"])


def test_history_has_every_quantity_for_every_epoch(run: fc.TrainingRun) -> None:
    curves = run.history.to_dict()
    assert set(curves) == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"}
    assert {len(values) for values in curves.values()} == {16}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_history_can_be_plotted(run: fc.TrainingRun, tmp_path: Path, suffix: str) -> None:
    path = run.history.plot(tmp_path / f"history{suffix}")
    assert path.stat().st_size > 5000
    titles = [axes.get_title() for axes in run.history.figure().axes]
    assert titles == ["Accuracy", "Loss"]
    assert [line.get_label() for line in run.history.figure().axes[0].lines] == ["train", "val"]


def test_an_empty_history_can_be_plotted(tmp_path: Path) -> None:
    assert History().plot(tmp_path / "empty.png").is_file()


def test_keras_callbacks_are_called_with_the_epochs_logs(coloured: fc.Dataset) -> None:
    seen: list[tuple[int, list[str]]] = []

    class Spy(import_keras().callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            seen.append((epoch, sorted(logs or {})))

    fit(coloured, callbacks=[Spy()])
    assert seen == [(0, ["accuracy", "loss", "val_accuracy", "val_loss"]), (1, seen[0][1])]


def test_early_stopping_stops_and_restores_the_best_weights(coloured: fc.Dataset) -> None:
    stopping = import_keras().callbacks.EarlyStopping(
        "val_loss", patience=0, min_delta=1e9, restore_best_weights=True, start_from_epoch=0
    )
    stopped = fit(coloured, epochs=5, callbacks=[stopping])
    assert len(stopped.history) == 2
    # The best epoch was the first, and the weights kept are those a training of that epoch had.
    one = fc.Trainer("fast", epochs=5, image_size=SIZE, batch_size=8)
    limiter: Any = import_keras().callbacks.Callback()
    limiter.on_epoch_end = lambda _epoch, _logs: setattr(limiter.model, "stop_training", True)
    train, val, _ = coloured.split(val=0.2, test=0)
    assert same(stopped, one.fit(train, val, callbacks=[limiter], progress=False))


def test_callbacks_change_the_learning_rate_of_a_constant_schedule(coloured: fc.Dataset) -> None:
    rates = import_keras().callbacks.LearningRateScheduler(lambda epoch, _rate: 0.01 / (epoch + 1))
    run = fit(coloured, model="article", callbacks=[rates])
    assert run.history.to_dict()["learning_rate"] == pytest.approx([0.01, 0.005])


def interrupt_in_epoch(number: int) -> Any:
    class Interrupt(import_keras().callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if self.epoch == number and batch == 1:
                raise KeyboardInterrupt

    return Interrupt()


def test_ctrl_c_keeps_what_was_learned(coloured: fc.Dataset) -> None:
    run = fit(coloured, epochs=5, callbacks=[interrupt_in_epoch(1)])
    assert run.interrupted
    assert len(run.history) == 1
    assert len(run.predictor.predict(coloured)) == 30
    one_epoch = fit(coloured, epochs=5, callbacks=[interrupt_in_epoch(0)])
    assert not same(run, one_epoch)


def test_a_stopped_training_goes_on_to_the_same_result(coloured: fc.Dataset, tmp_path: Path) -> None:
    settings = {"model_options": {"dropout": 0.3}}
    whole = fit(coloured, epochs=4, settings=settings)
    fit(coloured, epochs=4, checkpoint_dir=tmp_path, callbacks=[interrupt_in_epoch(2)], settings=settings)
    rest = fit(coloured, epochs=4, checkpoint_dir=tmp_path, settings=settings)
    assert same(whole, rest)
    assert without_seconds(rest.history) == without_seconds(whole.history)


def test_a_checkpoint_of_another_training_is_refused(coloured: fc.Dataset, tmp_path: Path) -> None:
    fit(coloured, epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(fc.TrainingError, match="another training"):
        fit(coloured, epochs=1, checkpoint_dir=tmp_path, settings={"seed": 3})


def recoloured(dataset: fc.Dataset) -> fc.Dataset:
    """The same keys and labels, other pictures."""
    samples = [dataclasses.replace(sample, image=np.asarray(sample.image)[..., ::-1]) for sample in dataset]
    return fc.Dataset.from_source(samples)


def test_a_checkpoint_of_other_pictures_under_the_same_keys_is_refused(coloured: fc.Dataset, tmp_path: Path) -> None:
    fit(coloured, epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(fc.TrainingError, match="belongs to another training"):
        fit(recoloured(coloured), epochs=1, checkpoint_dir=tmp_path)


def test_each_picture_is_read_once_unless_a_training_is_kept(coloured: fc.Dataset, tmp_path: Path) -> None:
    reads: list[str] = []

    def counted(sample: fc.Sample) -> fc.Sample:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(sample.image)).save(buffer, "PNG")

        def content() -> bytes:
            reads.append(sample.key)
            return buffer.getvalue()

        return dataclasses.replace(sample, image=content)

    watched = fc.Dataset.from_source(list(map(counted, coloured)))
    fc.Trainer("article", epochs=1, image_size=SIZE).fit(watched, progress=False)
    assert sorted(reads) == sorted(watched.keys)
    fc.Trainer("article", epochs=1, image_size=SIZE).fit(watched, checkpoint_dir=tmp_path, progress=False)
    assert len(reads) == 3 * len(watched)


def own_model(filters: int = 4, activation: str = "relu") -> Any:
    keras = import_keras()
    convolution = keras.layers.Conv2D(filters, 3, activation=activation, kernel_initializer="ones")
    end = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax", kernel_initializer="zeros")]
    return keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Rescaling(1 / 255), convolution, *end])


def test_a_model_of_ones_own_goes_on_if_it_is_the_same_whatever_its_name(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    first = fc.Trainer(own_model(), epochs=1).fit(coloured, checkpoint_dir=tmp_path, progress=False)
    assert same(first, fc.Trainer(own_model(), epochs=1).fit(coloured, checkpoint_dir=tmp_path, progress=False))
    for other in (own_model(filters=5), own_model(activation="tanh")):
        with pytest.raises(fc.TrainingError, match="belongs to another training"):
            fc.Trainer(other, epochs=1).fit(coloured, checkpoint_dir=tmp_path, progress=False)


def test_a_training_that_stopped_early_stays_stopped(coloured: fc.Dataset, tmp_path: Path) -> None:
    settings = {"early_stopping": 1, "learning_rate": 0.05}
    runs = [fit(coloured, epochs=30, checkpoint_dir=tmp_path, model="article", settings=settings) for _ in range(2)]
    assert len(runs[0].history) == len(runs[1].history) < 30
    assert same(*runs)


def test_a_training_that_goes_on_without_val_has_a_history(coloured: fc.Dataset, tmp_path: Path) -> None:
    train, val, _ = coloured.split(val=0.2, test=0)
    trainer = fc.Trainer("article", epochs=2, image_size=SIZE)
    trainer.fit(train, val, checkpoint_dir=tmp_path, callbacks=[stop_after(1)], progress=False)
    history = trainer.fit(train, checkpoint_dir=tmp_path, progress=False).history.to_dict()
    assert np.isnan(history["val_loss"]).tolist() == [False, True]


def stop_after(epochs: int) -> Any:
    def interrupt(epoch: int, _: Any) -> None:
        if epoch == epochs:
            raise KeyboardInterrupt

    return import_keras().callbacks.LambdaCallback(on_epoch_begin=interrupt)


def test_numbers_of_numpy_are_numbers(coloured: fc.Dataset, tmp_path: Path) -> None:
    trainer = fc.Trainer("article", epochs=np.int64(1), seed=np.int64(1), batch_size=np.int8(8), image_size=SIZE)  # type: ignore[arg-type]
    run = trainer.fit(coloured, checkpoint_dir=tmp_path, progress=False)
    assert fc.Predictor.load(run.predictor.save(tmp_path / "model.keras")).info["seed"] == 1


def test_callbacks_may_watch_accuracy(coloured: fc.Dataset, tmp_path: Path) -> None:
    callbacks = import_keras().callbacks
    watching = [
        callbacks.EarlyStopping(monitor="val_accuracy", patience=1, restore_best_weights=True),
        callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="val_accuracy", save_best_only=True),
    ]
    fit(coloured, callbacks=watching)
    import_keras().saving.load_model(tmp_path / "best.keras", compile=False)


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
    with pytest.raises(fc.ConfigurationError, match="a layer named 'blüte 1'"):
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


def test_models_built_in_several_threads_have_the_weights_of_their_seeds() -> None:
    def first_weights(seed: int) -> Any:
        return fc.build_model("article", image_size=SIZE, num_classes=3, seed=seed).get_weights()[0]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(first_weights, range(4)))
    assert all(np.array_equal(first_weights(seed), weights) for seed, weights in enumerate(together))


def test_a_late_ctrl_c_does_not_lose_what_was_learned(coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fold(model: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return fold_normalization(model)

    monkeypatch.setattr(trainer, "fold_normalization", fold)
    run = fit(coloured, epochs=1)
    assert run.interrupted
    assert len(run.history) == 1


def test_bad_pictures_may_not_leave_one_class_only() -> None:
    pictures = [np.zeros((8, 8, 3), np.uint8), b"no picture"]
    dataset = fc.Dataset.from_source(fc.InMemory(pictures, ["a", "b"]))
    with pytest.raises(fc.DataError, match="fewer than two classes are left"):
        fc.Trainer("article", image_size=SIZE, bad_images="skip").fit(dataset, progress=False)


def test_a_damaged_checkpoint_is_refused(coloured: fc.Dataset, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.npz").write_bytes(b"PK half a file")
    with pytest.raises(fc.TrainingError, match="damaged"):
        fit(coloured, epochs=1, checkpoint_dir=tmp_path)


def test_a_training_that_diverges_says_so(coloured: fc.Dataset) -> None:
    recipe = Recipe(image_size=SIZE, batch_size=8, optimizer="sgd", learning_rate=1e30, epochs=3)
    with pytest.raises(fc.TrainingError, match="diverged.*lower learning_rate"):
        fc.Trainer("article", recipe=recipe).fit(coloured, progress=False)


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


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_every_optimizer_trains(coloured: fc.Dataset, optimizer: Any) -> None:
    recipe = Recipe(
        image_size=SIZE, batch_size=10, epochs=2, optimizer=optimizer, weight_decay=0.01, augmentation=Augmentation()
    )
    run = fc.Trainer("article", recipe=recipe).fit(coloured, progress=False)
    losses = run.history.to_dict()["loss"]
    assert losses[1] < losses[0]


def test_one_class_is_not_enough(coloured: fc.Dataset) -> None:
    with pytest.raises(fc.DataError, match=r"at least two classes.*10 pictures of blue"):
        fc.Trainer().fit(coloured.subset(coloured.labels == 0))


def test_a_picture_in_train_and_val_is_an_error(coloured: fc.Dataset) -> None:
    with pytest.raises(fc.SplitError, match="3 samples are in both train and val"):
        fc.Trainer().fit(coloured, coloured.subset([0, 1, 2]))


def test_train_and_val_must_have_the_same_classes(coloured: fc.Dataset) -> None:
    other = fc.Dataset.from_source(fc.InMemory(np.zeros((1, 8, 8, 3), np.uint8), ["violet"]))
    with pytest.raises(fc.SplitError, match="same class_names"):
        fc.Trainer().fit(coloured, other)


def test_a_source_in_place_of_a_data_set_is_told_so() -> None:
    with pytest.raises(fc.ConfigurationError, match="Dataset.from_source"):
        fc.Trainer().fit(fc.SyntheticFlowers(per_class=1))  # type: ignore[arg-type]  # that is the point


def test_bad_pictures_are_named_or_left_out(coloured: fc.Dataset) -> None:
    samples = [*coloured.samples, fc.Sample("broken.jpg", "red", b"broken")]
    dataset = fc.Dataset(tuple(samples), coloured.encoder)
    with pytest.raises(fc.ImageError, match="broken.jpg"):
        fc.Trainer("article", image_size=SIZE, epochs=1).fit(dataset, progress=False)
    skipping = fc.Trainer("article", image_size=SIZE, epochs=1, bad_images="skip")
    assert skipping.fit(dataset, progress=False).skipped == ("broken.jpg",)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "fats"}, "Did you mean 'fast'"),
        ({"model": 3}, "registered name or a Keras model"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"image_size": (0, 4)}, "image_size"),
        ({"image_size": ("64", "64")}, "image_size"),
        ({"image_size": (9, 9), "preprocessing": fc.Preprocessing()}, "must agree"),
        ({"seed": -1}, "seed"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_read(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(fc.ConfigurationError, match=reason):
        fc.Trainer(**settings)


def test_a_training_with_everything_on_goes_on_to_the_same_result(coloured: fc.Dataset, tmp_path: Path) -> None:
    recipe = Recipe(
        epochs=4,
        optimizer="muon",
        learning_rate=0.02,
        augmentation=Augmentation(),
        mixing=Mixing(mixup=0.2, cutmix=1.0, until=0.5),
        average=0.9,
        progressive=((0, 0.5), (0.5, 1.0)),
    )
    settings = {"recipe": recipe, "early_stopping": 3}
    whole = fit(coloured, epochs=4, settings=settings)
    fit(coloured, epochs=4, checkpoint_dir=tmp_path, callbacks=[interrupt_in_epoch(2)], settings=settings)
    rest = fit(coloured, epochs=4, checkpoint_dir=tmp_path, settings=settings)
    assert same(whole, rest)
    assert without_seconds(rest.history) == without_seconds(whole.history)


def test_the_average_of_the_weights_is_kept_in_place_of_the_last(coloured: fc.Dataset) -> None:
    recipe = Recipe(optimizer="sgd", learning_rate=0.01, average=0.99)
    averaged = fit(coloured, model="article", settings={"recipe": recipe})
    last = fit(coloured, model="article", settings={"recipe": recipe.replace(average=0.0)})
    start = fc.build_model("article", image_size=SIZE, num_classes=3).get_weights()
    for a, b, c in zip(weights(averaged), weights(last), start, strict=True):
        assert np.abs(a - c).max() < np.abs(b - c).max() or not np.abs(b - c).max()


def test_a_network_of_one_size_cannot_be_trained_at_others(coloured: fc.Dataset) -> None:
    recipe = Recipe(progressive=((0, 0.5),))
    with pytest.raises(fc.ConfigurationError, match="one size only"):
        fit(coloured, model="article", settings={"recipe": recipe})


def test_early_stopping_keeps_the_best_epoch(coloured: fc.Dataset) -> None:
    recipe = Recipe(optimizer="sgd", learning_rate=0.05)
    stopped = fit(coloured, epochs=40, model="article", settings={"recipe": recipe, "early_stopping": 2})
    losses = stopped.history.to_dict()["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == 40 or len(losses) == best + 3
    one = fit(coloured, epochs=best + 1, model="article", settings={"recipe": recipe})
    assert same(stopped, one)


def test_early_stopping_needs_val(coloured: fc.Dataset) -> None:
    with pytest.raises(fc.DataError, match="needs val"):
        fc.Trainer(early_stopping=3).fit(coloured)


@pytest.mark.parametrize("patience", [0, -1, 2.5, True])
def test_patience_is_a_number_of_epochs(patience: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="early_stopping must be"):
        fc.Trainer(early_stopping=patience)


def epochs_of(*figures: tuple[float, float, float]) -> History:
    names = ("loss", "accuracy", "val_accuracy")
    return History(tuple({**dict(zip(names, each, strict=True)), "learning_rate": 0.1} for each in figures))


def test_a_user_is_told_what_went_wrong() -> None:
    good = epochs_of(*[(0.5, 0.9, 0.85)] * 5)
    assert advice(good, 10) == ()
    by_heart = epochs_of(*[(0.01, 1.0, 0.6)] * 5)
    assert "by heart" in advice(by_heart, 10)[0]
    diverged = epochs_of(*[(9.0, 0.1, 0.1)] * 5)
    assert "lower learning_rate (it rose to 0.1)" in advice(diverged, 10)[0]
    assert advice(epochs_of((9.0, 0.1, 0.1)), 10) == ()


def test_a_learning_rate_is_found_and_plotted(coloured: fc.Dataset, tmp_path: Path) -> None:
    trainer = fc.Trainer("article", image_size=SIZE, batch_size=8)
    found = trainer.find_learning_rate(coloured, steps=60, progress=False)
    assert 1e-5 < found.suggestion < 0.1
    assert len(found.rates) == len(found.losses)
    assert found.plot(tmp_path / "rates.png").stat().st_size > 5000
    assert found == trainer.find_learning_rate(coloured, steps=60, progress=False)


def test_rates_so_high_that_nothing_is_left_are_said_to_be(coloured: fc.Dataset) -> None:
    trainer = fc.Trainer("article", image_size=SIZE)
    with pytest.raises(fc.TrainingError, match="Try lower rates"):
        trainer.find_learning_rate(coloured, lowest=1e30, highest=1e37, progress=False)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    with pytest.raises(fc.TrainingError, match="did not fall"):
        read_suggestion(np.geomspace(1e-4, 1, 30).tolist(), np.linspace(1, 9, 30).tolist())


@pytest.mark.parametrize("settings", [{"lowest": 0}, {"lowest": 2}, {"steps": 5}, {"highest": float("inf")}])
def test_rates_to_try_must_rise(coloured: fc.Dataset, settings: dict[str, Any]) -> None:
    with pytest.raises(fc.ConfigurationError, match="Rates must rise"):
        fc.Trainer().find_learning_rate(coloured, **settings)


def test_rare_classes_count_more() -> None:
    recipe = Recipe()
    assert recipe.class_weights([10, 15, 19]) is None
    weights = recipe.class_weights([100, 10, 0])
    assert weights is not None
    assert weights[1] == pytest.approx(10 * weights[0])
    assert weights[2] == 0
    assert (weights * [100, 10, 0]).sum() == pytest.approx(110)
    assert recipe.replace(balance="none").class_weights([100, 10]) is None


def test_an_unbalanced_set_does_not_fool_the_network() -> None:
    def red_and_grey(count: int, label: str) -> list[fc.Sample]:
        random = np.random.default_rng(count)
        shade = {"red": 118, "grey": 110}[label]  # hard to tell: the noise is larger than the difference
        return [
            fc.Sample(
                f"{label}{i}", label, np.clip(random.normal([shade, 110, 110], 40, (8, 8, 3)), 0, 255).astype("uint8")
            )
            for i in range(count)
        ]

    dataset = fc.Dataset.from_source([*red_and_grey(180, "grey"), *red_and_grey(20, "red")])
    recalls = {}
    for balance in ("auto", "none"):
        recipe = Recipe(image_size=(8, 8), epochs=30, batch_size=20, learning_rate=0.02, balance=balance)
        keras = import_keras()
        with seeded_weights(0):
            linear = keras.Sequential(
                [
                    keras.Input((8, 8, 3)),
                    keras.layers.Rescaling(1 / 40, -110 / 40),
                    keras.layers.GlobalAveragePooling2D(),
                    keras.layers.Dense(2, activation="softmax"),
                ]
            )
        run = fc.Trainer(linear, recipe=recipe, precision="float32").fit(dataset, progress=False)
        assert any("'red' counts 9.0 times as much" in note for note in run.notes) == (balance == "auto")
        recalls[balance] = {c.class_name: c.recall for c in fc.evaluate(run.predictor, dataset).per_class}["red"]
    assert recalls["auto"] > recalls["none"] + 0.1


def test_a_recipe_adapts_to_the_number_of_pictures() -> None:
    recipe = Recipe(epochs=40, batch_size=32, adapt=True)
    assert (recipe.adapted(1000).epochs, recipe.adapted(1000).batch_size) == (40, 32)
    few, many = recipe.adapted(50), recipe.adapted(50_000)
    assert few.epochs > 100
    assert few.batch_size == 8
    assert 4 <= many.epochs < 10
    assert many.batch_size == 32
    assert Recipe(epochs=40).adapted(50).epochs == 40


def test_class_names_that_no_model_file_may_have_are_refused_before_training() -> None:
    pictures = list(np.zeros((4, 32, 32, 3), np.uint8))
    dataset = fc.Dataset.from_source(fc.InMemory(pictures, ["a\x1b[31m", "b"] * 2))
    with pytest.raises(fc.ConfigurationError, match="no control characters"):
        fc.Trainer().fit(dataset, progress=False)
