"""The training of a backbone, in its two steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from flowercnn.data import Dataset
from flowercnn.models import Recipe, fold_normalization
from flowercnn.prediction import Predictor
from flowercnn.preprocessing import Views
from flowercnn.training.budget import deadline_of
from flowercnn.training.callbacks import make_callback_list
from flowercnn.training.checks import check_classes_left
from flowercnn.training.loop import Loop
from flowercnn.training.optimizers import make_optimizer_by_depth
from flowercnn.training.plan import Plan, load
from flowercnn.training.run import History, TrainingRun
from flowercnn.training.transfer.features import (
    Features,
    compute_features,
    fit_on_features,
    freeze,
    head_record,
    set_head,
    stages,
)
from flowercnn.training.transfer.finetune import ConvolutionalHead, Labels, last_convolution

__all__ = ["fit_backbone", "views_of"]

_PATIENCE: Final = 3
_ENOUGH_PER_CLASS: Final = 30  # on average; with fewer images tuning does harm
_OF_EPOCHS: Final = ("epochs", "batch_size", "learning_rate", "early_stopping")
_log = logging.getLogger(__name__)


def views_of(recipe: Recipe, *, parts: int = 0, seed: int = 0) -> Views:
    """Return the views of each image to learn from: with augmentation also mirror and crops."""
    if recipe.augmentation is None:
        return Views()
    return Views(mirror=recipe.augmentation.flip, parts=parts, seed=seed)


class _Tuning(NamedTuple):
    """Result of fine-tuning."""

    recipe: Recipe
    history: History
    interrupted: bool
    notes: tuple[str, ...] = ()


def fit_backbone(
    plan: Plan,
    train: Dataset,
    val: Dataset | None,
    *,
    checkpoint_dir: Path | None,
    callbacks: Sequence[Any],
    progress: bool,
) -> TrainingRun:
    """Train the last layer on features computed once, then fine-tune by the recipe.

    Args:
        plan: Of a backbone.
        train: The data learned from.
        val: Watched; with fine-tuning it decides when to stop and whether that was better than not
            to begin.
        checkpoint_dir: Where features and the state of fine-tuning are kept, or ``None``.
        callbacks: Keras callbacks.
        progress: Whether to show progress bars.
    """
    started = time.perf_counter()
    model = plan.build(progress=progress)
    conv_head = _convolutional_head(plan, model, train)
    inputs = _compute(plan, model, conv_head, train, val, checkpoint_dir, progress)
    features, watched = (_features(conv_head, each) for each in inputs)
    assert features is not None  # noqa: S101 - there is a train part
    labels = train.labels[features.kept]
    check_classes_left(labels, features.skipped)
    computed = time.perf_counter()
    deadline = deadline_of(plan.budget, started)
    head = fit_on_features(features, train, plan.recipe, seed=plan.seed)
    set_head(model, head)
    val_labels = None if watched is None or val is None else val.labels[watched.kept]
    record = head_record(head, features, labels, watched, val_labels)
    solved = time.perf_counter()
    if conv_head is not None:
        both = (labels, val_labels)
        tuning = _tune(plan, conv_head, inputs, both, deadline, callbacks, progress)
    elif plan.recipe.fine_tune in ("top", "all"):
        tuning = _fine_tune(plan, model, train, val, checkpoint_dir, callbacks, deadline, progress)
    else:
        _call_back(callbacks, model, record)
        tuning = _Tuning(plan.recipe, History(), False, tuple(_without_effect(plan)))
    recipe, tuned, interrupted, notes = tuning
    best = recipe.fine_tune != "auto" or plan.patience is not None
    worse = _why_worse(tuned, record, best=best)
    if worse is not None:
        notes = (*notes, worse)
        model = plan.build(progress=progress)
        set_head(model, head)
    for note in notes:
        _log.warning(note)
    history = History((record, *tuned.epochs), (solved - computed, *tuned.seconds))
    finished = time.perf_counter()
    info = {
        "model": plan.name,
        "seed": plan.seed,
        "epochs": len(history),
        "train_samples": len(labels),
    }
    return TrainingRun(
        predictor=Predictor(
            fold_normalization(model), train.class_names, plan.preprocessing, info=info
        ),
        history=history,
        recipe=recipe,
        seed=plan.seed,
        precision=plan.precision if tuned else "float32",
        seconds={
            "decode": computed - started,
            "train": finished - computed,
            "total": finished - started,
        },
        interrupted=interrupted,
        skipped=(*features.skipped, *(() if watched is None else watched.skipped)),
        notes=notes,
    )


def _why_worse(tuned: History, record: Mapping[str, float], *, best: bool) -> str | None:
    """Return a sentence if fine-tuning ended with a higher ``val_loss`` than without.

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
        f"Fine-tuning did not help: val_loss {reached:.3f}, against {before:.3f} with the last "
        "layer alone. "
        "That one is kept."
    )


def _compute(
    plan: Plan,
    model: Any,
    conv_head: ConvolutionalHead | None,
    train: Dataset,
    val: Dataset | None,
    cache: Path | None,
    progress: bool,  # noqa: FBT001 - one of several values passed through
) -> tuple[Features, Features | None]:
    """Return the inputs of the convolutional head, or of the last layer, of both parts."""
    settings: dict[str, Any] = {"bad_images": plan.bad_images, "cache": cache, "progress": progress}
    if conv_head is not None:
        settings["output"] = conv_head.inputs
    parts = 0 if conv_head is None else conv_head.parts_that_fit(len(train))
    views = views_of(plan.recipe, parts=parts, seed=plan.seed)
    of_train = compute_features(model, train, plan.preprocessing, views=views, **settings)
    of_val = (
        compute_features(model, val, plan.preprocessing, views=Views(), **settings) if val else None
    )
    return of_train, of_val


def _convolutional_head(plan: Plan, model: Any, train: Dataset) -> ConvolutionalHead | None:
    """Return the convolutional head to tune, if the recipe leaves that open and it pays."""
    if plan.recipe.fine_tune != "auto" or len(train) < _ENOUGH_PER_CLASS * train.num_classes:
        return None
    convolution = last_convolution(model)
    if convolution is None:
        _log.info(
            "The network does not end in a pointwise convolution: the last layer alone is trained."
        )
        return None
    conv_head = ConvolutionalHead(model, convolution, precision=plan.precision)
    if not conv_head.parts_that_fit(len(train)):
        _log.info(
            "Too many images to keep what goes into the last convolution: the last layer alone "
            "is trained."
        )
        return None
    return conv_head


def _features(conv_head: ConvolutionalHead | None, inputs: Features | None) -> Features | None:
    """Return the features that the last layer sees."""
    return inputs if conv_head is None or inputs is None else conv_head.features(inputs)


def _tune(
    plan: Plan,
    conv_head: ConvolutionalHead,
    inputs: tuple[Features, Features | None],
    labels: tuple[Labels, Labels | None],
    deadline: float | None,
    callbacks: Sequence[Any],
    progress: bool,  # noqa: FBT001 - one of several values passed through
) -> _Tuning:
    """Train the convolutional head on its inputs."""
    val_inputs, val_labels = inputs[1], labels[1]
    history, interrupted = conv_head.tune(
        inputs[0],
        labels[0],
        plan.recipe,
        seed=plan.seed,
        watched=None if val_inputs is None or val_labels is None else (val_inputs, val_labels),
        patience=plan.patience,
        deadline=deadline,
        callbacks=callbacks,
        progress=progress,
    )
    is_over = deadline is not None and time.perf_counter() >= deadline
    note = "time_budget was over before fine-tuning began: only the last layer was trained."
    notes = (note,) if is_over and not history and not interrupted else ()
    return _Tuning(conv_head.recipe, history, interrupted, notes)


def _fine_tune(
    plan: Plan,
    model: Any,
    train: Dataset,
    val: Dataset | None,
    checkpoint_dir: Path | None,
    callbacks: Sequence[Any],
    deadline: float | None,
    progress: bool,  # noqa: FBT001 - one of several values passed through
) -> _Tuning:
    """Train the last stage, or everything, from where the last layer is now."""
    recipe = plan.recipe
    data, _ = load(train, plan, progress=progress)
    val_data = None if not val else load(val, plan, progress=progress)[0]
    freeze(model, 1 if recipe.fine_tune == "top" else None)
    loop = Loop(
        model,
        recipe,
        data,
        val_data,
        seed=plan.seed,
        precision=plan.precision,
        optimizer=make_optimizer_by_depth(recipe, model, stages(model)),
    )
    checkpoints = plan.checkpoints(checkpoint_dir, train, val)
    checkpoint = None if checkpoints is None else checkpoints.read()
    if checkpoint is not None and deadline is not None:
        deadline -= checkpoint.seconds
    history, interrupted = loop.run(
        callbacks=callbacks,
        progress=progress,
        patience=(plan.patience or _PATIENCE) if val_data is not None else None,
        deadline=deadline,
        checkpoints=checkpoints,
        checkpoint=checkpoint,
    )
    return _Tuning(loop.recipe, history, interrupted)


def _without_effect(plan: Plan) -> list[str]:
    """Return a sentence about settings without effect if only the last layer is trained."""
    given = [name for name in _OF_EPOCHS if name in plan.explicit]
    if not given:
        return []
    note = f"{' and '.join(given)} had no effect: only the last layer was trained, at once."
    return [f"{note} Recipe(fine_tune='top') trains more."]


def _call_back(callbacks: Sequence[Any], model: Any, record: dict[str, float]) -> None:
    """Tell callbacks of the one epoch there was."""
    callback_list = make_callback_list(callbacks, model, epochs=1, steps=1)
    callback_list.on_train_begin()
    callback_list.on_epoch_begin(0)
    callback_list.on_epoch_end(
        0, {name: value for name, value in record.items() if name != "learning_rate"}
    )
    callback_list.on_train_end()
