"""Checks of arguments that many functions take."""

from __future__ import annotations

import operator
from typing import Any

from flowercnn.errors import ConfigurationError

__all__ = ["check_count"]


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Return an argument that says how many, one of NumPy's integers too, as an int of Python.

    Args:
        name: Of the argument, for the error.
        value: What the user gave.
        least: The smallest number allowed.

    Raises:
        ConfigurationError: If it is no whole number, or below ``least``.
    """
    try:
        count = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise ConfigurationError(f"{name} must be an int of at least {least}. Received: {name}={value!r}")
    return count
