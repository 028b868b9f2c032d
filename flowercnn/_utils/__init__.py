"""What every package uses: checks of arguments, files, threads, progress, seeds."""

from flowercnn._utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
