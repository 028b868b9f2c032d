"""Random numbers that depend on the user's seed and on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib
import operator
from typing import SupportsIndex

import numpy as np

from flowercnn.errors import ConfigurationError

__all__ = ["check_seed", "generator", "stable_hash"]

_SEED_LIMIT = 2**63


def check_seed(seed: SupportsIndex) -> int:
    """Return ``seed`` as an int from 0 to 2**63 - 1.

    Raises:
        ConfigurationError: If it is anything else.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if isinstance(seed, bool) or not 0 <= value < _SEED_LIMIT:
        raise ConfigurationError(f"seed must be an int from 0 to 2**63 - 1. Received: seed={seed!r}")
    return value


def stable_hash(seed: int, *parts: str | int) -> int:
    """Return a 64-bit number that is the same for the same arguments in every process, on every machine."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a generator addressed by a seed and a purpose, such as ``generator(0, "order", epoch)``.

    No state is shared between purposes, so adding one never changes the numbers of another.

    Example:
        >>> int(generator(0, "order", 3).integers(1000)) == int(generator(0, "order", 3).integers(1000))
        True
    """
    return np.random.default_rng(np.random.SeedSequence([seed, stable_hash(seed, *parts)]))
