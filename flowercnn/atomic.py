"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

__all__ = ["replace_file"]


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
