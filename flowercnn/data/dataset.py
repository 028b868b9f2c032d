"""What is learned from: an immutable, indexed selection of samples with their classes. Reads no pixels."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_seed
from flowercnn.data.labels import LabelEncoder
from flowercnn.data.splitting import Fold, Splits, Units, check_fractions, draw_folds, draw_split, draw_units
from flowercnn.errors import ConfigurationError, DataError, SplitError, few
from flowercnn.sources import DataSource, Sample, checked_class_names, declared_class_names

if TYPE_CHECKING:
    from flowercnn.data.audit import AuditReport
    from flowercnn.data.inspection import Content

__all__ = ["Dataset", "Duplicates"]

Duplicates = Literal["group", "ignore"]
"""What a split does about copies of a picture: keep them together, or not look for them."""

_CONTENTS = "_contents"

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

    @classmethod
    def from_source(
        cls,
        source: DataSource,
        *,
        class_names: Sequence[str] | None = None,
        unlabelled: Literal["error", "skip"] = "error",
    ) -> Dataset:
        """List a source once and fix its classes.

        The class order is ``class_names`` if given, else the order the source declares, else sorted names.

        Args:
            source: Any object that yields `Sample` objects.
            class_names: All classes in the order wanted, those without a sample included.
            unlabelled: What to do with samples whose label is ``None``: raise an error or leave them out.

        Raises:
            ConfigurationError: If ``source`` is no source, or the class names are not distinct strings.
            DataError: If there is no sample, a key occurs twice, or a sample has no label.
            UnknownNameError: If a label is not among the declared class names.
        """
        if unlabelled not in ("error", "skip"):
            raise ConfigurationError(f"unlabelled must be 'error' or 'skip'. Received: unlabelled={unlabelled!r}")
        samples = list(_checked(source))
        nameless = [sample.key for sample in samples if sample.label is None]
        if nameless and unlabelled == "error":
            raise DataError(
                f"{len(nameless)} of {len(samples)} samples have no label: {few(nameless)}. "
                "Label them, or leave them out with unlabelled='skip'."
            )
        labelled = tuple(sample for sample in samples if sample.label is not None)
        if not labelled:
            raise DataError(f"The source has no {'labelled ' if samples else ''}samples. Received: {source!r}")
        _refuse_repeated_keys(labelled)
        declared = declared_class_names(source) if class_names is None else checked_class_names(class_names)
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
        if _CONTENTS in self.__dict__:
            part.__dict__[_CONTENTS] = tuple(self.__dict__[_CONTENTS][index] for index in chosen)
        return part

    def split(
        self,
        val: float = 0.2,
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
        val: float = 0.2,
        seed: int = 0,
        *,
        test: float = 0.0,
        duplicates: Literal["error", "drop", "ignore"] = "error",
        progress: bool = True,
    ) -> Splits:
        """Return the parts the owner of the data has made (`Sample.split`).

        Where the owner has made no ``val`` or no ``test``, the share of each class is drawn from ``train``. Classes
        that only ``val`` or ``test`` have pictures of are named in a warning.

        Args:
            val: As in `split`.
            seed: As in `split`.
            test: Likewise, where there is no ``test``.
            duplicates: What to do about pictures that are in two of the owner's parts, as `Splits.overlaps` finds
                them: ``"error"``; ``"drop"`` to leave them out of ``train`` (or ``val``) and keep them in ``test``;
                ``"ignore"`` to read no picture.
            progress: Whether to show a progress bar while pictures are read.

        Raises:
            SplitError: If a sample has no part, there is no train, or pictures are in two parts (all are listed).
        """
        if duplicates not in ("error", "drop", "ignore"):
            raise ConfigurationError(
                f"duplicates must be 'error', 'drop' or 'ignore'. Received: duplicates={duplicates!r}"
            )
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

    def contents(self, *, progress: bool = True) -> tuple[Content, ...]:
        """Return what one reading of each picture tells (hash, size, thumbnail, errors), in order.

        The pictures are read at the first call; the data set and the parts made of it afterwards remember the result.
        """
        if _CONTENTS not in self.__dict__:
            from flowercnn.data.inspection import read_contents

            self.__dict__[_CONTENTS] = read_contents(self.samples, description="Comparing", progress=progress)
        contents: tuple[Content, ...] = self.__dict__[_CONTENTS]
        return contents

    def known_contents(self) -> tuple[Content, ...] | None:
        """Return what `contents` has read before, or ``None``: nothing is read now."""
        known: tuple[Content, ...] | None = self.__dict__.get(_CONTENTS)
        return known

    def _units(self, seed: int, duplicates: Duplicates, *, progress: bool) -> Units:
        """Samples that stay together, in the order in which they are drawn."""
        if duplicates not in get_args(Duplicates):
            raise ConfigurationError(f"duplicates must be 'group' or 'ignore'. Received: duplicates={duplicates!r}")
        check_seed(seed)
        from flowercnn.data.grouping import names_and_links

        contents = self.contents(progress=progress) if duplicates == "group" else None
        return draw_units(*names_and_links(self.samples, contents), seed)

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that change when a key, a label or a class does, not with the order."""
        digest = hashlib.blake2b("\x1f".join(self.class_names).encode("utf-8", "surrogatepass"), digest_size=16)
        for key, label in sorted(zip(self.keys, self.labels.tolist(), strict=True)):
            digest.update(f"\x1e{key}\x1f{label}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def digests(self) -> dict[str, str | None]:
        """Return a hash of the content of each picture by its key; ``None`` for one that cannot be read.

        For that every picture is read, unless an audit or a split has done so.
        """
        from flowercnn.data.inspection import read_digests

        if _CONTENTS in self.__dict__:
            return dict(zip(self.keys, (content.digest for content in self.contents()), strict=True))
        return dict(zip(self.keys, read_digests(self.samples), strict=True))

    def content_fingerprint(self) -> str:
        """Return 32 hexadecimal digits that change as `fingerprint` does, and with the content of a picture, too."""
        text = "\x1e".join(
            [self.fingerprint(), *(f"{key} {digest}" for key, digest in sorted(self.digests().items()))]
        )
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def audit(self, *, progress: bool = True) -> AuditReport:
        """Return what is wrong with the pictures and their labels; reads every file, changes none."""
        from flowercnn.data.audit import audit

        return audit(self, progress=progress)


def _checked(source: DataSource) -> Iterator[Sample]:
    """Yield the samples of a source, with a sentence for its author if it is none."""
    if isinstance(source, (str, bytes)) or not isinstance(source, DataSource):
        raise ConfigurationError(
            "source must be an object that yields flowercnn.Sample, such as flowercnn.ImageFolder('photos'). "
            f"Received: {type(source).__name__} {source!r}"
        )
    for sample in source:
        if not isinstance(sample, Sample):
            raise ConfigurationError(
                f"A source must yield flowercnn.Sample(key, label, image). "
                f"Received from {type(source).__name__}: {type(sample).__name__}"
            )
        yield sample


def _without_overlaps(splits: Splits, *, drop: bool) -> Splits:
    """Return the parts without pictures that are in a later part too, or refuse them."""
    if not drop:
        splits.check(progress=False)
        return splits
    from flowercnn.data.grouping import overlapping

    doubled = overlapping(splits)
    if any(doubled):
        _log.warning(
            "%d pictures of train or val are the same or nearly as one in a later part and are left out: %s",
            sum(map(len, doubled)),
            few(
                [part.keys[index] for part, indices in zip(splits, doubled, strict=True) for index in sorted(indices)]
            ),
        )
    kept = [
        part.subset([index for index in range(len(part)) if index not in indices])
        for part, indices in zip(splits, doubled, strict=True)
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


def _refuse_repeated_keys(samples: Sequence[Sample]) -> None:
    if len({sample.key for sample in samples}) == len(samples):
        return
    repeated = [f"{key!r} ({n} times)" for key, n in Counter(sample.key for sample in samples).items() if n > 1]
    raise DataError(f"Every key must be unique. Received: {len(repeated)} repeated keys: {few(repeated)}")
