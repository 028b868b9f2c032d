"""Checks of a network: shapes, probabilities, layer names, image sizes, backbone options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from flowercnn.errors import ConfigurationError, few
from flowercnn.models.backend import import_keras, memory_errors
from flowercnn.models.graph import MOST_ACTIVATION_BYTES, activation_bytes, output_shapes

LAYER_NAME: Final = re.compile(r"[A-Za-z0-9_.>-]*")
"""Layer names that TensorFlow allows, without the characters that separate folders."""

_ANY_SIDE: Final = 64  # of images for a network that takes any
_OFF_BY_ROUNDING: Final = 0.02  # of a sum of probabilities, in bfloat16


def check_shapes(model: Any, name: str, image_size: tuple[int, int], num_classes: int) -> None:
    """Raise a ConfigurationError unless a model maps images to a row of probabilities each."""
    expected = ((None, *image_size, 3), (None, num_classes))
    received = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))
    if received != expected:
        raise ConfigurationError(
            f"{name} must be a Keras model from {expected[0]} to {expected[1]}. "
            f"Received: {received[0]} to {received[1]}"
        )


def check_probabilities(model: Any, name: str) -> None:
    """Raise a ConfigurationError unless a model returns probabilities for two images of noise.

    No number may be negative, each row must sum to 1, and layer names must be allowed. A model that
    needs gigabytes for one image is not run: it can be neither saved nor loaded.
    """
    check_layer_names(model, name)
    shape = [side or _ANY_SIDE for side in model.input_shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    if activation_bytes(model) > MOST_ACTIVATION_BYTES:
        return
    with memory_errors(name):
        rows = np.asarray(model(noise, training=False)).astype(np.float32)
    if not (rows.min() >= 0 and np.allclose(rows.sum(axis=1), 1, atol=_OFF_BY_ROUNDING)):
        raise ConfigurationError(
            f"{name} must return probabilities, numbers of at least 0 that sum to 1 for each image."
            f" End it with keras.layers.Dense({rows.shape[1]}, activation='softmax'). "
            f"Received, for noise: {rows[0].tolist()}"
        )


def check_layer_names(model: Any, name: str) -> None:
    """Raise a ConfigurationError for names of layers or inputs that model files do not allow."""
    for layer_name in _all_names(model):
        if not LAYER_NAME.fullmatch(layer_name):
            raise ConfigurationError(
                f"{name} has a layer or an input named {layer_name!r}. TensorFlow and model files "
                "allow A-Z, a-z, 0-9 and _ . > - only."
            )


def _all_names(model: Any) -> Iterator[str]:
    """Names of a model, its inputs and its layers, including those of inner models."""
    yield model.name
    yield from (tensor.name for tensor in getattr(model, "inputs", None) or ())
    for layer in model.layers:
        yield from _all_names(layer) if hasattr(layer, "layers") else (layer.name,)


def check_has_layers(model: Any, layers: tuple[str, ...]) -> None:
    """Raise a ConfigurationError unless a model has the layers of a calibration."""
    missing = set(layers) - set(output_shapes(model))
    if missing:
        raise ConfigurationError(
            "The calibration is of another network: this one does not have the layers "
            f"{few(sorted(missing))}."
        )


def check_smallest_size(name: str, image_size: tuple[int, int], smallest: int) -> None:
    """Raise a ConfigurationError if images are too small for a network's poolings."""
    if min(image_size) < smallest:
        needed = f"{smallest} x {smallest}"
        raise ConfigurationError(
            f"{name} needs images of at least {needed}. Received: image_size={image_size}"
        )


def check_training_size(model: Any, image_size: tuple[int, int]) -> None:
    """Raise a ConfigurationError unless a network takes images of this (height, width)."""
    import tensorflow as tf

    try:
        outputs = np.asarray(model(np.zeros((1, *image_size, 3), np.float32), training=False))
        problem = "" if np.isfinite(outputs).all() else "its outputs are not finite"
    except (ValueError, tf.errors.OpError) as error:
        problem = str(error).partition("\n")[0]
    if problem:
        raise ConfigurationError(
            f"{model.name} cannot take images of {image_size}, a size of progressive training "
            f"({problem}). Give a larger image_size, or larger scales: Recipe(progressive=...)."
        )


def check_backbone(model: Any) -> None:
    """Raise a ConfigurationError unless a backbone is a built Keras model with one input."""
    is_model = isinstance(model, import_keras().Model)
    if not is_model or len(getattr(model, "inputs", None) or ()) != 1:
        raise ConfigurationError(
            f"backbone must be a built Keras model with one image input. Received: {model!r}"
        )


def check_weights_option(weights: Any) -> None:
    """Raise a ConfigurationError unless weights are ``"imagenet"``, ``None`` or a path."""
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise ConfigurationError(
            "weights must be 'imagenet', None or the path of a file. "
            f"Received: weights={weights!r}. Pass a Keras model as backbone=."
        )
