from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import SIZE, fit, same, weights

import flowercnn as fc
from flowercnn._utils.progress import tracked
from flowercnn.models.backend import import_keras, seeded_weights
from flowercnn.models.recipe import Recipe
from flowercnn.models.registry import recipe_of
from flowercnn.preprocessing.augment import Augmentation
from flowercnn.training import loop
from flowercnn.training.early_stopping import BestEpoch
from flowercnn.training.notes import advice
from flowercnn.training.run import History


def test_training_learns_colours(run: fc.TrainingRun) -> None:
    assert run.evaluation is not None
    assert run.evaluation.accuracy > 0.8
    assert len(run.history) == 16


@pytest.mark.parametrize("model", ["article", "fast"])
def test_the_same_seed_gives_the_same_history_weights_and_predictions(
    coloured: fc.Dataset, model: str
) -> None:
    a, b = fit(coloured, model=model), fit(coloured, model=model)
    assert a.history == b.history
    assert a.history.to_dict() == b.history.to_dict()
    assert same(a, b)
    probabilities = [
        np.stack(
            [p.probabilities for p in r.predictor.predict(coloured) if p.probabilities is not None]
        )
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
    monkeypatch.setattr(loop, "micro_batch_size", lambda *_args, **_options: 5)
    parts = fit(coloured, model="article", settings=settings)
    assert all(
        np.allclose(a, b, atol=1e-5) for a, b in zip(weights(whole), weights(parts), strict=True)
    )
    assert np.isclose(whole.history.epochs[-1]["loss"], parts.history.epochs[-1]["loss"])


def test_history_has_every_quantity_for_every_epoch(run: fc.TrainingRun) -> None:
    curves = run.history.to_dict()
    assert set(curves) == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert {len(values) for values in curves.values()} == {16}
    assert len(run.history.seconds) == 16


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_history_can_be_plotted(run: fc.TrainingRun, tmp_path: Path, suffix: str) -> None:
    path = run.history.plot(tmp_path / f"history{suffix}")
    assert path.stat().st_size > 5000
    titles = [axes.get_title() for axes in run.history.figure().axes]
    assert titles == ["Accuracy", "Loss"]
    assert [line.get_label() for line in run.history.figure().axes[0].lines] == ["train", "val"]


def test_an_empty_history_can_be_plotted(tmp_path: Path) -> None:
    assert History().plot(tmp_path / "empty.png").is_file()


def test_a_history_is_plotted_to_a_path() -> None:
    with pytest.raises(fc.ConfigurationError, match="path must be a path.*Received: path=None"):
        History().plot(None)  # type: ignore[arg-type]  # that is the point


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


def test_numbers_of_numpy_are_numbers(coloured: fc.Dataset, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "epochs": np.int64(1),
        "seed": np.int64(1),
        "batch_size": np.int8(8),
    }
    trainer = fc.Trainer("article", image_size=SIZE, **settings)
    run = trainer.fit(coloured, checkpoint_dir=tmp_path, progress=False)
    assert fc.Predictor.load(run.predictor.save(tmp_path / "model.keras")).info["seed"] == 1


def test_callbacks_may_watch_accuracy(coloured: fc.Dataset, tmp_path: Path) -> None:
    callbacks = import_keras().callbacks
    watching = [
        callbacks.EarlyStopping(monitor="val_accuracy", patience=1, restore_best_weights=True),
        callbacks.ModelCheckpoint(
            str(tmp_path / "best.keras"), monitor="val_accuracy", save_best_only=True
        ),
    ]
    fit(coloured, callbacks=watching)
    import_keras().saving.load_model(tmp_path / "best.keras", compile=False)


def test_models_built_in_several_threads_have_the_weights_of_their_seeds() -> None:
    def first_weights(seed: int) -> Any:
        return fc.build_model("article", image_size=SIZE, num_classes=3, seed=seed).get_weights()[0]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(first_weights, range(4)))
    assert all(
        np.array_equal(first_weights(seed), weights) for seed, weights in enumerate(together)
    )


def test_bad_pictures_may_not_leave_one_class_only() -> None:
    pictures = [np.zeros((8, 8, 3), np.uint8), b"no picture"]
    dataset = fc.Dataset.from_source(fc.InMemory(pictures, ["a", "b"]))
    with pytest.raises(fc.DataError, match="fewer than two classes are left"):
        fc.Trainer("article", image_size=SIZE, bad_images="skip").fit(dataset, progress=False)


@pytest.mark.parametrize("model", ["article", "fast"])
def test_a_network_that_the_last_step_destroys_is_not_returned(
    coloured: fc.Dataset, model: str
) -> None:
    trainer = fc.Trainer(model, image_size=SIZE, epochs=1, batch_size=64, learning_rate=1e30)
    with pytest.raises(fc.TrainingError, match="not finite. Use a lower learning_rate"):
        trainer.fit(coloured, progress=False)
    with pytest.raises(fc.TrainingError, match="not finite. Use a lower learning_rate"):
        trainer.fit(*coloured.split(0.3, 0)[:2], progress=False)


def test_callbacks_may_be_one_and_what_is_none_is_refused_before_anything_is_read(
    coloured: fc.Dataset,
) -> None:
    seen: list[int] = []
    callback = import_keras().callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: seen.append(epoch)
    )
    fc.Trainer("article", image_size=SIZE, epochs=1).fit(
        coloured, callbacks=callback, progress=False
    )
    assert seen == [0]
    unread = fc.Dataset.from_source(
        [fc.Sample("a", "a", b"no picture"), fc.Sample("b", "b", b"no picture")]
    )
    for wrong in ("stop", [callback, 3], 3):
        with pytest.raises(fc.ConfigurationError, match="callbacks must be a list"):
            fc.Trainer("article").fit(unread, callbacks=wrong, progress=False)  # type: ignore[arg-type]  # the point


def test_without_a_console_there_is_no_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(tracked([1, 2], total=2, description="Numbers", unit="n", enabled=True)) == [1, 2]


def test_a_training_that_diverges_says_so(coloured: fc.Dataset) -> None:
    recipe = Recipe(image_size=SIZE, batch_size=8, optimizer="sgd", learning_rate=1e30, epochs=3)
    with pytest.raises(fc.TrainingError, match="diverged.*lower learning_rate"):
        fc.Trainer("article", recipe=recipe).fit(coloured, progress=False)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_every_optimizer_trains(coloured: fc.Dataset, optimizer: Any) -> None:
    recipe = Recipe(
        image_size=SIZE,
        batch_size=10,
        epochs=2,
        optimizer=optimizer,
        weight_decay=0.01,
        augmentation=Augmentation(),
    )
    run = fc.Trainer("article", recipe=recipe).fit(coloured, progress=False)
    losses = run.history.to_dict()["loss"]
    assert losses[1] < losses[0]


def test_one_class_is_not_enough(coloured: fc.Dataset) -> None:
    with pytest.raises(fc.DataError, match=r"at least two classes.*10 images of blue"):
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
        ({"model_options": 5}, "model_options must be a dict"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_read(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(fc.ConfigurationError, match=reason):
        fc.Trainer(**settings)


def test_a_folder_for_checkpoints_is_a_path(coloured: fc.Dataset) -> None:
    with pytest.raises(
        fc.ConfigurationError, match=r"checkpoint_dir must be a path.*Received: checkpoint_dir=5"
    ):
        fit(coloured, checkpoint_dir=5)


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


def test_progressive_sizes_too_small_for_a_network_are_refused(coloured: fc.Dataset) -> None:
    recipe = dataclasses.replace(recipe_of("fast"), progressive=((0, 0.1), (0.5, 1.0)))
    with pytest.raises(
        fc.ConfigurationError, match=r"fast cannot take images of \(6, 6\).*larger scales"
    ):
        fc.Trainer("fast", recipe=recipe, image_size=(64, 64), epochs=2).fit(
            coloured, progress=False
        )


def test_early_stopping_keeps_the_best_epoch(coloured: fc.Dataset) -> None:
    recipe = Recipe(optimizer="sgd", learning_rate=0.05)
    stopped = fit(
        coloured, epochs=40, model="article", settings={"recipe": recipe, "early_stopping": 2}
    )
    losses = stopped.history.to_dict()["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == 40 or len(losses) == best + 3
    one = fit(coloured, epochs=best + 1, model="article", settings={"recipe": recipe})
    assert same(stopped, one)


def test_an_epoch_without_val_is_no_better_than_another() -> None:
    best = BestEpoch(2)
    best.resume(History(({"loss": 1.0}, {"loss": 0.9})), ())
    assert not best.has_waited
    assert not best.see({"loss": 0.8, "val_loss": 1.0}, ["weights"])
    assert best.weights == ["weights"]


def test_early_stopping_needs_val(coloured: fc.Dataset) -> None:
    with pytest.raises(fc.DataError, match="needs val"):
        fc.Trainer(early_stopping=3).fit(coloured)


@pytest.mark.parametrize("patience", [0, -1, 2.5, True])
def test_patience_is_a_number_of_epochs(patience: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="early_stopping must be"):
        fc.Trainer(early_stopping=patience)


def epochs_of(*figures: tuple[float, float, float]) -> History:
    names = ("loss", "accuracy", "val_accuracy")
    return History(
        tuple({**dict(zip(names, each, strict=True)), "learning_rate": 0.1} for each in figures)
    )


def test_a_user_is_told_what_went_wrong() -> None:
    good = epochs_of(*[(0.5, 0.9, 0.85)] * 5)
    assert advice(good, 10) == ()
    by_heart = epochs_of(*[(0.01, 1.0, 0.6)] * 5)
    assert "memorises" in advice(by_heart, 10)[0]
    diverged = epochs_of(*[(9.0, 0.1, 0.1)] * 5)
    assert "lower learning_rate (it rose to 0.1)" in advice(diverged, 10)[0]
    assert advice(epochs_of((9.0, 0.1, 0.1)), 10) == ()


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
        shade = {"red": 118, "grey": 110}[
            label
        ]  # hard to tell: the noise is larger than the difference
        return [
            fc.Sample(
                f"{label}{i}",
                label,
                np.clip(random.normal([shade, 110, 110], 40, (8, 8, 3)), 0, 255).astype("uint8"),
            )
            for i in range(count)
        ]

    dataset = fc.Dataset.from_source([*red_and_grey(180, "grey"), *red_and_grey(20, "red")])
    recalls = {}
    for balance in ("auto", "none"):
        recipe = Recipe(
            image_size=(8, 8), epochs=30, batch_size=20, learning_rate=0.02, balance=balance
        )
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
        assert any("'red' counts 9.0 times as much" in note for note in run.notes) == (
            balance == "auto"
        )
        recalls[balance] = {
            c.class_name: c.recall for c in fc.evaluate(run.predictor, dataset).per_class
        }["red"]
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


@pytest.mark.parametrize("count", [0, -1, 2.5, True, None])
@pytest.mark.parametrize("adapt", [True, False])
def test_a_recipe_adapts_to_nothing_but_a_number_of_pictures(count: Any, adapt: bool) -> None:  # noqa: FBT001
    with pytest.raises(fc.ConfigurationError, match="num_samples must be an int of at least 1"):
        Recipe(adapt=adapt).adapted(count)


def test_class_names_that_no_model_file_may_have_are_refused_before_training() -> None:
    pictures = list(np.zeros((4, 32, 32, 3), np.uint8))
    dataset = fc.Dataset.from_source(fc.InMemory(pictures, ["a\x1b[31m", "b"] * 2))
    with pytest.raises(fc.ConfigurationError, match="no control characters"):
        fc.Trainer().fit(dataset, progress=False)
