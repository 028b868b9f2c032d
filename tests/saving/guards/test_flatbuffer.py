"""LiteRT networks made to hurt: each is well-formed, and LiteRT would crash, hang or take gigabytes
with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from flowercnn import ModelFileError
from flowercnn.runtimes import litert
from flowercnn.runtimes.litert import LiteRTRuntime
from flowercnn.saving.guards.flatbuffer import rebuild_flatbuffer

flatbuffers = pytest.importorskip("flatbuffers", reason="ai-edge-litert is not installed")
pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

SIDE, CLASSES = 16, 3
SHAPE = (1, SIDE, SIDE, 3)
Scale = tuple[float, int]


class Graph:
    """A network that answers with the mean colour of a picture, and what else is added to it."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.pixels = self.tensor("FLOAT32", SHAPE)
        mean = self.add(
            "MEAN", [self.pixels, self.integers([1, 2])], "FLOAT32", (1, CLASSES), "ReducerOptions"
        )
        self.graph.inputs, self.graph.outputs = [self.pixels], [mean]

    def tensor(
        self, kind: str, shape: Sequence[int], data: Any = None, scale: Scale | None = None
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.type, tensor.shape, tensor.buffer = (
            getattr(self.schema.TensorType, kind),
            list(shape),
            0,
        )
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale[0]], [scale[1]]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def integers(self, values: Any) -> int:
        array = np.array(values, np.int32)
        return self.tensor("INT32", array.shape, array)

    def int8(self, scale: Scale | None = (0.1, 0)) -> int:
        """The picture as int8."""
        return self.add("QUANTIZE", [self.pixels], "INT8", SHAPE, scale=scale)

    def add(
        self,
        name: str,
        inputs: list[int],
        kind: str,
        shape: Sequence[int],
        options: str | None = None,
        *,
        scale: Scale | None = None,
        **settings: Any,
    ) -> int:
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        code.version = 1
        self.model.operatorCodes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, [self.tensor(kind, shape, scale=scale)]
        if options is not None:
            operator.builtinOptions = getattr(self.schema, f"{options}T")()
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            for field, value in settings.items():
                setattr(operator.builtinOptions, field, value)
        self.graph.operators.append(operator)
        return int(operator.outputs[0])

    def packed(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


STRIDES: dict[str, Any] = {"strideH": 1, "strideW": 1}
RESIZE = "ResizeBilinearOptions"
DILATIONS: dict[str, Any] = {"dilationHFactor": 1, "dilationWFactor": 1}


def softmax_of_another_type(graph: Graph) -> None:
    graph.add("SOFTMAX", [graph.pixels], "INT8", SHAPE, "SoftmaxOptions", beta=1.0, scale=(0.1, 0))


def order_that_is_missing(graph: Graph) -> None:
    graph.add("TRANSPOSE", [graph.pixels, -1], "FLOAT32", SHAPE)


def shape_that_is_missing(graph: Graph) -> None:
    graph.add("RESHAPE", [graph.pixels, -1], "FLOAT32", (768,), "ReshapeOptions", newShape=[0, 768])


def picture_that_is_missing(graph: Graph) -> None:
    graph.add("SQUEEZE", [-1], "FLOAT32", (SIDE, SIDE, 3), "SqueezeOptions", squeezeDims=[0])


def bias_that_is_missing(graph: Graph) -> None:
    weights = graph.tensor("INT8", (1, 3, 3, 3), np.ones(27, np.int8), (0.1, 0))
    settings: dict[str, Any] = {**STRIDES, **DILATIONS, "depthMultiplier": 1, "padding": 0}
    inputs = [graph.int8(), weights]
    graph.add(
        "DEPTHWISE_CONV_2D",
        inputs,
        "INT8",
        SHAPE,
        "DepthwiseConv2DOptions",
        scale=(0.1, 0),
        **settings,
    )


def int8_without_a_scale(graph: Graph) -> None:
    weights = graph.tensor("INT8", (3,), np.ones(3, np.int8))
    graph.add("ADD", [graph.int8(), weights], "INT8", SHAPE, "AddOptions", scale=(0.1, 0))


def sum_with_a_tiny_scale(graph: Graph) -> None:
    graph.add("ADD", [graph.int8()] * 2, "INT8", SHAPE, "AddOptions", scale=(1e-9, 0))


def squares_with_a_tiny_scale(graph: Graph) -> None:
    graph.add("SQUARED_DIFFERENCE", [graph.int8()] * 2, "INT8", SHAPE, scale=(1e-9, 0))


def scale_below_zero(graph: Graph) -> None:
    graph.int8(scale=(-1.0, 0))


def size_that_is_computed(graph: Graph) -> None:
    size = graph.add("ABS", [graph.integers([9000, 9000])], "INT32", (2,))
    graph.add("RESIZE_BILINEAR", [graph.pixels, size], "FLOAT32", SHAPE, "ResizeBilinearOptions")


def weights_that_are_computed(graph: Graph) -> None:
    weights = graph.add(
        "ABS",
        [graph.tensor("FLOAT32", (1, 3, 3, 3), np.ones(27, np.float32))],
        "FLOAT32",
        (1, 3, 3, 3),
    )
    bias = graph.tensor("FLOAT32", (1,), np.ones(1, np.float32))
    inputs, settings = [graph.pixels, weights, bias], {**STRIDES, **DILATIONS}
    graph.add("CONV_2D", inputs, "FLOAT32", (1, SIDE, SIDE, 1), "Conv2DOptions", **settings)


def enlarged(graph: Graph, side: int) -> int:
    shape, options = (1, side, side, 3), "ResizeNearestNeighborOptions"
    return graph.add(
        "RESIZE_NEAREST_NEIGHBOR",
        [graph.pixels, graph.integers([side, side])],
        "FLOAT32",
        shape,
        options,
    )


def windows_of_gigabytes(graph: Graph) -> None:
    weights = graph.tensor("FLOAT32", (1, 20, 20, 3), np.ones(1200, np.float32))
    bias = graph.tensor("FLOAT32", (1,), np.ones(1, np.float32))
    inputs, settings = [enlarged(graph, 1000), weights, bias], {**STRIDES, **DILATIONS}
    graph.add("CONV_2D", inputs, "FLOAT32", (1, 1000, 1000, 1), "Conv2DOptions", **settings)


def pooling_that_takes_hours(graph: Graph) -> None:
    settings = {**STRIDES, "filterHeight": 800, "filterWidth": 800}
    graph.add(
        "MAX_POOL_2D",
        [enlarged(graph, 800)],
        "FLOAT32",
        (1, 800, 800, 3),
        "Pool2DOptions",
        **settings,
    )


def floats(graph: Graph, *shape: int) -> int:
    return graph.tensor("FLOAT32", shape, np.ones(shape, np.float32))


def bright(graph: Graph) -> int:
    return graph.add("GREATER", [graph.pixels, floats(graph)], "BOOL", SHAPE)


def part(
    graph: Graph, begin: Sequence[int], end: Sequence[int], steps: int = 1, **settings: Any
) -> int:
    inputs = [graph.pixels, *(graph.integers(values) for values in (begin, end, [steps] * 4))]
    masks = {"beginMask": 0, "endMask": 0, "offset": False, **settings}
    return graph.add(
        "STRIDED_SLICE", inputs, "FLOAT32", (1, 4, 4, 3), "StridedSliceOptions", **masks
    )


def repeated_a_billion_times(graph: Graph) -> None:
    graph.add("TILE", [graph.pixels, graph.integers([2**16, 2**15, 1, 1])], "FLOAT32", SHAPE)


def repeated_too_few_dimensions(graph: Graph) -> None:
    graph.add("TILE", [graph.pixels, graph.integers([1, 1])], "FLOAT32", SHAPE)


def part_outside(graph: Graph) -> None:
    part(graph, [0, 14, 0, 0], [1, 18, 4, 3])


def part_before_the_beginning(graph: Graph) -> None:
    part(graph, [0, -20, 0, 0], [1, -16, 4, 3])


def part_with_masks_over_numbers(graph: Graph) -> None:
    part(graph, [0, 12, 4, 0], [0, 16, 8, 0], beginMask=0b1111, endMask=0b1001)


def part_backwards(graph: Graph) -> None:
    part(graph, [0, 8, 8, 0], [1, 4, 4, 3], steps=-1)


def part_with_fewer_dimensions(graph: Graph) -> None:
    part(graph, [0, 0, 0, 0], [1, 4, 4, 3], shrinkAxisMask=1)


def condition_that_is_a_constant(graph: Graph) -> None:
    condition = graph.tensor("BOOL", SHAPE, np.full(SHAPE, 7, np.uint8))
    graph.add("SELECT", [condition, graph.pixels, graph.pixels], "FLOAT32", SHAPE)


def condition_that_is_a_number(graph: Graph) -> None:
    graph.add("SELECT_V2", [graph.pixels] * 3, "FLOAT32", SHAPE)


def condition_that_is_calculated_with(graph: Graph) -> None:
    graph.add("ADD", [bright(graph)] * 2, "BOOL", SHAPE, "AddOptions")


def choice_of_other_shapes(graph: Graph) -> None:
    graph.add("SELECT", [bright(graph), graph.pixels, floats(graph, 3)], "FLOAT32", SHAPE)


def choice_of_five_dimensions(graph: Graph) -> None:
    graph.add("GREATER", [floats(graph, 1, 1, 1, 1, 3), graph.pixels], "BOOL", (1, *SHAPE))


def logarithm_of_a_number(graph: Graph) -> None:
    graph.add("LOG_SOFTMAX", [floats(graph)], "FLOAT32", (), "LogSoftmaxOptions")


@pytest.mark.parametrize(
    ("evil", "reason"),
    [
        (repeated_a_billion_times, "TILE with a result of shape"),
        (repeated_too_few_dimensions, "TILE with sizes or axes"),
        (part_outside, "STRIDED_SLICE with a part from 14 to 18 of 16"),
        (part_before_the_beginning, "STRIDED_SLICE with a part from -20"),
        (part_with_masks_over_numbers, "STRIDED_SLICE with masks"),
        (part_backwards, "STRIDED_SLICE with steps"),
        (part_with_fewer_dimensions, "STRIDED_SLICE with masks"),
        (condition_that_is_a_constant, "SELECT with no condition"),
        (condition_that_is_a_number, "SELECT_V2 with no condition"),
        (condition_that_is_calculated_with, "ADD with types"),
        (choice_of_other_shapes, "SELECT with shapes that differ"),
        (choice_of_five_dimensions, "GREATER with 5 dimensions"),
        (logarithm_of_a_number, "LOG_SOFTMAX with shapes"),
        (softmax_of_another_type, "SOFTMAX with types"),
        (order_that_is_missing, "TRANSPOSE with a gap"),
        (shape_that_is_missing, "RESHAPE with a gap"),
        (picture_that_is_missing, "SQUEEZE with a gap"),
        (bias_that_is_missing, "DEPTHWISE_CONV_2D with 2 inputs"),
        (int8_without_a_scale, "int8 without a scale"),
        (sum_with_a_tiny_scale, "scales far apart"),
        (squares_with_a_tiny_scale, "scales far apart"),
        (scale_below_zero, "scales that make no sense"),
        (size_that_is_computed, "ABS with types"),
        (weights_that_are_computed, "computed sizes or weights"),
        (windows_of_gigabytes, "bytes of windows"),
        (pooling_that_takes_hours, "steps"),
    ],
)
def test_networks_made_to_hurt_are_refused(evil: Callable[[Graph], None], reason: str) -> None:
    graph = Graph()
    evil(graph)
    with pytest.raises(ModelFileError, match=f"rejected.*{reason}"):
        rebuild_flatbuffer(graph.packed(), "evil", SHAPE, CLASSES)


def test_what_is_not_read_is_named_with_its_place() -> None:
    graph = Graph()
    graph.graph.tensors[graph.add("SIN", [graph.pixels], "FLOAT32", SHAPE)].name = "odd/Sin"
    with pytest.raises(ModelFileError, match=r"SIN is not one this library reads \(at 'odd/Sin'\)"):
        rebuild_flatbuffer(graph.packed(), "other", SHAPE, CLASSES)


def test_names_that_are_no_text_hide_no_tensor() -> None:
    graph = Graph()
    graph.graph.name = b"\xff\xfe"
    hidden = graph.graph.tensors[graph.add("ABS", [graph.pixels], "FLOAT32", SHAPE)]
    hidden.name = b"\xff\xfe"
    assert np.allclose(
        LiteRTRuntime(rebuild_flatbuffer(graph.packed(), "odd", SHAPE, CLASSES))(
            np.ones(SHAPE, np.uint8)
        ),
        1,
    )
    large = graph.add(
        "RESIZE_BILINEAR", [graph.pixels, graph.integers([4000, 4000])], "FLOAT32", SHAPE, RESIZE
    )
    graph.graph.tensors[large].name = b"\xff\xfe"
    with pytest.raises(ModelFileError, match="rejected"):
        rebuild_flatbuffer(graph.packed(), "evil", SHAPE, CLASSES)


def test_a_tensor_the_interpreter_tells_nothing_of_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter.get_tensor_details
    monkeypatch.setattr(Interpreter, "get_tensor_details", lambda *args: details(*args)[1:])
    with pytest.raises(
        ModelFileError,
        match="does not fit together: a tensor without details from the interpreter",
    ):
        rebuild_flatbuffer(Graph().packed(), "evil", SHAPE, CLASSES)


def test_an_output_that_is_not_computed_is_refused() -> None:
    graph = Graph()
    graph.graph.operators = []
    with pytest.raises(ModelFileError, match="rejected: an output that is not computed"):
        rebuild_flatbuffer(graph.packed(), "empty", SHAPE, CLASSES)


def test_parts_and_choices_in_bounds_compute() -> None:
    graph = Graph()
    part(graph, [0, 12, 4, 0], [0, 16, -8, 0], beginMask=0b1001, endMask=0b1001)
    graph.add("SELECT_V2", [bright(graph), graph.pixels, floats(graph)], "FLOAT32", SHAPE)
    assert np.allclose(
        LiteRTRuntime(rebuild_flatbuffer(graph.packed(), "good", SHAPE, CLASSES))(
            np.ones(SHAPE, np.uint8)
        ),
        1,
    )


def test_the_network_they_are_made_of_computes() -> None:
    runtime = LiteRTRuntime(rebuild_flatbuffer(Graph().packed(), "good", SHAPE, CLASSES))
    assert np.allclose(runtime(np.full((2, *SHAPE[1:]), 7, np.uint8)), 7)


def test_parts_that_are_used_a_thousand_times_are_refused_before_they_are_unpacked() -> None:
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder(1024)
    name = builder.CreateString("x" * 1000)
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, 50_000)
    for _ in range(50_000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    with pytest.raises(ModelFileError, match="parts overlap"):
        rebuild_flatbuffer(bytes(builder.Output()), "evil", SHAPE, CLASSES)


def test_large_networks_and_pictures_are_computed_few_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = Graph()
    for _ in range(10):
        enlarged(graph, 1500)
    monkeypatch.setattr(litert, "_BYTES_OF_BATCH", 5 * 4 * SIDE * SIDE * 3)
    runtime = LiteRTRuntime(rebuild_flatbuffer(graph.packed(), "large", SHAPE, CLASSES))
    assert runtime._copies == 1  # of 270 MB
    assert runtime.batch == 5
