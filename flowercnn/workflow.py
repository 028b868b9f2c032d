"""The whole workflow: the steps in order. Who has read this has understood the library."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowercnn.dataset import Dataset
from flowercnn.errors import ConfigurationError
from flowercnn.evaluation.evaluation import evaluate
from flowercnn.sources.base import DataSource
from flowercnn.sources.plugins import as_source
from flowercnn.splits import Splits, check_fractions
from flowercnn.training.auto import choose_trainer
from flowercnn.training.run import TrainingRun
from flowercnn.training.trainer import Trainer

__all__ = ["train"]

_log = logging.getLogger(__name__)


def train(
    source: DataSource | str | os.PathLike[str],
    *,
    model: Any = "fast",
    out: str | os.PathLike[str] | None = None,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    callbacks: Iterable[Any] = (),
    progress: bool = True,
    **settings: Any,
) -> TrainingRun:
    """Turn pictures into a trained, tested, saved classifier.

    List the source, split it, train on ``train`` while watching ``val``, measure once on ``test``, save.

    Args:
        source: A source, the path of a folder, or a URI such as ``"tensorbay:Flower17-1"``.
        model: A registered name or a Keras model; see `Trainer`. ``"auto"``: what does best in cross-validation on
            ``train``, from scratch or on pretrained weights at hand, within ``time_budget``; ``run.notes`` says why.
        out: Where to save the model (``.keras`` or ``.h5``), or ``None``.
        val: Share of each class to watch while training.
        test: Share of each class kept for the final figure. Where every sample has a predefined part, the parts are
            those, and ``val`` is only drawn where they have none.
        seed: Of the split and the training.
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
    _check_out(out)
    automatic = model == "auto" if isinstance(model, str) else False
    trainer = _make_trainer("fast" if automatic else model, seed, settings)
    dataset = Dataset.from_source(as_source(source))
    splits = _split(dataset, val=val, test=test, seed=seed)
    reason: tuple[str, ...] = ()
    if automatic:
        trainer, why = choose_trainer(splits.train, seed=seed, settings=settings, progress=progress)
        reason = (why,)
    if len(splits.test):  # a bad test picture must not be found after hours of training
        trainer.resolved_preprocessing().load(splits.test.samples, bad_images=trainer.bad_images, progress=progress)
    run = trainer.fit(splits.train, splits.val, checkpoint_dir=checkpoint_dir, callbacks=callbacks, progress=progress)
    if out is not None:
        run.predictor.save(out)  # before the test, so that nothing can lose what was learned
    evaluation = None
    if len(splits.test):
        evaluation = evaluate(run.predictor, splits.test, bad_images=trainer.bad_images, progress=progress)
        _log.info("Test: %s", evaluation.summary())
    run = dataclasses.replace(run, splits=splits, evaluation=evaluation, notes=(*reason, *run.notes))
    if out is not None and evaluation is not None:
        metrics = {"accuracy": evaluation.accuracy, "accuracy_interval": list(evaluation.accuracy_interval)}
        run.predictor.with_info(test={**metrics, "samples": len(evaluation)}).save(out)
    return run


def _make_trainer(model: Any, seed: int, settings: dict[str, Any]) -> Trainer:
    known = {field.name for field in dataclasses.fields(Trainer)}
    for name in settings:
        if name not in known:
            raise ConfigurationError(f"train has no argument {name!r}. Known: {', '.join(sorted(known))}.")
    return Trainer(model, seed=seed, **settings)


def _split(dataset: Dataset, *, val: float, test: float, seed: int) -> Splits:
    if dataset.has_splits:
        _log.info("Using the predefined parts of the data.")
        return dataset.predefined_split(val=val, seed=seed)
    return dataset.split(val=val, test=test, seed=seed)


def _check_out(out: str | os.PathLike[str] | None) -> None:
    """Find out before hours of training that the result could not be saved."""
    if out is None:
        return
    path = Path(out)
    if path.suffix not in (".keras", ".h5"):
        raise ConfigurationError(f"out must end in .keras or .h5. Received: out={str(out)!r}")
    if path.is_dir():
        raise ConfigurationError(f"out must be a file, not a folder. Received: out={str(out)!r}")
