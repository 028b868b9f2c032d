"""Pictures listed in a table: a file or a DataFrame with a row per picture."""

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
from flowercnn.sources.base import DataSource, ImageInput, Sample, SplitName, in_order_of_numbers
from flowercnn.sources.folder import part_of
from flowercnn.sources.tablefile import Table, read_frame, read_table_file
from flowercnn.sources.tree import readable_name
from flowercnn.sources.urls import StorageOptions, checked_options, key_of_url, shown

__all__ = ["ImageTable", "open_table"]

_MANY: Final = 1000  # more than so many names are no message any more
_WORTH_LISTING: Final = 20  # for fewer files than this, each is looked for; the folder may hold millions
_USUAL_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "image": ("image", "path", "file", "filename", "file_name"),
    "label": ("label", "class", "class_name"),
    "group": ("group",),
    "split": ("split",),
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImageTable:
    r"""A table with a row per picture: a CSV, TSV or Parquet file, or a DataFrame.

    The rules, for tables as they are found in the wild:

    - The first line of a CSV or TSV file has the names of the columns. The file is UTF-8, with or without a byte
      order mark. Fields are separated by whichever of tab, semicolon and comma is the most frequent in the first
      line, and quoted with ``"`` where they hold one. Empty lines are passed over; lines with more or fewer fields
      than the first are an error.
    - Spaces around a value are not part of it. An empty value (``None``, NaN) of label, group or split is none; whole
      numbers become text without a decimal point. Text is brought to Unicode form NFC; names that differ in upper and
      lower case are different names.
    - A relative path is taken from ``root``; ``\`` and ``/`` both separate folders. A value with ``://`` is a URL and
      needs fsspec (``pip install flowercnn[remote]``). A DataFrame may also hold pictures: encoded bytes, Pillow
      images, arrays.
    - Files that are missing are named, all at once, before the first sample; URLs are not looked up.
    - The parts of ``split`` are train, val and test, or training, valid, validation, testing, in any case.

    - Classes are in the order of their numbers where all labels are whole numbers, else sorted as text.

    The key of a sample is its path as the table has it, with ``/`` and without ``.`` and ``..``; of a URL without
    user and password, with a hash for its query; of a picture without a path the number of its row. The table is
    read anew at each iteration.

    Args:
        table: Path or URL of a file (.parquet; any other is text); a pandas or polars DataFrame; a pyarrow Table; or
            a mapping of column names to sequences.
        image: Name of the column with the pictures.
        label: Name of the column with the class names.
        root: Folder or URL the paths are relative to; by default the folder of the file, or the current one.
        group: Name of the column with groups, if there is one.
        split: Name of the column with the predefined part, if there is one.
        storage_options: What fsspec needs for URLs, such as ``{"anon": True}`` for public data on S3.

    Raises:
        ConfigurationError: If an argument has a wrong type.
        MissingDependencyError: If pyarrow or fsspec is needed and not installed (when iterated).
        SourceError: If the file cannot be read, or pictures are missing (when iterated).
        UnknownNameError: If the table has no such column (when iterated).

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
    _numbers: tuple[tuple[str, ...] | None, ...] = field(default=(), init=False)  # one, once the table was read

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage_options", checked_options(self.storage_options))
        if self.root is not None and not isinstance(self.root, (str, os.PathLike)):
            raise ConfigurationError(
                f"root must be the path or URL of a folder, or None. Received: root={self.root!r}"
            )
        for name, optional in (("image", False), ("label", False), ("group", True), ("split", True)):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (optional and value is None):
                raise ConfigurationError(f"{name} must be the name of a column. Received: {name}={value!r}")
        kind = type(self.table)
        if not self._is_file() and not isinstance(self.table, Mapping) and not _is_frame(kind):
            raise ConfigurationError(
                "table must be the path of a CSV, TSV or Parquet file, a DataFrame, or a mapping of columns. "
                f"Received: {kind.__name__}"
            )

    def __repr__(self) -> str:
        table = repr(shown(os.fspath(self.table))) if self._is_file() else f"<{type(self.table).__name__}>"
        return f"ImageTable({table}, image={self.image!r}, label={self.label!r})"

    def __iter__(self) -> Iterator[Sample]:
        """Read the table and see that the files it names are there."""
        table = self._read()
        keys, images = self._pictures(table.columns[self.image])
        labels = self._labels(table)
        groups = self._texts_of(self.group, table)
        parts = self._parts(self._texts_of(self.split, table))
        return map(Sample, keys, labels, images, groups, parts)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the order of their numbers; ``None`` where they have other names.

        They are those of the last iteration; the table is read for them only if there was none.
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
        wanted = [name for name in (self.image, self.label, self.group, self.split) if name is not None]
        if self._is_file():
            return read_table_file(os.fspath(self.table), partial(_check_columns, wanted), self.storage_options or {})
        return read_frame(self.table, partial(_check_columns, wanted))

    def _texts_of(self, name: str | None, table: Table) -> list[str | None]:
        return [None] * len(table) if name is None else _texts(table.columns[name])

    def _pictures(self, values: Sequence[Any]) -> tuple[list[str], list[ImageInput]]:
        """Return the key and the image of each row.

        Raises:
            SourceError: If files are missing or rows have no picture.
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
        places.refuse_missing(len(keys))
        return keys, images

    def _parts(self, texts: list[str | None]) -> list[SplitName | None]:
        parts = {text: None if text is None else part_of(text) for text in set(texts)}
        unknown = sorted(text for text, part in parts.items() if text is not None and part is None)
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
    """Return the pictures of a table file whose columns have usual names.

    The first of these that is there is taken: image, path, file, filename, file_name for the pictures; label, class,
    class_name for the labels; group; split. Upper and lower case are the same.

    Raises:
        ConfigurationError: If ``path`` is empty.
        SourceError: If the file cannot be read.
        UnknownNameError: If there is no column of such a name for pictures or labels.
    """
    if not path:
        raise ConfigurationError("table must be the path of a CSV, TSV or Parquet file. Received: ''")
    chosen: dict[str, str] = {}

    def choose(known: Sequence[str]) -> list[str]:
        lowered = {name.casefold(): name for name in reversed(known)}
        for use, names in _USUAL_NAMES.items():
            found = next((lowered[name] for name in names if name in lowered), None)
            if found is not None:
                chosen[use] = found
        for use in ("image", "label"):
            if use not in chosen:
                raise UnknownNameError(
                    f"{shown(path)}: none of the columns {few(known)} has a usual name for {use}s "
                    f"({', '.join(_USUAL_NAMES[use])}). Name it: flowercnn.ImageTable({path!r}, image=..., label=...)"
                )
        return []

    read_table_file(path, choose, {}, header_only=True)
    return ImageTable(
        path,
        image=chosen["image"],
        label=chosen["label"],
        group=chosen.get("group"),
        split=chosen.get("split"),
    )


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
    """Where the paths of a table lead. Each folder is looked at once, which takes a fifth of looking for each file.

    Args:
        root: Folder or URL of relative paths.
        options: What fsspec needs for URLs.
    """

    def __init__(self, root: str, options: StorageOptions) -> None:
        self._root = root
        self._options = options
        self._is_remote = "://" in root
        self._folders: dict[str, tuple[str, str, list[str]]] = {}  # location, start of keys, names of files

    def add(self, text: str) -> tuple[str, ImageInput]:
        """Return the key and the image of a path or URL, and remember to look for the file."""
        if "\\" in text:
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

    def refuse_missing(self, rows: int) -> None:
        """Raise an error that names all files that are not there.

        Raises:
            SourceError: If there are any.
        """
        missing = []
        for folder, (location, _, names) in self._folders.items():
            present = _files(location) if len(names) >= _WORTH_LISTING else frozenset[str]()
            missing += [
                folder + name
                for name in names
                if name not in present and not os.path.isfile(location + name)  # noqa: PTH113 - a Path costs more
            ]
        if not missing:
            return
        error = SourceError(
            f"{len(missing)} of {rows} pictures are not in {self._root or 'the current folder'}: "
            f"{few(missing, _MANY)}. Set root to the folder the paths are relative to."
        )
        if len(missing) > _MANY:
            error.add_note("\n".join(["All that are missing:", *missing]))
        raise error

    def _remote(self, text: str) -> tuple[str, ImageInput]:
        from flowercnn.sources.remote import RemotePicture

        if "://" in text:
            return key_of_url(text), RemotePicture(text, self._options)
        key = _key(text)
        path = key.lstrip("/")
        if self._root.startswith(("http://", "https://")):
            path = path.replace("#", "%23")  # what comes after it is not sent
        return key, RemotePicture(f"{self._root.rstrip('/')}/{path}", self._options)


def _key(path: str) -> str:
    """Return a path in its simplest form; that of a folder ends with ``/``."""
    simple = readable_name(posixpath.normpath(path))
    if not path.endswith("/"):
        return simple
    return "" if simple == "." else simple.rstrip("/") + "/"


def _files(folder: str) -> frozenset[str]:
    """Return the names of all files in a folder; none if it cannot be listed."""
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _path(value: Any) -> str | None:
    return os.fspath(value) if isinstance(value, os.PathLike) else None


def _texts(cells: Sequence[Any]) -> list[str | None]:
    """Return cells as text; equal texts are one object, which for a million rows saves half of the memory."""
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
    """Return a cell as text; whole numbers without a decimal point, nothing as ``None``."""
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
    return hasattr(kind, "columns") and hasattr(kind, "__len__")  # a LazyFrame of polars has no length


def _is_missing(value: Any) -> bool:
    """Return whether a cell is empty."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # of pandas, which need not be installed
