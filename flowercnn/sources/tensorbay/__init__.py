"""Pictures on TensorBay: who asks, what is asked, how it is fetched and where it is kept.

From the outside in: `source` (the class), `remote` and `objects` (a data set by name, or an SDK object in hand),
`listing` (what is in it), `fetch` (its files, ahead of time and in order), `cache` (where they are kept), `api` (the
SDK's client), `transport` (HTTP with repetitions), `credentials` (the access key) and `redaction` (logs without it).
"""

from __future__ import annotations

from flowercnn.sources.tensorbay.cache import clear_cache
from flowercnn.sources.tensorbay.source import TensorBay

__all__ = ["TensorBay", "clear_cache"]
