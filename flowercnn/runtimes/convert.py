"""Conversion of a Keras network to one function without variables, and of that to LiteRT or ONNX.

With its weights as constants a network is simplified once, not at every call: batch normalisation,
rescaling and activations are folded into the convolutions before them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.models import with_features

__all__ = ["constant_function", "quiet", "to_litert", "to_onnx", "variable_function"]

_log = logging.getLogger(__name__)
_OPSET: Final = 17
_LONGEST_SHAPE: Final = 64
_MANY_WEIGHTS: Final = 10 * 10**6
# that tf2onnx takes, measured; copies of its own that nothing here can spare
_BYTES_PER_WEIGHT: Final = 350  # that tf2onnx takes for copies of its own, measured
_OVERFLOWING: Final = frozenset({"softplus", "log_sigmoid"})


def constant_function(
    model: Any,
    *,
    batch: int | None,
    dtype: Literal["uint8", "float32"],
    layers: tuple[str, ...] = (),
) -> Any:
    """Return a compiled function from pixels to probabilities with the current weights.

    Args:
        model: A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes)
            probabilities.
        batch: The number of images, or ``None`` for any.
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

    signature = [tf.TensorSpec((batch, *model.input_shape[1:]), dtype, name="pixels")]
    function = tf.function(predict, input_signature=signature, autograph=False)
    return function.get_concrete_function()


def variable_function(model: Any, *, layers: tuple[str, ...] = ()) -> Any:
    """Return a compiled function as `constant_function` does that reads the weights at every call.

    TensorFlow copies constants some twenty times: gigabytes, for little time, in a large network.
    """
    import tensorflow as tf

    network = with_features(model, layers) if layers else model

    def predict(pixels: Any) -> Any:
        outputs = network(pixels, training=False)
        return _with_means(outputs) if layers else tf.cast(outputs, tf.float32)

    signature = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="pixels")
    return tf.function(predict, input_signature=[signature], autograph=False)


def _with_means(outputs: Any) -> tuple[Any, Any]:
    """Return probabilities, and the means of the feature maps beside them."""
    import tensorflow as tf

    maps = [tf.cast(each, tf.float32) for each in outputs[1:]]
    means = [tf.reduce_mean(each, axis=(1, 2)) for each in maps]
    return tf.cast(outputs[0], tf.float32), tf.concat(means, axis=1)


def to_litert(
    model: Any, representative: npt.NDArray[np.uint8] | None = None, *, layers: tuple[str, ...] = ()
) -> bytes:
    """Return the network as LiteRT flatbuffer for one image, float32 pixels to probabilities.

    Args:
        model: As for `constant_function`.
        representative: Images, shape (n, height, width, 3), uint8. If given, weights and
            activations are int8, in ranges measured on these images (post-training quantisation,
            Jacob et al. 2018).
        layers: As for `constant_function`.

    Raises:
        ModelFileError: If LiteRT has no operation for a layer.
    """
    import tensorflow as tf

    _reject_overflow(model)
    function = constant_function(model, batch=1, dtype="float32", layers=layers)
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if representative is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: (
                [row[None].astype(np.float32)] for row in representative
            )
        try:
            flatbuffer: bytes = converter.convert()
        except Exception as error:  # its own errors, which no module exports
            raise _cannot_compute("LiteRT", _reason(error)) from error
    return flatbuffer


def _cannot_compute(target: str, reason: object) -> ModelFileError:
    return ModelFileError(f"The network has a layer that {target} cannot compute: {reason}")


def _reason(error: Exception) -> str:
    """Return the converter's message without the places of TensorFlow's own files."""
    return re.sub(r"(/[^\s:]+)+\.py:\d+(:\d+)?:\s*", " ", str(error).strip().partition("\n")[0])


def _reject_overflow(model: Any) -> None:
    """Reject softplus, which LiteRT computes as log(exp(x) + 1): infinite where x is above 88."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            _reject_overflow(layer)
        name = getattr(getattr(layer, "activation", None), "__name__", "")
        if name in _OVERFLOWING:
            raise _cannot_compute(
                "LiteRT",
                f"{layer.name} with the activation {name}, which it makes infinite where numbers "
                "are large. Use 'mish' or 'silu', or compute with Keras or ONNX.",
            )


def to_onnx(model: Any) -> Any:
    """Return the network as ``onnx.ModelProto``, from ``pixels`` (float32) to ``probabilities``.

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

    weights = model.count_params()
    if weights > _MANY_WEIGHTS:
        _log.warning(
            "Converting %.0f million weights to ONNX takes up to %.0f GB of memory.",
            *(weights / 10**6, weights * _BYTES_PER_WEIGHT / 10**9),
        )
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="pixels")]
    constant = constant_function(model, batch=None, dtype="float32")
    function = tf.function(constant, input_signature=signature)
    convert = tf2onnx.convert.from_function
    with quiet(logging.ERROR):  # of what is replaced or rejected below
        try:
            proto, _ = convert(function, input_signature=signature, opset=_OPSET)
        except Exception as error:  # tf2onnx raises anything
            raise _cannot_compute("ONNX", error) from error
    _rename_output(proto.graph, "probabilities")
    _replace_unknown(proto.graph)
    _reject_unknown(proto.graph)
    _fix_shapes(proto)
    _remove_unused(proto.graph)
    return proto


def _replace_unknown(graph: Any) -> None:
    """Replace operations that tf2onnx leaves as they are in TensorFlow."""
    import onnx

    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type not in ("Erfc", "Expm1"):
            graph.node.append(node)
            continue
        name, (result,) = f"{node.output[0]}__known", node.output
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), f"{name}_one"))
        inverted = node.op_type == "Erfc"
        known = "Erf" if inverted else "Exp"
        ends = (f"{name}_one", name) if inverted else (name, f"{name}_one")
        graph.node.append(onnx.helper.make_node(known, list(node.input), [name]))
        graph.node.append(onnx.helper.make_node("Sub", list(ends), [result]))


def _reject_unknown(graph: Any) -> None:
    import onnx

    for node in graph.node:
        if not onnx.defs.has(node.op_type):
            grouped = node.op_type.endswith("PartitionedCall")
            operation = "a convolution in groups" if grouped else node.op_type
            way_out = "Export to LiteRT or a SavedModel instead."
            raise _cannot_compute("ONNX", f"{operation}, at {node.name!r}. {way_out}")


def _fix_shapes(proto: Any) -> None:
    """Make shapes constant where only the number of images is unknown."""
    import onnx

    graph = proto.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "first_axis"))
    shapes = _shapes(proto)
    for node in graph.node:
        is_product = node.op_type == "ReduceProd" and len(node.input) == 1
        if is_product and shapes.get(node.input[0]) == [1]:
            # Of one number. ONNX passes known shapes on through this, but not through a product.
            node.op_type = "Squeeze"
            node.input.append("first_axis")
            del node.attribute[:]
    shapes = _shapes(proto)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        sizes = shapes.get(node.output[0], [])
        if node.op_type == "Reshape" and node.input[1] not in constants and sizes.count(-1) == 1:
            node.input[1] = f"{node.output[0]}__shape"
            shape = np.array(sizes, np.int64)
            graph.initializer.append(onnx.numpy_helper.from_array(shape, node.input[1]))


def _shapes(proto: Any) -> dict[str, list[int]]:
    """Return the shapes that a graph computes, as far as they are known, with -1 for open sizes."""
    import onnx

    bare = type(proto)()
    bare.CopyFrom(proto)
    for tensor in bare.graph.initializer:
        if math.prod(tensor.dims) > _LONGEST_SHAPE:  # no shape
            tensor.ClearField("raw_data")
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    return {
        name: [dim.dim_value or -1 for dim in each.shape.dim]
        for name, each in types.items()
        if each.HasField("shape")
    }


def _remove_unused(graph: Any) -> None:
    """Remove unused parts: replaced nodes, and inputs that tf2onnx adds for captured tensors."""
    used = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
    for parts in (graph.node, graph.initializer, graph.input):
        for index in reversed(range(len(parts))):
            names = parts[index].output if parts is graph.node else (parts[index].name,)
            if not used.intersection(names):
                del parts[index]


def _rename_output(graph: Any, name: str) -> None:
    old = graph.output[0].name
    graph.output[0].name = name
    for node in graph.node:
        node.output[:] = [name if output == old else output for output in node.output]


@contextlib.contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Silence the converters: they warn of their own future, not of the user's network."""
    disabled = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
