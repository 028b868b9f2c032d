"""Checks of LiteRT flatbuffers: what is read from a stranger's file is taken apart, checked, and rebuilt.

The interpreter is C++ that trusts its input, so it never sees bytes from outside: only what is written here from
values that were checked one by one, and whose shapes LiteRT's own kernels have worked out again. Parsing is plain
Python, which a malformed buffer cannot crash.
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
_OPTIONS: Final = tuple(sorted({options for _, options in OPERATIONS.values() if options.strip("*")}))
_UNUSED_OPTIONS: Final = (
    *("AbsOptions", "DequantizeOptions", "ExpOptions", "GreaterOptions", "HardSwishOptions"),
    *("MaximumMinimumOptions", "NegOptions", "PadOptions", "PadV2Options", "PowOptions", "QuantizeOptions"),
    *("ReshapeOptions", "SelectOptions", "SelectV2Options", "SquaredDifferenceOptions", "SquareOptions"),
    *("TileOptions", "TransposeOptions"),
)
_LARGEST_TENSOR: Final = 2**28
_LARGEST_SUM: Final = 2**30
_MOST_PARTS: Final = 100_000
_MOST_DIMENSIONS: Final = 5
_LONGEST_NAME: Final = 200
_MOST_PRODUCTS: Final = 2**37  # of a picture
_SCALES: Final = (2.0**-60, 2.0**60)


def rebuild_flatbuffer(
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
        model = _unpacked(schema, content)
        graph = _check_model(schema, model)
        _check_ends(schema, graph, input_shape, num_classes, features=features)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: refused: {error}") from error
    except Exception as error:
        # A malformed buffer leads anywhere: offsets out of range, wrong types, missing tables.
        raise ModelFileError(f"{name}: the LiteRT network is damaged ({type(error).__name__}: {error}).") from error
    _rename(graph)
    packed = _packed(model)
    try:
        _check_inferred_shapes(packed, graph)
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


def _unpacked(schema: Any, content: bytes) -> Any:
    """Return what computes, without metadata and names of signatures.

    A few bytes may stand for a thousand tables, as tables may share theirs: lengths are added up before anything is
    unpacked.
    """
    packed = schema.Model.GetRootAs(content)
    if packed.SubgraphsLength() != 1:
        raise ModelFileError("a network must be one graph.")
    graph = packed.Subgraphs(0)
    parts = (packed.BuffersLength(), packed.OperatorCodesLength(), graph.TensorsLength(), graph.OperatorsLength())
    if max(parts) > _MOST_PARTS:
        raise ModelFileError(f"a graph of over {_MOST_PARTS:,} parts.")
    options = {number: name for name, number in vars(schema.BuiltinOptions).items() if not name.startswith("_")}
    lengths = (
        *(packed.Buffers(index).DataLength() for index in range(packed.BuffersLength())),
        *(_length_of_code(packed.OperatorCodes(index)) for index in range(packed.OperatorCodesLength())),
        *(_length_of_tensor(graph.Tensors(index)) for index in range(graph.TensorsLength())),
        *(_length_of_operator(schema, options, graph.Operators(index)) for index in range(graph.OperatorsLength())),
        graph.InputsLength() + graph.OutputsLength() + len(graph.Name() or b""),
    )
    if sum(lengths) > len(content):
        raise ModelFileError("a graph whose parts lie on top of one another.")
    model = schema.ModelT()
    model.version = 3
    model.subgraphs = [schema.SubGraphT.InitFromObj(graph)]
    model.buffers = [schema.BufferT.InitFromObj(packed.Buffers(i)) for i in range(packed.BuffersLength())]
    codes = range(packed.OperatorCodesLength())
    model.operatorCodes = [schema.OperatorCodeT.InitFromObj(packed.OperatorCodes(i)) for i in codes]
    return model


def _length_of_code(code: Any) -> int:
    return len(code.CustomCode() or b"")


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
    if name not in ("NONE", *_OPTIONS, *_UNUSED_OPTIONS) or operator.BuiltinOptions2Type():
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
    """Refuse whatever could make the interpreter read or write where it should not; return the one graph."""
    graph = model.subgraphs[0]
    if any(buffer.offset or buffer.size for buffer in model.buffers):
        raise ModelFileError("weights that lie outside the graph.")
    total = 0
    for tensor in graph.tensors:
        total += _check_tensor(schema, tensor, model.buffers)
    if total > _LARGEST_SUM:
        raise ModelFileError(f"a picture would need {total:,} bytes, over {_LARGEST_SUM:,}.")
    types = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    tensors = [_tensor(tensor, types, model.buffers) for tensor in graph.tensors]
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    constants = frozenset(index for index, tensor in enumerate(tensors) if tensor.constant is not None)
    defined = {*constants, *(int(index) for index in graph.inputs)}
    products = 0
    for operator in graph.operators:
        if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
            raise ModelFileError("an operation that does not exist.")
        code = model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = names.get(number, str(number))
        if code.customCode is not None or name not in OPERATIONS:
            raise ModelFileError(f"the operation {name} is not one this library reads{_at(graph, operator)}.")
        inputs, output = _check_flow(operator, len(tensors), defined, constants)
        given = [None if index < 0 else tensors[index] for index in inputs]
        products += check_operator(name, given, tensors[output], operator.builtinOptions)
        defined.add(output)
    if products > _MOST_PRODUCTS:
        raise ModelFileError(f"a picture would take {products:,} steps, over {_MOST_PRODUCTS:,}.")
    return graph


def _at(graph: Any, operator: Any) -> str:
    """Where an operation is: the name of what it computes, as it stands in the file."""
    index = operator.outputs[0] if operator.outputs is not None and len(operator.outputs) else -1
    name = graph.tensors[index].name if 0 <= index < len(graph.tensors) else None
    return f" (at {name[:_LONGEST_NAME].decode(errors='replace')!r})" if name else ""


def _tensor(tensor: Any, types: dict[int, str], buffers: list[Any]) -> Tensor:
    buffer, quantization = buffers[tensor.buffer], tensor.quantization
    scales, zeros = ((), ()) if quantization is None else (quantization.scale, quantization.zeroPoint)
    return Tensor(
        kind=types[tensor.type],
        shape=() if tensor.shape is None else tuple(int(size) for size in tensor.shape),
        constant=np.asarray(buffer.data, np.uint8) if _has_data(buffer) else None,
        scales=() if scales is None else tuple(float(scale) for scale in scales),
        zeros=() if zeros is None else tuple(int(zero) for zero in zeros),
        axis=0 if quantization is None else int(quantization.quantizedDimension),
    )


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
    low, high = _SCALES
    if scales and not all(low <= scale <= high for scale in quantization.scale):
        raise ModelFileError("scales that make no sense.")
    if zeros and np.abs(quantization.zeroPoint).max() > 255:  # noqa: PLR2004 - a byte
        raise ModelFileError("a zero that is none.")


def _check_flow(operator: Any, tensors: int, defined: set[int], constants: frozenset[int]) -> tuple[list[int], int]:
    """Return the inputs and the output of an operation: computed before it, and by nobody else."""
    inputs = [] if operator.inputs is None else [int(index) for index in operator.inputs]
    outputs = [] if operator.outputs is None else [int(index) for index in operator.outputs]
    if len(outputs) != 1 or operator.customOptions is not None or operator.largeCustomOptionsSize:
        raise ModelFileError("an operation without an output, or with data of its own.")
    if any(index != -1 and index not in defined for index in inputs):
        raise ModelFileError("an operation on a tensor that is not computed before it.")
    if not 0 <= outputs[0] < tensors or outputs[0] in defined or outputs[0] in constants:
        raise ModelFileError("an operation that overwrites a tensor.")
    return inputs, outputs[0]


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
    if not {int(index) for index in graph.outputs} <= {int(operator.outputs[0]) for operator in graph.operators}:
        raise ModelFileError("an output that is not computed.")


def _rename(graph: Any) -> None:
    """Give up the names in the file: the interpreter tells nothing of a tensor whose name is not UTF-8."""
    graph.name = None
    for tensor in graph.tensors:
        tensor.name = b"tensor"


def _check_inferred_shapes(content: bytes, graph: Any) -> None:
    """Refuse a network whose tensors are not as large as its operations make them.

    LiteRT's own kernels work that out from their inputs. XNNPACK, which computes later, believes what the file says.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()[: len(graph.tensors)]
    if [detail["index"] for detail in details] != list(range(len(graph.tensors))):
        raise ModelFileError("a tensor that the interpreter tells nothing of.")
    for detail, tensor in zip(details, graph.tensors, strict=True):
        claimed = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        if detail["shape"].tolist() != claimed:
            raise ModelFileError(f"a tensor of shape {detail['shape'].tolist()} that claims to be {claimed}.")


def _has_data(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0
