from __future__ import annotations

import re
from pathlib import Path

import flowercnn
from flowercnn import build_model
from flowercnn.models.backend import import_keras
from flowercnn.models.graph import (
    activation_bytes,
    call_count,
    consumers_of,
    flatten_layers,
    inputs_of,
    is_called_once,
    layer_outputs,
    micro_batch_size,
    operation_of,
    uses_batch_statistics,
)

PRIVATE = re.compile(
    r"\b(_keras_history|_(in|out)bound_nodes|_flatten_layers|_nodes_by_depth|_operations\w*|_functional)\b"
)


def test_the_private_graph_of_keras_is_touched_in_one_module_alone() -> None:
    package = Path(flowercnn.__file__).parent
    found = {path.name for path in package.rglob("*.py") if PRIVATE.search(path.read_text("utf-8"))}
    assert found == {"graph.py"}


def test_a_tensor_is_followed_to_what_makes_it_and_a_layer_to_what_uses_it() -> None:
    keras = import_keras()
    pixels = keras.Input((4, 4, 3))
    relu = keras.layers.ReLU()
    first = relu(pixels)
    add = keras.layers.Add()
    both = add([first, pixels])
    assert operation_of(first) is relu
    assert [id(tensor) for tensor in inputs_of(both)] == [id(first), id(pixels)]
    assert consumers_of(relu) == [add]
    assert is_called_once(relu)
    second = relu(both)
    assert not is_called_once(relu)
    assert [id(tensor) for tensor in inputs_of(second)] == [id(both)]
    outputs = layer_outputs(keras.Model(pixels, second))
    assert outputs[relu.name] is first
    assert outputs[add.name] is both


def test_layers_in_models_and_wrappers_are_found() -> None:
    keras = import_keras()
    norm = keras.layers.BatchNormalization()
    inner = keras.Sequential([keras.Input((2, 4)), keras.layers.TimeDistributed(norm)])
    model = keras.Sequential([keras.Input((2, 4)), inner])
    assert any(layer is norm for layer in flatten_layers(model))
    assert uses_batch_statistics(model)


def test_large_pictures_are_computed_few_at_once() -> None:
    article = build_model("article", image_size=(500, 500), num_classes=17)
    assert 4 <= micro_batch_size(article, most=128) <= 16
    keras = import_keras()
    small = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    assert micro_batch_size(small, most=128) == 128


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
