from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from flowercnn.evaluation.charts import line_chart

pytestmark = pytest.mark.versions

NAN = math.nan


def points_of(chart: str) -> list[int]:
    """How many points each line has."""
    return [len(points.split()) for points in re.findall(r'<polyline [^>]*points="([^"]*)"', chart)]


def test_a_curve_has_a_gap_where_a_value_is_not_finite() -> None:
    chart = line_chart("Loss", {"train": [NAN, 2.0, 1.0, math.inf, 0.5, NAN], "val": [3.0, 4.0]})
    assert points_of(chart) == [2, 1, 2]
    assert "train ends at 0.5; val ends at 4" in chart
    assert "nan" not in chart
    assert "inf" not in chart
    ET.fromstring(f"<div>{chart}</div>")  # noqa: S314 - its own


@pytest.mark.parametrize("values", [[], [NAN], [NAN, math.inf]])
def test_a_curve_without_a_finite_value_is_not_drawn(values: list[float]) -> None:
    assert line_chart("Loss", {"train": values}) == ""
    beside = line_chart("Loss", {"train": values, "val": [1.0, 0.5, 0.2]})
    assert points_of(beside) == [3]
    assert 'class="b"' in beside
    assert "train" not in beside


def test_no_curves_are_no_chart() -> None:
    assert line_chart("Loss", {}) == ""
