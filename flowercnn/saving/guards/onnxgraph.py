"""Checks of ONNX networks: the network is parsed, checked, and written again.

ONNX Runtime is C++ that does what a file says: it calculates with integers, loops, and takes the
memory that shapes claim. Here a network is limited to what classifiers need, and only a model built
from the checked parts is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ModelFileError

__all__ = ["check_parts", "rebuild_onnx"]

_OPSET: Final = 17
_ELEMENTWISE: Final = frozenset(
    """
    Add Cast Clip Div Elu Erf Exp HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mul Neg PRelu
    Pow Reciprocal Relu Selu Sigmoid Softplus Softsign Sqrt Sub Sum Tanh
    """.split()  # noqa: SIM905 - as a list it takes a line a name
)
_OPERATIONS: Final = _ELEMENTWISE.union(
    """
    AveragePool BatchNormalization Concat Conv Flatten Gemm GlobalAveragePool GlobalMaxPool
    LogSoftmax MatMul MaxPool Pad ReduceMax ReduceMean ReduceSum Reshape Resize Slice Softmax
    Squeeze Tile Transpose Unsqueeze
    """.split()  # noqa: SIM905 - as above
)
_OF_SHAPES: Final = frozenset(["Cast", "Concat", "Gather", "Slice", "Squeeze"])
"""Operations on the shape of a tensor, which only `Reshape` uses. None of them calculates."""

_OF_CONDITIONS: Final = frozenset(["Greater", "Not"])
"""Operations whose output is a condition, which only `Cast` uses, as ones and zeros."""

_INTEGERS: Final = frozenset(
    ["Pad", "ReduceMax", "ReduceSum", "Reshape", "Resize", "Slice", "Squeeze", "Tile", "Unsqueeze"]
)
"""Operations with integers among their constants."""

_PARAMETERS: Final = _INTEGERS.difference({"Reshape"}).union(
    ["BatchNormalization", "Clip", "Conv", "Gemm", "PRelu", "ReduceMean"]
)
"""Operations whose inputs but the first must be constants."""

_LEAST: Final = {"kernel_shape": 1, "strides": 1, "dilations": 1, "group": 1, "pads": 0}
_LEAST_INTEGER: Final = {"Pad": 0, "Reshape": -1, "Resize": 1, "Slice": -(2**31), "Tile": 1}
_WORDS: Final = frozenset(
    b"""
    NOTSET SAME_LOWER SAME_UPPER VALID align_corners asymmetric constant cubic floor half_pixel
    linear nearest round_prefer_floor tf_half_pixel_for_nn
    """.split()
)
"""Texts that attributes may have: how to pad and to resize."""

_LARGEST_SIZE: Final = 2**16
_LARGEST_SCALE: Final = 2**10
_MOST_PARTS: Final = 20_000
_MOST_INPUTS: Final = 1_000
_MOST_DIMENSIONS: Final = 8
_LONGEST_SHAPE: Final = 64
_LONGEST_NAME: Final = 200
_MOST_BYTES: Final = 3 * 2**29
_MOST_WORK: Final = 2**38
_SLOW: Final = 16  # times a multiplication takes longer in a pooling or grouped convolution

_STEPS: Final = 4  # an input of Slice
_BATCH: Final = 32
_BYTES_OF_BATCH: Final = 2**29
_MOST_BARE_BYTES: Final = 8 * 2**20
_MOST_FIELDS: Final = 2 * _MOST_PARTS
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto and TensorProto
_WITH_LENGTH, _SEVEN_BITS, _MOST_BITS = 2, 127, 63  # of the encoding of protobuf
_FIXED_LENGTHS: Final = {1: 8, 5: 4}


def check_parts(content: bytes) -> None:
    """Reject a file of very many parts before the parser takes fifty times its size."""
    bare = len(content)
    for field, start, end in _fields(content, 0, len(content)):
        for part, begin, stop in _fields(content, start, end) if field == _GRAPH else ():
            for inner, at, to in _fields(content, begin, stop) if part == _INITIALIZER else ():
                bare -= to - at if inner == _RAW_DATA else 0
    if bare > _MOST_BARE_BYTES:
        raise ModelFileError(f"{bare:,} bytes beside the weights.")


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the first fields of a protobuf message that have a length."""
    for _ in range(_MOST_FIELDS):
        if at >= end:
            return
        tag, at = _varint(content, at)
        kind, length = tag & 7, 0
        if kind == _WITH_LENGTH:
            length, at = _varint(content, at)
            if at + length > end:  # damaged; the parser is to say so
                return
            yield tag >> 3, at, at + length
        elif kind == 0:
            _, at = _varint(content, at)
        else:
            length = _FIXED_LENGTHS[kind]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place of a protobuf message, and the place after it."""
    value = shift = 0
    while content[at] > _SEVEN_BITS:
        value |= (content[at] & _SEVEN_BITS) << shift
        at, shift = at + 1, min(shift + 7, _MOST_BITS)
    return value | content[at] << shift, at + 1


def rebuild_onnx(
    onnx: Any, model: Any, shape: tuple[int, ...], num_classes: int
) -> tuple[Any, int]:
    """Return a model of the checked parts of another, and how many images to compute at once."""
    graph = model.graph
    special = (graph.sparse_initializer, graph.quantization_annotation)
    if any((model.functions, model.training_info, *special)):
        raise ModelFileError("functions, training or sparse weights in the graph.")
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions != [_OPSET]:
        raise ModelFileError(f"operations of another version than {_OPSET}.")
    if [end.name for end in graph.input] != ["pixels"] or len(graph.output) != 1:
        raise ModelFileError("several inputs or outputs.")
    if max(len(graph.node), len(graph.initializer)) > _MOST_PARTS:
        raise ModelFileError(f"a graph of over {_MOST_PARTS:,} parts.")
    values = _Values()
    for tensor in graph.initializer:
        values.add_constant(tensor.name, _array(onnx, tensor))
    rebuilt = onnx.ModelProto(ir_version=8, opset_import=[onnx.helper.make_opsetid("", _OPSET)])
    for node in graph.node:
        _add_node(onnx, node, values, rebuilt.graph.node)
    rebuilt.graph.name = "network"
    rebuilt.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in values.constants.items()
    )
    ends = (
        ("pixels", shape, rebuilt.graph.input),
        (graph.output[0].name, (num_classes,), rebuilt.graph.output),
    )
    for name, sizes, end in ends:
        number = onnx.TensorProto.FLOAT
        end.append(onnx.helper.make_tensor_value_info(name, number, ["n", *sizes]))
    return rebuilt, _check_sizes(onnx, rebuilt, values.constants)


class _Values:
    """Values that nodes may use: constants, numbers computed from pixels, shapes, conditions."""

    def __init__(self) -> None:
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.numbers = {"pixels"}
        self.conditions: set[str] = set()
        self.lengths: dict[str, int] = {}
        """Of the shapes: the most integers each can be."""

    def add_constant(self, name: str, array: npt.NDArray[Any]) -> None:
        self._check_new(name)
        self.constants[name] = array

    def add_number(self, name: str) -> None:
        self._check_new(name)
        self.numbers.add(name)

    def add_condition(self, name: str) -> None:
        self._check_new(name)
        self.conditions.add(name)

    def add_shape(self, name: str, length: int) -> None:
        self._check_new(name)
        if length > _LONGEST_SHAPE:
            raise ModelFileError("a shape of too many parts.")
        self.lengths[name] = length

    def length(self, name: str) -> int:
        """Return the most integers in a shape, or in a constant that is joined to one."""
        return self.lengths[name] if name in self.lengths else self.constants[name].size

    def _check_new(self, name: str) -> None:
        kinds = (self.constants, self.numbers, self.lengths, self.conditions)
        if not name or any(name in kind for kind in kinds):
            raise ModelFileError(f"two values of the name {name!r}.")


def _array(onnx: Any, tensor: Any) -> npt.NDArray[Any]:
    """Return a constant, whose data must be in the file and fit its shape."""
    if tensor.external_data or tensor.data_location != tensor.DEFAULT or tensor.HasField("segment"):
        raise ModelFileError("weights that are in another file.")
    if tensor.data_type not in (tensor.FLOAT, tensor.FLOAT16, tensor.INT32, tensor.INT64):
        raise ModelFileError(f"weights of type {tensor.data_type}.")
    if len(tensor.dims) > _MOST_DIMENSIONS or any(not 0 <= size <= 2**31 for size in tensor.dims):
        raise ModelFileError(f"weights of shape {list(tensor.dims)[:_MOST_DIMENSIONS]}.")
    array: npt.NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    if not np.isfinite(array).all():
        raise ModelFileError("weights that are NaN or infinite.")
    return array


def _add_node(onnx: Any, node: Any, values: _Values, nodes: Any) -> None:
    """Check a node, and add a copy to the nodes or, if it is a constant, to the values."""
    operation = node.op_type
    known = _OPERATIONS | _OF_SHAPES | _OF_CONDITIONS | {"Constant", "Shape"}
    if node.domain not in ("", "ai.onnx") or operation not in known:
        where = f"{operation!r} is not one this library reads (at {node.name[:_LONGEST_NAME]!r})"
        raise ModelFileError(f"the operation {where}.")
    inputs, outputs = list(node.input), len(node.output)
    if outputs != 1 or len(inputs) > _MOST_INPUTS:
        raise ModelFileError(f"{operation} with {len(inputs)} inputs and {outputs} outputs.")
    if operation == "Constant":
        if [attribute.name for attribute in node.attribute] != ["value"]:
            raise ModelFileError("a constant that is no array.")
        values.add_constant(node.output[0], _array(onnx, node.attribute[0].t))
        return
    attributes = {attribute.name: _attribute(onnx, attribute) for attribute in node.attribute}
    if operation == "Resize" and len(inputs) > 1:
        inputs[1] = ""  # the region of interest, which is empty
    _add_output(operation, inputs, node.output[0], values, attributes)
    nodes.append(onnx.helper.make_node(operation, inputs, [node.output[0]], **attributes))


def _attribute(onnx: Any, attribute: Any) -> Any:
    """Return the value of an attribute: numbers or a word, no graphs or tensors."""
    kinds = onnx.AttributeProto
    known = (kinds.FLOAT, kinds.INT, kinds.INTS, kinds.STRING)
    if attribute.type not in known or attribute.ref_attr_name:
        raise ModelFileError("an attribute that is a graph, or another that no classifier has.")
    value = onnx.helper.get_attribute_value(attribute)
    integers = {kinds.INT: [value], kinds.INTS: value}.get(attribute.type, [])
    least = _LEAST.get(attribute.name, -_MOST_DIMENSIONS)
    fits = (
        (attribute.type != kinds.STRING or value in _WORDS)
        and (attribute.type != kinds.FLOAT or math.isfinite(value))
        and len(integers) <= 2 * _MOST_DIMENSIONS
        and all(least <= each <= _LARGEST_SIZE for each in integers)
        and (attribute.name not in ("axes", "perm") or len(set(integers)) == len(integers))
    )
    if not fits:
        shown = repr(value[:100]) if attribute.type == kinds.STRING else str(value)[:100]
        raise ModelFileError(f"{attribute.name}={shown} in an operation.")
    return value


def _add_output(
    operation: str, inputs: list[str], output: str, values: _Values, attributes: dict[str, Any]
) -> None:
    """Check the sources of an operation's inputs: no integers of the file are calculated with."""
    names = [name for name in inputs if name]
    kind = attributes.get("to")
    if operation in _OF_CONDITIONS or any(name in values.conditions for name in names):
        _add_of_condition(operation, names, output, values, kind)
    elif operation == "Shape" and len(names) == 1 and names[0] in values.numbers:
        values.add_shape(output, _MOST_DIMENSIONS)
    elif operation in _OF_SHAPES and any(name in values.lengths for name in names):
        if any(name not in values.lengths and not _is_integers(name, values) for name in names):
            raise ModelFileError(f"{operation} of a shape and something else.")
        if operation == "Cast" and kind not in (6, 7):
            raise ModelFileError("a shape made into something else.")
        values.add_shape(output, sum(values.length(name) for name in names))
    elif operation in _OPERATIONS:
        for place, name in enumerate(inputs):
            _check_input(operation, place, name, values)
        if operation == "Cast" and kind not in (1, 10):
            raise ModelFileError("numbers made into integers.")
        if operation == "Conv":
            _check_bias(*(values.constants[name] for name in names[1:]))
        values.add_number(output)
    else:
        raise ModelFileError(f"{operation} of something else than a shape.")


def _add_of_condition(
    operation: str, names: list[str], output: str, values: _Values, kind: Any
) -> None:
    """Check an operation on or to conditions."""
    if operation == "Greater" and len(names) == 2:  # noqa: PLR2004 - two to compare
        for place, name in enumerate(names):
            _check_input(operation, place, name, values)
        values.add_condition(output)
    elif operation == "Not" and len(names) == 1 and names[0] in values.conditions:
        values.add_condition(output)
    elif operation == "Cast" and len(names) == 1 and kind == 1:
        values.add_number(output)
    else:
        raise ModelFileError(f"{operation} of conditions, or to them.")


def _is_integers(name: str, values: _Values) -> bool:
    return name in values.constants and values.constants[name].dtype.kind == "i"


def _check_input(operation: str, place: int, name: str, values: _Values) -> None:
    is_parameter = place and operation in _PARAMETERS | {"Reshape"}
    is_shape = name in values.lengths and operation == "Reshape" and place == 1
    if (name in values.numbers and not is_parameter) or is_shape or (not name and place):
        return
    if name not in values.constants:
        what = "is not a constant, or not computed before"
        raise ModelFileError(f"input {place} of {operation} {what}.")
    if not values.constants[name].size:
        raise ModelFileError(f"input {place} of {operation} is empty.")
    if values.constants[name].dtype.kind == "i":
        _check_integers(operation, place, values.constants[name])
    elif operation == "Resize":
        _check_resize(values.constants[name])


def _check_integers(operation: str, place: int, array: npt.NDArray[Any]) -> None:
    """Check that sizes, axes, pads and the like are few and sensible."""
    if operation not in _INTEGERS or not place:
        raise ModelFileError(f"{operation} of integers.")
    least, most = _LEAST_INTEGER.get(operation, -_MOST_DIMENSIONS), 2**31
    if operation == "Tile":
        most = _LARGEST_SCALE
    elif operation == "Slice" and place == _STEPS:
        least = 1
    elif operation == "Slice":
        most = 2**63 - 1
    is_small = array.ndim <= 1 and array.size <= 2 * _MOST_DIMENSIONS
    if not is_small or ((array < least) | (array > most)).any():
        raise ModelFileError(f"{operation} by {array.ravel()[: 2 * _MOST_DIMENSIONS].tolist()}.")


def _check_resize(array: npt.NDArray[Any]) -> None:
    if array.size > _MOST_DIMENSIONS or not ((array > 0) & (array <= _LARGEST_SCALE)).all():
        raise ModelFileError("an image resized beyond measure.")


def _check_bias(weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None) -> None:
    """Check the length of a bias, of which ONNX Runtime reads a number per filter in any case."""
    if bias is not None and bias.shape != weights.shape[:1]:
        raise ModelFileError(f"a bias of shape {bias.shape} for weights of shape {weights.shape}.")


def _check_sizes(onnx: Any, model: Any, constants: dict[str, npt.NDArray[Any]]) -> int:
    """Return the number of images that are computed at once in bounded memory."""
    bare = type(model)()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if math.prod(tensor.dims) > _LONGEST_SHAPE:  # weights, whose values do not matter
            tensor.ClearField("raw_data")
    known = {name: list(array.shape) for name, array in constants.items()}
    one = known | _shapes(onnx, bare, 1)
    size = _bytes(bare.graph, one)
    work = sum(_work(node, one) for node in bare.graph.node)
    if size > _MOST_BYTES or work > _MOST_WORK:
        raise ModelFileError(f"an image would need {size:,} bytes and {work:,} multiplications.")
    batch = max(1, min(_BATCH, _BYTES_OF_BATCH // size))
    # Images may be multiplied with each other: then many take more than that many times one.
    many = _bytes(bare.graph, known | _shapes(onnx, bare, batch))
    return batch if many <= 2 * batch * size else 1


def _shapes(onnx: Any, model: Any, batch: int) -> dict[str, list[int]]:
    """Return the shapes of all that a graph computes from a batch of images."""
    for end in (model.graph.input[0], model.graph.output[0]):
        end.type.tensor_type.shape.dim[0].dim_value = batch
    infer = onnx.shape_inference.infer_shapes
    graph = infer(model, check_type=True, strict_mode=True, data_prop=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    shapes = {name: [dim.dim_value for dim in each] for name, each in dims.items()}
    for node in graph.node:
        shape = shapes.get(node.output[0])
        if shape is None or len(shape) > _MOST_DIMENSIONS or any(size < 1 for size in shape):
            raise ModelFileError(f"{node.op_type} of an unknown or impossible shape.")
    return shapes


def _bytes(graph: Any, shapes: dict[str, list[int]]) -> int:
    """Return the bytes of all tensors computed, without those that replace their input."""
    uses = Counter(name for node in graph.node for name in node.input)
    total = math.prod(shapes["pixels"])
    for node in graph.node:
        shape = shapes[node.output[0]]
        in_place = node.op_type in _ELEMENTWISE and any(
            uses[name] == 1 and shapes[name] == shape for name in node.input if name
        )
        total += 0 if in_place else math.prod(shape)
    return 4 * total


def _work(node: Any, shapes: dict[str, list[int]]) -> int:
    """Return about how many multiplications an operation takes the time of."""
    size = math.prod(shapes[node.output[0]])
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        in_groups = "group" in attributes and attributes["group"].i > 1
        return (_SLOW if in_groups else 1) * size * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "Gemm"):
        return size * max(shapes[node.input[0]])
    if "kernel_shape" in attributes:
        size *= _SLOW * math.prod(attributes["kernel_shape"].ints)
    return size
