"""Images in zip and tar archives, read in place: no name in an archive becomes a name on disk."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Literal, Protocol, cast

from flowercnn._utils import replace_file, user_cache
from flowercnn.errors import ImageError, SourceError, few
from flowercnn.sources.tree import DEEPEST, ListedTree, is_image
from flowercnn.sources.urls import shown

__all__ = [
    "ArchivedImage",
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

_LARGEST_IMAGE: Final = 2**30
_SUSPICIOUS_SIZE: Final = 2**26
_SUSPICIOUS_RATIO: Final = 200
_LARGEST_HEADER: Final = 2**20

_ZIP_HEADER: Final = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_ENCRYPTED: Final = 0x1
_IS_UTF_8: Final = 0x800
_OF_ARCHIVES: Final = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error),
    *(gzip.BadGzipFile, lzma.LZMAError, EOFError),
)


class ByteSource(Protocol):
    """File whose parts can be read by several threads at once."""

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``, fewer if the file ends before."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """File on disk.

    Args:
        path: Its path.
        state: Its size and time of change when it was listed, or ``None`` if any content will do.
    """

    path: str
    state: tuple[int, int] | None = None

    @classmethod
    def opened(cls, path: str, file: BinaryIO) -> LocalFile:
        """Return the file at ``path`` with its present state."""
        return cls(path, _state(file))

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``.

        Raises:
            ImageError: If the file cannot be read.
            SourceError: If it was changed since it was listed.
        """
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123 - called for every image
                changed = self.state is not None and _state(file) != self.state
                file.seek(start)
                content = file.read(end - start)
        except OSError as error:
            raise ImageError(f"{self.path}: cannot be read ({error.strerror}).") from error
        if changed:
            raise SourceError(
                f"{self.path}: the archive was changed since it was listed. List it again."
            )
        return content


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """Image in an archive: a few numbers until it is called, cheap to keep and to pickle.

    Args:
        file: The archive.
        name: Name of the member, for messages.
        start: Offset of the member's bytes; in a zip, of its header.
        packed: Size in the archive, in bytes.
        size: Unpacked size in bytes.
        crc: Checksum of a zip member; ``None`` in a tar.
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
        """Return the encoded image.

        Raises:
            ImageError: If the archive is damaged here.
        """
        content = self._packed_content()
        if self.deflated:
            content = self._inflated(content)
        if len(content) != self.size or (self.crc is not None and zlib.crc32(content) != self.crc):
            raise self._damaged()
        return content

    def _damaged(self, reason: str = "") -> ImageError:
        return ImageError(f"{self.name}: the archive is damaged here{reason}.")

    def _packed_content(self) -> bytes:
        if self.crc is None:
            return self.file.read_range(self.start, self.start + self.packed)
        # The header's length is in the header. A guess saves one of two reads, over a network half
        # the time.
        guess = _ZIP_HEADER.size + 4 * len(self.name) + 64
        content = self.file.read_range(self.start, self.start + guess + self.packed)
        if len(content) < _ZIP_HEADER.size or not content.startswith(b"PK\x03\x04"):
            raise self._damaged()
        _, name_length, extra_length = _ZIP_HEADER.unpack_from(content)
        header = _ZIP_HEADER.size + int(name_length) + int(extra_length)
        if header > guess:
            start = self.start + header
            return self.file.read_range(start, start + self.packed)
        return content[header : header + self.packed]

    def _inflated(self, content: bytes) -> bytes:
        """Unpack no more than the announced size, however much there is."""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
        except zlib.error as error:
            raise self._damaged(f" ({error})") from error


def is_archive(path: str) -> bool:
    """Return whether a path or URL has the suffix of an archive, whatever its query."""
    return shown(path).lower().endswith(_PLAIN_SUFFIXES + _COMPRESSED_TAR_SUFFIXES)


def is_compressed_tar(path: str) -> bool:
    """Return whether a path or URL has the suffix of a tar that must be unpacked to be read."""
    return shown(path).lower().endswith(_COMPRESSED_TAR_SUFFIXES)


def open_archive(path: str) -> ListedTree:
    """List an archive on disk.

    Raises:
        SourceError: If it cannot be read, or a member is not allowed; see `ImageFolder`.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - names that are not UTF-8 stay as they are
            size, changed = _state(file)
            if not is_compressed_tar(path):
                local, is_zip = LocalFile.opened(path, file), path.lower().endswith(".zip")
                return list_archive(file, path, local, size, is_zip=is_zip)
            absolute = os.path.abspath(path)  # noqa: PTH100 - for the same reason
            tar = unpacked_tar(file, absolute, f"{size}-{changed}", size)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return list_unpacked_tar(tar, path)


def list_archive(
    file: BinaryIO, where: str, source: ByteSource, size: int, *, is_zip: bool
) -> ListedTree:
    """List an open archive: a zip, or a tar that is not compressed.

    Args:
        file: The archive, to list it.
        where: Its path or URL, for messages.
        source: The archive, to read images later, when ``file`` is closed.
        size: Its size in bytes.
        is_zip: Whether it is a zip.

    Raises:
        SourceError: If it is damaged, or a member is not allowed.
    """
    tree = ListedTree(where)
    objections: list[str] = []
    members = _zip_members if is_zip else _tar_members
    try:
        for member in members(file, source, size):
            objection = member.objection
            if not objection and member.image is not None and is_image(member.name):
                objection = _objection(member.image, size)
            if objection:
                objections.append(f"{member.name!a} ({objection})")
            elif member.kind == "folder":
                tree.add_folder(member.name)
            elif member.image is not None:
                tree.add_file(member.name, member.image)
            else:
                tree.add_other(member.name)
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and tarfile raise anything on damaged archives
        raise _unreadable(where, error) from None
    if objections:
        raise SourceError(
            f"{where}: the archive has members that are not allowed: {few(objections)}. "
            "Unpack it with a tool you trust and pack only the images again."
        )
    tree.enter_single_folder()
    return tree


def list_unpacked_tar(tar: Path, where: str) -> ListedTree:
    """List a tar that `unpacked_tar` made from the archive ``where``.

    Raises:
        SourceError: If it is damaged, or a member is not allowed.
    """
    with tar.open("rb") as file:
        local = LocalFile.opened(str(tar), file)
        return list_archive(file, where, local, _state(file)[0], is_zip=False)


def unpacked_tar(file: BinaryIO, where: str, version: str | None, packed: int) -> Path:
    """Return a plain tar with the content of a compressed one, made in the cache unless it exists.

    Args:
        file: The compressed tar.
        where: Its path or URL.
        version: Mark that changes with the content; ``None`` if there is none: unpack it again.
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
        if version is None:  # one name for one content: what was listed before stays readable
            target = _moved(target, _tar_of(folder, archive, digest.hexdigest()))
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - those of the server that sends it, too
        if isinstance(error, OSError) and error.errno is not None:  # decompressors' have no number
            raise SourceError(
                f"{shown(where)}: cannot be unpacked to {target} ({error.strerror}). "
                "Make sure that there is space on the disk."
            ) from None
        raise _unreadable(where, error) from None
    for older in folder.glob(f"{archive}-*.tar"):
        if older != target:
            with contextlib.suppress(OSError):  # on Windows another process may be reading it
                older.unlink()
    return target


def _tar_of(folder: Path, archive: str, version: str) -> Path:
    return folder / f"{archive}-{hashlib.blake2b(version.encode(), digest_size=6).hexdigest()}.tar"


def _moved(made: Path, target: Path) -> Path:
    if target.is_file():
        made.unlink()
        return target
    return made.replace(target)


def _unpack(
    file: BinaryIO, where: str, path: Path, packed: int, update: Callable[[bytes], object]
) -> None:
    """Write the content of a compressed file to ``path``, and pass ``update`` each piece of it."""
    most = max(_SUSPICIOUS_SIZE, _SUSPICIOUS_RATIO * packed)
    with _decompressed(where, file) as content, path.open("wb") as out:
        while chunk := content.read(2**20):
            if out.tell() > most:
                raise SourceError(
                    f"{shown(where)}: the archive unpacks to more than {most:,} bytes."
                )
            update(chunk)
            out.write(chunk)


def _decompressed(where: str, file: BinaryIO) -> IO[bytes]:
    """Open a compressed file by the suffix of its name."""
    name = shown(where).lower()
    if name.endswith("gz"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    return lzma.LZMAFile(file) if name.endswith("xz") else bz2.BZ2File(file)


@dataclass(frozen=True, slots=True)
class _Member:
    """Member of an archive as the archive describes it.

    Args:
        name: With ``/``, without empty parts.
        kind: ``"other"`` is skipped.
        image: The content of a file.
        objection: Why it is not allowed, or an empty string.
    """

    name: str
    kind: Literal["folder", "file", "other"]
    image: ArchivedImage | None = None
    objection: str = ""


def _objection(image: ArchivedImage, archive_size: int) -> str:
    if image.start < 0 or image.start + image.packed > archive_size:
        return "it reaches beyond the end of the archive"
    if image.size > _LARGEST_IMAGE:
        return f"{image.size:,} bytes, more than {_LARGEST_IMAGE:,}"
    if image.size > max(_SUSPICIOUS_SIZE, _SUSPICIOUS_RATIO * image.packed):
        return f"{image.packed:,} bytes unpack to {image.size:,}"
    return ""


def _zip_members(file: BinaryIO, source: ByteSource, _size: int) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name, objection = _checked_name(_zip_name(info))
            if objection or info.is_dir():
                yield _Member(name, "folder", objection=objection)
            elif stat.S_ISLNK(info.external_attr >> 16):
                yield _Member(name, "other")
            else:
                deflated = info.compress_type == zipfile.ZIP_DEFLATED
                if is_image(name) and info.flag_bits & _ENCRYPTED:
                    objection = "it is encrypted"
                elif is_image(name) and not deflated and info.compress_type != zipfile.ZIP_STORED:
                    objection = "it is compressed in another way than deflate"
                sizes = info.compress_size, info.file_size
                image = ArchivedImage(source, name, info.header_offset, *sizes, info.CRC, deflated)
                yield _Member(name, "file", image, objection)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; macOS and Info-ZIP write UTF-8 without setting its flag."""
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
            name, objection = _checked_name(info.name)
            if objection or info.isdir():
                yield _Member(name, "folder", objection=objection)
            elif not info.isreg() or info.issparse():
                yield _Member(name, "other")
            else:
                image = ArchivedImage(source, name, info.offset_data, info.size, info.size)
                yield _Member(name, "file", image)
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        end = archive.offset
    # tarfile takes the first unreadable header for the end; the true end is a block of zeros.
    if source.read_range(end, min(end + tarfile.BLOCKSIZE, size)) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short")


class _HeaderReader:
    """Reader of tar headers that rejects sizes found only in hostile archives."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _checked_name(name: str) -> tuple[str, str]:
    """Return a member's name with ``/`` and without empty parts, and the objection to it."""
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:  # absolute, on a drive, or upwards
        return name, "its name leads out of the archive"
    if len(parts) > DEEPEST:
        return name[:100], "it is nested too deeply"
    return "/".join(part for part in parts if part not in ("", ".")), ""


def _unreadable(where: str, error: Exception) -> SourceError:
    if isinstance(error, SourceError):
        return error
    reason = error.strerror if isinstance(error, OSError) else None
    if "://" not in where or isinstance(error, _OF_ARCHIVES):  # others may name URL and password
        reason = reason or str(error)
    reason = reason or type(error).__name__
    return SourceError(
        f"{shown(where)}: the archive cannot be read ({reason}). Download or pack it again."
    )
