"""Files and folders, written as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import platformdirs

from flowercnn.errors import ConfigurationError, OutputError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "as_path",
    "can_be_written",
    "entry_digest",
    "expanded",
    "make_folder",
    "read_arrays",
    "read_entry",
    "replace_file",
    "replace_folder",
    "user_cache",
    "user_home",
    "write_arrays",
    "write_entry",
    "write_result",
]


_LONG_NAME: Final = 200  # bytes; file systems take 255
_ABOUT: Final = "about"  # the entry of an array store that is JSON
_DIGEST: Final = 16  # bytes at the end of a cache entry


def as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a user's path with ``~`` replaced by the home folder, if there is one.

    Raises:
        ConfigurationError: If it is not a path; ``name`` is the argument's.
    """
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails without a home
    except TypeError:
        raise ConfigurationError(
            f"{name} must be a path: a str or a pathlib.Path. Received: {name}={path!r}"
        ) from None


def can_be_written(path: str | os.PathLike[str]) -> bool:
    """Return whether a file could be written there, as far as known without writing."""
    try:
        target = as_path(path).absolute()
    except FileNotFoundError:  # the current folder was removed
        return False
    above = next((folder for folder in target.parents if folder.exists()), None)
    if above is None or target.is_dir():  # no folder above: a drive that is missing
        return False
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, move it there, and return the path.

    On failure the previous file is unchanged and no temporary file is left. The temporary name
    ends like ``path``, for writers that depend on the suffix. Links are followed, and the mode of
    the previous file is kept.

    Raises:
        OSError: If the folder cannot be written.
    """
    target = as_path(path)
    place = Path(os.path.realpath(target)) if target.is_symlink() else target
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(place)
    try:
        write(temporary)
        if place.is_file():
            with contextlib.suppress(OSError):  # not every file system has modes
                temporary.chmod(stat.S_IMODE(place.stat().st_mode))
        os.replace(temporary, place)  # noqa: PTH105 - replaces on Windows too
    finally:
        temporary.unlink(missing_ok=True)
    return target


def write_result(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Replace a file named by a user, as `replace_file` does.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        return replace_file(path, write)
    except OSError as error:
        raise _unwritable(path, error, "Give the name of a file") from error


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], about: Mapping[str, Any] | None = None
) -> Path:
    """Write arrays, and ``about`` as JSON, to an ``.npz`` file as a whole; return its path.

    Raises:
        ValueError: If an array would need pickle, or is named ``about``.
        OSError: If the file cannot be written.
    """
    import numpy as np

    stored = {name: np.asarray(array) for name, array in arrays.items()}
    pickled = sorted(name for name, array in stored.items() if array.dtype.hasobject)
    if _ABOUT in stored or pickled:
        rule = "arrays must be of numbers or text, not named 'about'"
        raise ValueError(f"{rule}. Received: {pickled or _ABOUT}")
    if about is not None:
        stored[_ABOUT] = np.array(json.dumps(about))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # to a name NumPy would append .npz
            np.savez(file, **stored)  # type: ignore[arg-type]  # its stub misreads the names

    return replace_file(path, write)


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return the JSON object, or ``{}``, and the arrays of `write_arrays`; nothing is unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is damaged or another kind of file.
    """
    import numpy as np

    try:
        # Opened here: NumPy leaves the file open where it is damaged.
        with as_path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        text = arrays.pop(_ABOUT, None)
        about = {} if text is None else json.loads(str(text))
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile raise anything on damaged files
        reason = f"not an .npz file, or damaged ({type(error).__name__}: {error})"
        raise ValueError(f"{path}: {reason}") from error
    if not isinstance(about, dict):
        kind = type(about).__name__
        raise ValueError(f"{path}: its entry 'about' must be a JSON object. Received: {kind}")  # noqa: TRY004 - the file is at fault
    return about, arrays


def entry_digest() -> hashlib.blake2b:
    """Return the hash whose digest ends a cache entry, for entries written in chunks."""
    return hashlib.blake2b(digest_size=_DIGEST)


def write_entry(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a cache entry as a whole, content and 16 bytes of digest; return its path.

    Raises:
        OSError: If it cannot be written.
    """
    digest = entry_digest()
    digest.update(content)
    return replace_file(path, lambda temporary: temporary.write_bytes(content + digest.digest()))


def read_entry(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a cache entry, verified by its digest.

    Raises:
        FileNotFoundError: If there is no such entry.
        OSError: If it cannot be read.
        ValueError: If it was truncated or changed.
    """
    entry = as_path(path).read_bytes()
    content = entry[:-_DIGEST]
    digest = entry_digest()
    digest.update(content)
    if digest.digest() != entry[-_DIGEST:]:
        raise ValueError(f"{path}: the cache entry is damaged")
    return content


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder named by a user if it is missing, and return its path.

    Raises:
        OutputError: If it cannot be created.
    """
    folder = as_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error, "Give the name of a folder") from error
    return folder


def _unwritable(path: str | os.PathLike[str], error: OSError, way_out: str) -> OutputError:
    reason = f"{path}: cannot be written ({error.strerror or error})"
    return OutputError(f"{reason}. {way_out} in a folder that can be written.")


def replace_folder(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary folder beside ``path``, move it there, and return the path.

    On failure the previous folder is unchanged and no temporary folder is left. A previous folder
    is replaced only if its top-level names are among those of the new one.

    Raises:
        OSError: If the folder cannot be written, or something else is in its place.
    """
    target = as_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(target), _beside(target)
    try:
        temporary.mkdir()
        write(temporary)
        if target.exists():
            if {entry.name for entry in target.iterdir()} - {
                entry.name for entry in temporary.iterdir()
            }:
                raise FileExistsError(
                    errno.EEXIST, "there is another folder in its place", str(target)
                )
            target.rename(old)
        temporary.rename(target)
    finally:  # after Ctrl-C, too
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    return target


def _beside(target: Path) -> Path:
    """Return a new name that ends like the target's, which may have the greatest length."""
    end = target.name
    while len(os.fsencode(end)) > _LONG_NAME:
        end = end[1:]
    return target.with_name(f".{secrets.token_hex(4)}.{end}")


def user_cache() -> Path:
    """Return the platform's folder for a user's caches.

    Raises:
        ConfigurationError: If the user does not have a home.
    """
    with _explained():
        path = platformdirs.user_cache_path("flowercnn")
    if not path.is_absolute():  # such as "~/.cache", which would be made in the current folder
        raise _homeless()
    return path


def user_home() -> Path:
    """Return the user's home.

    Raises:
        ConfigurationError: If the user does not have one.
    """
    with _explained():
        return Path.home()


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` replaced by the user's home.

    Raises:
        ConfigurationError: If the user does not have one.
    """
    with _explained():
        return Path(path).expanduser()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError) as error:
        raise _homeless() from error


def _homeless() -> ConfigurationError:
    return ConfigurationError(
        "The user's home folder is not known: HOME is not set and the system does not know the "
        "user. Set HOME, or give the folder: cache_dir or root."
    )
