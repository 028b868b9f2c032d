"""LiteRT flatbuffers: what is read from a stranger's file is taken apart, checked, and put together anew.

The interpreter is C++ that trusts its input, so it never sees bytes from outside: only what is written here from
values that were checked one by one, and whose shapes LiteRT's own kernels have worked out again. Parsing is plain
Python, which a malformed buffer cannot crash.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from flowercnn.errors import MissingDependencyError, ModelFileError

__all__ = ["metadata_of", "rebuilt", "with_metadata"]

_OPERATIONS: Final = frozenset(
    [
        *("ABS", "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CONCATENATION", "CONV_2D"),
        "DEPTHWISE_CONV_2D",
        *("DEQUANTIZE", "DIV", "ELU", "EXP", "FULLY_CONNECTED", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC"),
        *("MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "NEG", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE"),
        *("REDUCE_MAX", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT"),
        *("SOFTMAX", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE", "SUB", "SUM", "TANH", "TRANSPOSE"),
    ]
)
_OPTIONS: Final = {
    "CONV_2D": "Conv2DOptionsT",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptionsT",
    "AVERAGE_POOL_2D": "Pool2DOptionsT",
    "MAX_POOL_2D": "Pool2DOptionsT",
}
"""Operations that divide by what is in their options: without these it would be zero."""

_POSITIVE: Final = (
    *("strideW", "strideH", "filterWidth", "filterHeight", "dilationWFactor", "dilationHFactor", "depthMultiplier"),
)
_ITEM_SIZES: Final = {"FLOAT32": 4, "INT32": 4, "INT64": 8, "INT8": 1, "UINT8": 1, "BOOL": 1}
_LARGEST_TENSOR: Final = 2**28
_LARGEST_SUM: Final = 2**30
_MOST_PARTS: Final = 100_000
_MOST_DIMENSIONS: Final = 6
_LARGEST_SIZE: Final = 2**16


def rebuilt(
    content: bytes, name: str, input_shape: tuple[int, ...], num_classes: int, *, features: bool = False
) -> bytes:
    """Return a flatbuffer that computes the same as the one in ``content`` and is known to be well-formed.

    Args:
        content: A LiteRT model with one input.
        name: Of the file, for messages.
        input_shape: What its input must be, (1, height, width, 3).
        num_classes: What its output must have in each row.
        features: Whether it must have a second output, with a row of features.

    Raises:
        MissingDependencyError: If ai-edge-litert is not installed.
        ModelFileError: If it is malformed, or holds anything no picture classifier needs.
    """
    schema = _schema()
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        graph = _check_model(schema, model)
        _check_ends(schema, graph, input_shape, num_classes, features=features)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: refused: {error}") from error
    except Exception as error:
        # A malformed buffer leads anywhere: offsets out of range, wrong types, missing tables.
        raise ModelFileError(f"{name}: the LiteRT network is damaged ({type(error).__name__}: {error}).") from error
    model.metadata, model.metadataBuffer, model.signatureDefs = None, None, None
    packed = _packed(model)
    try:
        _check_shapes(packed, graph)
    except (RuntimeError, ValueError, ModelFileError) as error:
        raise ModelFileError(f"{name}: refused: the LiteRT network does not fit together: {error}") from error
    return packed


def with_metadata(content: bytes, key: str, value: bytes) -> bytes:
    """Return a LiteRT model with one more entry in its metadata."""
    schema = _schema()
    model = schema.ModelT.InitFromPackedBuf(content)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(value, np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = key, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return _packed(model)


def metadata_of(content: bytes, key: str, name: str) -> bytes | None:
    """Return an entry of a LiteRT model's metadata, or ``None``.

    Raises:
        ModelFileError: If the file is malformed.
    """
    schema = _schema()
    try:
        model = schema.Model.GetRootAs(content)
        for index in range(min(model.MetadataLength(), _MOST_PARTS)):
            entry = model.Metadata(index)
            if entry.Name() == key.encode():
                data = model.Buffers(entry.Buffer()).DataAsNumpy()
                return None if isinstance(data, int) else bytes(data)
    except Exception as error:
        raise ModelFileError(f"{name}: not a LiteRT model, or damaged ({type(error).__name__}: {error}).") from error
    return None


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            "LiteRT needs the package ai-edge-litert: pip install 'flowercnn[litert]'."
        ) from error
    return schema_py_generated


def _packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _check_model(schema: Any, model: Any) -> Any:
    """Refuse whatever could make the interpreter read or write where it should not; return the one graph."""
    if len(model.subgraphs) != 1:
        raise ModelFileError("a network must be one graph.")
    graph = model.subgraphs[0]
    if max(len(model.buffers), len(graph.tensors), len(graph.operators)) > _MOST_PARTS:
        raise ModelFileError(f"a graph of over {_MOST_PARTS:,} parts.")
    if any(buffer.offset or buffer.size for buffer in model.buffers) or getattr(model, "externalBuffers", None):
        raise ModelFileError("weights that lie outside the graph.")
    total = 0
    for tensor in graph.tensors:
        total += _check_tensor(schema, tensor, model.buffers)
    if total > _LARGEST_SUM:
        raise ModelFileError(f"a picture would need {total:,} bytes, over {_LARGEST_SUM:,}.")
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    defined = {index for index, tensor in enumerate(graph.tensors) if _has_data(model.buffers[tensor.buffer])}
    constants = frozenset(defined)
    defined.update(int(index) for index in graph.inputs)
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if operator.opcodeIndex < 0 or code.customCode is not None or names.get(number) not in _OPERATIONS:
            raise ModelFileError(f"the operation {names.get(number, number)} is not one classifiers are made of.")
        _check_operator(operator, str(names[number]), len(graph.tensors), defined, constants)
        defined.update(int(index) for index in operator.outputs)
    return graph


def _check_tensor(schema: Any, tensor: Any, buffers: list[Any]) -> int:
    """Return the bytes of a tensor."""
    types = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    kind = types.get(tensor.type)
    if kind not in _ITEM_SIZES or tensor.isVariable or tensor.sparsity is not None or tensor.variantTensors:
        raise ModelFileError(f"a tensor of kind {kind}.")
    if tensor.externalBuffer or not 0 <= tensor.buffer < len(buffers):
        raise ModelFileError("a tensor that lies outside the graph.")
    if len(shape) > _MOST_DIMENSIONS or any(size < 1 for size in shape):
        raise ModelFileError(f"a tensor of shape {shape}.")
    size = math.prod(shape) * _ITEM_SIZES[kind]
    if size > _LARGEST_TENSOR:
        raise ModelFileError(f"a tensor of {size:,} bytes, over {_LARGEST_TENSOR:,}.")
    buffer = buffers[tensor.buffer]
    if _has_data(buffer):
        if len(buffer.data) != size:
            raise ModelFileError(f"a tensor of {size:,} bytes with {len(buffer.data):,} bytes of data.")
        if kind == "FLOAT32" and not np.isfinite(np.asarray(buffer.data, np.uint8).view(np.float32)).all():
            raise ModelFileError("weights that are NaN or infinite.")
    tensor.shapeSignature = None
    _check_quantization(tensor.quantization, shape)
    return size


def _check_quantization(quantization: Any, shape: list[int]) -> None:
    if quantization is None:
        return
    scales = 0 if quantization.scale is None else len(quantization.scale)
    zeros = 0 if quantization.zeroPoint is None else len(quantization.zeroPoint)
    axis = quantization.quantizedDimension
    per_channel = scales > 1
    if quantization.details is not None or scales != zeros or not (0 <= axis < max(1, len(shape))):
        raise ModelFileError("an unknown kind of quantisation.")
    if per_channel and scales != shape[axis]:
        raise ModelFileError(f"{scales} scales for {shape[axis]} channels.")
    if scales and not (np.isfinite(quantization.scale).all() and (np.abs(quantization.zeroPoint) <= 255).all()):  # noqa: PLR2004 - a byte
        raise ModelFileError("scales that are not finite.")


def _check_operator(
    operator: Any, operation: str, tensors: int, defined: set[int], constants: frozenset[int]
) -> None:
    inputs = [] if operator.inputs is None else [int(index) for index in operator.inputs]
    outputs = [] if operator.outputs is None else [int(index) for index in operator.outputs]
    if not inputs or not outputs or operator.customOptions is not None or operator.largeCustomOptionsSize:
        raise ModelFileError("an operation without inputs or outputs, or with data of its own.")
    if operator.builtinOptions2 is not None or operator.intermediates is not None:
        raise ModelFileError("an operation of an unknown kind.")
    for index in inputs:
        if index != -1 and index not in defined:
            raise ModelFileError("an operation on a tensor that is not computed before it.")
    for index in outputs:
        if not 0 <= index < tensors or index in defined or index in constants:
            raise ModelFileError("an operation that overwrites a tensor.")
    options = operator.builtinOptions
    if type(options).__name__ != _OPTIONS.get(operation, type(options).__name__):
        raise ModelFileError(f"{operation} without its options.")
    for field in _POSITIVE:
        value = getattr(options, field, 1)
        if not 1 <= value <= _LARGEST_SIZE:
            raise ModelFileError(f"{field}={value} in an operation.")


def _check_ends(schema: Any, graph: Any, input_shape: tuple[int, ...], num_classes: int, *, features: bool) -> None:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 + features:
        raise ModelFileError(f"a network must have one input and {1 + features} outputs.")
    if not all(0 <= int(index) < len(graph.tensors) for index in (*graph.inputs, *graph.outputs)):
        raise ModelFileError("an input or output that does not exist.")
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    shapes = [input_shape, (1, num_classes), *([(1, ends[-1].shape[-1])] if features else [])]
    for tensor, shape in zip(ends, shapes, strict=True):
        if tensor.type != schema.TensorType.FLOAT32 or tuple(map(int, tensor.shape)) != tuple(map(int, shape)):
            raise ModelFileError(
                f"an input or output of shape {list(tensor.shape)} instead of {list(shape)}, float32."
            )


def _check_shapes(content: bytes, graph: Any) -> None:
    """Refuse a network whose tensors are not as large as its operations make them.

    LiteRT's own kernels work that out from their inputs. XNNPACK, which computes later, believes what the file says.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    for detail in interpreter.get_tensor_details()[: len(graph.tensors)]:
        tensor = graph.tensors[detail["index"]]
        claimed = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        if detail["shape"].tolist() != claimed:
            raise ModelFileError(f"a tensor of shape {detail['shape'].tolist()} that claims to be {claimed}.")


def _has_data(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0
