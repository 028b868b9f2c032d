"""Work done by several threads, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, TypeVar

__all__ = ["cpu_count", "ordered_map", "picture_workers"]

_NETWORK_WORKERS: Final = 16

A = TypeVar("A")
B = TypeVar("B")


def cpu_count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def picture_workers(image: Any) -> int:
    """Return how many threads read pictures such as this one: more than processors where they come by network."""
    return max(_NETWORK_WORKERS if callable(image) else 1, cpu_count())


def ordered_map(function: Callable[[A], B], items: Iterable[A], *, workers: int, window: int) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order.

    At most ``window`` results are under way or waiting at any time, however slow the consumer is. An exception of
    ``function`` is raised where its result would have come. Closing the iterator cancels what has not begun.
    """
    remaining = iter(items)
    pending: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="flowercnn")
    try:
        pending.extend(pool.submit(function, item) for item in islice(remaining, window))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
