"""Data sets on TensorBay.

From the outside in: `source` (the class), `options` (how it reads), `objects` (the SDK's own),
`fetch` (files, ahead of time and in order), `listing` (which files there are), `api` (the
requests), `cache` (the files on disk), `transport` (HTTP with retries) and `credentials` (the
access key).
"""

from __future__ import annotations

from flowercnn.sources.tensorbay.cache import clear_cache
from flowercnn.sources.tensorbay.source import TensorBay

__all__ = ["TensorBay", "clear_cache"]
