"""Pretrained weights: downloaded, checked, and assigned to a network layer by layer.

Both HDF5 formats of Keras are read: ``.weights.h5`` (Keras 3) and ``.h5`` (older; official files).
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np

from flowercnn._utils import user_home
from flowercnn.errors import ConfigurationError, ModelFileError
from flowercnn.models.backbone_table import BackboneSpec
from flowercnn.models.graph import inputs_of, operation_of
from flowercnn.sources import Download

_SERVER: Final = "https://storage.googleapis.com"
_log = logging.getLogger(__name__)


def keras_cache() -> Path:
    """Return the folder of Keras's downloaded weights, which flowercnn shares."""
    return Path(os.environ.get("KERAS_HOME") or user_home() / ".keras") / "models"


def fetch_weights(spec: BackboneSpec, *, mirror: str | None = None, progress: bool = True) -> Path:
    """Return the official ImageNet weights of a network, downloaded into Keras's cache if missing.

    Args:
        spec: The network.
        mirror: Another server with the same folders, http:// or https://.
        progress: Whether to show a progress bar.

    Raises:
        ConfigurationError: If ``mirror`` is not such a URL.
        SourceError: If the file is missing and cannot be downloaded, or is not the official one.
            The message says which file to put where.
    """
    if mirror is not None and not str(mirror).startswith(("http://", "https://")):
        raise ConfigurationError(f"mirror must begin with http(s)://. Received: mirror={mirror!r}")
    folder, _, name = spec.url.rpartition("/")
    download = Download(
        f"{(mirror or _SERVER).rstrip('/')}/{folder}",
        {name: spec.checksum},
        progress=progress,
        renamed={name: spec.file},
        opens=_is_hdf5,
        hint=', or name a local file: model_options={"weights": "my.weights.h5"}; weights=None '
        "starts from random ones",
    )
    return download.fetch(name, keras_cache())


def _is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5 and complete."""
    import h5py

    try:
        with h5py.File(path, "r"):
            return True
    except OSError:
        return False


def read_weights(net: Any, path: Path) -> Any:
    """Assign weights from a file and return the tensor up to which the file has weights.

    A file with weights of the first layers only gives the network up to there. Layers that only the
    file has, such as a classifier's last ones, are skipped.

    Args:
        net: A functional Keras model; its weights are changed.
        path: A ``.weights.h5`` or ``.h5`` file of the same network.

    Raises:
        ModelFileError: If it cannot be read, is not safe to read, or is of another network.
    """
    import h5py

    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file of weights.")
    try:
        with h5py.File(path, "r") as file:
            _check_links(file, path)
            return _assign(net, file, path)
    except ModelFileError:
        raise
    except Exception as error:  # h5py raises anything on damaged files
        again = " Remove it to download it again." if path.parent == keras_cache() else ""
        raise ModelFileError(
            f"{path}: not a file of weights Keras has written, or damaged "
            f"({type(error).__name__}: {error}).{again}"
        ) from error


def _assign(net: Any, file: Any, path: Path) -> Any:
    top = file.get("model_weights", file)
    is_legacy = "layer_names" in top.attrs or "layer_names0" in top.attrs
    pairs = _legacy_pairs(net, top, path) if is_legacy else _pairs(net, file, path)
    weighted = [layer for layer in net.layers if layer.weights]
    stored = dict(zip(map(id, weighted), pairs, strict=False))
    complete = list(takewhile(lambda layer: stored.get(id(layer)), weighted))
    missing = weighted[len(complete) :]
    if not complete:
        raise ModelFileError(
            f"{path}: has no weights for {missing[0].name!r}, the first layer of {net.name}."
        )
    if any(stored.get(id(layer)) for layer in missing):
        gap = f"it has no weights for {missing[0].name!r} but for later layers"
        raise _wrong_network(path, net, gap)
    for layer in complete:
        for variable, data in stored[id(layer)]:
            needed, shape = tuple(variable.shape), tuple(data.shape)
            if needed != shape:
                detail = f"{layer.name!r} needs the shape {needed}, the file has {shape}"
                raise _wrong_network(path, net, detail)
            values = np.asarray(data)
            if not np.isfinite(values).all():
                raise ModelFileError(f"{path}: the weights of {layer.name!r} are not finite.")
            variable.assign(values)
    if not missing:
        return net.output
    tensor = missing[0].input
    while type(operation_of(tensor)).__name__ == "ZeroPadding2D":
        tensor = inputs_of(tensor)[0]
    last = operation_of(tensor).name
    _log.warning("%s: has weights up to %r only; %s is cut there.", path.name, last, net.name)
    return tensor


def _wrong_network(path: Path, net: Any, detail: str) -> ModelFileError:
    return ModelFileError(f"{path}: of another network than {net.name}: {detail}.")


def _legacy_pairs(net: Any, top: Any, path: Path) -> Iterator[list[tuple[Any, Any]]]:
    """Variables with their data in the older format: layers by order."""
    groups = [top[name] for name in _attribute_names(top, "layer_names")]
    stored = [[group[name] for name in _attribute_names(group, "weight_names")] for group in groups]
    layers = [layer for layer in net.layers if layer.weights]
    for layer, data in zip(layers, filter(None, stored), strict=False):
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        if len(variables) != len(data):
            detail = f"{layer.name!r} has {len(variables)} arrays, the file {len(data)}"
            raise _wrong_network(path, net, detail)
        yield list(zip(variables, data, strict=True))


def _attribute_names(group: Any, attribute: str) -> list[str]:
    """Names in an attribute; long lists are split into numbered attributes."""
    numbered = takewhile(group.attrs.__contains__, (f"{attribute}{part}" for part in count()))
    parts = [attribute] if attribute in group.attrs else numbered
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _pairs(net: Any, file: Any, path: Path) -> Iterator[list[tuple[Any, Any]]]:
    """Variables with their data in Keras 3's format, per layer: layers by kind and number."""
    if "layers" not in file:
        raise ModelFileError(
            f"{path}: not a file of weights Keras has written (no group 'layers')."
        )
    for layer, group in _groups(net, file["layers"]):
        if layer.weights:
            yield _layer_pairs(layer, group)


def _layer_pairs(layer: Any, group: Any) -> list[tuple[Any, Any]]:
    if group is None:
        return []
    if hasattr(layer, "layers"):
        parts = [part for part in _groups(layer, group.get("layers")) if part[0].weights]
        inner = [_layer_pairs(*part) for part in parts]
        return [pair for pairs in inner for pair in pairs] if all(inner) else []
    data = group.get("vars", {})
    if len(data) != len(layer.weights):
        return []
    return [(variable, data[str(number)]) for number, variable in enumerate(layer.weights)]


def _groups(model: Any, group: Any) -> Iterator[tuple[Any, Any]]:
    """Layers with their groups in a file, or ``None``."""
    numbers: Counter[str] = Counter()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        name = f"{kind}_{numbers[kind]}" if numbers[kind] else kind
        numbers[kind] += 1
        yield layer, None if group is None else group.get(name)


def _snake_case(name: str) -> str:
    """Return a class's name as Keras writes it into files."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _check_links(file: Any, path: Path) -> None:
    """Check that all data are inside the file."""
    import h5py

    groups = [file]
    while groups:
        group = groups.pop()
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ModelFileError(f"{path}: weights must not link to another place ({key!r}).")
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif item.external or item.is_virtual:
                raise ModelFileError(f"{path}: weights must not be in another file ({key!r}).")
