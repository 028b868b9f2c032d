"""Data sets and splits: samples with labels, duplicates, audit."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(__name__)
