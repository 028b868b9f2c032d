"""Checks for authors of sources and models."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(__name__)
