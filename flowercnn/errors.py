"""Exceptions of the library, all under `FlowerCNNError`.

Each message says which argument or file is meant, the rule, what was received and the way out.
Each class is also a builtin exception, so that ``except ValueError`` and ``except OSError`` work.
All of them can be pickled.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = [
    "ConfigurationError",
    "DataError",
    "FlowerCNNError",
    "ImageError",
    "MissingDependencyError",
    "ModelFileError",
    "OutputError",
    "SourceError",
    "SplitError",
    "TrainingError",
    "UnknownNameError",
]


class FlowerCNNError(Exception):
    """Base class of all exceptions of the library."""


class ConfigurationError(FlowerCNNError, ValueError):
    """Invalid value or type of an argument or setting."""


class UnknownNameError(ConfigurationError, LookupError):
    """Unknown name of a model, scheme, class or option."""


class DataError(FlowerCNNError, ValueError):
    """Samples that cannot be learned from: none, unlabelled, duplicate keys, a single class."""


class SplitError(DataError):
    """Samples that cannot be split as asked."""


class ImageError(FlowerCNNError, ValueError):
    """Image that cannot be read or decoded, or is larger than allowed."""


class SourceError(FlowerCNNError, OSError):
    """Source that cannot be read: missing, denied, unreachable."""


class ModelFileError(FlowerCNNError, OSError):
    """File that is not a model of this library, or is not safe to load."""


class OutputError(FlowerCNNError, OSError):
    """Result that cannot be written to its file or folder; of models, see `ModelFileError`."""


class TrainingError(FlowerCNNError, RuntimeError):
    """Training that cannot continue."""


class MissingDependencyError(FlowerCNNError, ImportError):
    """Feature whose package is not installed."""


def closest(name: object, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to ``name``, or ``""``."""
    originals = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).casefold(), originals, n=1, cutoff=0.5)
    return f" Did you mean {originals[matches[0]]!r}?" if matches else ""


def few(items: Collection[object], limit: int = 10) -> str:
    """Return the first ``limit`` items in one line, and the number of others."""
    shown = ", ".join(printable(str(item)) for item in list(items)[:limit])
    more = len(items) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def unusable(
    errors: Mapping[str, object], total: int, way_out: str = "leave them out with bad_images='skip'"
) -> ImageError:
    """Return the error that names all images that cannot be used.

    Args:
        errors: Reason for each, by its key.
        total: Number of images in all.
        way_out: What else can be done than to replace or remove them.
    """
    listed = few([f"{key}: {error}" for key, error in errors.items()])
    return ImageError(
        f"{len(errors)} of {counted(total, 'image')} cannot be used: {listed} "
        f"Replace or remove them, or {way_out}."
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``"1 image"`` or ``"2 classes"``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def printable(text: str) -> str:
    """Escape characters that could forge lines or colours of a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
