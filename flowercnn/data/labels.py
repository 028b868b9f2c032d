"""Label encoder: class names to integers and back."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_class_names
from flowercnn.errors import ConfigurationError, UnknownNameError, closest, few

__all__ = ["LabelEncoder", "check_printable"]

_LONGEST_NAME: Final = 1_000
_UNWANTED: Final = (
    "Cc",
    "Cs",
)  # control characters, and halves of characters that no file can hold

_REORDERING: Final = frozenset(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
)  # bidi controls


@dataclass(frozen=True, slots=True)
class LabelEncoder:
    """Mapping between class names (str) and labels (int); frozen, so that it cannot be refitted.

    Args:
        class_names: Distinct names; the label of a class is its position.

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
        check_class_names(self.class_names)

    @classmethod
    def fit(cls, names: Iterable[str]) -> LabelEncoder:
        """Return the encoder of the given names, in sorted order."""
        return cls(tuple(sorted(set(names))))

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the label of each name, shape (n,), int64.

        Raises:
            UnknownNameError: If a name is not one of ``class_names``.
        """
        position = {name: label for label, name in enumerate(self.class_names)}
        unknown = sorted({name for name in names if name not in position})
        if unknown:
            hint = closest(unknown[0], position)
            raise UnknownNameError(
                f"Every label must be one of the {len(position)} class names.{hint} "
                f"Received: {few([repr(name) for name in unknown])}"
            )
        return np.fromiter((position[name] for name in names), dtype=np.int64, count=len(names))

    def decode(self, labels: Iterable[int]) -> list[str]:
        """Return the class name of each label."""
        return [self.class_names[label] for label in labels]


def check_printable(class_names: Sequence[str]) -> None:
    """Check that names cannot forge lines of a terminal or a log.

    Raises:
        ConfigurationError: If a name has control characters, such as those that reorder text, or
            over 1,000 characters.
    """
    for name in class_names:
        if len(name) > _LONGEST_NAME or any(map(_is_unwanted, name)):
            raise ConfigurationError(
                f"Class names must have at most {_LONGEST_NAME:,} characters, and no control "
                f"characters. Received: {name[:100]!r}. Rename the class, or use map_labels."
            )


def _is_unwanted(character: str) -> bool:
    return unicodedata.category(character) in _UNWANTED or character in _REORDERING
