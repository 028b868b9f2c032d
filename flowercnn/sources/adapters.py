"""Sources from other libraries: NumPy arrays, tf.data datasets, Hugging Face datasets."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import check_number
from flowercnn.errors import ConfigurationError, ImageError, SourceError, closest, few
from flowercnn.sources.base import (
    DataSource,
    Sample,
    checked_class_names,
    in_order_of_numbers,
    part_of,
)
from flowercnn.sources.memory import InMemory, Spool

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
    """Return a source of arrays with numbered classes and pixels of any range.

    Args:
        images: Shape (n, height, width), or (n, height, width, 1, 3 or 4): uint8, or floats in
            ``value_range``.
        labels: Shape (n,) or (n, 1): integers from 0, or names; or one-hot of shape
            (n, num_classes): a single 1 per row.
        class_names: Name of each number; by default the number itself.
        value_range: Values of black and white, for floats.

    Raises:
        ConfigurationError: If shapes, values or labels do not fit.

    Example:
        >>> images, labels = np.zeros((2, 8, 8, 1)), np.array([[1], [0]])
        >>> source = from_arrays(images, labels, class_names=["daisy", "rose"])
        >>> [sample.label for sample in source]
        ['rose', 'daisy']
    """
    value_range = _check_range(value_range)
    pixels = _as_uint8(_one_array(images), value_range)
    if pixels is not images:
        _check_brightness(float(np.max(images, initial=0)), value_range)
    if pixels.ndim == _BATCHED_PIXELS and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    names = None if class_names is None else checked_class_names(class_names)
    numbers, count = _one_label_each(labels)
    if np.issubdtype(numbers.dtype, np.floating) and (numbers == np.rint(numbers)).all():
        numbers = numbers.astype(np.int64)
    text = [_class_name(label, names) for label in numbers.tolist()]
    if names is None and numbers.size and np.issubdtype(numbers.dtype, np.integer):
        names = tuple(map(str, range(max(count, int(numbers.max()) + 1))))
    return InMemory(pixels, text, class_names=names)


def from_tensorflow(
    dataset: Any,
    *,
    class_names: Sequence[str] | None = None,
    value_range: tuple[float, float] = (0, 255),
) -> DataSource:
    """Return a source of a ``tf.data.Dataset``, such as ``image_dataset_from_directory`` makes.

    The dataset is run once, at the first iteration. Its images go to a temporary file, losslessly,
    which is removed with the last sample; memory holds one batch. So the order stays even if the
    dataset shuffles. Keys are numbers.

    Args:
        dataset: Elements (image, label), in batches or not. An image is uint8 or float of shape
            (height, width, 1, 3 or 4), or a string with an encoded image; a label is an integer, a
            string, or one-hot.
        class_names: Name of each number; by default ``dataset.class_names`` if there is one,
            otherwise the number itself, in the order of numbers.
        value_range: Values of black and white, for floats.

    Raises:
        ConfigurationError: If ``dataset`` is not of this kind, or its values do not fit.
    """
    shape = getattr(dataset, "element_spec", None)
    if not isinstance(shape, tuple) or len(shape) != 2:  # noqa: PLR2004 - (image, label)
        raise ConfigurationError(
            "dataset must be a tf.data.Dataset with elements (image, label). "
            f"Received: {shape or type(dataset)!r}"
        )
    if int(dataset.cardinality()) == _ENDLESS:
        raise ConfigurationError(
            "dataset must end; repeat() without a number makes one that does not. "
            f"Received: {dataset!r}"
        )
    names = class_names if class_names is not None else getattr(dataset, "class_names", None)
    names = None if names is None else checked_class_names(names)
    return _TensorFlow(dataset, names, _check_range(value_range))


def from_huggingface(
    dataset: Any,
    *,
    image: str = "image",
    label: str = "label",
    group: str | None = None,
) -> DataSource:
    """Return a source of a Hugging Face ``Dataset`` or ``DatasetDict``.

    Images stay where they are, in Arrow files that are mapped into memory, and are read when they
    are decoded. If every split of a ``DatasetDict`` is named train, validation or test, those are
    the predefined parts. Keys are the name of the split and the number of the row. Needs
    ``pip install flowercnn[huggingface]``.

    Args:
        dataset: A dataset that does not stream.
        image: Column of the images.
        label: Column of the classes; the names are those of its ``ClassLabel``, if it is one.
            Other whole numbers are classes in the order of numbers.
        group: Column of the groups, if there is one.

    Raises:
        ConfigurationError: If ``dataset`` is not of this kind, or lacks such a column.
    """
    parts = dict(dataset.items()) if isinstance(dataset, Mapping) else {"": dataset}
    for part in parts.values():
        if not all(hasattr(part, name) for name in ("features", "select_columns", "__len__")):
            raise ConfigurationError(
                "dataset must be a datasets.Dataset or DatasetDict, loaded without streaming=True. "
                f"Received: {type(part).__module__}.{type(part).__name__}"
            )
        known = list(part.features)
        for name in (image, label, *([group] if group else [])):
            if name not in known:
                raise ConfigurationError(
                    f"dataset has the columns {few(known)}.{closest(name, known)} "
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
        names = few([name or "rows" for name in self.parts])
        return f"from_huggingface({names}: {len(self)} images)"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = [getattr(part.features[self.label], "names", None) for part in self.parts.values()]
        if all(names):
            return tuple(dict.fromkeys(name for each in names for name in each or ()))
        return in_order_of_numbers(self._numbers())

    def _numbers(self) -> set[str | None]:
        """Return the labels as text if they are numbers; names are not read."""
        parts = self.parts.values()
        kinds = [str(getattr(part.features[self.label], "dtype", "")) for part in parts]
        if not all(kind.startswith(("int", "uint", "float")) for kind in kinds):
            return set()
        labels = {label for part in parts for label, _ in self._labels(part)}
        return {_class_name(label, None) for label in labels}

    def __iter__(self) -> Iterator[Sample]:
        all_parts = all(part_of(name) is not None for name in self.parts)
        for name, part in self.parts.items():
            images = _undecoded(part, self.image)
            names = getattr(part.features[self.label], "names", None)
            split = part_of(name) if all_parts else None
            for row, (label, group) in enumerate(self._labels(part)):
                yield Sample(
                    key=f"{name}/{row:06d}" if name else f"{row:06d}",
                    label=_class_name(label, names),
                    image=_ArrowImage(images, row, self.image),
                    group=None if group is None else str(group),
                    split=split,
                )

    def _labels(self, part: Any) -> Iterator[tuple[Any, Any]]:
        wanted = [self.label, *([self.group] if self.group else [])]
        for batch in part.with_format(None).select_columns(wanted).iter(batch_size=10_000):
            groups = batch[self.group] if self.group else [None] * len(batch[self.label])
            yield from zip(batch[self.label], groups, strict=True)


@dataclass(frozen=True, slots=True, repr=False)
class _ArrowImage:
    """Image in an Arrow table, read when it is called; safe in several threads."""

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
            raise ImageError(f"row {self.row} has no image.")
        if "://" in path:
            from flowercnn.sources.remote import RemoteImage

            return RemoteImage(path)()
        return Path(path).read_bytes()


def _undecoded(part: Any, column: str) -> Any:
    """Return the column of images as encoded bytes and paths."""
    if type(part.features[column]).__name__ == "Image":
        import datasets

        part = part.cast_column(column, datasets.Image(decode=False))
    return part.with_format(None).select_columns([column])


class _TensorFlow:
    """Elements of a ``tf.data.Dataset``, written to a temporary file at the first iteration."""

    def __init__(
        self, dataset: Any, names: tuple[str, ...] | None, value_range: tuple[float, float]
    ) -> None:
        self._dataset = dataset
        self._value_range = value_range
        self._samples: list[Sample] | None = None
        self._lock = threading.Lock()
        self._names = names

    def __repr__(self) -> str:
        return f"from_tensorflow({self._dataset!r})"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names set, otherwise numbers in their order, for which the dataset is run."""
        if self._names is not None:
            return self._names
        return in_order_of_numbers({sample.label for sample in self})

    def __iter__(self) -> Iterator[Sample]:
        with self._lock:
            if self._samples is None:
                with Spool() as spool:
                    self._samples = list(self._run(spool))
        return iter(self._samples)

    def _run(self, spool: Spool) -> Iterator[Sample]:
        number, highest = 0, 0.0
        for images, labels in self._batches():
            if np.issubdtype(images.dtype, np.floating):
                highest = max(highest, float(images.max(initial=0)))
            for image, label in zip(images, labels, strict=True):
                content = image if isinstance(image, bytes) else _as_file(image, self._value_range)
                name = _class_name(_plain_label(number, label), self._names)
                yield Sample(f"{number:06d}", name, spool.add(content))
                number += 1
        _check_brightness(highest, self._value_range)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        elements = self._dataset.as_numpy_iterator()
        while True:
            try:
                images, labels = next(elements)
            except StopIteration:
                return
            except Exception as error:  # whatever the dataset's own functions raise
                raise SourceError(
                    f"The tf.data.Dataset failed ({type(error).__name__}: {error})."
                ) from error
            if isinstance(images, bytes) or np.ndim(images) == _BATCHED_PIXELS - 1:
                images, labels = [images], [labels]
            batch = np.asarray(images)
            if batch.ndim not in (1, _BATCHED_PIXELS):  # encoded images, or pixels
                raise _wrong_shape(batch)
            yield batch, labels


def _as_file(image: npt.NDArray[Any], value_range: tuple[float, float]) -> bytes:
    """Return an array as the bytes of a lossless file."""
    pixels = _as_uint8(image, value_range)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:  # noqa: PLR2004 - (height, width, channels)
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    try:
        decoded = Image.fromarray(pixels)
    except TypeError as error:
        raise _wrong_shape(image) from error
    decoded.save(buffer, format="PNG" if decoded.mode == "RGBA" else "PPM")
    return buffer.getvalue()


def _wrong_shape(array: npt.NDArray[Any]) -> ConfigurationError:
    return ConfigurationError(
        f"An image must be of shape (height, width, 1, 3 or 4). Received: {array.shape}"
    )


def _check_range(value_range: Any) -> tuple[float, float]:
    try:
        low, high = (check_number("value_range", limit) for limit in value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if low >= high:
        raise ConfigurationError(
            "value_range must be the values of black and white, such as (0, 255) or (0, 1). "
            f"Received: value_range={value_range!r}"
        )
    return low, high


def _one_array(images: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(images)
    except ValueError:  # of NumPy, where they differ in size
        array = np.empty(0, object)
    if array.dtype == object or array.ndim not in (3, 4):
        raise ConfigurationError(
            "images must be one array of shape (n, height, width) or "
            f"(n, height, width, 1, 3 or 4). Received: {type(images).__name__} of shape "
            f"{'that differs' if array.dtype == object else array.shape}. "
            "For images of different sizes use flowercnn.InMemory(images, labels)."
        )
    return array


def _one_label_each(labels: Any) -> tuple[npt.NDArray[Any], int]:
    """Return one label per image, and the number of classes if one-hot labels show it."""
    try:
        rows = np.asarray(labels)
    except ValueError:  # of NumPy, where rows differ in length
        rows = np.empty(())
    if rows.ndim == 1:
        return rows, 0
    if rows.ndim != 2 or rows.shape[1] == 0:  # noqa: PLR2004 - rows
        raise ConfigurationError(
            "labels must be of shape (n,), (n, 1) or, one-hot, (n, num_classes). "
            f"Received: {type(labels).__name__} of shape {rows.shape}"
        )
    if rows.shape[1] == 1:
        return rows[:, 0], 0
    ones = rows == 1
    wrong = np.flatnonzero(~((ones | (rows == 0)).all(axis=1) & (ones.sum(axis=1) == 1)))
    if wrong.size:
        raise ConfigurationError(
            "labels of shape (n, num_classes) must have a single 1 and otherwise zeros in each "
            f"row. Received: labels[{wrong[0]}]={rows[wrong[0]].tolist()} and {wrong.size} such "
            "rows in all."
        )
    return ones.argmax(axis=1), rows.shape[1]


def _as_uint8(values: npt.NDArray[Any], value_range: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return pixels 0-255.

    Raises:
        ConfigurationError: If they are of another type, or beyond the range.
    """
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ConfigurationError(
            f"Pixels must be uint8 or floats. Received: dtype {values.dtype}. "
            "Convert integers 0-255 with .astype('uint8')."
        )
    low, high = value_range
    if not (values.min(initial=low) >= low and values.max(initial=high) <= high):
        raise ConfigurationError(
            f"Pixels must be from {low:g} to {high:g}, as value_range says. "
            f"Received: {values.min()} to {values.max()}"
        )
    pixels = np.empty(values.shape, np.uint8)
    for part, out in zip(values, pixels, strict=True):  # one by one: floats are large
        np.rint((part - low) * (255 / (high - low)), out=out, casting="unsafe")
    return pixels


def _check_brightness(highest: float, value_range: tuple[float, float]) -> None:
    if value_range[1] > 1 and 0 < highest <= 1:
        raise ConfigurationError(
            f"The images are black: value_range={value_range!r}, but no value is above {highest}. "
            "Give value_range=(0, 1)."
        )


def _plain_label(number: int, label: Any) -> Any:
    """Return a label as a number or text, whatever its shape."""
    array = np.asarray(label)
    if array.size != 1:
        values = array.ravel().tolist()
        if values.count(1) != 1 or values.count(0) != len(values) - 1:
            raise ConfigurationError(
                "A label of several values must be one-hot, a single 1 and otherwise zeros. "
                f"Received: {few(values)} for image {number}"
            )
        return values.index(1)
    value = array.item()
    return value.decode() if isinstance(value, bytes) else value


def _class_name(label: Any, names: Sequence[str] | None) -> str | None:
    """Return the class name of a name or number; ``None`` and -1 mean that there is none."""
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
            "class_names must have a name for every label. "
            f"Received: {len(names)} names, label {label!r}"
        )
    return str(names[int(number)])
