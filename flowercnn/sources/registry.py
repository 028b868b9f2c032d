"""Sources by name: ``"folder:photos"``, ``"tensorbay:Flower17-1"``, and any scheme a package registers."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from pathlib import PurePath
from typing import Any, Final

from flowercnn.errors import ConfigurationError, FlowerCNNError, SourceError, UnknownNameError, closest, few
from flowercnn.sources.base import DataSource
from flowercnn.sources.urls import shown

__all__ = ["RegisteredSource", "as_source", "list_sources", "open_source", "registered_sources"]

_GROUP: Final = "flowercnn.sources"
_TABLE_SUFFIXES: Final = (".csv", ".tsv", ".tab", ".parquet")


def list_sources() -> list[str]:
    """Return the schemes `open_source` knows, sorted; nothing is imported for it."""
    return sorted({*_BUILT_IN, *_plug_ins()})


@dataclass(frozen=True, slots=True)
class RegisteredSource:
    """A scheme that `open_source` knows.

    Args:
        scheme: What stands before the colon.
        package: The name of the package that adds it; ``flowercnn`` for a built-in one.
        problem: Why it cannot be used, in a sentence, or ``None``.
    """

    scheme: str
    package: str
    problem: str | None = None


def registered_sources() -> list[RegisteredSource]:
    """Return all schemes, sorted, with their packages and their problems; every plug-in is imported for it."""
    found = [RegisteredSource(scheme, "flowercnn") for scheme in _BUILT_IN]
    for scheme, points in _plug_ins().items():
        problem = None
        try:
            _load(points)
        except SourceError as error:
            problem = str(error)
        found.append(RegisteredSource(scheme, few(sorted(map(_package, points))), problem))
    return sorted(found, key=lambda each: (each.scheme, each.package))


def open_source(uri: str) -> DataSource:
    """Return the source that ``"scheme:rest"`` names; ``rest`` is what its class is called with.

    Args:
        uri: Such as ``"folder:photos"``, ``"table:photos.csv"``, ``"tensorbay:Flower17-1"`` or ``"synthetic:60"``, or
            a URL such as ``"s3://bucket/photos"``. A package adds a scheme by an entry point in the group
            ``flowercnn.sources`` that names a function of one string; it cannot replace a built-in scheme.

    Raises:
        ConfigurationError: If ``uri`` is not of this form.
        UnknownNameError: If nobody registered the scheme.
        SourceError: If a plug-in cannot be imported, fails, or returns no source.

    Example:
        >>> open_source("synthetic:3")
        SyntheticFlowers(per_class=3, num_classes=17, seed=0, image_size=(160, 160))
    """
    scheme, colon, rest = uri.partition(":") if isinstance(uri, str) else ("", "", "")
    if not colon or not scheme:
        raise ConfigurationError(f"uri must look like 'scheme:rest', such as 'folder:photos'. Received: uri={uri!r}")
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme](rest)
    plug_ins = _plug_ins()
    if scheme in plug_ins:
        return _open_plug_in(plug_ins[scheme], rest)
    if rest.startswith("//") or "::" in uri:
        return _open_path(uri)
    known = list_sources()
    raise UnknownNameError(
        f"The scheme must be one of {', '.join(known)}.{closest(scheme, known)} Received: {uri!r}. "
        f"A package adds one by an entry point in the group {_GROUP!r}."
    )


def as_source(source: DataSource | str | os.PathLike[str]) -> DataSource:
    """Return what users hand over where a source is wanted as a source.

    Args:
        source: A source; the path of a folder, of an archive, or of a table whose columns have the names of
            `open_table`; or what `open_source` takes. A path that exists goes before a scheme.

    Raises:
        ConfigurationError: If it is none of these.
        UnknownNameError: If nobody registered the scheme.
    """
    if isinstance(source, os.PathLike):
        return _open_path(os.fspath(source))
    if isinstance(source, str):
        scheme, colon, _ = source.partition(":")
        # One letter is a drive of Windows; no colon at all is a path that does not exist, which the folder says.
        is_path = not colon or len(scheme) == 1 or os.path.exists(source)  # noqa: PTH110 - "" has no Path
        return _open_path(source) if is_path else open_source(source)
    if isinstance(source, DataSource) and not isinstance(source, bytes):
        return source
    raise ConfigurationError(
        "source must be a source such as flowercnn.ImageFolder('photos'), a path or a URI. "
        f"Received: {type(source).__name__} {source!r}"
    )


def _open_path(path: str) -> DataSource:
    if shown(path).lower().endswith(_TABLE_SUFFIXES) and not os.path.isdir(path):  # noqa: PTH112
        return _table(path)
    if os.path.isfile(path):  # noqa: PTH113
        from flowercnn.sources.archive import is_archive

        if not is_archive(path):
            raise ConfigurationError(
                f"source must be a folder, an archive (.zip, .tar, ...) or a table ({', '.join(_TABLE_SUFFIXES)}). "
                f"Received: the file {path!r}, {PurePath(path).suffix or 'without suffix'}"
            )
    return _folder(path)


def _folder(rest: str) -> DataSource:
    from flowercnn.sources.folder import ImageFolder

    return ImageFolder(rest)


def _table(rest: str) -> DataSource:
    from flowercnn.sources.table import open_table

    return open_table(rest)


def _flower17(rest: str) -> DataSource:
    from flowercnn.sources.flowers import Flower17

    return Flower17(rest or None)


def _flower102(rest: str) -> DataSource:
    from flowercnn.sources.flowers import Flower102

    return Flower102(rest or None)


def _synthetic(rest: str) -> DataSource:
    from flowercnn.sources.synthetic import SyntheticFlowers

    if rest and not (rest.isascii() and rest.isdigit()):
        raise ConfigurationError(f"synthetic takes the number of pictures per class. Received: {rest!r}")
    return SyntheticFlowers(int(rest)) if rest else SyntheticFlowers()


def _tensorbay(rest: str) -> DataSource:
    from flowercnn.sources.tensorbay import TensorBay

    source: DataSource = TensorBay(rest)
    return source


_BUILT_IN: Final[dict[str, Callable[[str], DataSource]]] = {
    "flower102": _flower102,
    "flower17": _flower17,
    "folder": _folder,
    "synthetic": _synthetic,
    "table": _table,
    "tensorbay": _tensorbay,
}


def _plug_ins() -> dict[str, list[EntryPoint]]:
    """Return the entry points of each scheme; a package whose metadata cannot be read has none."""
    found: defaultdict[str, list[EntryPoint]] = defaultdict(list)
    for package in distributions():
        try:
            points = list(package.entry_points.select(group=_GROUP))
        except Exception:  # noqa: BLE001, S112 - one damaged package must not take the others away
            continue
        for point in points:
            if all(point.value != each.value for each in found[point.name]):  # a package may be found twice
                found[point.name].append(point)
    return dict(found)


def _open_plug_in(points: Sequence[EntryPoint], rest: str) -> DataSource:
    make = _load(points)
    try:
        source: Any = make(rest)
    except FlowerCNNError:
        raise  # the plug-in works and says what is wrong with ``rest``
    except Exception as error:
        raise _failed(points[0], error) from error
    if isinstance(source, str) or not isinstance(source, DataSource):
        raise SourceError(f"{_plug_in(points[0])} must return a source. Received: {type(source).__name__}")
    return source


def _load(points: Sequence[EntryPoint]) -> Any:
    """Return what makes the source of a scheme.

    Raises:
        SourceError: If it cannot be imported, or it is not clear which is meant.
    """
    point = points[0]
    if point.name in _BUILT_IN:
        raise SourceError(f"{_plug_in(point)} is not used: the scheme is built in. It needs another name.")
    if len(points) > 1:
        packages = few(sorted(map(_package, points)))
        raise SourceError(f"The scheme {point.name!r} is registered by {packages}. Remove all but one.")
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise _failed(point, error) from error


def _failed(point: EntryPoint, error: BaseException) -> SourceError:
    return SourceError(f"{_plug_in(point)} failed ({type(error).__name__}: {error}). Update or remove that package.")


def _plug_in(point: EntryPoint) -> str:
    return f"The plug-in for {point.name!r} from {_package(point)}"


def _package(point: EntryPoint) -> str:
    try:
        return str(point.dist.name) if point.dist is not None else point.value
    except Exception:  # noqa: BLE001 - its metadata may be damaged
        return point.value
