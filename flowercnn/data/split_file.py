"""Split files: the keys of each part, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from flowercnn._utils import as_path, write_result
from flowercnn.errors import SplitError

__all__ = ["PARTS", "read_split_file", "write_split_file"]

PARTS: Final = ("train", "val", "test")

_FORMAT: Final = "flowercnn-splits"


def write_split_file(
    path: str | os.PathLike[str], class_names: Sequence[str], keys: Mapping[str, Sequence[str]]
) -> Path:
    """Write the keys of each part, whole or not at all, and return the path.

    Raises:
        OutputError: If the file cannot be written.
    """
    content = {"format": _FORMAT, "version": 1, "class_names": list(class_names)}
    text = json.dumps(content | {name: list(keys[name]) for name in PARTS}, ensure_ascii=True, indent=1)
    return write_result(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_split_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``class_names``, and the keys of ``train``, ``val`` and ``test``: lists of strings.

    Raises:
        SplitError: If it cannot be read or is not a split file.
    """
    file = as_path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SplitError(f"{path}: the split file cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise _not_a_split_file(path) from error
    lists = ("class_names", *PARTS)
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or not all(isinstance(content.get(name), list) for name in lists)
        or not all(isinstance(item, str) for name in lists for item in content[name])
    ):
        raise _not_a_split_file(path)
    return content


def _not_a_split_file(path: str | os.PathLike[str]) -> SplitError:
    return SplitError(f"{path}: not a split file; write one with Splits.save.")
