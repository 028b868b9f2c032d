"""Pictures that are in memory already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn.errors import ConfigurationError
from flowercnn.sources.base import Sample

__all__ = ["InMemory"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InMemory:
    """Arrays or Pillow images with their class names.

    Args:
        images: uint8 array of shape (n, height, width, 3) with values 0-255, or a sequence of such arrays of shape
            (height, width, 3), of Pillow images, or of anything else `Sample.image` can be. Nothing is copied.
        labels: One class name (str) or ``None`` per picture.
        keys: One key per picture; by default its number, ``"000000"`` onwards.
        class_names: All classes in the order wanted; by default the sorted labels.

    Raises:
        ConfigurationError: If the lengths differ, a label is no text, or a picture is of a kind that cannot be read.

    Example:
        >>> import numpy as np
        >>> source = InMemory(np.zeros((2, 8, 8, 3), dtype=np.uint8), ["daisy", "rose"])
        >>> [(sample.key, sample.label) for sample in source]
        [('000000', 'daisy'), ('000001', 'rose')]
    """

    images: Sequence[Any] | npt.NDArray[np.uint8]
    labels: Sequence[str | None] | npt.NDArray[np.str_]
    keys: Sequence[str] | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        counts = {name: _length(name, getattr(self, name)) for name in ("images", "labels")}
        if self.keys is not None:
            counts["keys"] = _length("keys", self.keys)
        if len(set(counts.values())) != 1:
            raise ConfigurationError(f"images, labels and keys must be equally many. Received: {counts}")
        for index, image in enumerate(self.images):
            _check_image(index, image)
        for index, label in enumerate(self.labels):
            _check_label(index, label)

    def __repr__(self) -> str:
        return f"InMemory({len(self.images)} images)"

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        width = max(6, len(str(len(self.images))))
        keys = (f"{index:0{width}d}" for index in range(len(self.images))) if self.keys is None else self.keys
        for key, image, label in zip(keys, self.images, self.labels, strict=True):  # [] of pandas wants index labels
            yield Sample(key=_plain(key), label=_plain(label), image=image)


def _length(name: str, values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        raise ConfigurationError(
            f"{name} must be a sequence, such as a list or an array. Received: {type(values).__name__}. "
            "Make a list of it with list(...)."
        ) from None


def _plain(text: Any) -> Any:
    return str(text) if isinstance(text, np.str_) else text


def _check_label(index: int, label: object) -> None:
    if label is not None and not (isinstance(label, str) and label):
        raise ConfigurationError(
            f"labels[{index}] must be a class name (non-empty str) or None. Received: {label!r}. "
            "For numbered classes use flowercnn.sources.from_arrays(images, labels)."
        )


def _check_image(index: int, image: object) -> None:
    """Refuse arrays that are no uint8 pictures while it is clear which one is meant."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
            raise ConfigurationError(
                f"images[{index}] must be a uint8 array of shape (height, width, 3) with values 0-255. "
                f"Received: dtype {image.dtype}, shape {image.shape}. Convert 0-1 floats with "
                "(255 * x).round().astype('uint8')."
            )
    elif (
        not isinstance(image, (str, bytes, Image.Image)) and not callable(image) and not hasattr(image, "__fspath__")
    ):
        raise ConfigurationError(
            f"images[{index}] must be a path, bytes, a Pillow image, a uint8 array or a function. "
            f"Received: {type(image).__name__}"
        )
