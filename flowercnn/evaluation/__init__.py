"""Evaluation: metrics with intervals, comparisons, label errors, plots, reports."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    old={
        "labels": "flowercnn.evaluation",
        "figures": "flowercnn.evaluation",
        "compare": "flowercnn.evaluation",
    },
)
