"""Multithreaded maps, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, TypeVar

__all__ = ["cpu_count", "image_map", "ordered_map"]

_NETWORK_WORKERS: Final = 16
_LARGEST_BATCH: Final = 8

A = TypeVar("A")
B = TypeVar("B")


def cpu_count() -> int:
    """Return the number of processors this process can use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def image_map(
    function: Callable[[A], B], items: Iterable[A], *, like: Any, count: int | None = None
) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order, with threads chosen for reading images.

    Args:
        function: Reads an image.
        items: Stand for the images.
        like: One of the images; if it is a callable, images are read over the network, and more
            threads than processors are used.
        count: Number of items, if it is known and all are needed: threads then take several at a
            time, as handing over a small image costs as much as decoding it.
    """
    by_network = callable(like)
    workers = max(_NETWORK_WORKERS if by_network else 1, cpu_count())
    fair = 1 if count is None or by_network else max(1, count // (4 * workers))  # busy threads
    at_once = min(fair, _LARGEST_BATCH)
    window = workers * max(4, 2 * at_once)
    return ordered_map(function, items, workers=workers, window=window, at_once=at_once)


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, workers: int, window: int, at_once: int = 1
) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order.

    Threads take ``at_once`` items at a time. However slow the consumer, at most ``window`` results
    are in progress or waiting, besides the batch being consumed. An exception of ``function`` is
    raised in place of its batch's results. Closing the iterator cancels all work not yet begun.
    """
    remaining = iter(items)
    batches = iter(lambda: list(islice(remaining, at_once)), [])
    pending: deque[Future[list[B]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="flowercnn")

    def submit(count: int) -> None:
        for batch in islice(batches, count):
            pending.append(pool.submit(lambda batch: [function(item) for item in batch], batch))

    try:
        submit(max(1, window // at_once))
        while pending:
            results = pending.popleft().result()
            submit(1)
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
