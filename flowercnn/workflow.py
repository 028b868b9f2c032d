"""The whole workflow: the steps in order. Who has read this has understood the library."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from flowercnn.atomic import as_path, can_be_written
from flowercnn.dataset import Dataset, Duplicates
from flowercnn.errors import ConfigurationError, FlowerCNNError, SplitError, TrainingError, closest, few
from flowercnn.evaluation.evaluation import Evaluation, evaluate, pooled
from flowercnn.evaluation.kept import keep_evaluation, kept_evaluation
from flowercnn.evaluation.labels import LabelIssue, label_issues
from flowercnn.models.backbones import is_backbone
from flowercnn.prediction.calibrate import calibrate
from flowercnn.prediction.modelfile import check_can_be_saved
from flowercnn.prediction.predictor import Predictor
from flowercnn.sources.base import DataSource
from flowercnn.sources.plugins import as_source
from flowercnn.splits import Fold, Splits, check_fractions
from flowercnn.training.auto import choose_trainer
from flowercnn.training.run import TrainingRun
from flowercnn.training.settings import TrainerSettings
from flowercnn.training.trainer import Trainer

__all__ = ["CrossValidation", "cross_validate", "train"]

_log = logging.getLogger(__name__)


def train(  # noqa: PLR0913 - the whole workflow in one call
    source: DataSource | str | os.PathLike[str],
    *,
    model: Any = "fast",
    out: str | os.PathLike[str] | None = None,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    duplicates: Duplicates = "group",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    callbacks: Iterable[Any] = (),
    progress: bool = True,
    **settings: Unpack[TrainerSettings],
) -> TrainingRun:
    """Turn pictures into a trained, tested, saved classifier.

    List the source, split it, train on ``train`` while watching ``val``, calibrate on ``val``, save, and measure once
    on ``test``.

    Args:
        source: A source, the path of a folder, or a URI such as ``"tensorbay:Flower17-1"``.
        model: A registered name or a Keras model; see `Trainer`. ``"auto"``: what does best in cross-validation on
            ``train``, from scratch or on pretrained weights at hand, within ``time_budget``; ``run.notes`` says why.
        out: Where to save the model (``.keras`` or ``.h5``), or ``None``.
        val: Share of each class to watch while training.
        test: Share of each class kept for the final figure. Where every sample has a predefined part, the parts are
            those, and ``val`` and ``test`` are only drawn where they have none. Where only some have one, that is an
            error.
        seed: Of the split and the training.
        duplicates: ``"group"`` keeps copies of a picture on one side, as `Dataset.split` does; where the parts are
            predefined, pictures that are in a later part too are left out of the earlier one, with a warning.
            ``"ignore"`` looks for none.
        checkpoint_dir: As in `Trainer.fit`.
        callbacks: As in `Trainer.fit`.
        progress: Whether to show progress bars.
        **settings: Other arguments of `Trainer`: ``epochs``, ``batch_size``, ``image_size``, ``learning_rate``, ...

    Returns:
        The run, with ``predictor``, ``history``, ``splits`` and, if there is a test part, ``evaluation``.

    Raises:
        FlowerCNNError: Whatever the steps raise; see `Dataset.from_source`, `Dataset.split`, `Trainer.fit`.

    Example:
        >>> from flowercnn import SyntheticFlowers, train
        >>> run = train(SyntheticFlowers(per_class=10, num_classes=2), image_size=(32, 32), epochs=2, progress=False)
        >>> len(run.evaluation), len(run.history)
        (4, 2)
    """
    check_fractions(val, test)
    _check_places(out, checkpoint_dir)
    automatic = model == "auto" if isinstance(model, str) else False
    trainer = _make_trainer(train, "fast" if automatic else model, seed, settings)
    dataset = Dataset.from_source(as_source(source))
    if out is not None and not automatic:
        _check_can_be_saved(trainer, dataset)
    splits = _split(dataset, val=val, test=test, seed=seed, duplicates=duplicates, progress=progress)
    _refuse_bad_images(dataset, splits, trainer, read=duplicates == "group", progress=progress)
    reason: tuple[str, ...] = ()
    if automatic:
        trainer, why = choose_trainer(splits.train, seed=seed, settings=settings, progress=progress)
        reason = (why,)
    run = trainer.fit(splits.train, splits.val, checkpoint_dir=checkpoint_dir, callbacks=callbacks, progress=progress)
    parts = {name: part.fingerprint() for name, part in splits._asdict().items()}
    run = dataclasses.replace(run, predictor=run.predictor.with_info(fingerprints=parts))
    with _kept(run.predictor, out):
        if len(splits.val):
            calibrated = calibrate(
                run.predictor, splits.train, splits.val, bad_images=trainer.bad_images, progress=progress
            )
            run = dataclasses.replace(run, predictor=calibrated)
    with _kept(run.predictor, out):
        if out is not None:
            run.predictor.save(out)  # before the test, so that nothing can lose what was learned
        evaluation = None
        if len(splits.test):
            evaluation = evaluate(run.predictor, splits.test, bad_images=trainer.bad_images, progress=progress)
            audited = dataset.audit(progress=progress) if duplicates == "group" else None  # its pictures were read
            evaluation = dataclasses.replace(evaluation, history=run.history.to_dict(), audit=audited)
            _log.info("Test: %s", evaluation.summary())
            metrics = {"accuracy": evaluation.accuracy, "accuracy_interval": list(evaluation.accuracy_interval)}
            tested = run.predictor.with_info(test={**metrics, "samples": len(evaluation)})
            run = dataclasses.replace(run, predictor=tested)
            if out is not None:
                tested.save(out)
    return dataclasses.replace(run, splits=splits, evaluation=evaluation, notes=(*reason, *run.notes))


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What `cross_validate` found.

    Args:
        folds: The evaluation of each fold.
        evaluation: All folds together: every picture of the data set, predicted by a classifier that has not learned
            from it.
        interrupted: Whether Ctrl-C ended it early. Then only the pictures of the finished folds are there.
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
        """Where that mean lies at 95 %: Student's t over the folds, and the Wilson interval of all pictures together.

        It holds both: folds that happen to be alike would else make it as narrow as one likes. Folds share training
        pictures, so it is a little too narrow all the same (Bengio & Grandvalet 2004). Of a single finished fold it
        is not known: 0 to 1.
        """
        from scipy.stats import t

        count = len(self.folds)
        if count == 1:
            return 0.0, 1.0
        spread = float(t.ppf(0.975, count - 1)) * statistics.stdev(self.accuracies) / math.sqrt(count)
        low, high = self.evaluation.accuracy_interval
        return min(low, max(0.0, self.mean_accuracy - spread)), max(high, min(1.0, self.mean_accuracy + spread))

    def label_issues(self) -> list[LabelIssue]:
        """Return the pictures, those first whose label is most probably wrong; see `label_issues`."""
        return label_issues(self.evaluation)

    def summary(self) -> str:
        """Return the result in one line."""
        low, high = self.interval
        return (
            f"accuracy {self.mean_accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), mean of {len(self.folds)} "
            f"folds on {len(self.evaluation)} pictures{', stopped early' if self.interrupted else ''}"
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

    One classifier is in memory at a time, and of each only the probabilities are kept. Ctrl-C ends it and returns the
    finished folds.

    Args:
        source: As in `train`.
        k: How many parts, at least 2.
        model: A registered name or a Keras model; see `Trainer`.
        seed: Of the folds and of every training.
        duplicates: As in `Dataset.split`.
        checkpoint_dir: A folder where each finished fold is kept, and the state of the one under way. If it holds
            those of the same cross-validation, that one is continued, to the same result.
        progress: Whether to show progress bars.
        **settings: Other arguments of `Trainer`: ``epochs``, ``batch_size``, ``image_size``, ...

    Raises:
        FlowerCNNError: Whatever the steps raise; see `Dataset.from_source`, `Dataset.folds`, `Trainer.fit`.
        TrainingError: If Ctrl-C comes before the first fold is finished, or ``checkpoint_dir`` is of another
            cross-validation.

    Example:
        >>> from flowercnn import SyntheticFlowers
        >>> flowers = SyntheticFlowers(per_class=6, num_classes=2)
        >>> found = cross_validate(flowers, k=2, epochs=1, image_size=(32, 32), progress=False)
        >>> len(found.folds), len(found.evaluation), len(found.label_issues())
        (2, 12, 12)
    """
    trainer = _make_trainer(cross_validate, model, seed, settings)
    dataset = Dataset.from_source(as_source(source))
    folder = None if checkpoint_dir is None else as_path(checkpoint_dir, "checkpoint_dir")
    evaluations: list[Evaluation] = []
    interrupted = False
    try:
        for number, fold in enumerate(dataset.folds(k, seed, duplicates=duplicates, progress=progress), start=1):
            place = None if folder is None else folder / f"fold-{number}"
            evaluations.append(_tested(trainer, fold, place, progress=progress))
            _log.info("Fold %d of %d: %s", number, k, evaluations[-1].summary())
    except KeyboardInterrupt:
        if not evaluations:
            raise TrainingError(f"Stopped by Ctrl-C before the first of {k} folds was finished.") from None
        interrupted = True
        _log.warning("Stopped by Ctrl-C: %d of %d folds are finished.", len(evaluations), k)
    return CrossValidation(tuple(evaluations), pooled(evaluations), interrupted)


def _tested(trainer: Trainer, fold: Fold, place: Path | None, *, progress: bool) -> Evaluation:
    """Train on a fold and test it; with a place on disk, keep it there, or take it from there."""
    if place is None:
        return _trained_and_tested(trainer, fold, None, progress=progress)
    parts = (trainer.fingerprint(fold.train), fold.test.content_fingerprint())
    file, fingerprint = place.with_suffix(".npz"), " ".join(parts)
    evaluation = kept_evaluation(file, fold.test, fingerprint)
    if evaluation is None:
        evaluation = _trained_and_tested(trainer, fold, place, progress=progress)
        keep_evaluation(file, evaluation, fingerprint)
    return evaluation


def _trained_and_tested(trainer: Trainer, fold: Fold, checkpoint_dir: Path | None, *, progress: bool) -> Evaluation:
    run = trainer.fit(fold.train, checkpoint_dir=checkpoint_dir, progress=progress)
    if run.interrupted:
        raise KeyboardInterrupt
    return evaluate(run.predictor, fold.test, bad_images=trainer.bad_images, progress=progress)


def _make_trainer(caller: Callable[..., Any], model: Any, seed: int, settings: TrainerSettings) -> Trainer:
    fields = {field.name for field in dataclasses.fields(Trainer)}
    known = sorted((fields | set(inspect.signature(caller).parameters)) - {"settings"})
    for name in settings:
        if name not in fields:
            raise ConfigurationError(
                f"{caller.__name__} has no argument {name!r}.{closest(name, known)} Known: {', '.join(known)}."
            )
    return Trainer(model, seed=seed, **settings)


def _refuse_bad_images(dataset: Dataset, splits: Splits, trainer: Trainer, *, read: bool, progress: bool) -> None:
    """Find bad pictures before hours of training: those of test, and all where they have been read.

    Raises:
        ImageError: If there are any, and they are not to be left out.
    """
    wanted = {sample.key: sample for sample in splits.test}
    if read and trainer.bad_images == "error":
        contents = dataset.contents(progress=progress)
        wanted |= {
            each.key: each for each, content in zip(dataset, contents, strict=True) if content.error is not None
        }
    if wanted:
        preprocessing = trainer.resolved_preprocessing()
        preprocessing.load(list(wanted.values()), bad_images=trainer.bad_images, progress=progress)


@contextmanager
def _kept(predictor: Predictor, out: str | os.PathLike[str] | None) -> Iterator[None]:
    """Save what was learned if something fails after the training, and say in a note of the error where it is."""
    try:
        yield
    except BaseException as error:
        with suppress(FlowerCNNError):
            error.add_note(f"What was learned is in {_rescued(predictor, out)}")
        raise


def _rescued(predictor: Predictor, out: str | os.PathLike[str] | None) -> Path:
    """Save a predictor to ``out``, or where that fails to the folder for temporary files, and return the path."""
    if out is not None:
        with suppress(FlowerCNNError):
            return predictor.save(out)
    return predictor.save(Path(tempfile.mkdtemp(prefix="flowercnn-")) / "model.keras")


def _split(dataset: Dataset, *, val: float, test: float, seed: int, duplicates: Duplicates, progress: bool) -> Splits:
    without = [sample.key for sample in dataset if sample.split is None]
    if 0 < len(without) < len(dataset):  # parts drawn anew would put the owner's test pictures into train
        raise SplitError(
            f"Either every sample must have a predefined part (Sample.split) or none. Received: {len(without)} of "
            f"{len(dataset)} samples without one: {few(without)}. Give each a part, or leave the parts out of the "
            "source (such as split=), so that parts are drawn."
        )
    if dataset.has_splits:
        _log.info("Using the predefined parts of the data.")
        mode: Literal["drop", "ignore"] = "drop" if duplicates == "group" else "ignore"
        return dataset.predefined_split(val=val, test=test, seed=seed, duplicates=mode, progress=progress)
    return dataset.split(val=val, test=test, seed=seed, duplicates=duplicates, progress=progress)


def _check_can_be_saved(trainer: Trainer, dataset: Dataset) -> None:
    """Find out before hours of training that the network could not be saved; those of the library can."""
    if not is_backbone(trainer.model):
        check_can_be_saved(trainer.untrained(dataset.num_classes), dataset.class_names)
    elif (own := trainer.model_options.get("backbone")) is not None:
        check_can_be_saved(own)


def _check_places(out: str | os.PathLike[str] | None, checkpoint_dir: str | os.PathLike[str] | None) -> None:
    """Find out before hours of training that the result could not be saved."""
    if checkpoint_dir is not None:
        as_path(checkpoint_dir, "checkpoint_dir")
    if out is None:
        return
    path = as_path(out, "out")
    if path.suffix not in (".keras", ".h5"):
        raise ConfigurationError(f"out must end in .keras or .h5. Received: out={str(out)!r}")
    if not can_be_written(path):
        raise ConfigurationError(f"out must be a file in a folder that can be written. Received: out={str(out)!r}")
