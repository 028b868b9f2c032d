from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowercnn.prediction.temperature import fit_temperature


def softmax(logits: Any) -> Any:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@given(st.floats(0.2, 5))
@settings(deadline=None, max_examples=20)
def test_the_temperature_of_distorted_probabilities_is_found(distortion: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, size=(4000, 5))
    y_true = np.array([random.choice(5, p=row) for row in softmax(logits)])
    assert fit_temperature(y_true, softmax(logits * distortion)) == pytest.approx(
        distortion, rel=0.1
    )


def test_the_temperature_of_a_network_that_is_far_too_sure_is_found() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, size=(4000, 5))
    y_true = np.array([random.choice(5, p=row) for row in softmax(logits)])
    assert fit_temperature(y_true, softmax(logits * 10).astype(np.float32)) == pytest.approx(
        10, rel=0.1
    )


def test_few_pictures_that_are_all_right_do_not_make_it_sure_of_everything() -> None:
    y_true = np.arange(20) % 4
    y_prob = np.where(np.eye(4)[y_true] == 1, 0.7, 0.1)
    assert fit_temperature(y_true, y_prob) > 0.2
    assert fit_temperature(np.tile(y_true, 100), np.tile(y_prob, (100, 1))) < 0.2
