"""Progress bars: shown on stderr, silenced by ``progress=False``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["progress_bar", "tracked"]

T = TypeVar("T")


def progress_bar(*, total: int | None, description: str, unit: str, enabled: bool) -> Any:
    """Return a tqdm bar; one that shows nothing if ``enabled`` is false."""
    from tqdm.auto import tqdm

    # A log file wants a line now and then, not ten redraws a second.
    shown = enabled and sys.stderr is not None  # a program without a console has none
    interval = 0.2 if shown and sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=description, unit=unit, disable=not shown, mininterval=interval, leave=False)


def tracked(items: Iterable[T], *, total: int | None, description: str, unit: str, enabled: bool) -> Iterator[T]:
    """Yield ``items`` while a progress bar counts them."""
    with progress_bar(total=total, description=description, unit=unit, enabled=enabled) as bar:
        for item in items:
            yield item
            bar.update()
