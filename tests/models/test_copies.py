from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowercnn import build_model
from flowercnn.models.backend import import_keras
from flowercnn.models.copies import copy_model, fold_normalization, make_training_copy

PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 48, 40, 3)).astype(np.float32)


def shaken(model: Any) -> Any:
    """The model with normalisations that have seen data."""
    random = np.random.default_rng(1)
    model.set_weights(
        [weight + np.abs(random.normal(0, 0.2, weight.shape)) for weight in model.get_weights()]
    )
    return model


def small(*layers: Any) -> Any:
    keras = import_keras()
    return shaken(
        keras.Sequential([keras.Input((48, 40, 3)), keras.layers.Rescaling(1 / 255), *layers])
    )


def kinds(model: Any) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def agree(model: Any) -> bool:
    return np.allclose(
        model(PIXELS, training=False), fold_normalization(model)(PIXELS), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["article", "fast"])
def test_the_folded_network_computes_the_same_without_normalisation(name: str) -> None:
    model = shaken(build_model(name, image_size=(48, 40), num_classes=5))
    assert agree(model)
    assert "BatchNormalization" not in kinds(fold_normalization(model))


def test_a_convolution_with_bias_is_folded_too() -> None:
    layers = import_keras().layers
    model = small(
        layers.Conv2D(4, 3), layers.BatchNormalization(scale=False), layers.GlobalMaxPooling2D()
    )
    assert agree(model)
    assert "BatchNormalization" not in kinds(fold_normalization(model))


@pytest.mark.parametrize("kind", ["depthwise", "separable", "dense"])
def test_other_linear_layers_are_folded_too(kind: str) -> None:
    layers = import_keras().layers
    linear = {
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2),
        "separable": layers.SeparableConv2D(5, 3, depth_multiplier=2, use_bias=False),
        "dense": layers.Dense(4),
    }[kind]
    model = small(linear, layers.BatchNormalization())
    assert agree(model)
    assert "BatchNormalization" not in kinds(fold_normalization(model))


def test_normalisation_that_follows_no_convolution_alone_is_kept() -> None:
    layers = import_keras().layers
    for before in (layers.MaxPooling2D(), layers.Conv2D(4, 3, activation="relu"), layers.ReLU()):
        model = small(before, layers.BatchNormalization())
        assert agree(model)
        assert "BatchNormalization" in kinds(fold_normalization(model))


def test_a_convolution_used_elsewhere_too_is_kept() -> None:
    keras = import_keras()
    pixels = keras.Input((48, 40, 3))
    convolved = keras.layers.Conv2D(4, 3)(pixels)
    total = keras.layers.Add()([convolved, keras.layers.BatchNormalization()(convolved)])
    model = shaken(keras.Model(pixels, total))
    assert agree(model)
    assert "BatchNormalization" in kinds(fold_normalization(model))


def test_the_model_itself_is_not_changed() -> None:
    model = shaken(build_model("fast", image_size=(32, 32), num_classes=2))
    before = model.get_weights()
    fold_normalization(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("name", ["article", "fast", "accurate"])
def test_the_copy_computes_the_same_in_float32(name: str) -> None:
    model = build_model(name, image_size=(48, 40), num_classes=5)
    copy = make_training_copy(model, precision="float32")
    pixels = PIXELS[:3]
    assert np.allclose(model(pixels, training=False), copy(pixels, training=False), atol=1e-6)


def test_the_copy_normalises_batches_as_keras_does() -> None:
    model = build_model("fast", image_size=(48, 40), num_classes=5)
    copy = make_training_copy(model, precision="float32")
    pixels = PIXELS[:3]
    assert np.allclose(model(pixels, training=True), copy(pixels, training=True), atol=1e-4)
    means = [
        [np.asarray(layer.moving_mean) for layer in m.layers if hasattr(layer, "moving_mean")]
        for m in (model, copy)
    ]
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(*means, strict=True))
    layers = import_keras().layers
    alone = import_keras().Sequential(
        [import_keras().Input((2, 2, 3)), layers.BatchNormalization(momentum=0.0)]
    )
    few = make_training_copy(alone, precision="float32")
    for model_ in (alone, few):
        model_(pixels[:2, :2, :2], training=True)
    assert np.allclose(alone.get_weights()[3], few.get_weights()[3], rtol=1e-4)


def test_the_copy_in_bfloat16_is_close_and_keeps_pixels_and_probabilities_whole() -> None:
    model = build_model("fast", image_size=(48, 40), num_classes=5)
    copy = make_training_copy(model, precision="bfloat16")
    pixels = PIXELS[:3]
    assert np.abs(np.asarray(model(pixels)) - np.asarray(copy(pixels))).max() < 0.03
    policies = {layer.name: layer.compute_dtype for layer in copy.layers}
    assert policies["rescale"] == policies["probabilities"] == "float32"
    assert policies["down1_conv"] == "bfloat16"
    assert {str(weight.dtype) for weight in copy.weights} == {"float32"}


def test_a_copy_leaves_the_traces_of_training_behind() -> None:
    model = small(
        import_keras().layers.Flatten(), import_keras().layers.Dense(2, activation="softmax")
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    copy = copy_model(model)
    assert not copy.compiled
    assert getattr(copy, "optimizer", None) is None
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), copy.get_weights(), strict=True)
    )
