from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from flowercnn import ConfigurationError, UnknownNameError, build_model, list_models, register_model
from flowercnn.models import registry
from flowercnn.models.backend import import_keras
from flowercnn.models.checks import check_probabilities
from flowercnn.models.copies import copy_model, make_training_copy
from flowercnn.models.graph import activation_bytes, call_count, micro_batch_size, uses_batch_statistics
from flowercnn.models.precision import choose_precision
from flowercnn.models.recipe import Recipe
from flowercnn.models.registry import recipe_of

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 48, 40, 3), dtype=np.uint8)


def test_article_is_the_tutorials_network_exactly() -> None:
    model = build_model("article", image_size=(500, 500), num_classes=17)
    assert model.count_params() == 1_727_969
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Rescaling", *["Conv2D", "MaxPooling2D"] * 3, "Flatten", "Dense", "Dense"]
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    assert [(c.filters, c.kernel_size, c.padding, c.activation.__name__) for c in convolutions] == [
        (filters, (3, 3), "same", "relu") for filters in (8, 16, 32)
    ]
    assert [m.pool_size for m in model.layers if "Pool" in type(m).__name__] == [(3, 3), (2, 2), (2, 2)]


def test_article_trains_as_the_tutorial_does() -> None:
    recipe = recipe_of("article")
    assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size, recipe.epochs) == ("adam", 5e-4, 128, 20)
    assert (recipe.resize, recipe.augmentation, recipe.schedule) == ("stretch", None, "constant")


@pytest.mark.parametrize("name", ["article", "fast", "accurate"])
def test_models_give_probabilities_for_raw_pixels(name: str) -> None:
    model = build_model(name, image_size=(48, 40), num_classes=5)
    probabilities = np.asarray(model(PIXELS.astype(np.float32)))
    assert probabilities.shape == (3, 5)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["article", "fast", "accurate"])
def test_models_are_of_stock_layers_only(name: str) -> None:
    model = build_model(name, image_size=(48, 40), num_classes=5)
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


def test_accurate_answers_with_the_mean_of_its_members_logits() -> None:
    both = build_model("accurate", image_size=(48, 40), num_classes=5, members=2, width=32)
    pixels = PIXELS.astype(np.float32)
    rows = np.asarray(both.layers[-1].kernel).reshape(2, -1, 5)
    logits = np.zeros((3, 5))
    for number, kernel in enumerate(rows, start=1):
        one = build_model("fast", image_size=(48, 40), num_classes=5)
        for layer in one.layers[:-1]:
            if layer.weights:
                layer.set_weights(both.get_layer(f"member{number}_{layer.name}").get_weights())
        features = import_keras().Model(one.inputs[0], one.layers[-1].input)
        logits += np.asarray(features(pixels)) @ kernel / 2
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(both(pixels), expected, atol=1e-5)


def test_the_number_of_members_is_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"members must be an int of at least 1. Received: members=0"):
        build_model("accurate", image_size=(48, 40), num_classes=5, members=0)
    one = build_model("accurate", image_size=(48, 40), num_classes=5, members=1)
    assert one.count_params() == build_model("fast", image_size=(48, 40), num_classes=5, width=48).count_params()


@pytest.mark.parametrize(
    ("option", "value"),
    [("width", 0), ("width", "x"), ("width", True), ("blocks", 0), ("dropout", 2), ("dropout", "x"), ("dropout", 1)],
)
def test_a_wrong_option_of_a_network_is_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option} must be .*Received: {option}={value!r}"):
        build_model("fast", image_size=(48, 40), num_classes=5, **{option: value})


def test_the_same_seed_gives_the_same_weights_and_leaves_the_users_numbers_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    a, b, c = (build_model("fast", image_size=(32, 32), num_classes=2, seed=s).get_weights() for s in (1, 1, 2))
    assert random.random() == expected
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


def test_the_first_model_of_a_process_has_the_weights_of_its_seed_too() -> None:
    code = (
        "import flowercnn as fc, hashlib\n"
        "for _ in range(2):\n"
        "    model = fc.build_model('fast', image_size=(32, 32), num_classes=2)\n"
        "    print(hashlib.sha256(b''.join(w.tobytes() for w in model.get_weights())).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first == second
    model = build_model("fast", image_size=(32, 32), num_classes=2)
    assert first == hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"one of accurate, article, fast.*Did you mean 'article'\?.*'artcle'"):
        build_model("artcle", image_size=(32, 32), num_classes=2)


def test_an_unknown_option_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"options blocks, dropout, width.*Did you mean 'width'"):
        build_model("fast", image_size=(64, 64), num_classes=2, witdh=3)


@pytest.mark.parametrize("num_classes", [0, 1, -3, 2.0, "3", True])
def test_num_classes_is_at_least_two(num_classes: Any) -> None:
    with pytest.raises(ConfigurationError, match="num_classes must be"):
        build_model("fast", image_size=(32, 32), num_classes=num_classes)


@pytest.mark.parametrize(("name", "size"), [("article", (11, 40)), ("fast", (31, 40)), ("fast", (0, 0))])
def test_pictures_too_small_for_the_network_are_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="image_size"):
        build_model(name, image_size=size, num_classes=2)


def tiny(image_size: tuple[int, int], num_classes: int, units: int = 4) -> Any:
    layers = import_keras().layers
    return import_keras().Sequential(
        [
            import_keras().Input((*image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.GlobalAveragePooling2D(),
            layers.Dense(units, activation="relu"),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    # Examples in docstrings, which may have run before in this process, register networks, too.
    entries = {name: entry for name, entry in registry._REGISTRY.items() if name != "tiny"}
    monkeypatch.setattr(registry, "_REGISTRY", entries)


@pytest.mark.usefixtures("clean_registry")
def test_a_network_of_ones_own_has_a_name_like_the_others() -> None:
    register_model("tiny", tiny, recipe=Recipe(epochs=3))
    assert "tiny" in list_models()
    assert recipe_of("tiny").epochs == 3
    assert build_model("tiny", image_size=(8, 8), num_classes=3, units=7).count_params() == 3 * 7 + 7 + 7 * 3 + 3


@pytest.mark.usefixtures("clean_registry")
def test_a_name_is_not_taken_twice_by_accident() -> None:
    with pytest.raises(ConfigurationError, match="overwrite=True"):
        register_model("fast", tiny)
    register_model("fast", tiny, overwrite=True)


@pytest.mark.usefixtures("clean_registry")
def test_malformed_registrations_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="name must be"):
        register_model("a b", tiny)
    with pytest.raises(ConfigurationError, match="builder must be"):
        register_model("a", 3)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigurationError, match="builder must be.*model=model"):
        register_model("a", tiny((8, 8), 2))
    with pytest.raises(ConfigurationError, match="recipe must be"):
        register_model("a", tiny, recipe=3)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigurationError, match="'auto'"):
        register_model("auto", tiny)
    register_model("narrow", lambda image_size: tiny(image_size, 2))
    with pytest.raises(ConfigurationError, match=r"builder must take \(image_size, num_classes"):
        build_model("narrow", image_size=(8, 8), num_classes=2)
    register_model("wrong", lambda image_size, num_classes: tiny(image_size, num_classes + 1))
    with pytest.raises(ConfigurationError, match=r"from \(None, 8, 8, 3\) to \(None, 2\).*to \(None, 3\)"):
        build_model("wrong", image_size=(8, 8), num_classes=2)


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": -1},
        {"optimizer": "moun"},
        {"schedule": "step"},
        {"learning_rate": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"warmup": 1},
        {"label_smoothing": 1.0},
        {"weight_decay": "0"},
        {"average": 1},
        {"balance": "always"},
        {"progressive": ((0.5, 1.0),)},
        {"progressive": ((0, 0.5), (0, 1.0))},
        {"progressive": ((0, 0.0),)},
        {"progressive": (0, 0.5)},
        {"progressive": ((0, "a"),)},
        {"augmentation": "strong"},
        {"mixing": 0.2},
        {"resize": "zoom"},
        {"image_size": (0, 4)},
    ],
)
def test_a_wrong_setting_of_a_recipe_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        Recipe(**setting)


def test_a_recipe_holds_numbers_of_python_whatever_it_was_given() -> None:
    given = Recipe(image_size=np.array([8, 8]), learning_rate=np.float32(0.5), progressive=[[0, np.float64(0.5)]])  # type: ignore[arg-type]  # that is the point
    assert repr(given) == repr(Recipe(image_size=(8, 8), learning_rate=0.5, progressive=((0.0, 0.5),)))


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    recipe = Recipe(schedule="cosine", learning_rate=1.0, warmup=0.1)
    rates = [recipe.learning_rate_at(step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("name", ["article", "fast", "accurate"])
def test_the_copy_computes_the_same_in_float32(name: str) -> None:
    model = build_model(name, image_size=(48, 40), num_classes=5)
    copy = make_training_copy(model, precision="float32")
    pixels = PIXELS.astype(np.float32)
    assert np.allclose(model(pixels, training=False), copy(pixels, training=False), atol=1e-6)


def test_the_copy_normalises_batches_as_keras_does() -> None:
    model = build_model("fast", image_size=(48, 40), num_classes=5)
    copy = make_training_copy(model, precision="float32")
    pixels = PIXELS.astype(np.float32)
    assert np.allclose(model(pixels, training=True), copy(pixels, training=True), atol=1e-4)
    means = [
        [np.asarray(layer.moving_mean) for layer in m.layers if hasattr(layer, "moving_mean")] for m in (model, copy)
    ]
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(*means, strict=True))
    layers = import_keras().layers
    alone = import_keras().Sequential([import_keras().Input((2, 2, 3)), layers.BatchNormalization(momentum=0.0)])
    few = make_training_copy(alone, precision="float32")
    for model_ in (alone, few):
        model_(pixels[:2, :2, :2], training=True)
    assert np.allclose(alone.get_weights()[3], few.get_weights()[3], rtol=1e-4)


def test_the_copy_in_bfloat16_is_close_and_keeps_pixels_and_probabilities_whole() -> None:
    model = build_model("fast", image_size=(48, 40), num_classes=5)
    copy = make_training_copy(model, precision="bfloat16")
    pixels = PIXELS.astype(np.float32)
    assert np.abs(np.asarray(model(pixels)) - np.asarray(copy(pixels))).max() < 0.03
    policies = {layer.name: layer.compute_dtype for layer in copy.layers}
    assert policies["rescale"] == policies["probabilities"] == "float32"
    assert policies["down1_conv"] == "bfloat16"
    assert {str(weight.dtype) for weight in copy.weights} == {"float32"}


def test_a_copy_leaves_the_traces_of_training_behind() -> None:
    model = tiny((8, 8), 2)
    model.compile("adam", "sparse_categorical_crossentropy")
    copy = copy_model(model)
    assert not copy.compiled
    assert getattr(copy, "optimizer", None) is None
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), copy.get_weights(), strict=True))


@pytest.mark.parametrize(("channels", "dtype"), [(1, "float32"), (4, "mixed_bfloat16"), (3, "float16")])
def test_probabilities_are_looked_at_for_any_channels_size_and_precision(channels: int, dtype: str) -> None:
    layers = import_keras().layers
    end = [layers.GlobalAveragePooling2D(dtype=dtype), layers.Dense(2, activation="softmax", dtype=dtype)]
    scaled = layers.Rescaling(1 / 255, dtype=dtype)
    model = import_keras().Sequential([import_keras().Input((None, None, channels)), scaled, *end])
    check_probabilities(model, "it")
    model.layers[-1].set_weights([np.full((channels, 2), np.nan), np.zeros(2)])
    with pytest.raises(ConfigurationError, match="must return probabilities"):
        check_probabilities(model, "it")


def test_precision_is_chosen_by_the_machine_or_the_user() -> None:
    assert choose_precision("float32") == "float32"
    assert choose_precision("bfloat16") == "bfloat16"
    assert choose_precision("auto") in ("float32", "bfloat16")
    with pytest.raises(ConfigurationError, match="precision must be"):
        choose_precision("float64")  # type: ignore[arg-type]  # that is the point


def test_large_pictures_are_computed_few_at_once() -> None:
    article = build_model("article", image_size=(500, 500), num_classes=17)
    assert 4 <= micro_batch_size(article, most=128) <= 16
    assert micro_batch_size(tiny((8, 8), 2), most=128) == 128


def test_every_call_of_a_layer_counts_and_those_of_models_within_models() -> None:
    keras = import_keras()
    pixels = keras.Input((8, 8, 3))
    larger = keras.layers.UpSampling2D(4)
    small = keras.layers.MaxPooling2D(8)(pixels)
    twice = keras.Model(pixels, [larger(small), larger(pixels)])
    assert activation_bytes(twice) == 4 * 3 * (8 * 8 + 1 + 4 * 4 + 32 * 32)
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()])
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner, inner, inner])
    assert call_count(keras.Model(pixels, outer(outer(pixels)))) == 15
    assert call_count(keras.Sequential([keras.layers.ReLU()])) == 0


def test_batch_normalisation_couples_the_pictures_of_a_batch() -> None:
    assert uses_batch_statistics(build_model("fast", image_size=(32, 32), num_classes=2))
    assert not uses_batch_statistics(build_model("article", image_size=(32, 32), num_classes=2))
