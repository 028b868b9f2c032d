"""Copies of a model: for training, with batch normalisation folded into convolutions, or with feature maps.

Model files hold stock Keras layers only. On a CPU two of those are slow: ``BatchNormalization`` runs as a dozen
separate operations, and float32 convolutions take longer than bfloat16 ones where the processor has those.
The training copy has the same weights in the same order, so they can be copied either way.
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
from flowercnn.models.graph import consumers_of, flatten_layers, is_called_once, layer_outputs, operation_of

__all__ = [
    "copy_model",
    "fold_normalization",
    "make_training_copy",
    "model_fingerprint",
    "renew_constants",
    "set_weights",
    "with_features",
]

_FLOAT32_LAYERS: Final = ("Rescaling", "Normalization", "Softmax", "InputLayer")


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
        if type(norm) is not layers.BatchNormalization or not is_called_once(norm):
            continue
        conv = operation_of(norm.input)
        foldable = type(conv) in (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
        linear = foldable and conv.activation is import_keras().activations.linear
        if linear and set(map(id, consumers_of(conv))) == {id(norm)} and norm.axis in (-1, len(norm.input.shape) - 1):
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


def set_weights(model: Any, weights: Sequence[Any]) -> None:
    """Give a model or a layer weights, and let what it has made of the old ones follow.

    ``set_weights`` of Keras does the first alone: a ``Normalization`` that was adapted would keep mean 0 and
    variance 1.
    """
    model.set_weights(weights)
    renew_constants(model)


def renew_constants(model: Any) -> None:
    """Let every ``Normalization`` of a model, or the layer itself, compute with the weights it has now."""
    for layer in flatten_layers(model):
        if isinstance(layer, import_keras().layers.Normalization):
            layer.finalize_state()


def copy_model(model: Any) -> Any:
    """Return a model with the same layers and weights, without optimizer, loss or other traces of training."""
    return _clone(model, lambda layer: type(layer).from_config(layer.get_config()))


def model_fingerprint(model: Any) -> str:
    """Return a name for the layers and weights of a model; names, which Keras numbers as they come, do not matter."""
    text = str(model.to_json())
    precisions = re.findall(r'"DTypePolicy", "config": {"name": "([^"]*)"', text)
    names = dict.fromkeys(re.findall(r'"name": "([^"]*)"', text))
    for number, name in enumerate(name for name in names if name not in precisions):
        text = text.replace(f'"{name}"', f'"#{number}"')
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def _clone(model: Any, copy_layer: Callable[[Any], Any], *, any_size: bool = False) -> Any:
    keras = import_keras()
    # Cloning a compiled model would compile the copy; a bare view of its layers is not compiled.
    view = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    pixels = keras.Input((None, None, 3), name="pixels") if any_size else None
    copy = keras.models.clone_model(view, input_tensors=pixels, clone_function=copy_layer)
    try:
        set_weights(copy, model.get_weights())
    except ValueError as error:
        # Keras copies each inner model on its own, so a layer that belongs to two of them is there twice.
        shared = _shared_layer(model)
        if shared is None:
            raise
        raise ConfigurationError(
            f"{model.name} cannot be copied: the layer {shared!r} is shared between two models, one within the "
            "other. Give each a layer of its own, or share the inner model as a whole."
        ) from error
    return copy


def _shared_layer(model: Any) -> str | None:
    """The name of a layer that belongs to two models, of a model and those within it."""
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


def make_training_copy(model: Any, *, precision: Literal["float32", "bfloat16"], any_size: bool = False) -> Any:
    """Return a copy of ``model`` with fused batch normalisation, in the given precision, with the same weights.

    The first rescaling and the last layer stay float32: pixels and probabilities lose nothing.

    Args:
        model: A functional or sequential Keras model; not changed.
        precision: Of the activations between the first and last layer.
        any_size: Whether the copy takes images of any size.

    Raises:
        ConfigurationError: If the network cannot take images of any size and ``any_size`` is set.
    """
    keras = import_keras()
    last = model.layers[-1].name

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        low = precision == "bfloat16" and layer.name != last and type(layer).__name__ not in _FLOAT32_LAYERS
        if low and "dtype" in config:
            config["dtype"] = "mixed_bfloat16"
        if type(layer) is keras.layers.BatchNormalization:
            return _fused_batch_normalization().from_config(config)
        return type(layer).from_config(config)

    try:
        return _clone(model, copy, any_size=any_size)
    except ConfigurationError:
        raise
    except ValueError as error:
        if not any_size:
            raise
        raise ConfigurationError(
            f"{model.name} takes pictures of one size only, so it cannot be trained with progressive sizes: {error}"
        ) from error


def with_features(model: Any, layers: tuple[str, ...]) -> Any:
    """Return a Keras model with the probabilities and, after them, the outputs of some layers."""
    check_has_layers(model, layers)
    outputs = layer_outputs(model)
    return import_keras().Model(model.inputs, [model.outputs[0], *(outputs[name] for name in layers)])


@cache
def _fused_batch_normalization() -> Any:
    """The class is made when first needed: its base comes with TensorFlow."""
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
            # The operation returns the unbiased variance; Keras keeps the mean of squares.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
            variance *= (count - 1) / count
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
            return outputs

    return FusedBatchNormalization
