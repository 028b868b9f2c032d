"""The model file: one archive that stock Keras opens, with what flowercnn needs beside the network.

A ``.keras`` file is a zip of ``config.json``, ``metadata.json`` and ``model.weights.h5``; flowercnn adds
``flowercnn.json`` (class names, preprocessing, versions, how it was trained), which Keras passes over. In an ``.h5``
file the same text is an attribute. Before Keras sees a file, its members, its network description and its weights are
checked: only Keras's own layers, no code, no reference to another file.
"""

from __future__ import annotations

import io
import json
import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from flowercnn import __version__
from flowercnn.atomic import replace_file
from flowercnn.errors import FlowerCNNError, ModelFileError
from flowercnn.labels import LabelEncoder
from flowercnn.models.keras3 import import_keras
from flowercnn.models.registry import check_shapes
from flowercnn.models.twin import copy_model
from flowercnn.prediction.safety import check_network, check_weights
from flowercnn.preprocessing.preprocessing import Preprocessing

__all__ = ["read_model", "write_model"]

_MEMBER: Final = "flowercnn.json"
_ATTRIBUTE: Final = "flowercnn"
_FORMAT: Final = "flowercnn-model"
_VERSION: Final = 1
_KERAS_MEMBERS: Final = frozenset({"config.json", "metadata.json", "model.weights.h5"})
_MAX_JSON_BYTES: Final = 16 * 2**20
_MAX_WEIGHT_BYTES: Final = 4 * 2**30

ModelParts = tuple[Any, tuple[str, ...], Preprocessing, dict[str, Any]]


def write_model(
    path: str | os.PathLike[str],
    model: Any,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    info: Mapping[str, Any],
) -> Path:
    """Write a model file, whole or not at all, and return its path.

    Raises:
        ModelFileError: If the suffix is not ``.keras`` or ``.h5``, the network has layers this library would refuse
            to load, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".keras", ".h5"):
        raise ModelFileError(f"{target}: the name of a model file must end in .keras or .h5.")
    model = copy_model(model)  # a compiled model would take its optimizer along
    check_network(json.loads(model.to_json()), "this model")
    text = json.dumps(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "class_names": list(class_names),
            "preprocessing": preprocessing.to_dict(),
            "info": {**info, "versions": _versions()},
        },
        ensure_ascii=True,
        indent=1,
    )

    def write(temporary: Path) -> None:
        model.save(temporary)
        if target.suffix == ".keras":
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(_MEMBER, text)
        else:
            import h5py

            with h5py.File(temporary, "a") as file:
                file.attrs[_ATTRIBUTE] = text

    try:
        return replace_file(target, write)
    except OSError as error:
        raise ModelFileError(f"{target}: the model cannot be written ({error.strerror or error}).") from error


def read_model(path: Path) -> ModelParts:
    """Return the network, class names, preprocessing and info of a model file.

    Raises:
        ModelFileError: If it cannot be read, is none, or is not safe to load.
    """
    try:
        start = _first_bytes(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}).") from error
    if start is None:
        raise ModelFileError(f"{path}: there is no such file.")
    try:
        if start.startswith(b"PK"):
            return _read_keras(path)
        if start == b"\x89HDF\r\n\x1a\n":
            return _read_h5(path)
    except FlowerCNNError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: not a model this library has saved: {error}") from error
    except Exception as error:
        # Damaged archives fail in zipfile, h5py and Keras in too many ways to list.
        raise ModelFileError(f"{path}: the model file is damaged ({type(error).__name__}: {error}).") from error
    raise ModelFileError(f"{path}: not a model file; it is neither a .keras archive nor HDF5.")


def _first_bytes(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(8)


def _read_keras(path: Path) -> ModelParts:
    with zipfile.ZipFile(path) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
        if len(sizes) != len(archive.infolist()) or not _KERAS_MEMBERS <= sizes.keys() <= {*_KERAS_MEMBERS, _MEMBER}:
            raise ModelFileError(f"{path}: not a model file; the archive has other members than one of Keras.")
        if _MEMBER not in sizes:
            raise ModelFileError(_unknown_classes(path))
        for name, size in sizes.items():
            if size > (_MAX_JSON_BYTES if name.endswith(".json") else _MAX_WEIGHT_BYTES):
                raise ModelFileError(
                    f"{path}: {name} is larger than a model of this library can be ({size:,} bytes)."
                )
        if archive.getinfo("model.weights.h5").compress_type != zipfile.ZIP_STORED:
            raise ModelFileError(f"{path}: the weights are compressed; Keras never does that.")
        check_network(json.loads(archive.read("config.json")), str(path))
        with archive.open("model.weights.h5") as weights:
            check_weights(io.BytesIO(weights.read()), str(path))
        described = _parse(archive.read(_MEMBER), path)
    return _assemble(path, described)


def _read_h5(path: Path) -> ModelParts:
    import h5py

    check_weights(path, str(path))
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ModelFileError(f"{path}: not a model file; the HDF5 file holds no network.")
        if _ATTRIBUTE not in file.attrs:
            raise ModelFileError(_unknown_classes(path))
        check_network(json.loads(file.attrs["model_config"]), str(path))
        described = _parse(file.attrs[_ATTRIBUTE], path)
    return _assemble(path, described)


def _assemble(path: Path, described: dict[str, Any]) -> ModelParts:
    keras = import_keras()
    class_names = LabelEncoder(tuple(described["class_names"])).class_names
    preprocessing = Preprocessing.from_dict(described["preprocessing"])
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    check_shapes(model, "the model", preprocessing.image_size, len(class_names))
    return model, class_names, preprocessing, dict(described["info"])


def _parse(text: str | bytes, path: Path) -> dict[str, Any]:
    described = json.loads(text)
    if described.get("format") != _FORMAT:
        raise ModelFileError(_unknown_classes(path))
    if described.get("version") != _VERSION:
        raise ModelFileError(
            f"{path}: the file has format version {described.get('version')}, this flowercnn reads {_VERSION}. "
            "Install the flowercnn that wrote it, or a newer one."
        )
    return dict(described)


def _unknown_classes(path: Path) -> str:
    return (
        f"{path}: a Keras model, but not saved by flowercnn: it has no class names. Load it with keras and make "
        "flowercnn.Predictor(model, class_names, preprocessing) of it."
    )


def _versions() -> dict[str, str]:
    packages = ("keras", "tensorflow", "pillow", "numpy")
    own = {"python": platform.python_version(), "flowercnn": __version__}
    return own | {name: version(name) for name in packages}
