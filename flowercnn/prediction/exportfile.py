"""Exports with the description inside, read again: LiteRT and ONNX files, without TensorFlow."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Final

from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.prediction.checksum import append_checksum, check_checksum
from flowercnn.prediction.description import Description
from flowercnn.prediction.flatbuffer import metadata_of, rebuilt, with_metadata
from flowercnn.prediction.modelfile import read_file
from flowercnn.prediction.runtimes import LiteRTRuntime, OnnxRuntime, Runtime

__all__ = ["read_export", "write_litert", "write_onnx"]

_KEY: Final = "flowercnn.json"
_DIGEST_KEY: Final = "flowercnn.sha256"
_OPERATIONS: Final = frozenset(
    [
        *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv", "Div", "Elu"),
        *("Erf", "Exp", "Flatten", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish"),
        *("Identity", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Pad", "Pow"),
        *("Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid", "Softmax"),
        *("Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Shape", "Slice", "Gather"),
        *("ConstantOfShape", "Expand", "Sum", "Softsign", "Selu"),
    ]
)
_MOST_NODES: Final = 100_000


def write_litert(path: Path, flatbuffer: bytes, description: Description) -> None:
    """Write a LiteRT file with the description in its metadata and a checksum after its end."""
    path.write_bytes(with_metadata(flatbuffer, _KEY, description.to_json().encode()))
    append_checksum(path)


def write_onnx(path: Path, model: Any, description: Description) -> None:
    """Write an ONNX file with the description and a checksum in its metadata."""
    model.metadata_props.add(key=_KEY, value=description.to_json())
    model.metadata_props.add(key=_DIGEST_KEY, value=_digest(model))
    path.write_bytes(model.SerializeToString())


def read_export(path: Path) -> tuple[Description, Runtime]:
    """Return what a ``.tflite`` or ``.onnx`` file of this library holds.

    Raises:
        MissingDependencyError: If the runtime it is for is not installed.
        ModelFileError: If it cannot be read, is none, or is not safe to load.
    """
    content = read_file(path)
    try:
        return _read_onnx(path, content) if path.suffix == ".onnx" else _read_litert(path, content)
    except UnicodeDecodeError as error:  # a text in the metadata of an ONNX file, wherever it is looked at
        raise ModelFileError(f"{path}: the file is damaged ({error}).") from error


def _read_litert(path: Path, content: bytes) -> tuple[Description, Runtime]:
    name = str(path)
    text = metadata_of(content, _KEY, name)
    if text is None:
        raise ModelFileError(_unknown(path))
    description = Description.from_json(text, name)
    check_checksum(content, name)
    size = (1, *description.preprocessing.image_size, 3)
    flatbuffer = rebuilt(content, name, size, len(description.class_names))
    try:
        return description, LiteRTRuntime(flatbuffer)
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path}: the LiteRT network cannot be used: {error}") from error


def _read_onnx(path: Path, content: bytes) -> tuple[Description, Runtime]:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            "Reading ONNX needs the packages onnx and onnxruntime: pip install 'flowercnn[onnx]'."
        ) from error
    name = str(path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise ModelFileError(f"{path}: not an ONNX model, or damaged ({type(error).__name__}).") from error
    properties = {item.key: item.value for item in model.metadata_props}
    if _KEY not in properties or len(properties) != len(model.metadata_props):
        raise ModelFileError(_unknown(path))
    description = Description.from_json(properties[_KEY], name)
    digest = properties.pop(_DIGEST_KEY, "")
    _check_graph(model, name)
    if digest != _digest(model):
        raise ModelFileError(f"{path}: refused: the file is damaged or was changed after it was written.")
    _check_ends(model.graph, description, name)
    try:
        return description, OnnxRuntime(content)
    except MissingDependencyError:
        raise
    except Exception as error:  # ONNX Runtime has a class of errors per cause
        raise ModelFileError(f"{path}: the ONNX network cannot be used: {error}") from error


def _digest(model: Any) -> str:
    """The SHA-256 of a model without the digest itself."""
    bare = type(model)()
    bare.CopyFrom(model)
    kept = [(item.key, item.value) for item in model.metadata_props if item.key != _DIGEST_KEY]
    del bare.metadata_props[:]
    for key, value in kept:
        bare.metadata_props.add(key=key, value=value)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _check_graph(model: Any, name: str) -> None:
    """Refuse weights in other files, functions, graphs in graphs, and operations no picture classifier needs."""
    graph = model.graph
    if len(graph.node) > _MOST_NODES or len(graph.initializer) > _MOST_NODES:
        raise ModelFileError(f"{name}: refused: a graph of over {_MOST_NODES:,} parts.")
    if model.functions or model.training_info or graph.sparse_initializer or len(graph.input) != 1:
        raise ModelFileError(f"{name}: refused: functions, training or several inputs in the graph.")
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _OPERATIONS:
            raise ModelFileError(
                f"{name}: refused: the operation {node.op_type!r} is not one classifiers are made of."
            )
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise ModelFileError(f"{name}: refused: a graph within the graph.")
            tensors.extend([attribute.t] if attribute.HasField("t") else attribute.tensors)
    for tensor in tensors:
        if tensor.external_data or tensor.data_location != tensor.DEFAULT:
            raise ModelFileError(f"{name}: refused: weights that lie in another file.")
        if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > 2**29:
            raise ModelFileError(f"{name}: refused: weights of shape {list(tensor.dims)}.")


def _check_ends(graph: Any, description: Description, name: str) -> None:
    ends = [[dim.dim_value for dim in end.type.tensor_type.shape.dim] for end in (graph.input[0], graph.output[0])]
    size, classes = description.preprocessing.image_size, len(description.class_names)
    fits = graph.input[0].name == "pixels" and ends[0][1:] == [*size, 3] and ends[1][1:] == [classes]
    if not fits:
        raise ModelFileError(f"{name}: refused: the network is not one from {size} pictures to {classes} classes.")


def _unknown(path: Path) -> str:
    return f"{path}: not exported by flowercnn: it has no class names."
