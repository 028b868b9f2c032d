"""Notes on a training: sentences about unbalanced classes, divergence and overfitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from flowercnn.training.run import History

__all__ = ["advice", "balance_note"]

_ENOUGH_EPOCHS: Final = 4
_LEARNED_BY_HEART: Final = 0.98
_GAP: Final = 0.2
_WORSE_THAN_GUESSING: Final = 1.5


def balance_note(
    weights: npt.NDArray[np.float32] | None, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Return a sentence about classes that count more than others, if they do.

    Args:
        weights: As `Recipe.class_weights` returns them.
        class_names: Their classes.
    """
    if weights is None:
        return ()
    rare, common = int(weights.argmax()), int(np.where(weights > 0, weights, np.inf).argmin())
    sentence = (
        f"The classes are unbalanced: in the loss, an image of {class_names[rare]!r} counts "
        f"{weights[rare] / weights[common]:.1f} times as much as one of {class_names[common]!r}. "
        'Recipe(balance="none") leaves that off.'
    )
    return (sentence,)


def advice(history: History, num_classes: int) -> tuple[str, ...]:
    """Return what a user should know about how the training went, in sentences; usually nothing."""
    if len(history) < _ENOUGH_EPOCHS:
        return ()
    last = history.epochs[-1]
    highest = max(epoch["learning_rate"] for epoch in history.epochs)
    said = []
    if last["loss"] > _WORSE_THAN_GUESSING * math.log(num_classes):
        said.append(
            f"The training diverges: its loss of {last['loss']:.2f} is worse than guessing "
            f"({math.log(num_classes):.2f}). Use a lower learning_rate (it rose to {highest:g})."
        )
    gap = last["accuracy"] - last.get("val_accuracy", math.inf)
    if last["accuracy"] > _LEARNED_BY_HEART and gap > _GAP:
        said.append(
            f"The network memorises the training images: {last['accuracy']:.0%} of them "
            "are right, of val "
            f"{last['val_accuracy']:.0%}. More images or stronger augmentation help; more epochs "
            "do not."
        )
    return tuple(said)
