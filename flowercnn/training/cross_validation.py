"""Cross-validation; finished folds are kept on disk, so that a stopped one continues."""

from __future__ import annotations

import logging
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from flowercnn._utils import as_path, check_count, read_arrays, write_arrays
from flowercnn.data import Dataset, Duplicates, Fold, as_dataset
from flowercnn.errors import TrainingError
from flowercnn.evaluation import Evaluation, LabelIssue, evaluate, label_issues, pooled
from flowercnn.models import is_backbone
from flowercnn.sources import DataSource
from flowercnn.training.trainer import Trainer, TrainerSettings, make_trainer

__all__ = ["CrossValidation", "cross_validate"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Result of `cross_validate`.

    Args:
        folds: The evaluation of each fold.
        evaluation: All folds together: every image of the data set, predicted by a classifier
            that has not learned from it.
        interrupted: Whether Ctrl-C ended it early. Then only the images of the finished folds are
            there.
    """

    folds: tuple[Evaluation, ...]
    evaluation: Evaluation
    interrupted: bool = False

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracy of each fold."""
        return tuple(fold.accuracy for fold in self.folds)

    @property
    def mean_accuracy(self) -> float:
        """The mean of the folds' accuracies."""
        return statistics.fmean(self.accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean accuracy: Student's t over the folds, joined with Wilson's.

        It holds both: folds that happen to be alike would else make it as narrow as one likes.
        Folds share training images, so it is a little too narrow all the same (Bengio &
        Grandvalet 2004). Of a single finished fold it is not known: 0 to 1.
        """
        from scipy.stats import t

        count = len(self.folds)
        if count == 1:
            return 0.0, 1.0
        spread = (
            float(t.ppf(0.975, count - 1)) * statistics.stdev(self.accuracies) / math.sqrt(count)
        )
        low, high = self.evaluation.accuracy_interval
        return min(low, max(0.0, self.mean_accuracy - spread)), max(
            high, min(1.0, self.mean_accuracy + spread)
        )

    def label_issues(self) -> list[LabelIssue]:
        """Return the images, most probably wrong labels first; see `label_issues`."""
        return label_issues(self.evaluation)

    def summary(self) -> str:
        """Return the result in one line."""
        low, high = self.interval
        return (
            f"accuracy {self.mean_accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), mean of "
            f"{len(self.folds)} "
            f"folds on {len(self.evaluation)} "
            f"images{', stopped early' if self.interrupted else ''}"
        )


def cross_validate(
    source: DataSource | str | os.PathLike[str],
    *,
    k: int = 5,
    model: Any = "fast",
    seed: int = 0,
    duplicates: Duplicates = "group",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Unpack[TrainerSettings],
) -> CrossValidation:
    """Train ``k`` times, each time without one of ``k`` parts of the data, and test on that part.

    One classifier is in memory at a time, and of each only the probabilities are kept. Ctrl-C ends
    it and returns the finished folds.

    Args:
        source: As in `train`.
        k: How many parts, at least 2.
        model: A registered name or a Keras model; see `Trainer`.
        seed: Of the folds and of every training.
        duplicates: As in `Dataset.split`.
        checkpoint_dir: A folder where each finished fold is kept, and the state of the one under
            way. If it holds those of the same cross-validation, that one is continued, to the same
            result.
        progress: Whether to show progress bars.
        **settings: Other arguments of `Trainer`: ``epochs``, ``batch_size``, ``image_size``, ...

    Raises:
        FlowerCNNError: Whatever the steps raise; see `Dataset.from_source`, `Dataset.folds`,
            `Trainer.fit`.
        TrainingError: If Ctrl-C comes before the first fold is finished, or ``checkpoint_dir`` is
            of another cross-validation.

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> flowers = SyntheticFlowers(per_class=6, num_classes=2)
        >>> found = cross_validate(flowers, k=2, epochs=1, image_size=(32, 32), progress=False)
        >>> len(found.folds), len(found.evaluation), len(found.label_issues())
        (2, 12, 12)
    """
    trainer = make_trainer(cross_validate, model, seed, settings)
    dataset = as_dataset(source)
    folder = None if checkpoint_dir is None else as_path(checkpoint_dir, "checkpoint_dir")
    check_count("k", k, least=2)
    evaluations: list[Evaluation] = []
    interrupted = False
    try:
        dataset.read_images(
            trainer.plan(dataset).preprocessing,
            bad_images=trainer.bad_images,
            inspect=duplicates == "group",
            keep_encoded=is_backbone(model),
            progress=progress,
        )
        folds = dataset.folds(k, seed, duplicates=duplicates, progress=progress)
        for number, fold in enumerate(folds, start=1):
            place = None if folder is None else folder / f"fold-{number}"
            evaluations.append(_tested(trainer, fold, place, progress=progress))
            _log.info("Fold %d of %d: %s", number, k, evaluations[-1].summary())
    except KeyboardInterrupt:
        if not evaluations:
            raise TrainingError(
                f"Stopped by Ctrl-C before the first of {k} folds was finished."
            ) from None
        interrupted = True
        _log.warning("Stopped by Ctrl-C: %d of %d folds are finished.", len(evaluations), k)
    finally:
        dataset.release()
    return CrossValidation(tuple(evaluations), pooled(evaluations), interrupted)


def _tested(trainer: Trainer, fold: Fold, place: Path | None, *, progress: bool) -> Evaluation:
    """Train on a fold and test it; with a place on disk, keep it there, or take it from there."""
    if place is None:
        return _trained_and_tested(trainer, fold, None, progress=progress)
    parts = (trainer.plan(fold.train).fingerprint(fold.train), fold.test.content_fingerprint())
    file, fingerprint = place.with_suffix(".npz"), " ".join(parts)
    evaluation = _kept_evaluation(file, fold.test, fingerprint)
    if evaluation is None:
        evaluation = _trained_and_tested(trainer, fold, place, progress=progress)
        _keep_evaluation(file, evaluation, fingerprint)
    return evaluation


def _trained_and_tested(
    trainer: Trainer, fold: Fold, checkpoint_dir: Path | None, *, progress: bool
) -> Evaluation:
    run = trainer.fit(fold.train, checkpoint_dir=checkpoint_dir, progress=progress)
    if run.interrupted:
        raise KeyboardInterrupt
    return evaluate(run.predictor, fold.test, bad_images=trainer.bad_images, progress=progress)


def _keep_evaluation(path: Path, evaluation: Evaluation, fingerprint: str) -> None:
    """Write the answers of an evaluation to a file, whole or not at all.

    Raises:
        TrainingError: If it cannot be written.
    """
    about = {"fingerprint": fingerprint, "skipped": evaluation.skipped, "info": evaluation.info}
    try:
        write_arrays(path, {"keys": np.array(evaluation.keys), "y_prob": evaluation.y_prob}, about)
    except OSError as error:
        raise TrainingError(
            f"{path}: the fold cannot be kept ({error.strerror or error})."
        ) from error


def _kept_evaluation(path: Path, dataset: Dataset, fingerprint: str) -> Evaluation | None:
    """Return the evaluation on ``dataset`` kept in a file, or ``None`` if there is none.

    Raises:
        TrainingError: If it is of other data or settings, or damaged.
    """
    if not path.exists():
        return None
    try:
        about, arrays = read_arrays(path)
        keys, y_prob = arrays["keys"].tolist(), arrays["y_prob"]
        if about["fingerprint"] != fingerprint:
            raise TrainingError(
                f"{path}: is of other data, settings or seed. Use another checkpoint_dir, or "
                "delete this one."
            )
        place = {key: index for index, key in enumerate(dataset.keys)}
        kept = [place[key] for key in keys]
        return Evaluation(
            class_names=dataset.class_names,
            keys=tuple(keys),
            y_true=dataset.labels[kept],
            y_prob=y_prob,
            skipped=tuple(about["skipped"]),
            samples=tuple(dataset.samples[index] for index in kept),
            info=about["info"],
        )
    except TrainingError:
        raise
    except Exception as error:  # numpy and zipfile raise anything on damaged files
        raise TrainingError(
            f"{path}: damaged ({type(error).__name__}). Delete it to train this fold again."
        ) from error
