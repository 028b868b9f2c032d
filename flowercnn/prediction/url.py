"""One picture from the web."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from flowercnn.errors import ImageError

__all__ = ["fetch", "is_url"]

_SECONDS: Final = 10
_SECONDS_IN_ALL: Final = 60
_MOST_BYTES: Final = 64 * 2**20


def is_url(text: str) -> bool:
    """Return whether a path is an ``http`` or ``https`` URL."""
    return text[:8].lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """Return what an ``http`` or ``https`` URL holds: at most 64 MiB, within a minute.

    Redirections are followed to the same two schemes only.

    Raises:
        ImageError: If it cannot be had. The message does not repeat user names, passwords or queries.
    """
    # Not the default opener: that one also follows redirections to ftp and opens files.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "flowercnn"), ("Accept", "image/*")]
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            content = _read(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{_shown(url)}: the server answered {error.code} {error.reason}.") from None
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ImageError(f"{_shown(url)}: cannot be fetched ({reason}).") from None
    except http.client.HTTPException as error:
        raise ImageError(f"{_shown(url)}: cannot be fetched ({type(error).__name__}).") from None
    if len(content) > _MOST_BYTES:
        raise ImageError(f"{_shown(url)}: more than {_MOST_BYTES:,} bytes.")
    return content


def _read(answer: Any) -> bytes:
    """Read an answer until its end, the limit, or the time is over: a server may drip."""
    content = bytearray()
    end = time.monotonic() + _SECONDS_IN_ALL
    while len(content) <= _MOST_BYTES and (chunk := answer.read1(2**16)):
        content += chunk
        if time.monotonic() > end:
            raise TimeoutError
    return bytes(content)


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the URL"
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
