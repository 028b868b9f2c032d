"""Networks by name, and recipes for their training."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(__name__)
