"""The order, the bounds and the end of fetching ahead."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowercnn.sources.tensorbay.fetch import prefetch
from flowercnn.sources.tensorbay.transport import GaveUp, RequestFailed, Stopped, Transport, Wait


def nothing(item: int, stop: threading.Event) -> None:
    """Fetch nothing, at once."""


def own_threads() -> list[threading.Thread]:
    return [
        thread for thread in threading.enumerate() if thread.name.startswith("flowercnn-tensorbay")
    ]


def flow(
    fetch: Callable[[int, threading.Event], object], items: Any, threads: int = 4, window: int = 8
) -> Iterator[int]:
    return prefetch(fetch, items, threads=threads, window=window)


def test_items_come_in_order_however_long_each_takes() -> None:
    pauses = random.Random(1)

    def fetch(item: int, stop: threading.Event) -> None:
        time.sleep(pauses.uniform(0, 0.01))

    assert list(flow(fetch, range(100))) == list(range(100))


def test_no_items_give_none() -> None:
    assert list(flow(nothing, ())) == []


def test_an_item_comes_only_after_it_was_fetched() -> None:
    fetched: set[int] = set()
    for item in flow(lambda item, _: fetched.add(item), range(50)):
        assert item in fetched


def test_a_slow_consumer_is_at_most_a_window_behind() -> None:
    fetched: list[int] = []
    items = flow(lambda item, _: fetched.append(item), range(100), window=8)
    for count in range(1, 20):
        next(items)
        time.sleep(0.005)
        assert len(fetched) <= count + 8


def test_one_item_that_takes_long_lets_the_others_go_on_eight_windows_at_most() -> None:
    fetched: list[int] = []
    release = threading.Event()

    def fetch(item: int, stop: threading.Event) -> None:
        if item == 1:
            release.wait(5)
        fetched.append(item)

    items = flow(fetch, range(1000), threads=2, window=4)
    next(items)
    threading.Timer(0.6, release.set).start()
    next(items)
    assert 8 < len(fetched) <= 1 + 8 * 4
    assert list(items) == list(range(2, 1000))


def test_an_exception_comes_where_its_item_would_have_come() -> None:
    def fetch(item: int, stop: threading.Event) -> None:
        if item == 5:
            raise OSError("fifth")

    items = flow(fetch, range(100))
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="fifth"):
        next(items)


def test_an_exception_of_the_listing_ends_it() -> None:
    def listing() -> Iterator[int]:
        yield 1
        raise KeyError("page")

    with pytest.raises(KeyError, match="page"):
        list(flow(nothing, listing()))


def test_a_listing_slower_than_the_files_is_waited_for() -> None:
    def listing() -> Iterator[int]:
        for item in range(5):
            time.sleep(0.01)
            yield item

    assert list(flow(nothing, listing())) == [0, 1, 2, 3, 4]


def test_closing_it_stops_what_is_under_way_and_leaves_no_thread() -> None:
    stopped: list[bool] = []

    def fetch(item: int, stop: threading.Event) -> None:
        if item:
            stopped.append(stop.wait(5))

    items = flow(fetch, range(100))
    next(items)
    items.close()  # type: ignore[attr-defined]  # it is a generator
    assert stopped
    assert all(stopped)
    assert not own_threads()


def test_closing_it_does_not_wait_long_for_what_does_not_end() -> None:
    release = threading.Event()
    items = flow(lambda item, _: item and release.wait(20), range(100))
    next(items)
    began = time.monotonic()
    items.close()  # type: ignore[attr-defined]  # it is a generator
    assert time.monotonic() - began < 3
    release.set()
    while own_threads():
        time.sleep(0.01)


def test_an_interrupt_in_the_middle_leaves_no_thread() -> None:
    items = flow(lambda _, stop: stop.wait(0.01), range(100))
    next(items)
    with pytest.raises(KeyboardInterrupt):
        items.throw(KeyboardInterrupt)  # type: ignore[attr-defined]  # it is a generator
    assert not own_threads()


class Sometimes:
    """Something that fails a few times before it succeeds."""

    def __init__(self, *failures: RequestFailed) -> None:
        self.failures, self.waits = list(failures), list[Wait]()

    def __call__(self, wait: Wait) -> str:
        self.waits.append(wait)
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: pauses.append(seconds))
    for _ in range(2):
        Transport(1, 1000).retry(
            Sometimes(*[RequestFailed("x", repeat=True) for _ in range(8)]), "x", kind="file"
        )
    first, second = pauses[:8], pauses[8:]
    assert all(0.05 * 2**n <= pause <= min(0.15 * 2**n, 3.0) for n, pause in enumerate(first[:5]))
    assert max(pauses) <= 3.0
    assert first != second


def test_what_cannot_help_is_not_repeated() -> None:
    attempt = Sometimes(RequestFailed("no such thing", repeat=False))
    with pytest.raises(GaveUp, match="no such thing; tried once"):
        Transport(1, 10).retry(attempt, "x", kind="api")


def test_every_attempt_ends_within_patience() -> None:
    attempt = Sometimes(*[RequestFailed("x", repeat=True) for _ in range(50)])
    began = time.monotonic()
    with pytest.raises(GaveUp, match="tried . times in 0"):
        Transport(1, 0.5).retry(attempt, "x", kind="api")
    assert time.monotonic() - began < 0.6
    assert all(wait.remaining <= 0.5 for wait in attempt.waits)


def test_a_stopped_fetch_does_not_wait_for_its_pause() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        Transport(1, 100).retry(
            Sometimes(RequestFailed("x", repeat=True, retry_after=50)), "x", kind="file", stop=stop
        )
    assert time.monotonic() - began < 2


def test_a_server_is_given_longer_from_the_second_repetition_on() -> None:
    attempt = Sometimes(*[RequestFailed("x", repeat=True) for _ in range(4)])
    Transport(1, 100).retry(attempt, "x", kind="api")
    waits = [wait.read for wait in attempt.waits]
    assert waits == [2, 2, 4, 8, 16]
