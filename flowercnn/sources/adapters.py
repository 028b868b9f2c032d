"""Sources made of what other libraries hold: NumPy arrays, tf.data datasets, Hugging Face datasets."""

from __future__ import annotations

import io
import math
import os
import shutil
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn.errors import ConfigurationError, ImageError, SourceError, closest, few
from flowercnn.sources.base import DataSource, ImageInput, Sample, checked_class_names, in_order_of_numbers
from flowercnn.sources.folder import part_of
from flowercnn.sources.memory import InMemory

__all__ = ["from_arrays", "from_huggingface", "from_tensorflow"]

_BATCHED_PIXELS: Final = 4  # dimensions of (batch, height, width, channels)
_ENDLESS: Final = -1  # tf.data.INFINITE_CARDINALITY


def from_arrays(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any] | Sequence[Any],
    *,
    class_names: Sequence[str] | None = None,
    value_range: tuple[float, float] = (0, 255),
) -> DataSource:
    """Return a source of arrays as other libraries have them: numbered classes, pixels of any range.

    Args:
        images: Shape (n, height, width), or (n, height, width, 1, 3 or 4): uint8, or floats in ``value_range``.
        labels: Shape (n,) or (n, 1): integers from 0, or names; or shape (n, num_classes), one-hot: a single 1 per
            row.
        class_names: The name of each number; by default the number itself.
        value_range: The values of black and white, for floats.

    Raises:
        ConfigurationError: If shapes, values or labels do not fit.

    Example:
        >>> source = from_arrays(np.zeros((2, 8, 8, 1)), np.array([[1], [0]]), class_names=["daisy", "rose"])
        >>> [sample.label for sample in source]
        ['rose', 'daisy']
    """
    value_range = _checked_range(value_range)
    pictures = _as_uint8(_one_array(images), value_range)
    if pictures is not images:
        _refuse_other_range(float(np.max(images, initial=0)), value_range)
    if pictures.ndim == _BATCHED_PIXELS and pictures.shape[-1] == 1:
        pictures = pictures[..., 0]
    names = None if class_names is None else checked_class_names(class_names)
    given, count = _one_label_each(labels)
    if np.issubdtype(given.dtype, np.floating) and (given == np.rint(given)).all():
        given = given.astype(np.int64)
    text = [_class_name(label, names) for label in given.tolist()]
    if names is None and np.issubdtype(given.dtype, np.integer):
        names = tuple(map(str, range(max(count, int(given.max()) + 1)))) if given.size else None
    return InMemory(pictures, text, class_names=names)


def from_tensorflow(
    dataset: Any,
    *,
    class_names: Sequence[str] | None = None,
    value_range: tuple[float, float] = (0, 255),
) -> DataSource:
    """Return a source of a ``tf.data.Dataset``, such as ``keras.utils.image_dataset_from_directory`` makes.

    The dataset is run once, at the first iteration. Its pictures go to a temporary file, without loss, which is
    removed with the last sample; memory holds one batch. So the order stays even if the dataset shuffles. Keys are
    numbers.

    Args:
        dataset: Elements (image, label), in batches or not. An image is uint8 or float of shape (height, width, 1, 3
            or 4), or a string with an encoded picture; a label an integer, a string, or one-hot.
        class_names: The name of each number; by default ``dataset.class_names``, else the number itself, in the order
            of numbers.
        value_range: The values of black and white, for floats.

    Raises:
        ConfigurationError: If ``dataset`` is no such dataset, or its values do not fit.
    """
    shape = getattr(dataset, "element_spec", None)
    if not isinstance(shape, tuple) or len(shape) != 2:  # noqa: PLR2004 - (image, label)
        raise ConfigurationError(
            f"dataset must be a tf.data.Dataset with elements (image, label). Received: {shape or type(dataset)!r}"
        )
    if int(dataset.cardinality()) == _ENDLESS:
        raise ConfigurationError(
            f"dataset must end; repeat() without a number makes one that does not. Received: {dataset!r}"
        )
    names = class_names if class_names is not None else getattr(dataset, "class_names", None)
    return _TensorFlow(dataset, None if names is None else checked_class_names(names), _checked_range(value_range))


def from_huggingface(
    dataset: Any,
    *,
    image: str = "image",
    label: str = "label",
    group: str | None = None,
) -> DataSource:
    """Return a source of a Hugging Face ``Dataset`` or ``DatasetDict``.

    Pictures stay where they are, in Arrow files that are mapped into memory, and are read when they are decoded. If
    every split of a ``DatasetDict`` is named train, validation or test, those are the predefined parts. Keys are the
    name of the split and the number of the row. Needs ``pip install flowercnn[huggingface]``.

    Args:
        dataset: Not a streaming one.
        image: Name of the column with the pictures.
        label: Name of the column with the classes; the names are those of its ``ClassLabel``, if it is one. Other
            whole numbers are classes in the order of numbers.
        group: Name of the column with groups, if there is one.

    Raises:
        ConfigurationError: If ``dataset`` is nothing of this kind, or has no such column.
    """
    parts = dict(dataset.items()) if isinstance(dataset, Mapping) else {"": dataset}
    for part in parts.values():
        if not hasattr(part, "features") or not hasattr(part, "select_columns") or not hasattr(part, "__len__"):
            raise ConfigurationError(
                "dataset must be a datasets.Dataset or DatasetDict, loaded without streaming=True. "
                f"Received: {type(part).__module__}.{type(part).__name__}"
            )
        for name in (image, label, *([group] if group else [])):
            if name not in part.features:
                raise ConfigurationError(
                    f"dataset has the columns {few(list(part.features))}.{closest(name, part.features)} "
                    f"Received: {name!r}"
                )
    return _HuggingFace(parts, image, label, group)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _HuggingFace:
    parts: Mapping[str, Any]
    image: str
    label: str
    group: str | None

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __repr__(self) -> str:
        return f"from_huggingface({few([name or 'rows' for name in self.parts])}: {len(self)} images)"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = [getattr(part.features[self.label], "names", None) for part in self.parts.values()]
        if all(names):
            return tuple(dict.fromkeys(name for each in names for name in each or ()))
        return in_order_of_numbers(self._numbers())

    def _numbers(self) -> set[str | None]:
        """Return the labels as text if they are numbers; names need not be read for their order."""
        kinds = [str(getattr(part.features[self.label], "dtype", "")) for part in self.parts.values()]
        if not all(kind.startswith(("int", "uint", "float")) for kind in kinds):
            return set()
        parts = self.parts.values()
        return {_class_name(label, None) for label in {label for part in parts for label, _ in self._labels(part)}}

    def __iter__(self) -> Iterator[Sample]:
        all_parts = all(part_of(name) is not None for name in self.parts)
        for name, part in self.parts.items():
            pictures = _undecoded(part, self.image)
            names = getattr(part.features[self.label], "names", None)
            split = part_of(name) if all_parts else None
            for row, (label, group) in enumerate(self._labels(part)):
                yield Sample(
                    key=f"{name}/{row:06d}" if name else f"{row:06d}",
                    label=_class_name(label, names),
                    image=_ArrowPicture(pictures, row, self.image),
                    group=None if group is None else str(group),
                    split=split,
                )

    def _labels(self, part: Any) -> Iterator[tuple[Any, Any]]:
        wanted = [self.label, *([self.group] if self.group else [])]
        for batch in part.with_format(None).select_columns(wanted).iter(batch_size=10_000):
            groups = batch[self.group] if self.group else [None] * len(batch[self.label])
            yield from zip(batch[self.label], groups, strict=True)


@dataclass(frozen=True, slots=True, repr=False)
class _ArrowPicture:
    """A picture in an Arrow table, read when it is called; Arrow's tables can be read by several threads."""

    rows: Any
    row: int
    column: str

    def __call__(self) -> bytes:
        cell = self.rows[self.row][self.column]
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        path = cell.get("path") if isinstance(cell, Mapping) else cell
        if isinstance(content, bytes):
            return content
        if not isinstance(path, str):
            raise ImageError(f"row {self.row} has no picture.")
        if "://" in path:
            from flowercnn.sources.remote import RemotePicture

            return RemotePicture(path)()
        return Path(path).read_bytes()


def _undecoded(part: Any, column: str) -> Any:
    """Return the column of pictures as encoded bytes and paths, decoded by nobody."""
    if type(part.features[column]).__name__ == "Image":
        import datasets

        part = part.cast_column(column, datasets.Image(decode=False))
    return part.with_format(None).select_columns([column])


class _TensorFlow:
    """The elements of a ``tf.data.Dataset``, written to a temporary file at the first iteration."""

    def __init__(self, dataset: Any, names: tuple[str, ...] | None, value_range: tuple[float, float]) -> None:
        self._dataset = dataset
        self._value_range = value_range
        self._samples: list[Sample] | None = None
        self._lock = threading.Lock()
        self._names = names

    def __repr__(self) -> str:
        return f"from_tensorflow({self._dataset!r})"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names given; else numbers in their order, for which the dataset is run."""
        return self._names if self._names is not None else in_order_of_numbers({sample.label for sample in self})

    def __iter__(self) -> Iterator[Sample]:
        with self._lock:
            if self._samples is None:
                with _Spool() as spool:
                    self._samples = list(self._run(spool))
        return iter(self._samples)

    def _run(self, spool: _Spool) -> Iterator[Sample]:
        number, highest = 0, 0.0
        for pictures, labels in self._batches():
            if np.issubdtype(pictures.dtype, np.floating):
                highest = max(highest, float(pictures.max(initial=0)))
            for picture, label in zip(pictures, labels, strict=True):
                content = picture if isinstance(picture, bytes) else _as_file(picture, self._value_range)
                name = _class_name(_plain_label(number, label), self._names)
                yield Sample(f"{number:06d}", name, spool.add(content))
                number += 1
        _refuse_other_range(highest, self._value_range)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        elements = self._dataset.as_numpy_iterator()
        while True:
            try:
                pictures, labels = next(elements)
            except StopIteration:
                return
            except Exception as error:  # whatever the dataset's own functions raise
                raise SourceError(f"The tf.data.Dataset failed ({type(error).__name__}: {error}).") from error
            if isinstance(pictures, bytes) or np.ndim(pictures) == _BATCHED_PIXELS - 1:
                pictures, labels = [pictures], [labels]
            batch = np.asarray(pictures)
            if batch.ndim not in (1, _BATCHED_PIXELS):  # encoded pictures, or pixels
                raise ConfigurationError(
                    f"A picture must be of shape (height, width, 1, 3 or 4). Received: {batch.shape}"
                )
            yield batch, labels


class _Spool:
    """A temporary file of pictures, removed with the last of them."""

    def __init__(self) -> None:
        folder = mkdtemp(prefix="flowercnn-")
        self.path = str(Path(folder) / "pictures")
        self._file = Path(self.path).open("wb")  # noqa: SIM115 - closed when the last picture is in it
        weakref.finalize(self, _remove, folder, os.getpid())

    def add(self, content: bytes) -> ImageInput:
        """Write a picture and return what reads it."""
        start = self._file.tell()
        self._file.write(content)
        return _SpooledPicture(self, self.path, start, len(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End writing; reading begins then."""
        self._file.close()


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a child that was forked ends before its parent is done with the pictures
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, repr=False)
class _SpooledPicture:
    spool: _Spool | None  # keeps the file as long as there is a picture
    path: str
    start: int
    size: int

    def __call__(self) -> bytes:
        with open(self.path, "rb") as file:  # noqa: PTH123 - called for every picture
            file.seek(self.start)
            return file.read(self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place, not the file: it is there as long as this process has the pictures."""
        return _SpooledPicture, (None, self.path, self.start, self.size)


def _as_file(picture: npt.NDArray[Any], value_range: tuple[float, float]) -> bytes:
    """Return an array as the bytes of a file, without loss."""
    pixels = _as_uint8(picture, value_range)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:  # noqa: PLR2004 - (height, width, channels)
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    try:
        image = Image.fromarray(pixels)
    except TypeError as error:
        raise ConfigurationError(
            f"A picture must be of shape (height, width, 1, 3 or 4). Received: {picture.shape}"
        ) from error
    image.save(buffer, format="PNG" if image.mode == "RGBA" else "PPM")
    return buffer.getvalue()


def _checked_range(value_range: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise ConfigurationError(
            "value_range must be the values of black and white, such as (0, 255) or (0, 1). "
            f"Received: value_range={value_range!r}"
        )
    return tuple(value_range)


def _one_array(images: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(images)
    except ValueError:  # of NumPy, where they differ in size
        array = np.empty(0, object)
    if array.dtype == object or array.ndim not in (3, 4):
        raise ConfigurationError(
            "images must be one array of shape (n, height, width) or (n, height, width, 1, 3 or 4). Received: "
            f"{type(images).__name__} of shape {'that differs' if array.dtype == object else array.shape}. "
            "For pictures of different sizes use flowercnn.InMemory(images, labels)."
        )
    return array


def _one_label_each(labels: Any) -> tuple[npt.NDArray[Any], int]:
    """Return one label per picture, and the number of classes if it is known: of one-hot labels."""
    try:
        given = np.asarray(labels)
    except ValueError:  # of NumPy, where rows differ in length
        given = np.empty(())
    if given.ndim == 1:
        return given, 0
    if given.ndim != 2 or given.shape[1] == 0:  # noqa: PLR2004 - rows
        raise ConfigurationError(
            "labels must be of shape (n,), (n, 1) or, one-hot, (n, num_classes). "
            f"Received: {type(labels).__name__} of shape {given.shape}"
        )
    if given.shape[1] == 1:
        return given[:, 0], 0
    ones = given == 1
    strange = np.flatnonzero(~((ones | (given == 0)).all(axis=1) & (ones.sum(axis=1) == 1)))
    if strange.size:
        raise ConfigurationError(
            "labels of shape (n, num_classes) must have a single 1 and else zeros in each row: one class each. "
            f"Received: labels[{strange[0]}]={given[strange[0]].tolist()} and {strange.size} such rows in all."
        )
    return ones.argmax(axis=1), given.shape[1]


def _as_uint8(values: npt.NDArray[Any], value_range: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return pixels 0-255.

    Raises:
        ConfigurationError: If they are of another type, or beyond the range.
    """
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ConfigurationError(
            f"Pixels must be uint8 or floats. Received: dtype {values.dtype}. Convert integers 0-255 with "
            ".astype('uint8')."
        )
    low, high = value_range
    if not (values.min(initial=low) >= low and values.max(initial=high) <= high):
        raise ConfigurationError(
            f"Pixels must be from {low} to {high}; value_range says so. Received: {values.min()} to {values.max()}"
        )
    pixels = np.empty(values.shape, np.uint8)
    for part, out in zip(values, pixels, strict=True):  # one after the other: floats are large
        np.rint((part - low) * (255 / (high - low)), out=out, casting="unsafe")
    return pixels


def _refuse_other_range(highest: float, value_range: tuple[float, float]) -> None:
    if value_range[1] > 1 and 0 < highest <= 1:
        raise ConfigurationError(
            f"The pictures are black: value_range={value_range!r}, but no value is above {highest}. "
            "Give value_range=(0, 1)."
        )


def _plain_label(number: int, label: Any) -> Any:
    """Return a label as a number or text, whatever its shape."""
    array = np.asarray(label)
    if array.size != 1:
        values = array.ravel().tolist()
        if values.count(1) != 1 or values.count(0) != len(values) - 1:
            raise ConfigurationError(
                "A label of several values must be one-hot, a single 1 and else zeros: one class for each picture. "
                f"Received: {few(values)} for picture {number}"
            )
        return values.index(1)
    value = array.item()
    return value.decode() if isinstance(value, bytes) else value


def _class_name(label: Any, names: Sequence[str] | None) -> str | None:
    """Return the name of a class given by name or number; ``None`` for none, which some libraries number -1."""
    if label is None or label == -1:
        return None
    if isinstance(label, bytes):
        label = label.decode("utf-8", "backslashreplace")
    if isinstance(label, str):
        return label or None
    number = float(label) if isinstance(label, Real) else np.nan
    if not number.is_integer() or number < 0:
        raise ConfigurationError(f"A label must be a name or a number from 0. Received: {label!r}")
    if names is None:
        return str(int(number))
    if number >= len(names):
        raise ConfigurationError(
            f"class_names must have a name for every label. Received: {len(names)} names, label {label!r}"
        )
    return str(names[int(number)])
