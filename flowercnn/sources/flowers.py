"""The two flower data sets of the University of Oxford, with their official splits.

Nilsback & Zisserman, "A Visual Vocabulary for Flower Classification" (CVPR 2006) and "Automated Flower
Classification over a Large Number of Classes" (ICVGIP 2008).
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from flowercnn.atomic import replace_file
from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.sources.base import Sample, SplitName

__all__ = ["Flower17", "Flower102"]

_SERVER = "https://www.robots.ox.ac.uk/~vgg/data/flowers/"
_NUMBER = re.compile(r"image_(\d+)\.jpg", re.IGNORECASE)
_CLASSES_17 = (
    *("Daffodil", "Snowdrop", "Lily Valley", "Bluebell", "Crocus", "Iris", "Tigerlily", "Tulip", "Fritillary"),
    *("Sunflower", "Daisy", "Colts' Foot", "Dandelion", "Cowslip", "Buttercup", "Windflower", "Pansy"),
)
_PER_CLASS_17 = 80
_SPLITS_17 = (1, 2, 3)

# Published checksums of the official files; those of Flower17 are not published anywhere we could verify.
_MD5_102 = {
    "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
}


@dataclass(frozen=True, slots=True)
class Flower17:
    """17 species, 80 photographs each, with three official splits into 680, 340 and 340.

    Args:
        root: A folder with the photographs ``image_NNNN.jpg`` anywhere below it, complete or in part, and
            ``datasplits.mat`` if the official parts are wanted. By default a folder of the user's cache.
        download: Whether files that are missing from the default folder, or from ``root``, are fetched.
        split: Which official split the samples carry, 1 to 3.
        url: Where to download from: a mirror with the official file names.

    Raises:
        ConfigurationError: If ``split`` is not 1, 2 or 3.
        SourceError: If photographs are missing and cannot be fetched (when iterated).
    """

    root: str | os.PathLike[str] | None = None
    download: bool = field(default=True, kw_only=True)
    split: int = field(default=1, kw_only=True)
    url: str = field(default=f"{_SERVER}17/", kw_only=True)

    def __post_init__(self) -> None:
        if self.split not in _SPLITS_17:
            raise ConfigurationError(f"split must be 1, 2 or 3. Received: split={self.split!r}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The species in their official order."""
        return _CLASSES_17

    def __iter__(self) -> Iterator[Sample]:
        """Yield the photographs by number."""
        folder = _folder(self.root, "flower17")
        photographs = _photographs(folder, self.url, "17flowers.tgz", None, download=self.download)
        parts: dict[int, SplitName] = {}
        matrix = _matrix(folder, self.url, "datasplits.mat", None, download=self.download)
        if matrix is not None:
            names: tuple[tuple[str, SplitName], ...] = (("trn", "train"), ("val", "val"), ("tst", "test"))
            for code, name in names:
                parts |= dict.fromkeys(map(int, matrix[f"{code}{self.split}"].ravel()), name)
        for number, path in sorted(photographs.items()):
            label = _CLASSES_17[(number - 1) // _PER_CLASS_17]
            yield Sample(f"image_{number:04d}.jpg", label, path, split=parts.get(number))


@dataclass(frozen=True, slots=True)
class Flower102:
    """102 species, 40 to 258 photographs each, with the official split into 1020, 1020 and 6149.

    The classes are named by their official numbers, ``"001"`` to ``"102"``: the official files have no names.

    Args:
        root: A folder with the photographs ``image_NNNNN.jpg`` anywhere below it, ``imagelabels.mat`` and
            ``setid.mat``. By default a folder of the user's cache.
        download: Whether files that are missing are fetched.
        url: Where to download from: a mirror with the official file names.

    Raises:
        SourceError: If photographs or labels are missing and cannot be fetched (when iterated).
    """

    root: str | os.PathLike[str] | None = None
    download: bool = field(default=True, kw_only=True)
    url: str = field(default=f"{_SERVER}102/", kw_only=True)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The species by number, in order."""
        return tuple(f"{number:03d}" for number in range(1, 103))

    def __iter__(self) -> Iterator[Sample]:
        """Yield the photographs by number."""
        folder = _folder(self.root, "flower102")
        archive = "102flowers.tgz"
        photographs = _photographs(folder, self.url, archive, _MD5_102[archive], download=self.download)
        labels = _matrix(folder, self.url, "imagelabels.mat", _MD5_102["imagelabels.mat"], download=self.download)
        if labels is None:
            raise SourceError(f"{folder}: imagelabels.mat is missing. Download it from {self.url} into that folder.")
        parts: dict[int, SplitName] = {}
        matrix = _matrix(folder, self.url, "setid.mat", _MD5_102["setid.mat"], download=self.download)
        if matrix is not None:
            names: tuple[tuple[str, SplitName], ...] = (("trnid", "train"), ("valid", "val"), ("tstid", "test"))
            for code, name in names:
                parts |= dict.fromkeys(map(int, matrix[code].ravel()), name)
        numbers: NDArray[np.int64] = labels["labels"].ravel().astype(np.int64)
        for number, path in sorted(photographs.items()):
            yield Sample(f"image_{number:05d}.jpg", f"{numbers[number - 1]:03d}", path, split=parts.get(number))


def _folder(root: str | os.PathLike[str] | None, name: str) -> Path:
    return Path(root).expanduser() if root is not None else platformdirs.user_cache_path("flowercnn") / name


def _photographs(folder: Path, url: str, archive: str, md5: str | None, *, download: bool) -> dict[int, str]:
    """Path of each photograph by its number; the archive is fetched and unpacked if there are none."""
    found = _find(folder)
    if not found and (download or (folder / archive).is_file()):
        _unpack(_fetch(folder, url, archive, md5), folder)
        found = _find(folder)
    if not found:
        raise SourceError(
            f"{folder}: no photographs named image_NNNN.jpg. Allow download=True, or put {archive} from {url} there."
        )
    return found


def _find(folder: Path) -> dict[int, str]:
    if not folder.is_dir():
        return {}
    paths = {path for path in folder.rglob("image_*") if path.is_file()}
    return {int(match[1]): str(path) for path in paths if (match := _NUMBER.fullmatch(path.name))}


def _matrix(folder: Path, url: str, name: str, md5: str | None, *, download: bool) -> Any:
    """The arrays of a MATLAB file, or ``None`` if it is not there and not to be fetched."""
    from scipy.io import loadmat

    path = folder / name
    if not path.is_file():
        if not download:
            return None
        _fetch(folder, url, name, md5)
    try:
        return loadmat(path)
    except Exception as error:
        raise SourceError(f"{path}: not a MATLAB file ({error}). Remove it to fetch it anew.") from error


def _fetch(folder: Path, url: str, name: str, md5: str | None) -> Path:
    """Download with pooch: checked, to a temporary name, moved. What is there already is only checked."""
    import pooch

    check = None if md5 is None else f"md5:{md5}"
    try:
        return Path(pooch.retrieve(url + name, known_hash=check, fname=name, path=folder))
    except Exception as error:
        raise SourceError(
            f"{url}{name} cannot be downloaded ({error}). Without a network, put {name} into {folder} by hand."
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """Write the photographs of an archive into one folder by their own names, and nothing else.

    So no name or link in the archive can lead anywhere.
    """
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = PurePosixPath(member.name).name
                content = members.extractfile(member) if member.isreg() and _NUMBER.fullmatch(name) else None
                if content is not None:
                    replace_file(folder / "jpg" / name, partial(_write, content.read()))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SourceError(f"{archive}: the archive is damaged ({error}). Remove it to fetch it anew.") from error


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)
