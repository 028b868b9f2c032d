"""Keras on the TensorFlow backend, imported when first needed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from flowercnn._utils import check_seed
from flowercnn.errors import ConfigurationError, FlowerCNNError

_ONE_AT_A_TIME: Final = threading.RLock()


def import_keras() -> Any:
    """Return the keras module.

    Raises:
        ConfigurationError: If Keras runs on another backend, or with unusual settings.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigurationError(
            f"flowercnn needs Keras on TensorFlow. Received: backend {backend!r}. "
            "Unset KERAS_BACKEND, or set it to 'tensorflow', before Python starts."
        )
    settings = (keras.config.image_data_format(), keras.config.floatx())
    if settings != ("channels_last", "float32"):
        raise ConfigurationError(
            "flowercnn needs Keras's usual settings: keras.config.image_data_format() "
            f"'channels_last' and floatx() 'float32'. Received: {settings}"
        )
    return keras


@contextmanager
def memory_errors(what: str, kind: type[FlowerCNNError] = ConfigurationError) -> Iterator[None]:
    """Context that turns TensorFlow's lack of memory into an error of this library.

    Args:
        what: The network or file that is computed, for the message.
        kind: The class of the error.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "ResourceExhaustedError":  # by name: LiteRT has no TensorFlow
            raise
        raise kind(
            f"{what} needs more memory than there is. Use a smaller image_size or a network with "
            f"smaller feature maps, or free memory. TensorFlow says: {str(error)[:300]}"
        ) from error


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Context in which new layers get initial weights that depend on ``seed`` alone.

    Keras draws the seeds of initialisers and dropout from Python's ``random``. Its state is
    restored afterwards (``keras.utils.set_random_seed`` would reset three generators). A global
    dtype policy set by the user is ignored. One thread at a time.
    """
    checked = check_seed(seed)
    keras = import_keras()  # now: the first import draws from the same generator
    with _ONE_AT_A_TIME:
        state = random.getstate()
        policy = keras.config.dtype_policy()
        random.seed(checked)
        keras.config.set_dtype_policy("float32")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(policy)
            random.setstate(state)
