from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowercnn._utils.arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_instance,
    check_number,
    check_pair,
    check_share,
)
from flowercnn.errors import ConfigurationError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_kind_become_ints(value: Any) -> None:
    assert type(check_count("k", value)) is int
    assert check_pair("size", (value, value), most=9) == (3, 3)


@pytest.mark.parametrize("value", [0, -1, True, np.True_, 2.0, "2", None, np.array([1, 2])])
def test_what_is_not_a_count_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="k must be an int of at least 1. Received: k="):
        check_count("k", value)


def test_a_count_may_have_a_largest_value() -> None:
    with pytest.raises(ConfigurationError, match="k must be an int from 2 to 5. Received: k=6"):
        check_count("k", 6, least=2, most=5)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5)])
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    assert type(check_number("rate", value, above=0)) is float
    assert check_share("share", value) == 0.5


@pytest.mark.parametrize("value", [0, float("nan"), float("inf"), "1", None, True, 1j])
def test_what_is_not_a_number_in_range_is_refused(value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="rate must be a number above 0 and at most 2. Received: rate="
    ):
        check_number("rate", value, above=0, most=2)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, float("nan"), True, "0.5", None])
def test_what_is_not_a_share_is_refused(value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="val must be a share from 0 to below 1. Received: val="
    ):
        check_share("val", value)


@pytest.mark.parametrize("value", ["stop", None, 1, ["error"], np.array(["error", "skip"])])
def test_what_is_none_of_the_choices_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="mode must be 'error' or 'skip'. Received: mode="):
        check_choice("mode", value, ("error", "skip"))


@pytest.mark.parametrize(
    "value", [(1,), (1, 2, 3), (0, 2), (1, 10), (1.0, 2), "12", 4, (True, 2), None]
)
def test_what_is_not_a_pair_is_refused(value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"size must be \(height, width\), two ints from 1 to 9. Received:"
    ):
        check_pair("size", value, most=9)


def test_an_object_of_another_class_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"part must be a flowercnn.int; make one. Received: part='a' \(str\)",
    ):
        check_instance("part", "a", int, "make one")
    assert check_instance("part", 3, int) == 3


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"a"}, "in a fixed order"),
        ("ab", "a list"),
        ([1], "non-empty"),
        (["", "a"], "non-empty"),
        (["a", "a"], "dist"),
    ],
)
def test_what_is_no_list_of_class_names_is_refused(value: Any, rule: str) -> None:
    with pytest.raises(ConfigurationError, match=f"class_names must be {rule}"):
        check_class_names(value)
    assert check_class_names([np.str_("a"), "b"]) == ("a", "b")
