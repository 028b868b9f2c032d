"""Checks of the zip archive that a ``.keras`` file is, before anything in it is read."""

from __future__ import annotations

import struct
import zipfile
from typing import Final

from flowercnn.errors import ModelFileError

__all__ = ["check_directory", "check_members"]

_MOST_JSON_BYTES: Final = 16 * 2**20
_MOST_DIRECTORY_BYTES: Final = 2**16
_END_BYTES: Final = 22  # of the record that ends an archive, without its comment


def check_directory(content: bytes, name: str) -> None:
    """Refuse archives with a long list of members, before zipfile makes objects of all of it.

    Args:
        content: The whole archive.
        name: Of the file, for messages.

    Raises:
        ModelFileError: If it has one, or no end.
    """
    end = content.rfind(b"PK\x05\x06", -(2**16 + _END_BYTES))  # where zipfile looks for it: a comment may follow
    if end < 0 or end + _END_BYTES > len(content):
        raise ModelFileError(f"{name}: the model file is damaged (the archive has no end).")
    # The bytes count: zipfile reads all of them, however many members the archive claims to have.
    (size,) = struct.unpack_from("<I", content, end + 12)
    has_larger_numbers_elsewhere = content.startswith(b"PK\x06\x07", max(end - 20, 0))
    if size > _MOST_DIRECTORY_BYTES or has_larger_numbers_elsewhere:
        raise ModelFileError(f"{name}: refused: the archive has more members than a model.")


def check_members(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse members that Keras does not write: compressed, encrypted or much too large.

    Args:
        archive: The archive.
        name: Of the file, for messages.

    Raises:
        ModelFileError: If there is one.
    """
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ModelFileError(f"{name}: refused: {member.filename} is compressed; Keras never does that.")
        if member.flag_bits & 1:
            raise ModelFileError(f"{name}: refused: {member.filename} is encrypted.")
        if member.filename.endswith(".json") and member.file_size > _MOST_JSON_BYTES:
            raise ModelFileError(
                f"{name}: refused: {member.filename} is larger than any network needs ({member.file_size:,} bytes)."
            )
