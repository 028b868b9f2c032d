"""Columns of table files and frames; text files are read without pandas."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TextIO, TypeAlias

from flowercnn.errors import ConfigurationError, MissingDependencyError, SourceError, few
from flowercnn.sources.urls import shown

__all__ = ["ChooseColumns", "Table", "read_frame", "read_table_file"]

ChooseColumns: TypeAlias = Callable[[Sequence[str]], list[str]]
"""Function from the names of all columns to those wanted."""

_SEPARATORS: Final = ("\t", ";", ",")  # the first of equally frequent ones
_LONGEST_FIELD: Final = 2**17


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a table, equally long."""

    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)


def read_table_file(
    path: str, choose: ChooseColumns, options: Mapping[str, Any], *, header_only: bool = False
) -> Table:
    """Read columns of a CSV, TSV or Parquet file.

    Args:
        path: Path or URL.
        choose: Function that chooses columns.
        options: Options of fsspec for a URL.
        header_only: Whether to read the names of the columns only.

    Raises:
        MissingDependencyError: If pyarrow or fsspec is needed and not installed.
        SourceError: If it cannot be read.
    """
    path = os.path.expanduser(path)  # noqa: PTH111 - a Path changes URLs and names not in UTF-8
    if shown(path).lower().endswith(".parquet"):
        return _read_parquet(path, choose, options, header_only=header_only)
    try:
        with _opened_text(path, options) as file:
            return _read_text(path, file, choose, header_only=header_only)
    except SourceError:
        raise
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{shown(path)}: the table is not UTF-8 ({error.reason}). Save it as UTF-8."
        ) from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{shown(path)}: the table cannot be read ({reason}).") from error


def read_frame(frame: Any, choose: ChooseColumns) -> Table:
    """Read columns of a pandas or polars DataFrame, a pyarrow Table or a mapping.

    Raises:
        ConfigurationError: If the columns differ in length.
    """
    names = getattr(frame, "column_names", None)  # pyarrow; its .columns are the columns themselves
    if names is None:
        names = list(frame if isinstance(frame, Mapping) else frame.columns)
    chosen = choose([str(name) for name in names])
    columns = {str(name): _cells(frame[name]) for name in names if str(name) in chosen}
    if len({len(cells) for cells in columns.values()}) > 1:
        counts = {name: len(cells) for name, cells in columns.items()}
        raise ConfigurationError(f"All columns must have equally many rows. Received: {counts}")
    return Table(columns)


def _cells(column: Any) -> Sequence[Any]:
    """Return the cells of a column as Python objects."""
    for method in ("to_pylist", "to_list"):  # of pyarrow; of polars and pandas
        if hasattr(column, method):
            cells: Sequence[Any] = getattr(column, method)()
            return cells
    is_flat = getattr(column, "ndim", 0) == 1  # an array of NumPy, but not of images
    return column.tolist() if is_flat else list(column)


def _read_parquet(
    path: str, choose: ChooseColumns, options: Mapping[str, Any], *, header_only: bool
) -> Table:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"{shown(path)}: Parquet needs pyarrow: pip install 'flowercnn[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(_opened_bytes(path, options) if "://" in path else path) as file:
            chosen = choose(file.schema_arrow.names)
            for name in chosen:
                kind = str(file.schema_arrow.field(name).type)
                if kind.startswith(("struct", "list", "binary", "large_binary")):
                    raise SourceError(
                        f"{shown(path)}: the column {name!r} holds {kind.partition('<')[0]}, not "
                        "text. For images within a Parquet file use "
                        "flowercnn.sources.from_huggingface: it does not load all at once."
                    )
            columns: dict[str, list[Any]] = {} if header_only else {name: [] for name in chosen}
            for batch in [] if header_only else file.iter_batches(columns=chosen):
                for name in chosen:
                    columns[name].extend(batch.column(name).to_pylist())
    except (SourceError, LookupError):
        raise
    except Exception as error:  # pyarrow raises its own errors and OSError
        raise SourceError(f"{shown(path)}: the table cannot be read ({error}).") from error
    return Table(columns)


def _read_text(path: str, file: TextIO, choose: ChooseColumns, *, header_only: bool) -> Table:
    lines = iter(partial(file.readline, _LONGEST_FIELD), "")
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise SourceError(
            f"{shown(path)}: the table is empty. Its first line must have the names of the columns."
        )
    if "\0" in first:
        raise SourceError(f"{shown(path)}: the table is not UTF-8 text. Save it as UTF-8 CSV.")
    separator = max(_SEPARATORS, key=first.count)
    file.seek(0)
    rows = csv.reader(file, delimiter=separator, strict=True)
    names = [name.strip() for name in next(row for row in rows if any(map(str.strip, row)))]
    chosen = choose(names)
    if header_only:
        return Table({})
    columns: dict[str, list[str]] = {name: [] for name in chosen}
    cells = [(columns[name].append, names.index(name)) for name in chosen]
    uneven = []
    width = len(names)
    try:
        for row in rows:
            if len(row) == width:
                for append, place in cells:
                    append(row[place])
            elif any(map(str.strip, row)):
                uneven.append(f"line {rows.line_num}: {len(row)}")
    except csv.Error as error:
        raise SourceError(f"{shown(path)}: line {rows.line_num} is not CSV ({error}).") from error
    if uneven:
        raise SourceError(
            f"{shown(path)}: {len(uneven)} lines do not have {width} fields as the first line has: "
            f"{few(uneven)}. Fields are separated by {separator!r} and must be quoted where they "
            "hold one."
        )
    return Table(columns)


def _opened_text(path: str, options: Mapping[str, Any]) -> TextIO:
    if "://" in path:
        return io.TextIOWrapper(_opened_bytes(path, options), encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")  # noqa: PTH123 - or names change


def _opened_bytes(path: str, options: Mapping[str, Any]) -> io.BytesIO:
    from flowercnn.sources.remote import read_remote

    return io.BytesIO(read_remote(path, options))
