"""Random numbers that depend on the user's seed and their purpose only."""

from __future__ import annotations

import hashlib
import operator
from typing import SupportsIndex

import numpy as np

from flowercnn.errors import ConfigurationError

__all__ = ["check_seed", "generator", "stable_hash"]


def check_seed(seed: SupportsIndex) -> int:
    """Return ``seed`` as an int from 0 to 2**63 - 1.

    Raises:
        ConfigurationError: If it is anything else.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if isinstance(seed, bool) or not 0 <= value < 2**63:
        raise ConfigurationError(
            f"seed must be an int from 0 to 2**63 - 1. Received: seed={seed!r}"
        )
    return value


def stable_hash(seed: int, *parts: str | int) -> int:
    """Return a 64-bit hash of the arguments, the same in every process and on every machine."""
    text = "\x1f".join([str(seed), *map(str, parts)]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Return the generator of a seed and a purpose, such as ``generator(0, "order", epoch)``.

    No state is shared between purposes, so adding one never changes the numbers of another.

    Example:
        >>> first, second = generator(0, "order", 3), generator(0, "order", 3)
        >>> bool(first.integers(1000) == second.integers(1000))
        True
    """
    return np.random.default_rng(np.random.SeedSequence([seed, stable_hash(seed, *parts)]))
