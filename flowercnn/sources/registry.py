"""Sources by URI: ``"folder:photos"``, ``"tensorbay:Flower17-1"``, and schemes of plug-ins."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from pathlib import PurePath
from typing import Any, Final

from flowercnn.errors import (
    ConfigurationError,
    FlowerCNNError,
    SourceError,
    UnknownNameError,
    closest,
    few,
)
from flowercnn.sources.base import DataSource
from flowercnn.sources.urls import shown

__all__ = ["RegisteredSource", "as_source", "list_sources", "open_source", "registered_sources"]

_GROUP: Final = "flowercnn.sources"
_BUILT_IN: Final = ("flower102", "flower17", "folder", "synthetic", "table", "tensorbay")
_TABLE_SUFFIXES: Final = (".csv", ".tsv", ".tab", ".parquet")


def list_sources() -> list[str]:
    """Return the schemes `open_source` knows, sorted, without importing anything."""
    return sorted({*_BUILT_IN, *_plug_ins()})


@dataclass(frozen=True, slots=True)
class RegisteredSource:
    """A scheme that `open_source` knows.

    Args:
        scheme: The part of a URI before the colon.
        package: Name of the package that adds it; ``flowercnn`` for a built-in one.
        problem: Why it cannot be used, in a sentence, or ``None``.
    """

    scheme: str
    package: str
    problem: str | None = None


def registered_sources() -> list[RegisteredSource]:
    """Return all schemes, sorted, with package and problem; every plug-in is imported."""
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
    """Return the source of a URI ``"scheme:rest"``; ``rest`` is the argument of its class.

    Args:
        uri: Such as ``"folder:photos"``, ``"table:photos.csv"``, ``"tensorbay:Flower17-1"`` or
            ``"synthetic:60"``, or a URL such as ``"s3://bucket/photos"``. A package adds a scheme
            by an entry point in the group ``flowercnn.sources`` that names a function of one
            string; it cannot replace a built-in scheme.

    Raises:
        ConfigurationError: If ``uri`` is not of this form.
        UnknownNameError: If the scheme is not registered.
        SourceError: If a plug-in cannot be imported, fails, or does not return a source.

    Example:
        >>> open_source("synthetic:3")
        SyntheticFlowers(per_class=3, num_classes=17, seed=0, image_size=(160, 160))
    """
    scheme, colon, rest = uri.partition(":") if isinstance(uri, str) else ("", "", "")
    if not colon or not scheme:
        raise ConfigurationError(
            f"uri must look like 'scheme:rest', such as 'folder:photos'. Received: uri={uri!r}"
        )
    if scheme in _BUILT_IN:
        return _open_built_in(scheme, rest)
    plug_ins = _plug_ins()
    if scheme in plug_ins:
        return _open_plug_in(plug_ins[scheme], rest)
    if rest.startswith("//") or "::" in uri:
        return _open_path(uri)
    known = list_sources()
    raise UnknownNameError(
        f"The scheme must be one of {', '.join(known)}.{closest(scheme, known)} "
        f"Received: {uri!r}. "
        f"A package adds one by an entry point in the group {_GROUP!r}."
    )


def as_source(source: DataSource | str | os.PathLike[str]) -> DataSource:
    """Return a source, or open the source of a path or URI.

    Args:
        source: A source, such as a `Dataset`; the path of a folder, of an archive, or of a table
            whose columns have the names of `open_table`; or a URI for `open_source`. A path that
            exists takes precedence over a scheme.

    Raises:
        ConfigurationError: If it is anything else.
        UnknownNameError: If the scheme is not registered.
    """
    if isinstance(source, os.PathLike):
        return _open_path(os.fspath(source))
    if isinstance(source, str):
        scheme, colon, _ = source.partition(":")
        # One letter is a drive of Windows; without a colon it is a path, even if it does not exist.
        exists = os.path.exists(source)  # noqa: PTH110 - "" has no Path
        is_path = not colon or len(scheme) == 1 or exists
        return _open_path(source) if is_path else open_source(source)
    if isinstance(source, DataSource) and not isinstance(source, bytes):
        return source
    raise ConfigurationError(
        "source must be a source such as flowercnn.ImageFolder('photos'), a path or a URI. "
        f"Received: {type(source).__name__} {source!r}"
    )


def _open_path(path: str) -> DataSource:
    if shown(path).lower().endswith(_TABLE_SUFFIXES) and not os.path.isdir(path):  # noqa: PTH112
        return _open_built_in("table", path)
    if os.path.isfile(path):  # noqa: PTH113
        from flowercnn.sources.archive import is_archive

        if not is_archive(path):
            raise ConfigurationError(
                "source must be a folder, an archive (.zip, .tar, ...) or a table "
                f"({', '.join(_TABLE_SUFFIXES)}). "
                f"Received: the file {path!r}, {PurePath(path).suffix or 'without suffix'}"
            )
    return _open_built_in("folder", path)


def _open_built_in(scheme: str, rest: str) -> DataSource:
    from flowercnn import sources

    source: DataSource
    if scheme == "synthetic":
        if rest and not (rest.isascii() and rest.isdigit()):
            raise ConfigurationError(
                f"synthetic takes the number of images per class. Received: {rest!r}"
            )
        source = sources.SyntheticFlowers(int(rest)) if rest else sources.SyntheticFlowers()
    elif scheme == "table":
        from flowercnn.sources.table import open_table

        source = open_table(rest)
    elif scheme in ("flower17", "flower102"):
        flowers = sources.Flower17 if scheme == "flower17" else sources.Flower102
        source = flowers(rest or None)
    else:
        source = sources.TensorBay(rest) if scheme == "tensorbay" else sources.ImageFolder(rest)
    return source


def _plug_ins() -> dict[str, list[EntryPoint]]:
    """Return the entry points of each scheme; packages with unreadable metadata are skipped."""
    found: defaultdict[str, list[EntryPoint]] = defaultdict(list)
    for package in distributions():
        try:
            points = list(package.entry_points.select(group=_GROUP))
        except Exception:  # noqa: BLE001, S112 - one damaged package must not hide others
            continue
        for point in points:
            if all(point.value != each.value for each in found[point.name]):  # listed twice
                found[point.name].append(point)
    return dict(found)


def _open_plug_in(points: Sequence[EntryPoint], rest: str) -> DataSource:
    make = _load(points)
    try:
        source: Any = make(rest)
    except FlowerCNNError:
        raise  # the plug-in's own word on ``rest``
    except Exception as error:
        raise _failed(points[0], error) from error
    if isinstance(source, str) or not isinstance(source, DataSource):
        kind = type(source).__name__
        raise SourceError(f"{_plug_in(points[0])} must return a source. Received: {kind}")
    return source


def _load(points: Sequence[EntryPoint]) -> Any:
    """Import the function that makes the source of a scheme.

    Raises:
        SourceError: If it cannot be imported, or the scheme is not unique.
    """
    point = points[0]
    if point.name in _BUILT_IN:
        raise SourceError(
            f"{_plug_in(point)} is not used: the scheme is built in. It needs another name."
        )
    if len(points) > 1:
        packages = few(sorted(map(_package, points)))
        raise SourceError(
            f"The scheme {point.name!r} is registered by {packages}. Remove all but one."
        )
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise _failed(point, error) from error


def _failed(point: EntryPoint, error: BaseException) -> SourceError:
    return SourceError(
        f"{_plug_in(point)} failed ({type(error).__name__}: {error}). "
        "Update or remove that package."
    )


def _plug_in(point: EntryPoint) -> str:
    return f"The plug-in for {point.name!r} from {_package(point)}"


def _package(point: EntryPoint) -> str:
    try:
        return str(point.dist.name) if point.dist is not None else point.value
    except Exception:  # noqa: BLE001 - its metadata may be damaged
        return point.value
