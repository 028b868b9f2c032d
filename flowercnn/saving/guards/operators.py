"""Checks of the operations of a LiteRT network: only what the converter writes for classifiers.

LiteRT's kernels are C++ that checks little: an operation on a missing tensor, or one of another
type or without a scale, reads and writes out of bounds. So every operand has its place, type and
scale here; sizes, axes and weights are constants, so that nothing depends on what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ModelFileError

__all__ = ["OPERATIONS", "Tensor", "check_operator"]

_ONE_INPUT: Final = (
    "RELU RELU6 LOGISTIC TANH ELU EXP RSQRT SQRT HARD_SWISH QUANTIZE DEQUANTIZE ABS NEG SQUARE LOG"
)
OPERATIONS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(_ONE_INPUT.split(), ("d", "*")),
    **dict.fromkeys(("POW", "PRELU", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"), ("dd", "*")),
    **{name: ("dd", f"{name.capitalize()}Options") for name in ("ADD", "SUB", "MUL", "DIV")},
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), ("d", "Pool2DOptions")),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), ("di", "ReducerOptions")),
    **dict.fromkeys(("PAD", "TRANSPOSE"), ("di", "*")),
    "BATCH_MATMUL": ("dd", "BatchMatMulOptions"),
    "CONCATENATION": ("d+", "ConcatenationOptions"),
    "CONV_2D": ("dwb", "Conv2DOptions"),
    "DEPTHWISE_CONV_2D": ("dwb", "DepthwiseConv2DOptions"),
    "FULLY_CONNECTED": ("dwb", "FullyConnectedOptions"),
    "GELU": ("d", "GeluOptions"),
    "GREATER": ("dd", "*"),
    "LEAKY_RELU": ("d", "LeakyReluOptions"),
    "LOG_SOFTMAX": ("d", "LogSoftmaxOptions"),
    "PADV2": ("did", "*"),
    "RESHAPE": ("di", "*"),
    "RESIZE_BILINEAR": ("di", "ResizeBilinearOptions"),
    "RESIZE_NEAREST_NEIGHBOR": ("di", "ResizeNearestNeighborOptions"),
    "SELECT": ("cdd", "*"),
    "SELECT_V2": ("cdd", "*"),
    "SOFTMAX": ("d", "SoftmaxOptions"),
    "SQUEEZE": ("d", "SqueezeOptions"),
    "STRIDED_SLICE": ("diii", "StridedSliceOptions"),
    "TILE": ("di", "*"),
}
"""Inputs and options of each operation.

Inputs: d data, w constant weights, b a constant bias, i constant sizes or axes, c a computed
condition, + one or more. Options: ``*`` is any, where the kernel needs none.
"""

_FLOAT_ONLY: Final = frozenset(
    """
    SQRT NEG SQUARE POW BATCH_MATMUL LOG LOG_SOFTMAX GREATER SELECT SELECT_V2
    """.split()  # noqa: SIM905 - as a list it takes a line a name
)
_SELECTING: Final = frozenset({"GREATER", "SELECT", "SELECT_V2"})
_MOST_DIMENSIONS_OF_SELECT: Final = 4  # the kernels have no more
_ON_IMAGES: Final = frozenset(
    """
    CONV_2D DEPTHWISE_CONV_2D AVERAGE_POOL_2D MAX_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
    """.split()  # noqa: SIM905 - as above
)
_POSITIVE: Final = """
    strideW strideH filterWidth filterHeight dilationWFactor dilationHFactor depthMultiplier
    """.split()  # noqa: SIM905 - as above
_CHOICES: Final = {
    "padding": range(2),
    "fusedActivationFunction": range(4),
    "weightsFormat": range(1),
}
_NUMBERS: Final = ("alpha", "beta")
_UNUSED_MASKS: Final = ("ellipsisMask", "newAxisMask", "shrinkAxisMask", "offset")
_LARGEST_SIZE: Final = 2**16
_LARGEST_SCRATCH: Final = 2**29  # bytes
_SLOW: Final = 16  # products in a matrix that take as long as one number computed alone


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a network.

    Args:
        kind: ``"FLOAT32"``, ``"INT32"``, ``"INT8"`` or ``"BOOL"``.
        shape: Its size in each dimension.
        constant: Its values as bytes, or ``None`` if it is computed.
        scales: Of numbers in int8 or int32; empty for none.
        zeros: The number that stands for 0, per scale.
        axis: The dimension of which each place has its own scale, where there are several.
    """

    kind: str
    shape: tuple[int, ...]
    constant: npt.NDArray[np.uint8] | None
    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    axis: int

    def integers(self) -> list[int]:
        """Return the values of a constant of int32."""
        values = b"" if self.constant is None else self.constant.tobytes()
        return [int(value) for value in np.frombuffer(values, np.int32)]


def check_operator(name: str, inputs: Sequence[Tensor | None], output: Tensor, options: Any) -> int:
    """Return how many products an operation computes; reject it if no converter writes it.

    Args:
        name: One of `OPERATIONS`.
        inputs: ``None`` where an input is missing.
        output: The one output.
        options: Its table of options, or ``None``.

    Raises:
        ModelFileError: If it is of another form.
    """
    signature, wanted = OPERATIONS[name]
    received = type(options).__name__.removesuffix("T")
    _check(name, wanted in ("*", received), f"options {received}")
    _check_options(name, options)
    places = _places(name, signature, inputs)
    data = [tensor for place, tensor in places if place == "d"]
    _check_types(name, {tensor.kind for tensor in data}, output.kind)
    for place, tensor in places:
        _check_operand(name, place, tensor, data[0])
    for tensor in (*data, output):
        _check_data(name, tensor)
    on_images = len(data[0].shape) == len(output.shape) == 4  # noqa: PLR2004
    _check(name, name not in _ON_IMAGES or on_images, "no images")
    _check_shapes(name, [tensor for _, tensor in places], output, options)
    if output.kind == "INT8":
        largest = max((tensor.scales[0] for tensor in data if tensor.scales), default=0.0)
        _check_scale_ratio(name, largest, output.scales[0])
    return _products(name, [tensor for _, tensor in places], output, options)


def _check_types(name: str, kinds: set[str], result: str) -> None:
    if name in ("QUANTIZE", "DEQUANTIZE"):
        source = "INT8" if name == "DEQUANTIZE" else "FLOAT32"
        same = name == "QUANTIZE" and kinds == {"INT8"}
        target = "FLOAT32" if name == "DEQUANTIZE" else "INT8"
        _check(name, (same or kinds == {source}) and result == target, "types")
    elif name == "GREATER":
        _check(name, (kinds, result) == ({"FLOAT32"}, "BOOL"), "types")
    else:
        fits = kinds == {result} and result in ("FLOAT32", "INT8")
        _check(name, fits, f"types {sorted(kinds)}")
        _check(name, result == "FLOAT32" or name not in _FLOAT_ONLY, "int8")


def _check_shapes(name: str, inputs: Sequence[Tensor], output: Tensor, options: Any) -> None:
    """Reject shapes of which the kernels do not see that they are wrong, or too late."""
    shapes = [tensor.shape for tensor in inputs]
    if name in _SELECTING:
        most = max(map(len, (*shapes, output.shape)))
        _check(name, most <= _MOST_DIMENSIONS_OF_SELECT, f"{most} dimensions")
    if name == "SELECT":
        _check(name, set(shapes) == {output.shape}, "shapes that differ")
    if name == "LOG_SOFTMAX":
        _check(name, shapes[0] and shapes[0] == output.shape, "shapes that differ")
    if name == "TILE":
        pairs = zip(shapes[0], inputs[1].integers(), strict=True)
        repeated = tuple(size * times for size, times in pairs)
        _check(name, repeated == output.shape, f"a result of shape {output.shape}")
    if name == "STRIDED_SLICE":
        _check_slice(name, inputs, output, options)


def _check_slice(name: str, inputs: Sequence[Tensor], output: Tensor, options: Any) -> None:
    """Reject all but a part in one piece within the data."""
    _check(name, not any(getattr(options, field) for field in _UNUSED_MASKS), "masks")
    _check(name, set(inputs[3].integers()) == {1}, "steps")
    sizes = []
    parts = zip(inputs[0].shape, inputs[1].integers(), inputs[2].integers(), strict=True)
    for place, (size, begin, end) in enumerate(parts):
        # The converter writes zeros where a mask is set.
        masked = (options.beginMask >> place & 1, options.endMask >> place & 1)
        _check(name, not (masked[0] and begin) and not (masked[1] and end), "masks")
        last = size if masked[1] else end + size * (end < 0)
        _check(name, 0 <= begin < last <= size, f"a part from {begin} to {end} of {size}")
        sizes.append(last - begin)
    _check(name, tuple(sizes) == output.shape, f"a result of shape {output.shape}")


def _places(name: str, signature: str, inputs: Sequence[Tensor | None]) -> list[tuple[str, Tensor]]:
    """Return each input with its place; only the bias of a dense layer may be missing."""
    places = "d" * len(inputs) if signature == "d+" else signature
    _check(name, inputs and len(inputs) == len(places), f"{len(inputs)} inputs")
    optional = "b" if name == "FULLY_CONNECTED" else ""
    pairs = list(zip(places, inputs, strict=True))
    _check(name, all(tensor is not None or place == optional for place, tensor in pairs), "a gap")
    return [(place, tensor) for place, tensor in pairs if tensor is not None]


def _check_operand(name: str, place: str, tensor: Tensor, data: Tensor) -> None:
    if place == "d":
        return
    if place == "c":
        computed = tensor.kind == "BOOL" and tensor.constant is None and not tensor.scales
        _check(name, computed, "no condition")
        return
    _check(name, tensor.constant is not None, "computed sizes or weights")
    if place == "i":
        _check(name, tensor.kind == "INT32", f"sizes of type {tensor.kind}")
        _check_sizes(name, tensor, data)
        return
    is_float = data.kind == "FLOAT32"
    integer = "INT8" if place == "w" else "INT32"
    _check(name, tensor.kind == ("FLOAT32" if is_float else integer), "weights of a type")
    if is_float:
        return
    own = 3 if (name, place) == ("DEPTHWISE_CONV_2D", "w") else 0
    _check(name, tensor.scales and not any(tensor.zeros), "weights without scales")
    _check(name, len(tensor.scales) == 1 or tensor.axis == own, "scales along another dimension")


def _check_data(name: str, tensor: Tensor) -> None:
    if tensor.kind != "INT8":
        return
    _check(name, len(tensor.scales) == 1, "int8 without a scale")
    _check(name, -128 <= tensor.zeros[0] <= 127, "a zero that int8 cannot hold")  # noqa: PLR2004


def _check_scale_ratio(name: str, largest: float, result: float) -> None:
    """Reject a ratio of scales that the kernel, which computes it, ends the process at."""
    sums = largest / 2**18
    least = {"ADD": sums, "SUB": sums, "SQUARED_DIFFERENCE": largest**2 / 2**11}
    _check(name, least.get(name, 0.0) < result, "scales far apart")


def _check_sizes(name: str, tensor: Tensor, data: Tensor) -> None:
    values, rank = tensor.integers(), len(data.shape)
    if name in ("MEAN", "SUM", "REDUCE_MAX"):
        fits = all(-rank <= axis < rank for axis in values)
        fits = fits and len(values) == len({axis % rank for axis in values})
    elif name in ("PAD", "PADV2"):
        fits = tensor.shape == (rank, 2) and all(0 <= size <= _LARGEST_SIZE for size in values)
    elif name in ("STRIDED_SLICE", "TILE"):
        least = 1 if name == "TILE" else -_LARGEST_SIZE
        fits = tensor.shape == (rank,) and all(least <= size <= _LARGEST_SIZE for size in values)
    elif name == "TRANSPOSE":
        fits = sorted(values) == list(range(rank))
    elif name == "RESHAPE":
        most = _LARGEST_SIZE**2
        fits = len(tensor.shape) == 1 and all(-1 <= size <= most and size for size in values)
    else:
        fits = tensor.shape == (2,) and all(1 <= size <= _LARGEST_SIZE for size in values)
    _check(name, fits, f"sizes or axes {values[:8]}")


def _check_options(name: str, options: Any) -> None:
    for field in _POSITIVE:
        value = getattr(options, field, 1)
        _check(name, 1 <= value <= _LARGEST_SIZE, f"{field}={value}")
    for field, choices in _CHOICES.items():
        value = getattr(options, field, 0)
        _check(name, value in choices, f"{field}={value}")
    for field in _NUMBERS:
        value = getattr(options, field, 1.0)
        _check(name, math.isfinite(value) and (field != "beta" or value > 0), f"{field}={value}")


def _products(name: str, inputs: Sequence[Tensor], output: Tensor, options: Any) -> int:
    """Return how many products or comparisons an operation takes."""
    count = math.prod(output.shape)
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        _check(name, len(inputs[1].shape) == 4 and min(inputs[1].shape) > 0, "weights of a shape")  # noqa: PLR2004
        last = None if name == "CONV_2D" else 3
        per_place = math.prod(inputs[1].shape[1:last])
        # The reference kernel lays out all windows beside one another.
        scratch = 4 * math.prod(output.shape[:3]) * per_place
        fits = name != "CONV_2D" or scratch <= _LARGEST_SCRATCH
        _check(name, fits, f"{scratch:,} bytes of windows")
        return count * per_place
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return _SLOW * count * int(options.filterWidth) * int(options.filterHeight)
    if name == "FULLY_CONNECTED":
        _check(name, len(inputs[1].shape) == 2, "weights of a shape")  # noqa: PLR2004
        return count * inputs[1].shape[1]
    if name == "BATCH_MATMUL":
        _check(name, min(len(each.shape) for each in inputs) >= 2, "no matrices")  # noqa: PLR2004
        return count * max(inputs[0].shape[-2:])
    return _SLOW * max(count, *(math.prod(each.shape) for each in inputs))


def _check(name: str, condition: object, what: str) -> None:
    if not condition:
        raise ModelFileError(f"{name} with {what}.")
