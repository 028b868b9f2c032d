from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowercnn.prediction.conformal import conformal_quantile


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_a_new_score_is_below_the_threshold_as_often_as_promised(count: int, share: float) -> None:
    threshold = conformal_quantile(np.arange(count, dtype=float), share)
    # of count + 1 equally likely ranks
    at_or_below = count + 1 if math.isinf(threshold) else threshold + 1
    assert at_or_below / (count + 1) >= share - 1e-9
    assert (at_or_below - 1) / (count + 1) < share


def test_nineteen_scores_are_enough_for_one_in_twenty() -> None:
    assert conformal_quantile(np.arange(19.0), 0.95) == 18
    assert conformal_quantile(np.arange(18.0), 0.95) == math.inf
