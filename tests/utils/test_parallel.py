from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowercnn._utils.parallel import cpu_count, image_map, ordered_map


@given(
    st.lists(st.integers(), max_size=40), st.integers(1, 4), st.integers(1, 9), st.integers(1, 12)
)
@settings(deadline=None, max_examples=30)
def test_results_come_in_order_whatever_the_threads(
    items: list[int], workers: int, window: int, at_once: int
) -> None:
    results = ordered_map(lambda x: x * 2, items, workers=workers, window=window, at_once=at_once)
    assert list(results) == [x * 2 for x in items]


@pytest.mark.parametrize(("window", "at_once"), [(5, 1), (12, 3)])
def test_no_more_items_are_taken_than_the_window_allows(window: int, at_once: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    stream = ordered_map(lambda x: x, items(), workers=2, window=window, at_once=at_once)
    next(stream)
    time.sleep(0.05)
    assert len(taken) <= window + at_once
    stream.close()  # type: ignore[attr-defined]  # it is a generator


def test_even_few_pictures_give_every_thread_something_to_do() -> None:
    meeting = threading.Barrier(cpu_count())  # opens when all threads wait at it
    found = image_map(
        lambda _: meeting.wait(timeout=10), range(cpu_count()), like=b"", count=cpu_count()
    )
    assert sorted(found) == list(range(cpu_count()))


def test_a_picture_that_comes_by_network_is_read_while_others_wait() -> None:
    meeting = threading.Barrier(16)
    found = image_map(lambda _: meeting.wait(timeout=10), range(160), like=lambda: b"", count=160)
    assert len(list(found)) == 160


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
