"""The training of a backbone, in its two steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowercnn.dataset import Dataset
from flowercnn.models.fold import fold_normalization
from flowercnn.models.keras3 import import_keras
from flowercnn.models.recipe import Recipe
from flowercnn.models.registry import build_model
from flowercnn.models.twin import choose_precision
from flowercnn.prediction.predictor import Predictor
from flowercnn.training.budget import parse_time
from flowercnn.training.checkpoint import read_checkpoint
from flowercnn.training.history import History
from flowercnn.training.loop import Loop
from flowercnn.training.run import TrainingRun
from flowercnn.training.transfer import (
    compute_features,
    fit_on_features,
    freeze,
    head_record,
    make_optimizer_by_depth,
    set_head,
)

if TYPE_CHECKING:
    from flowercnn.training.trainer import Trainer

__all__ = ["build_for", "fit_backbone", "wants_flips"]

_PATIENCE: Final = 3
_log = logging.getLogger(__name__)


def build_for(trainer: Trainer, num_classes: int, *, progress: bool) -> Any:
    """Return the backbone a trainer asks for, with an untrained last layer."""
    options = {"progress": progress, **trainer.model_options}
    size = trainer.resolved_preprocessing().image_size
    return build_model(trainer.model, image_size=size, num_classes=num_classes, seed=trainer.seed, **options)


def wants_flips(recipe: Recipe) -> bool:
    """Return whether mirror images are learned from, too."""
    return recipe.augmentation is not None and recipe.augmentation.flip


def fit_backbone(
    trainer: Trainer,
    train: Dataset,
    val: Dataset | None,
    *,
    checkpoint_dir: Path | None,
    callbacks: Iterable[Any],
    progress: bool,
) -> TrainingRun:
    """Train the last layer on features computed once; then fine-tune, if the recipe says so.

    Args:
        trainer: Of a backbone.
        train: The data learned from.
        val: Watched; with fine-tuning it decides when to stop and whether that was better than not to begin.
        checkpoint_dir: Where features and the state of fine-tuning are kept, or ``None``.
        callbacks: Keras callbacks.
        progress: Whether to show progress bars.
    """
    started = time.perf_counter()
    recipe, preprocessing = trainer.resolved_recipe(), trainer.resolved_preprocessing()
    model = build_for(trainer, train.num_classes, progress=progress)
    settings: dict[str, Any] = {"bad_images": trainer.bad_images, "cache": checkpoint_dir, "progress": progress}
    features = compute_features(model, train, preprocessing, flips=wants_flips(recipe), **settings)
    watched = None if not val else compute_features(model, val, preprocessing, flips=False, **settings)
    computed = time.perf_counter()
    head = fit_on_features(features, train, recipe, seed=trainer.seed)
    set_head(model, head)
    val_labels = None if watched is None or val is None else val.labels[watched.kept]
    record = head_record(head, features, train.labels[features.kept], watched, val_labels, computed)
    history, interrupted, notes = History((record,)), False, list[str]()
    if recipe.fine_tune == "none":
        _call_back(callbacks, model, record)
        if trainer.epochs is not None:
            notes.append(
                "epochs had no effect: only the last layer was trained. Recipe(fine_tune='top') trains more."
            )
    else:
        tuned, interrupted = _fine_tune(trainer, model, train, val, checkpoint_dir, callbacks, started, progress)
        losses = [epoch["val_loss"] for epoch in tuned.epochs if "val_loss" in epoch]
        history = History((record, *tuned.epochs))
        if losses and min(losses) >= record["val_loss"]:
            notes.append(
                f"Fine-tuning did not help: val_loss {min(losses):.3f}, against {record['val_loss']:.3f} with "
                "the last layer alone. That one is kept."
            )
            model = build_for(trainer, train.num_classes, progress=progress)
            set_head(model, head)
    for note in notes:
        _log.warning(note)
    finished = time.perf_counter()
    info = {
        "model": str(trainer.model).lower(),
        "seed": trainer.seed,
        "epochs": len(history),
        "train_samples": len(train),
    }
    return TrainingRun(
        predictor=Predictor(fold_normalization(model), train.class_names, preprocessing, info=info),
        history=history,
        recipe=recipe,
        seed=trainer.seed,
        precision="float32" if recipe.fine_tune == "none" else choose_precision(trainer.precision),
        seconds={"decode": computed - started, "train": finished - computed, "total": finished - started},
        interrupted=interrupted,
        skipped=(*features.skipped, *(() if watched is None else watched.skipped)),
        notes=tuple(notes),
    )


def _fine_tune(
    trainer: Trainer,
    model: Any,
    train: Dataset,
    val: Dataset | None,
    checkpoint_dir: Path | None,
    callbacks: Iterable[Any],
    started: float,
    progress: bool,  # noqa: FBT001 - one of several values passed through
) -> tuple[History, bool]:
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
    fingerprint = trainer.fingerprint(preprocessing, train)
    return loop.run(
        callbacks=list(callbacks),
        progress=progress,
        patience=(trainer.early_stopping or _PATIENCE) if val_data is not None else None,
        deadline=None if trainer.time_budget is None else started + parse_time(trainer.time_budget),
        checkpoint_dir=checkpoint_dir,
        checkpoint=None if checkpoint_dir is None else read_checkpoint(checkpoint_dir, fingerprint),
        fingerprint=fingerprint,
    )


def _call_back(callbacks: Iterable[Any], model: Any, record: dict[str, float]) -> None:
    """Tell callbacks of the one epoch there was."""
    given = list(callbacks)
    if not given:
        return
    hooks = import_keras().callbacks.CallbackList(given, model=model, epochs=1, steps=1, verbose=0)
    hooks.on_train_begin()
    hooks.on_epoch_begin(0)
    hooks.on_epoch_end(0, {name: value for name, value in record.items() if name not in ("learning_rate", "seconds")})
    hooks.on_train_end()
