"""Work done by several threads, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, TypeVar

__all__ = ["cpu_count", "ordered_map", "picture_map"]

_NETWORK_WORKERS: Final = 16
_PICTURES_AT_ONCE: Final = 8

A = TypeVar("A")
B = TypeVar("B")


def cpu_count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def picture_map(
    function: Callable[[A], B], items: Iterable[A], *, like: Any, count: int | None = None
) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order, by as many threads as read pictures fastest.

    Args:
        function: Reads a picture.
        items: What stands for the pictures.
        like: One of the pictures: where they come by network, there are more threads than processors.
        count: How many there are, if it is known and all are wanted: a thread is then handed several at once, as
            handing over each by itself costs as much as decoding a small one.
    """
    by_network = callable(like)
    workers = max(_NETWORK_WORKERS if by_network else 1, cpu_count())
    fair = 1 if count is None or by_network else max(1, count // (4 * workers))  # leaves no thread without work
    at_once = min(fair, _PICTURES_AT_ONCE)
    window = workers * max(4, 2 * at_once)
    return ordered_map(function, items, workers=workers, window=window, at_once=at_once)


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, workers: int, window: int, at_once: int = 1
) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order.

    Threads are handed ``at_once`` items at a time. However slow the consumer is, at most ``window`` results are under
    way or waiting, besides those handed back together that it is taking. An exception of ``function`` is raised where
    the results of its items would have come. Closing the iterator cancels what has not begun.
    """
    remaining = iter(items)
    errands = iter(lambda: list(islice(remaining, at_once)), [])
    pending: deque[Future[list[B]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="flowercnn")

    def run(errand: list[A]) -> list[B]:
        return [function(item) for item in errand]

    try:
        pending.extend(pool.submit(run, errand) for errand in islice(errands, max(1, window // at_once)))
        while pending:
            results = pending.popleft().result()
            pending.extend(pool.submit(run, errand) for errand in islice(errands, 1))
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
