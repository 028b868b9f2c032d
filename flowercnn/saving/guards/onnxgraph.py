"""Checks of ONNX networks: what is read from a stranger's file is taken apart, checked, and rebuilt.

ONNX Runtime is C++ that does what a file says: it calculates with integers, loops, and takes the memory that shapes
claim. Here a network is held to what classifiers are made of, and only a model built from the checked parts goes on.
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
    [
        *("Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
        *("Log", "Max", "Min", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus"),
        *("Softsign", "Sqrt", "Sub", "Sum", "Tanh"),
    ]
)
_OPERATIONS: Final = _ELEMENTWISE | frozenset(
    [
        *("AveragePool", "BatchNormalization", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"),
        *("GlobalMaxPool", "LogSoftmax", "MatMul", "MaxPool", "Pad", "ReduceMax", "ReduceMean", "ReduceSum"),
        *("Reshape", "Resize", "Slice", "Softmax", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    ]
)
_OF_SHAPES: Final = frozenset(["Cast", "Concat", "Gather", "Slice", "Squeeze"])
"""What may be done with the shape of a tensor, which in the end only `Reshape` takes. None of it calculates."""

_OF_CONDITIONS: Final = frozenset(["Greater", "Not"])
"""What makes yes or no of numbers, which in the end only `Cast` takes, to ones and zeros."""

_PARAMETERS: Final = frozenset(
    [
        *("BatchNormalization", "Clip", "Conv", "Gemm", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceSum"),
        *("Resize", "Slice", "Squeeze", "Tile", "Unsqueeze"),
    ]
)
"""Operations whose inputs but the first must be constants."""

_INTEGERS: Final = frozenset(
    ["Pad", "ReduceMax", "ReduceSum", "Reshape", "Resize", "Slice", "Squeeze", "Tile", "Unsqueeze"]
)
"""Operations that have integers among these constants."""

_LEAST: Final = {"kernel_shape": 1, "strides": 1, "dilations": 1, "group": 1, "pads": 0}
_LEAST_INTEGER: Final = {"Pad": 0, "Reshape": -1, "Resize": 1, "Slice": -(2**31), "Tile": 1}
_WORDS: Final = frozenset(
    [
        *(b"NOTSET", b"SAME_LOWER", b"SAME_UPPER", b"VALID", b"align_corners", b"asymmetric", b"constant", b"cubic"),
        *(b"floor", b"half_pixel", b"linear", b"nearest", b"round_prefer_floor", b"tf_half_pixel_for_nn"),
    ]
)
"""What attributes may say: how to pad and to resize."""

_LARGEST_SIZE: Final = 2**16
_LARGEST_SCALE: Final = 2**10
_MOST_PARTS: Final = 20_000
_MOST_INPUTS: Final = 1_000
_MOST_DIMENSIONS: Final = 8
_LONGEST_SHAPE: Final = 64
_LONGEST_NAME: Final = 200
_MOST_BYTES: Final = 3 * 2**29
_MOST_WORK: Final = 2**38
_SLOW: Final = 16
"""As so many count the multiplications of a pooling or of a convolution in groups."""

_STEPS: Final = 4  # an input of Slice
_BATCH: Final = 32
_BYTES_OF_BATCH: Final = 2**29
_MOST_BARE_BYTES: Final = 8 * 2**20
_MOST_FIELDS: Final = 2 * _MOST_PARTS
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto and TensorProto
_WITH_LENGTH, _FIXED_LENGTHS, _SEVEN_BITS, _MOST_BITS = 2, {1: 8, 5: 4}, 127, 63  # of protobuf's encoding


def check_parts(content: bytes) -> None:
    """Refuse a file of very many parts before the parser makes fifty times their size of them."""
    bare = len(content)
    for field, start, end in _fields(content, 0, len(content)):
        for part, begin, stop in _fields(content, start, end) if field == _GRAPH else ():
            for inner, at, to in _fields(content, begin, stop) if part == _INITIALIZER else ():
                bare -= to - at if inner == _RAW_DATA else 0
    if bare > _MOST_BARE_BYTES:
        raise ModelFileError(f"{bare:,} bytes beside the weights.")


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number, start and end of the fields of a protobuf message that have a length; if many, of the first."""
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
    """The number at a place of a protobuf message, seven bits in each byte, and the place after it."""
    value = shift = 0
    while content[at] > _SEVEN_BITS:
        value |= (content[at] & _SEVEN_BITS) << shift
        at, shift = at + 1, min(shift + 7, _MOST_BITS)
    return value | content[at] << shift, at + 1


def rebuild_onnx(onnx: Any, model: Any, shape: tuple[int, ...], num_classes: int) -> tuple[Any, int]:
    """Return a model of nothing but checked parts of another, and how many pictures at once it is for."""
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer or graph.quantization_annotation:
        raise ModelFileError("functions, training or sparse weights in the graph.")
    if [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] != [_OPSET]:
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
    number = onnx.TensorProto.FLOAT
    rebuilt.graph.input.append(onnx.helper.make_tensor_value_info("pixels", number, ["n", *shape]))
    rebuilt.graph.output.append(onnx.helper.make_tensor_value_info(graph.output[0].name, number, ["n", num_classes]))
    return rebuilt, _check_sizes(onnx, rebuilt, values.constants)


class _Values:
    """What a graph's nodes may refer to: constants, numbers computed from pixels, their shapes, and conditions."""

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
            raise ModelFileError("a shape put together of too many.")
        self.lengths[name] = length

    def length(self, name: str) -> int:
        """The most integers in a shape or a constant that is put together with one."""
        return self.lengths[name] if name in self.lengths else self.constants[name].size

    def _check_new(self, name: str) -> None:
        if not name or any(name in kind for kind in (self.constants, self.numbers, self.lengths, self.conditions)):
            raise ModelFileError(f"two values of the name {name!r}.")


def _array(onnx: Any, tensor: Any) -> npt.NDArray[Any]:
    """A constant, if its data are in the file and as many as its shape says."""
    if tensor.external_data or tensor.data_location != tensor.DEFAULT or tensor.HasField("segment"):
        raise ModelFileError("weights that lie in another file.")
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
        where = node.name[:_LONGEST_NAME]
        raise ModelFileError(f"the operation {operation!r} is not one this library reads (at {where!r}).")
    if len(node.output) != 1 or len(node.input) > _MOST_INPUTS:
        raise ModelFileError(f"{operation} with {len(node.input)} inputs and {len(node.output)} outputs.")
    if operation == "Constant":
        if [attribute.name for attribute in node.attribute] != ["value"]:
            raise ModelFileError("a constant that is no array.")
        values.add_constant(node.output[0], _array(onnx, node.attribute[0].t))
        return
    attributes = {attribute.name: _attribute(onnx, attribute) for attribute in node.attribute}
    inputs = list(node.input)
    if operation == "Resize" and len(inputs) > 1:
        inputs[1] = ""  # the region of interest, which is empty
    _add_output(operation, inputs, node.output[0], values, attributes)
    nodes.append(onnx.helper.make_node(operation, inputs, [node.output[0]], **attributes))


def _attribute(onnx: Any, attribute: Any) -> Any:
    """The value of an attribute: numbers or a word, no graphs or tensors."""
    kinds = onnx.AttributeProto
    if attribute.type not in (kinds.FLOAT, kinds.INT, kinds.INTS, kinds.STRING) or attribute.ref_attr_name:
        raise ModelFileError("an attribute that is a graph within the graph, or another that no classifier has.")
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == kinds.STRING and value not in _WORDS:
        raise ModelFileError(f"{attribute.name}={value[:100]!r} in an operation.")
    if attribute.type == kinds.FLOAT and not math.isfinite(value):
        raise ModelFileError(f"{attribute.name}={value} in an operation.")
    integers = {kinds.INT: [value], kinds.INTS: value}.get(attribute.type, [])
    least = _LEAST.get(attribute.name, -_MOST_DIMENSIONS)
    if len(integers) > 2 * _MOST_DIMENSIONS or any(not least <= each <= _LARGEST_SIZE for each in integers):
        raise ModelFileError(f"{attribute.name}={str(value)[:100]} in an operation.")
    if attribute.name in ("axes", "perm") and len(set(integers)) != len(integers):
        raise ModelFileError(f"{attribute.name}={value} in an operation.")
    return value


def _add_output(operation: str, inputs: list[str], output: str, values: _Values, attributes: dict[str, Any]) -> None:
    """Check where the inputs of an operation come from, so that nobody's integers are calculated with."""
    given = [name for name in inputs if name]
    kind = attributes.get("to")
    if operation in _OF_CONDITIONS or any(name in values.conditions for name in given):
        _add_of_condition(operation, given, output, values, kind)
    elif operation == "Shape" and len(given) == 1 and given[0] in values.numbers:
        values.add_shape(output, _MOST_DIMENSIONS)
    elif operation in _OF_SHAPES and any(name in values.lengths for name in given):
        if any(name not in values.lengths and not _is_integers(name, values) for name in given):
            raise ModelFileError(f"{operation} of a shape and something else.")
        if operation == "Cast" and kind not in (6, 7):
            raise ModelFileError("a shape made into something else.")
        values.add_shape(output, sum(values.length(name) for name in given))
    elif operation in _OPERATIONS:
        for place, name in enumerate(inputs):
            _check_input(operation, place, name, values)
        if operation == "Cast" and kind not in (1, 10):
            raise ModelFileError("numbers made into integers.")
        if operation == "Conv":
            _check_bias(*(values.constants[name] for name in given[1:]))
        values.add_number(output)
    else:
        raise ModelFileError(f"{operation} of something else than a shape.")


def _add_of_condition(operation: str, given: list[str], output: str, values: _Values, kind: Any) -> None:
    """Check what makes a condition, or takes one."""
    if operation == "Greater" and len(given) == 2:  # noqa: PLR2004 - two to compare
        for place, name in enumerate(given):
            _check_input(operation, place, name, values)
        values.add_condition(output)
    elif operation == "Not" and len(given) == 1 and given[0] in values.conditions:
        values.add_condition(output)
    elif operation == "Cast" and len(given) == 1 and kind == 1:
        values.add_number(output)
    else:
        raise ModelFileError(f"{operation} of yes and no, or to them.")


def _is_integers(name: str, values: _Values) -> bool:
    return name in values.constants and values.constants[name].dtype.kind == "i"


def _check_input(operation: str, place: int, name: str, values: _Values) -> None:
    if name in values.numbers and (place == 0 or operation not in _PARAMETERS | {"Reshape"}):
        return
    if name in values.lengths and operation == "Reshape" and place == 1:
        return
    if not name and place:
        return
    if name not in values.constants:
        raise ModelFileError(f"input {place} of {operation} is not a constant, or not computed before.")
    if not values.constants[name].size:
        raise ModelFileError(f"input {place} of {operation} is empty.")
    if values.constants[name].dtype.kind == "i":
        _check_integers(operation, place, values.constants[name])
    elif operation == "Resize":
        _check_scales(values.constants[name])


def _check_integers(operation: str, place: int, array: npt.NDArray[Any]) -> None:
    """Sizes, axes, pads and the like must be few and sensible."""
    is_step = operation == "Slice" and place == _STEPS
    least = 1 if is_step else _LEAST_INTEGER.get(operation, -_MOST_DIMENSIONS)
    most = _LARGEST_SCALE if operation == "Tile" else 2**63 - 1 if operation == "Slice" and not is_step else 2**31
    if operation not in _INTEGERS or not place:
        raise ModelFileError(f"{operation} of integers.")
    if array.ndim > 1 or array.size > 2 * _MOST_DIMENSIONS or ((array < least) | (array > most)).any():
        raise ModelFileError(f"{operation} by {array.ravel()[: 2 * _MOST_DIMENSIONS].tolist()}.")


def _check_scales(array: npt.NDArray[Any]) -> None:
    if array.size > _MOST_DIMENSIONS or not ((array > 0) & (array <= _LARGEST_SCALE)).all():
        raise ModelFileError("a picture resized beyond measure.")


def _check_bias(weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None) -> None:
    """ONNX Runtime reads as many numbers as there are filters, whether they are there or not."""
    if bias is not None and bias.shape != weights.shape[:1]:
        raise ModelFileError(f"a bias of shape {bias.shape} for weights of shape {weights.shape}.")


def _check_sizes(onnx: Any, model: Any, constants: dict[str, npt.NDArray[Any]]) -> int:
    """Return how many pictures at once are computed in bounded memory."""
    bare = type(model)()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if math.prod(tensor.dims) > _LONGEST_SHAPE:  # no shape: its values are of no interest, and large
            tensor.ClearField("raw_data")
    known = {name: list(array.shape) for name, array in constants.items()}
    one = known | _shapes(onnx, bare, 1)
    size = _bytes(bare.graph, one)
    work = sum(_work(node, one) for node in bare.graph.node)
    if size > _MOST_BYTES or work > _MOST_WORK:
        raise ModelFileError(f"a picture would need {size:,} bytes and {work:,} multiplications.")
    batch = max(1, min(_BATCH, _BYTES_OF_BATCH // size))
    # Pictures may be multiplied with each other: then many need more than as many times one.
    return batch if _bytes(bare.graph, known | _shapes(onnx, bare, batch)) <= 2 * batch * size else 1


def _shapes(onnx: Any, model: Any, batch: int) -> dict[str, list[int]]:
    """The shapes of all that a graph computes from so many pictures."""
    ends = (model.graph.input[0], model.graph.output[0])
    for end in ends:
        end.type.tensor_type.shape.dim[0].dim_value = batch
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    found = [*graph.value_info, *graph.input, *graph.output]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in found}
    for node in graph.node:
        shape = shapes.get(node.output[0])
        if shape is None or len(shape) > _MOST_DIMENSIONS or any(size < 1 for size in shape):
            raise ModelFileError(f"{node.op_type} of an unknown or impossible shape.")
    return shapes


def _bytes(graph: Any, shapes: dict[str, list[int]]) -> int:
    """What all tensors computed take together, without those that take the place of their input."""
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
    """About how many multiplications an operation takes, or as much time as them."""
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
