"""Pretrained weights: fetched, checked, and put into a network layer by layer.

Both kinds of HDF5 file of Keras are read: ``.weights.h5`` (Keras 3) and ``.h5`` (before, and the official files).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from flowercnn._utils import user_home
from flowercnn.errors import ConfigurationError, ModelFileError, SourceError
from flowercnn.models.backbone_table import BackboneSpec
from flowercnn.models.graph import inputs_of, operation_of
from flowercnn.sources import ResumingDownloader, shown

__all__ = ["fetch_weights", "keras_cache", "read_weights"]

_SERVER: Final = "https://storage.googleapis.com"
_log = logging.getLogger(__name__)


def keras_cache() -> Path:
    """Return the folder where Keras keeps downloaded weights, so that both use one copy."""
    return Path(os.environ.get("KERAS_HOME") or user_home() / ".keras") / "models"


def fetch_weights(spec: BackboneSpec, *, mirror: str | None = None, progress: bool = True) -> Path:
    """Return the official ImageNet weights of a network: from Keras's cache, or downloaded into it.

    Args:
        spec: The network.
        mirror: Another server with the same folders, http:// or https://.
        progress: Whether to show a progress bar.

    Raises:
        ConfigurationError: If ``mirror`` is no such URL.
        SourceError: If the file is neither there nor can be downloaded, or is not the official one. The message says
            which file to put where.
    """
    import pooch

    if mirror is not None and not str(mirror).startswith(("http://", "https://")):
        raise ConfigurationError(f"mirror must begin with https:// or http://. Received: mirror={mirror!r}")
    folder = keras_cache()
    target, url = folder / spec.file, f"{(mirror or _SERVER).rstrip('/')}/{spec.url}"
    by_hand = (
        f"Without a network, put {shown(url)} at {target} by hand, or name a local file: "
        'model_options={"weights": "my.weights.h5"}; weights=None starts from random ones.'
    )
    known = spec.checksum or None
    if target.is_file():
        if known and pooch.file_hash(str(target), alg=known.partition(":")[0]) != known.partition(":")[2]:
            raise SourceError(f"{target}: not the official file (its checksum is another). Remove it.")
        if not _opens(target):
            raise SourceError(f"{target}: not a file of weights, or damaged. Remove it: it is then downloaded again.")
        return target
    downloader = ResumingDownloader(folder / f"{spec.file}.part", progress)
    try:
        if downloader.part.is_file():
            with contextlib.suppress(ValueError):  # what an earlier run left was of another file, and is gone now
                return _retrieve(url, known, target, downloader)
        return _retrieve(url, known, target, downloader)
    except ValueError:  # what pooch and requests say has the whole URL, perhaps with a password: from None
        raise SourceError(f"{shown(url)}: what the server sends is not the official file. {by_hand}") from None
    except OSError as error:  # those of requests too
        raise SourceError(f"{shown(url)}: cannot be downloaded ({type(error).__name__}). {by_hand}") from None


def _retrieve(url: str, checksum: str | None, target: Path, downloader: ResumingDownloader) -> Path:
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # it says on stderr what the progress bar says
    try:
        path = Path(pooch.retrieve(url, checksum, fname=target.name, path=target.parent, downloader=downloader))
    finally:
        logger.setLevel(level)
    if not _opens(path):  # a page that says what went wrong: without a checksum nothing else would tell
        path.unlink()
        raise ValueError("no HDF5 file")
    return path


def _opens(path: Path) -> bool:
    """Return whether a file is HDF5, and whole."""
    import h5py

    try:
        with h5py.File(path, "r"):
            return True
    except OSError:
        return False


def read_weights(net: Any, path: Path) -> Any:
    """Fill a network from a file and return the tensor up to which the file has weights.

    A file with weights of the first layers only gives the network up to there. Layers of the file that the network
    has not, such as a classifier's last ones, are passed over.

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
        again = " Remove it: it is then downloaded again." if path.parent == keras_cache() else ""
        raise ModelFileError(
            f"{path}: not a file of weights Keras has written, or damaged ({type(error).__name__}: {error}).{again}"
        ) from error


def _assign(net: Any, file: Any, path: Path) -> Any:
    pairs = _legacy_pairs(net, file) if _is_legacy(file) else _pairs(net, file)
    weighted = [layer for layer in net.layers if layer.weights]
    stored = dict(zip(map(id, weighted), pairs, strict=False))
    present = [bool(stored.get(id(layer))) for layer in weighted]
    if not present[0]:
        raise ModelFileError(f"{path}: has no weights for {weighted[0].name!r}, the first layer of {net.name}.")
    count = present.index(False) if False in present else len(weighted)
    if any(present[count:]):
        raise ModelFileError(
            f"{path}: of another network than {net.name}: it has no weights for {weighted[count].name!r} but for "
            "later layers."
        )
    for layer in weighted[:count]:
        for variable, data in stored[id(layer)]:
            if tuple(variable.shape) != tuple(data.shape):
                raise ModelFileError(
                    f"{path}: of another network than {net.name}: {layer.name!r} needs the shape "
                    f"{tuple(variable.shape)}, the file has {tuple(data.shape)}."
                )
            values = np.asarray(data)
            if not np.isfinite(values).all():
                raise ModelFileError(f"{path}: the weights of {layer.name!r} are not finite.")
            variable.assign(values)
    if count == len(weighted):
        return net.output
    tensor = weighted[count].input
    while type(operation_of(tensor)).__name__ == "ZeroPadding2D":
        tensor = inputs_of(tensor)[0]
    last = operation_of(tensor).name
    _log.warning("%s: has weights up to %r only; %s is used up to there.", path.name, last, net.name)
    return tensor


def _is_legacy(file: Any) -> bool:
    return "layer_names" in _top(file).attrs or "layer_names0" in _top(file).attrs


def _top(file: Any) -> Any:
    return file.get("model_weights", file)


def _legacy_pairs(net: Any, file: Any) -> Iterator[list[tuple[Any, Any]]]:
    """Variables with their data in the older format: layers by order."""
    top = _top(file)
    groups = [top[name] for name in _attribute_names(top, "layer_names")]
    stored = [[group[name] for name in _attribute_names(group, "weight_names")] for group in groups]
    layers = [layer for layer in net.layers if layer.weights]
    for layer, data in zip(layers, [arrays for arrays in stored if arrays], strict=False):
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        if len(variables) != len(data):
            raise ModelFileError(
                f"{file.filename}: of another network than {net.name}: {layer.name!r} has {len(variables)} arrays, "
                f"the file {len(data)}."
            )
        yield list(zip(variables, data, strict=True))


def _attribute_names(group: Any, attribute: str) -> list[str]:
    """An attribute that is a list of names; long ones are in several parts."""
    parts = [attribute] if attribute in group.attrs else []
    while not parts or f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
        if parts[-1] not in group.attrs:
            return []
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in group.attrs[part]]


def _pairs(net: Any, file: Any) -> Iterator[list[tuple[Any, Any]]]:
    """Variables with their data in Keras 3's format, for each layer with weights: layers by kind and number."""
    if "layers" not in file:
        raise ModelFileError(f"{file.filename}: not a file of weights Keras has written (no group 'layers').")
    for layer, group in _groups(net, file["layers"]):
        if layer.weights:
            yield _layer_pairs(layer, group)


def _layer_pairs(layer: Any, group: Any) -> list[tuple[Any, Any]]:
    if group is None:
        return []
    if hasattr(layer, "layers"):
        inner = [(part, _layer_pairs(part, found)) for part, found in _groups(layer, group.get("layers"))]
        complete = all(pairs for part, pairs in inner if part.weights)
        return [pair for _, pairs in inner for pair in pairs] if complete else []
    data = group.get("vars", {})
    if len(data) != len(layer.weights):
        return []
    return [(variable, data[str(number)]) for number, variable in enumerate(layer.weights)]


def _groups(model: Any, group: Any) -> Iterator[tuple[Any, Any]]:
    seen: Counter[str] = Counter()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        name = f"{kind}_{seen[kind]}" if seen[kind] else kind
        seen[kind] += 1
        yield layer, None if group is None else group.get(name)


def _snake_case(name: str) -> str:
    """Return a class's name as Keras writes it into files."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _check_links(file: Any, path: Path) -> None:
    """Refuse data that lie elsewhere."""
    import h5py

    groups = [file]
    while groups:
        group = groups.pop()
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ModelFileError(f"{path}: refused: the weights link to another place ({key!r}).")
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif item.external or item.is_virtual:
                raise ModelFileError(f"{path}: refused: the weights of {key!r} lie in another file.")
