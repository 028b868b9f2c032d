"""Checks of a file as a whole: the zip archive of ``.keras`` files, and the checksum at the end."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path
from typing import Final

from flowercnn.errors import ModelFileError

__all__ = [
    "PLACEHOLDER",
    "append_checksum",
    "check_checksum",
    "check_directory",
    "check_members",
    "fill_checksum",
]

_MOST_JSON_BYTES: Final = 16 * 2**20
_MOST_DIRECTORY_BYTES: Final = 2**16
_END_BYTES: Final = 22  # of the record that ends an archive, without its comment
_PREFIX: Final = b"sha256:"
_DIGITS: Final = 64
PLACEHOLDER: Final = _PREFIX + b"0" * _DIGITS
"""The end of a file before `fill_checksum`."""


def check_directory(content: bytes, name: str) -> None:
    """Reject archives with a long list of members, before zipfile makes objects of all of it.

    Args:
        content: The whole archive.
        name: Of the file, for messages.

    Raises:
        ModelFileError: If it has one, or no end.
    """
    # Where zipfile looks for the end: a comment may follow it.
    end = content.rfind(b"PK\x05\x06", -(2**16 + _END_BYTES))
    if end < 0 or end + _END_BYTES > len(content):
        raise ModelFileError(f"{name}: the model file is damaged (the archive has no end).")
    # The bytes count: zipfile reads all of them, however many members the archive claims to have.
    (size,) = struct.unpack_from("<I", content, end + 12)
    has_larger_numbers_elsewhere = content.startswith(b"PK\x06\x07", max(end - 20, 0))
    if size > _MOST_DIRECTORY_BYTES or has_larger_numbers_elsewhere:
        raise ModelFileError(f"{name}: rejected: the archive has more members than a model.")


def check_members(archive: zipfile.ZipFile, name: str) -> None:
    """Reject members that Keras does not write: compressed, encrypted or much too large.

    Args:
        archive: The archive.
        name: Of the file, for messages.

    Raises:
        ModelFileError: If there is one.
    """
    for member in archive.infolist():
        size = member.file_size
        reason = ""
        if member.compress_type != zipfile.ZIP_STORED or size != member.compress_size:
            reason = "is compressed; Keras never does that."
        elif member.flag_bits & 1:
            reason = "is encrypted."
        elif member.filename.endswith(".json") and size > _MOST_JSON_BYTES:
            reason = f"is larger than any network needs ({size:,} bytes)."
        if reason:
            raise ModelFileError(f"{name}: rejected: {member.filename} {reason}")


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
    """Reject content that is not as it was written.

    This finds damage, not forgery: a new checksum can be written with any change.

    Raises:
        ModelFileError: If it does not end in its checksum.
    """
    view = memoryview(content)
    digest = _PREFIX + hashlib.sha256(view[:-_DIGITS]).hexdigest().encode()
    if bytes(view[-len(digest) :]) != digest:
        raise ModelFileError(
            f"{name}: rejected: the file is damaged or was changed after it was saved (its "
            "checksum does not fit). Save or copy it again."
        )
