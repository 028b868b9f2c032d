"""Keras callbacks in trainings that Keras does not run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from flowercnn.models import import_keras

__all__ = ["make_callback_list"]


def make_callback_list(
    callbacks: Iterable[Any], model: Any, *, epochs: int, steps: int, optimizer: Any = "sgd"
) -> Any:
    """Return a ``keras.callbacks.CallbackList`` for a model prepared as in ``Model.fit``.

    Args:
        callbacks: Keras callbacks.
        model: What they see. It is compiled; nothing of that is used but by them.
        epochs: How many there will be.
        steps: Of an epoch.
        optimizer: Whose learning rate they may read and set.
    """
    given = list(callbacks)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    if given:  # unused metrics have no names, which callbacks need
        model.compute_metrics(None, np.zeros(1), np.eye(1, model.output_shape[1]))
        model.reset_metrics()
    return import_keras().callbacks.CallbackList(
        given, model=model, epochs=epochs, steps=steps, verbose=0
    )
