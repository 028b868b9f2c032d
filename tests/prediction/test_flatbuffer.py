"""LiteRT networks made to hurt: each is well-formed, and LiteRT would crash, hang or take gigabytes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from flowercnn import ModelFileError
from flowercnn.prediction import runtimes
from flowercnn.prediction.flatbuffer import rebuilt
from flowercnn.prediction.runtimes import LiteRTRuntime

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
        mean = self.add("MEAN", [self.pixels, self.integers([1, 2])], "FLOAT32", (1, CLASSES), "ReducerOptions")
        self.graph.inputs, self.graph.outputs = [self.pixels], [mean]

    def tensor(self, kind: str, shape: Sequence[int], data: Any = None, scale: Scale | None = None) -> int:
        tensor = self.schema.TensorT()
        tensor.type, tensor.shape, tensor.buffer = getattr(self.schema.TensorType, kind), list(shape), 0
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
    graph.add("DEPTHWISE_CONV_2D", inputs, "INT8", SHAPE, "DepthwiseConv2DOptions", scale=(0.1, 0), **settings)


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
        "ABS", [graph.tensor("FLOAT32", (1, 3, 3, 3), np.ones(27, np.float32))], "FLOAT32", (1, 3, 3, 3)
    )
    bias = graph.tensor("FLOAT32", (1,), np.ones(1, np.float32))
    inputs, settings = [graph.pixels, weights, bias], {**STRIDES, **DILATIONS}
    graph.add("CONV_2D", inputs, "FLOAT32", (1, SIDE, SIDE, 1), "Conv2DOptions", **settings)


def enlarged(graph: Graph, side: int) -> int:
    shape, options = (1, side, side, 3), "ResizeNearestNeighborOptions"
    return graph.add(
        "RESIZE_NEAREST_NEIGHBOR", [graph.pixels, graph.integers([side, side])], "FLOAT32", shape, options
    )


def windows_of_gigabytes(graph: Graph) -> None:
    weights = graph.tensor("FLOAT32", (1, 20, 20, 3), np.ones(1200, np.float32))
    bias = graph.tensor("FLOAT32", (1,), np.ones(1, np.float32))
    inputs, settings = [enlarged(graph, 1000), weights, bias], {**STRIDES, **DILATIONS}
    graph.add("CONV_2D", inputs, "FLOAT32", (1, 1000, 1000, 1), "Conv2DOptions", **settings)


def pooling_that_takes_hours(graph: Graph) -> None:
    settings = {**STRIDES, "filterHeight": 800, "filterWidth": 800}
    graph.add("MAX_POOL_2D", [enlarged(graph, 800)], "FLOAT32", (1, 800, 800, 3), "Pool2DOptions", **settings)


@pytest.mark.parametrize(
    ("evil", "reason"),
    [
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
    with pytest.raises(ModelFileError, match=f"refused.*{reason}"):
        rebuilt(graph.packed(), "evil", SHAPE, CLASSES)


def test_the_network_they_are_made_of_computes() -> None:
    runtime = LiteRTRuntime(rebuilt(Graph().packed(), "good", SHAPE, CLASSES))
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
    with pytest.raises(ModelFileError, match="on top of one another"):
        rebuilt(bytes(builder.Output()), "evil", SHAPE, CLASSES)


def test_large_networks_and_pictures_are_computed_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph()
    for _ in range(10):
        enlarged(graph, 1500)
    monkeypatch.setattr(runtimes, "_BYTES_OF_BATCH", 5 * 4 * SIDE * SIDE * 3)
    runtime = LiteRTRuntime(rebuilt(graph.packed(), "large", SHAPE, CLASSES))
    assert runtime._copies == 1  # of 270 MB
    assert runtime.batch == 5
