"""Pictures listed in a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowercnn.errors import ConfigurationError, SourceError, UnknownNameError, closest, few
from flowercnn.sources.base import Sample

__all__ = ["ImageTable"]


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    r"""A CSV or TSV file, or a DataFrame, with a row per picture.

    Relative paths are taken from ``root``; the key of a sample is the path as the table has it. A file is read as
    UTF-8, with or without a byte order mark; ``.tsv`` and ``.tab`` files are separated by tabs, others by commas. An
    empty label is no label. Missing files are named all at once before the first sample is given.

    Args:
        table: Path of a file with a header line, or a pandas or polars DataFrame.
        image: Name of the column with paths.
        label: Name of the column with class names.
        root: Folder of relative paths; by default that of the file, or the current one for a DataFrame.
        group: Name of the column with groups, if there is one.
        split: Name of the column with ``train``, ``val`` or ``test``, if there is one.

    Raises:
        ConfigurationError: If an argument has a wrong type.
        UnknownNameError: If the table has no such column (when iterated).
        SourceError: If the file cannot be read, or pictures are missing (when iterated).

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "1.jpg").touch()
        >>> _ = (folder / "labels.csv").write_text("file,species\n1.jpg,rose\n")
        >>> [(s.key, s.label) for s in ImageTable(folder / "labels.csv", image="file", label="species")]
        [('1.jpg', 'rose')]
    """

    table: Any
    image: str = field(kw_only=True)
    label: str = field(kw_only=True)
    root: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    group: str | None = field(default=None, kw_only=True)
    split: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.table, (str, os.PathLike)) and not hasattr(self.table, "columns"):
            raise ConfigurationError(
                f"table must be the path of a CSV or TSV file, or a DataFrame. Received: {type(self.table).__name__}"
            )

    def __iter__(self) -> Iterator[Sample]:
        """List the table."""
        root = Path(self.root) if self.root is not None else self._default_root()
        columns = self._columns()
        optional = [None if name is None else columns[name] for name in (self.group, self.split)]
        samples, missing = [], []
        for index, path in enumerate(columns[self.image]):
            group, split = (None if column is None else column[index] or None for column in optional)
            location = os.path.join(root, path)  # noqa: PTH118 - a Path per row would double the time
            if not os.path.isfile(location):  # noqa: PTH113
                missing.append(path)
            samples.append(Sample(path, columns[self.label][index] or None, location, group, split))  # type: ignore[arg-type]  # Sample checks it
        if missing:
            raise SourceError(
                f"{len(missing)} of {len(samples)} pictures are not in {root}: {few(missing)}. "
                "Set root to the folder the paths are relative to."
            )
        yield from samples

    def _default_root(self) -> Path:
        return Path(self.table).parent if isinstance(self.table, (str, os.PathLike)) else Path()

    def _columns(self) -> Mapping[str, list[str]]:
        """Each wanted column as a list of str, empty where the table is."""
        wanted = [name for name in (self.image, self.label, self.group, self.split) if name is not None]
        if isinstance(self.table, (str, os.PathLike)):
            return _read_file(Path(self.table), wanted)
        known = [str(name) for name in self.table.columns]
        _check_columns(wanted, known)
        return {name: ["" if _is_missing(value) else str(value) for value in self.table[name]] for name in wanted}


def _read_file(path: Path, wanted: list[str]) -> dict[str, list[str]]:
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(rows, [])
            _check_columns(wanted, header)
            places = [header.index(name) for name in wanted]
            columns: dict[str, list[str]] = {name: [] for name in wanted}
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise SourceError(
                        f"{path}: line {rows.line_num} has {len(row)} fields, the header {len(header)}."
                    )
                for name, place in zip(wanted, places, strict=True):
                    columns[name].append(row[place].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: the table cannot be read ({error}). Save it as UTF-8 CSV.") from error
    return columns


def _check_columns(wanted: list[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise UnknownNameError(
                f"The table has the columns {few(known)}.{closest(name, known)} Received: {name!r}"
            )


def _is_missing(value: object) -> bool:
    """None and NaN, which is the only value that differs from itself."""
    return value is None or value != value  # noqa: PLR0124
