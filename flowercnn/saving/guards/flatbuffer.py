"""Checks of LiteRT flatbuffers: the network is parsed, checked, and written again.

The interpreter is C++ that trusts its input, so it never reads bytes from outside: only what is
written here from values that were checked one by one, and whose shapes LiteRT's own kernels have
inferred again. Parsing is plain Python, which a malformed buffer cannot crash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.saving.guards.operators import OPERATIONS, Tensor, check_operator

__all__ = ["metadata_of", "rebuild_flatbuffer", "with_metadata"]

_ITEM_SIZES: Final = {"FLOAT32": 4, "INT32": 4, "INT8": 1, "BOOL": 1}
_OPTIONS: Final = frozenset(
    """
    NONE AbsOptions DequantizeOptions ExpOptions GreaterOptions HardSwishOptions
    MaximumMinimumOptions NegOptions PadOptions PadV2Options PowOptions QuantizeOptions
    ReshapeOptions SelectOptions SelectV2Options SquaredDifferenceOptions SquareOptions TileOptions
    TransposeOptions
    """.split()  # noqa: SIM905 - as a list it takes a line a name
).union(options for _, options in OPERATIONS.values())
_LARGEST_TENSOR: Final = 2**28
_LARGEST_SUM: Final = 2**30
_MOST_PARTS: Final = 100_000
_MOST_DIMENSIONS: Final = 5
_LONGEST_NAME: Final = 200
_MOST_PRODUCTS: Final = 2**37  # of an image
_SCALES: Final = (2.0**-60, 2.0**60)


def rebuild_flatbuffer(
    content: bytes,
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    features: bool = False,
) -> bytes:
    """Return a well-formed flatbuffer that computes the same as the one in ``content``.

    Args:
        content: A LiteRT model with one input.
        name: Of the file, for messages.
        input_shape: What its input must be, (1, height, width, 3).
        num_classes: What its output must have in each row.
        features: Whether it must have a second output, with a row of features.

    Raises:
        MissingDependencyError: If ai-edge-litert is not installed.
        ModelFileError: If it is malformed, or holds anything no image classifier needs.
    """
    schema = _schema()
    try:
        model = _unpacked(schema, content)
        graph = _check_model(schema, model)
        _check_ends(schema, graph, input_shape, num_classes, features=features)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: rejected: {error}") from error
    except Exception as error:
        # A malformed buffer leads anywhere: offsets out of range, wrong types, missing tables.
        raise ModelFileError(
            f"{name}: the LiteRT network is damaged ({type(error).__name__}: {error})."
        ) from error
    _rename(graph)
    packed = _packed(model)
    try:
        _check_inferred_shapes(packed, graph)
    except (RuntimeError, ValueError, ModelFileError) as error:
        reason = f"the LiteRT network does not fit together: {error}"
        raise ModelFileError(f"{name}: rejected: {reason}") from error
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
        raise ModelFileError(
            f"{name}: not a LiteRT model, or damaged ({type(error).__name__}: {error})."
        ) from error
    return None


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            "LiteRT needs the package ai-edge-litert: pip install 'flowercnn[litert]'."
        ) from error
    return schema_py_generated


def _names(values: Any) -> dict[int, str]:
    """Return the names of an enumeration of the schema by their numbers."""
    return {number: name for name, number in vars(values).items() if not name.startswith("_")}


def _packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _unpacked(schema: Any, content: bytes) -> Any:
    """Return what computes, without metadata and names of signatures.

    A few bytes may stand for a thousand tables, as tables may share theirs: lengths are added up
    before anything is unpacked.
    """
    packed = schema.Model.GetRootAs(content)
    if packed.SubgraphsLength() != 1:
        raise ModelFileError("a network must be one graph.")
    graph = packed.Subgraphs(0)
    tensors, operators = range(graph.TensorsLength()), range(graph.OperatorsLength())
    buffers, codes = range(packed.BuffersLength()), range(packed.OperatorCodesLength())
    if max(map(len, (buffers, codes, tensors, operators))) > _MOST_PARTS:
        raise ModelFileError(f"a graph of over {_MOST_PARTS:,} parts.")
    options = _names(schema.BuiltinOptions)
    length = (
        sum(packed.Buffers(i).DataLength() for i in buffers)
        + sum(len(packed.OperatorCodes(i).CustomCode() or b"") for i in codes)
        + sum(_length_of_tensor(graph.Tensors(i)) for i in tensors)
        + sum(_length_of_operator(schema, options, graph.Operators(i)) for i in operators)
        + sum((graph.InputsLength(), graph.OutputsLength(), len(graph.Name() or b"")))
    )
    if length > len(content):
        raise ModelFileError("a graph whose parts overlap.")
    model = schema.ModelT()
    model.version = 3
    model.subgraphs = [schema.SubGraphT.InitFromObj(graph)]
    model.buffers = [schema.BufferT.InitFromObj(packed.Buffers(i)) for i in buffers]
    model.operatorCodes = [schema.OperatorCodeT.InitFromObj(packed.OperatorCodes(i)) for i in codes]
    return model


def _length_of_tensor(tensor: Any) -> int:
    if tensor.Sparsity() is not None or not tensor.VariantTensorsIsNone():
        raise ModelFileError("a tensor of an unknown kind.")
    length = tensor.ShapeLength() + tensor.ShapeSignatureLength() + len(tensor.Name() or b"")
    quantization = tensor.Quantization()
    if quantization is None:
        return int(length)
    if quantization.DetailsType():
        raise ModelFileError("an unknown kind of quantisation.")
    scales = quantization.ScaleLength() + quantization.ZeroPointLength()
    return int(length + scales + quantization.MinLength() + quantization.MaxLength())


def _length_of_operator(schema: Any, names: Mapping[int, str], operator: Any) -> int:
    name = names.get(operator.BuiltinOptionsType(), "unknown options")
    if name not in _OPTIONS or operator.BuiltinOptions2Type():
        raise ModelFileError(f"an operation with {name}, which is not one this library reads.")
    if not (operator.IntermediatesIsNone() and operator.MutatingVariableInputsIsNone()):
        raise ModelFileError("an operation of an unknown kind.")
    length = operator.InputsLength() + operator.OutputsLength() + operator.CustomOptionsLength()
    field = {"ReshapeOptions": "NewShapeLength", "SqueezeOptions": "SqueezeDimsLength"}.get(name)
    if field is not None:
        options, table = getattr(schema, name)(), operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        length += getattr(options, field)()
    return int(length)


def _check_model(schema: Any, model: Any) -> Any:
    """Return the one graph; reject what makes the interpreter read or write out of bounds."""
    graph = model.subgraphs[0]
    if any(buffer.offset or buffer.size for buffer in model.buffers):
        raise ModelFileError("weights that are outside the graph.")
    types = _names(schema.TensorType)
    total = sum(_check_tensor(tensor, types, model.buffers) for tensor in graph.tensors)
    if total > _LARGEST_SUM:
        raise ModelFileError(f"an image would need {total:,} bytes, over {_LARGEST_SUM:,}.")
    tensors = [_tensor(tensor, types, model.buffers) for tensor in graph.tensors]
    names = _names(schema.BuiltinOperator)
    constants = frozenset(i for i, tensor in enumerate(tensors) if tensor.constant is not None)
    defined = {*constants, *(int(index) for index in graph.inputs)}
    products = 0
    for operator in graph.operators:
        if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
            raise ModelFileError("an operation that does not exist.")
        code = model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = names.get(number, str(number))
        if code.customCode is not None or name not in OPERATIONS:
            where = _at(graph, operator)
            raise ModelFileError(f"the operation {name} is not one this library reads{where}.")
        inputs, output = _check_flow(operator, len(tensors), defined, constants)
        operands = [None if index < 0 else tensors[index] for index in inputs]
        products += check_operator(name, operands, tensors[output], operator.builtinOptions)
        defined.add(output)
    if products > _MOST_PRODUCTS:
        raise ModelFileError(f"an image would take {products:,} steps, over {_MOST_PRODUCTS:,}.")
    return graph


def _at(graph: Any, operator: Any) -> str:
    """Return where an operation is: the name of its output in the file."""
    index = operator.outputs[0] if operator.outputs is not None and len(operator.outputs) else -1
    name = graph.tensors[index].name if 0 <= index < len(graph.tensors) else None
    return f" (at {name[:_LONGEST_NAME].decode(errors='replace')!r})" if name else ""


def _integers(values: Any) -> list[int]:
    """Return a vector of integers of a flatbuffer, which is ``None`` where it is empty."""
    return [] if values is None else [int(value) for value in values]


def _tensor(tensor: Any, types: dict[int, str], buffers: list[Any]) -> Tensor:
    buffer, quantization = buffers[tensor.buffer], tensor.quantization
    scales = getattr(quantization, "scale", None)
    return Tensor(
        kind=types[tensor.type],
        shape=tuple(_integers(tensor.shape)),
        constant=np.asarray(buffer.data, np.uint8) if _has_data(buffer) else None,
        scales=() if scales is None else tuple(float(scale) for scale in scales),
        zeros=tuple(_integers(getattr(quantization, "zeroPoint", None))),
        axis=0 if quantization is None else int(quantization.quantizedDimension),
    )


def _check_tensor(tensor: Any, types: dict[int, str], buffers: list[Any]) -> int:
    """Return the bytes of a tensor."""
    shape = _integers(tensor.shape)
    kind = types.get(tensor.type)
    is_special = tensor.isVariable or tensor.sparsity is not None or tensor.variantTensors
    if kind not in _ITEM_SIZES or is_special:
        raise ModelFileError(f"a tensor of kind {kind}.")
    if tensor.externalBuffer or not 0 <= tensor.buffer < len(buffers):
        raise ModelFileError("a tensor that is outside the graph.")
    if len(shape) > _MOST_DIMENSIONS or any(size < 1 for size in shape):
        raise ModelFileError(f"a tensor of shape {shape}.")
    size = math.prod(shape) * _ITEM_SIZES[kind]
    if size > _LARGEST_TENSOR:
        raise ModelFileError(f"a tensor of {size:,} bytes, over {_LARGEST_TENSOR:,}.")
    buffer = buffers[tensor.buffer]
    if _has_data(buffer):
        length = len(buffer.data)
        if length != size:
            raise ModelFileError(f"a tensor of {size:,} bytes with {length:,} bytes of data.")
        data = np.asarray(buffer.data, np.uint8)
        if kind == "FLOAT32" and not np.isfinite(data.view(np.float32)).all():
            raise ModelFileError("weights that are NaN or infinite.")
    tensor.shapeSignature = None
    _check_quantization(tensor.quantization, shape)
    return size


def _has_data(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0


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
    low, high = _SCALES
    if scales and not all(low <= scale <= high for scale in quantization.scale):
        raise ModelFileError("scales that make no sense.")
    if zeros and np.abs(quantization.zeroPoint).max() > 255:  # noqa: PLR2004 - a byte
        raise ModelFileError("a zero point beyond a byte.")


def _check_flow(
    operator: Any, tensors: int, defined: set[int], constants: frozenset[int]
) -> tuple[list[int], int]:
    """Return an operation's inputs, computed before it, and its output, computed by it alone."""
    inputs, outputs = _integers(operator.inputs), _integers(operator.outputs)
    if len(outputs) != 1 or operator.customOptions is not None or operator.largeCustomOptionsSize:
        raise ModelFileError("an operation without an output, or with data of its own.")
    if any(index != -1 and index not in defined for index in inputs):
        raise ModelFileError("an operation on a tensor that is not computed before it.")
    if not 0 <= outputs[0] < tensors or outputs[0] in defined or outputs[0] in constants:
        raise ModelFileError("an operation that overwrites a tensor.")
    return inputs, outputs[0]


def _check_ends(
    schema: Any, graph: Any, input_shape: tuple[int, ...], num_classes: int, *, features: bool
) -> None:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 + features:
        raise ModelFileError(f"a network must have one input and {1 + features} outputs.")
    if not all(0 <= int(index) < len(graph.tensors) for index in (*graph.inputs, *graph.outputs)):
        raise ModelFileError("an input or output that does not exist.")
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    shapes = [input_shape, (1, num_classes), *([(1, ends[-1].shape[-1])] if features else [])]
    for tensor, wanted in zip(ends, shapes, strict=True):
        shape = _integers(tensor.shape)
        if tensor.type != schema.TensorType.FLOAT32 or shape != list(wanted):
            raise ModelFileError(
                f"an input or output of shape {shape} instead of {list(wanted)}, float32."
            )
    computed = {int(operator.outputs[0]) for operator in graph.operators}
    if not {int(index) for index in graph.outputs} <= computed:
        raise ModelFileError("an output that is not computed.")


def _rename(graph: Any) -> None:
    """Drop names: the interpreter gives no details of a tensor whose name is not UTF-8."""
    graph.name = None
    for tensor in graph.tensors:
        tensor.name = b"tensor"


def _check_inferred_shapes(content: bytes, graph: Any) -> None:
    """Reject a network whose tensors are not as large as its operations make them.

    LiteRT's own kernels infer shapes from their inputs; XNNPACK, which computes later, trusts the
    file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=kernels
    )
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()[: len(graph.tensors)]
    if [detail["index"] for detail in details] != list(range(len(graph.tensors))):
        raise ModelFileError("a tensor without details from the interpreter.")
    for detail, tensor in zip(details, graph.tensors, strict=True):
        shape, claimed = detail["shape"].tolist(), _integers(tensor.shape)
        if shape != claimed:
            raise ModelFileError(f"a tensor of shape {shape} that claims to be {claimed}.")
