"""Files and listings on disk, so that nothing is fetched twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

from flowercnn._utils import entry_digest, expanded, read_entry, replace_file, user_cache
from flowercnn.errors import SourceError

__all__ = ["DiskCache", "NewFile", "clear_cache", "default_cache_dir"]

_FOLDER: Final = "tensorbay"
_BEGIN: Final = 64  # bytes of a file that are looked at
_LEFT_AFTER_TRIM: Final = 0.9
_ABANDONED: Final = 24 * 3600  # seconds after which a temporary file belongs to nobody

_log = logging.getLogger("flowercnn.sources.tensorbay")


def default_cache_dir() -> Path:
    """Return the folder used unless another is given: the platform's place for a user's caches."""
    return user_cache()


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Remove every file and listing of TensorBay from a cache folder, and nothing else.

    Args:
        cache_dir: As given to `TensorBay`; ``None`` for the platform's place.
    """
    shutil.rmtree(_root(cache_dir), ignore_errors=True)


class DiskCache:
    """Folder of files named by hashes, of bounded size, shared by threads and processes.

    A file is its content followed by 16 bytes of digest, so that one that was cut or changed is not
    believed. It is written under a temporary name and then moved. Where the limit is passed, those
    not used for longest are removed.

    Args:
        cache_dir: The folder; ``None`` for the platform's place.
        limit: Bytes the files may take together; more only for as long as they are being written.
    """

    def __init__(self, cache_dir: str | os.PathLike[str] | None, limit: int) -> None:
        self._root = _root(cache_dir)
        self._limit = limit
        self._lock = threading.Lock()
        self._size: int | None = None  # bytes, known once something is written

    def name(self, *parts: str) -> str:
        """Return the name of a file or listing: 32 hexadecimal digits."""
        text = "\x1f".join(parts).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    def has(self, name: str) -> bool:
        """Return whether there is a file, and count this as a use of it."""
        path = self._path(name)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:  # a cache that may only be read
            return path.is_file()
        return True

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or ``None`` if it is not there or damaged."""
        path = self._path(name)
        try:
            content = read_entry(path)
        except OSError:
            return None
        except ValueError:
            _log.warning("A file in the cache %s is damaged; it is fetched again.", self._root)
            with contextlib.suppress(OSError):  # on Windows it stays while another process reads it
                path.unlink()
            return None
        self.has(name)
        return content

    def new_file(self, name: str) -> NewFile:
        """Return a file to write to; it is in the cache once `commit` has moved it there.

        Raises:
            SourceError: If the cache cannot be written.
        """
        try:
            return NewFile(self._path(name))
        except OSError as error:
            raise self.problem(error) from error

    def commit(self, file: NewFile) -> None:
        """Move a file that was written to its place, and remove others if the limit is passed.

        Raises:
            SourceError: If the cache cannot be written.
        """
        try:
            length = file.commit()
        except OSError as error:
            raise self.problem(error) from error
        with self._lock:
            if self._size is None:
                self._size = sum(size for _, size, _ in self._files())
            else:
                self._size += length
            if self._size > self._limit:
                self._trim()

    def problem(self, error: OSError) -> SourceError:
        """Return what to tell the user when the cache cannot be written."""
        return SourceError(
            f"{self._root}: the TensorBay cache cannot be written ({error.strerror or error}). "
            "Free some space, set "
            "cache_dir to another folder, or make it smaller with cache_limit. What is in it "
            "already stays there."
        )

    def read_record(self, name: str) -> Any:
        """Return what `update_record` has written, or ``None``."""
        try:
            return json.loads(self._record_path(name).read_bytes())
        except (OSError, ValueError):
            return None

    def update_record(self, name: str, record: Any) -> None:
        """Write a listing for `read_record`, unless it is there: the cache may be read-only.

        Raises:
            SourceError: If the cache cannot be written.
        """
        if self.read_record(name) == record:
            return
        path = self._record_path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, lambda temporary: temporary.write_bytes(json.dumps(record).encode()))
        except OSError as error:
            raise self.problem(error) from error

    def _path(self, name: str) -> Path:
        return self._root / "files" / name[:2] / name[2:]

    def _record_path(self, name: str) -> Path:
        return self._root / "listings" / f"{name}.json"

    def _files(self) -> list[tuple[float, int, str]]:
        """Return time of last use, length and path of every file; remove stale temporary files."""
        found: list[tuple[float, int, str]] = []
        for folder, _, names in os.walk(self._root / "files"):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118 - there can be a million
                try:
                    status = os.stat(path)  # noqa: PTH116
                    if name.startswith(".") and time.time() - status.st_mtime > _ABANDONED:
                        os.unlink(path)  # noqa: PTH108
                    elif not name.startswith("."):
                        found.append((status.st_mtime, status.st_size, path))
                except OSError:
                    continue  # another process was faster
        return found

    def _trim(self) -> None:
        """Remove the files not used for longest until there is some room."""
        files = sorted(self._files())
        size = sum(length for _, length, _ in files)
        removed = 0
        for _, length, path in files:
            if size <= self._limit * _LEFT_AFTER_TRIM:
                break
            try:
                Path(path).unlink(missing_ok=True)
            except OSError:  # open in another process, on Windows
                continue
            size -= length
            removed += 1
        self._size = size
        _log.info(
            "Removed %d files from the cache %s: more than cache_limit=%d bytes",
            removed,
            self._root,
            self._limit,
        )


class NewFile:
    """A file written in pieces, whole or not at all, its digest at the end.

    Args:
        path: Its place.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._temporary = path.with_name(f".{secrets.token_hex(8)}")
        self._file: BinaryIO = self._temporary.open("xb")
        self._digest = entry_digest()
        self._committed = False
        self.begin = b""

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        if len(self.begin) < _BEGIN:
            self.begin += piece[: _BEGIN - len(self.begin)]
        self._digest.update(piece)
        self._file.write(piece)

    def commit(self) -> int:
        """Finish the file, move it to its place and return its length in bytes."""
        self._file.write(self._digest.digest())
        length = self._file.tell()
        self._file.close()
        os.replace(self._temporary, self._path)  # noqa: PTH105 - replaces on Windows too
        self._committed = True
        return length

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        if self._committed:
            return
        with contextlib.suppress(OSError):  # the content is not needed any more
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def _root(cache_dir: str | os.PathLike[str] | None) -> Path:
    return (default_cache_dir() if cache_dir is None else expanded(cache_dir)) / _FOLDER
