"""Trees of folders: on disk, in an archive, behind a URL."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, Protocol, TypeAlias

from flowercnn.errors import SourceError

__all__ = [
    "DEEPEST",
    "IMAGE_SUFFIXES",
    "UNREADABLE_SUFFIXES",
    "Entry",
    "ListedTree",
    "LocalTree",
    "Tree",
    "is_image",
    "readable_name",
]

IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".avif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Suffixes of image files, in upper or lower case."""

UNREADABLE_SUFFIXES: Final = frozenset(
    (
        *(".heic", ".heif", ".jp2", ".jxl", ".svg", ".psd"),
        *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"),
    )
)
"""Suffixes of images that cannot be read: they are skipped with a warning."""

DEEPEST: Final = 64
"""Parts a path may have, from the root on."""

_SUFFIXES: Final = tuple(IMAGE_SUFFIXES)
_NOT_SHOWN: Final = "__MACOSX"  # what macOS adds to archives

Kind: TypeAlias = Literal["folder", "file", "other"]
"""``"other"`` is what can be neither entered nor read: broken links, pipes, devices."""

Entry: TypeAlias = tuple[str, Kind, Any]
"""Entry of a folder: its name in Unicode form NFC, its kind, and its handle: the argument of
`Tree.entries` for a folder, `Sample.image` for a file. A plain tuple: there may be millions."""


class Tree(Protocol):
    """Tree of folders in which `ImageFolder` finds its images."""

    @property
    def root(self) -> Any:
        """The handle of the folder that holds everything."""
        ...

    def entries(self, folder: Any) -> Iterable[Entry]:
        """Yield the visible entries of a folder, no name twice, in any order."""
        ...

    def real(self, folder: Any) -> str | None:
        """Return the identity of a folder that links may reach, or ``None`` without links."""
        ...


class LocalTree:
    """Folders on disk.

    Args:
        root: Path of the uppermost folder.
        follow_links: Whether links to folders are folders.
    """

    def __init__(self, root: str, *, follow_links: bool = False) -> None:
        self.root = root
        self._follow_links = follow_links

    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield the entries of a folder.

        Raises:
            SourceError: If it cannot be listed, or two names differ only in their Unicode form.
        """
        follow = self._follow_links
        originals: dict[str, str] = {}  # of names that are not plain ASCII
        try:
            with os.scandir(folder) as found:
                for each in found:
                    name = each.name
                    if name[0] == "." or name == _NOT_SHOWN:
                        continue
                    if not name.isascii():
                        name = readable_name(name)
                        if name in originals:
                            raise SourceError(_same_names(folder, [originals[name], each.name]))
                        originals[name] = each.name
                    yield name, _kind_of(each, follow_links=follow), each.path
        except SourceError:
            raise
        except OSError as error:
            raise SourceError(
                f"{folder}: not a folder that can be listed ({error.strerror}). Give the folder "
                "that holds one sub-folder per class."
            ) from error

    def real(self, folder: str) -> str | None:
        """Return the path of a folder without links."""
        return os.path.realpath(folder) if self._follow_links else None


def _kind_of(entry: os.DirEntry[str], *, follow_links: bool) -> Kind:
    try:
        if entry.is_file():
            return "file"
        return "folder" if entry.is_dir(follow_symlinks=follow_links) else "other"
    except OSError:  # a link to itself
        return "other"


class ListedTree:
    """Folders made of a list of file paths, as archives and object stores have it.

    Args:
        where: The archive or store, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._folders: dict[str, dict[str, Entry]] = {"": {}}
        self._originals: dict[str, str] = {"": ""}
        self.root = ""

    def add_file(self, path: str, image: Callable[[], bytes]) -> None:
        """Add a file by its path with ``/``; paths with a hidden part are skipped.

        Raises:
            SourceError: If it is there already, or its path differs only in Unicode form.
        """
        self._add(path, "file", image)

    def add_other(self, path: str) -> None:
        """Add an entry that can be neither entered nor read, so that it is counted."""
        self._add(path, "other", None)

    def _add(self, path: str, kind: Kind, handle: Any) -> None:
        parent, _, name = path.rpartition("/")
        if _visible(name) and (folder := self.add_folder(parent)) is not None:
            self._put(folder, name, kind, handle)

    def add_folder(self, path: str) -> str | None:
        """Add a folder and its parents; return its handle, or ``None`` if a part is hidden."""
        if path in self._originals:
            return self._originals[path]
        parent, _, name = path.rpartition("/")
        folder = self.add_folder(parent)
        if folder is None or not _visible(name):
            return None
        handle = f"{folder}{readable_name(name)}/"
        if handle in self._folders:
            raise SourceError(_same_names(self._where, [handle, path]))
        self._put(folder, name, "folder", handle)
        self._folders[handle] = {}
        self._originals[path] = handle
        return handle

    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield the entries of a folder."""
        return iter(self._folders[folder].values())

    def real(self, folder: str) -> str | None:  # noqa: ARG002 - there are no links
        """Return ``None``: there is one way to each folder."""
        return None

    def enter_single_folder(self) -> None:
        """Make the only folder on top the root if there are folders in it, as in many archives.

        Files other than images, such as a licence, do not matter; a folder with images of its own
        is a class.
        """
        while True:
            outside, has_images = self._inside(self.root)
            if len(outside) != 1 or has_images:
                return
            inside, has_images = self._inside(outside[0])
            if not inside or has_images:
                return
            self.root = outside[0]

    def _inside(self, folder: str) -> tuple[list[str], bool]:
        """Return the folders in a folder, and whether there are images beside them."""
        entries = list(self.entries(folder))
        folders = [handle for _, kind, handle in entries if kind == "folder"]
        return folders, any(kind == "file" and is_image(name) for name, kind, _ in entries)

    def below(self, folder: str) -> ListedTree:
        """Make a folder the root and return the tree.

        Raises:
            SourceError: If there is no such folder.
        """
        handle = "/".join(readable_name(part) for part in folder.split("/") if part) + "/"
        if handle not in self._folders:
            raise SourceError(f"{self._where}: there is no folder {folder!r} in it.")
        self.root = handle
        return self

    def _put(self, folder: str, name: str, kind: Kind, handle: Any) -> None:
        readable = readable_name(name)
        if readable in self._folders[folder]:
            names = [f"{folder}{readable}", f"{folder}{name}"]
            raise SourceError(_same_names(self._where, names))
        self._folders[folder][readable] = (readable, kind, handle)


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(_SUFFIXES)


def readable_name(name: str) -> str:
    """Return a file name in Unicode form NFC; bytes that are not UTF-8 become backslash escapes."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _visible(name: str) -> bool:
    return name[:1] not in ("", ".") and name != _NOT_SHOWN


def _same_names(where: str, names: list[str]) -> str:
    if names[0] == names[1]:
        return f"{where}: {names[0]!a} is there twice. Remove one of them."
    return (
        f"{where}: Two names differ only in their Unicode form: {names[0]!a} and {names[1]!a}. "
        "Rename one of them."
    )
