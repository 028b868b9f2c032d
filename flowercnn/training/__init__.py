"""Trainers, cross-validation, and the search for settings."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    old={
        "history": "flowercnn.training",
        "finder": "flowercnn.training",
        "search": "flowercnn.training",
    },
)
