"""Model file: one archive that stock Keras opens, with what flowercnn needs beside the network.

A ``.keras`` file is a zip of ``config.json``, ``metadata.json`` and ``model.weights.h5``; flowercnn
adds ``flowercnn.json`` (see `Description`) and ``model.tflite`` (the same network for LiteRT, to
predict without TensorFlow), which Keras ignores. In an ``.h5`` file the description is an
attribute. Both end in a checksum.

A file is read once, into memory. Its members, description, network and weights are checked before
they are used: only Keras's own layers, no code, no reference to another file.
"""

from __future__ import annotations

import io
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowercnn._utils import replace_file
from flowercnn.errors import ConfigurationError, FlowerCNNError, ModelFileError
from flowercnn.preprocessing import Preprocessing
from flowercnn.runtimes import quiet
from flowercnn.saving.description import Description, parse_json
from flowercnn.saving.guards.archive import (
    PLACEHOLDER,
    append_checksum,
    check_checksum,
    check_directory,
    check_members,
    fill_checksum,
)
from flowercnn.saving.guards.flatbuffer import rebuild_flatbuffer
from flowercnn.saving.guards.hdf5 import check_arrays, check_structure
from flowercnn.saving.guards.keras_config import check_memory, check_network

__all__ = ["ModelFile", "check_can_be_saved", "read_file", "read_model", "write_model"]

_CONFIG: Final = "config.json"
_METADATA: Final = "metadata.json"
_WEIGHTS: Final = "model.weights.h5"
_DESCRIPTION: Final = "flowercnn.json"
_LITERT: Final = "model.tflite"
_KERAS_MEMBERS: Final = frozenset({_CONFIG, _METADATA, _WEIGHTS})
_ATTRIBUTE: Final = "flowercnn"
_MOST_BYTES: Final = 2 * 2**30
_WAY_OUT: Final = "Give a file that Predictor.save or Predictor.export has written."
_RELATIVE_TOLERANCE: Final = 1e-3  # of float16
_TOLERANCE: Final = 1e-6  # of a probability
_HDF5_START: Final = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file with checked members, description and network; nothing of it is built yet.

    Args:
        path: Where it was read.
        description: Class names, preprocessing, calibration and the rest.
        content: The whole file.
        config: The network as Keras describes it, JSON.
        litert: The network as LiteRT flatbuffer, unchecked, or ``None``.
    """

    path: Path
    description: Description
    content: bytes
    config: bytes
    litert: bytes | None = None

    def keras_model(self) -> Any:
        """Return the Keras model, built after its weights have been checked.

        Raises:
            ModelFileError: If the weights are not those of the network, or not safe to load, or the
                network cannot compute an image.
        """
        try:
            return self._keras_model()
        except ModelFileError:
            raise
        except ImportError as error:
            reason = f"the Keras installed here cannot load model files from memory ({error})"
            way_out = "Install the version this flowercnn was tested with."
            raise ModelFileError(f"{self.path}: {reason}. {way_out}") from error
        except FlowerCNNError as error:
            reason = f"not a model this library has saved: {error}"
            raise ModelFileError(f"{self.path}: {reason}") from error
        except Exception as error:
            # Networks that make no sense fail in Keras and HDF5 in too many ways to list.
            raise _damaged(self.path, error) from error

    def litert_network(self, *, features: bool) -> bytes | None:
        """Return the network as LiteRT flatbuffer, checked and rebuilt, or ``None`` without one.

        Args:
            features: Whether it must compute mean activations beside the probabilities.

        Raises:
            MissingDependencyError: If ai-edge-litert is not installed.
            ModelFileError: If it is malformed, or of another kind of network.
        """
        if self.litert is None:
            return None
        shape = (1, *self.description.preprocessing.image_size, 3)
        classes = len(self.description.class_names)
        return rebuild_flatbuffer(self.litert, str(self.path), shape, classes, features=features)

    def check_weights(self) -> None:
        """Reject weights that are not those of the network, or not safe to load.

        Raises:
            ModelFileError: If they are rejected.
        """
        weights = self._member(_WEIGHTS) if self._is_archive else self.content
        stored = check_arrays(weights, str(self.path))
        check_memory(self.config, stored, str(self.path), exact=self._is_archive)

    @property
    def _is_archive(self) -> bool:
        return self.content.startswith(b"PK")

    def _keras_model(self) -> Any:
        from flowercnn.models import check_shapes, memory_errors  # LiteRT starts without them

        self.check_weights()
        model = self._load_archive() if self._is_archive else self._load_h5()
        classes = len(self.description.class_names)
        check_shapes(model, "the model", self.description.preprocessing.image_size, classes)
        with memory_errors(f"{self.path}: the network", ModelFileError):
            model(_noise(model, 1), training=False)  # settings that make no sense may fail only now
        return model

    # From memory, so that what is loaded is what was checked, whatever happens to the file
    # meanwhile. Keras's public function takes paths only, and unpacks archives with more members
    # than its own three to a temporary folder.

    def _load_archive(self) -> Any:
        from keras.src.saving import saving_lib

        stripped = io.BytesIO()
        with zipfile.ZipFile(stripped, "w") as archive:
            for name in (_CONFIG, _METADATA, _WEIGHTS):
                archive.writestr(name, self._member(name))
        stripped.seek(0)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Skipping")  # layers without stored weights
            return saving_lib.load_model(stripped, compile=False, safe_mode=True)

    def _load_h5(self) -> Any:
        import h5py
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(io.BytesIO(self.content), "r") as file:
            return legacy_h5_format.load_model_from_hdf5(file, compile=False, safe_mode=True)

    def _member(self, name: str) -> bytes:
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return archive.read(name)


def _noise(model: Any, count: int) -> Any:
    """Return images of noise for a Keras model."""
    import numpy as np

    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def check_can_be_saved(model: Any, class_names: Sequence[str] | None = None) -> None:
    """Reject a Keras model, and class names, that this library would reject to load.

    Args:
        model: A Keras model.
        class_names: One per output, if they are known.

    Raises:
        ModelFileError: If it has layers that model files may not hold, or the class names are too
            many or too long.
    """
    try:
        config = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:  # of layers without get_config
        way_out = "use Keras's own, or do not ask for a file"
        reason = f"this model has layers that Keras cannot save; {way_out}. {error}"
        raise ModelFileError(reason) from error
    check_network(config, "this model")
    if class_names is not None:
        _check_length(class_names, model)


def _check_length(class_names: Sequence[str], model: Any) -> None:
    try:
        Description(tuple(class_names), Preprocessing(image_size=model.input_shape[1:3])).to_json()
    except ModelFileError as error:
        names = f"{len(class_names):,} names, {sum(map(len, class_names)):,} characters"
        raise ModelFileError(
            f"class_names: {names}, cannot be saved with the model: {error} Shorten the names, or "
            "train without a file (out=None)."
        ) from error


def write_model(
    path: str | os.PathLike[str],
    model: Any,
    description: Description,
    *,
    litert: bytes | None = None,
) -> Path:
    """Write a model file, whole or not at all, and return its path.

    Args:
        path: Ends in ``.keras`` or ``.h5``.
        model: A Keras model.
        description: Class names, preprocessing and calibration.
        litert: The same network for LiteRT, to be kept in a ``.keras`` file.

    Raises:
        ModelFileError: If the suffix is another, the network has layers this library would reject
            to load or weights that are not finite, or the file cannot be written.
    """
    import numpy as np

    from flowercnn.models import copy_model

    target = Path(path)
    if target.suffix not in (".keras", ".h5"):
        raise ModelFileError(f"{target}: the name of a model file must end in .keras or .h5.")
    check_can_be_saved(model)
    try:
        model = copy_model(model)  # a compiled model would take its optimizer along
    except ConfigurationError as error:
        raise ModelFileError(f"{target}: not written: {error}") from error
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        reason = "the network has weights that are NaN or infinite"
        raise ModelFileError(f"{target}: {reason}; it is not saved.")
    text = description.to_json()

    def write(temporary: Path) -> None:
        with quiet():  # Keras warns of .h5, which the user has chosen
            model.save(temporary)
        if target.suffix == ".h5":
            _describe_h5(temporary, text)
        else:
            _describe_archive(temporary, text, litert)
        _check_written(temporary, target, model)

    try:
        return replace_file(target, write)
    except OSError as error:
        if isinstance(error, ModelFileError):
            raise
        why = error.strerror or error
        raise ModelFileError(f"{target}: the model cannot be written ({why}).") from error


def _check_written(temporary: Path, target: Path, model: Any) -> None:
    """Reject a file that cannot be loaded: Keras may write other than a model's configuration."""
    try:
        file = read_model(temporary)
        if target.suffix == ".keras":
            file.check_weights()
            return
    except ModelFileError as error:
        reason = f"it could not be loaded again: {str(error).removeprefix(f'{temporary}: ')}"
        raise ModelFileError(f"{target}: not written, as {reason}") from error
    # The older format loses some settings of layers, such as several axes, without a trace.
    try:
        same = _outputs_match(file.keras_model(), model)
        reason = "" if same else "it would give other answers than the network"
    except ModelFileError as error:
        reason = str(error).removeprefix(f"{temporary}: ")
    if reason:
        reason = f"the older format .h5 cannot hold this network: {reason}"
        raise ModelFileError(f"{target}: not written: {reason}. Save it as .keras.")


def _outputs_match(first: Any, second: Any) -> bool:
    """Return whether two Keras models give the same probabilities for two images of noise."""
    import numpy as np

    noise = _noise(second, 2)
    one, two = (np.asarray(model(noise, training=False), float) for model in (first, second))
    return np.allclose(one, two, rtol=_RELATIVE_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _describe_h5(path: Path, text: str) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        file.attrs[_ATTRIBUTE] = text
    append_checksum(path)


def _describe_archive(path: Path, text: str, litert: bytes | None) -> None:
    with zipfile.ZipFile(path) as archive:
        names = (_CONFIG, _METADATA, _WEIGHTS)
        members: dict[str, str | bytes] = {name: archive.read(name) for name in names}
    members[_DESCRIPTION] = text
    if litert is not None:
        members[_LITERT] = litert
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = PLACEHOLDER
    fill_checksum(path)


def read_file(path: Path) -> bytes:
    """Return the content of a model file or export.

    Raises:
        ModelFileError: If it cannot be read, is no regular file, or is too large to be one.
    """
    reason = ""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                reason = f"it is a folder or a device, not a model file. {_WAY_OUT}"
            elif status.st_size > _MOST_BYTES:
                reason = f"rejected: larger than a model can be ({status.st_size:,} bytes)."
            else:
                return file.read()
    except FileNotFoundError:
        reason = f"there is no such file. {_WAY_OUT}"
    except IsADirectoryError:  # a SavedModel, too, which is for TensorFlow Serving
        reason = f"it is a folder, not a model file. {_WAY_OUT}"
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error})."
    raise ModelFileError(f"{path}: {reason}")


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; do not wait for a named pipe called model.keras."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_model(path: Path) -> ModelFile:
    """Return a checked model file, of which nothing is built yet.

    Raises:
        ModelFileError: If it cannot be read, is not a model file, or is not safe to load.
    """
    content = read_file(path)
    try:
        if content.startswith(b"PK"):
            return _read_archive(path, content)
        if content.startswith(_HDF5_START):
            return _read_h5(path, content)
    except ModelFileError:
        raise
    except Exception as error:
        # Damaged archives fail in zipfile and HDF5 in too many ways to list.
        raise _damaged(path, error) from error
    reason = "it is neither a .keras archive nor HDF5"
    raise ModelFileError(f"{path}: not a model file; {reason}. {_WAY_OUT}")


def _damaged(path: Path, error: Exception) -> ModelFileError:
    reason = f"{type(error).__name__}: {str(error)[:300]}"
    return ModelFileError(f"{path}: the model file is damaged ({reason}).")


def _read_archive(path: Path, content: bytes) -> ModelFile:
    name = str(path)
    check_directory(content, name)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_names(archive, path)
        check_members(archive, name)
        config = archive.read(_CONFIG)
        check_network(parse_json(config, name), name)
        parse_json(archive.read(_METADATA), name)
        description = Description.from_json(archive.read(_DESCRIPTION), name)
        check_structure(archive.read(_WEIGHTS), name)  # even if only LiteRT is used
        check_checksum(content, name)  # last: there may be a better reason to reject the file
        litert = archive.read(_LITERT) if _LITERT in archive.namelist() else None
        return ModelFile(path, description, content, config, litert)


def _check_names(archive: zipfile.ZipFile, path: Path) -> None:
    members = [member.filename for member in archive.infolist()]
    names = set(members)
    known = {*_KERAS_MEMBERS, _DESCRIPTION, _LITERT}
    if len(names) != len(members) or not _KERAS_MEMBERS <= names <= known:
        reason = "the archive has other members than one of Keras"
        raise ModelFileError(f"{path}: not a model file; {reason}. {_WAY_OUT}")
    if _DESCRIPTION not in names:
        raise ModelFileError(_unknown_classes(path))


def _read_h5(path: Path, content: bytes) -> ModelFile:
    import h5py

    name = str(path)
    if _is_of_plain_keras(content):
        raise ModelFileError(_unknown_classes(path))
    check_checksum(content, name)
    check_structure(content, name)  # before it is read in C
    with h5py.File(io.BytesIO(content), "r") as file:
        if "model_config" not in file.attrs:
            reason = "the HDF5 file holds no network"
            raise ModelFileError(f"{path}: not a model file; {reason}. {_WAY_OUT}")
        if _ATTRIBUTE not in file.attrs:
            raise ModelFileError(_unknown_classes(path))
        config = str(file.attrs["model_config"]).encode()
        check_network(parse_json(config, name), name)
        description = Description.from_json(str(file.attrs[_ATTRIBUTE]), name)
    check_arrays(content, name)
    return ModelFile(path, description, content, config)


def _is_of_plain_keras(content: bytes) -> bool:
    """Return whether an ``.h5`` file is of Keras alone, not one of ours that was cut off."""
    has_checksum = content[-len(PLACEHOLDER) :].startswith(PLACEHOLDER.rstrip(b"0"))
    # A file of the first version of HDF5, which Keras writes, says how long it is.
    is_first_version = content[8:9] == b"\0"
    is_cut_off = is_first_version and len(content) < int.from_bytes(content[40:48], "little")
    if has_checksum or is_cut_off:  # the part that names flowercnn may be missing
        return False
    return b"model_config" in content and b"flowercnn-model" not in content


def _unknown_classes(path: Path) -> str:
    return (
        f"{path}: a Keras model, but not saved by flowercnn: it has no class names. Load it with "
        "keras and make flowercnn.Predictor(model, class_names, preprocessing) of it."
    )
