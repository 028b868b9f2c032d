"""The training of a backbone, in its two steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowercnn.data import Dataset
from flowercnn.models import Recipe, build_model, choose_precision, fold_normalization
from flowercnn.prediction import Predictor
from flowercnn.preprocessing import Views
from flowercnn.training.budget import deadline_of
from flowercnn.training.callbacks import make_hooks
from flowercnn.training.checks import check_classes_left
from flowercnn.training.loop import Loop
from flowercnn.training.run import History, TrainingRun
from flowercnn.training.transfer.features import (
    Features,
    compute_features,
    fit_on_features,
    freeze,
    head_record,
    make_optimizer_by_depth,
    set_head,
)
from flowercnn.training.transfer.finetune import Ending, last_convolution

if TYPE_CHECKING:
    from flowercnn.training.trainer import Trainer

__all__ = ["build_for", "fit_backbone", "views_of"]

_PATIENCE: Final = 3
_ENOUGH_PER_CLASS: Final = 30  # on average; with fewer pictures tuning does harm
_OF_EPOCHS: Final = ("epochs", "batch_size", "learning_rate", "early_stopping")
_log = logging.getLogger(__name__)


def build_for(trainer: Trainer, num_classes: int, *, progress: bool) -> Any:
    """Return the backbone a trainer asks for, with an untrained last layer."""
    options = {"progress": progress, **trainer.model_options}
    size = trainer.resolved_preprocessing().image_size
    return build_model(trainer.model, image_size=size, num_classes=num_classes, seed=trainer.seed, **options)


def views_of(recipe: Recipe, *, parts: int = 0, seed: int = 0) -> Views:
    """Return what is learned from of each picture: with augmentation its mirror image and parts, too."""
    if recipe.augmentation is None:
        return Views()
    return Views(mirror=recipe.augmentation.flip, parts=parts, seed=seed)


def fit_backbone(
    trainer: Trainer,
    train: Dataset,
    val: Dataset | None,
    *,
    checkpoint_dir: Path | None,
    callbacks: Sequence[Any],
    progress: bool,
) -> TrainingRun:
    """Train the last layer on features computed once; then fine-tune, if the recipe says so or it pays.

    Args:
        trainer: Of a backbone.
        train: The data learned from.
        val: Watched; with fine-tuning it decides when to stop and whether that was better than not to begin.
        checkpoint_dir: Where features and the state of fine-tuning are kept, or ``None``.
        callbacks: Keras callbacks.
        progress: Whether to show progress bars.
    """
    started = time.perf_counter()
    model = build_for(trainer, train.num_classes, progress=progress)
    ending = _ending(trainer, model, train)
    inputs, watched_inputs = _compute(trainer, model, ending, train, val, checkpoint_dir, progress)
    features = inputs if ending is None else ending.features(inputs)
    watched = watched_inputs if ending is None or watched_inputs is None else ending.features(watched_inputs)
    labels = train.labels[features.kept]
    check_classes_left(labels, features.skipped)
    computed = time.perf_counter()
    recipe, deadline = trainer.resolved_recipe(), deadline_of(trainer.time_budget, started)
    head = fit_on_features(features, train, recipe, seed=trainer.seed)
    set_head(model, head)
    val_labels = None if watched is None or val is None else val.labels[watched.kept]
    record = head_record(head, features, labels, watched, val_labels)
    solved = time.perf_counter()
    notes: list[str] = []
    if ending is not None:
        tuned, interrupted = ending.tune(
            inputs,
            labels,
            recipe,
            seed=trainer.seed,
            watched=None if watched_inputs is None or val_labels is None else (watched_inputs, val_labels),
            patience=trainer.early_stopping,
            deadline=deadline,
            callbacks=callbacks,
            progress=progress,
        )
        recipe = ending.recipe
        if not tuned and not interrupted and deadline is not None and time.perf_counter() >= deadline:
            notes.append("time_budget was over before fine-tuning began: only the last layer was trained.")
    elif recipe.fine_tune in ("top", "all"):
        recipe, tuned, interrupted = _fine_tune(
            trainer, model, train, val, checkpoint_dir, callbacks, deadline, progress
        )
    else:
        tuned, interrupted = History(), False
        _call_back(callbacks, model, record)
        notes.extend(_without_effect(trainer))
    worse = _why_worse(tuned, record, best=recipe.fine_tune != "auto" or trainer.early_stopping is not None)
    if worse is not None:
        notes.append(worse)
        model = build_for(trainer, train.num_classes, progress=progress)
        set_head(model, head)
    for note in notes:
        _log.warning(note)
    history = History((record, *tuned.epochs), (solved - computed, *tuned.seconds))
    finished = time.perf_counter()
    info = {"model": trainer.model_name, "seed": trainer.seed, "epochs": len(history), "train_samples": len(labels)}
    preprocessing = trainer.resolved_preprocessing()
    return TrainingRun(
        predictor=Predictor(fold_normalization(model), train.class_names, preprocessing, info=info),
        history=history,
        recipe=recipe,
        seed=trainer.seed,
        precision=choose_precision(trainer.precision) if tuned else "float32",
        seconds={"decode": computed - started, "train": finished - computed, "total": finished - started},
        interrupted=interrupted,
        skipped=(*features.skipped, *(() if watched is None else watched.skipped)),
        notes=tuple(notes),
    )


def _why_worse(tuned: History, record: Mapping[str, float], *, best: bool) -> str | None:
    """Return a sentence if fine-tuning left weights with a higher ``val_loss`` than those of the last layer alone.

    Args:
        tuned: Its epochs.
        record: Of the last layer alone.
        best: Whether the weights are those of the best epoch, or of the last.
    """
    losses = [epoch["val_loss"] for epoch in tuned.epochs if "val_loss" in epoch]
    if not losses:
        return None
    reached, before = min(losses) if best else losses[-1], record["val_loss"]
    if reached < before:
        return None
    return (
        f"Fine-tuning did not help: val_loss {reached:.3f}, against {before:.3f} with the last layer alone. "
        "That one is kept."
    )


def _compute(
    trainer: Trainer,
    model: Any,
    ending: Ending | None,
    train: Dataset,
    val: Dataset | None,
    cache: Path | None,
    progress: bool,  # noqa: FBT001 - one of several values passed through
) -> tuple[Features, Features | None]:
    """Return what goes into the ending, or into the last layer, of the pictures of ``train`` and ``val``."""
    settings: dict[str, Any] = {"bad_images": trainer.bad_images, "cache": cache, "progress": progress}
    if ending is not None:
        settings["output"] = ending.inputs
    preprocessing = trainer.resolved_preprocessing()
    parts = 0 if ending is None else ending.parts_that_fit(len(train))
    views = views_of(trainer.resolved_recipe(), parts=parts, seed=trainer.seed)
    of_train = compute_features(model, train, preprocessing, views=views, **settings)
    of_val = compute_features(model, val, preprocessing, views=Views(), **settings) if val else None
    return of_train, of_val


def _ending(trainer: Trainer, model: Any, train: Dataset) -> Ending | None:
    """Return the part of a backbone that is tuned on its inputs, if the recipe leaves that open and it pays."""
    if trainer.resolved_recipe().fine_tune != "auto" or len(train) < _ENOUGH_PER_CLASS * train.num_classes:
        return None
    convolution = last_convolution(model)
    if convolution is None:
        _log.info("The network does not end in a pointwise convolution: the last layer alone is trained.")
        return None
    ending = Ending(model, convolution, precision=choose_precision(trainer.precision))
    if not ending.parts_that_fit(len(train)):
        _log.info("Too many pictures to keep what goes into the last convolution: the last layer alone is trained.")
        return None
    return ending


def _fine_tune(
    trainer: Trainer,
    model: Any,
    train: Dataset,
    val: Dataset | None,
    checkpoint_dir: Path | None,
    callbacks: Sequence[Any],
    deadline: float | None,
    progress: bool,  # noqa: FBT001 - one of several values passed through
) -> tuple[Recipe, History, bool]:
    """Train the last stage, or everything, from where the last layer is now."""
    recipe, preprocessing = trainer.resolved_recipe(), trainer.resolved_preprocessing()
    data, _ = trainer.load(train, preprocessing, progress=progress)
    val_data = None if not val else trainer.load(val, preprocessing, progress=progress)[0]
    freeze(model, 1 if recipe.fine_tune == "top" else None)
    loop = Loop(
        model,
        recipe,
        data,
        val_data,
        seed=trainer.seed,
        precision=choose_precision(trainer.precision),
        optimizer=make_optimizer_by_depth(recipe, model),
    )
    checkpoints = trainer.checkpoints(checkpoint_dir, train, val)
    checkpoint = None if checkpoints is None else checkpoints.read()
    if checkpoint is not None and deadline is not None:
        deadline -= checkpoint.seconds
    history, interrupted = loop.run(
        callbacks=callbacks,
        progress=progress,
        patience=(trainer.early_stopping or _PATIENCE) if val_data is not None else None,
        deadline=deadline,
        checkpoints=checkpoints,
        checkpoint=checkpoint,
    )
    return loop.recipe, history, interrupted


def _without_effect(trainer: Trainer) -> list[str]:
    """Return a sentence about what a trainer was told that plays no part where the last layer alone is trained."""
    told = [name for name in _OF_EPOCHS if getattr(trainer, name) is not None]
    if not told:
        return []
    note = f"{' and '.join(told)} had no effect: only the last layer was trained, which is solved at once."
    return [f"{note} Recipe(fine_tune='top') trains more."]


def _call_back(callbacks: Sequence[Any], model: Any, record: dict[str, float]) -> None:
    """Tell callbacks of the one epoch there was."""
    hooks = make_hooks(callbacks, model, epochs=1, steps=1)
    hooks.on_train_begin()
    hooks.on_epoch_begin(0)
    hooks.on_epoch_end(0, {name: value for name, value in record.items() if name != "learning_rate"})
    hooks.on_train_end()
