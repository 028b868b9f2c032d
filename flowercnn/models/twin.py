"""A copy of a model that computes the same, faster: for training and for prediction in this process.

Model files hold stock Keras layers only. On a CPU two of those are slow: ``BatchNormalization`` runs as a dozen
separate operations, and float32 convolutions take longer than bfloat16 ones where the processor has those.
The twin has the same weights in the same order, so they can be copied either way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from flowercnn.errors import ConfigurationError
from flowercnn.models.keras3 import import_keras

__all__ = ["Precision", "choose_precision", "copy_model", "make_twin"]

Precision = Literal["auto", "float32", "bfloat16"]
"""How activations are held in training; weights and sums of gradients are float32 always."""

_FLOAT32_LAYERS = ("Rescaling", "Normalization", "Softmax", "InputLayer")


def choose_precision(precision: Precision) -> Literal["float32", "bfloat16"]:
    """Return the precision to train in: for ``"auto"`` bfloat16 where the processor multiplies it in hardware.

    The choice depends on the machine alone, not on a timing, so that runs can be repeated.

    Raises:
        ConfigurationError: If it is none of the three.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigurationError(
            f"precision must be 'auto', 'float32' or 'bfloat16'. Received: precision={precision!r}"
        )
    if precision != "auto":
        return precision
    return "bfloat16" if _processor_has_bfloat16() else "float32"


@cache
def _processor_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def copy_model(model: Any) -> Any:
    """Return a model with the same layers and weights, without optimizer, loss or other traces of training."""
    return _clone(model, lambda layer: type(layer).from_config(layer.get_config()))


def _clone(model: Any, copy_layer: Callable[[Any], Any]) -> Any:
    keras = import_keras()
    # Cloning a compiled model would compile the copy; a bare view of its layers is not compiled.
    view = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    copy = keras.models.clone_model(view, clone_function=copy_layer)
    copy.set_weights(model.get_weights())
    return copy


def make_twin(model: Any, *, precision: Literal["float32", "bfloat16"]) -> Any:
    """Return a copy of ``model`` with fused batch normalisation, in the given precision, with the same weights.

    The first rescaling and the last layer stay float32: pixels and probabilities lose nothing.

    Args:
        model: A functional or sequential Keras model; not changed.
        precision: Of the activations between the first and last layer.
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

    return _clone(model, copy)


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
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
            return outputs

    return FusedBatchNormalization
