"""ONNX files with a right checksum and something in them that no classifier needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.runtimes.onnx import OnnxRuntime
from flowercnn.saving.light import write_onnx
from flowercnn.saving.modelfile import read_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

GOOD = Path(__file__).parents[1] / "files" / "0.1.0.keras"
DESCRIPTION = read_model(GOOD).description
SIZE = DESCRIPTION.preprocessing.image_size
CLASSES = len(DESCRIPTION.class_names)
LOWEST = -(2**63)


def node(operation: str, *inputs: Any, to: str = "x", **attributes: Any) -> Any:
    return onnx.helper.make_node(operation, inputs, [to], **attributes)


def network(nodes: list[Any], **constants: Any) -> Any:
    """A classifier that computes ``x``, of three dimensions at least, on the way from pixels to
    probabilities."""
    ends = [
        onnx.helper.make_tensor_value_info(name, 1, shape)
        for name, shape in (("pixels", [None, *SIZE, 3]), ("probabilities", [None, CLASSES]))
    ]
    weights = {"weights": np.ones((3, CLASSES), np.float32), **constants}
    nodes = [
        *nodes,
        node("ReduceMax", "x", to="top", keepdims=0),
        node("ReduceMean", "pixels", to="means", axes=[1, 2], keepdims=0),
        node("Add", "means", "top", to="sum"),
        node("MatMul", "sum", "weights", to="logits"),
        node("Softmax", "logits", to="probabilities"),
    ]
    arrays = [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


def load(path: Path, model: Any) -> fc.Predictor:
    write_onnx(path / "model.onnx", model, DESCRIPTION)
    return fc.Predictor.load(path / "model.onnx", runtime="onnx")


TURNED = node("Transpose", "pixels", to="turned", perm=[0, 3, 1, 2])
FILTER = np.ones((1, 3, 1, 1), np.float32)
COUNT = [
    node("Shape", "pixels", to="s0"),
    *(node("Concat", f"s{i}", f"s{i}", to=f"s{i + 1}", axis=0) for i in range(30)),
]
SQUARED = [
    node("Reshape", "pixels", "row", to="tall"),
    node("Reshape", "pixels", "column", to="wide"),
    node("MatMul", "tall", "wide"),
]
ALL_ALIVE = [
    node("Resize", "pixels", "", "scales", to="big"),
    *(node("Softmax", "big", to=f"b{i}") for i in range(9)),
    node("Sum", *(f"b{i}" for i in range(9))),
]


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("Div", "a", "b")], {"a": [LOWEST], "b": [-1]}, "Div of integers"),
        ([node("Expand", "pixels", "a")], {"a": [10**9, 1, 1, 1]}, "'Expand' is not one"),
        ([node("ConstantOfShape", "a")], {"a": [10**9]}, "'ConstantOfShape' is not one"),
        ([onnx.helper.make_node("Cast", ["pixels"], ["x"], to=6)], {}, "made into integers"),
        ([TURNED, node("Conv", "turned", "a", group=0)], {"a": FILTER}, "group=0"),
        ([TURNED, node("Conv", "turned", "a", strides=[0, 0])], {"a": FILTER}, "strides="),
        (
            [TURNED, node("Conv", "turned", "a", "b")],
            {"a": np.ones((9, 3, 1, 1), "f4"), "b": np.ones(1, "f4")},
            "bias",
        ),
        ([node("Pad", "pixels", "a")], {"a": [0, -100, 0, 0, 0, 0, 0, 0]}, "Pad by"),
        (
            [node("Pad", "pixels", "a", mode="reflect")],
            {"a": [0, 9, 0, 0, 0, 0, 0, 0]},
            "mode=b'reflect'",
        ),
        ([node("Pad", "pixels", "a")], {"a": [0, 0, 0, 0, 0, 20_000, 20_000, 0]}, "would need"),
        (
            [node("Slice", "pixels", "a", "b", "c", "d")],
            {"a": [0], "b": [9], "c": [1], "d": [LOWEST]},
            "Slice by",
        ),
        (
            [node("Resize", "pixels", "", "a")],
            {"a": np.array([1, 0, -1, 1], "f4")},
            "beyond measure",
        ),
        ([node("Reshape", "pixels", "pixels")], {}, "input 1 of Reshape is not a constant"),
        ([node("PRelu", "pixels", "a")], {"a": np.ones((0, 3), np.float32)}, "is empty"),
        ([node("Relu", "later"), node("Relu", "x", to="later")], {}, "not computed before"),
        ([node("Relu", "pixels", to="pixels")], {}, "two values of the name"),
        ([node("Mul", "pixels", "a")], {"a": np.float32(np.nan)}, "NaN or infinite"),
        ([node("Mul", "pixels", "a")], {"a": np.array(["abc"], object)}, "weights of type 8"),
        ([*COUNT, node("Reshape", "pixels", "s30")], {}, "a shape of too many parts"),
        (ALL_ALIVE, {"scales": np.array([1, 300, 300, 1], "f4")}, "would need"),
        ([node("Pow", "pixels", "a")], {"a": np.float32(99)}, "noise"),
        ([node("Tile", "pixels", "a")], {"a": [1, 2000, 1, 1]}, "Tile by"),
        ([node("Tile", "pixels", "a")], {"a": [1, 1000, 1000, 1]}, "would need"),
        (
            [node("Shape", "pixels", to="s"), node("Tile", "pixels", "s")],
            {},
            "input 1 of Tile is not a constant",
        ),
        ([node("Unsqueeze", "pixels", "a")], {"a": [-99]}, "Unsqueeze by"),
        ([node("Greater", "a", "b")], {"a": [1], "b": [2]}, "Greater of integers"),
        (
            [node("Greater", "pixels", "a", to="g"), node("Add", "pixels", "g")],
            {"a": np.float32(1)},
            "Add of conditions",
        ),
        ([node("Not", "pixels")], {}, "Not of conditions"),
        (
            [
                node("Greater", "pixels", "a", to="g"),
                onnx.helper.make_node("Cast", ["g"], ["x"], to=6),
            ],
            {"a": np.float32(1)},
            "Cast of conditions",
        ),
        (
            [node("ReduceProd", "pixels")],
            {},
            r"'ReduceProd' is not one this library reads \(at ''\)",
        ),
        (
            [TURNED, node("AveragePool", "turned", kernel_shape=[9999, 9999], pads=[9998] * 4)],
            {},
            "would need",
        ),
    ],
)
def test_what_no_classifier_needs_is_refused(
    tmp_path: Path, nodes: list[Any], constants: dict[str, Any], reason: str
) -> None:
    with pytest.raises(fc.ModelFileError, match=f"rejected.*{reason}"):
        load(tmp_path, network(nodes, **constants))


def other_file(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="secret")


def huge(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [2**31, 2**31, 2**31]


def short(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"1234"


def subgraph(model: Any) -> None:
    model.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.name = "g"


def strange_operations(model: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"


def other_version(model: Any) -> None:
    model.opset_import[0].version = 7


def second_output(model: Any) -> None:
    model.graph.output.add(name="x")


@pytest.mark.parametrize(
    "change",
    [
        other_file,
        huge,
        short,
        subgraph,
        strange_operations,
        other_version,
        second_output,
        lambda model: model.functions.add(name="f"),
        lambda model: model.training_info.add(),
        lambda model: model.graph.sparse_initializer.add(),
    ],
)
def test_unusual_parts_are_refused(tmp_path: Path, change: Callable[[Any], None]) -> None:
    model = network([node("Relu", "pixels")])
    change(model)
    with pytest.raises(fc.ModelFileError):
        load(tmp_path, model)


# weights that claim to be large
@pytest.mark.parametrize("start", [b"", b"\x2a\x06\x4a\xff\xff\xff\xff\x07"])
def test_a_file_of_very_many_parts_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    path = tmp_path / "model.onnx"
    graph = start + b"\x0a\x00" * (2**23 - len(start) // 2)  # eight million empty nodes
    path.write_bytes(b"\x3a\x80\x80\x80\x08" + graph)
    monkeypatch.setattr(onnx, "load_model_from_string", lambda _: pytest.fail("parsed"))
    with pytest.raises(fc.ModelFileError, match="beside the weights"):
        fc.Predictor.load(path)


def test_pictures_multiplied_with_each_other_come_one_at_a_time(tmp_path: Path) -> None:
    loaded = load(tmp_path, network(SQUARED, row=[-1, 3], column=[3, -1]))
    assert loaded._network.runtime.batch == 1


def test_the_runtime_gets_the_model_as_it_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    session = onnxruntime.InferenceSession

    def record(content: bytes, options: Any, **settings: Any) -> Any:
        given.extend([content, options.get_session_config_entry("session.load_model_format")])
        return session(content, options, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    model = network([node("Relu", "pixels")])
    model.doc_string = "ORTM"
    model.graph.value_info.add(name="ORTM")
    load(tmp_path, onnx.ModelProto.FromString(model.SerializeToString() + b"\xfa\x7f\x04ORTM"))
    assert b"ORTM" not in given[0]
    assert given[1] == "ONNX"


def test_what_cannot_be_computed_later_is_a_model_file_error(tmp_path: Path) -> None:
    runtime = load(tmp_path, network([node("Relu", "pixels")]))._network.runtime
    assert isinstance(runtime, OnnxRuntime)
    with pytest.raises(fc.ModelFileError, match="cannot be computed"):
        runtime(np.zeros((1, 2, 2, 3), np.uint8))
