"""Keras, brought in when it is first needed, on the TensorFlow backend."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from flowercnn._utils import check_seed
from flowercnn.errors import ConfigurationError, FlowerCNNError

__all__ = ["import_keras", "memory_errors", "seeded_weights"]

_ONE_AT_A_TIME: Final = threading.RLock()


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
    if keras.config.image_data_format() != "channels_last" or keras.config.floatx() != "float32":
        raise ConfigurationError(
            "flowercnn needs Keras's usual settings: keras.config.image_data_format() 'channels_last' and floatx() "
            f"'float32'. Received: {keras.config.image_data_format()!r}, {keras.config.floatx()!r}"
        )
    return keras


@contextmanager
def memory_errors(what: str, kind: type[FlowerCNNError] = ConfigurationError) -> Iterator[None]:
    """Raise TensorFlow's lack of memory as an error of this library.

    Args:
        what: What is computed, for the message: a network, a file.
        kind: The class of the error.

    Raises:
        FlowerCNNError: Of this kind, if TensorFlow has too little memory.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "ResourceExhaustedError":  # by name, as LiteRT needs no TensorFlow
            raise
        raise kind(
            f"{what} needs more memory than there is. Use a smaller image_size or a network with "
            f"smaller feature maps, or free memory. TensorFlow says: {str(error)[:300]}"
        ) from error


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Make the layers built inside start from weights that depend on ``seed`` alone.

    Keras draws the seeds of initialisers and dropout from Python's ``random``; its state is put back afterwards, so
    the user's own random numbers are not disturbed (``keras.utils.set_random_seed`` would reset three generators).
    Nor does a precision matter that the user has set for all layers. One thread at a time.
    """
    checked = check_seed(seed)
    keras = import_keras()  # now: the first import draws from the same random numbers
    with _ONE_AT_A_TIME:
        state, policy = random.getstate(), keras.config.dtype_policy()
        random.seed(checked)
        keras.config.set_dtype_policy("float32")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(policy)
            random.setstate(state)
