"""Utilities of all packages: argument checks, files, threads, progress bars, seeds."""

from flowercnn._utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
