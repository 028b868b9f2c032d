"""Downloads: resumed where they were cut off, verified, and in place only when complete."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from flowercnn._utils import progress_bar
from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.sources.urls import ContentError, open_url, reason_of, shown

__all__ = ["Download", "ResumingDownloader", "unpack_photographs"]

_ATTEMPTS: Final = 3
_PAUSE: Final = 60  # seconds without 16 KiB after which a connection is given up
_ABANDONED: Final = 600  # seconds without a byte after which a download belongs to nobody
_LARGEST_FILE: Final = 2**32
_LARGEST_PHOTOGRAPH: Final = 2**26
_PARTIAL_CONTENT: Final = 206
_RANGE_NOT_SATISFIABLE: Final = 416


@dataclass(frozen=True, slots=True)
class Download:
    """Files of one server.

    Args:
        url: Their folder, http:// or https://.
        checksums: ``"sha256:..."`` or ``"md5:..."`` of each file, by its name; ``""`` if unknown,
            which needs ``opens``.
        allowed: Whether anything may be downloaded.
        progress: Whether to show progress bars.
        renamed: Local names of files that have another one on the server, by that one.
        opens: Further check of a file.
        hint: Another way out, for the error when a file cannot be downloaded.

    Raises:
        ConfigurationError: If ``url`` or a checksum is not of this form.
    """

    url: str
    checksums: Mapping[str, str]
    allowed: bool = True
    progress: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    opens: Callable[[Path], bool] | None = None
    hint: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"url must begin with https:// or http://. Received: url={self.url!r}"
            )
        form = r"sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}" + ("|" if self.opens else "")
        for name, checksum in self.checksums.items():
            if not re.fullmatch(form, str(checksum)):
                raise ConfigurationError(
                    "checksums must be 'sha256:' or 'md5:' and hexadecimal digits. "
                    f"Received: {name}={checksum!r}"
                )

    def fetch(self, name: str, folder: Path) -> Path:
        """Return the path of a file in ``folder``, downloaded unless it is there.

        Raises:
            SourceError: If it is missing and cannot be downloaded, or is not the official file.
        """
        target, source = folder / self.renamed.get(name, name), f"{self.url.rstrip('/')}/{name}"
        valid = self._is_valid(target, name)
        if valid:
            return target
        if valid is not None:
            raise SourceError(
                f"{target}: not the official file, or damaged. Remove it to download it again."
            )
        if not self.allowed:
            reason = f"{target}: the file is missing, and download=False"
            raise SourceError(f"{reason}. {self._by_hand(folder)}")
        try:
            return self._retrieve(source, name, target)
        except ContentError as error:
            failure = f"what the server sends is not the official file ({error})"
        except (OSError, ValueError) as error:
            failure = f"cannot be downloaded ({reason_of(error)})"
        if self._is_valid(target, name):  # another process was faster
            return target
        raise SourceError(f"{shown(source)}: {failure}. {self._by_hand(folder)}")

    def _is_valid(self, path: Path, name: str) -> bool | None:
        """Return whether a file is the official one, or ``None`` if it is missing."""
        algorithm, _, digest = self.checksums[name].partition(":")
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, algorithm).hexdigest() if digest else ""
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read ({reason_of(error)}). Check your access to it."
            ) from error
        return actual == digest.lower() and (self.opens is None or self.opens(path))

    def _retrieve(self, source: str, name: str, target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        downloader = ResumingDownloader(part, self.progress)
        resumed = bool(downloader.left_behind())
        try:
            downloader(source, target, lambda path: bool(self._is_valid(path, name)))
        except ContentError:
            if not resumed:
                raise
        else:
            return target
        # What an earlier run had left may have been of another file. It is gone now.
        return self._retrieve(source, name, target)

    def _by_hand(self, folder: Path) -> str:
        local = {name: self.renamed.get(name, name) for name in self.checksums}
        missing = [
            name if name == file else f"{name} as {file}"
            for name, file in local.items()
            if not (folder / file).is_file()
        ]
        where = f"from {shown(self.url)} into {folder}"
        return f"Without a network, put {', '.join(missing)} {where} by hand{self.hint}."


@dataclass(frozen=True, slots=True)
class ResumingDownloader:
    """Download that continues where an earlier attempt, or an earlier run, was cut off.

    Several processes may download the same file into one folder: each moves the unfinished file
    to a name of its own before it appends to it, and moves it back if it fails.

    Args:
        part: The unfinished file of an earlier run that failed.
        progress: Whether to show progress bars.
    """

    part: Path
    progress: bool

    def __call__(self, url: str, target: Path, is_valid: Callable[[Path], bool]) -> None:
        """Write the file at ``url`` to ``target`` once it is complete and valid."""
        own = self._claim()
        try:
            self._persist(url, own)
            if not is_valid(own):
                raise ContentError("its checksum is another, or it does not open")
            own.replace(target)
        except ContentError:
            own.unlink(missing_ok=True)
            raise
        finally:
            with contextlib.suppress(OSError):  # it is in place, or was removed
                own.replace(self.part)

    def left_behind(self) -> list[Path]:
        """Return the unfinished files of earlier runs, also of a run that was killed."""
        found = [self.part] if self.part.is_file() else []
        for path in self.part.parent.glob(f".*.{glob.escape(self.part.name)}"):
            with contextlib.suppress(OSError):  # its owner was faster
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    found.append(path)
        return found

    def _claim(self) -> Path:
        """Return a file nobody else writes to: new, or one that was left behind."""
        own = self.part.with_name(f".{secrets.token_hex(4)}.{self.part.name}")
        for path in self.left_behind():
            try:
                path.rename(own)
            except OSError:  # another process was faster
                continue
            os.utime(own)
            break
        return own

    def _persist(self, url: str, own: Path) -> None:
        import requests

        for attempt in range(_ATTEMPTS):
            try:
                return self._resume(url, own)
            except (requests.ConnectionError, requests.Timeout, TimeoutError):
                if attempt == _ATTEMPTS - 1:
                    raise
        return None

    def _resume(self, url: str, own: Path) -> None:
        start = own.stat().st_size if own.is_file() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        limits = {"pause": _PAUSE, "size": _LARGEST_FILE}
        with open_url(url, **limits, headers=headers) as (response, chunks):
            if start and response.status_code == _RANGE_NOT_SATISFIABLE:
                own.unlink()  # nothing follows what is there: it is complete, or of another file
                return self._resume(url, own)
            response.raise_for_status()
            if response.status_code != _PARTIAL_CONTENT:
                start = 0
            length = response.headers.get("Content-Length", "")
            bar = progress_bar(
                total=start + int(length) if length.isdigit() else None,
                description=self.part.name.removesuffix(".part"),
                unit="B",
                enabled=self.progress,
            )
            with own.open("ab" if start else "wb") as file, bar:
                bar.update(start)
                for chunk in chunks:
                    file.write(chunk)
                    bar.update(len(chunk))
        return None


def unpack_photographs(
    download: Download, archive: str, folder: Path, wanted: re.Pattern[str]
) -> None:
    """Unpack the photographs of an archive into ``folder/jpg``, which appears only when complete.

    A photograph keeps its own name and nothing of its folders in the archive, so that no name or
    link can lead outside. The archive is removed afterwards if it was downloaded for this.

    Args:
        download: Where the archive comes from if it is not in ``folder``.
        archive: Its name.
        folder: Folder to unpack into.
        wanted: Pattern of the names of photographs.

    Raises:
        SourceError: If the archive is missing or damaged, or ``folder`` cannot be written.
    """
    was_there = (folder / archive).is_file()
    try:
        path = download.fetch(archive, folder)
        _unpack(path, folder, wanted)
    except SourceError:
        if _has_photographs(folder / "jpg", wanted):  # another process was faster
            return
        raise
    if not was_there:
        with contextlib.suppress(OSError):  # another process may be reading it
            path.unlink()


def _has_photographs(folder: Path, wanted: re.Pattern[str]) -> bool:
    return folder.is_dir() and any(wanted.fullmatch(entry.name) for entry in folder.iterdir())


def _unpack(path: Path, folder: Path, wanted: re.Pattern[str]) -> None:
    unfinished = folder / f".{secrets.token_hex(4)}.jpg"
    try:
        unfinished.mkdir()
        with tarfile.open(path, "r:*") as members:
            for member in members:
                name = PurePosixPath(member.name).name
                if member.isreg() and wanted.fullmatch(name):
                    _write_member(members, member, unfinished / name)
        os.replace(unfinished, folder / "jpg")  # noqa: PTH105 - a complete folder, or none
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise SourceError(
            f"{path}: cannot be unpacked ({type(error).__name__}: {error}). Remove it to download "
            "it again, and check that there is space on the disk."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_member(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.size > _LARGEST_PHOTOGRAPH:
        raise tarfile.TarError(
            f"{member.name}: {member.size:,} bytes are too many for a photograph"
        )
    content = members.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name}: has no content")
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
