"""Predictors, calibration, explanations, similar images."""

from flowercnn._utils import attach

__getattr__, __dir__, __all__ = attach(
    __name__, old={"exports": "flowercnn.saving", "calibrate": "flowercnn.prediction"}
)
