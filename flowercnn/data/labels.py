"""Class names to integers and back: fitted once, on all classes, and never again."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError, UnknownNameError, closest, few

__all__ = ["LabelEncoder", "check_printable"]

_LONGEST_NAME: Final = 1_000
_UNWANTED: Final = ("Cc", "Cs")  # control characters, and halves of characters that no file can hold

_REORDERING: Final = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))  # bidi controls


@dataclass(frozen=True, slots=True)
class LabelEncoder:
    """The one mapping between class names (str) and labels (int); frozen, so nothing can refit it.

    Args:
        class_names: Distinct names; the label of a class is its place in this tuple.

    Raises:
        ConfigurationError: If names repeat or are not strings.

    Example:
        >>> encoder = LabelEncoder(("daisy", "rose"))
        >>> encoder.encode(["rose", "daisy", "rose"])
        array([1, 0, 1])
        >>> encoder.decode([0, 1])
        ['daisy', 'rose']
    """

    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) and name for name in self.class_names):
            raise ConfigurationError(f"class_names must be non-empty strings. Received: {self.class_names!r}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ConfigurationError(f"class_names must be distinct. Received: {self.class_names!r}")

    @classmethod
    def fit(cls, names: Iterable[str]) -> LabelEncoder:
        """Return the encoder of all names seen, in sorted order."""
        return cls(tuple(sorted(set(names))))

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the label of each name, shape (n,), int64.

        Raises:
            UnknownNameError: If a name is not one of ``class_names``.
        """
        position = {name: label for label, name in enumerate(self.class_names)}
        unknown = sorted({name for name in names if name not in position})
        if unknown:
            raise UnknownNameError(
                f"Every label must be one of the {len(position)} class names.{closest(unknown[0], position)} "
                f"Received: {few([repr(name) for name in unknown])}"
            )
        return np.fromiter((position[name] for name in names), dtype=np.int64, count=len(names))

    def decode(self, labels: Iterable[int]) -> list[str]:
        """Return the class name of each label."""
        return [self.class_names[label] for label in labels]


def check_printable(class_names: Sequence[str]) -> None:
    """Refuse names that no classifier may have: they could forge lines of a terminal or a log.

    Raises:
        ConfigurationError: If a name has control characters, such as those that reorder text, or over 1,000
            characters.
    """
    for name in class_names:
        if len(name) > _LONGEST_NAME or any(map(_is_unwanted, name)):
            raise ConfigurationError(
                f"Class names must have at most {_LONGEST_NAME:,} characters, and no control characters. "
                f"Received: {name[:100]!r}. Rename the class, or use map_labels on the source."
            )


def _is_unwanted(character: str) -> bool:
    return unicodedata.category(character) in _UNWANTED or character in _REORDERING
