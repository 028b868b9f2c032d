"""A checksum at the end of a file: whatever happened to the file since it was written is noticed.

It tells damage from intention, not friend from foe: who changes a file on purpose can write a new checksum.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from flowercnn.errors import ModelFileError

__all__ = ["PLACEHOLDER", "append_checksum", "check_checksum", "fill_checksum"]

_PREFIX: Final = b"sha256:"
_DIGITS: Final = 64
PLACEHOLDER: Final = _PREFIX + b"0" * _DIGITS
"""What stands at the end of a file before `fill_checksum`."""


def append_checksum(path: Path) -> None:
    """Add a checksum to the end of a file whose format allows it."""
    with path.open("ab") as file:
        file.write(PLACEHOLDER)
    fill_checksum(path)


def fill_checksum(path: Path) -> None:
    """Replace the placeholder at the end of a file by the SHA-256 of all before its digits."""
    with path.open("r+b") as file:
        content = file.read()
        file.seek(-_DIGITS, 2)
        file.write(hashlib.sha256(content[:-_DIGITS]).hexdigest().encode())


def check_checksum(content: bytes, name: str) -> None:
    """Refuse content that is not as it was written.

    Raises:
        ModelFileError: If it does not end in its checksum.
    """
    view = memoryview(content)
    digest = _PREFIX + hashlib.sha256(view[:-_DIGITS]).hexdigest().encode()
    if bytes(view[-len(digest) :]) != digest:
        raise ModelFileError(
            f"{name}: refused: the file is damaged or was changed after it was saved (its checksum does not fit). "
            "Save or copy it again."
        )
