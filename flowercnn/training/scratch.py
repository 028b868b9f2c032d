"""The training of a network from its first weights on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import interrupts_deferred
from flowercnn.data import Dataset
from flowercnn.models import Recipe, choose_precision, fold_normalization
from flowercnn.prediction import Predictor
from flowercnn.training.budget import deadline_of, fit_epochs
from flowercnn.training.checkpoint import Checkpoint
from flowercnn.training.checks import check_classes_left
from flowercnn.training.early_stopping import advice, balance_note
from flowercnn.training.loop import Data
from flowercnn.training.run import History, TrainingRun

if TYPE_CHECKING:
    from flowercnn.training.trainer import Trainer

__all__ = ["fit_from_scratch"]

_log = logging.getLogger(__name__)


def fit_from_scratch(
    trainer: Trainer,
    train: Dataset,
    val: Dataset | None,
    *,
    checkpoint_dir: Path | None,
    callbacks: Sequence[Any],
    progress: bool,
) -> TrainingRun:
    """Decode all pictures, train for the epochs of the recipe, and fold the normalisation away.

    Args:
        trainer: Of a network that is no backbone.
        train: The data learned from.
        val: Watched; it decides when to stop if the trainer says so.
        checkpoint_dir: Where the state is kept, or ``None``.
        callbacks: Keras callbacks.
        progress: Whether to show progress bars.
    """
    started = time.perf_counter()
    model = trainer.untrained(train.num_classes)  # what is wrong with it is said before anything is decoded
    preprocessing = trainer.resolved_preprocessing()
    data, skipped = trainer.load(train, preprocessing, progress=progress)
    val_data, val_skipped = (None, ()) if not val else trainer.load(val, preprocessing, progress=progress)
    check_classes_left(data[1], skipped)
    decoded = time.perf_counter()
    watched = None if trainer.early_stopping is None else val  # it decides which epoch's weights are kept
    checkpoints = trainer.checkpoints(checkpoint_dir, train, watched)
    checkpoint = None if checkpoints is None else checkpoints.read()
    deadline = deadline_of(trainer.time_budget, started, checkpoint)
    recipe = _recipe(trainer, train.num_classes, data, deadline, checkpoint)
    loop = trainer.make_loop(model, recipe, data, val_data)
    history, interrupted = loop.run(
        callbacks=callbacks,
        progress=progress,
        patience=trainer.early_stopping,
        deadline=deadline,
        checkpoints=checkpoints,
        checkpoint=checkpoint,
    )
    with interrupts_deferred() as deferred:  # what was learned is not lost to a late Ctrl-C
        network = fold_normalization(loop.model)
    finished = time.perf_counter()
    info = {"model": trainer.model_name, "seed": trainer.seed, "epochs": len(history), "train_samples": len(data[1])}
    return TrainingRun(
        predictor=Predictor(network, train.class_names, preprocessing, info=info),
        history=history,
        recipe=loop.recipe,
        seed=trainer.seed,
        precision=choose_precision(trainer.precision),
        seconds={"decode": decoded - started, "train": finished - decoded, "total": finished - started},
        interrupted=interrupted or bool(deferred),
        skipped=(*skipped, *val_skipped),
        notes=_notes(loop.recipe, history, data[1], train.class_names),
    )


def _recipe(
    trainer: Trainer, num_classes: int, data: Data, deadline: float | None, checkpoint: Checkpoint | None
) -> Recipe:
    """Return the recipe for so many pictures and so much time, or with the epochs that were settled before."""
    adapted = trainer.resolved_recipe().adapted(len(data[1]))
    # What this trainer was told about epochs and batches stays as it was told.
    recipe = adapted.replace(epochs=trainer.epochs, batch_size=trainer.batch_size)
    if checkpoint is not None:
        return recipe.replace(epochs=checkpoint.epochs)
    if deadline is None:
        return recipe
    started = time.perf_counter()
    trial = trainer.make_loop(trainer.untrained(num_classes), recipe, data, None)
    seconds_per_area = trial.seconds_per_epoch() / math.prod(recipe.training_size(0))
    now = time.perf_counter()
    # The trial's own time is taken twice: the training itself has to compile, too.
    fitted = fit_epochs(recipe, deadline - now - (now - started), seconds_per_area)
    _log.info("About %d epochs fit into the time budget of %s.", fitted.epochs, trainer.time_budget)
    return fitted


def _notes(
    recipe: Recipe, history: History, labels: npt.NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Log what the user should know of how it went, and return it."""
    counts = np.bincount(labels, minlength=len(class_names))
    notes = (*balance_note(recipe.class_weights(counts), class_names), *advice(history, len(class_names)))
    for note in notes:
        _log.warning(note)
    return notes
