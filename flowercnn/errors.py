"""Every error the library raises on purpose.

Each says which argument or file is meant, the rule, what was received and the way out. Each is also a
fitting builtin, so ``except ValueError`` and ``except OSError`` keep working. All of them survive pickling.
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
    """The root: catch it to catch everything the library raises on purpose."""


class ConfigurationError(FlowerCNNError, ValueError):
    """An argument or setting has a value or a type it cannot have."""


class UnknownNameError(ConfigurationError, LookupError):
    """A model, scheme, class or option was asked for by a name nobody registered."""


class DataError(FlowerCNNError, ValueError):
    """The samples cannot be learned from as they are: none, unlabelled, duplicate keys, one class only."""


class SplitError(DataError):
    """The samples cannot be divided as asked."""


class ImageError(FlowerCNNError, ValueError):
    """A picture cannot be read, decoded, or is larger than allowed."""


class SourceError(FlowerCNNError, OSError):
    """A place pictures come from cannot be read: missing, refused, unreachable."""


class ModelFileError(FlowerCNNError, OSError):
    """A file is not a model this library can load, or must not load."""


class OutputError(FlowerCNNError, OSError):
    """A result cannot be written to the file or folder asked for; of a model this is a `ModelFileError`."""


class TrainingError(FlowerCNNError, RuntimeError):
    """Training cannot go on."""


class MissingDependencyError(FlowerCNNError, ImportError):
    """A feature needs a package that is not installed."""


def closest(name: object, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    originals = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).casefold(), originals, n=1, cutoff=0.5)
    return f" Did you mean {originals[matches[0]]!r}?" if matches else ""


def few(items: Collection[object], limit: int = 10) -> str:
    """Return the first ``limit`` items in one line, and how many more there are."""
    shown = ", ".join(printable(str(item)) for item in list(items)[:limit])
    more = len(items) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def unusable(
    errors: Mapping[str, object], total: int, way_out: str = "leave them out with bad_images='skip'"
) -> ImageError:
    """Return the error that names all images that cannot be used.

    Args:
        errors: Of each why, by its key.
        total: How many images there are in all.
        way_out: What else can be done than to replace or remove them.
    """
    listed = few([f"{key}: {error}" for key, error in errors.items()])
    return ImageError(
        f"{len(errors)} of {counted(total, 'image')} cannot be used: {listed} Replace or remove them, or {way_out}."
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``"1 image"`` or ``"2 classes"``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def printable(text: str) -> str:
    """Escape what could forge lines or colours of a terminal: names of files may hold anything."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
