"""Logs of other packages, without the key and without signed addresses."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hide_queries", "protect_logs"]

_SECRETS = (
    (re.compile(r"(?i)(accesskey-)[^\s\"',}]+"), r"\1***"),
    (re.compile(r"(?i)(\"?x-token\"?\s*[:=]\s*\"?)[^\s\"',}]+"), r"\1***"),
    (re.compile(r"(https?://[^\s\"'?]+)\?[^\s\"']+"), r"\1?***"),
)
_QUERY = re.compile(r"\?[^\s\"']+")
_thread = threading.local()


class _HideSecrets(logging.Filter):
    """The SDK logs all headers of a request that fails, the key among them, and of every one at DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for pattern, replacement in _SECRETS:
            message = pattern.sub(replacement, message)
        record.msg, record.args = message, None
        return True


class _HideQueries(logging.Filter):
    """urllib3 logs every address at DEBUG; the query of a signed one opens the file to whoever reads the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_thread, "active", False):
            record.msg, record.args = _QUERY.sub("?***", record.getMessage()), None
        return True


def protect_logs() -> None:
    """Keep secrets out of what the SDK and urllib3 log; their levels and handlers stay the user's business."""
    for name, kind in (("tensorbay.utility.requests", _HideSecrets), ("urllib3.connectionpool", _HideQueries)):
        logger = logging.getLogger(name)
        if not any(isinstance(present, kind) for present in logger.filters):
            logger.addFilter(kind())


@contextmanager
def hide_queries() -> Iterator[None]:
    """Cut queries out of what urllib3 logs in this thread; other users of it are not affected."""
    _thread.active = True
    try:
        yield
    finally:
        _thread.active = False
