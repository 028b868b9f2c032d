from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from fitting import BACKBONE_OPTIONS, backbone_trainer, ticking_clock

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.models.registry import recipe_of
from flowercnn.preprocessing.views import Views
from flowercnn.training.transfer import backbone
from flowercnn.training.transfer import finetune as ending
from flowercnn.training.transfer.features import Features, compute_features
from flowercnn.training.transfer.finetune import ConvolutionalHead, last_convolution


def test_by_default_the_ending_is_tuned_where_pictures_and_memory_are_enough(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epochs() -> int:
        return len(backbone_trainer(epochs=1).fit(coloured, progress=False).history)

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


def make_ending(dataset: fc.Dataset, **options: Any) -> tuple[Any, ConvolutionalHead, Features]:
    """A backbone, its ending, and what goes into that of a data set."""
    model = fc.build_model(
        "backbone:mobilenet", image_size=(32, 32), num_classes=3, **BACKBONE_OPTIONS
    )
    found = ConvolutionalHead(model, last_convolution(model), **options)
    views = Views(mirror=True, parts=1)
    return (
        model,
        found,
        compute_features(
            model, dataset, fc.Preprocessing(image_size=(32, 32)), views=views, output=found.inputs
        ),
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
    changed = {
        weight.path for weight in model.weights if not np.array_equal(weight, before[weight.path])
    }
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
    with pytest.raises(
        fc.TrainingError, match="network answers after fine-tuning is not finite"
    ):  # one step each
        found.tune(
            inputs,
            coloured.labels,
            dataclasses.replace(recipe, learning_rate=1e38, epochs=1),
            seed=0,
        )


def test_tuning_with_dropout_depends_on_the_seed_alone(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 1)

    def tuned(seed: int) -> Any:
        options = {**BACKBONE_OPTIONS, "dropout": 0.5}
        settings: dict[str, Any] = {
            "seed": seed,
            "epochs": 1,
            "precision": "float32",
            "image_size": (32, 32),
        }
        run = fc.Trainer("backbone:mobilenet", model_options=options, **settings).fit(
            coloured, progress=False
        )
        return run.predictor.model.get_weights()[-2]

    first = tuned(0)
    assert np.array_equal(first, tuned(0))
    assert not np.array_equal(first, tuned(1))


def test_callbacks_set_the_rate_of_tuning_where_its_schedule_is_constant(
    coloured: fc.Dataset,
) -> None:
    _, found, inputs = make_ending(coloured)
    halve = import_keras().callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2 if epoch else rate
    )
    constant = dataclasses.replace(
        recipe_of("backbone:mobilenet"), epochs=2, schedule="constant", learning_rate=1e-3
    )
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
    clock = ticking_clock(monkeypatch, 0.05)
    history, _ = found.tune(inputs, coloured.labels, recipe, seed=0, deadline=clock.now + 8)
    assert 1 < len(history) == found.recipe.epochs < 10_000
    assert history.epochs[-1]["learning_rate"] < 0.5 * recipe.learning_rate
    found.tune(
        inputs,
        coloured.labels,
        dataclasses.replace(recipe, epochs=3),
        seed=0,
        deadline=clock.now + 60,
    )
    assert found.recipe.epochs == 3


def test_a_budget_that_is_over_before_tuning_is_said(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "_ENOUGH_PER_CLASS", 1)
    run = backbone_trainer(time_budget=0.001).fit(coloured, progress=False)
    assert any("time_budget was over before fine-tuning" in note for note in run.notes)


def test_the_ending_kept_is_the_mean_of_two_that_learned_apart(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, found, inputs = make_ending(coloured)
    learn = ConvolutionalHead._learn
    learned: list[np.ndarray] = []

    def learn_and_look(self: ConvolutionalHead, copy: Any, *rest: Any) -> dict[str, float]:
        if len(learned) == 3:
            raise KeyboardInterrupt
        logs = learn(self, copy, *rest)
        learned.append(copy.layers[-1].get_weights()[0])
        return logs

    monkeypatch.setattr(ConvolutionalHead, "_learn", learn_and_look)
    recipe = dataclasses.replace(recipe_of("backbone:mobilenet"), epochs=4, batch_size=8)
    history, interrupted = found.tune(inputs, coloured.labels, recipe, seed=0)
    assert (len(history), interrupted) == (1, True)
    kernel = model.get_layer("probabilities").get_weights()[0]
    assert not np.allclose(learned[0], learned[1])
    # The second epoch was stopped between the two; what the first learned in it is kept.
    assert np.allclose(kernel, (learned[1] + learned[2]) / 2, atol=1e-6)
