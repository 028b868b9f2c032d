"""``model="auto"``: what does best on this data in this time, by cross-validation, and why."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from flowercnn.data import Dataset, as_dataset
from flowercnn.errors import ConfigurationError, FlowerCNNError, SplitError
from flowercnn.evaluation import evaluate
from flowercnn.models import BACKBONES, PREFIX, find_weights
from flowercnn.sources import DataSource
from flowercnn.training.budget import parse_time
from flowercnn.training.plan import Plan
from flowercnn.training.trainer import Trainer
from flowercnn.training.transfer.backbone import views_of
from flowercnn.training.transfer.features import compute_features, fit_on_features

__all__ = ["choose_trainer", "weights_at_hand"]

_FOLDS: Final = 2  # of training from scratch, which takes long
_SHARE: Final = 0.25  # of the time for each of those; the rest is for the training itself
_TRAINING: Final = 0.4  # of the time that is kept for the training itself
_log = logging.getLogger(__name__)


def weights_at_hand(weights: Any = None) -> dict[str, Path]:
    """Return the files of pretrained weights that need no download, by backbone.

    Args:
        weights: A file or several named by the user, identified by the network's name in the file's
            name, or a mapping from backbone to file. What lies in Keras's cache is found without.

    Raises:
        ConfigurationError: If something is no path, or a file's name names no network.
    """
    found = {PREFIX + name: path for name in BACKBONES if (path := find_weights(name)) is not None}
    if weights is None or weights == "imagenet":
        return found
    if isinstance(weights, Mapping):
        _check_files(weights.values(), weights)
        return found | {
            PREFIX + str(name).lower().removeprefix(PREFIX): Path(file)
            for name, file in weights.items()
        }
    files = (
        list(weights)
        if isinstance(weights, Iterable) and not isinstance(weights, str)
        else [weights]
    )
    _check_files(files, weights)
    for file in files:
        plain = re.sub(r"[^a-z0-9]", "", Path(file).name.lower())
        names = [name for name in BACKBONES if name in plain]
        if not names:
            raise ConfigurationError(
                f"weights: {Path(file).name} does not say of which network it is. Give a mapping, "
                '{"mobilenet": "file.weights.h5"}, or model="backbone:<name>".'
            )
        found[PREFIX + max(names, key=len)] = Path(file)
    return found


def _check_files(files: Iterable[Any], weights: Any) -> None:
    if not all(isinstance(file, (str, os.PathLike)) for file in files):
        raise ConfigurationError(
            'weights of model="auto" must be a path, several, or a mapping such as {"mobilenet": '
            '"file.weights.h5"}. '
            f"Received: weights={weights!r}"
        )


def choose_trainer(
    train: Dataset | DataSource | str | os.PathLike[str],
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> tuple[Trainer, str]:
    """Return the trainer that is best in cross-validation on ``train``, and the reason.

    Compared are ``fast``, from scratch, and every backbone whose weights are at hand, with its last
    layer trained.

    Args:
        train: What to learn from, as `flowercnn.train` takes it; nothing else is looked at.
        seed: Of folds and training.
        settings: Other arguments of `Trainer`; ``model_options={"weights": ...}`` names weights,
            ``time_budget`` is the time for all.
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: If there is a network among the options, or ``weights`` are no files.
    """
    started = time.perf_counter()
    train = as_dataset(train)
    given = dict(settings or {})
    options = dict(given.pop("model_options", {}))
    if options.get("backbone") is not None:
        raise ConfigurationError(
            'model_options["backbone"] is a network of your own, which model="auto" does not '
            "compare. "
            'Pass model="backbone:own".'
        )
    weights = options.pop("weights", None)
    budget = given.pop("time_budget", None)
    seconds = None if budget is None else parse_time(budget)
    trainers: dict[str, Trainer] = {}
    scores: dict[str, float] = {}
    skipped: list[str] = []
    for name, path in weights_at_hand(weights).items():
        if seconds is not None and time.perf_counter() - started > (1 - _TRAINING) * seconds:
            skipped.append(f"{name} (no time left)")
            continue
        trainer = Trainer(name, seed=seed, model_options={**options, "weights": str(path)}, **given)
        try:
            scores[name] = _score_backbone(trainer.plan(train), train, progress=progress)
            trainers[name] = trainer
        except FlowerCNNError as error:  # one bad file of weights must not end the others' chances
            skipped.append(f"{name} ({error})")
    scratch = Trainer("fast", seed=seed, **given)
    left = None if seconds is None else seconds - (time.perf_counter() - started)
    if left is not None and seconds is not None and scores and left < _TRAINING * seconds:
        skipped.append("fast (no time left)")
    else:
        told = given.get("epochs") is not None
        share = None if left is None or told else max(1.0, _SHARE * left)
        trial = dataclasses.replace(scratch, time_budget=share, early_stopping=None)
        scores["fast"] = _score_scratch(trial, train, seed, progress=progress)
        rest = None if seconds is None else max(1.0, seconds - (time.perf_counter() - started))
        trainers["fast"] = dataclasses.replace(scratch, time_budget=None if told else rest)
    # Of equals the first: a backbone, which trains in seconds. What could not be tested is worse
    # than what was.
    best = max(scores, key=lambda name: -1.0 if math.isnan(scores[name]) else scores[name])
    reason = _reason(best, scores, skipped)
    _log.info(reason)
    return trainers[best], reason


def _reason(best: str, scores: Mapping[str, float], skipped: Sequence[str]) -> str:
    """Return why it was ``best``."""
    tested = {name: score for name, score in scores.items() if not math.isnan(score)}
    untested = [name for name in scores if name not in tested]
    compared = ", ".join(
        f"{name} {score:.1%}" for name, score in sorted(tested.items(), key=lambda item: -item[1])
    )
    why = (
        f"accuracy in cross-validation on train was {compared}"
        if tested
        else "nothing tells which is better"
    )
    reason = f"auto chose {best}: {why}."
    if untested:
        reason += f" {', '.join(untested)} could not be cross-validated: too few images of a class."
    if not any(name.startswith(PREFIX) for name in scores):
        reason += " No pretrained weights were at hand; with some, few images go much further."
    if skipped:
        reason += f" Not tried: {'; '.join(skipped)}."
    return reason


def _score_backbone(plan: Plan, train: Dataset, *, progress: bool) -> float:
    model = plan.build(progress=progress)
    features = compute_features(
        model,
        train,
        plan.preprocessing,
        views=views_of(plan.recipe),
        bad_images=plan.bad_images,
        progress=progress,
    )
    return fit_on_features(features, train, plan.recipe, seed=plan.seed).accuracy


def _score_scratch(trainer: Trainer, train: Dataset, seed: int, *, progress: bool) -> float:
    """Return the accuracy in cross-validation of classes with enough images, or NaN."""
    counts = np.bincount(train.labels, minlength=train.num_classes)
    tested = train.subset(counts[train.labels] >= _FOLDS)
    try:
        folds = tested.folds(_FOLDS, seed=seed, progress=progress)
    except SplitError as error:
        _log.info("No cross-validation: %s", error)
        return math.nan
    hits = total = 0.0
    for fold in folds:
        left_out = set(fold.test.keys)
        # All the rest: a class with one image cannot be tested, but is learned.
        learned = train.subset(
            [number for number, key in enumerate(train.keys) if key not in left_out]
        )
        if len(np.unique(learned.labels)) < 2:  # noqa: PLR2004 - all copies of a class were in this fold
            return math.nan
        run = trainer.fit(learned, progress=False)
        if run.interrupted:
            raise KeyboardInterrupt
        evaluation = evaluate(
            run.predictor, fold.test, bad_images=trainer.bad_images, progress=False
        )
        hits, total = hits + evaluation.accuracy * len(evaluation), total + len(evaluation)
    return hits / total
