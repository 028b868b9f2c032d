"""Folder of images, one sub-folder per class: on disk, in an archive, behind a URL."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import PurePath
from typing import Any, Final, Literal

from flowercnn._utils import check_choice
from flowercnn.errors import ConfigurationError, SourceError, counted, few
from flowercnn.sources.base import ImageInput, Sample, SplitName, part_of
from flowercnn.sources.tree import (
    DEEPEST,
    IMAGE_SUFFIXES,
    UNREADABLE_SUFFIXES,
    LocalTree,
    Tree,
    is_image,
)
from flowercnn.sources.urls import StorageOptions, checked_options, shown

__all__ = ["IMAGE_SUFFIXES", "ImageFolder", "find_images"]

_log = logging.getLogger(__name__)
_NAME: Final = itemgetter(0)
_KINDS: Final = ", ".join(sorted(IMAGE_SUFFIXES))


@dataclass(frozen=True, slots=True, repr=False)
class ImageFolder:
    """Images in a folder: the name of each sub-folder is the class of the images in it.

    Rules:

    - An image belongs to the first folder below ``root``, however deeply it is nested in it.
    - A file is an image if its suffix is one of `IMAGE_SUFFIXES`, in upper or lower case. Other
      files, images directly in ``root``, and sub-folders without an image are skipped and make no
      class. If images of a kind that cannot be read, such as HEIC, are among them, a warning is
      logged.
    - Files and folders whose name begins with a dot, and ``__MACOSX``, are skipped.
    - A link to a file is read like a file; a broken link is skipped. A link to a folder is skipped
      unless ``follow_links`` is set, and a folder is never entered twice on one way down.
    - Names are normalised to Unicode form NFC, so that keys and classes are the same on every
      system. Two names that are equal then are an error. Case distinguishes names.
    - If every sub-folder is named train, val or test (or training, valid, validation, testing),
      those are the predefined parts and the classes are the folders in them. Images beside those
      are skipped with a warning.
    - Folders nested more than 64 deep are an error.

    A zip or tar archive is read in place and nothing of it is written anywhere; only a compressed
    tar is unpacked into one plain tar in the cache. Further rules for archives:

    - If there is one folder on top, and images only in folders within it, that folder is the root.
    - Links and archives within the archive are skipped. Names that would lead out of a folder
      (absolute ones, ``..``) are an error, and so are encrypted images and images that unpack to
      more than 1 GiB, or to more than 64 MiB and 200 times their size.

    Keys are paths relative to the root with ``/``. Samples are sorted by class and key. The folder
    is listed at each iteration and nothing in it is ever changed.

    Args:
        root: A folder, an archive (.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), or the URL of
            one: ``s3://``, ``gs://``, ``https://`` and whatever else fsspec opens
            (``pip install flowercnn[remote]``).
        follow_links: Whether to enter links to folders.
        layout: ``"classes"``, ``"splits"`` (train/val/test on top), or ``"auto"`` to detect it.
        storage_options: Options of fsspec for the URL, such as ``{"anon": True}`` for public data
            on S3.

    Raises:
        ConfigurationError: If an argument has a wrong type or value.
        MissingDependencyError: If ``root`` is a URL and fsspec is not installed (when iterated).
        SourceError: If ``root`` cannot be read or has no image in a sub-folder (when iterated).

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
            raise ConfigurationError(
                f"root must be the path or URL of a folder. Received: root={self.root!r}"
            )
        check_choice("layout", self.layout, ("auto", "classes", "splits"))

    def __repr__(self) -> str:
        options = f"follow_links={self.follow_links!r}, layout={self.layout!r}"
        return f"ImageFolder({self._shown()!r}, {options})"

    def __iter__(self) -> Iterator[Sample]:
        """List the folder.

        Raises:
            SourceError: If it cannot be listed or has no image in a sub-folder.
        """
        tree = self._tree()
        skipped: Counter[str] = Counter()
        unreadable: list[str] = []
        is_empty = True
        root = tree.real(tree.root)
        above = frozenset() if root is None else frozenset([root])
        for class_name, folder, prefix, split in self._class_folders(tree):
            others: Counter[str] = Counter()
            images = sorted(_images(tree, folder, prefix, others, above), key=_NAME)
            skipped.update(others)
            if not UNREADABLE_SUFFIXES.isdisjoint(others):
                unreadable.append(prefix.rstrip("/"))
            for key, image in images:
                is_empty = False
                yield Sample(key, class_name, image, None, split)
        if unreadable:
            counts = {each: skipped[each] for each in skipped if each in UNREADABLE_SUFFIXES}
            _log.warning(
                "%s: skipped %s in %s: these kinds of images cannot be read. "
                "Convert them, to JPEG for example.",
                self._shown(),
                _listed(counts),
                few(unreadable),
            )
        if is_empty:
            raise self._no_images(tree)

    def _no_images(self, tree: Tree) -> SourceError:
        """Say what is there instead; all images that are there must be outside of class folders."""
        skipped: Counter[str] = Counter()
        loose = sorted(name for name, _ in _images(tree, tree.root, "", skipped))
        verb = "is" if len(loose) == 1 else "are"
        outside = (
            f"{counted(len(loose), 'image')} {verb} in no such folder ({few(loose, 3)}): "
            "put each into the folder of its class. "
        )
        return SourceError(
            f"{self._shown()}: no images found in sub-folders. There must be one sub-folder per "
            f"class with images in it ({_KINDS}). {outside if loose else ''}"
            f"Skipped: {_listed(skipped)}."
        )

    def _shown(self) -> str:
        return shown(os.fspath(self.root))

    def _tree(self) -> Tree:
        root = os.fspath(self.root)
        if "://" in root:
            from flowercnn.sources.remote import open_remote_tree

            return open_remote_tree(root, StorageOptions(self.storage_options or {}))
        from flowercnn.sources.archive import is_archive, open_archive

        root = os.path.expanduser(root)  # noqa: PTH111 - a Path would drop bytes that are not UTF-8
        if is_archive(root) and not os.path.isdir(root):  # noqa: PTH112
            return open_archive(root)
        return LocalTree(root, follow_links=self.follow_links)

    def _class_folders(self, tree: Tree) -> list[tuple[str, Any, str, SplitName | None]]:
        """Return class name, folder, key prefix and part of each class folder, sorted."""
        folders, _ = _inside(tree, tree.root)
        named_like_splits = bool(folders) and all(part_of(name) is not None for name in folders)
        if self.layout == "splits" and not named_like_splits:
            raise SourceError(
                f"{self._shown()}: layout='splits' wants sub-folders named train, val and test "
                f"only. Received: {few(sorted(folders)) or 'none'}"
            )
        if self.layout == "classes" or not named_like_splits:
            return [(name, folder, f"{name}/", None) for name, folder in folders.items()]
        inside = {part: _inside(tree, folder) for part, folder in folders.items()}
        loose = [f"{count} in {part}" for part, (_, count) in inside.items() if count]
        if loose:
            _log.warning(
                "%s: skipped images that are in no class folder: %s. "
                "Put each into the folder of its class.",
                self._shown(),
                few(loose),
            )
        return [
            (class_name, folder, f"{part}/{class_name}/", part_of(part))
            for part, (class_folders, _) in inside.items()
            for class_name, folder in class_folders.items()
        ]


def find_images(folder: str, *, or_none: bool = False) -> list[str]:
    """Return the sorted paths of all images in a folder and below, by the rules of `ImageFolder`.

    Raises:
        SourceError: If the folder cannot be listed, or has no image unless ``or_none`` is set.
    """
    skipped: Counter[str] = Counter()
    paths = sorted(str(path) for _, path in _images(LocalTree(folder), folder, "", skipped))
    if not paths and not or_none:
        raise SourceError(
            f"{folder}: no images found in it or below ({_KINDS}). Skipped: {_listed(skipped)}."
        )
    return paths


def _inside(tree: Tree, folder: Any) -> tuple[dict[str, Any], int]:
    """Return the handles of the sub-folders, sorted by name, and the number of images."""
    entries = sorted(tree.entries(folder), key=_NAME)
    images = sum(kind == "file" and is_image(name) for name, kind, _ in entries)
    return {name: handle for name, kind, handle in entries if kind == "folder"}, images


def _listed(suffixes: Mapping[str, int]) -> str:
    counts = sorted(suffixes.items(), key=lambda item: -item[1])
    return few([f"{count} {suffix or 'without suffix'}" for suffix, count in counts]) or "nothing"


def _images(
    tree: Tree,
    folder: Any,
    prefix: str,
    skipped: Counter[str],
    above: frozenset[str] = frozenset(),
) -> Iterator[tuple[str, ImageInput]]:
    """Yield key and image of each image in a folder and below it, unsorted."""
    if prefix.count("/") >= DEEPEST:
        raise SourceError(
            f"{prefix[:100]}...: folders are nested more than {DEEPEST} deep. Move them up."
        )
    real = tree.real(folder)
    if real is not None:
        if real in above:
            return
        above |= {real}
    deeper = []
    for name, kind, handle in tree.entries(folder):
        if kind == "file" and is_image(name):
            yield prefix + name, handle
        elif kind == "folder":
            deeper.append((name, handle))
        else:
            skipped[PurePath(name).suffix.lower()] += 1
    for name, handle in deeper:
        yield from _images(tree, handle, f"{prefix}{name}/", skipped, above)
