"""Checks of arguments: every rule that more than one function has for what users pass.

Each check returns the value in Python's own type, so that NumPy's numbers are taken wherever Python's are, or raises
a ConfigurationError that names the argument, the rule and what was received.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from flowercnn.errors import ConfigurationError

__all__ = [
    "check_choice",
    "check_class_names",
    "check_count",
    "check_instance",
    "check_number",
    "check_pair",
    "check_share",
]

T = TypeVar("T")


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """Return an argument that says how many as an int.

    Args:
        name: The argument's name, for the error.
        value: What the user passed.
        least: The smallest number allowed.
        most: The largest number allowed, or ``None``.

    Raises:
        ConfigurationError: If it is not a whole number, or out of range.
    """
    count = _integer(value)
    if count is None or count < least or (most is not None and count > most):
        rule = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
        raise _wrong(name, rule, value)
    return count


def check_number(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> float:
    """Return an argument that is a finite number as a float.

    Args:
        name: The argument's name, for the error.
        value: What the user passed.
        least: The smallest number allowed.
        most: The largest number allowed.
        above: A number it must be larger than.

    Raises:
        ConfigurationError: If it is not a number, or out of range.
    """
    number = _real(value)
    if number is None or not (least <= number <= most and number > above and math.isfinite(number)):
        limits = ((f"above {above:g}", above), (f"at least {least:g}", least), (f"at most {most:g}", most))
        rules = [text for text, limit in limits if math.isfinite(limit)]
        raise _wrong(name, " ".join(["a number", " and ".join(rules)]).strip(), value)
    return number


def check_share(name: str, value: Any) -> float:
    """Return an argument that is a share, from 0 to below 1, as a float.

    Raises:
        ConfigurationError: If it is anything else.
    """
    share = _real(value)
    if share is None or not 0 <= share < 1:
        raise _wrong(name, "a share from 0 to below 1", value)
    return share


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return an argument that is one of a few values, as that value: NumPy's strings become Python's.

    Raises:
        ConfigurationError: If it is not one of them.
    """
    for choice in choices:
        alike = isinstance(value, type(choice)) and not isinstance(value, bool)  # True is not 1
        if value is choice or (alike and value == choice):
            return choice
    *others, last = map(repr, choices)
    raise _wrong(name, f"{', '.join(others)} or {last}" if others else last, value)


def check_instance(name: str, value: Any, kind: type[T], hint: str = "") -> T:
    """Return an argument that is an object of a class.

    Args:
        name: The argument's name, for the error.
        value: What the user passed.
        kind: The class.
        hint: How to make one, for the error, such as ``"load one with Predictor.load(path)"``.

    Raises:
        ConfigurationError: If it is something else.
    """
    if isinstance(value, kind):
        return value
    way_out = f"; {hint}" if hint else ""
    raise ConfigurationError(
        f"{name} must be a flowercnn.{kind.__name__}{way_out}. Received: {name}={_short(value)} "
        f"({type(value).__name__})"
    )


def check_pair(name: str, value: Any, *, least: int = 1, most: int) -> tuple[int, int]:
    """Return an argument that is two whole numbers, such as ``image_size=(height, width)``.

    Raises:
        ConfigurationError: If it is anything else, or a number is out of range.
    """
    pair = [_integer(each) for each in value] if isinstance(value, Iterable) else []
    whole = [each for each in pair if each is not None and least <= each <= most]
    if len(pair) == len(whole) == 2:  # noqa: PLR2004 - a pair
        return whole[0], whole[1]
    raise _wrong(name, f"(height, width), two ints from {least} to {most}", value)


def check_class_names(value: Any, name: str = "class_names") -> tuple[str, ...]:
    """Return class names as a tuple of distinct, non-empty strings.

    Args:
        value: What the user passed: a list or tuple.
        name: The argument's name, for the error.

    Raises:
        ConfigurationError: If it is anything else. A set has no order, and a string is not a list of names.
    """
    if isinstance(value, (set, frozenset)):
        rule = "in a fixed order: a list or tuple"
        raise ConfigurationError(f"{name} must be {rule}. Received: a {type(value).__name__}. Sort it.")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(name, "a list or tuple of names", value)
    names = tuple(value)
    if not all(isinstance(each, str) and each for each in names):
        raise _wrong(name, "non-empty strings", names)
    if len(set(names)) != len(names):
        raise _wrong(name, "distinct", names)
    return tuple(str(each) for each in names)


def _integer(value: Any) -> int | None:
    """Return a whole number of Python's, NumPy's or another kind as an int, or ``None``; a bool is not one."""
    if type(value).__name__ in ("bool", "bool_"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _real(value: Any) -> float | None:
    """Return a real number of Python's or NumPy's as a float, or ``None``; a bool is not one."""
    if type(value).__name__ in ("bool", "bool_") or not isinstance(value, numbers.Real):
        return None
    return float(value)


def _wrong(name: str, rule: str, value: Any) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {rule}. Received: {name}={_short(value)}")


def _short(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
