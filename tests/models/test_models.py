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
    assert [m.pool_size for m in model.layers if "Pool" in type(m).__name__] == [
        (3, 3),
        (2, 2),
        (2, 2),
    ]


def test_article_trains_as_the_tutorial_does() -> None:
    recipe = recipe_of("article")
    assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size, recipe.epochs) == (
        "adam",
        5e-4,
        128,
        20,
    )
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
    with pytest.raises(
        ConfigurationError, match=r"members must be an int of at least 1. Received: members=0"
    ):
        build_model("accurate", image_size=(48, 40), num_classes=5, members=0)
    one = build_model("accurate", image_size=(48, 40), num_classes=5, members=1)
    assert (
        one.count_params()
        == build_model("fast", image_size=(48, 40), num_classes=5, width=48).count_params()
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("width", "x"),
        ("width", True),
        ("blocks", 0),
        ("dropout", 2),
        ("dropout", "x"),
        ("dropout", 1),
    ],
)
def test_a_wrong_option_of_a_network_is_named(option: str, value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{option} must be .*Received: {option}={value!r}"
    ):
        build_model("fast", image_size=(48, 40), num_classes=5, **{option: value})


def test_the_same_seed_gives_the_same_weights_and_leaves_the_users_numbers_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    a, b, c = (
        build_model("fast", image_size=(32, 32), num_classes=2, seed=s).get_weights()
        for s in (1, 1, 2)
    )
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
    assert (
        first
        == hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()
    )


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"one of accurate, article, fast.*Did you mean 'article'\?.*'artcle'",
    ):
        build_model("artcle", image_size=(32, 32), num_classes=2)


def test_an_unknown_option_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        UnknownNameError, match=r"options blocks, dropout, width.*Did you mean 'width'"
    ):
        build_model("fast", image_size=(64, 64), num_classes=2, witdh=3)


@pytest.mark.parametrize("num_classes", [0, 1, -3, 2.0, "3", True])
def test_num_classes_is_at_least_two(num_classes: Any) -> None:
    with pytest.raises(ConfigurationError, match="num_classes must be"):
        build_model("fast", image_size=(32, 32), num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "size"), [("article", (11, 40)), ("fast", (31, 40)), ("fast", (0, 0))]
)
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
    assert (
        build_model("tiny", image_size=(8, 8), num_classes=3, units=7).count_params()
        == 3 * 7 + 7 + 7 * 3 + 3
    )


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
    with pytest.raises(
        ConfigurationError, match=r"from \(None, 8, 8, 3\) to \(None, 2\).*to \(None, 3\)"
    ):
        build_model("wrong", image_size=(8, 8), num_classes=2)
