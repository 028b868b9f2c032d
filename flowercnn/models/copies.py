"""Copies of a model: for training, with folded batch normalisation, or with feature maps.

Model files hold stock Keras layers only. On a CPU two of them are slow: ``BatchNormalization`` runs
as a dozen operations, and float32 convolutions take longer than bfloat16 ones on processors that
support those. A training copy has the same weights in the same order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, Literal

import numpy as np

from flowercnn.errors import ConfigurationError
from flowercnn.models.backend import import_keras
from flowercnn.models.checks import check_has_layers
from flowercnn.models.graph import (
    consumers_of,
    flatten_layers,
    is_called_once,
    layer_outputs,
    operation_of,
)

_FLOAT32_LAYERS: Final = ("Rescaling", "Normalization", "Softmax", "InputLayer")


def fold_normalization(model: Any) -> Any:
    """Return a copy of a model with batch normalisation folded into the convolutions before it.

    After training, normalisation is a scale and an offset per channel, which a convolution can
    apply itself (Jacob et al. 2018, section 3.2). Outputs differ by rounding only. Normalisation is
    kept unless it is the only consumer of a linear ``Conv2D``, ``DepthwiseConv2D``,
    ``SeparableConv2D`` or ``Dense``.

    Args:
        model: A functional or sequential Keras model; not changed.

    Example:
        >>> from flowercnn import build_model
        >>> model = build_model("fast", image_size=(32, 32), num_classes=2)
        >>> any("norm" in layer.name for layer in fold_normalization(model).layers)
        False
    """
    pairs = _foldable(model)
    convs = {id(conv) for conv, _ in pairs}
    folded = {norm.name for _, norm in pairs}
    merged = {conv.name: _merge(conv, norm) for conv, norm in pairs}

    def copy_layer(layer: Any) -> Any:
        biased = {"use_bias": True} if id(layer) in convs else {}
        return type(layer).from_config(layer.get_config() | biased)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        # Clones keep their names; a folded normalisation passes its input through.
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    view = _bare_view(model)
    clone_model = import_keras().models.clone_model
    copy = clone_model(view, clone_function=copy_layer, call_function=call)
    for layer in view.layers:
        if layer.name not in folded and layer.weights:
            set_weights(copy.get_layer(layer.name), merged.get(layer.name) or layer.get_weights())
    return copy


def _foldable(model: Any) -> list[tuple[Any, Any]]:
    """Pairs of a linear layer and the normalisation that is the only consumer of its output."""
    keras = import_keras()
    layers = keras.layers
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
    pairs = []
    for norm in model.layers:
        if type(norm) is not layers.BatchNormalization or not is_called_once(norm):
            continue
        conv = operation_of(norm.input)
        linear = type(conv) in kinds and conv.activation is keras.activations.linear
        per_channel = norm.axis in (-1, len(norm.input.shape) - 1)
        if linear and per_channel and set(map(id, consumers_of(conv))) == {id(norm)}:
            pairs.append((conv, norm))
    return pairs


def _merge(conv: Any, norm: Any) -> list[Any]:
    """Return the weights of a convolution that also normalises its output."""

    def precise(weight: Any) -> Any:
        return np.asarray(weight, dtype=np.float64)

    weights = [precise(weight) for weight in conv.get_weights()]
    bias = [weights.pop()] if conv.use_bias else []
    *depthwise, kernel = weights  # a separable convolution has two kernels
    scale = 1 / np.sqrt(precise(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * precise(norm.gamma)
    offset = (sum(bias) - precise(norm.moving_mean)) * scale
    if norm.center:
        offset = offset + precise(norm.beta)
    if type(conv).__name__ == "DepthwiseConv2D":
        scale = scale.reshape(kernel.shape[-2:])
    return [weight.astype(np.float32) for weight in (*depthwise, kernel * scale, offset)]


def set_weights(model: Any, weights: Sequence[Any]) -> None:
    """Set the weights of a model or layer, and update the constants derived from them.

    Keras's ``set_weights`` would leave mean 0 and variance 1 in an adapted ``Normalization``.
    """
    model.set_weights(weights)
    renew_constants(model)


def renew_constants(model: Any) -> None:
    """Recompute the constants of every ``Normalization`` in a model or layer from its weights."""
    for layer in flatten_layers(model):
        if isinstance(layer, import_keras().layers.Normalization):
            layer.finalize_state()


def copy_model(model: Any) -> Any:
    """Return a copy of a model, layers and weights, without optimizer, loss or training state."""
    return _clone(model, lambda layer: type(layer).from_config(layer.get_config()))


def model_fingerprint(model: Any) -> str:
    """Return a hash of a model's layers and weights; names, which Keras numbers, are left out."""
    text = str(model.to_json())
    precisions = re.findall(r'"DTypePolicy", "config": {"name": "([^"]*)"', text)
    names = dict.fromkeys(re.findall(r'"name": "([^"]*)"', text))
    for number, name in enumerate(name for name in names if name not in precisions):
        text = text.replace(f'"{name}"', f'"#{number}"')
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def _bare_view(model: Any) -> Any:
    """Uncompiled view of a model's layers: cloning a compiled model would compile the clone."""
    return import_keras().Model(model.inputs[0], model.outputs[0], name=model.name)


def _clone(model: Any, copy_layer: Callable[[Any], Any], *, any_size: bool = False) -> Any:
    keras = import_keras()
    pixels = keras.Input((None, None, 3), name="pixels") if any_size else None
    view = _bare_view(model)
    copy = keras.models.clone_model(view, input_tensors=pixels, clone_function=copy_layer)
    try:
        set_weights(copy, model.get_weights())
    except ValueError as error:
        # Keras copies each inner model separately: a layer in two models would be copied twice.
        shared = _shared_layer(model)
        if shared is None:
            raise
        raise ConfigurationError(
            f"{model.name} cannot be copied: the layer {shared!r} is shared between a model and "
            "one inside it. Give each its own layer, or share the inner model as a whole."
        ) from error
    return copy


def _shared_layer(model: Any) -> str | None:
    """Name of a layer that belongs to two models, among a model and its inner models."""
    owners: dict[int, int] = {}
    waiting = [model]
    while waiting:
        owner = waiting.pop()
        for layer in owner.layers:
            if owners.setdefault(id(layer), id(owner)) != id(owner):
                return str(layer.name)
            if hasattr(layer, "layers"):
                waiting.append(layer)
    return None


def make_training_copy(
    model: Any, *, precision: Literal["float32", "bfloat16"], any_size: bool = False
) -> Any:
    """Return a copy of a model with fused batch normalisation in the given precision.

    The first rescaling and the last layer stay float32, so pixels and probabilities stay exact.

    Args:
        model: A functional or sequential Keras model; not changed.
        precision: Of the activations between the first and last layer.
        any_size: Whether the copy takes images of any size.

    Raises:
        ConfigurationError: If ``any_size`` is set and the network needs a fixed image size.
    """
    keras = import_keras()
    last = model.layers[-1].name

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        exact = layer.name == last or type(layer).__name__ in _FLOAT32_LAYERS
        if precision == "bfloat16" and not exact and "dtype" in config:
            config["dtype"] = "mixed_bfloat16"
        if type(layer) is keras.layers.BatchNormalization:
            return _fused_batch_normalization().from_config(config)
        return type(layer).from_config(config)

    try:
        return _clone(model, copy, any_size=any_size)
    except ValueError as error:
        if isinstance(error, ConfigurationError) or not any_size:
            raise
        raise ConfigurationError(
            f"{model.name} takes images of one size only, so it cannot be trained with "
            f"progressive sizes: {error}"
        ) from error


def with_features(model: Any, layers: tuple[str, ...]) -> Any:
    """Return a Keras model whose outputs are the probabilities, then the outputs of ``layers``."""
    check_has_layers(model, layers)
    outputs = layer_outputs(model)
    features = [outputs[name] for name in layers]
    return import_keras().Model(model.inputs, [model.outputs[0], *features])


@cache
def _fused_batch_normalization() -> Any:
    """Layer class, made when first needed: its base comes with TensorFlow."""
    keras = import_keras()
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[name-defined, misc]  # Keras is untyped
        """Batch normalisation in one operation (``FusedBatchNormV3``) while training."""

        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: FBT001 - Keras's
            usual = self.center and self.scale and self.axis in (-1, 3) and len(inputs.shape) == 4  # noqa: PLR2004
            if not (training and self.trainable and usual and mask is None):
                return super().call(inputs, training=training, mask=mask)
            empty = tf.zeros([0], tf.float32)
            outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=tf.convert_to_tensor(self.gamma.value),
                offset=tf.convert_to_tensor(self.beta.value),
                mean=empty,
                variance=empty,
                epsilon=self.epsilon,
                exponential_avg_factor=1.0,
                data_format="NHWC",
                is_training=True,
            )
            # The operation returns the unbiased variance; Keras uses the biased one.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
            variance *= (count - 1) / count
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1 - self.momentum))
            return outputs

    return FusedBatchNormalization
