"""Exports with the description inside, read again: LiteRT and ONNX files, without TensorFlow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.runtimes import LiteRTRuntime, OnnxRuntime, Runtime
from flowercnn.saving.description import Description
from flowercnn.saving.guards.checksum import append_checksum, check_checksum
from flowercnn.saving.guards.flatbuffer import metadata_of, rebuilt, with_metadata
from flowercnn.saving.guards.onnxgraph import check_parts, made_anew
from flowercnn.saving.modelfile import read_file

__all__ = ["read_export", "write_litert", "write_onnx"]

_KEY: Final = "flowercnn.json"
_DIGEST_KEY: Final = "flowercnn.sha256"


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
        return _read_onnx(path, content) if path.suffix.lower() == ".onnx" else _read_litert(path, content)
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
        check_parts(content)
        model = onnx.load_model_from_string(content)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: refused: {error}") from error
    except Exception as error:
        raise ModelFileError(f"{path}: not an ONNX model, or damaged ({type(error).__name__}).") from error
    properties = {item.key: item.value for item in model.metadata_props}
    if _KEY not in properties or len(properties) != len(model.metadata_props):
        raise ModelFileError(_unknown(path))
    description = Description.from_json(properties[_KEY], name)
    if properties.get(_DIGEST_KEY) != _digest(model):
        raise ModelFileError(f"{path}: refused: the file is damaged or was changed after it was written.")
    try:
        shape = (*description.preprocessing.image_size, 3)
        anew, batch = made_anew(onnx, model, shape, len(description.class_names))
        return description, OnnxRuntime(anew.SerializeToString(), shape, len(description.class_names), batch)
    except MissingDependencyError:
        raise
    except ModelFileError as error:
        raise ModelFileError(f"{path}: refused: {error}") from error
    except Exception as error:  # ONNX and ONNX Runtime have a class of errors per cause
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


def _unknown(path: Path) -> str:
    return f"{path}: not exported by flowercnn: it has no class names. Give a file that Predictor.export has written."
