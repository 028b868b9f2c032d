"""What each operation of a LiteRT network may work on: as narrow as what the converter writes for classifiers.

LiteRT's kernels are C++ that checks little: an operation on a tensor that is not there, of another type or without a
scale reads and writes where it should not. So here every operand has its place, type and scale; sizes, axes and
weights are constants, which leaves nothing to be worked out while the network runs.
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

OPERATIONS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("RELU", "RELU6", "LOGISTIC", "TANH", "ELU", "EXP", "RSQRT"), ("d", "*")),
    **dict.fromkeys(("SQRT", "HARD_SWISH", "QUANTIZE", "DEQUANTIZE", "ABS", "NEG", "SQUARE", "LOG"), ("d", "*")),
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

Inputs: d data, w constant weights, b a constant bias, i constant sizes or axes, c a computed condition, + one or
more. Options: ``*`` is any, where the kernel needs none.
"""

_FLOAT_ONLY: Final = frozenset(
    [
        *("SQRT", "NEG", "SQUARE", "POW", "BATCH_MATMUL", "LOG", "LOG_SOFTMAX", "GREATER", "SELECT", "SELECT_V2"),
    ]
)
_CHOOSING: Final = frozenset({"GREATER", "SELECT", "SELECT_V2"})
_MOST_DIMENSIONS_OF_CHOICE: Final = 4  # the kernels have no more
_IMAGES: Final = frozenset(
    {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"),
        *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    }
)
_POSITIVE: Final = (
    *("strideW", "strideH", "filterWidth", "filterHeight", "dilationWFactor", "dilationHFactor", "depthMultiplier"),
)
_CHOICES: Final[Mapping[str, range]] = {
    "padding": range(2),
    "fusedActivationFunction": range(4),
    "weightsFormat": range(1),
}
_NUMBERS: Final = ("alpha", "beta")
_MASKS_OF_NOTHING: Final = ("ellipsisMask", "newAxisMask", "shrinkAxisMask", "offset")
_LARGEST_SIZE: Final = 2**16
_LARGEST_SCRATCH: Final = 2**29  # bytes
_SLOW: Final = 16  # what is computed one by one counts as so many products in a matrix


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a network.

    Args:
        kind: ``"FLOAT32"``, ``"INT32"``, ``"INT8"`` or ``"BOOL"``.
        shape: Its size in each dimension.
        constant: Its values as bytes, or ``None`` if it is computed.
        scales: Of numbers in int8 or int32; empty for none.
        zeros: The number that stands for 0, for each scale.
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
    """Refuse an operation that the converter would not have written; return how much it computes, in products.

    Args:
        name: One of `OPERATIONS`.
        inputs: ``None`` where there is none.
        output: The one output.
        options: Its table of options, or ``None``.

    Raises:
        ModelFileError: If it is of another form.
    """
    signature, wanted = OPERATIONS[name]
    received = type(options).__name__.removesuffix("T")
    _require(name, wanted in ("*", received), f"options {received}")
    _check_options(name, options)
    places = _places(name, signature, inputs)
    data = [tensor for place, tensor in places if place == "d"]
    _check_types(name, {tensor.kind for tensor in data}, output.kind)
    for place, tensor in places:
        _check_place(name, place, tensor, data[0])
    for tensor in (*data, output):
        _check_data(name, tensor)
    _require(name, name not in _IMAGES or len(data[0].shape) == len(output.shape) == 4, "no images")  # noqa: PLR2004
    _check_shapes(name, [tensor for _, tensor in places], output, options)
    if output.kind == "INT8":
        _check_scales(
            name, max((tensor.scales[0] for tensor in data if tensor.scales), default=0.0), output.scales[0]
        )
    return _products(name, [tensor for _, tensor in places], output, options)


def _check_types(name: str, kinds: set[str], result: str) -> None:
    if name in ("QUANTIZE", "DEQUANTIZE"):
        allowed = ({"FLOAT32"}, "INT8"), ({"INT8"}, "INT8"), ({"INT8"}, "FLOAT32")
        _require(name, (kinds, result) in (allowed[:2] if name == "QUANTIZE" else allowed[2:]), "types")
    elif name == "GREATER":
        _require(name, (kinds, result) == ({"FLOAT32"}, "BOOL"), "types")
    else:
        _require(name, kinds == {result} and result in ("FLOAT32", "INT8"), f"types {sorted(kinds)}")
        _require(name, result == "FLOAT32" or name not in _FLOAT_ONLY, "int8")


def _check_shapes(name: str, inputs: Sequence[Tensor], output: Tensor, options: Any) -> None:
    """Refuse shapes of which the kernels do not see that they are wrong, or too late."""
    shapes = [tensor.shape for tensor in inputs]
    if name in _CHOOSING:
        most = max(map(len, (*shapes, output.shape)))
        _require(name, most <= _MOST_DIMENSIONS_OF_CHOICE, f"{most} dimensions")
    if name == "SELECT":
        _require(name, set(shapes) == {output.shape}, "shapes that differ")
    if name == "LOG_SOFTMAX":
        _require(name, shapes[0] and shapes[0] == output.shape, "shapes that differ")
    if name == "TILE":
        repeated = tuple(size * times for size, times in zip(shapes[0], inputs[1].integers(), strict=True))
        _require(name, repeated == output.shape, f"a result of shape {output.shape}")
    if name == "STRIDED_SLICE":
        _check_slice(name, inputs, output, options)


def _check_slice(name: str, inputs: Sequence[Tensor], output: Tensor, options: Any) -> None:
    """Refuse all but a part in one piece that lies within the data."""
    _require(name, not any(getattr(options, field) for field in _MASKS_OF_NOTHING), "masks")
    _require(name, set(inputs[3].integers()) == {1}, "steps")
    left = []
    for place, (size, begin, end) in enumerate(
        zip(inputs[0].shape, inputs[1].integers(), inputs[2].integers(), strict=True)
    ):
        masked = (options.beginMask >> place & 1, options.endMask >> place & 1)  # as the converter does it, zeros
        _require(name, not (masked[0] and begin) and not (masked[1] and end), "masks")
        last = size if masked[1] else end + size * (end < 0)
        _require(name, 0 <= begin < last <= size, f"a part from {begin} to {end} of {size}")
        left.append(last - begin)
    _require(name, tuple(left) == output.shape, f"a result of shape {output.shape}")


def _places(name: str, signature: str, inputs: Sequence[Tensor | None]) -> list[tuple[str, Tensor]]:
    """Return each input with its place; only the bias of a dense layer may be missing."""
    places = "d" * len(inputs) if signature == "d+" else signature
    _require(name, inputs and len(inputs) == len(places), f"{len(inputs)} inputs")
    optional = "b" if name == "FULLY_CONNECTED" else ""
    pairs = list(zip(places, inputs, strict=True))
    _require(name, all(tensor is not None or place == optional for place, tensor in pairs), "a gap")
    return [(place, tensor) for place, tensor in pairs if tensor is not None]


def _check_place(name: str, place: str, tensor: Tensor, data: Tensor) -> None:
    if place == "d":
        return
    if place == "c":
        _require(name, tensor.kind == "BOOL" and tensor.constant is None and not tensor.scales, "no condition")
        return
    _require(name, tensor.constant is not None, "computed sizes or weights")
    if place == "i":
        _require(name, tensor.kind == "INT32", f"sizes of type {tensor.kind}")
        _check_integers(name, tensor, data)
        return
    is_float = data.kind == "FLOAT32"
    _require(
        name, tensor.kind == ("FLOAT32" if is_float else "INT8" if place == "w" else "INT32"), "weights of a type"
    )
    if is_float:
        return
    own = 3 if (name, place) == ("DEPTHWISE_CONV_2D", "w") else 0
    _require(name, tensor.scales and not any(tensor.zeros), "weights without scales")
    _require(name, len(tensor.scales) == 1 or tensor.axis == own, "scales along another dimension")


def _check_data(name: str, tensor: Tensor) -> None:
    if tensor.kind != "INT8":
        return
    _require(name, len(tensor.scales) == 1, "int8 without a scale")
    _require(name, -128 <= tensor.zeros[0] <= 127, "a zero that int8 cannot hold")  # noqa: PLR2004


def _check_scales(name: str, largest: float, result: float) -> None:
    """Refuse scales of data and result so far apart that the kernel, which computes their ratio, ends the process."""
    least = {"ADD": largest / 2**18, "SUB": largest / 2**18, "SQUARED_DIFFERENCE": largest**2 / 2**11}
    _require(name, least.get(name, 0.0) < result, "scales far apart")


def _check_integers(name: str, tensor: Tensor, data: Tensor) -> None:
    values, rank = tensor.integers(), len(data.shape)
    if name in ("MEAN", "SUM", "REDUCE_MAX"):
        fits = all(-rank <= axis < rank for axis in values) and len(values) == len({axis % rank for axis in values})
    elif name in ("PAD", "PADV2"):
        fits = tensor.shape == (rank, 2) and all(0 <= size <= _LARGEST_SIZE for size in values)
    elif name in ("STRIDED_SLICE", "TILE"):
        least = 1 if name == "TILE" else -_LARGEST_SIZE
        fits = tensor.shape == (rank,) and all(least <= size <= _LARGEST_SIZE for size in values)
    elif name == "TRANSPOSE":
        fits = sorted(values) == list(range(rank))
    elif name == "RESHAPE":
        fits = len(tensor.shape) == 1 and all(-1 <= size <= _LARGEST_SIZE**2 and size for size in values)
    else:
        fits = tensor.shape == (2,) and all(1 <= size <= _LARGEST_SIZE for size in values)
    _require(name, fits, f"sizes or axes {values[:8]}")


def _check_options(name: str, options: Any) -> None:
    for field in _POSITIVE:
        value = getattr(options, field, 1)
        _require(name, 1 <= value <= _LARGEST_SIZE, f"{field}={value}")
    for field, choices in _CHOICES.items():
        _require(name, getattr(options, field, 0) in choices, f"{field}={getattr(options, field, 0)}")
    for field in _NUMBERS:
        value = getattr(options, field, 1.0)
        _require(name, math.isfinite(value) and (field != "beta" or value > 0), f"{field}={value}")


def _products(name: str, inputs: Sequence[Tensor], output: Tensor, options: Any) -> int:
    """Return how many products or comparisons an operation takes."""
    count = math.prod(output.shape)
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        _require(name, len(inputs[1].shape) == 4 and min(inputs[1].shape) > 0, "weights of a shape")  # noqa: PLR2004
        per_place = math.prod(inputs[1].shape[1:]) if name == "CONV_2D" else math.prod(inputs[1].shape[1:3])
        # The reference kernel lays out all windows beside one another.
        scratch = 4 * math.prod(output.shape[:3]) * per_place
        _require(name, name != "CONV_2D" or scratch <= _LARGEST_SCRATCH, f"{scratch:,} bytes of windows")
        return count * per_place
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return _SLOW * count * int(options.filterWidth) * int(options.filterHeight)
    if name == "FULLY_CONNECTED":
        _require(name, len(inputs[1].shape) == 2, "weights of a shape")  # noqa: PLR2004
        return count * inputs[1].shape[1]
    if name == "BATCH_MATMUL":
        _require(name, min(len(each.shape) for each in inputs) >= 2, "no matrices")  # noqa: PLR2004
        return count * max(inputs[0].shape[-2:])
    return _SLOW * max(count, *(math.prod(each.shape) for each in inputs))


def _require(name: str, condition: object, what: str) -> None:
    if not condition:
        raise ModelFileError(f"{name} with {what}.")
