"""Table of images: a file or a DataFrame with one row per image."""

from __future__ import annotations

import math
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from flowercnn.errors import ConfigurationError, SourceError, UnknownNameError, closest, few
from flowercnn.sources.base import (
    DataSource,
    ImageInput,
    Sample,
    SplitName,
    in_order_of_numbers,
    part_of,
)
from flowercnn.sources.tablefile import Table, read_frame, read_table_file
from flowercnn.sources.tree import readable_name
from flowercnn.sources.urls import StorageOptions, checked_options, key_of_url, shown

__all__ = ["ImageTable", "open_table"]

_MANY: Final = 1000  # the most names in a message
_WORTH_LISTING: Final = 20  # fewer files are looked for one by one; the folder may hold millions
_USUAL_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "image": ("image", "path", "file", "filename", "file_name"),
    "label": ("label", "class", "class_name"),
    "group": ("group",),
    "split": ("split",),
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImageTable:
    r"""Table with one row per image: a CSV, TSV or Parquet file, or a DataFrame.

    Rules:

    - The first line of a CSV or TSV file has the names of the columns. The file is UTF-8, with or
      without a byte order mark. Fields are separated by the most frequent of tab, semicolon and
      comma in the first line, and quoted with ``"`` where they hold one. Empty lines are skipped;
      lines with more or fewer fields than the first are an error.
    - Spaces around a value are dropped. An empty value (``None``, NaN) of label, group or split
      means there is none; whole numbers become text without a decimal point. Text is normalised to
      Unicode form NFC; case distinguishes names.
    - A relative path is taken from ``root``; ``\`` and ``/`` both separate folders. A value with
      ``://`` is a URL and needs fsspec (``pip install flowercnn[remote]``). A DataFrame may also
      hold images: encoded bytes, Pillow images, arrays.
    - Missing files are named, all at once, before the first sample; URLs are not looked up.
    - The parts of ``split`` are train, val and test, or training, valid, validation, testing, in
      any case.
    - Classes are sorted as numbers if all labels are whole numbers, otherwise as text.

    The key of a sample is its path in the table, with ``/`` and without ``.`` and ``..``; for a
    URL, without user and password, with a hash for its query; for an image without a path, the
    number of its row. The table is read at each iteration.

    Args:
        table: Path or URL of a file (.parquet; any other is text); a pandas or polars DataFrame; a
            pyarrow Table; or a mapping of column names to sequences.
        image: Column of the images.
        label: Column of the class names.
        root: Folder or URL the paths are relative to; by default the folder of the file, or the
            current one.
        group: Column of the groups, if there is one.
        split: Column of the predefined parts, if there is one.
        storage_options: Options of fsspec for URLs, such as ``{"anon": True}`` for public data on
            S3.

    Raises:
        ConfigurationError: If an argument has a wrong type.
        MissingDependencyError: If pyarrow or fsspec is needed and not installed (when iterated).
        SourceError: If the file cannot be read, or images are missing (when iterated).
        UnknownNameError: If the table does not have such a column (when iterated).

    Example:
        >>> table = {"file": ["roses/1.jpg", "2.jpg"], "species": ["rose", "daisy"]}
        >>> rows = ImageTable(table, image="file", label="species", root="https://example.org")
        >>> [(sample.key, sample.label) for sample in rows]
        [('roses/1.jpg', 'rose'), ('2.jpg', 'daisy')]
    """

    table: Any
    image: str = field(kw_only=True)
    label: str = field(kw_only=True)
    root: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    group: str | None = field(default=None, kw_only=True)
    split: str | None = field(default=None, kw_only=True)
    storage_options: Mapping[str, Any] | None = field(default=None, kw_only=True)
    _numbers: tuple[tuple[str, ...] | None, ...] = field(default=(), init=False)  # set by reading

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage_options", checked_options(self.storage_options))
        if self.root is not None and not isinstance(self.root, (str, os.PathLike)):
            raise ConfigurationError(
                f"root must be the path or URL of a folder, or None. Received: root={self.root!r}"
            )
        for name in ("image", "label", "group", "split"):
            value = getattr(self, name)
            is_left_out = value is None and name in ("group", "split")
            if not (isinstance(value, str) and value) and not is_left_out:
                raise ConfigurationError(
                    f"{name} must be the name of a column. Received: {name}={value!r}"
                )
        kind = type(self.table)
        if not self._is_file() and not isinstance(self.table, Mapping) and not _is_frame(kind):
            raise ConfigurationError(
                "table must be the path of a CSV, TSV or Parquet file, a DataFrame, or a mapping "
                f"of columns. Received: {kind.__name__}"
            )

    def __repr__(self) -> str:
        is_file = self._is_file()
        table = repr(shown(os.fspath(self.table))) if is_file else f"<{type(self.table).__name__}>"
        return f"ImageTable({table}, image={self.image!r}, label={self.label!r})"

    def __iter__(self) -> Iterator[Sample]:
        """Read the table and check that its files exist."""
        table = self._read()
        keys, images = self._images(table.columns[self.image])
        labels = self._labels(table)
        groups = self._texts_of(self.group, table)
        parts = self._parts(self._texts_of(self.split, table))
        return map(Sample, keys, labels, images, groups, parts)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Classes sorted as numbers, or ``None`` if they have other names.

        They are those of the last iteration; before the first, the table is read for them.
        """
        if not self._numbers:
            self._labels(self._read())
        return self._numbers[0]

    def _labels(self, table: Table) -> list[str | None]:
        labels = _texts(table.columns[self.label])
        object.__setattr__(self, "_numbers", (in_order_of_numbers(set(labels)),))
        return labels

    def _is_file(self) -> bool:
        return isinstance(self.table, (str, os.PathLike))

    def _read(self) -> Table:
        columns = (self.image, self.label, self.group, self.split)
        choose = partial(_check_columns, [name for name in columns if name is not None])
        if self._is_file():
            return read_table_file(os.fspath(self.table), choose, self.storage_options or {})
        return read_frame(self.table, choose)

    def _texts_of(self, name: str | None, table: Table) -> list[str | None]:
        return [None] * len(table) if name is None else _texts(table.columns[name])

    def _images(self, values: Sequence[Any]) -> tuple[list[str], list[ImageInput]]:
        """Return the key and the image of each row.

        Raises:
            SourceError: If files are missing or rows have no image.
        """
        places = _Places(self._root(), StorageOptions(self.storage_options or {}))
        keys: list[str] = []
        images: list[ImageInput] = []
        empty = []
        for number, value in enumerate(values):
            text = value.strip() if isinstance(value, str) else _path(value)
            if text:
                key, image = places.add(text)
            else:
                key, image = f"{number:06d}", value
                if text is not None or _is_missing(value):
                    empty.append(f"row {number + 1}")
            keys.append(key)
            images.append(image)
        if empty:
            raise SourceError(f"{len(empty)} rows have no {self.image}: {few(empty)}.")
        places.check_files(len(keys))
        return keys, images

    def _parts(self, texts: list[str | None]) -> list[SplitName | None]:
        parts = {text: None if text is None else part_of(text) for text in set(texts)}
        unknown = sorted(text for text in parts if text is not None and parts[text] is None)
        if unknown:
            raise SourceError(
                f"The column {self.split!r} may have train, val, test and nothing. "
                f"Received: {few([repr(each) for each in unknown])}"
            )
        return [parts[text] for text in texts]

    def _root(self) -> str:
        if self.root is not None:
            return str(os.path.expanduser(os.fspath(self.root)))  # noqa: PTH111 - it may be a URL
        if not self._is_file():
            return ""
        path: str = os.path.expanduser(os.fspath(self.table))  # noqa: PTH111 - it may be a URL
        if "://" in path:
            return path.partition("?")[0].rpartition("/")[0]
        return str(os.path.dirname(path))  # noqa: PTH120


def open_table(path: str) -> DataSource:
    """Return the images of a table file whose columns have usual names, in any case.

    The first name that exists is taken: image, path, file, filename or file_name for the images;
    label, class or class_name for the labels; group; split.

    Raises:
        ConfigurationError: If ``path`` is empty.
        SourceError: If the file cannot be read.
        UnknownNameError: If no column of images or labels has such a name.
    """
    if not path:
        raise ConfigurationError(
            "table must be the path of a CSV, TSV or Parquet file. Received: ''"
        )
    chosen: dict[str, str] = {}

    def choose(known: Sequence[str]) -> list[str]:
        lowered = {name.casefold(): name for name in reversed(known)}
        for use, names in _USUAL_NAMES.items():
            usual = [lowered[name] for name in names if name in lowered]
            if usual:
                chosen[use] = usual[0]
        for use in ("image", "label"):
            if use not in chosen:
                raise UnknownNameError(
                    f"{shown(path)}: none of the columns {few(known)} has a usual name for {use}s "
                    f"({', '.join(_USUAL_NAMES[use])}). "
                    f"Name it: flowercnn.ImageTable({path!r}, image=..., label=...)"
                )
        return []

    read_table_file(path, choose, {}, header_only=True)
    group, split = chosen.get("group"), chosen.get("split")
    image, label = chosen["image"], chosen["label"]
    return ImageTable(path, image=image, label=label, group=group, split=split)


def _check_columns(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in known:
            raise UnknownNameError(
                f"The table has the columns {few(known)}.{closest(name, known)} Received: {name!r}"
            )
        if list(known).count(name) > 1:
            raise SourceError(f"The table has several columns named {name!r}. Rename all but one.")
    return list(wanted)


class _Places:
    """Places of the paths of a table; listing a folder takes a fifth of looking for each file.

    Args:
        root: Folder or URL of relative paths.
        options: Options of fsspec for URLs.
    """

    def __init__(self, root: str, options: StorageOptions) -> None:
        self._root = root
        self._options = options
        self._is_remote = "://" in root
        self._folders: dict[str, tuple[str, str, list[str]]] = {}  # location, key prefix, files

    def add(self, text: str) -> tuple[str, ImageInput]:
        """Return the key and the image of a path or URL, and remember to look for the file."""
        text = text.replace("\\", "/")
        if self._is_remote or "://" in text:
            return self._remote(text)
        end = text.rfind("/") + 1
        folder, name = text[:end], text[end:]
        known = self._folders.get(folder)
        if known is None:
            location = os.path.join(self._root, folder)  # noqa: PTH118 - "" must stay ""
            known = self._folders[folder] = (location, _key(folder) if folder else "", [])
        location, prefix, names = known
        names.append(name)
        key = prefix + name
        return key if key.isascii() else readable_name(key), location + name

    def check_files(self, rows: int) -> None:
        """Check that all files exist.

        Raises:
            SourceError: If any is missing; it names all of them.
        """
        missing = []
        for folder, (location, _, names) in self._folders.items():
            present = _files(location) if len(names) >= _WORTH_LISTING else frozenset[str]()
            absent = (name for name in names if name not in present)
            exists = os.path.isfile  # a Path costs more
            missing += [folder + name for name in absent if not exists(location + name)]
        if not missing:
            return
        error = SourceError(
            f"{len(missing)} of {rows} images are not in {self._root or 'the current folder'}: "
            f"{few(missing, _MANY)}. Set root to the folder the paths are relative to."
        )
        if len(missing) > _MANY:
            error.add_note("\n".join(["All that are missing:", *missing]))
        raise error

    def _remote(self, text: str) -> tuple[str, ImageInput]:
        from flowercnn.sources.remote import RemoteImage

        if "://" in text:
            return key_of_url(text), RemoteImage(text, self._options)
        key = _key(text)
        path = key.lstrip("/")
        if self._root.startswith(("http://", "https://")):
            path = path.replace("#", "%23")  # a fragment would not be sent
        return key, RemoteImage(f"{self._root.rstrip('/')}/{path}", self._options)


def _key(path: str) -> str:
    """Return a path in its simplest form; a folder's ends with ``/``."""
    simple = readable_name(posixpath.normpath(path))
    if not path.endswith("/"):
        return simple
    return "" if simple == "." else simple.rstrip("/") + "/"


def _files(folder: str) -> frozenset[str]:
    """Return the names of all files in a folder, or nothing if it cannot be listed."""
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _path(value: Any) -> str | None:
    return os.fspath(value) if isinstance(value, os.PathLike) else None


def _texts(cells: Sequence[Any]) -> list[str | None]:
    """Return cells as text; equal texts are one object, which halves the memory."""
    known: dict[str, str | None] = {}
    texts = []
    for value in cells:
        if type(value) is not str:
            texts.append(_text(value))
            continue
        if value not in known:
            known[value] = _text(value)
        texts.append(known[value])
    return texts


def _text(value: Any) -> str | None:
    """Return a cell as text, whole numbers without a decimal point, or ``None`` if it is empty."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip()) or None
    if isinstance(value, bytes):
        return _text(value.decode("utf-8", "backslashreplace"))
    if _is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def _is_frame(kind: type) -> bool:
    return hasattr(kind, "columns") and hasattr(
        kind, "__len__"
    )  # a LazyFrame of polars has no length


def _is_missing(value: Any) -> bool:
    """Return whether a cell is empty."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # of pandas
