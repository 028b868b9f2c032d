"""Keras, brought in when it is first needed, on the TensorFlow backend."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowercnn.errors import ConfigurationError
from flowercnn.seeding import check_seed

__all__ = ["import_keras", "seeded_weights"]


def import_keras() -> Any:
    """Return the keras module.

    Raises:
        ConfigurationError: If Keras runs on another backend.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigurationError(
            f"flowercnn needs Keras on TensorFlow. Received: backend {backend!r}. "
            "Unset KERAS_BACKEND, or set it to 'tensorflow', before Python starts."
        )
    return keras


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Make the layers built inside start from weights that depend on ``seed`` alone.

    Keras draws the seeds of initialisers and dropout from Python's ``random``; its state is put back afterwards, so
    the user's own random numbers are not disturbed (``keras.utils.set_random_seed`` would reset three generators).
    """
    checked = check_seed(seed)
    import_keras()  # now: the first import draws from the same random numbers
    state = random.getstate()
    random.seed(checked)
    try:
        yield
    finally:
        random.setstate(state)
