"""Data sets, splits and folds: an immutable, indexed selection of samples with their classes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args, overload

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_choice, check_class_names, check_instance, check_seed
from flowercnn.data.audit import AuditReport, audit
from flowercnn.data.grouping import Overlap, find_overlaps, in_a_later_part, names_and_links
from flowercnn.data.inspection import Content
from flowercnn.data.labels import LabelEncoder
from flowercnn.data.listing import list_labelled
from flowercnn.data.reading import LoadedImages, Readings
from flowercnn.data.splitting import (
    PARTS,
    Units,
    check_fractions,
    draw_folds,
    draw_split,
    draw_units,
    read_split_file,
    write_split_file,
)
from flowercnn.errors import ConfigurationError, ImageError, SplitError, counted, few, unusable
from flowercnn.preprocessing import BadImages, Preprocessing
from flowercnn.sources import DataSource, ImageInput, Sample, as_source, declared_class_names

__all__ = ["Dataset", "Duplicates", "Fold", "Splits", "as_dataset"]

Duplicates = Literal["group", "ignore"]
"""Treatment of duplicates in a split: keep them in one part, or do not look for them."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples with their classes; made by `Dataset.from_source`, divided by `split`.

    A data set is itself a source. Images are read when they are first needed; a data set and the
    parts made from it share what was read.

    Args:
        samples: Samples in order, each with a label.
        encoder: Mapping from class names to labels, shared by all parts of a data set.

    Example:
        >>> import numpy as np
        >>> from flowercnn import Dataset, InMemory
        >>> images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
        >>> dataset = Dataset.from_source(InMemory(images, ["rose", "daisy", "rose", "daisy"]))
        >>> dataset.class_names, dataset.labels.tolist(), dataset.class_counts()
        (('daisy', 'rose'), [1, 0, 1, 0], {'daisy': 2, 'rose': 2})
    """

    samples: tuple[Sample, ...]
    encoder: LabelEncoder
    _readings: Readings = field(default_factory=Readings, init=False)

    @classmethod
    def from_source(
        cls,
        source: DataSource | str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        unlabelled: Literal["error", "skip"] = "error",
    ) -> Dataset:
        """List a source once and fix the order of its classes.

        Args:
            source: A source, the path of a folder, an archive or a table, or a URI such as
                ``"tensorbay:Flower17-1"``; see `flowercnn.sources.as_source`.
            class_names: All classes in order, including those without samples. By default the
                order that the source declares, or sorted names.
            unlabelled: Whether samples whose label is ``None`` raise an error or are left out.

        Raises:
            ConfigurationError: If ``source`` is not a source, or class names are not distinct
                strings.
            DataError: If there are no samples, a key occurs twice, or a sample has no label.
            UnknownNameError: If a label is not one of the declared class names.
        """
        check_choice("unlabelled", unlabelled, ("error", "skip"))
        source = as_source(source)
        samples = list_labelled(source, skip_unlabelled=unlabelled == "skip")
        names = check_class_names(class_names) if class_names is not None else None
        names = names or declared_class_names(source)
        labels = [sample.label for sample in samples if sample.label is not None]
        dataset = cls(samples, LabelEncoder(names) if names else LabelEncoder.fit(labels))
        dataset.labels  # noqa: B018 - an unknown label is an error now, not in the middle of training
        return dataset

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...

    def __getitem__(self, index: int | slice) -> Sample | Dataset:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        return self.samples[index]

    def __repr__(self) -> str:
        return (
            f"Dataset({len(self)} samples, {self.num_classes} classes: {few(self.class_names, 5)})"
        )

    def _repr_html_(self) -> str:
        counts = self.class_counts()
        most = max(counts.values(), default=0) or 1
        left = "<td style='text-align:left'>"
        rows = "".join(
            f"<tr>{left}{escape(name)}</td><td>{count}</td>{left}<progress value='{count}' "
            f"max='{most}' aria-label='{counted(count, 'image')}'></progress></td></tr>"
            for name, count in counts.items()
        )
        return (
            f"<p><strong>{len(self)}</strong> samples of {self.num_classes} classes</p><details>"
            f"<summary>Classes</summary><table><tbody>{rows}</tbody></table></details>"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; the label of a class is its position here."""
        return self.encoder.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without samples."""
        return len(self.encoder.class_names)

    @property
    def keys(self) -> tuple[str, ...]:
        """Key of each sample, in order."""
        return tuple(sample.key for sample in self.samples)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Label of each sample, shape (n,), int64 from 0 to ``num_classes - 1``, read-only."""
        labels = self.encoder.encode([sample.label or "" for sample in self.samples])
        labels.setflags(write=False)
        return labels

    @property
    def has_splits(self) -> bool:
        """Whether every sample comes with a predefined part (`Sample.split`)."""
        return bool(self.samples) and all(sample.split is not None for sample in self.samples)

    def class_counts(self) -> dict[str, int]:
        """Return the number of samples of each class, including zeros, in class order."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def subset(
        self, indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]
    ) -> Dataset:
        """Return the samples at ``indices``, in that order, with the same classes.

        Args:
            indices: Positions (int), or a mask of one bool per sample.

        Raises:
            ConfigurationError: If a position is out of range or repeated, or the mask has another
                length.
        """
        chosen = np.asarray(indices)
        if chosen.dtype == np.bool_ and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise ConfigurationError(
                f"indices must be a list of ints or a mask of {len(self)} bools. "
                f"Received: shape {chosen.shape}, dtype {chosen.dtype}"
            )
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            received = f"{chosen.min()} to {chosen.max()}"
            raise ConfigurationError(
                f"indices must be from 0 to {len(self) - 1}. Received: {received}"
            )
        if len(np.unique(chosen)) != chosen.size:
            raise ConfigurationError("indices must be distinct. Received: repeated positions")
        part = Dataset(tuple(self.samples[index] for index in chosen), self.encoder)
        object.__setattr__(part, "_readings", self._readings)
        return part

    def split(
        self,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        *,
        duplicates: Duplicates = "group",
        progress: bool = True,
    ) -> Splits:
        """Draw train, val and test, stratified by class, with nothing in two parts.

        Samples of one group stay together, and so do duplicates: the same file, or nearly the same
        image (recompressed, resized, brightened, slightly cropped). To find those, each image is
        read once. Blank images and images that cannot be decoded have no duplicates.

        Args:
            val: Share of each class for ``val``, from 0 to below 1; 0 leaves it empty.
            test: Share of each class for ``test``, likewise.
            seed: Seed of the draw; the same seed gives the same split.
            duplicates: ``"group"`` to keep duplicates together, ``"ignore"`` to read no image.
            progress: Whether to show a progress bar while images are read.

        Returns:
            Three data sets with the same classes; each class is in each part asked for.

        Raises:
            ConfigurationError: If an argument is out of range.
            SplitError: If a class is too small, or its groups too large, to be in every part.
        """
        check_fractions(val, test)
        units = self._units(seed, duplicates, progress=progress)
        parts = draw_split(units, self.labels, self.class_names, val=val, test=test)
        return Splits(*map(self.subset, parts))

    def predefined_split(
        self,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        *,
        duplicates: Literal["error", "drop", "ignore"] = "error",
        progress: bool = True,
    ) -> Splits:
        """Return the parts that the owner of the data has made (`Sample.split`).

        Classes with images in ``val`` or ``test`` but not in ``train`` are named in a warning.

        Args:
            val: Share of each class to draw from ``train`` if there is no ``val``; 0 for none.
            test: Share of each class to draw from ``train`` if there is no ``test``; 0 for none.
            seed: Seed of the draw, as in `split`.
            duplicates: Treatment of images in two parts, as `Splits.overlaps` finds them:
                ``"error"``, ``"drop"`` to keep them in the later part only (test, then val), or
                ``"ignore"`` to read no image.
            progress: Whether to show a progress bar while images are read.

        Raises:
            SplitError: If a sample has no part, ``train`` is empty, or images are in two parts
                (all are listed).
        """
        check_choice("duplicates", duplicates, ("error", "drop", "ignore"))
        check_fractions(val, test)
        if not self.has_splits:
            raise SplitError(
                "Not every sample has a predefined part (Sample.split); draw one with split()."
            )
        if duplicates != "ignore":
            self.contents(progress=progress)
        names = np.array([sample.split for sample in self.samples])
        splits = Splits(*(self.subset(names == name) for name in PARTS))
        if duplicates == "error":
            splits.check(progress=False)
        if duplicates == "drop":
            splits = _without_overlaps(splits)
        if not len(splits.train):
            raise SplitError("The predefined parts have no train; draw a split with split().")
        val = 0.0 if len(splits.val) else val
        test = 0.0 if len(splits.test) else test
        if val or test:
            mode: Duplicates = "ignore" if duplicates == "ignore" else "group"
            drawn = splits.train.split(val, test, seed, duplicates=mode, progress=progress)
            splits = Splits(
                drawn.train, drawn.val if val else splits.val, drawn.test if test else splits.test
            )
        _warn_of_unlearned(splits)
        return splits

    def folds(
        self, k: int, seed: int = 0, *, duplicates: Duplicates = "group", progress: bool = True
    ) -> list[Fold]:
        """Return ``k`` pairs of train and test for cross-validation; each sample is in one test.

        Groups and duplicates are kept together, as in `split`.

        Raises:
            ConfigurationError: If ``k`` is below 2, or another argument is out of range.
            SplitError: If a class has fewer samples than ``k``.
        """
        units = self._units(seed, duplicates, progress=progress)
        folds = draw_folds(units, self.labels, self.class_names, k=k)
        everything = np.arange(len(self))
        return [
            Fold(self.subset(np.setdiff1d(everything, fold)), self.subset(fold)) for fold in folds
        ]

    def load(
        self,
        preprocessing: Preprocessing,
        *,
        bad_images: BadImages = "error",
        progress: bool = True,
    ) -> LoadedImages:
        """Return the images at one size; parts of one data set share what was decoded.

        Args:
            preprocessing: How images become pixels. Pixels stay in memory within its
                ``memory_limit``, otherwise in a cache on disk, until `release` or another
                preprocessing.
            bad_images: ``"error"`` to raise one error that names all images that cannot be
                decoded, ``"skip"`` to leave them out.
            progress: Whether to show a progress bar.

        Raises:
            ImageError: If images cannot be decoded, or all would be skipped.
            SourceError: If an image cannot be fetched, or the cache cannot be written.
        """
        self.read_images(preprocessing, bad_images=bad_images, progress=progress)
        errors = self._readings.errors(self.samples, preprocessing)
        usable = [sample.key not in errors for sample in self.samples]
        kept = np.flatnonzero(usable).astype(np.int64)
        pixels = self._readings.pixels(self.samples, preprocessing)
        return LoadedImages(pixels, self.labels[kept], kept, tuple(errors))

    def read_images(
        self,
        preprocessing: Preprocessing,
        *,
        bad_images: BadImages = "error",
        inspect: bool = False,
        keep_encoded: bool = False,
        progress: bool = True,
    ) -> None:
        """Read each image once for all that follows: `split`, `load`, `decode_each`, `audit`.

        Args:
            preprocessing: As in `load`.
            bad_images: As in `load`.
            inspect: Whether `split` and `audit` will need `contents`.
            keep_encoded: Whether to keep the encoded images until `release`, so that they can be
                decoded at other sizes.
            progress: Whether to show a progress bar.

        Raises:
            ImageError: As in `load`.
            SourceError: As in `load`.
        """
        check_instance("preprocessing", preprocessing, Preprocessing)
        check_choice("bad_images", bad_images, get_args(BadImages))
        self._readings.read(
            self.samples,
            preprocessing=preprocessing,
            inspect=inspect,
            keep_encoded=keep_encoded,
            progress=progress,
        )
        errors = self._readings.errors(self.samples, preprocessing)
        if errors and (bad_images == "error" or len(errors) == len(self)):
            raise unusable(errors, len(self))

    def decode_each(
        self, preprocessing: Preprocessing
    ) -> Iterator[npt.NDArray[np.uint8] | ImageError]:
        """Yield the pixels of each image, or why it cannot be decoded, in bounded memory.

        Images that `load` has decoded are not decoded again.
        """
        return self._readings.stream(self.samples, preprocessing)

    def encoded(self, index: int) -> ImageInput:
        """Return the image at ``index``, as `read_images` has kept it or as the sample has it."""
        return self._readings.image(self.samples[index])

    def release(self) -> None:
        """Forget decoded and encoded images of this data set and of all its parts."""
        self._readings.release()

    def contents(self, *, progress: bool = True) -> tuple[Content, ...]:
        """Return the inspection of each image (hash, size, thumbnail, errors), in order.

        Images are read at the first call; the data set and its parts remember the result.
        """
        return self._readings.contents(self.samples, progress=progress)

    def known_contents(self) -> tuple[Content, ...] | None:
        """Return `contents` if all images were inspected before, otherwise ``None``."""
        return self._readings.known_contents(self.samples)

    def _units(self, seed: int, duplicates: Duplicates, *, progress: bool) -> Units:
        """Return the samples that stay together, in the order in which they are drawn."""
        check_choice("duplicates", duplicates, get_args(Duplicates))
        check_seed(seed)
        contents = self.contents(progress=progress) if duplicates == "group" else None
        return draw_units(*names_and_links(self.samples, contents), seed)

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that depend on keys, labels and classes, not on order."""
        lines = sorted(zip(self.keys, self.labels.tolist(), strict=True))
        samples = "".join(f"\x1e{key}\x1f{label}" for key, label in lines)
        return _hashed("\x1f".join(self.class_names) + samples)

    def digests(self) -> dict[str, str | None]:
        """Return a hash of each image's content by its key; ``None`` if it cannot be read."""
        return self._readings.digests(self.samples)

    def content_fingerprint(self) -> str:
        """Return 32 hexadecimal digits that depend on the images' content, too."""
        digests = [f"{key} {digest}" for key, digest in sorted(self.digests().items())]
        return _hashed("\x1e".join([self.fingerprint(), *digests]))

    def audit(self, *, progress: bool = True) -> AuditReport:
        """Return faults of images and labels; reads each image, changes nothing."""
        contents = self.contents(progress=progress)
        return audit(self.samples, self.labels.tolist(), self.class_names, contents)


class Splits(NamedTuple):
    """Parts of a data set: ``train, val, test = dataset.split()``.

    Args:
        train: What the weights are learned from.
        val: What choices are made on (early stopping, calibration). Empty if not asked for.
        test: What the final metrics are measured on; nothing is selected on it. Empty if not asked
            for.
    """

    train: Dataset
    val: Dataset
    test: Dataset

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the keys of each part to a JSON file, whole or not at all, and return its path.

        Raises:
            OutputError: If the file cannot be written.
        """
        keys = {name: part.keys for name, part in self._asdict().items()}
        return write_split_file(path, self.train.class_names, keys)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dataset: Dataset,
        *,
        check: bool = True,
        progress: bool = True,
    ) -> Splits:
        """Return the saved parts of ``dataset``, checked again.

        Args:
            path: A file that `save` has written.
            dataset: The data set that was split.
            check: Whether to look for images in two parts, as `check` does.
            progress: Whether to show a progress bar while images are read.

        Raises:
            ConfigurationError: If ``dataset`` is not a data set.
            SplitError: If the file is not a split file, was made for other classes, names a key
                that is not in the data set or is in two parts, or if the data set has samples that
                are not in the file, or images in two parts.
        """
        check_instance("dataset", dataset, Dataset, "make one with Dataset.from_source(source)")
        content = read_split_file(path)
        if tuple(content["class_names"]) != dataset.class_names:
            raise SplitError(
                f"{path}: the split was made for other classes. Received: "
                f"{few(dataset.class_names)}; saved: {few(content['class_names'])}. Split the data "
                "set again."
            )
        position = {key: index for index, key in enumerate(dataset.keys)}
        listed = [key for name in PARTS for key in content[name]]
        missing = [key for key in listed if key not in position]
        new = sorted(position.keys() - set(listed))
        repeated = len(listed) - len(set(listed))
        if missing or new or repeated:
            raise SplitError(
                f"{path}: a split must name each sample of the data set once. Received: "
                f"{counted(len(missing), 'key')} not in the data set ({few(missing, 3)}), "
                f"{counted(len(new), 'sample')} not in the split ({few(new, 3)}), "
                f"{counted(repeated, 'key')} in two parts. Split the data set again."
            )
        splits = cls(*(dataset.subset([position[key] for key in content[name]]) for name in PARTS))
        if check:
            dataset.contents(progress=progress)  # in one go, with one progress bar
            splits.check(progress=progress)
        return splits

    def overlaps(self, *, progress: bool = True) -> list[Overlap]:
        """Return the pairs of samples in different parts that should not be.

        Those are pairs with one key, one group or one file, and near-duplicates. Images are read
        unless they were read before.
        """
        samples, contents = self._read(progress=progress)
        return find_overlaps(samples, contents, self._of_each(PARTS))

    def check(self, *, progress: bool = True) -> None:
        """Raise an error if `overlaps` finds something.

        Raises:
            SplitError: If there are overlaps; the pairs are listed.
        """
        overlaps = self.overlaps(progress=progress)
        if overlaps:
            raise SplitError(
                f"{len(overlaps)} pairs of samples are in different parts though they are the same "
                f"or nearly: {few(overlaps)}. Split again with Dataset.split, which keeps them "
                "together, or use predefined_split(duplicates='drop')."
            )

    def _read(self, *, progress: bool) -> tuple[list[Sample], list[Content]]:
        """Return the samples of all parts and the inspection of their images."""
        samples = [sample for part in self for sample in part.samples]
        return samples, [each for part in self for each in part.contents(progress=progress)]

    def _of_each(self, values: Sequence[T]) -> list[T]:
        """Return for each sample the value of its part."""
        return [value for value, part in zip(values, self, strict=True) for _ in part.samples]


class Fold(NamedTuple):
    """One round of cross-validation.

    Args:
        train: All samples but those of this fold.
        test: Samples of this fold.
    """

    train: Dataset
    test: Dataset


def as_dataset(value: Dataset | DataSource | str | os.PathLike[str]) -> Dataset:
    """Return a data set as it is, and list a source, a path or a URI."""
    return value if isinstance(value, Dataset) else Dataset.from_source(value)


def _without_overlaps(splits: Splits) -> Splits:
    """Return the parts without images that are in a later part too, and warn of them."""
    samples, contents = splits._read(progress=False)  # noqa: SLF001 - of this module
    part_of = splits._of_each(range(len(PARTS)))  # noqa: SLF001 - likewise
    doubled = in_a_later_part(samples, contents, part_of)
    if doubled:
        _log.warning(
            "%s of train or val are duplicates of one in a later part and are left out: %s",
            counted(len(doubled), "image"),
            few([samples[index].key for index in sorted(doubled)]),
        )
    left_out = {(part_of[index], samples[index].key) for index in doubled}
    return Splits(
        *(
            part.subset([i for i, key in enumerate(part.keys) if (number, key) not in left_out])
            for number, part in enumerate(splits)
        )
    )


def _warn_of_unlearned(splits: Splits) -> None:
    """Name the classes that are in val or test but not in train."""
    learned = splits.train.class_counts()
    tested = np.unique(np.concatenate([splits.val.labels, splits.test.labels]))
    unlearned = [name for name in splits.train.encoder.decode(tested) if not learned[name]]
    if unlearned:
        _log.warning(
            "These classes have images in val or test but none in train, so that they cannot be "
            "learned: %s. Are they spelled differently there?",
            few(unlearned),
        )


def _hashed(text: str) -> str:
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()
