"""Networks that need no TensorFlow: LiteRT inside a model file, and LiteRT and ONNX exports."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from flowercnn.errors import MissingDependencyError, ModelFileError
from flowercnn.runtimes import (
    KerasRuntime,
    LiteRTRuntime,
    OnnxRuntime,
    Runtime,
    litert_interpreter,
    to_litert,
)
from flowercnn.saving.description import Description
from flowercnn.saving.guards.archive import append_checksum, check_checksum
from flowercnn.saving.guards.flatbuffer import metadata_of, rebuild_flatbuffer, with_metadata
from flowercnn.saving.guards.onnxgraph import check_parts, rebuild_onnx
from flowercnn.saving.modelfile import read_file

__all__ = ["light_copy", "read_export", "write_litert", "write_onnx"]

_log = logging.getLogger(__name__)

_MOST_IN_LIGHT_COPY: Final = 32 * 10**6  # weights
_TOLERANCE: Final = 1e-4
_FEATURE_TOLERANCE: Final = 1e-3
_NO_LIGHT_COPY: Final = (
    "This network has no copy for LiteRT, neither here nor in its model file: %s. Predictions "
    "need TensorFlow, which starts slower; docs/how-to/predict.md lists the layers."
)
_KEY: Final = "flowercnn.json"
_DIGEST_KEY: Final = "flowercnn.sha256"


def light_copy(model: Any, layers: tuple[str, ...] = ()) -> bytes | None:
    """Return a Keras model as LiteRT flatbuffer, proved on noise, or ``None``.

    It is ``None`` without the interpreter, for a network so large that the conversion takes
    gigabytes, and with layers or numbers that LiteRT computes differently.

    Args:
        model: A Keras model.
        layers: Names of layers whose mean activations are computed, too.
    """
    if model.count_params() > _MOST_IN_LIGHT_COPY:
        _log.info("No LiteRT copy of so large a network. Predictor.export makes one.")
        return None
    try:
        litert_interpreter()
        flatbuffer = to_litert(model, layers=layers)
        # A network that would be rejected on loading is not kept.
        shape = (1, *model.input_shape[1:])
        rebuild_flatbuffer(flatbuffer, "", shape, model.output_shape[-1], features=bool(layers))
        pixels = np.random.default_rng(0).integers(0, 256, (2, *shape[1:]), dtype=np.uint8)
        light, features = LiteRTRuntime(flatbuffer).with_features(pixels)
        expected, wanted = KerasRuntime(model, layers).with_features(pixels)
        same = np.allclose(features, wanted, rtol=_FEATURE_TOLERANCE, atol=_FEATURE_TOLERANCE)
        difference = np.abs(light - expected).max() if same else math.inf
    except MissingDependencyError as error:
        _log.info("No LiteRT copy of the network: %s", error)
        return None
    except (ModelFileError, RuntimeError, ValueError) as error:
        _log.warning(_NO_LIGHT_COPY, str(error).removeprefix(": ").rstrip("."))
        return None
    if not difference <= _TOLERANCE:
        _log.warning(_NO_LIGHT_COPY, f"its probabilities would differ by {difference:g}")
        return None
    return flatbuffer


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
        ModelFileError: If it cannot be read, is not an export of this library, or is not safe to
            load.
    """
    content = read_file(path)
    read = _read_onnx if path.suffix.lower() == ".onnx" else _read_litert
    try:
        return read(path, content)
    except UnicodeDecodeError as error:  # of a text in ONNX metadata, at any access
        raise ModelFileError(f"{path}: the file is damaged ({error}).") from error


def _read_litert(path: Path, content: bytes) -> tuple[Description, Runtime]:
    name = str(path)
    text = metadata_of(content, _KEY, name)
    if text is None:
        raise ModelFileError(_unknown(path))
    description = Description.from_json(text, name)
    check_checksum(content, name)
    size = (1, *description.preprocessing.image_size, 3)
    flatbuffer = rebuild_flatbuffer(content, name, size, len(description.class_names))
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
        raise ModelFileError(f"{path}: rejected: {error}") from error
    except Exception as error:
        reason = f"not an ONNX model, or damaged ({type(error).__name__})"
        raise ModelFileError(f"{path}: {reason}.") from error
    properties = {item.key: item.value for item in model.metadata_props}
    if _KEY not in properties or len(properties) != len(model.metadata_props):
        raise ModelFileError(_unknown(path))
    description = Description.from_json(properties[_KEY], name)
    if properties.get(_DIGEST_KEY) != _digest(model):
        reason = "the file is damaged or was changed after it was written"
        raise ModelFileError(f"{path}: rejected: {reason}.")
    try:
        shape = (*description.preprocessing.image_size, 3)
        classes = len(description.class_names)
        rebuilt, batch = rebuild_onnx(onnx, model, shape, classes)
        return description, OnnxRuntime(rebuilt.SerializeToString(), shape, classes, batch)
    except MissingDependencyError:
        raise
    except ModelFileError as error:
        raise ModelFileError(f"{path}: rejected: {error}") from error
    except Exception as error:  # ONNX and ONNX Runtime have a class of errors per cause
        raise ModelFileError(f"{path}: the ONNX network cannot be used: {error}") from error


def _digest(model: Any) -> str:
    """Return the SHA-256 of a model without the digest itself."""
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    for item in model.metadata_props:
        if item.key != _DIGEST_KEY:
            bare.metadata_props.add(key=item.key, value=item.value)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _unknown(path: Path) -> str:
    way_out = "Give a file that Predictor.export has written."
    return f"{path}: not exported by flowercnn: it has no class names. {way_out}"
