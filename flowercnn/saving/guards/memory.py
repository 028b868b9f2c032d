"""Checks of the memory that a network would take, before it is built."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from flowercnn.errors import ModelFileError
from flowercnn.models import MOST_ACTIVATION_BYTES, activation_bytes, call_count, import_keras

__all__ = ["check_memory"]

_MOST_CALLS: Final = 10_000  # of layers; `accurate` makes 79

Shapes: TypeAlias = list[tuple[int, ...]]


def check_memory(config: bytes, stored: Shapes, name: str, *, exact: bool) -> None:
    """Refuse a network whose weights are not those in the file, or whose activations no memory holds.

    Args:
        config: The network as Keras describes it, JSON.
        stored: The shapes of the arrays in the file, sorted.
        name: Of the file, for messages.
        exact: Whether the arrays must be the weights of the network and nothing more.

    Raises:
        ModelFileError: If it is refused.
    """
    # A thread of its own: Keras keeps the variables it has not made yet, per thread, and would make them later.
    with ThreadPoolExecutor(1) as thread:
        needed, with_seeds, activations, calls = thread.submit(_sizes, config).result()
    # Whether the states of random numbers are stored with the weights is up to the version of Keras.
    if exact and stored not in (needed, with_seeds):
        raise ModelFileError(f"{name}: refused: the weights in the file are not those of the network.")
    parameters = sum(math.prod(shape) for shape in needed)
    if parameters > sum(math.prod(shape) for shape in stored):
        raise ModelFileError(f"{name}: refused: the network needs {parameters:,} weights, more than the file holds.")
    if calls > _MOST_CALLS:
        raise ModelFileError(f"{name}: refused: the network calls its layers {calls:,} times.")
    if activations > MOST_ACTIVATION_BYTES:
        raise ModelFileError(f"{name}: refused: a single picture would need {activations:,} bytes of memory.")


def _sizes(config: bytes) -> tuple[Shapes, Shapes, int, int]:
    """The shapes of a network's weights, those with the states of random numbers, bytes of activations, and calls.

    Shapes are sorted, activations and calls of layers those for one picture. The network is built without its
    weights, so that nothing is allocated for sizes that only a description claims.
    """
    keras = import_keras()
    network = json.loads(config)
    kind = keras.Sequential if network["class_name"] == "Sequential" else keras.Model
    with keras.StatelessScope(initialize_variables=False):
        sketch = kind.from_config(network["config"])
        weights = sorted(tuple(weight.shape) for weight in sketch.weights)
        variables = sorted(tuple(variable.shape) for variable in sketch.variables)
        return weights, variables, activation_bytes(sketch), call_count(sketch)
