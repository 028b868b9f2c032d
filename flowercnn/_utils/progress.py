"""Progress bars on stderr, silenced by ``progress=False``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["progress_bar", "tracked"]

T = TypeVar("T")


def progress_bar(*, total: int | None, description: str, unit: str, enabled: bool) -> Any:
    """Return a tqdm bar, hidden if ``enabled`` is false."""
    from tqdm.auto import tqdm

    hidden = not enabled or sys.stderr is None  # a program without a console has no stderr
    # A log file needs a line every few seconds, not ten redraws a second.
    interval = 10.0 if hidden or not sys.stderr.isatty() else 0.2
    options = {"disable": hidden, "mininterval": interval, "leave": False}
    return tqdm(total=total, desc=description, unit=unit, **options)


def tracked(items: Iterable[T], **options: Any) -> Iterator[T]:
    """Yield ``items`` while a progress bar counts them; the options are those of `progress_bar`."""
    with progress_bar(**options) as bar:
        for item in items:
            yield item
            bar.update()
