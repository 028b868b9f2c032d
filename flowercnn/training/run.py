"""What a training brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowercnn.evaluation.evaluation import Evaluation
from flowercnn.models.recipe import Recipe
from flowercnn.prediction.predictor import Predictor
from flowercnn.splits import Splits
from flowercnn.training.history import History

__all__ = ["TrainingRun"]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The result of `Trainer.fit`.

    Args:
        predictor: The trained classifier.
        history: What happened in each epoch; `History.plot` draws it.
        recipe: How it was trained.
        seed: The seed of weights, order and augmentation.
        precision: ``"float32"`` or ``"bfloat16"``: how activations were held.
        seconds: Wall-clock seconds by step: ``"decode"``, ``"train"``, ``"total"``.
        interrupted: Whether Ctrl-C ended the training early. What was learned until then is in ``predictor``.
        skipped: Keys of training and validation pictures that could not be decoded and were left out.
        notes: What a user should know about how the training went, in sentences; usually nothing.
        splits: Who learned from what, if `train` split the data.
        evaluation: The figures on ``test``, if `train` measured them.
    """

    predictor: Predictor
    history: History
    recipe: Recipe
    seed: int
    precision: str
    seconds: Mapping[str, float]
    interrupted: bool = False
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    splits: Splits | None = None
    evaluation: Evaluation | None = None
