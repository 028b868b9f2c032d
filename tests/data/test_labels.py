from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowercnn.data.labels import LabelEncoder, check_printable
from flowercnn.errors import ConfigurationError, UnknownNameError

NAMES = st.lists(st.text(min_size=1), min_size=1, max_size=20)


@given(NAMES)
def test_decoding_what_was_encoded_gives_it_back(names: list[str]) -> None:
    encoder = LabelEncoder.fit(names)
    assert encoder.decode(encoder.encode(names).tolist()) == names


@given(NAMES)
def test_the_order_of_names_seen_does_not_matter(names: list[str]) -> None:
    assert LabelEncoder.fit(names) == LabelEncoder.fit(reversed(names))


def test_an_unknown_name_is_an_error_that_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'daisy'\?.*'daysi'"):
        LabelEncoder(("daisy", "rose")).encode(["rose", "daysi"])


@pytest.mark.parametrize("names", [("a", "a"), ("",), (1,)])
def test_names_must_be_distinct_non_empty_strings(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="class_names"):
        LabelEncoder(names)


@pytest.mark.parametrize(
    "name", ["red\x1b[31m", "two\nlines", "half \ud800", "x" * 1_001, "a\u202eb", "\u2066a\u2069"]
)
def test_names_that_could_forge_a_line_of_a_terminal_are_refused_before_training(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no control characters"):
        check_printable(("daisy", name))


def test_names_of_scripts_from_right_to_left_are_printable() -> None:
    check_printable(("ורד", "زهرة\u200c", "\u200fא"))
