"""HTTP client of the library, and URLs without their secrets."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

from flowercnn.errors import ConfigurationError, ImageError

__all__ = [
    "ContentError",
    "StorageOptions",
    "checked_options",
    "fetch",
    "is_url",
    "key_of_url",
    "open_url",
    "reason_of",
    "shown",
]

_CHUNK: Final = 2**14
_CONNECT: Final = 10  # seconds
_REDIRECTS: Final = 10
_SECONDS: Final = 10
_SECONDS_IN_ALL: Final = 60
_MOST_BYTES: Final = 64 * 2**20


class ContentError(ValueError):
    """Content that is larger than allowed, or not the file that was wanted."""


def is_url(text: str) -> bool:
    """Return whether a path is an ``http`` or ``https`` URL."""
    return text[:8].lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """Return the content of an ``http`` or ``https`` URL: at most 64 MiB, within a minute.

    Raises:
        ImageError: If it cannot be fetched. The message shows no user name, password or query.
    """
    limits = {"seconds": _SECONDS_IN_ALL, "pause": _SECONDS, "size": _MOST_BYTES}
    try:
        with open_url(url, **limits, headers={"Accept": "image/*"}) as (response, chunks):
            response.raise_for_status()
            return b"".join(chunks)
    except ContentError as error:
        reason = str(error)
    except (OSError, ValueError) as error:
        reason = f"cannot be fetched ({reason_of(error)})"
    raise ImageError(f"{shown(url)}: {reason}.")


@contextlib.contextmanager
def open_url(
    url: str,
    *,
    pause: float,
    size: int,
    seconds: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """Open an ``http`` or ``https`` URL; yield the response of `requests`, and its body in chunks.

    At most ten redirects are followed, to the same two schemes. The body is yielded as it is sent.

    Args:
        url: The URL.
        pause: Seconds until the answer to each request, and between chunks of 16 KiB.
        size: Most bytes of the body.
        seconds: Seconds until the end of the body, or ``None`` for no limit.
        headers: Headers of the request.

    Raises:
        TimeoutError: If a limit of time is exceeded, whatever the server is sending.
        ContentError: If the body is larger than ``size``.
        OSError, ValueError: If the request fails; their messages may show the whole URL.
    """
    import requests
    from urllib3.exceptions import HTTPError

    with _Watch(pause, seconds) as watch, requests.Session() as session:
        session.headers.update({"User-Agent": "flowercnn", "Accept-Encoding": "identity"})
        session.max_redirects = _REDIRECTS
        session.hooks["response"].append(watch.answered)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _adapter(watch))
        try:
            limits = (min(_CONNECT, pause), pause)
            with session.get(url, headers=headers, stream=True, timeout=limits) as response:
                yield response, _chunks(response, watch, size)
        except HTTPError as error:  # of a malformed answer, or while the body is read
            raise requests.ConnectionError from error


def _chunks(response: Any, watch: _Watch, size: int) -> Iterator[bytes]:
    import requests

    received = 0
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
        watch.rearm()
        received += len(chunk)
        if received > size:
            raise ContentError(f"more than {size:,} bytes")
        yield chunk
    if response.raw.length_remaining:  # urllib3 1 does not raise
        raise requests.ConnectionError("the body was cut off")


def _adapter(watch: _Watch) -> Any:
    """Return an adapter of `requests` whose connections, those to a proxy too, are watched."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
            pool: Any = super().get_connection_with_tls_context(*arguments, **options)
            kind = pool.ConnectionCls

            def connect(connection: Any) -> socket.socket:
                return watch.add(kind._new_conn(connection))  # noqa: SLF001 - before TLS there is no public way

            pool.ConnectionCls = type(kind.__name__, (kind,), {"_new_conn": connect})
            return pool

    return Adapter()


class _Watch:
    """Watchdog that ends connections in time: a server may drip, even in headers or TLS.

    Args:
        pause: Seconds from one `rearm` to the next.
        seconds: Seconds in all, or ``None``.
    """

    def __init__(self, pause: float, seconds: float | None) -> None:
        self._pause = pause
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._left = threading.Event()
        self._over = False
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._wait, name="flowercnn-http", daemon=True)
        self.rearm()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raise TimeoutError in place of whatever the end of the connection has caused."""
        self._left.set()
        self._thread.join()
        for each in self._sockets:
            each.close()
        if self._over and (kind is None or issubclass(kind, Exception)):
            raise TimeoutError from None

    def rearm(self) -> None:
        self._until = min(self._end, time.monotonic() + self._pause)

    def answered(self, response: Any, **_: Any) -> None:
        """Hook of `requests`: it would read the body of a redirect, of any size."""
        self.rearm()
        if response.is_redirect:
            response.raw.close()

    def add(self, connection: socket.socket) -> socket.socket:
        self._sockets.append(connection.dup())  # stays open when TLS takes the connection over
        if self._over:
            self._shut()
        return connection

    def _wait(self) -> None:
        while not self._left.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until:
                self._over = True
                self._shut()
                return

    def _shut(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def reason_of(error: BaseException) -> str:
    """Return why a request failed, without the URL that messages of `requests` repeat."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status >= 400:  # noqa: PLR2004 - the errors of HTTP
        return f"HTTP {status}"
    name = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if text := getattr(cause, "strerror", None):
            return f"{name}: {text}"
        cause = cause.__cause__ if cause.__suppress_context__ else cause.__context__
    return name


class StorageOptions(dict[str, Any]):
    """Options of fsspec for a URL. They may hold passwords: never shown, never pickled.

    In another process a source has none: there, fsspec's own configuration decides.
    """

    def __repr__(self) -> str:
        return f"<{len(self)} options>"

    def __reduce__(self) -> tuple[type[StorageOptions], tuple[()]]:
        return StorageOptions, ()

    def __deepcopy__(self, _: object) -> StorageOptions:
        return self


def checked_options(value: Any) -> StorageOptions:
    """Return the argument ``storage_options``, empty for ``None``.

    Raises:
        ConfigurationError: If it is not a mapping of names.
    """
    options = {} if value is None else value
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise ConfigurationError(
            "storage_options must be a mapping of names to values, such as {'anon': True}. "
            f"Received: {type(value).__name__}"  # not the value: it may be a password
        )
    return StorageOptions(options)


def shown(where: str) -> str:
    """Return a path or URL without its secrets: user, password, query.

    Example:
        >>> shown("zip://a::https://me:pw@example.org/p.zip?token=1"), shown("photos/rose?.jpg")
        ('zip://a::https://example.org/p.zip', 'photos/rose?.jpg')
    """
    return "::".join(_bare(part) if "://" in part else part for part in where.split("::"))


def key_of_url(url: str) -> str:
    """Return a URL without its secrets, distinct from others: a query becomes its hash."""
    _, question_mark, query = url.partition("?")
    digest = hashlib.blake2b(query.encode(), digest_size=8).hexdigest()
    return f"{shown(url)}?{digest}" if question_mark else shown(url)


def _bare(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
