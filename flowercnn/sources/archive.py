"""Pictures in zip and tar archives, read where they are: no name in an archive ever becomes a name on disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import secrets
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO, Final, Literal, Protocol, cast

from flowercnn._utils import replace_file, user_cache
from flowercnn.errors import ImageError, SourceError, few
from flowercnn.sources.tree import DEEPEST, ListedTree, is_picture
from flowercnn.sources.urls import shown

__all__ = [
    "ArchivedPicture",
    "ByteSource",
    "LocalFile",
    "is_archive",
    "is_compressed_tar",
    "list_archive",
    "list_unpacked_tar",
    "open_archive",
    "unpacked_tar",
]

_PLAIN_SUFFIXES: Final = (".zip", ".tar")
_COMPRESSED_TAR_SUFFIXES: Final = (".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")

_LARGEST_PICTURE: Final = 2**30
_SUSPICIOUS_SIZE: Final = 2**26
_SUSPICIOUS_RATIO: Final = 200
_LARGEST_HEADER: Final = 2**20

_ZIP_HEADER: Final = struct.Struct("<4s22xHH")  # of a member: signature, length of name, length of extra field
_ENCRYPTED: Final = 0x1
_IS_UTF_8: Final = 0x800
_OF_ARCHIVES: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError)


class ByteSource(Protocol):
    """A file of which parts can be read, by several threads at once."""

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``; fewer where the file ends before."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this computer.

    Args:
        path: Where it is.
        state: Its size and time of change when it was listed, or ``None``: another file has other pictures there.
    """

    path: str
    state: tuple[int, int] | None = None

    @classmethod
    def opened(cls, path: str, file: BinaryIO) -> LocalFile:
        """Return the file at ``path`` as it is now that it is open."""
        return cls(path, _state(file))

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``.

        Raises:
            ImageError: If the file cannot be read.
            SourceError: If it was changed since it was listed.
        """
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123 - called for every picture
                changed = self.state is not None and _state(file) != self.state
                file.seek(start)
                content = file.read(end - start)
        except OSError as error:
            raise ImageError(f"{self.path}: cannot be read ({error.strerror}).") from error
        if changed:
            raise SourceError(f"{self.path}: the archive was changed since it was listed. List it anew.")
        return content


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class ArchivedPicture:
    """A picture in an archive: a few numbers until it is called, so it is cheap to keep and to pickle.

    Args:
        file: The archive.
        name: Of the member, for messages.
        start: Where the member's bytes begin; for a zip, where its header does.
        packed: How many bytes it has in the archive.
        size: How many bytes it has.
        crc: Checksum of a zip member; ``None`` for a member of a tar.
        deflated: Whether it is compressed.
    """

    file: ByteSource
    name: str
    start: int
    packed: int
    size: int
    crc: int | None = None
    deflated: bool = False

    def __call__(self) -> bytes:
        """Return the encoded picture.

        Raises:
            ImageError: If the archive does not hold what it says.
        """
        content = self._packed_content()
        if self.deflated:
            content = self._inflated(content)
        if len(content) != self.size or (self.crc is not None and zlib.crc32(content) != self.crc):
            raise ImageError(f"{self.name}: the archive is damaged here.")
        return content

    def _packed_content(self) -> bytes:
        if self.crc is None:
            return self.file.read_range(self.start, self.start + self.packed)
        # The header's length is in the header; a guess makes one read of two, which over a network is half the time.
        guess = _ZIP_HEADER.size + 4 * len(self.name) + 64
        content = self.file.read_range(self.start, self.start + guess + self.packed)
        if len(content) < _ZIP_HEADER.size or not content.startswith(b"PK\x03\x04"):
            raise ImageError(f"{self.name}: the archive is damaged here.")
        _, name_length, extra_length = _ZIP_HEADER.unpack_from(content)
        header = _ZIP_HEADER.size + int(name_length) + int(extra_length)
        if header > guess:
            return self.file.read_range(self.start + header, self.start + header + self.packed)
        return content[header : header + self.packed]

    def _inflated(self, content: bytes) -> bytes:
        """Unpack no more than was announced, however much there is."""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
        except zlib.error as error:
            raise ImageError(f"{self.name}: the archive is damaged here ({error}).") from error


def is_archive(path: str) -> bool:
    """Return whether a path or URL ends like a zip or tar archive, whatever its query."""
    return shown(path).lower().endswith(_PLAIN_SUFFIXES + _COMPRESSED_TAR_SUFFIXES)


def is_compressed_tar(path: str) -> bool:
    """Return whether a path or URL ends like a tar that has to be unpacked before parts of it can be read."""
    return shown(path).lower().endswith(_COMPRESSED_TAR_SUFFIXES)


def open_archive(path: str) -> ListedTree:
    """List an archive on this computer.

    Raises:
        SourceError: If it cannot be read, or holds what is refused; see `ImageFolder`.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - names that are no UTF-8 stay what they are
            status = os.fstat(file.fileno())
            if not is_compressed_tar(path):
                local = LocalFile.opened(path, file)
                return list_archive(file, path, local, status.st_size, is_zip=path.lower().endswith(".zip"))
            version = f"{status.st_size}-{status.st_mtime_ns}"
            tar = unpacked_tar(file, os.path.abspath(path), version, status.st_size)  # noqa: PTH100
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return list_unpacked_tar(tar, path)


def list_archive(file: BinaryIO, where: str, source: ByteSource, size: int, *, is_zip: bool) -> ListedTree:
    """List an archive that is open: a zip, or a tar that is not compressed.

    Args:
        file: To list it with.
        where: Its path or URL, for messages.
        source: To read pictures with later, when ``file`` is closed.
        size: Of the file.
        is_zip: Whether it is a zip.

    Raises:
        SourceError: If it is damaged, or holds what is refused.
    """
    tree = ListedTree(where)
    refused: list[str] = []
    members = _zip_members if is_zip else _tar_members
    try:
        for member in members(file, source, size):
            if not member.refused and is_picture(member.name):
                member = member.checked(size)  # noqa: PLW2901 - the same one, looked at closely
            if member.refused:
                refused.append(f"{member.name!a} ({member.refused})")
            elif member.kind == "folder":
                tree.add_folder(member.name)
            elif member.kind == "file" and member.picture is not None:
                tree.add_file(member.name, member.picture)
            else:
                tree.add_other(member.name)
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and tarfile raise anything on damaged archives
        raise _unreadable(where, error) from None
    if refused:
        raise SourceError(
            f"{where}: the archive holds what is refused: {few(refused)}. Unpack it with a tool you trust and pack "
            "only the pictures again."
        )
    tree.enter_single_folder()
    return tree


def list_unpacked_tar(tar: Path, where: str) -> ListedTree:
    """List a tar that `unpacked_tar` made from the archive ``where``.

    Raises:
        SourceError: If it is damaged, or holds what is refused.
    """
    with tar.open("rb") as file:
        local = LocalFile.opened(str(tar), file)
        return list_archive(file, where, local, os.fstat(file.fileno()).st_size, is_zip=False)


def unpacked_tar(file: BinaryIO, where: str, version: str | None, packed: int) -> Path:
    """Return a plain tar with the content of a compressed one, made in the cache unless it is there.

    Args:
        file: The compressed tar.
        where: Its path or URL.
        version: Another one for another content; ``None`` where nothing tells one from another: it is unpacked anew.
        packed: Its size in bytes.

    Raises:
        SourceError: If it is damaged, or unpacks to more than 64 MiB and 200 times its size.
    """
    folder = user_cache() / "archives"
    archive = hashlib.blake2b(where.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    target = _tar_of(folder, archive, version or secrets.token_hex(8))
    if target.is_file():
        return target
    digest = hashlib.blake2b()
    try:
        replace_file(target, lambda path: _unpack(file, where, path, packed, digest.update))
        if version is None:  # the same content has one name, so that what was listed before stays readable
            target = _moved(target, _tar_of(folder, archive, digest.hexdigest()))
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - those of the server that sends it, too
        if isinstance(error, OSError) and error.errno is not None:  # the decompressors' own have no number
            raise SourceError(
                f"{shown(where)}: cannot be unpacked to {target} ({error.strerror}). See that there is space on the "
                "disk."
            ) from None
        raise _unreadable(where, error) from None
    for older in folder.glob(f"{archive}-*.tar"):
        if older != target:
            with contextlib.suppress(OSError):  # another process may be reading it, which on Windows keeps it there
                older.unlink()
    return target


def _tar_of(folder: Path, archive: str, version: str) -> Path:
    return folder / f"{archive}-{hashlib.blake2b(version.encode(), digest_size=6).hexdigest()}.tar"


def _moved(made: Path, target: Path) -> Path:
    if target.is_file():
        made.unlink()
        return target
    return made.replace(target)


def _unpack(file: BinaryIO, where: str, path: Path, packed: int, seen: Callable[[bytes], object]) -> None:
    """Write the content of a compressed file to ``path``, and show ``seen`` each piece of it."""
    most = max(_SUSPICIOUS_SIZE, _SUSPICIOUS_RATIO * packed)
    with _decompressed(where, file) as content, path.open("wb") as out:
        while chunk := content.read(2**20):
            if out.tell() > most:
                raise SourceError(f"{shown(where)}: refused: the archive unpacks to more than {most:,} bytes.")
            seen(chunk)
            out.write(chunk)


def _decompressed(where: str, file: BinaryIO) -> IO[bytes]:
    """Return the content of a compressed file, told by the end of its name."""
    name = shown(where).lower()
    if name.endswith("gz"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    return lzma.LZMAFile(file) if name.endswith("xz") else bz2.BZ2File(file)


@dataclass(frozen=True, slots=True)
class _Member:
    """What an archive says about one of its members.

    Args:
        name: With ``/``, without empty parts.
        kind: ``"other"`` is what is passed over.
        picture: Of a file.
        refused: Why the archive is refused; empty if it is not.
    """

    name: str
    kind: Literal["folder", "file", "other"]
    picture: ArchivedPicture | None = None
    refused: str = ""

    def checked(self, archive_size: int) -> _Member:
        """Return this member with the reason why it is refused, if there is one."""
        return self if self.picture is None else replace(self, refused=_objection(self.picture, archive_size))


def _objection(picture: ArchivedPicture, archive_size: int) -> str:
    if picture.start < 0 or picture.start + picture.packed > archive_size:
        return "it reaches beyond the end of the archive"
    if picture.size > _LARGEST_PICTURE:
        return f"{picture.size:,} bytes, more than {_LARGEST_PICTURE:,}"
    if picture.size > max(_SUSPICIOUS_SIZE, _SUSPICIOUS_RATIO * picture.packed):
        return f"{picture.packed:,} bytes unpack to {picture.size:,}"
    return ""


def _zip_members(file: BinaryIO, source: ByteSource, _size: int) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name, refused = _checked_name(_zip_name(info))
            if refused or info.is_dir():
                yield _Member(name, "folder", refused=refused)
            elif stat.S_ISLNK(info.external_attr >> 16):
                yield _Member(name, "other")
            else:
                objection = ""
                if is_picture(name) and info.flag_bits & _ENCRYPTED:
                    objection = "it is encrypted"
                elif is_picture(name) and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    objection = "it is compressed in another way than deflate"
                deflated = info.compress_type == zipfile.ZIP_DEFLATED
                picture = ArchivedPicture(
                    source, name, info.header_offset, info.compress_size, info.file_size, info.CRC, deflated
                )
                yield _Member(name, "file", picture, objection)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member; macOS and Info-ZIP write UTF-8 without the flag that says so."""
    if info.flag_bits & _IS_UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _tar_members(file: BinaryIO, source: ByteSource, size: int) -> Iterator[_Member]:
    headers = cast("BinaryIO", _HeaderReader(file))
    with tarfile.open(fileobj=headers, mode="r:") as archive:
        for info in archive:
            name, refused = _checked_name(info.name)
            if refused or info.isdir():
                yield _Member(name, "folder", refused=refused)
            elif not info.isreg() or info.issparse():
                yield _Member(name, "other")
            else:
                yield _Member(name, "file", ArchivedPicture(source, name, info.offset_data, info.size, info.size))
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        end = archive.offset
    # tarfile takes the first header it cannot read for the end; the true end is a block of zeros.
    if source.read_range(end, min(end + tarfile.BLOCKSIZE, size)) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short")


class _HeaderReader:
    """Lets tarfile read headers, but none of a size that only a hostile archive has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _checked_name(name: str) -> tuple[str, str]:
    """Return a member's name with ``/`` and without empty parts, and why it is refused, if it is."""
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:  # absolute, on a drive of Windows, or upwards
        return name, "its name leads out of the archive"
    if len(parts) > DEEPEST:
        return name[:100], "it is nested too deeply"
    return "/".join(part for part in parts if part not in ("", ".")), ""


def _unreadable(where: str, error: Exception) -> SourceError:
    if isinstance(error, SourceError):
        return error
    reason = error.strerror if isinstance(error, OSError) else None
    if "://" not in where or isinstance(error, _OF_ARCHIVES):  # what others say may have the URL, with a password
        reason = reason or str(error)
    reason = reason or type(error).__name__
    return SourceError(f"{shown(where)}: the archive cannot be read ({reason}). Download or pack it again.")
