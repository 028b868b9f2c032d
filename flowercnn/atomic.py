"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["can_be_written", "replace_file", "replace_folder"]


def can_be_written(path: str | os.PathLike[str]) -> bool:
    """Return whether a file could be written there, as far as can be told without writing; folders would be made."""
    target = Path(path).absolute()
    above = next(folder for folder in target.parents if folder.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK) and not target.is_dir()


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it there, and return the path.

    Whatever goes wrong, the file that was there before stays as it was and no temporary file is left. The
    temporary name ends like ``path``, for writers that go by the suffix.

    Raises:
        OSError: If the folder cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        write(temporary)
        os.replace(temporary, target)  # noqa: PTH105 - replaces on Windows too
    finally:
        temporary.unlink(missing_ok=True)
    return target


def replace_folder(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary folder beside ``path``, then move it there, and return the path.

    Whatever goes wrong, what was there before stays as it was and no temporary folder is left. A folder that was
    there is replaced only if it holds the same names at its top as the new one: it was written by the same program.

    Raises:
        OSError: If the folder cannot be written, or there is something else in its place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    old = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        temporary.mkdir()
        write(temporary)
        if target.exists():
            if {entry.name for entry in target.iterdir()} - {entry.name for entry in temporary.iterdir()}:
                raise FileExistsError(errno.EEXIST, "there is another folder in its place", str(target))
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    return target
