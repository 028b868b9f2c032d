"""A folder of pictures with one sub-folder per class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from flowercnn.errors import ConfigurationError, SourceError, few
from flowercnn.sources.base import Sample, SplitName

__all__ = ["IMAGE_SUFFIXES", "ImageFolder"]

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".avif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    ]
)
"""Which files of a folder are pictures: those with one of these suffixes, in upper or lower case."""

_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Pictures in a local folder: the name of each sub-folder is the class of the pictures in it.

    The rules, for trees as they are found in the wild:

    - A picture belongs to the first folder below ``root``, however deep it is nested in it.
    - A file is a picture if its suffix is one of `IMAGE_SUFFIXES`, in upper or lower case. Other files, pictures
      directly in ``root``, and sub-folders without a picture are passed over: they make no class.
    - Files and folders whose name begins with a dot, and ``__MACOSX``, are passed over.
    - A link to a file is read like a file; a broken link is passed over. A link to a folder is passed over unless
      ``follow_links`` is set, and a folder is never entered twice on one way down.
    - Names are brought to Unicode form NFC, so that keys and classes are the same on every system.
    - If every sub-folder is named train, val or test (or training, valid, validation, testing), those are the
      predefined parts and the classes are the folders in them.

    Keys are paths relative to ``root`` with ``/``. Samples come in the sorted order of class and key. The folder is
    listed anew at each iteration and nothing in it is ever changed.

    Args:
        root: The folder.
        follow_links: Whether to enter links to folders.
        layout: ``"classes"``, ``"splits"`` (train/val/test on top), or ``"auto"``: look which it is.

    Raises:
        ConfigurationError: If an argument has a wrong type or value.
        SourceError: If ``root`` is not a readable folder with a picture in a sub-folder (when iterated).

    Example:
        >>> import tempfile, pathlib
        >>> from flowercnn import ImageFolder
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> (root / "daisy").mkdir()
        >>> (root / "daisy" / "1.JPG").touch()
        >>> [(sample.key, sample.label) for sample in ImageFolder(root)]
        [('daisy/1.JPG', 'daisy')]
    """

    root: str | os.PathLike[str]
    follow_links: bool = False
    layout: Literal["auto", "classes", "splits"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.root, (str, os.PathLike)) or not os.fspath(self.root):
            raise ConfigurationError(f"root must be the path of a folder. Received: root={self.root!r}")
        if self.layout not in ("auto", "classes", "splits"):
            raise ConfigurationError(
                f"layout must be 'auto', 'classes' or 'splits'. Received: layout={self.layout!r}"
            )

    def __iter__(self) -> Iterator[Sample]:
        """List the folder.

        Raises:
            SourceError: If it cannot be listed or has no picture in a sub-folder.
        """
        root = os.fspath(Path(self.root).expanduser())
        passed_over: Counter[str] = Counter()
        found = False
        for class_name, folder, prefix, split in self._class_folders(root):
            seen = {os.path.realpath(folder)} if self.follow_links else set()
            pictures = self._pictures(folder, prefix, passed_over, seen)
            for key, path in _without_collisions(sorted(pictures)):
                found = True
                yield Sample(key=key, label=class_name, image=path, split=split)
        if not found:
            ignored = [f"{n} {suffix or 'without suffix'}" for suffix, n in passed_over.most_common()]
            raise SourceError(
                f"{root}: no pictures found. There must be one sub-folder per class with pictures in it "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}). Passed over: {few(ignored) or 'nothing'}."
            )

    def _class_folders(self, root: str) -> list[tuple[str, str, str, SplitName | None]]:
        """Class name, path, key prefix and predefined part of each class folder, sorted."""
        folders = self._subfolders(root)
        named_like_splits = bool(folders) and all(name.casefold() in _SPLIT_FOLDERS for name in folders)
        if self.layout == "splits" and not named_like_splits:
            raise SourceError(
                f"{root}: layout='splits' wants sub-folders named train, val and test only. "
                f"Received: {few(sorted(folders)) or 'none'}"
            )
        if self.layout == "classes" or not named_like_splits:
            return [(name, path, f"{name}/", None) for name, path in folders.items()]
        return [
            (class_name, path, f"{part}/{class_name}/", _SPLIT_FOLDERS[part.casefold()])
            for part, part_path in folders.items()
            for class_name, path in self._subfolders(part_path).items()
        ]

    def _subfolders(self, folder: str) -> dict[str, str]:
        """Path of each visible sub-folder by its NFC name, sorted by name."""
        entries = [entry for entry in _entries(folder) if entry.is_dir(follow_symlinks=self.follow_links)]
        pairs = sorted((_readable(entry.name), entry.path) for entry in entries)
        return dict(_without_collisions(pairs))

    def _pictures(
        self, folder: str, prefix: str, passed_over: Counter[str], seen: set[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield key and path of each picture below a folder, unsorted."""
        for entry in _entries(folder):
            name = _readable(entry.name)
            if entry.is_dir(follow_symlinks=self.follow_links):
                real = os.path.realpath(entry.path) if self.follow_links else entry.path
                if real not in seen:
                    yield from self._pictures(entry.path, f"{prefix}{name}/", passed_over, {*seen, real})
                continue
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path per file would double the time
            if suffix in IMAGE_SUFFIXES and entry.is_file():
                yield prefix + name, entry.path
            else:
                passed_over[suffix] += 1


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.name[0] != "." and entry.name != "__MACOSX"]
    except OSError as error:
        raise SourceError(
            f"{folder}: not a folder that can be listed ({error.strerror}). Give the folder that holds one "
            "sub-folder per class."
        ) from error


def _readable(name: str) -> str:
    """Bring a file name to Unicode form NFC; bytes that are no UTF-8 become backslash escapes."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _without_collisions(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return sorted (name, path) pairs as they are.

    Raises:
        SourceError: If two paths have the same name in Unicode form NFC.
    """
    for (name, path), (next_name, next_path) in pairwise(pairs):
        if name == next_name:
            raise SourceError(
                f"Two names differ only in their Unicode form: {path!a} and {next_path!a}. Rename one of them."
            )
    return pairs


def find_pictures(folder: str) -> list[str]:
    """Return the paths of all pictures in a folder and below it, sorted, by the rules of `ImageFolder`.

    Raises:
        SourceError: If the folder cannot be listed.
    """
    return sorted(path for _, path in ImageFolder(folder)._pictures(folder, "", Counter(), set()))  # noqa: SLF001
