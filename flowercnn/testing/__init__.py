"""Checks for those who extend the library: run them in your own tests.

from flowercnn.testing import check_source

def test_my_source_keeps_the_contract():
    check_source(MySource("sample data"))
"""

from __future__ import annotations

from flowercnn.testing.sources import check_source, source_problems

__all__ = ["check_source", "source_problems"]
