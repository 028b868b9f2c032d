"""Images behind URLs that fsspec can open, such as s3://, gs://, https:// and memory://."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from os import SEEK_END
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import unquote

from flowercnn.errors import (
    FlowerCNNError,
    ImageError,
    MissingDependencyError,
    SourceError,
    UnknownNameError,
    closest,
)
from flowercnn.sources.archive import (
    is_archive,
    is_compressed_tar,
    list_archive,
    list_unpacked_tar,
    unpacked_tar,
)
from flowercnn.sources.tree import DEEPEST, ListedTree
from flowercnn.sources.urls import StorageOptions, shown

__all__ = ["RemoteFile", "RemoteImage", "open_remote_tree", "read_remote"]

_LARGEST_FILE: Final = 2**30
_ATTEMPTS: Final = 3
_FIRST_PAUSE: Final = 0.2  # seconds; each pause is four times the one before
# Errors that a second attempt would meet again.
_FINAL: Final = (IsADirectoryError, PermissionError, ValueError, TypeError, NotImplementedError)
_BAD_REQUEST, _SERVER_ERROR = 400, 500  # statuses of HTTP
_TEMPORARY, _GONE = (408, 429), (404, 410)
_SECONDS: Final = 30  # to connect to a web server, and for each piece of its answer
_SECONDS_IN_ALL: Final = 300  # for one request
# Names in file systems of what changes with the content of a file.
_MARKS: Final = frozenset(
    (
        *("etag", "lastmodified", "mtime", "updated", "created", "generation", "versionid", "sha"),
        *("contentmd5", "md5", "md5hash", "digest", "checksum", "crc32c"),
    )
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, repr=False)
class RemoteFile:
    """Remote file; safe in several threads and cheap to pickle.

    Args:
        url: URL as fsspec takes it.
        options: Further options of fsspec.
    """

    url: str
    options: StorageOptions = field(default_factory=StorageOptions, hash=False)

    def __repr__(self) -> str:
        return f"<{shown(self.url)}>"

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``.

        Raises:
            SourceError: If they cannot be read in three attempts, or the server sends more.
        """

        def read() -> bytes:
            system, path = _system(self.url, self.options)
            return bytes(system.cat_file(path, start=start, end=end))

        content = _persistently(self.url, read)
        if len(content) > end - start:
            raise _sends_no_parts(self.url)
        return content


class RemoteImage(RemoteFile):
    """Remote file that is an image, read when it is called."""

    __slots__ = ()

    def __call__(self) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: If there is no such file, or it is larger than 1 GiB.
            SourceError: If it cannot be read in three attempts.
        """
        return read_remote(self.url, self.options, missing=ImageError)


def read_remote(
    url: str, options: Mapping[str, Any], missing: type[ImageError | SourceError] = SourceError
) -> bytes:
    """Return the content of a remote file.

    Args:
        url: URL of the file.
        options: Options of fsspec.
        missing: Error to raise if there is no such file, or it is larger than 1 GiB.

    Raises:
        MissingDependencyError: If fsspec, or its package for this kind of URL, is not installed.
        SourceError: If it cannot be read in three attempts.
    """

    def read() -> bytes:
        system, path = _system(url, options)
        with _opened(system, path) as file:
            parts, size = [], 0
            while size <= _LARGEST_FILE and (part := file.read(_LARGEST_FILE + 1 - size)):
                parts.append(part)
                size += len(part)
            return b"".join(parts)

    content = _persistently(url, read, missing)
    if len(content) > _LARGEST_FILE:
        raise missing(f"{shown(url)}: more than {_LARGEST_FILE:,} bytes.")
    return content


def open_remote_tree(url: str, options: StorageOptions) -> ListedTree:
    """List everything below a remote folder, or in a remote archive.

    Args:
        url: URL of the folder or archive; ``zip://inside::URL`` is a folder in an archive of any
            name, ``zip://PATH`` an archive.
        options: Options of fsspec.

    Raises:
        MissingDependencyError: If fsspec, or its package for this kind of URL, is not installed.
        SourceError: If it cannot be listed.
        UnknownNameError: If fsspec does not know this kind of URL.
    """
    first, _, rest = url.partition("::")
    kind, _, inside = first.partition("://")
    if kind in ("zip", "tar"):
        if not rest:
            rest, inside = inside, ""
        tree = _open_remote_archive(rest, options, is_zip=kind == "zip")
        return tree.below(inside) if inside.strip("/") else tree
    if is_archive(url):
        return _open_remote_archive(url, options, is_zip=shown(url).lower().endswith(".zip"))
    system, root = _system(url, options)
    tree = ListedTree(shown(url))
    for path in _files_below(system, root, url):
        relative = path.removeprefix(root).lstrip("/")
        if url.startswith(("http://", "https://")):
            relative = unquote(relative)
        tree.add_file(relative, RemoteImage(_url_of(system, path, url), options))
    return tree


def _files_below(system: Any, root: str, url: str) -> list[str]:
    """Return the paths of all files below a folder; one that cannot be listed is an error."""
    if _has_its_own_find(type(system)):
        return _persistently(url, partial(_find, system, root))
    files, folders, visited = [], [root], {root.rstrip("/")}
    while folders:
        folder = folders.pop()
        place = url if folder == root else _url_of(system, folder, url)
        # Each on its own: of many requests some fail, however often all are repeated.
        for entry in _persistently(place, partial(system.ls, folder, detail=True)):
            path = str(entry["name"])
            parts = path.removeprefix(root).split("/")
            if not path.startswith(root) or ".." in parts:
                continue  # a web page may link to anything
            if len(parts) > DEEPEST:
                raise SourceError(f"{shown(path)}: folders are nested more than {DEEPEST} deep.")
            if entry["type"] != "directory":
                files.append(path)
            elif path.rstrip("/") not in visited:
                visited.add(path.rstrip("/"))
                folders.append(path)
    return files


def _find(system: Any, root: str) -> list[str]:
    files = [str(path) for path in system.find(root)]
    if not files:
        system.ls(root)  # raises an error if there is no such folder
    return files


def _has_its_own_find(kind: Any) -> bool:
    """Return whether a file system lists everything at once, as object stores do.

    The default ``find`` of fsspec lists each folder and silently leaves out those that fail.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    if issubclass(kind, AsyncFileSystem):
        return bool(kind._find is not AsyncFileSystem._find)  # noqa: SLF001 - no public way
    return bool(getattr(kind, "find", None) is not AbstractFileSystem.find)


def _url_of(system: Any, path: str, url: str) -> str:
    """Return the URL of a file, behind the caches of ``url`` (``simplecache::s3://``)."""
    caches = [part for part in url.split("::") if "://" not in part]
    return "::".join([*caches, str(system.unstrip_protocol(path))])


def _open_remote_archive(url: str, options: StorageOptions, *, is_zip: bool) -> ListedTree:
    system, path = _system(url, options)
    info = _persistently(url, lambda: system.info(path))
    with _persistently(url, lambda: system.open(path, "rb")) as opened:
        size = _size(url, info, opened)
        steady = _SteadyFile(url, opened)
        file = cast("BinaryIO", steady)
        try:
            if is_zip or not is_compressed_tar(url):
                return list_archive(file, shown(url), RemoteFile(url, options), size, is_zip=is_zip)
            tar = unpacked_tar(file, url, _version(info), size)
        except SourceError as error:
            raise (steady.failure or error) from None
    return list_unpacked_tar(tar, shown(url))


def _size(url: str, info: Mapping[str, Any], opened: Any) -> int:
    """Return the size of a file; ``filecache::`` and some servers know only that of an open one."""
    if info["size"] is not None:
        return int(info["size"])
    try:
        size = int(opened.seek(0, SEEK_END))
        opened.seek(0)
    except (ValueError, OSError):  # a stream
        raise _sends_no_parts(url) from None
    return size


def _version(info: Mapping[str, Any]) -> str | None:
    """Return a mark that changes with the content of a file, or ``None`` if only its size is known.

    Not fsspec's ``ukey``: over HTTP that is a hash of the URL.
    """
    marks = [
        f"{name}={info[name]}"
        for name in sorted(info)
        if "".join(filter(str.isalnum, name)).lower() in _MARKS and info[name]
    ]
    return " ".join([f"size={info['size']}", *marks]) if marks else None


class _SteadyFile:
    """Open remote file; each read is repeated after temporary errors, such as a lost connection.

    Args:
        url: Its URL.
        file: The file as fsspec has opened it.
    """

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file
        self.failure: SourceError | None = None  # to zipfile every OSError means a bad zip
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()

        def read() -> bytes:
            if self._file.tell() != start:
                self._file.seek(start)
            return bytes(self._file.read(size))

        try:
            return _persistently(self._url, read)
        except SourceError as error:
            self.failure = error
            raise


def _with_patience(url: str, protocol: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add timeouts for web servers to options without any; aiohttp's is five silent minutes."""
    own = options.get(protocol, {})
    if protocol not in ("http", "https") or "client_kwargs" in options or "client_kwargs" in own:
        return options
    try:
        from aiohttp import ClientTimeout
    except ImportError:
        return options
    timeout = ClientTimeout(total=_SECONDS_IN_ALL, sock_connect=_SECONDS, sock_read=_SECONDS)
    added = {"client_kwargs": {"timeout": timeout}}
    return {**options, protocol: {**own, **added}} if "::" in url else {**options, **added}


def _system(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it."""
    try:
        import fsspec
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingDependencyError(
            f"{shown(url)}: URLs need fsspec. Install it with: pip install 'flowercnn[remote]'"
        ) from error
    protocol = url.rpartition("::")[2].partition("://")[0]
    known = fsspec.available_protocols()
    if "://" in url and protocol not in known:
        raise UnknownNameError(
            f"fsspec knows no {protocol}:// URLs.{closest(protocol, known)} "
            f"Received: {shown(url)!r}"
        )
    try:
        system, path = url_to_fs(url, **_with_patience(url, protocol, options))
    except ImportError as error:
        raise MissingDependencyError(f"{shown(url)}: {error}") from error
    except Exception as error:  # noqa: BLE001 - whatever a file system raises when it is made
        raise _unreadable(url, error) from None
    return system, _decoded(system, str(path)) if protocol in ("file", "local") else str(path)


def _opened(system: Any, path: str) -> Any:
    """Open a file to read all of it."""
    if "https" not in system.protocol:
        return system.open(path, "rb")
    return system.open(path, "rb", block_size=0, size=1)  # a stream, without a request for its size


def _decoded(system: Any, path: str) -> str:
    """Return the path of a ``file://`` URL; fsspec leaves the ``%20`` of ``Path.as_uri()``."""
    return unquote(path) if "%" in path and not system.exists(path) else path


def _persistently(
    url: str, read: Callable[[], Result], missing: type[ImageError | SourceError] = SourceError
) -> Result:
    """Return ``read()``, repeated after temporary errors such as a lost connection."""
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except FlowerCNNError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has its own
            cause = _cause(error)
            if isinstance(cause, FileNotFoundError):
                raise missing(f"{shown(url)}: there is no such file or folder.") from None
            if attempt == _ATTEMPTS - 1 or _is_final(cause):
                raise _unreadable(url, cause) from None
            time.sleep(_FIRST_PAUSE * 4**attempt)
    raise AssertionError("unreachable")


def _cause(error: Exception) -> BaseException:
    """Return the true cause: to fsspec any failure of a web server is a missing file."""
    if getattr(error, "status", None) in _GONE:
        return FileNotFoundError()
    cause = error.__cause__
    if (
        not isinstance(error, FileNotFoundError)
        or cause is None
        or isinstance(cause, FileNotFoundError)
    ):
        return error
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return error if status in _GONE else cause
    is_of_network = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return cause if is_of_network else error


def _unreadable(url: str, error: BaseException) -> SourceError:
    """Return the error to raise ``from None``: ``error`` may hold the URL with its secrets."""
    if isinstance(error, ValueError) and "range requests" in str(
        error
    ):  # fsspec has no class for it
        return _sends_no_parts(url)
    return SourceError(
        f"{shown(url)}: cannot be read ({type(error).__name__}). "
        "Check the URL, your access to it and the network."
    )


def _sends_no_parts(url: str) -> SourceError:
    return SourceError(
        f"{shown(url)}: the server cannot send parts of a file. "
        "Download it first, or put simplecache:: before it."
    )


def _is_final(error: BaseException) -> bool:
    """Return whether trying again is useless: a rejected request, a wrong argument."""
    status = getattr(error, "status", None)
    is_ours = isinstance(status, int) and _BAD_REQUEST <= status < _SERVER_ERROR
    return (is_ours and status not in _TEMPORARY) or isinstance(error, _FINAL)
