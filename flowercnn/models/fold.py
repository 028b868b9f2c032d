"""Batch normalisation folded into the convolution before it: the same outputs from fewer, stock layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowercnn.models.keras3 import import_keras, set_weights

__all__ = ["fold_normalization"]


def fold_normalization(model: Any) -> Any:
    """Return a copy of a functional or sequential model without the batch normalisation that follows a convolution.

    After training, normalisation is a scale and an offset per channel, which a convolution can do itself (Jacob et
    al. 2018, section 3.2). Outputs differ by rounding only. What does not follow a ``Conv2D``, ``DepthwiseConv2D``,
    ``SeparableConv2D`` or ``Dense`` alone is kept.

    Args:
        model: A Keras model; not changed.

    Example:
        >>> from flowercnn import build_model
        >>> model = build_model("fast", image_size=(32, 32), num_classes=2)
        >>> any("norm" in layer.name for layer in fold_normalization(model).layers)
        False
    """
    keras = import_keras()
    pairs = _foldable(model)
    norms = {id(norm): conv for conv, norm in pairs}
    convs = {id(conv) for conv, _ in pairs}

    def copy_layer(layer: Any) -> Any:
        config = layer.get_config()
        if id(layer) in convs:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        # Clones keep their names; the normalisation that was folded lets its input through.
        return args[0] if layer.name in folded_names else layer(*args, **kwargs)

    folded_names = {norm.name for _, norm in pairs}
    view = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    copy = keras.models.clone_model(view, clone_function=copy_layer, call_function=call)
    merged = {conv.name: _merge(conv, norm) for conv, norm in pairs}
    for layer in view.layers:
        if id(layer) not in norms and layer.weights:
            set_weights(copy.get_layer(layer.name), merged.get(layer.name) or layer.get_weights())
    return copy


def _foldable(model: Any) -> list[tuple[Any, Any]]:
    """The pairs of a convolution and the normalisation that alone uses its output."""
    layers = import_keras().layers
    pairs = []
    for norm in model.layers:
        if type(norm) is not layers.BatchNormalization or len(norm._inbound_nodes) != 1:  # noqa: SLF001 - no public way
            continue
        conv = norm.input._keras_history.operation  # noqa: SLF001
        users = [user for node in conv._outbound_nodes for user in [node.operation]]  # noqa: SLF001
        foldable = type(conv) in (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
        linear = foldable and conv.activation is import_keras().activations.linear
        if linear and set(map(id, users)) == {id(norm)} and norm.axis in (-1, len(norm.input.shape) - 1):
            pairs.append((conv, norm))
    return pairs


def _merge(conv: Any, norm: Any) -> list[Any]:
    """Return kernel and bias of a convolution that normalises what it computes."""
    weights = [np.asarray(weight, dtype=np.float64) for weight in conv.get_weights()]
    bias = [weights.pop()] if conv.use_bias else []
    *first, kernel = weights  # a separable convolution has a kernel before the one that makes its outputs
    mean, variance = (np.asarray(weight, dtype=np.float64) for weight in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, dtype=np.float64)
    offset = (sum(bias) - mean) * scale
    if norm.center:
        offset = offset + np.asarray(norm.beta, dtype=np.float64)
    per_output = scale.reshape(kernel.shape[-2:]) if type(conv).__name__ == "DepthwiseConv2D" else scale
    return [weight.astype(np.float32) for weight in (*first, kernel * per_output, offset)]
