"""A search for better settings, by cross-validation on training data, with Optuna."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from flowercnn._utils import as_path, check_count
from flowercnn.data import Dataset, as_dataset
from flowercnn.errors import (
    ConfigurationError,
    FlowerCNNError,
    MissingDependencyError,
    TrainingError,
)
from flowercnn.evaluation import evaluate
from flowercnn.models import Recipe
from flowercnn.sources import DataSource
from flowercnn.training.trainer import Trainer

__all__ = ["SearchResult", "Space", "search", "usual_space"]

_ABOUT: Final = "about"
_BEGINNING: Final = b'{"op_code":'  # of every file Optuna writes
_log = logging.getLogger(__name__)

Space: TypeAlias = Callable[[Any, Recipe], Recipe]
"""A function that takes an ``optuna.Trial`` and a recipe and returns the recipe to try."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of a search.

    Args:
        recipe: The best recipe; give it to a `Trainer` with the other settings of the one that
            searched.
        accuracy: Its mean accuracy over the folds, 0-1. Being the best of many, it flatters:
            measure on test.
        trials: Every finished trial: what was tried, and its mean accuracy.
    """

    recipe: Recipe
    accuracy: float
    trials: tuple[tuple[dict[str, Any], float], ...]


def usual_space(trial: Any, recipe: Recipe) -> Recipe:
    """Vary what matters most: learning rate, weight decay, label smoothing and augmentation."""
    changes: dict[str, Any] = {
        "learning_rate": recipe.learning_rate
        * trial.suggest_float("learning_rate_factor", 1 / 3, 3, log=True),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
    }
    if recipe.weight_decay:
        changes["weight_decay"] = recipe.weight_decay * trial.suggest_float(
            "weight_decay_factor", 0.1, 10, log=True
        )
    if recipe.augmentation is not None:
        changes["augmentation"] = dataclasses.replace(
            recipe.augmentation,
            min_area=trial.suggest_float("min_area", 0.1, 0.8),
            saturation=trial.suggest_float("saturation", 0.0, 0.5),
        )
    return dataclasses.replace(recipe, **changes)


def search(
    train: Dataset | DataSource | str | os.PathLike[str],
    *,
    trials: int = 20,
    folds: int = 3,
    space: Space = usual_space,
    trainer: Trainer | None = None,
    study: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SearchResult:
    """Try recipes and return the one with the best mean accuracy over the folds of ``train``.

    Give it the ``train`` part of a split: what it never gets it can never select on. Trials that do
    worse than the median of those before are given up after a fold. Ctrl-C ends the search and
    returns the best so far.

    Args:
        train: What to learn from, such as the ``train`` part of a split.
        trials: How many recipes to try, those in ``study`` included.
        folds: Of the cross-validation, at least 2.
        space: What to vary; see `usual_space`.
        trainer: How to train otherwise, and the seed; by default ``Trainer()``.
        study: A file that keeps the trials; a search with the same file continues.
        progress: Whether to show progress bars.

    Raises:
        MissingDependencyError: If Optuna is not installed.
        ConfigurationError: If ``train`` is no data set, ``trials`` no int of at least 1, or
            ``study`` is a folder or holds another search.
        TrainingError: If no trial was finished, or ``study`` cannot be read or written.
    """
    check_count("trials", trials)
    train = as_dataset(train)
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError(
            "A search needs Optuna: pip install 'flowercnn[search]'"
        ) from error
    base = trainer or Trainer()
    plan = base.plan(train)
    parts = train.folds(folds, seed=base.seed, progress=progress)

    def objective(trial: Any) -> float:
        recipe = space(trial, plan.recipe)
        trial.set_user_attr("recipe", repr(recipe))
        trainer = _with_recipe(base, recipe)
        accuracies = []
        for number, fold in enumerate(parts):
            run = trainer.fit(fold.train, progress=progress)
            if run.interrupted:
                raise KeyboardInterrupt
            accuracies.append(
                evaluate(
                    run.predictor, fold.test, bad_images=base.bad_images, progress=False
                ).accuracy
            )
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
        with _ctrl_c_ends():
            if left > 0:
                kept.optimize(objective, n_trials=left, catch=(TrainingError,))
    finally:
        optuna.logging.set_verbosity(verbosity)
    finished = kept.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not finished:
        raise TrainingError("No trial was finished. Try more, or lower learning rates.")
    best = max(finished, key=lambda trial: trial.value)
    recipe = space(optuna.trial.FixedTrial(best.params), plan.recipe)
    return SearchResult(
        recipe,
        float(best.value),
        tuple((dict(each.params), float(each.value)) for each in finished),
    )


@contextmanager
def _ctrl_c_ends() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _log.warning("Stopped by Ctrl-C; the trials that ended are kept.")


def _with_recipe(base: Trainer, recipe: Recipe) -> Trainer:
    """Return the trainer with another recipe, which overrides its own settings."""
    own = ("epochs", "batch_size", "learning_rate")
    told: dict[str, Any] = {
        name: None if getattr(base, name) is None else getattr(recipe, name) for name in own
    }
    return dataclasses.replace(base, recipe=recipe, image_size=None, **told)


def _name_of(space: Space) -> str:
    if space is usual_space:  # a study of an earlier version continues
        return "flowercnn.training.search.usual_space"
    name = getattr(space, "__qualname__", type(space).__name__)
    return f"{getattr(space, '__module__', '')}.{name}"


def _check_study(
    kept: Any, path: object, trainer: Trainer, train: Dataset, settings: list[Any]
) -> None:
    """Refuse a file with the study of another search."""
    if path is None:
        return
    about = [trainer.plan(train).fingerprint(train), *settings]
    if kept.user_attrs.setdefault(_ABOUT, about) != about:
        raise ConfigurationError(
            f"study={str(path)!r} holds another search (other images, trainer, folds or space). "
            "Give another file, or remove it to start over."
        )
    kept.set_user_attr(_ABOUT, about)


def _open_study(optuna: Any, path: str | os.PathLike[str] | None, seed: int) -> Any:
    file = None if path is None else as_path(path, "study")
    with nullcontext() if file is None else _explained(file):
        study = optuna.create_study(
            study_name="flowercnn",
            storage=None
            if file is None
            else optuna.storages.JournalStorage(_Journal(optuna, file)),
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            load_if_exists=True,
        )
    # A search that goes on must not draw again what it has tried.
    study.sampler = optuna.samplers.TPESampler(
        seed=(seed + len(study.get_trials(deepcopy=False))) % 2**32
    )
    return study


class _Journal:
    """Optuna's journal in a file, with errors that say which file.

    Args:
        optuna: The package.
        path: Of the file; it and its folder are made if they are not there.

    Raises:
        ConfigurationError: If it is no file a search has written.
    """

    def __init__(self, optuna: Any, path: Path) -> None:
        self._path = path.absolute()
        if path.is_dir():
            raise ConfigurationError(
                f"study must be a file. Received a folder: study={str(path)!r}"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        old_lock = Path(f"{self._path}.lock")
        if old_lock.is_symlink() and not old_lock.exists():  # Optuna would wait for it without end
            old_lock.unlink(missing_ok=True)
        # The links Optuna locks with by default need rights on Windows.
        self._lock = optuna.storages.journal.JournalFileOpenLock(str(self._path))
        if self._path.exists():
            self._cut_torn_end()
        self._backend = optuna.storages.journal.JournalFileBackend(
            str(self._path), lock_obj=self._lock
        )

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        with _explained(self._path):
            yield from self._backend.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with _explained(self._path):
            try:
                self._backend.append_logs(logs)
            except OSError:
                self._cut_torn_end()
                raise

    def _cut_torn_end(self) -> None:
        """Cut off an incomplete last line, left by a full disk or a stopped computer."""
        self._lock.acquire()
        try:
            content = self._path.read_bytes()
            if not content.startswith(_BEGINNING) and not _BEGINNING.startswith(content):
                raise ConfigurationError(
                    f"study={str(self._path)!r} is not a file a search has written. Give another "
                    "file."
                )
            end = _end_of_lines(content)
            if end < len(content):
                _log.warning("%s: its last line was not complete and was cut off.", self._path)
                os.truncate(self._path, end)
        finally:
            self._lock.release()


def _end_of_lines(content: bytes) -> int:
    """Return where the last line ends that is whole."""
    end = content.rfind(b"\n") + 1
    while end:
        begin = content.rfind(b"\n", 0, end - 1) + 1
        try:
            json.loads(content[begin:end])
        except ValueError:
            end = begin
        else:
            break
    return end


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Name the file that Optuna cannot use."""
    try:
        yield
    except FlowerCNNError:
        raise
    except (OSError, AssertionError, ValueError, LookupError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise TrainingError(
            f"study={str(path)!r} cannot be read or written ({reason}). See that there is space on "
            "the disk, or "
            "remove it to start over."
        ) from error


def _ended(optuna: Any) -> tuple[Any, ...]:
    states = optuna.trial.TrialState
    return (states.COMPLETE, states.PRUNED)  # one that failed may have been stopped by Ctrl-C
