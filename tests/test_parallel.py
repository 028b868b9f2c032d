from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowercnn.parallel import ordered_map


@given(st.lists(st.integers(), max_size=40), st.integers(1, 4), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_results_come_in_order_whatever_the_threads(items: list[int], workers: int, window: int) -> None:
    assert list(ordered_map(lambda x: x * 2, items, workers=workers, window=window)) == [x * 2 for x in items]


def test_no_more_items_are_taken_than_the_window_allows() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    stream = ordered_map(lambda x: x, items(), workers=2, window=5)
    next(stream)
    time.sleep(0.05)
    assert len(taken) <= 6
    stream.close()  # type: ignore[attr-defined]  # it is a generator


def test_an_error_comes_where_its_result_would_have_come() -> None:
    stream = ordered_map(lambda x: 1 // x, [1, 0, 1], workers=2, window=2)
    assert next(stream) == 1
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_closing_early_ends_the_threads() -> None:
    before = threading.active_count()
    stream = ordered_map(lambda x: x, range(1000), workers=3, window=9)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert threading.active_count() == before
