"""Checks for those who extend the library: run them in your own tests.

from flowercnn.testing import check_model, check_source

def test_my_source_keeps_the_contract():
    check_source(MySource("sample data"))

def test_my_network_keeps_the_contract():
    check_model(my_network)
"""

from __future__ import annotations

from flowercnn.testing.models import check_model, model_problems
from flowercnn.testing.sources import check_source, source_problems

__all__ = ["check_model", "check_source", "model_problems", "source_problems"]
