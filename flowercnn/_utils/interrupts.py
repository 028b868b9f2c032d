"""Ctrl-C where it would do harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupts_deferred"]


@contextmanager
def interrupts_deferred() -> Iterator[list[int]]:
    """Let Ctrl-C wait for the end of the block; the list yielded is empty unless it came.

    Whoever asks for this has to do then what Ctrl-C should have done. Threads but the main one never see Ctrl-C, and
    where a program Python is embedded in has its own handler, that one stays.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    is_main = threading.current_thread() is threading.main_thread()
    if (
        not is_main or signal.getsignal(signal.SIGINT) is None
    ):  # None: not set by Python, and not to be put back by it
        yield came
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
