from __future__ import annotations

import numpy as np
import pytest

from flowercnn import ConfigurationError
from flowercnn.models.backend import import_keras
from flowercnn.models.checks import check_has_layers, check_layer_names, check_probabilities


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, "float32"), (4, "mixed_bfloat16"), (3, "float16")]
)
def test_probabilities_are_looked_at_for_any_channels_size_and_precision(
    channels: int, dtype: str
) -> None:
    layers = import_keras().layers
    end = [
        layers.GlobalAveragePooling2D(dtype=dtype),
        layers.Dense(2, activation="softmax", dtype=dtype),
    ]
    scaled = layers.Rescaling(1 / 255, dtype=dtype)
    model = import_keras().Sequential([import_keras().Input((None, None, channels)), scaled, *end])
    check_probabilities(model, "it")
    model.layers[-1].set_weights([np.full((channels, 2), np.nan), np.zeros(2)])
    with pytest.raises(ConfigurationError, match="must return probabilities"):
        check_probabilities(model, "it")


def test_names_that_model_files_do_not_allow_are_found_in_inner_models_too() -> None:
    keras = import_keras()
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a b")], name="inner")
    model = keras.Sequential([keras.Input((2,)), inner], name="outer")
    with pytest.raises(ConfigurationError, match="'a b'"):
        check_layer_names(model, "it")


def test_layers_a_model_does_not_have_are_named() -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="first")])
    check_has_layers(model, ("first",))
    with pytest.raises(ConfigurationError, match="another network.*second"):
        check_has_layers(model, ("first", "second"))
