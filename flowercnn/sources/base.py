"""What a source of pictures is: any object that yields samples."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn.errors import ConfigurationError

__all__ = [
    "DataSource",
    "ImageInput",
    "Sample",
    "SplitName",
    "checked_class_names",
    "declared_class_names",
    "in_order_of_numbers",
]

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8] | Callable[[], bytes]
"""Everything that can stand for one picture: a path, encoded bytes, a Pillow image, a uint8 array of shape
(height, width, 3) with values 0-255, or a function without arguments that returns encoded bytes."""

SplitName: TypeAlias = Literal["train", "val", "test"]
"""The three parts of a data set. Nothing is ever selected on ``test``."""

_SPLIT_NAMES = frozenset(get_args(SplitName))
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,99}")
_IMAGES = (str, bytes, os.PathLike, np.ndarray, Image.Image, bytearray, memoryview)


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known about it.

    Args:
        key: Stable and unique within the source: the same picture has the same key every time.
        label: Its class name, or ``None`` where it is not known.
        image: Where its pixels are; see `ImageInput`. Nothing is opened before it is needed.
        group: Samples of one group (the same plant, the same photographer) stay on one side of every split.
        split: The part its owner has put it in (an official split), or ``None``.

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
        """Refuse wrong fields here, where the author of a source sees which sample is meant."""
        if not isinstance(self.key, str) or not self.key:
            raise ConfigurationError(f"Sample key must be a non-empty str. Received: key={self.key!r}")
        if self.label is not None and not (isinstance(self.label, str) and self.label):
            raise self._no_text("label", self.label)
        if self.group is not None and not (isinstance(self.group, str) and self.group):
            raise self._no_text("group", self.group)
        if self.split is not None and self.split not in _SPLIT_NAMES:
            raise ConfigurationError(
                f"Sample split must be 'train', 'val', 'test' or None. Received: split={self.split!r} "
                f"(key={self.key!r})"
            )
        if not isinstance(self.image, _IMAGES) and not callable(self.image):
            raise ConfigurationError(
                "Sample image must be a path, bytes, a Pillow image, a uint8 array or a function that returns bytes. "
                f"Received: {type(self.image).__name__} (key={self.key!r})"
            )

    def _no_text(self, name: str, value: object) -> ConfigurationError:
        return ConfigurationError(
            f"Sample {name} must be a non-empty str or None. Received: {name}={value!r} (key={self.key!r})"
        )


@runtime_checkable
class DataSource(Protocol):
    """Any object that can be iterated, again and again, for `Sample` objects in a stable order.

    Two things are optional: an attribute ``class_names`` (a sequence of str) gives the classes in their own
    order, those without a sample included; ``__len__`` gives the number of samples to progress bars.

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
    """Return the class names a source declares, in its own order, or ``None`` where it declares none.

    Raises:
        ConfigurationError: If they are not distinct, non-empty strings.
    """
    declared: Any = getattr(source, "class_names", None)
    return None if declared is None else checked_class_names(declared)


def checked_class_names(value: Any) -> tuple[str, ...]:
    """Return class names, as an argument or an attribute of a source has them, in their order.

    Raises:
        ConfigurationError: If they are not distinct, non-empty strings in an order that is the same every time.
    """
    if isinstance(value, (set, frozenset)):  # ordered by hashes, which are others in each process
        raise ConfigurationError(
            f"class_names must be in a fixed order: a list or tuple. Received: a {type(value).__name__}. "
            "sorted(...) makes a list of it."
        )
    if callable(value):
        raise ConfigurationError(
            f"class_names must be an attribute or property, a list or tuple of names. Received: {value!r}, which "
            "would have to be called. Put @property above it."
        )
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"class_names must be a list or tuple of names. Received: class_names={value!r}")
    names = tuple(value)
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"class_names must be non-empty strings. Received: class_names={names!r}")
    if len(set(names)) != len(names):
        raise ConfigurationError(f"class_names must be distinct. Received: class_names={names!r}")
    return tuple(map(str, names))


def in_order_of_numbers(labels: Collection[str | None]) -> tuple[str, ...] | None:
    """Return labels sorted as numbers, or ``None`` if one is no whole number: sorted as text, 10 is before 2."""
    names = [label for label in labels if label is not None]
    if not names or not all(map(_WHOLE_NUMBER.fullmatch, names)):
        return None
    return tuple(sorted(names, key=lambda name: (int(name), name)))
