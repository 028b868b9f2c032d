"""Data sets and their parts: an immutable, indexed selection of samples with their classes."""

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
from flowercnn.data.split_file import PARTS, read_split_file, write_split_file
from flowercnn.data.splitting import Units, check_fractions, draw_folds, draw_split, draw_units
from flowercnn.errors import ConfigurationError, ImageError, SplitError, counted, few, unusable
from flowercnn.preprocessing import BadImages, Preprocessing
from flowercnn.sources import DataSource, ImageInput, Sample, as_source, declared_class_names

__all__ = ["Dataset", "Duplicates", "Fold", "Splits", "as_dataset"]

Duplicates = Literal["group", "ignore"]
"""What a split does about duplicates: keep them together, or not look for them."""

T = TypeVar("T")


_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples with their classes; made by `Dataset.from_source`, divided by `split`.

    A data set is itself a source. It holds references to pictures, never their pixels.

    Args:
        samples: The samples in order, each with a label.
        encoder: The mapping of class names to labels, shared by every part of a data set.

    Example:
        >>> import numpy as np
        >>> from flowercnn import Dataset, InMemory
        >>> pictures = np.zeros((4, 8, 8, 3), dtype=np.uint8)
        >>> dataset = Dataset.from_source(InMemory(pictures, ["rose", "daisy", "rose", "daisy"]))
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
        """List a source once and fix its classes.

        The class order is ``class_names`` if given, else the order the source declares, else sorted names.

        Args:
            source: A source, the path of a folder, an archive or a table, or a URI such as
                ``"tensorbay:Flower17-1"``; see `flowercnn.sources.as_source`.
            class_names: All classes in the order wanted, those without a sample included.
            unlabelled: What to do with samples whose label is ``None``: raise an error or leave them out.

        Raises:
            ConfigurationError: If ``source`` is no source, or the class names are not distinct strings.
            DataError: If there is no sample, a key occurs twice, or a sample has no label.
            UnknownNameError: If a label is not among the declared class names.
        """
        check_choice("unlabelled", unlabelled, ("error", "skip"))
        source = as_source(source)
        labelled = list_labelled(source, skip_unlabelled=unlabelled == "skip")
        declared = declared_class_names(source) if class_names is None else check_class_names(class_names)
        names = [sample.label for sample in labelled if sample.label is not None]
        dataset = cls(labelled, LabelEncoder.fit(names) if declared is None else LabelEncoder(declared))
        dataset.labels  # noqa: B018 - a label that is no class is found now, not in the middle of training
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
        return self.subset(range(len(self))[index]) if isinstance(index, slice) else self.samples[index]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} samples, {self.num_classes} classes: {few(self.class_names, 5)})"

    def _repr_html_(self) -> str:
        counts = self.class_counts()
        most = max(counts.values(), default=0) or 1
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{count}</td><td style='text-align:left'>"
            f"<progress value='{count}' max='{most}' aria-label='{count} pictures'></progress></td></tr>"
            for name, count in counts.items()
        )
        return (
            f"<p><strong>{len(self)}</strong> samples of {self.num_classes} classes</p>"
            f"<details><summary>Classes</summary><table><tbody>{rows}</tbody></table></details>"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; the label of a class is its place here."""
        return self.encoder.class_names

    @property
    def num_classes(self) -> int:
        """How many classes there are, those without a sample included."""
        return len(self.encoder.class_names)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each sample, in order."""
        return tuple(sample.key for sample in self.samples)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """The label of each sample, shape (n,), int64 from 0 to ``num_classes - 1``, read-only."""
        labels = self.encoder.encode([sample.label or "" for sample in self.samples])
        labels.setflags(write=False)
        return labels

    @property
    def has_splits(self) -> bool:
        """Whether every sample comes with a part its owner has put it in (official splits)."""
        return bool(self.samples) and all(sample.split is not None for sample in self.samples)

    def class_counts(self) -> dict[str, int]:
        """Return the number of samples of each class, zeros included, in class order."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Dataset:
        """Return the samples at ``indices``, in that order, with the same classes.

        Args:
            indices: Positions (int), or a mask of one bool per sample.

        Raises:
            ConfigurationError: If a position is out of range or named twice, or the mask has another length.
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
            raise ConfigurationError(
                f"indices must be from 0 to {len(self) - 1}. Received: {chosen.min()} to {chosen.max()}"
            )
        if len(np.unique(chosen)) != chosen.size:
            raise ConfigurationError("indices must not name a sample twice. Received: repeated positions")
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
        """Draw train, val and test: stratified by class, nothing on two sides, the same for the same seed.

        Groups are kept whole, and so are copies of a picture: the same file, or nearly the same picture
        (recompressed, resized, brightened, slightly cropped). To find those, every picture is read once and decoded
        small; the data set and its parts remember the result. Blank pictures, and those that cannot be decoded, have
        no copies.

        Args:
            val: Share of each class for ``val``, from 0 to below 1; 0 leaves it empty.
            test: Share of each class for ``test``, likewise.
            seed: Which of the possible splits.
            duplicates: ``"group"`` to keep copies together, ``"ignore"`` to read no picture.
            progress: Whether to show a progress bar while pictures are read.

        Returns:
            Three data sets with the same classes; each class is in each part asked for.

        Raises:
            ConfigurationError: If an argument is out of range.
            SplitError: If a class is too small, or its groups too large, to be in every part.
        """
        check_fractions(val, test)
        units = self._units(seed, duplicates, progress=progress)
        return Splits(*map(self.subset, draw_split(units, self.labels, self.class_names, val=val, test=test)))

    def predefined_split(
        self,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        *,
        duplicates: Literal["error", "drop", "ignore"] = "error",
        progress: bool = True,
    ) -> Splits:
        """Return the parts the owner of the data has made (`Sample.split`).

        Where the owner has made no ``val`` or no ``test``, the share of each class is drawn from ``train``. Classes
        that only ``val`` or ``test`` have pictures of are named in a warning.

        Args:
            val: Share of each class for ``val`` where the owner has made none; 0 leaves it empty.
            test: Share of each class for ``test``, likewise.
            seed: As in `split`.
            duplicates: What to do about pictures that are in two of the owner's parts, as `Splits.overlaps` finds
                them: ``"error"``; ``"drop"`` to leave them out of ``train`` (or ``val``) and keep them in ``test``;
                ``"ignore"`` to read no picture.
            progress: Whether to show a progress bar while pictures are read.

        Raises:
            SplitError: If a sample has no part, there is no train, or pictures are in two parts (all are listed).
        """
        check_choice("duplicates", duplicates, ("error", "drop", "ignore"))
        check_fractions(val, test)
        if not self.has_splits:
            raise SplitError("Not every sample has a predefined part (Sample.split); draw one with split().")
        if duplicates != "ignore":
            self.contents(progress=progress)
        parts = np.array([sample.split for sample in self.samples])
        splits = Splits(*(self.subset(parts == name) for name in ("train", "val", "test")))
        if duplicates != "ignore":
            splits = _without_overlaps(splits, drop=duplicates == "drop")
        if not len(splits.train):
            raise SplitError("The predefined parts have no train; draw a split with split().")
        val, test = (0.0 if len(part) else share for part, share in ((splits.val, val), (splits.test, test)))
        if val or test:
            mode: Duplicates = "ignore" if duplicates == "ignore" else "group"
            drawn = splits.train.split(val=val, test=test, seed=seed, duplicates=mode, progress=progress)
            splits = Splits(drawn.train, drawn.val if val else splits.val, drawn.test if test else splits.test)
        _warn_of_unlearned(splits)
        return splits

    def folds(self, k: int, seed: int = 0, *, duplicates: Duplicates = "group", progress: bool = True) -> list[Fold]:
        """Return ``k`` pairs of train and test for cross-validation; every sample is in one test.

        Groups and copies of a picture are kept together, as in `split`.

        Raises:
            ConfigurationError: If ``k`` is not an int of at least 2, or another argument is out of range.
            SplitError: If a class has fewer samples than ``k``.
        """
        units = self._units(seed, duplicates, progress=progress)
        folds = draw_folds(units, self.labels, self.class_names, k=k)
        everything = np.arange(len(self))
        return [Fold(self.subset(np.setdiff1d(everything, fold)), self.subset(fold)) for fold in folds]

    def load(
        self, preprocessing: Preprocessing, *, bad_images: BadImages = "error", progress: bool = True
    ) -> LoadedImages:
        """Return the images at one size, decoded once: parts of one data set share what was decoded.

        Args:
            preprocessing: How they become pixels. Within its ``memory_limit`` they are kept in memory, otherwise in a
                cache on disk, until `release` or another preprocessing.
            bad_images: ``"error"``: one error that names all images that cannot be decoded; ``"skip"``: leave
                them out.
            progress: Whether to show a progress bar.

        Raises:
            ImageError: If images cannot be decoded, or all were to be skipped.
            SourceError: If an image cannot be fetched, or the cache cannot be written.
        """
        self.read_images(preprocessing, bad_images=bad_images, progress=progress)
        errors = self._readings.errors(self.samples, preprocessing)
        kept = np.array([i for i, sample in enumerate(self.samples) if sample.key not in errors], dtype=np.int64)
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
        """Read every image once, for all that follows: `split`, `load` and `decode_each` find it read.

        Args:
            preprocessing: As in `load`.
            bad_images: As in `load`.
            inspect: Whether `split` and `audit` will want what `contents` returns.
            keep_encoded: Whether the images will be decoded in other ways, too; they are kept until `release`.
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

    def decode_each(self, preprocessing: Preprocessing) -> Iterator[npt.NDArray[np.uint8] | ImageError]:
        """Yield the pixels of each image in order, or why it cannot be decoded, in bounded memory.

        What `load` has decoded is taken from there.
        """
        return self._readings.stream(self.samples, preprocessing)

    def encoded(self, index: int) -> ImageInput:
        """Return an image as it can be decoded: as `read_images` has kept it, or as the sample has it."""
        return self._readings.image(self.samples[index])

    def release(self) -> None:
        """Forget decoded and encoded images, of this data set and of all its parts."""
        self._readings.release()

    def contents(self, *, progress: bool = True) -> tuple[Content, ...]:
        """Return what an inspection of each image finds (hash, size, thumbnail, errors), in order.

        The images are read at the first call; the data set and its parts remember the result.
        """
        return self._readings.contents(self.samples, progress=progress)

    def known_contents(self) -> tuple[Content, ...] | None:
        """Return what `contents` has found before, or ``None``: nothing is read now."""
        return self._readings.known_contents(self.samples)

    def _units(self, seed: int, duplicates: Duplicates, *, progress: bool) -> Units:
        """Samples that stay together, in the order in which they are drawn."""
        check_choice("duplicates", duplicates, get_args(Duplicates))
        check_seed(seed)
        contents = self.contents(progress=progress) if duplicates == "group" else None
        return draw_units(*names_and_links(self.samples, contents), seed)

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that change when a key, a label or a class does, not with the order."""
        digest = hashlib.blake2b("\x1f".join(self.class_names).encode("utf-8", "surrogatepass"), digest_size=16)
        for key, label in sorted(zip(self.keys, self.labels.tolist(), strict=True)):
            digest.update(f"\x1e{key}\x1f{label}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def digests(self) -> dict[str, str | None]:
        """Return a hash of the content of each image by its key; ``None`` for one that cannot be read."""
        return self._readings.digests(self.samples)

    def content_fingerprint(self) -> str:
        """Return 32 hexadecimal digits that change as `fingerprint` does, and with the content of a picture, too."""
        text = "\x1e".join(
            [self.fingerprint(), *(f"{key} {digest}" for key, digest in sorted(self.digests().items()))]
        )
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def audit(self, *, progress: bool = True) -> AuditReport:
        """Return what is wrong with the pictures and their labels; reads every file, changes none."""
        contents = self.contents(progress=progress)
        return audit(self.samples, self.labels.tolist(), self.class_names, contents)


def as_dataset(value: Dataset | DataSource | str | os.PathLike[str]) -> Dataset:
    """Return what users pass where a data set is wanted as a `Dataset`: a source, a path or a URI is listed."""
    return value if isinstance(value, Dataset) else Dataset.from_source(value)


def _without_overlaps(splits: Splits, *, drop: bool) -> Splits:
    """Return the parts without pictures that are in a later part too, or refuse them."""
    if not drop:
        splits.check(progress=False)
        return splits
    samples, contents = splits._read(progress=False)  # noqa: SLF001 - of this module
    doubled = in_a_later_part(samples, contents, splits._of_each(range(len(PARTS))))  # noqa: SLF001
    if doubled:
        _log.warning(
            "%s of train or val are the same or nearly as one in a later part and are left out: %s",
            counted(len(doubled), "image"),
            few([samples[index].key for index in sorted(doubled)]),
        )
    first = [0, len(splits.train), len(splits.train) + len(splits.val)]
    kept = [
        part.subset([index for index in range(len(part)) if start + index not in doubled])
        for start, part in zip(first, splits, strict=True)
    ]
    return Splits(*kept)


def _warn_of_unlearned(splits: Splits) -> None:
    """Name the classes that are in val or test but not in train, of which nothing can be learned."""
    counts = splits.train.class_counts()
    asked = {name for part in (splits.val, splits.test) for name, count in part.class_counts().items() if count}
    unlearned = [name for name in splits.train.class_names if name in asked and not counts[name]]
    if unlearned:
        _log.warning(
            "These classes have pictures in val or test but none in train, so that they cannot be learned: %s. Are "
            "they spelled otherwise there?",
            few(unlearned),
        )


class Splits(NamedTuple):
    """The three parts of a data set: ``train, val, test = dataset.split()``.

    Args:
        train: What the weights are learned from.
        val: What choices are made on (early stopping, calibration). Empty if not asked for.
        test: What the final figure is measured on; nothing is ever selected on it. Empty if not asked for.
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
        cls, path: str | os.PathLike[str], dataset: Dataset, *, check: bool = True, progress: bool = True
    ) -> Splits:
        """Return the saved parts of ``dataset``, checked again.

        Args:
            path: A file that `save` has written.
            dataset: The data set that was split.
            check: Whether to look for pictures in two parts, as `check` does.
            progress: Whether to show a progress bar while pictures are read.

        Raises:
            ConfigurationError: If ``dataset`` is none.
            SplitError: If the file is no split file, names keys the data set has not, puts one key in two parts,
                or was made for other classes, or if a picture is in two parts. Samples that are new since then are an
                error too: split again.
        """
        check_instance("dataset", dataset, Dataset, "make one with Dataset.from_source(source)")
        content = read_split_file(path)
        if tuple(content["class_names"]) != dataset.class_names:
            raise SplitError(
                f"{path}: the split was made for other classes. Received: {few(dataset.class_names)}; "
                f"saved: {few(content['class_names'])}. Split the data set again."
            )
        position = {key: index for index, key in enumerate(dataset.keys)}
        listed = [key for name in PARTS for key in content[name]]
        missing = [key for key in listed if key not in position]
        new = sorted(position.keys() - set(listed))
        twice = len(listed) - len(set(listed))
        if missing or new or twice:
            raise SplitError(
                f"{path}: a split must name every sample of the data set once. Received: {len(missing)} keys the "
                f"data set has not ({few(missing, 3)}), {len(new)} samples the split has not ({few(new, 3)}), "
                f"{twice} keys in two parts. Split the data set again."
            )
        if check:
            dataset.contents(progress=progress)  # now: the parts know then what was read
        splits = cls(*(dataset.subset([position[key] for key in content[name]]) for name in PARTS))
        if check:
            splits.check(progress=progress)
        return splits

    def overlaps(self, *, progress: bool = True) -> list[Overlap]:
        """Return the pairs of samples in different parts with one key, one group, one file, or nearly one picture.

        Pictures are read if the data set has not read them yet.
        """
        samples, contents = self._read(progress=progress)
        return find_overlaps(samples, contents, self._of_each(PARTS))

    def _read(self, *, progress: bool) -> tuple[list[Sample], list[Content]]:
        """Return the samples of all parts and what was found in their images."""
        samples = [sample for part in self for sample in part.samples]
        return samples, [content for part in self for content in part.contents(progress=progress)]

    def _of_each(self, values: Sequence[T]) -> list[T]:
        """Return the value of its part for each sample."""
        return [value for value, part in zip(values, self, strict=True) for _ in part.samples]

    def check(self, *, progress: bool = True) -> None:
        """Make sure that nothing is on two sides.

        Raises:
            SplitError: If something is; the pairs are listed.
        """
        found = self.overlaps(progress=progress)
        if found:
            raise SplitError(
                f"{len(found)} pairs of samples are in different parts though they are the same or nearly: "
                f"{few(found)}. Split again with Dataset.split, which keeps them together."
            )


class Fold(NamedTuple):
    """One turn of a cross-validation.

    Args:
        train: All samples but this fold's.
        test: This fold's samples.
    """

    train: Dataset
    test: Dataset
