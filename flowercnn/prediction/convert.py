"""A Keras network as one function without variables, and as LiteRT or ONNX made from that function.

With its weights as constants a network is simplified once instead of at every call: batch normalisation, rescaling
and activations melt into the convolutions before them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.prediction.features import with_features

__all__ = ["constant_function", "quiet", "to_litert", "to_onnx", "variable_function"]

_OPSET = 17


def constant_function(
    model: Any, *, batch: int | None, dtype: Literal["uint8", "float32"], layers: tuple[str, ...] = ()
) -> Any:
    """Return a compiled function from pixels to probabilities that holds the weights as they are now.

    Args:
        model: A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.
        batch: How many pictures it takes, or ``None`` for any number.
        dtype: Of the pixels.
        layers: Names of layers whose mean activations, side by side, are a second output.

    Returns:
        A TensorFlow ``ConcreteFunction``; several threads may call it.
    """
    import tensorflow as tf

    network = with_features(model, layers) if layers else model
    trainable = [variable.numpy() for variable in network.trainable_variables]
    others = [variable.numpy() for variable in network.non_trainable_variables]

    def predict(pixels: Any) -> Any:
        constants = [[tf.constant(value) for value in values] for values in (trainable, others)]
        outputs, _ = network.stateless_call(*constants, tf.cast(pixels, tf.float32), training=False)
        return _with_means(outputs) if layers else tf.cast(outputs, tf.float32)

    signature = tf.TensorSpec((batch, *model.input_shape[1:]), dtype, name="pixels")
    return tf.function(predict, input_signature=[signature], autograph=False).get_concrete_function()


def variable_function(model: Any, *, layers: tuple[str, ...] = ()) -> Any:
    """Return a compiled function as `constant_function` does that reads the weights at every call.

    TensorFlow makes some twenty copies of constants. For a large network that is gigabytes, and saves little time.
    """
    import tensorflow as tf

    network = with_features(model, layers) if layers else model

    def predict(pixels: Any) -> Any:
        outputs = network(pixels, training=False)
        return _with_means(outputs) if layers else tf.cast(outputs, tf.float32)

    signature = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="pixels")
    return tf.function(predict, input_signature=[signature], autograph=False)


def _with_means(outputs: Any) -> tuple[Any, Any]:
    """Return probabilities, and the means of the feature maps that come with them."""
    import tensorflow as tf

    means = [tf.reduce_mean(tf.cast(feature_map, tf.float32), axis=(1, 2)) for feature_map in outputs[1:]]
    return tf.cast(outputs[0], tf.float32), tf.concat(means, axis=1)


def to_litert(
    model: Any, representative: npt.NDArray[np.uint8] | None = None, *, layers: tuple[str, ...] = ()
) -> bytes:
    """Return the network as a LiteRT flatbuffer for one picture: float32 pixels in, float32 probabilities out.

    Args:
        model: As for `constant_function`.
        representative: Pictures, shape (n, height, width, 3), uint8. If given, weights and activations are int8, in
            ranges measured on these pictures (post-training quantisation, Jacob et al. 2018).
        layers: As for `constant_function`.

    Raises:
        ModelFileError: If LiteRT has no operation for a layer.
    """
    import tensorflow as tf

    function = constant_function(model, batch=1, dtype="float32", layers=layers)
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if representative is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ([row[None].astype(np.float32)] for row in representative)
        try:
            flatbuffer: bytes = converter.convert()
        except Exception as error:  # the converter fails with errors of its own, which no module exports
            reason = str(error).strip().partition("\n")[0]
            raise ModelFileError(f"The network has a layer that LiteRT cannot compute: {reason}") from error
    return flatbuffer


def to_onnx(model: Any) -> Any:
    """Return the network as an ``onnx.ModelProto`` from ``pixels`` (float32, any number) to ``probabilities``.

    Raises:
        MissingDependencyError: If tf2onnx is not installed.
        ModelFileError: If ONNX has no operation for a layer.
    """
    try:
        with quiet():
            import tf2onnx
    except ImportError as error:
        raise MissingDependencyError(
            "Writing ONNX needs the packages onnx and tf2onnx: pip install 'flowercnn[onnx]'."
        ) from error
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="pixels")]
    function = tf.function(constant_function(model, batch=None, dtype="float32"), input_signature=signature)
    with quiet():
        try:
            proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=_OPSET)
        except Exception as error:  # tf2onnx raises anything
            raise ModelFileError(f"The network has a layer that ONNX cannot compute: {error}") from error
    _rename_output(proto.graph, "probabilities")
    return proto


def _rename_output(graph: Any, name: str) -> None:
    old = graph.output[0].name
    graph.output[0].name = name
    for node in graph.node:
        node.output[:] = [name if output == old else output for output in node.output]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the converters' notices to themselves: they warn of their own future, not of the user's network."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
