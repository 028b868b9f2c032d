"""A folder of pictures with one sub-folder per class: on this computer, in an archive, behind a URL."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import PurePath
from typing import Any, Final, Literal

from flowercnn.errors import ConfigurationError, SourceError, few
from flowercnn.sources.base import ImageInput, Sample, SplitName
from flowercnn.sources.tree import DEEPEST, IMAGE_SUFFIXES, UNREADABLE_SUFFIXES, LocalTree, Tree, is_picture
from flowercnn.sources.urls import StorageOptions, checked_options, shown

__all__ = ["IMAGE_SUFFIXES", "ImageFolder", "find_pictures", "part_of"]

_log = logging.getLogger(__name__)
_NAME: Final = itemgetter(0)
_KINDS: Final = ", ".join(sorted(IMAGE_SUFFIXES))
_PARTS: Final[dict[str, SplitName]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True, repr=False)
class ImageFolder:
    """Pictures in a folder: the name of each sub-folder is the class of the pictures in it.

    The rules, for trees as they are found in the wild:

    - A picture belongs to the first folder below ``root``, however deep it is nested in it.
    - A file is a picture if its suffix is one of `IMAGE_SUFFIXES`, in upper or lower case. Other files, pictures
      directly in ``root``, and sub-folders without a picture are passed over: they make no class. If there are
      pictures among them of a kind that cannot be read, such as HEIC, a warning is logged.
    - Files and folders whose name begins with a dot, and ``__MACOSX``, are passed over.
    - A link to a file is read like a file; a broken link is passed over. A link to a folder is passed over unless
      ``follow_links`` is set, and a folder is never entered twice on one way down.
    - Names are brought to Unicode form NFC, so that keys and classes are the same on every system. Two names that are
      the same then are an error. Names that differ in upper and lower case are different names.
    - If every sub-folder is named train, val or test (or training, valid, validation, testing), those are the
      predefined parts and the classes are the folders in them. Pictures beside those are passed over with a warning.
    - Folders nested more than 64 deep are an error.

    A zip or tar archive is read in place and nothing of it is written anywhere; only a compressed tar is unpacked
    into one plain tar in the cache. These rules come on top:

    - If there is one folder on top, and pictures only in folders within it, that folder is the root.
    - Links and archives within the archive are passed over. Names that would lead out of a folder (absolute ones,
      ``..``) are an error, and so are pictures that unpack to more than 1 GiB, or to more than 64 MiB and 200 times
      their size, and encrypted ones.

    Keys are paths relative to the root with ``/``. Samples come in the sorted order of class and key. The folder is
    listed anew at each iteration and nothing in it is ever changed.

    Args:
        root: A folder, an archive (.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), or the URL of one of these:
            ``s3://``, ``gs://``, ``https://`` and whatever else fsspec knows (``pip install flowercnn[remote]``).
        follow_links: Whether to enter links to folders.
        layout: ``"classes"``, ``"splits"`` (train/val/test on top), or ``"auto"``: look which it is.
        storage_options: What fsspec needs for the URL, such as ``{"anon": True}`` for public data on S3.

    Raises:
        ConfigurationError: If an argument has a wrong type or value.
        MissingDependencyError: If ``root`` is a URL and fsspec is not installed (when iterated).
        SourceError: If ``root`` is nothing readable with a picture in a sub-folder (when iterated).

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
    storage_options: Mapping[str, Any] | None = field(default=None, kw_only=True, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage_options", checked_options(self.storage_options))
        if not isinstance(self.root, (str, os.PathLike)) or not os.fspath(self.root):
            raise ConfigurationError(f"root must be the path or URL of a folder. Received: root={self.root!r}")
        if self.layout not in ("auto", "classes", "splits"):
            raise ConfigurationError(
                f"layout must be 'auto', 'classes' or 'splits'. Received: layout={self.layout!r}"
            )

    def __repr__(self) -> str:
        return f"ImageFolder({self._shown()!r}, follow_links={self.follow_links!r}, layout={self.layout!r})"

    def __iter__(self) -> Iterator[Sample]:
        """List the folder.

        Raises:
            SourceError: If it cannot be listed or has no picture in a sub-folder.
        """
        tree = self._tree()
        passed_over: Counter[str] = Counter()
        unreadable: list[str] = []
        found = False
        root = tree.real(tree.root)
        above = frozenset() if root is None else frozenset([root])
        for class_name, folder, prefix, split in self._class_folders(tree):
            others: Counter[str] = Counter()
            pictures = sorted(_pictures(tree, folder, prefix, others, above), key=_NAME)
            passed_over.update(others)
            if not UNREADABLE_SUFFIXES.isdisjoint(others):
                unreadable.append(prefix.rstrip("/"))
            for key, image in pictures:
                found = True
                yield Sample(key, class_name, image, None, split)
        if unreadable:
            self._warn_of_unreadable(passed_over, unreadable)
        if not found:
            raise self._no_pictures(tree)

    def _no_pictures(self, tree: Tree) -> SourceError:
        """Say what is there instead; what pictures there are must be outside of class folders."""
        passed_over: Counter[str] = Counter()
        loose = sorted(name for name, _ in _pictures(tree, tree.root, "", passed_over))
        count = "1 picture is" if len(loose) == 1 else f"{len(loose)} pictures are"
        outside = f"{count} in no such folder ({few(loose, 3)}): put each into the folder of its class. "
        return SourceError(
            f"{self._shown()}: no pictures found in sub-folders. There must be one sub-folder per class with "
            f"pictures in it ({_KINDS}). {outside if loose else ''}Passed over: {_listed(passed_over)}."
        )

    def _warn_of_unreadable(self, passed_over: Mapping[str, int], folders: list[str]) -> None:
        counts = {suffix: count for suffix, count in passed_over.items() if suffix in UNREADABLE_SUFFIXES}
        _log.warning(
            "%s: passed over %s in %s: pictures of these kinds cannot be read. Convert them, to JPEG for example.",
            self._shown(),
            _listed(counts),
            few(folders),
        )

    def _shown(self) -> str:
        return shown(os.fspath(self.root))

    def _tree(self) -> Tree:
        root = os.fspath(self.root)
        if "://" in root:
            from flowercnn.sources.remote import open_remote_tree

            return open_remote_tree(root, StorageOptions(self.storage_options or {}))
        from flowercnn.sources.archive import is_archive, open_archive

        root = os.path.expanduser(root)  # noqa: PTH111 - a Path would drop the bytes of names that are no UTF-8
        if is_archive(root) and not os.path.isdir(root):  # noqa: PTH112
            return open_archive(root)
        return LocalTree(root, follow_links=self.follow_links)

    def _class_folders(self, tree: Tree) -> list[tuple[str, Any, str, SplitName | None]]:
        """Class name, folder, key prefix and predefined part of each class folder, sorted."""
        folders, _ = _inside(tree, tree.root)
        named_like_splits = bool(folders) and all(part_of(name) is not None for name in folders)
        if self.layout == "splits" and not named_like_splits:
            raise SourceError(
                f"{self._shown()}: layout='splits' wants sub-folders named train, val and test only. "
                f"Received: {few(sorted(folders)) or 'none'}"
            )
        if self.layout == "classes" or not named_like_splits:
            return [(name, folder, f"{name}/", None) for name, folder in folders.items()]
        inside = {part: _inside(tree, folder) for part, folder in folders.items()}
        loose = [f"{count} in {part}" for part, (_, count) in inside.items() if count]
        if loose:
            _log.warning(
                "%s: passed over pictures that are in no class folder: %s. Put each into the folder of its class.",
                self._shown(),
                few(loose),
            )
        return [
            (class_name, folder, f"{part}/{class_name}/", part_of(part))
            for part, (class_folders, _) in inside.items()
            for class_name, folder in class_folders.items()
        ]


def part_of(name: str) -> SplitName | None:
    """Return which part of a data set goes by this name, in any case; ``None`` if it is no such name.

    Example:
        >>> part_of("Validation"), part_of("daisy")
        ('val', None)
    """
    return _PARTS.get(name.casefold())


def find_pictures(folder: str, *, or_none: bool = False) -> list[str]:
    """Return the paths of all pictures in a folder and below it, sorted, by the rules of `ImageFolder`.

    Raises:
        SourceError: If the folder cannot be listed, or has no picture, unless there may be none.
    """
    tree = LocalTree(folder)
    passed_over: Counter[str] = Counter()
    found = sorted(str(path) for _, path in _pictures(tree, folder, "", passed_over))
    if not found and not or_none:
        raise SourceError(
            f"{folder}: no pictures found in it or below ({_KINDS}). Passed over: {_listed(passed_over)}."
        )
    return found


def _inside(tree: Tree, folder: Any) -> tuple[dict[str, Any], int]:
    """Handle of each sub-folder by its name, sorted by name, and how many pictures are beside them."""
    entries = sorted(tree.entries(folder), key=_NAME)
    pictures = sum(kind == "file" and is_picture(name) for name, kind, _ in entries)
    return {name: handle for name, kind, handle in entries if kind == "folder"}, pictures


def _listed(suffixes: Mapping[str, int]) -> str:
    counts = sorted(suffixes.items(), key=lambda item: -item[1])
    return few([f"{count} {suffix or 'without suffix'}" for suffix, count in counts]) or "nothing"


def _pictures(
    tree: Tree, folder: Any, prefix: str, passed_over: Counter[str], above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, ImageInput]]:
    """Yield key and image of each picture in a folder and below it, unsorted."""
    if prefix.count("/") >= DEEPEST:
        raise SourceError(f"{prefix[:100]}...: folders are nested more than {DEEPEST} deep. Move them up.")
    real = tree.real(folder)
    if real is not None:
        if real in above:
            return
        above |= {real}
    deeper = []
    for name, kind, handle in tree.entries(folder):
        if kind == "file" and is_picture(name):
            yield prefix + name, handle
        elif kind == "folder":
            deeper.append((name, handle))
        else:
            passed_over[PurePath(name).suffix.lower()] += 1
    for name, handle in deeper:
        yield from _pictures(tree, handle, f"{prefix}{name}/", passed_over, above)
