from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.out_of_distribution import OutOfDistributionDetector


def test_what_is_unlike_the_training_pictures_is_unknown() -> None:
    random = np.random.default_rng(0)
    detector = OutOfDistributionDetector.fit(
        {"a": 20}, random.gamma(2, 1, (500, 20)), random.gamma(2, 1, (200, 20))
    )
    calibration = Calibration(
        1.0, applied=True, reason=None, set_scores=np.empty(0), detector=detector
    )
    known = [reason is not None for reason in calibration.unknown(random.gamma(2, 1, (2000, 20)))]
    assert np.mean(known) == pytest.approx(0.05, abs=0.03)
    assert all(calibration.unknown(random.gamma(9, 1, (50, 20))))


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_any_number_of_features_and_pictures_gives_finite_scores(
    count: int, size: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    features = np.maximum(random.normal(size=(count + 30, size)), 0)
    features[:, ::3] = 0  # channels that never fire
    detector = OutOfDistributionDetector.fit({"a": size}, features[:count], features[count:])
    assert np.isfinite(detector.score(features + 1)).all()


def test_what_is_kept_of_many_features_is_small() -> None:
    random = np.random.default_rng(0)
    sizes = {"a": 48, "b": 96, "c": 192, "d": 2048}
    features = random.random((90, sum(sizes.values())))
    detector = OutOfDistributionDetector.fit(sizes, features[:60], features[60:])
    calibration = Calibration(
        1.0, applied=True, reason=None, set_scores=np.empty(0), detector=detector
    )
    assert len(json.dumps(calibration.to_dict())) < 120_000


def test_the_former_name_of_the_detector_warns() -> None:
    detector = OutOfDistributionDetector.fit({"a": 2}, np.eye(2), np.eye(2))
    calibration = Calibration(
        1.0, applied=True, reason=None, set_scores=np.empty(0), detector=detector
    )
    with pytest.warns(DeprecationWarning, match=r"Calibration\.detector"):
        assert calibration.familiarity is detector
