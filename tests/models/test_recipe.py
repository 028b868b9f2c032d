from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from flowercnn import ConfigurationError
from flowercnn.models.recipe import Recipe


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
    settings: dict[str, Any] = {
        "image_size": np.array([8, 8]),
        "learning_rate": np.float32(0.5),
        "progressive": [[0, np.float64(0.5)]],
    }
    given = Recipe(**settings)
    assert repr(given) == repr(
        Recipe(image_size=(8, 8), learning_rate=0.5, progressive=((0.0, 0.5),))
    )


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    recipe = Recipe(schedule="cosine", learning_rate=1.0, warmup=0.1)
    rates = [recipe.learning_rate_at(step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_strings_and_numbers_of_numpy_are_held_as_those_of_python() -> None:
    given = Recipe(optimizer=np.str_("sgd"), warmup=np.float32(0.5), epochs=np.int64(3))  # type: ignore[arg-type]  # that is the point
    assert repr(given) == repr(Recipe(optimizer="sgd", warmup=0.5, epochs=3))
    assert pickle.loads(pickle.dumps(given)) == given  # noqa: S301 - its own bytes
