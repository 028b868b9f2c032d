"""Images behind http URLs, and URLs as they may be shown: nothing that may be secret."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit, urlunsplit

from flowercnn.errors import ConfigurationError, ImageError

__all__ = ["StorageOptions", "checked_options", "fetch", "is_url", "key_of_url", "shown"]


_SECONDS: Final = 10
_SECONDS_IN_ALL: Final = 60
_MOST_BYTES: Final = 64 * 2**20
_STAYS: Final = "%/?:@!$&'()*+,;=~"  # of a path or query, besides letters and digits


def is_url(text: str) -> bool:
    """Return whether a path is an ``http`` or ``https`` URL."""
    return text[:8].lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """Return what an ``http`` or ``https`` URL holds: at most 64 MiB, within a minute.

    Redirections are followed to the same two schemes only. Spaces, and letters that are not ASCII, are sent as
    browsers send them.

    Raises:
        ImageError: If it cannot be had. The message does not repeat user names, passwords or queries.
    """
    try:
        with _Watch(_SECONDS_IN_ALL) as watch, _opener(watch).open(_in_ascii(url), timeout=_SECONDS) as answer:
            content = _read(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{shown(url)}: the server answered {error.code} {error.reason}.") from None
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ImageError(f"{shown(url)}: cannot be fetched ({reason}).") from None
    except http.client.HTTPException as error:
        raise ImageError(f"{shown(url)}: cannot be fetched ({type(error).__name__}).") from None
    if len(content) > _MOST_BYTES:
        raise ImageError(f"{shown(url)}: more than {_MOST_BYTES:,} bytes.")
    return content


def _in_ascii(url: str) -> str:
    """Return a URL as it is sent: as it is typed, it may have spaces and any letters."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    return urlunsplit((parts.scheme, host, quote(parts.path, _STAYS), quote(parts.query, _STAYS), ""))


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    # Not the default opener: that one also follows redirections to ftp and opens files.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _WatchedHTTP(watch),
        _WatchedHTTPS(watch),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "flowercnn"), ("Accept", "image/*")]
    return opener


def _read(answer: Any) -> bytes:
    """Read an answer until its end or the limit."""
    content = bytearray()
    while len(content) <= _MOST_BYTES and (chunk := answer.read1(2**16)):
        content += chunk
    return bytes(content)


class _Watch:
    """Ends connections when the time is over: a server may drip, even in the middle of a header or of TLS.

    Args:
        seconds: How long all of it may take.
    """

    def __init__(self, seconds: float) -> None:
        self._over = threading.Event()
        self._ends: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say so if the time was over, whatever that looked like to who was reading."""
        self._timer.cancel()
        for end in self._ends:
            end.close()
        if self._over.is_set() and (kind is None or issubclass(kind, Exception)):
            raise TimeoutError

    def connect(self, *arguments: Any, **options: Any) -> socket.socket:
        """Connect as `socket.create_connection` does."""
        connection = socket.create_connection(*arguments, **options)
        self._ends.append(connection.dup())  # stays ours when TLS takes the connection over
        if self._over.is_set():
            self._end()
        return connection

    def _end(self) -> None:
        self._over.set()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _Watched(urllib.request.AbstractHTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        def connection(host: str, **more: Any) -> Any:
            made = http_class(host, **more)
            made._create_connection = self._watch.connect  # noqa: SLF001 - there is no public way in
            return made

        return super().do_open(connection, req, **options)


class _WatchedHTTP(_Watched, urllib.request.HTTPHandler):
    pass


class _WatchedHTTPS(_Watched, urllib.request.HTTPSHandler):
    pass


class StorageOptions(dict[str, Any]):
    """What fsspec needs for a URL. It may hold passwords, so it is neither shown nor pickled.

    A source that arrives in another process has none: there, fsspec's own configuration decides.
    """

    def __repr__(self) -> str:
        return f"<{len(self)} options>"

    def __reduce__(self) -> tuple[type[StorageOptions], tuple[()]]:
        return StorageOptions, ()

    def __deepcopy__(self, _: object) -> StorageOptions:
        return self


def checked_options(value: Any) -> StorageOptions:
    """Return the argument ``storage_options``; ``None`` is none.

    Raises:
        ConfigurationError: If it is no mapping of names.
    """
    if value is None:
        return StorageOptions()
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError(
            "storage_options must be a mapping of names to values, such as {'anon': True}. "
            f"Received: {type(value).__name__}"  # not the value: it may be a password
        )
    return StorageOptions(value)


def shown(where: str) -> str:
    """Return a path or URL without what may be secret in it: user, password, query.

    Example:
        >>> shown("zip://a::https://me:pw@example.org/p.zip?token=1"), shown("photos/rose?.jpg")
        ('zip://a::https://example.org/p.zip', 'photos/rose?.jpg')
    """
    return "::".join(_bare(part) if "://" in part else part for part in where.split("::"))


def key_of_url(url: str) -> str:
    """Return a text that tells a URL from others, without what may be secret; a query becomes its hash."""
    _, question_mark, query = url.partition("?")
    return (
        f"{shown(url)}?{hashlib.blake2b(query.encode(), digest_size=8).hexdigest()}" if question_mark else shown(url)
    )


def _bare(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
