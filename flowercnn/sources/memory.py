"""Images in memory, or in a temporary file where memory is too small for them."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn.errors import ConfigurationError
from flowercnn.sources.base import ImageInput, Sample

__all__ = ["InMemory", "Spool"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InMemory:
    """Arrays or Pillow images with their class names.

    Args:
        images: uint8 array of shape (n, height, width, 3) with values 0-255, or a sequence of
            arrays of shape (height, width, 3), of Pillow images, or of anything else that
            `Sample.image` can be. Nothing is copied.
        labels: Class name (str) or ``None`` of each image.
        keys: Key of each image; by default its number, from ``"000000"`` on.
        class_names: All classes in the order wanted; by default the sorted labels.

    Raises:
        ConfigurationError: If lengths differ, a label is not a str, or an image cannot be read.

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
        names = ["images", "labels", *(["keys"] if self.keys is not None else [])]
        counts = {name: _length(name, getattr(self, name)) for name in names}
        if len(set(counts.values())) != 1:
            raise ConfigurationError(
                f"images, labels and keys must be equally many. Received: {counts}"
            )
        for index, image in enumerate(self.images):
            _check_image(index, image)
        for index, label in enumerate(self.labels):
            if label is not None and not (isinstance(label, str) and label):
                raise ConfigurationError(
                    f"labels[{index}] must be a class name (non-empty str) or None. "
                    f"Received: {label!r}. For numbered classes use "
                    "flowercnn.sources.from_arrays(images, labels)."
                )

    def __repr__(self) -> str:
        return f"InMemory({len(self.images)} images)"

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        width = max(6, len(str(len(self))))
        keys = self.keys if self.keys is not None else (f"{i:0{width}d}" for i in range(len(self)))
        # not by index: [] of pandas wants index labels
        for key, image, label in zip(keys, self.images, self.labels, strict=True):
            yield Sample(key=_plain(key), label=_plain(label), image=image)


def _length(name: str, values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        raise ConfigurationError(
            f"{name} must be a sequence, such as a list or an array. "
            f"Received: {type(values).__name__}. Make a list of it with list(...)."
        ) from None


def _plain(text: Any) -> Any:
    return str(text) if isinstance(text, np.str_) else text


def _check_image(index: int, image: object) -> None:
    """Reject what is not an image here, where its index is known."""
    if not isinstance(image, np.ndarray):
        known = isinstance(image, (str, bytes, Image.Image, os.PathLike)) or callable(image)
        rule = "a path, bytes, a Pillow image, a uint8 array or a function."
        received = type(image).__name__
    else:
        shape = image.shape
        channels = shape[2:] in ((), (1,), (3,), (4,))
        known = image.dtype == np.uint8 and image.ndim in (2, 3) and channels
        rule = "a uint8 array of shape (height, width, 3) with values 0-255."
        way_out = "Convert 0-1 floats with (255 * x).round().astype('uint8')."
        received = f"dtype {image.dtype}, shape {shape}. {way_out}"
    if not known:
        raise ConfigurationError(f"images[{index}] must be {rule} Received: {received}")


class Spool:
    """Temporary file of images, removed with the last of them."""

    def __init__(self) -> None:
        folder = mkdtemp(prefix="flowercnn-")
        self.path = str(Path(folder) / "images")
        self._file = Path(self.path).open("wb")  # noqa: SIM115 - closed after the last image
        weakref.finalize(self, _remove, folder, os.getpid())

    def add(self, content: bytes) -> ImageInput:
        """Write an image and return its reader."""
        start = self._file.tell()
        self._file.write(content)
        return _SpooledImage(self, self.path, start, len(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End writing, before reading begins."""
        self._file.close()


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child ends before its parent
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, repr=False)
class _SpooledImage:
    spool: Spool | None  # keeps the file as long as there is an image
    path: str
    start: int
    size: int

    def __call__(self) -> bytes:
        with open(self.path, "rb") as file:  # noqa: PTH123 - called for every image
            file.seek(self.start)
            return file.read(self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place, not the file, which exists as long as this process has the images."""
        return _SpooledImage, (None, self.path, self.start, self.size)
