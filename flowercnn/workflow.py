"""The workflow of `train`: read, split, train, calibrate, save, test."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Unpack

from flowercnn._utils import as_path, can_be_written, moved
from flowercnn.data import AuditReport, Dataset, Duplicates, Splits, as_dataset, check_fractions
from flowercnn.errors import ConfigurationError, FlowerCNNError, SplitError, few
from flowercnn.evaluation import evaluate
from flowercnn.models import is_backbone
from flowercnn.prediction import Predictor, calibrate
from flowercnn.preprocessing import BadImages
from flowercnn.saving import check_can_be_saved
from flowercnn.sources import DataSource
from flowercnn.training import Trainer, TrainerSettings, TrainingRun, choose_trainer, make_trainer

__all__ = ["train"]

__getattr__ = moved(__name__, "flowercnn.training")  # of cross_validate and CrossValidation

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
    """Train, calibrate, test and save a classifier: the whole workflow in one call.

    Each image is read once. Training on ``train`` watches ``val``, calibration uses ``val``, and
    the metrics are measured once on ``test``.

    Args:
        source: A data set, a source, the path of a folder, an archive or a table, or a URI such as
            ``"tensorbay:Flower17-1"``.
        model: A registered name or a Keras model; see `Trainer`. ``"auto"`` takes what is best in
            cross-validation on ``train``, from scratch or on pretrained weights at hand, within
            ``time_budget``; ``run.notes`` says why.
        out: Path of the model file to write (``.keras`` or ``.h5``), or ``None``.
        val: Share of each class to watch while training.
        test: Share of each class kept for the final metrics. If every sample has a predefined
            part, those are the parts, and ``val`` and ``test`` are drawn only if they are missing.
        seed: Seed of the split and the training.
        duplicates: ``"group"`` keeps duplicates in one part, as `Dataset.split` does; of predefined
            parts, duplicates are kept in the later part only, with a warning. ``"ignore"`` does not
            look for duplicates.
        checkpoint_dir: As in `Trainer.fit`.
        callbacks: As in `Trainer.fit`.
        progress: Whether to show progress bars.
        **settings: Other arguments of `Trainer`: ``epochs``, ``batch_size``, ``image_size``, ...

    Returns:
        The run, with ``predictor``, ``history``, ``splits`` and, if there is a test part,
        ``evaluation``.

    Raises:
        FlowerCNNError: What the steps raise; see `Dataset.from_source`, `Dataset.split` and
            `Trainer.fit`.

    Example:
        >>> from flowercnn import SyntheticFlowers, train
        >>> flowers = SyntheticFlowers(per_class=10, num_classes=2)
        >>> run = train(flowers, image_size=(32, 32), epochs=2, progress=False)
        >>> len(run.evaluation), len(run.history)
        (4, 2)
    """
    check_fractions(val, test)
    _check_places(out, checkpoint_dir)
    automatic = isinstance(model, str) and model == "auto"
    trainer = make_trainer(train, "fast" if automatic else model, seed, settings)
    dataset = as_dataset(source)
    _check_predefined(dataset)
    if out is not None and not automatic:
        _check_can_be_saved(trainer, dataset)
    try:
        dataset.read_images(
            trainer.plan(dataset).preprocessing,
            bad_images=trainer.bad_images,
            inspect=duplicates == "group",
            keep_encoded=automatic or is_backbone(model),  # decoded at other sizes, too
            progress=progress,
        )
        splits = _split(
            dataset, val=val, test=test, seed=seed, duplicates=duplicates, progress=progress
        )
        audit = (
            dataset.audit(progress=progress) if duplicates == "group" and len(splits.test) else None
        )
        notes: tuple[str, ...] = ()
        if automatic:
            trainer, why = choose_trainer(
                splits.train, seed=seed, settings=settings, progress=progress
            )
            notes = (why,)
        run = trainer.fit(
            splits.train,
            splits.val,
            checkpoint_dir=checkpoint_dir,
            callbacks=callbacks,
            progress=progress,
        )
        run = dataclasses.replace(run, splits=splits, notes=(*notes, *run.notes))
        run = _calibrated(run, splits, out, bad_images=trainer.bad_images, progress=progress)
        return _tested(run, splits, audit, out, bad_images=trainer.bad_images, progress=progress)
    finally:
        dataset.release()


def _calibrated(
    run: TrainingRun,
    splits: Splits,
    out: str | os.PathLike[str] | None,
    *,
    bad_images: BadImages,
    progress: bool,
) -> TrainingRun:
    """Return the run with its classifier calibrated on ``val`` and saved."""
    fingerprints = {name: part.fingerprint() for name, part in splits._asdict().items()}
    predictor = run.predictor.with_info(fingerprints=fingerprints)
    with _saved_on_failure(predictor, out):
        if len(splits.val):
            predictor = calibrate(
                predictor, splits.train, splits.val, bad_images=bad_images, progress=progress
            )
    with _saved_on_failure(predictor, out):
        if out is not None:
            predictor.save(out)  # before the test, so that nothing can lose what was learned
    return dataclasses.replace(run, predictor=predictor)


def _tested(
    run: TrainingRun,
    splits: Splits,
    audit: AuditReport | None,
    out: str | os.PathLike[str] | None,
    *,
    bad_images: BadImages,
    progress: bool,
) -> TrainingRun:
    """Return the run with its evaluation on ``test``, if any, and save the classifier with it."""
    if not len(splits.test):
        return run
    with _saved_on_failure(run.predictor, out):
        evaluation = evaluate(run.predictor, splits.test, bad_images=bad_images, progress=progress)
        evaluation = dataclasses.replace(evaluation, history=run.history.to_dict(), audit=audit)
        _log.info("Test: %s", evaluation.summary())
        metrics = {
            "accuracy": evaluation.accuracy,
            "accuracy_interval": list(evaluation.accuracy_interval),
        }
        predictor = run.predictor.with_info(test={**metrics, "samples": len(evaluation)})
        if out is not None:
            predictor.save(out)
    return dataclasses.replace(run, predictor=predictor, evaluation=evaluation)


@contextmanager
def _saved_on_failure(predictor: Predictor, out: str | os.PathLike[str] | None) -> Iterator[None]:
    """Save the classifier if something fails after the training, and name the file in the error."""
    try:
        yield
    except BaseException as error:
        with suppress(FlowerCNNError):
            error.add_note(f"What was learned is in {_rescued(predictor, out)}")
        raise


def _rescued(predictor: Predictor, out: str | os.PathLike[str] | None) -> Path:
    """Save a predictor to ``out``, or if that fails to a temporary folder, and return the path."""
    if out is not None:
        with suppress(FlowerCNNError):
            return predictor.save(out)
    return predictor.save(Path(tempfile.mkdtemp(prefix="flowercnn-")) / "model.keras")


def _check_predefined(dataset: Dataset) -> None:
    """Check that all or no samples have a predefined part: test images must not become train."""
    without = [sample.key for sample in dataset if sample.split is None]
    if 0 < len(without) < len(dataset):
        raise SplitError(
            "Either every sample must have a predefined part (Sample.split) or none. Received: "
            f"{len(without)} of {len(dataset)} samples without one: {few(without)}. Give each a "
            "part, or leave the parts out of the source (such as split=), so that parts are drawn."
        )


def _split(
    dataset: Dataset, *, val: float, test: float, seed: int, duplicates: Duplicates, progress: bool
) -> Splits:
    if dataset.has_splits:
        _log.info("Using the predefined parts of the data.")
        mode: Literal["drop", "ignore"] = "drop" if duplicates == "group" else "ignore"
        return dataset.predefined_split(
            val=val, test=test, seed=seed, duplicates=mode, progress=progress
        )
    return dataset.split(val=val, test=test, seed=seed, duplicates=duplicates, progress=progress)


def _check_can_be_saved(trainer: Trainer, dataset: Dataset) -> None:
    """Check before hours of training that the network can be saved; the library's own can."""
    if not is_backbone(trainer.model):
        check_can_be_saved(trainer.plan(dataset).build(), dataset.class_names)
    elif (own := trainer.model_options.get("backbone")) is not None:
        check_can_be_saved(own)


def _check_places(
    out: str | os.PathLike[str] | None, checkpoint_dir: str | os.PathLike[str] | None
) -> None:
    """Check before hours of training that the result can be saved."""
    if checkpoint_dir is not None:
        as_path(checkpoint_dir, "checkpoint_dir")
    if out is None:
        return
    path = as_path(out, "out")
    if path.suffix not in (".keras", ".h5"):
        raise ConfigurationError(f"out must end in .keras or .h5. Received: out={str(out)!r}")
    if not can_be_written(path):
        raise ConfigurationError(
            f"out must be a file in a folder that can be written. Received: out={str(out)!r}"
        )
