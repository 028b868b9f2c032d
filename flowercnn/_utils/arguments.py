"""Argument checks: the rules that several functions share.

Each check returns the value as a Python type, so that NumPy scalars are accepted everywhere, or
raises a ConfigurationError with the argument's name, the rule and the value received. ``name`` is
the argument's name, ``least`` and ``most`` are the smallest and largest value allowed.
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
_INF = math.inf


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """Return a count, a whole number in a range, as an int."""
    count = _integer(value)
    if count is None or count < least or (most is not None and count > most):
        rule = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
        raise _wrong(name, rule, value)
    return count


def check_number(
    name: str, value: Any, *, least: float = -_INF, most: float = _INF, above: float = -_INF
) -> float:
    """Return a finite number in a range as a float; ``above`` is an exclusive lower bound."""
    number = _real(value)
    if number is None or not (least <= number <= most and number > above and math.isfinite(number)):
        limits = (("above", above), ("at least", least), ("at most", most))
        rules = [f"{words} {limit:g}" for words, limit in limits if math.isfinite(limit)]
        raise _wrong(name, f"a number {' and '.join(rules)}".strip(), value)
    return number


def check_share(name: str, value: Any) -> float:
    """Return a share, from 0 to below 1, as a float."""
    share = _real(value)
    if share is None or not 0 <= share < 1:
        raise _wrong(name, "a share from 0 to below 1", value)
    return share


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return the choice that equals ``value``: a NumPy string becomes a Python one."""
    for choice in choices:
        is_alike = isinstance(value, type(choice)) and not isinstance(value, bool)  # True is not 1
        if value is choice or (is_alike and value == choice):
            return choice
    *others, last = map(repr, choices)
    raise _wrong(name, f"{', '.join(others)} or {last}" if others else last, value)


def check_instance(name: str, value: Any, kind: type[T], hint: str = "") -> T:
    """Return ``value`` if it is an instance of ``kind``, a class of flowercnn.

    The error has the hint how to make one, such as ``"load one with Predictor.load(path)"``.
    """
    if isinstance(value, kind):
        return value
    rule = "; ".join(filter(None, [f"a flowercnn.{kind.__name__}", hint]))
    raise ConfigurationError(f"{_wrong(name, rule, value)} ({type(value).__name__})")


def check_pair(name: str, value: Any, *, least: int = 1, most: int) -> tuple[int, int]:
    """Return (height, width), such as ``image_size``, as two ints in a range."""
    pair = [_integer(each) for each in value] if isinstance(value, Iterable) else []
    valid = [each for each in pair if each is not None and least <= each <= most]
    if len(pair) == len(valid) == 2:  # noqa: PLR2004 - a pair
        return valid[0], valid[1]
    raise _wrong(name, f"(height, width), two ints from {least} to {most}", value)


def check_class_names(value: Any, name: str = "class_names") -> tuple[str, ...]:
    """Return class names, a list or tuple of distinct, non-empty strings, as a tuple."""
    if isinstance(value, (set, frozenset)):
        rule = f"{name} must be in a fixed order: a list or tuple."
        raise ConfigurationError(f"{rule} Received: a {type(value).__name__}. Sort it.")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(name, "a list or tuple of names", value)
    names = tuple(value)
    if not all(isinstance(each, str) and each for each in names):
        raise _wrong(name, "non-empty strings", names)
    if len(set(names)) != len(names):
        raise _wrong(name, "distinct", names)
    return tuple(str(each) for each in names)


def _integer(value: Any) -> int | None:
    """Return a whole number as an int, anything else (a bool too) as ``None``."""
    if type(value).__name__ in ("bool", "bool_"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _real(value: Any) -> float | None:
    """Return a real number as a float, anything else (a bool too) as ``None``."""
    if type(value).__name__ in ("bool", "bool_") or not isinstance(value, numbers.Real):
        return None
    return float(value)


def _wrong(name: str, rule: str, value: Any) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {rule}. Received: {name}={_short(value)}")


def _short(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
