"""Calibration, fitted on validation images that were not used for training. NumPy only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_share
from flowercnn.errors import ConfigurationError
from flowercnn.prediction.conformal import conformal_quantile
from flowercnn.prediction.out_of_distribution import (
    Floats,
    OutOfDistributionDetector,
    pack_floats,
    unpack_floats,
)

__all__ = ["Calibration"]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Calibration of a classifier: temperature, conformal sets, out-of-distribution detector.

    It is fitted on validation images; see `calibrate`.

    Args:
        temperature: The divisor of the logits (Guo et al. 2017); below 1 if the network was
            underconfident.
        applied: Whether the last layer has it built in, and so every prediction and export.
        reason: Why it does not, or why no image is called unknown; otherwise ``None``.
        set_scores: Nonconformity scores of the validation images, sorted, float64: 1 minus the
            probability of the true class of each.
        detector: The out-of-distribution detector, or ``None``.
        false_alarms: The share of in-distribution images that may be called unknown, 0 to below 1.
    """

    temperature: float
    applied: bool
    reason: str | None
    set_scores: npt.NDArray[np.float64]
    detector: OutOfDistributionDetector | None = None
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "false_alarms", check_share("false_alarms", self.false_alarms))

    @property
    def familiarity(self) -> OutOfDistributionDetector | None:
        """The former name of ``detector``, until 0.3."""
        text = "Calibration.familiarity will be removed in flowercnn 0.3: use Calibration.detector."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return self.detector

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose mean activations the detector needs; empty without one."""
        return () if self.detector is None else self.detector.layers

    def set_threshold(self, coverage: float) -> float:
        """Return the least probability a class in a prediction set has (Sadinle et al. 2019).

        The truth is in such a set with at least the probability ``coverage``, for images of the
        same kind.
        """
        return 1 - conformal_quantile(self.set_scores, coverage)

    def unknown(self, features: Floats) -> list[str | None]:
        """Return why the image of each row of mean activations is unknown, or ``None``."""
        if self.detector is None:
            return [None] * len(features)
        limit = self.detector.threshold(self.false_alarms)
        usual = f"where {1 - self.false_alarms:.0%} of known ones are below {limit:.2f}"
        return [
            f"unlike the training images: distance {score:.2f}, {usual}" if score > limit else None
            for score in self.detector.score(features)
        ]

    def summary(self) -> dict[str, Any]:
        """Return the main results, as JSON can hold them."""
        return {"temperature": self.temperature, "applied": self.applied, "reason": self.reason}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        of_truth = np.asarray(1 - self.set_scores, dtype=np.float32)
        return {
            "temperature": self.temperature,
            "applied": self.applied,
            "reason": self.reason,
            "false_alarms": self.false_alarms,
            "truth_probabilities": pack_floats(of_truth),
            "set_scores": pack_floats(1 - of_truth.astype(np.float64)),  # rounded, for 0.1.0
            "familiarity": None if self.detector is None else self.detector.to_dict(),
        }

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` described.

        Raises:
            ConfigurationError: If it is damaged.
        """
        try:
            detector, temperature = described["familiarity"], described["temperature"]
            reason = described["reason"]
            if detector is not None:
                detector = OutOfDistributionDetector.from_dict(detector)
            if not _is_positive(temperature):
                raise ValueError("the temperature must be a number above 0")
            if not (reason is None or isinstance(reason, str)):
                raise ValueError("the reason must be a text")
            return cls(
                temperature=float(temperature),
                applied=bool(described["applied"]),
                reason=reason,
                set_scores=_set_scores_from_dict(described),
                detector=detector,
                false_alarms=described["false_alarms"],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"The calibration kept with the model is damaged ({error})."
            raise ConfigurationError(reason) from error


def _set_scores_from_dict(described: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    if "truth_probabilities" in described:
        return 1 - unpack_floats(described["truth_probabilities"])
    return unpack_floats(described["set_scores"])


def _is_positive(value: object) -> bool:
    """Return whether this is a finite number above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
