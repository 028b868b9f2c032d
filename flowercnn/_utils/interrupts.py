"""Deferred keyboard interrupts, for blocks that Ctrl-C must not cut."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["interrupts_deferred"]


@contextmanager
def interrupts_deferred() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the block ends; the list yielded is empty unless it was pressed.

    The caller must then act on it. Only the main thread receives Ctrl-C, and a handler that was
    set outside Python, by a program that embeds it, is left in place.
    """
    received: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    # None: not set by Python, which could not put it back either.
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield received
        return
    signal.signal(signal.SIGINT, lambda number, _frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
