"""The training of a network from its first weights on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import interrupts_deferred
from flowercnn.data import Dataset
from flowercnn.models import Recipe, fold_normalization
from flowercnn.prediction import Predictor
from flowercnn.training.budget import deadline_of, fit_epochs
from flowercnn.training.checkpoint import Checkpoint
from flowercnn.training.checks import check_classes_left
from flowercnn.training.loop import Data, Loop
from flowercnn.training.notes import advice, balance_note
from flowercnn.training.plan import Plan, load
from flowercnn.training.run import History, TrainingRun

__all__ = ["fit_from_scratch"]

_log = logging.getLogger(__name__)


def fit_from_scratch(
    plan: Plan,
    train: Dataset,
    val: Dataset | None,
    *,
    checkpoint_dir: Path | None,
    callbacks: Sequence[Any],
    progress: bool,
) -> TrainingRun:
    """Decode all images, train for the epochs of the recipe, and fold the normalisation away.

    Args:
        plan: Of a network that is not a backbone.
        train: The data learned from.
        val: Watched; it decides when to stop if the plan has a patience.
        checkpoint_dir: Where the state is kept, or ``None``.
        callbacks: Keras callbacks.
        progress: Whether to show progress bars.
    """
    started = time.perf_counter()
    model = plan.build()  # what is wrong with it is said before anything is decoded
    data, skipped = load(train, plan, progress=progress)
    val_data, val_skipped = (None, ()) if not val else load(val, plan, progress=progress)
    check_classes_left(data[1], skipped)
    decoded = time.perf_counter()
    watched = None if plan.patience is None else val  # it decides which epoch's weights are kept
    checkpoints = plan.checkpoints(checkpoint_dir, train, watched)
    checkpoint = None if checkpoints is None else checkpoints.read()
    deadline = deadline_of(plan.budget, started, checkpoint)
    recipe = _recipe(plan, data, deadline, checkpoint)
    loop = Loop(model, recipe, data, val_data, seed=plan.seed, precision=plan.precision)
    history, interrupted = loop.run(
        callbacks=callbacks,
        progress=progress,
        patience=plan.patience,
        deadline=deadline,
        checkpoints=checkpoints,
        checkpoint=checkpoint,
    )
    with interrupts_deferred() as deferred:  # what was learned is not lost to a late Ctrl-C
        network = fold_normalization(loop.model)
    finished = time.perf_counter()
    info = {
        "model": plan.name,
        "seed": plan.seed,
        "epochs": len(history),
        "train_samples": len(data[1]),
    }
    return TrainingRun(
        predictor=Predictor(network, train.class_names, plan.preprocessing, info=info),
        history=history,
        recipe=loop.recipe,
        seed=plan.seed,
        precision=plan.precision,
        seconds={
            "decode": decoded - started,
            "train": finished - decoded,
            "total": finished - started,
        },
        interrupted=interrupted or bool(deferred),
        skipped=(*skipped, *val_skipped),
        notes=_notes(loop.recipe, history, data[1], train.class_names),
    )


def _recipe(
    plan: Plan, data: Data, deadline: float | None, checkpoint: Checkpoint | None
) -> Recipe:
    """Return the recipe adapted to the images and the time, or as a checkpoint has it."""
    recipe = plan.adapted_recipe(len(data[1]))
    if checkpoint is not None:
        return recipe.replace(epochs=checkpoint.epochs)
    if deadline is None:
        return recipe
    started = time.perf_counter()
    trial = Loop(plan.build(), recipe, data, seed=plan.seed, precision=plan.precision)
    seconds_per_area = trial.seconds_per_epoch() / math.prod(recipe.training_size(0))
    now = time.perf_counter()
    # The trial's own time is taken twice: the training itself has to compile, too.
    fitted = fit_epochs(recipe, deadline - now - (now - started), seconds_per_area)
    _log.info("About %d epochs fit into the time budget of %g s.", fitted.epochs, plan.budget)
    return fitted


def _notes(
    recipe: Recipe, history: History, labels: npt.NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Log what the user should know of how it went, and return it."""
    counts = np.bincount(labels, minlength=len(class_names))
    notes = (
        *balance_note(recipe.class_weights(counts), class_names),
        *advice(history, len(class_names)),
    )
    for note in notes:
        _log.warning(note)
    return notes
