"""Samples and data sources: any object that yields samples is a source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import check_class_names
from flowercnn.errors import ConfigurationError

__all__ = [
    "DataSource",
    "ImageInput",
    "Sample",
    "SplitName",
    "checked_class_names",
    "declared_class_names",
    "in_order_of_numbers",
    "part_of",
]

ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8] | Callable[[], bytes]
)
"""One image: a path, encoded bytes, a Pillow image, a uint8 array of shape (height, width, 3) with
values 0-255, or a function without arguments that returns encoded bytes."""

SplitName: TypeAlias = Literal["train", "val", "test"]
"""The three parts of a data set. Nothing is ever selected on ``test``."""

_SPLIT_NAMES = frozenset(get_args(SplitName))
_PARTS: Final[dict[str, SplitName]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,99}")
_IMAGES = (str, bytes, os.PathLike, np.ndarray, Image.Image, bytearray, memoryview)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known about it.

    Args:
        key: Stable and unique within the source: the same image has the same key every time.
        label: Class name, or ``None`` if unknown.
        image: Where its pixels are; see `ImageInput`. Nothing is opened before it is needed.
        group: Samples of one group (one plant, one photographer) stay on one side of every split.
        split: Predefined part (an official split), or ``None``.

    Raises:
        ConfigurationError: If a field has a type or value it cannot have.

    Example:
        >>> Sample(key="rose/1.jpg", label="rose", image="photos/rose/1.jpg")
        Sample(key='rose/1.jpg', label='rose', image='photos/rose/1.jpg', group=None, split=None)
    """

    key: str
    label: str | None
    image: ImageInput
    group: str | None = None
    split: SplitName | None = None

    def __post_init__(self) -> None:
        """Reject wrong fields here, where the author of a source sees which sample is meant."""
        if not isinstance(self.key, str) or not self.key:
            raise ConfigurationError(
                f"Sample key must be a non-empty str. Received: key={self.key!r}"
            )
        for name in ("label", "group"):
            text = getattr(self, name)
            if text is not None and not (isinstance(text, str) and text):
                raise self._wrong(name, "a non-empty str or None", f"{name}={text!r}")
        if self.split is not None and self.split not in _SPLIT_NAMES:
            parts = "'train', 'val', 'test' or None"
            raise self._wrong("split", parts, f"split={self.split!r}")
        if not isinstance(self.image, _IMAGES) and not callable(self.image):
            kinds = "a path, bytes, a Pillow image, a uint8 array or a function that returns bytes"
            raise self._wrong("image", kinds, type(self.image).__name__)

    def _wrong(self, field: str, rule: str, value: str) -> ConfigurationError:
        return ConfigurationError(
            f"Sample {field} must be {rule}. Received: {value} (key={self.key!r})"
        )


@runtime_checkable
class DataSource(Protocol):
    """Any object that can be iterated, again and again, for `Sample` objects in a stable order.

    Two things are optional: an attribute ``class_names`` (a sequence of str) gives the classes in
    their own order, including those without a sample; ``__len__`` gives progress bars the number
    of samples.

    Example:
        >>> class Listed:
        ...     def __init__(self, rows):
        ...         self.rows = rows
        ...     def __iter__(self):
        ...         for path, name in self.rows:
        ...             yield Sample(key=path, label=name, image=path)
        >>> isinstance(Listed([]), DataSource)
        True
    """

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample once."""
        ...


def declared_class_names(source: DataSource) -> tuple[str, ...] | None:
    """Return the class names a source declares, in its own order, or ``None``.

    Raises:
        ConfigurationError: If they are not distinct, non-empty strings.
    """
    declared: Any = getattr(source, "class_names", None)
    return None if declared is None else checked_class_names(declared)


def checked_class_names(value: Any) -> tuple[str, ...]:
    """Return class names in their order: an argument, or the attribute of a source.

    Raises:
        ConfigurationError: If they are not distinct, non-empty strings in a fixed order.
    """
    if callable(value):
        raise ConfigurationError(
            "class_names must be an attribute or property, a list or tuple of names. "
            f"Received: {value!r}, which would have to be called. Put @property above it."
        )
    if isinstance(value, Iterable) and not isinstance(value, (str, set, frozenset)):
        value = tuple(value)  # of arrays, indexes and iterators too
    return check_class_names(value)


def in_order_of_numbers(labels: Collection[str | None]) -> tuple[str, ...] | None:
    """Return labels sorted as numbers (2 before 10), or ``None`` if one is not a whole number."""
    names = [label for label in labels if label is not None]
    if not names or not all(map(_WHOLE_NUMBER.fullmatch, names)):
        return None
    return tuple(sorted(names, key=lambda name: (int(name), name)))


def part_of(name: str) -> SplitName | None:
    """Return the part of a data set that a folder or split is named after, in any case.

    Example:
        >>> part_of("Validation"), part_of("daisy")
        ('val', None)
    """
    return _PARTS.get(name.casefold())
