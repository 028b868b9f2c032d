"""Files from a server: checked, resumed where they were cut off, in place only when they are whole."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import shutil
import tarfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from flowercnn._utils import progress_bar
from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.sources.urls import shown

__all__ = ["Download", "ResumingDownloader", "unpack_photographs"]

_ATTEMPTS: Final = 3
_TIMEOUT: Final = (10, 60)  # seconds to connect, seconds of silence
_ABANDONED: Final = 600  # seconds without a byte after which a download belongs to nobody
_CHUNK: Final = 2**16  # at most so much is lost where a connection is
_LARGEST_FILE: Final = 2**32
_LARGEST_PHOTOGRAPH: Final = 2**26
_PARTIAL_CONTENT: Final = 206
_RANGE_NOT_SATISFIABLE: Final = 416


@dataclass(frozen=True, slots=True)
class Download:
    """Files of one server.

    Args:
        url: Their folder, http:// or https://.
        checksums: ``"sha256:..."`` or ``"md5:..."`` of each file wanted, by its name.
        allowed: Whether anything may be downloaded.
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: If ``url`` or a checksum is not of this form.
    """

    url: str
    checksums: Mapping[str, str]
    allowed: bool
    progress: bool

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise ConfigurationError(f"url must begin with https:// or http://. Received: url={self.url!r}")
        for name, checksum in self.checksums.items():
            if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}", str(checksum)):
                raise ConfigurationError(
                    f"checksums must be 'sha256:' or 'md5:' and hexadecimal digits. Received: {name}={checksum!r}"
                )

    def fetch(self, name: str, folder: Path) -> Path:
        """Return the path of a file, downloaded into ``folder`` unless it is there with the right checksum.

        Raises:
            SourceError: If it is neither there nor can be downloaded, or its checksum is wrong.
        """
        target, source = folder / name, f"{self.url.rstrip('/')}/{name}"
        is_right = self._is_right(target)
        if is_right:
            return target
        if is_right is not None:
            raise SourceError(
                f"{target}: not the official file (its {self.checksums[name].partition(':')[0]} is another). "
                "Remove it to download it anew."
            )
        if not self.allowed:
            raise SourceError(f"{target}: the file is missing, and download=False. {self._by_hand(folder)}")
        try:
            return self._retrieve(source, name, folder)
        except ValueError:
            failure = "what the server sends is not the official file (its checksum is another)"
        except OSError as error:  # those of requests too
            failure = f"cannot be downloaded ({_reason(error)})"
        if self._is_right(target):  # another process was faster
            return target
        # Not from what pooch and requests say: it has the whole URL, perhaps with a password.
        raise SourceError(f"{shown(source)}: {failure}. {self._by_hand(folder)}")

    def _is_right(self, target: Path) -> bool | None:
        """Return whether a file has the right checksum; ``None`` if it is not there.

        Raises:
            SourceError: If it cannot be read, or its folder is a file.
        """
        import pooch

        algorithm, _, digest = self.checksums[target.name].partition(":")
        try:
            found = pooch.file_hash(str(target), alg=algorithm)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except NotADirectoryError as error:
            raise SourceError(
                f"root must be the folder the archive is in, or is to be downloaded into. Received: {target.parent}, "
                "which is a file."
            ) from error
        except OSError as error:
            raise SourceError(f"{target}: cannot be read ({_reason(error)}). Check your access to it.") from error
        return bool(found == digest.lower())

    def _retrieve(self, source: str, name: str, folder: Path) -> Path:
        import pooch

        downloader = ResumingDownloader(folder / f"{name}.part", self.progress)
        goes_on = bool(downloader.left_behind())
        logger = pooch.get_logger()
        level = logger.level
        logger.setLevel("WARNING")  # it says on stderr what the progress bar says
        try:
            return Path(pooch.retrieve(source, self.checksums[name], fname=name, path=folder, downloader=downloader))
        except ValueError:
            if not goes_on:
                raise
        finally:
            logger.setLevel(level)
        # What an earlier run had left may have been of another file. It is gone now.
        return self._retrieve(source, name, folder)

    def _by_hand(self, folder: Path) -> str:
        missing = [name for name in self.checksums if not (folder / name).is_file()]
        return f"Without a network, put {', '.join(missing)} from {shown(self.url)} into {folder} by hand."


@dataclass(frozen=True, slots=True)
class ResumingDownloader:
    """What pooch downloads with: goes on where an earlier attempt, or an earlier run, was cut off.

    Several processes may download the same file into one folder: each moves what has come so far to a name of its own
    before it adds to it, and moves it back if it fails.

    Args:
        part: The file that holds what had come when an earlier run failed.
        progress: Whether to show progress bars.
    """

    part: Path
    progress: bool

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Write the file at ``url`` to ``output_file``, which pooch checks and moves."""
        own = self._claim()
        try:
            self._persist(url, own)
            own.replace(output_file)
        except ValueError:
            own.unlink(missing_ok=True)
            raise
        finally:
            with contextlib.suppress(OSError):  # there is nothing left of it, or another process has left something
                own.replace(self.part)

    def left_behind(self) -> list[Path]:
        """Return the files an earlier run has left, that of one that was killed included."""
        private = self.part.parent.glob(f".*.{glob.escape(self.part.name)}")
        found = [self.part] if self.part.is_file() else []
        for path in private:
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
                self._go_on(url, own)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _go_on(self, url: str, part: Path) -> None:
        import requests

        have = part.stat().st_size if part.is_file() else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if have and response.status_code == _RANGE_NOT_SATISFIABLE:
                part.unlink()  # nothing can be after what is there: it is whole, or of another file
                return self._go_on(url, part)
            response.raise_for_status()
            if response.status_code != _PARTIAL_CONTENT:
                have = 0
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdigit() else None
            with part.open("ab" if have else "wb") as file:
                self._copy(response, file, have, total, self.part.name.removesuffix(".part"))
        return None

    def _copy(self, response: Any, file: IO[bytes], have: int, total: int | None, name: str) -> None:
        with progress_bar(total=total, description=name, unit="B", enabled=self.progress) as bar:
            bar.update(have)
            for chunk in response.iter_content(_CHUNK):
                if file.tell() + len(chunk) > _LARGEST_FILE:
                    raise ValueError(f"more than {_LARGEST_FILE:,} bytes")
                file.write(chunk)
                bar.update(len(chunk))


def unpack_photographs(download: Download, archive: str, folder: Path, wanted: re.Pattern[str]) -> None:
    """Write the photographs of an archive to ``folder/jpg``, which appears only when it is complete.

    A photograph keeps its own name and nothing of the folders it has in the archive, so no name or link in the
    archive can lead anywhere. The archive is removed afterwards if it was downloaded for this.

    Args:
        download: Where the archive comes from if it is not in ``folder``.
        archive: Its name.
        folder: Where to.
        wanted: What the names of photographs look like.

    Raises:
        SourceError: If the archive is missing or damaged, or ``folder`` cannot be written.
    """
    given = (folder / archive).is_file()
    try:
        path = download.fetch(archive, folder)
        _unpack(path, folder, wanted)
    except SourceError:
        if _has_photographs(folder / "jpg", wanted):  # another process was faster
            return
        raise
    if not given:
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
            f"{path}: cannot be unpacked ({_reason(error)}). Remove it to download it anew, and see that there is "
            "space on the disk."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_member(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.size > _LARGEST_PHOTOGRAPH:
        raise tarfile.TarError(f"{member.name}: {member.size:,} bytes are no photograph")
    content = members.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name}: has no content")
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return f"HTTP {status}"
    if type(error).__module__.startswith("requests"):
        return type(error).__name__  # its message may have the whole URL, with a password
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
