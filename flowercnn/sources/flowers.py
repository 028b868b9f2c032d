# ruff: noqa: SIM905 - as lists, the names would take a line each
"""Flower data sets of the University of Oxford, with their official splits.

Nilsback & Zisserman, "A Visual Vocabulary for Flower Classification" (CVPR 2006) and
"Automated Flower Classification over a Large Number of Classes" (ICVGIP 2008).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from flowercnn._utils import expanded, user_cache
from flowercnn.errors import ConfigurationError, SourceError, closest, few
from flowercnn.sources.base import Sample, SplitName
from flowercnn.sources.download import Download, unpack_photographs
from flowercnn.sources.folder import find_images

__all__ = ["Flower17", "Flower102"]

_SERVER: Final = "https://www.robots.ox.ac.uk/~vgg/data/flowers/"
_PHOTOGRAPH: Final = re.compile(r"image_(\d{4,5})\.jpe?g", re.IGNORECASE)

# SHA-256 as published by other users of the official files (TensorFlow Datasets has those of the
# 102 categories); of datasplits.mat only the MD5 is published.
_CHECKSUMS_17: Final = {
    "17flowers.tgz": "sha256:fe38a60f8b4a95e657551247d3e7d799a3fafcdbc595be504b12839967823d70",
    "datasplits.mat": "md5:4828cddfd0d803c5abbdebcb1e148a1e",
}
_CHECKSUMS_102: Final = {
    "102flowers.tgz": "sha256:2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
    "imagelabels.mat": "sha256:4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
    "setid.mat": "sha256:46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
}

_EXTRAS_102: Final = ("imagelabels.mat", "setid.mat")

_PER_CLASS_17: Final = 80
_CLASSES_17: Final = tuple(
    (
        "Daffodil, Snowdrop, Lily Valley, Bluebell, Crocus, Iris, Tigerlily, Tulip, Fritillary, "
        "Sunflower, Daisy, Colts' Foot, Dandelion, Cowslip, Buttercup, Windflower, Pansy"
    ).split(", ")
)
_OTHER_SPELLINGS: Final = {
    "dandelalion": "dandelion",
    "dandelallion": "dandelion",
    "lillyvalley": "lilyvalley",
}

_CLASSES_102: Final = tuple(
    (
        "pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, "
        "tiger lily, moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's "
        "foot, king protea, spear thistle, yellow iris, globe-flower, purple coneflower, peruvian "
        "lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, "
        "red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, "
        "artichoke, sweet william, carnation, garden phlox, love in the mist, mexican aster, "
        "alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip, "
        "lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, "
        "wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, "
        "primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, "
        "pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush, "
        "californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, "
        "gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus, "
        "toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree "
        "mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss, "
        "foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, "
        "trumpet creeper, blackberry lily"
    ).split(", ")
)


@dataclass(frozen=True, slots=True)
class Flower17:
    """17 species, 80 photographs each, with three official splits into 680, 340 and 340.

    Photographs are recognised anywhere below ``root``, complete or in part, by their official
    names, ``image_0001.jpg`` to ``image_1360.jpg``, which are also the keys. The number determines
    the class; a folder named like another species is an error. Without photographs,
    ``17flowers.tgz`` and ``datasplits.mat`` (the split) are used, downloaded (60 MB) if missing.

    Args:
        root: Folder; by default one in the user's cache. A folder with photographs is never
            changed, and needs ``datasplits.mat`` for the official split.
        download: Whether to download missing files.
        split: Official split of the samples, 1 to 3.
        url: Official server, or a mirror with the same files.
        checksums: Checksums of other than the official files: ``{"17flowers.tgz": "sha256:..."}``.
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: If an argument is not valid.
        SourceError: If photographs are missing and cannot be downloaded (when iterated).

    Example:
        >>> Flower17.class_names[:3], len(Flower17.class_names)
        (('Daffodil', 'Snowdrop', 'Lily Valley'), 17)
    """

    root: str | os.PathLike[str] | None = None
    download: bool = field(default=True, kw_only=True)
    split: int = field(default=1, kw_only=True)
    url: str = field(default=f"{_SERVER}17/", kw_only=True, repr=False)
    checksums: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False, hash=False)
    progress: bool = field(default=True, kw_only=True)

    class_names = _CLASSES_17

    def __post_init__(self) -> None:
        _check_root(self.root)
        # 1.0 and True are equal to 1 but cannot be in the name of a split.
        is_int = isinstance(self.split, (int, np.integer)) and not isinstance(self.split, bool)
        if not is_int or self.split not in (1, 2, 3):
            raise ConfigurationError(f"split must be 1, 2 or 3. Received: split={self.split!r}")
        self._download(_CHECKSUMS_17)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the photographs by number, after missing files are downloaded."""
        folder = _folder(self.root, "flower17")
        photographs = _photographs(folder)
        if not photographs:
            download = self._download(_CHECKSUMS_17)
            download.fetch("datasplits.mat", folder)
            photographs = _fetched_photographs(download, "17flowers.tgz", folder)
        _check_numbers(photographs, _PER_CLASS_17 * len(_CLASSES_17), folder)
        _check_class_folders(photographs)
        numbers = [f"trn{self.split}", f"val{self.split}", f"tst{self.split}"]
        splits = folder / "datasplits.mat"
        parts = _parts(_read_matrices(splits, numbers)) if splits.is_file() else {}
        for number, path in photographs.items():
            label = _CLASSES_17[(number - 1) // _PER_CLASS_17]
            yield Sample(f"image_{number:04d}.jpg", label, path, split=parts.get(number))

    def _download(self, wanted: Iterable[str]) -> Download:
        checksums = _checksums(_CHECKSUMS_17, self.checksums, wanted)
        return Download(self.url, checksums, allowed=self.download, progress=self.progress)


@dataclass(frozen=True, slots=True)
class Flower102:
    """102 species, 40 to 258 photographs each, with the official split into 1,020, 1,020 and 6,149.

    Photographs are recognised anywhere below ``root``, complete or in part, by their official
    names, ``image_00001.jpg`` to ``image_08189.jpg``, which are also the keys. Without photographs,
    ``102flowers.tgz`` is used, downloaded (345 MB) if missing. The official files number the
    species; the names are those in common use.

    Args:
        root: Folder; by default one in the user's cache. A folder with photographs is never
            changed: ``imagelabels.mat`` and ``setid.mat`` come from the cache if missing.
        download: Whether to download missing files.
        url: Official server, or a mirror with the same files.
        checksums: Checksums of other than the official files: ``{"102flowers.tgz": "sha256:..."}``.
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: If an argument is not valid.
        SourceError: If photographs or labels are missing and cannot be downloaded (when iterated).

    Example:
        >>> Flower102.class_names[:3], len(Flower102.class_names)
        (('pink primrose', 'hard-leaved pocket orchid', 'canterbury bells'), 102)
    """

    root: str | os.PathLike[str] | None = None
    download: bool = field(default=True, kw_only=True)
    url: str = field(default=f"{_SERVER}102/", kw_only=True, repr=False)
    checksums: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False, hash=False)
    progress: bool = field(default=True, kw_only=True)

    class_names = _CLASSES_102

    def __post_init__(self) -> None:
        _check_root(self.root)
        self._download(_CHECKSUMS_102)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the photographs by number, after missing files are downloaded."""
        folder = _folder(self.root, "flower102")
        photographs = _photographs(folder)
        extras = _folder(None, "flower102") if photographs else folder
        download = self._download(_EXTRAS_102 if photographs else _CHECKSUMS_102)
        labels, splits = (
            folder / name if (folder / name).is_file() else download.fetch(name, extras)
            for name in _EXTRAS_102
        )
        if not photographs:
            photographs = _fetched_photographs(download, "102flowers.tgz", folder)
        numbers = _read_matrices(labels, ["labels"])[0]
        _check_numbers(photographs, len(numbers), folder)
        parts = _parts(_read_matrices(splits, ["trnid", "valid", "tstid"]))
        for number, path in photographs.items():
            label = _CLASSES_102[numbers[number - 1] - 1]
            yield Sample(f"image_{number:05d}.jpg", label, path, split=parts.get(number))

    def _download(self, wanted: Iterable[str]) -> Download:
        checksums = _checksums(_CHECKSUMS_102, self.checksums, wanted)
        return Download(self.url, checksums, allowed=self.download, progress=self.progress)


def _check_root(root: object) -> None:
    if root is not None and not isinstance(root, (str, os.PathLike)):
        rule = "root must be the path of a folder, or None"
        raise ConfigurationError(f"{rule}. Received: root={root!r}")


def _checksums(
    official: Mapping[str, str], others: Mapping[str, str] | None, wanted: Iterable[str]
) -> dict[str, str]:
    chosen = {} if others is None else others
    if not isinstance(chosen, Mapping):
        rule = "a mapping of file names to checksums, such as {'setid.mat': 'sha256:...'}"
        raise ConfigurationError(f"checksums must be {rule}. Received: checksums={others!r}")
    for name in chosen:
        if name not in official:
            rule = f"checksums may name {few(list(official))}"
            raise ConfigurationError(f"{rule}.{closest(name, official)} Received: {name!r}")
    return {name: chosen.get(name, official[name]) for name in wanted}


def _folder(root: str | os.PathLike[str] | None, name: str) -> Path:
    folder = expanded(root) if root is not None else user_cache() / name
    if folder.is_file():
        rule = "root must be the folder the archive is in, or is to be downloaded into"
        raise SourceError(f"{rule}. Received: {folder}, which is a file.")
    return folder


def _photographs(folder: Path) -> dict[int, str]:
    """Return the path of each photograph by its number, in order."""
    if not folder.is_dir():
        return {}
    paths: dict[int, str] = {}
    for path in find_images(str(folder), or_none=True):
        match = _PHOTOGRAPH.fullmatch(os.path.basename(path))  # noqa: PTH119 - thousands of them
        if match is None:
            continue
        other = paths.setdefault(int(match[1]), path)
        if other != path:
            raise SourceError(
                f"A photograph is there twice: {other} and {path}. Remove one of them."
            )
    return dict(sorted(paths.items()))


def _fetched_photographs(download: Download, archive: str, folder: Path) -> dict[int, str]:
    unpack_photographs(download, archive, folder, _PHOTOGRAPH)
    return _photographs(folder)


def _check_numbers(photographs: Mapping[int, str], count: int, folder: Path) -> None:
    wrong = [number for number in photographs if not 1 <= number <= count]
    if wrong or not photographs:
        raise SourceError(
            f"{folder}: the photographs must be numbered 1 to {count}. Received: "
            f"{few(wrong) or 'no photographs'}. Give other images as flowercnn.ImageFolder."
        )


def _check_class_folders(photographs: Mapping[int, str]) -> None:
    """Check that no folder is named like another species than that of its photographs."""
    species = {_plain(name): name for name in _CLASSES_17}
    for number, path in photographs.items():
        folder = os.path.basename(os.path.dirname(path))  # noqa: PTH119, PTH120 - thousands
        named = species.get(_plain(folder))
        official = _CLASSES_17[(number - 1) // _PER_CLASS_17]
        if named is not None and named != official:
            raise SourceError(
                f"{path}: the folder says {named!r}, but photograph {number} is {official!r} "
                "officially. If the folder is right, give it as flowercnn.ImageFolder."
            )


def _plain(name: str) -> str:
    letters = "".join(letter for letter in name.casefold() if letter.isalpha())
    return _OTHER_SPELLINGS.get(letters, letters)


def _parts(numbers: Sequence[Sequence[int]]) -> dict[int, SplitName]:
    """Return the part of each photograph by its number."""
    names: tuple[SplitName, ...] = ("train", "val", "test")
    return {each: name for name, part in zip(names, numbers, strict=True) for each in part}


def _read_matrices(path: Path, names: Sequence[str]) -> list[list[int]]:
    """Return the numbers of each named matrix of a MATLAB file."""
    from scipy.io import loadmat

    try:
        matrices: dict[str, Any] = loadmat(path, variable_names=list(names))
        return [[int(number) for number in matrices[name].ravel()] for name in names]
    except Exception as error:  # SciPy raises anything on damaged files
        reason = f"not the official file with {few(names)} ({type(error).__name__})"
        raise SourceError(f"{path}: {reason}. Remove it to download it again.") from error
