"""Sources by name: ``"folder:photos"``, ``"tensorbay:Flower17-1"``, and any scheme a package registers."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from flowercnn.errors import ConfigurationError, SourceError, UnknownNameError, closest
from flowercnn.sources.base import DataSource

__all__ = ["as_source", "list_sources", "open_source"]

_GROUP = "flowercnn.sources"
_BUILT_IN = {
    "flower102": "flowercnn.sources.flowers:Flower102",
    "flower17": "flowercnn.sources.flowers:Flower17",
    "folder": "flowercnn.sources.folder:ImageFolder",
    "synthetic": "flowercnn.sources.synthetic:SyntheticFlowers",
    "tensorbay": "flowercnn.sources.tensorbay:TensorBay",
}


def list_sources() -> list[str]:
    """Return the schemes `open_source` knows, sorted; nothing is imported for it."""
    return sorted({*_BUILT_IN, *_plug_ins()})


def open_source(uri: str) -> DataSource:
    """Return the source that ``"scheme:rest"`` names; ``rest`` is what its class is called with.

    Args:
        uri: Such as ``"folder:photos"``, ``"tensorbay:Flower17-1"`` or ``"synthetic:60"``. A package adds a scheme by
            an entry point in the group ``flowercnn.sources`` that names a function of one string.

    Raises:
        ConfigurationError: If ``uri`` is not of this form.
        UnknownNameError: If nobody registered the scheme.
        SourceError: If a plug-in cannot be imported, or returns no source.
    """
    scheme, colon, rest = uri.partition(":") if isinstance(uri, str) else ("", "", "")
    if not colon or not scheme:
        raise ConfigurationError(f"uri must look like 'scheme:rest', such as 'folder:photos'. Received: uri={uri!r}")
    plug_ins = _plug_ins()
    if scheme in _BUILT_IN:
        return _open_built_in(scheme, rest)
    if scheme not in plug_ins:
        known = list_sources()
        raise UnknownNameError(
            f"The scheme must be one of {', '.join(known)}.{closest(scheme, known)} Received: {uri!r}. "
            f"A package adds one by an entry point in the group {_GROUP!r}."
        )
    return _open_plug_in(plug_ins[scheme], rest)


def as_source(source: DataSource | str | os.PathLike[str]) -> DataSource:
    """Return what users hand over where a source is wanted: a source, the path of a folder, or a URI.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(source, os.PathLike) or (isinstance(source, str) and os.path.exists(source)):  # noqa: PTH110
        return _open_built_in("folder", os.fspath(source))
    if isinstance(source, str):
        scheme = source.partition(":")[0]
        # One letter is a drive of Windows; no colon at all is a path that does not exist, which the folder says.
        return open_source(source) if ":" in source and len(scheme) > 1 else _open_built_in("folder", source)
    if isinstance(source, DataSource):
        return source
    raise ConfigurationError(
        "source must be a source such as flowercnn.ImageFolder('photos'), a path or a URI. "
        f"Received: {type(source).__name__} {source!r}"
    )


def _open_built_in(scheme: str, rest: str) -> DataSource:
    module, _, name = _BUILT_IN[scheme].partition(":")
    make: Callable[..., DataSource] = getattr(import_module(module), name)
    if scheme == "synthetic":
        if rest and not rest.isdigit():
            raise ConfigurationError(f"synthetic takes the number of pictures per class. Received: {rest!r}")
        return make(int(rest)) if rest else make()
    return make(rest) if rest else make()


def _plug_ins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}


def _open_plug_in(point: EntryPoint, rest: str) -> DataSource:
    package = point.dist.name if point.dist is not None else point.value
    try:
        source: Any = point.load()(rest)
    except Exception as error:
        raise SourceError(
            f"The plug-in for {point.name!r} from {package} failed ({type(error).__name__}: {error}). "
            "Update or remove that package."
        ) from error
    if isinstance(source, str) or not isinstance(source, DataSource):
        raise SourceError(
            f"The plug-in for {point.name!r} from {package} must return a source. Received: {type(source).__name__}"
        )
    return source
