"""A search for better settings, by cross-validation on training data, with Optuna."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from flowercnn.dataset import Dataset
from flowercnn.errors import ConfigurationError, MissingDependencyError, TrainingError
from flowercnn.evaluation.evaluation import evaluate
from flowercnn.models.recipe import Recipe
from flowercnn.training.trainer import Trainer

__all__ = ["SearchResult", "Space", "search", "usual_space"]

_ABOUT: Final = "about"
_log = logging.getLogger(__name__)

Space: TypeAlias = Callable[[Any, Recipe], Recipe]
"""A function that takes an ``optuna.Trial`` and a recipe and returns the recipe to try."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Args:
        recipe: The best recipe; give it to a `Trainer` with the other settings of the one that searched.
        accuracy: Its mean accuracy over the folds, 0-1. Being the best of many, it flatters: measure on test.
        trials: Every finished trial: what was tried, and its mean accuracy.
    """

    recipe: Recipe
    accuracy: float
    trials: tuple[tuple[dict[str, Any], float], ...]


def usual_space(trial: Any, recipe: Recipe) -> Recipe:
    """Vary what matters most: learning rate, weight decay, label smoothing and augmentation."""
    changes: dict[str, Any] = {
        "learning_rate": recipe.learning_rate * trial.suggest_float("learning_rate_factor", 1 / 3, 3, log=True),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
    }
    if recipe.weight_decay:
        changes["weight_decay"] = recipe.weight_decay * trial.suggest_float("weight_decay_factor", 0.1, 10, log=True)
    if recipe.augmentation is not None:
        changes["augmentation"] = dataclasses.replace(
            recipe.augmentation,
            min_area=trial.suggest_float("min_area", 0.1, 0.8),
            saturation=trial.suggest_float("saturation", 0.0, 0.5),
        )
    return dataclasses.replace(recipe, **changes)


def search(
    train: Dataset,
    *,
    trials: int = 20,
    folds: int = 3,
    space: Space = usual_space,
    trainer: Trainer | None = None,
    study: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SearchResult:
    """Try recipes and return the one with the best mean accuracy over the folds of ``train``.

    Give it the ``train`` part of a split: what it never gets it can never select on. Trials that do worse than the
    median of those before are given up after a fold. Ctrl-C ends the search and returns the best so far.

    Args:
        train: The data learned from.
        trials: How many recipes to try, those in ``study`` included.
        folds: Of the cross-validation, at least 2.
        space: What to vary; see `usual_space`.
        trainer: How to train otherwise, and the seed; by default ``Trainer()``.
        study: A file that keeps the trials; a search with the same file goes on where it was.
        progress: Whether to show progress bars.

    Raises:
        MissingDependencyError: If Optuna is not installed.
        ConfigurationError: If ``trials`` is below 1, or ``study`` holds another search.
        TrainingError: If no trial was finished.
    """
    if trials < 1:
        raise ConfigurationError(f"trials must be at least 1. Received: trials={trials!r}")
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError("A search needs Optuna: pip install 'flowercnn[search]'") from error
    base = trainer or Trainer()
    parts = train.folds(folds, seed=base.seed, progress=progress)

    def objective(trial: Any) -> float:
        recipe = space(trial, base.resolved_recipe())
        trial.set_user_attr("recipe", repr(recipe))
        trainer = _with_recipe(base, recipe)
        accuracies = []
        for number, fold in enumerate(parts):
            run = trainer.fit(fold.train, progress=progress)
            if run.interrupted:
                raise KeyboardInterrupt
            accuracies.append(evaluate(run.predictor, fold.test, bad_images=base.bad_images, progress=False).accuracy)
            trial.report(float(np.mean(accuracies)), number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(accuracies))

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO if progress else optuna.logging.WARNING)
    try:
        kept = _open_study(optuna, study, base.seed)
        _check_study(kept, study, base, train, [folds, _name_of(space)])
        left = trials - len(kept.get_trials(deepcopy=False, states=_ended(optuna)))
        if left > 0:
            kept.optimize(objective, n_trials=left, catch=(TrainingError,))
    except KeyboardInterrupt:
        _log.warning("Stopped by Ctrl-C; the trials that ended are kept.")
    finally:
        optuna.logging.set_verbosity(verbosity)
    finished = kept.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not finished:
        raise TrainingError("No trial was finished. Try more, or lower learning rates.")
    best = max(finished, key=lambda trial: trial.value)
    recipe = space(optuna.trial.FixedTrial(best.params), base.resolved_recipe())
    return SearchResult(recipe, float(best.value), tuple((dict(each.params), float(each.value)) for each in finished))


def _with_recipe(base: Trainer, recipe: Recipe) -> Trainer:
    """Return the trainer with another recipe, which goes before its own settings; what it was told stays told."""
    own = ("epochs", "batch_size", "learning_rate")
    told: dict[str, Any] = {name: None if getattr(base, name) is None else getattr(recipe, name) for name in own}
    return dataclasses.replace(base, recipe=recipe, image_size=None, **told)


def _name_of(space: Space) -> str:
    return f"{getattr(space, '__module__', '')}.{getattr(space, '__qualname__', type(space).__name__)}"


def _check_study(kept: Any, path: object, trainer: Trainer, train: Dataset, settings: list[Any]) -> None:
    """Refuse a file with the study of another search."""
    if path is None:
        return
    about = [trainer.fingerprint(trainer.resolved_preprocessing(), train), *settings]
    if kept.user_attrs.setdefault(_ABOUT, about) != about:
        raise ConfigurationError(
            f"study={str(path)!r} holds another search (other pictures, trainer, folds or space). "
            "Give another file, or remove it to start anew."
        )
    kept.set_user_attr(_ABOUT, about)


def _open_study(optuna: Any, path: str | os.PathLike[str] | None, seed: int) -> Any:
    storage = None
    if path is not None:
        backend = optuna.storages.journal.JournalFileBackend(str(Path(path)))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        study_name="flowercnn",
        storage=storage,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    # A search that goes on must not draw again what it has tried.
    study.sampler = optuna.samplers.TPESampler(seed=(seed + len(study.get_trials(deepcopy=False))) % 2**32)
    return study


def _ended(optuna: Any) -> tuple[Any, ...]:
    states = optuna.trial.TrialState
    return (states.COMPLETE, states.PRUNED)  # one that failed may have been stopped by Ctrl-C
