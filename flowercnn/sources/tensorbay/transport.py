"""HTTP with retries: one pool of connections, limits of time and size, stoppable pauses.

The adapter itself retries nothing: a pause within it would keep one of the few download slots,
could not be stopped, would draw from the user's random numbers, and the next attempt would have
the same timeout.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry
from urllib3.util.ssl_ import create_urllib3_context

from flowercnn.errors import ConfigurationError
from flowercnn.sources.tensorbay.credentials import hide_queries

__all__ = ["GaveUp", "RequestFailed", "Stopped", "Transport", "Wait"]

_CHUNK: Final = 64 * 1024
_SLOWEST: Final = 1024  # bytes per second that an answer must bring, averaged over ``patience``
_LARGEST_FILE: Final = 2**30
_LARGEST_ANSWER: Final = 2**26
_FIRST_PAUSE: Final = 0.1  # seconds; doubles with every retry
_LONGEST_PAUSE: Final = 2.0
_SHORTEST_TIMEOUT: Final = {"file": 0.3, "api": 1.0}  # seconds until an answer begins
_FIRST_TIMEOUT: Final = 2.0  # before any latency is known
_CONNECT_TIMEOUT: Final = 3.0  # a lost packet of a new connection is sent again after one second
_RETRY: Final = Retry(status_forcelist={408, 425, 429, *range(500, 600)})
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}
_CERTIFICATES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_LASTING_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "TLSV1_ALERT_UNKNOWN_CA"})

T = TypeVar("T")

_log = logging.getLogger("flowercnn.sources.tensorbay")


@dataclass(eq=False)
class RequestFailed(Exception):  # noqa: N818 - never seen by users
    """One request failed.

    Args:
        reason: Why, in words without an address or a key.
        repeat: Whether a retry may help.
        status: The HTTP status, if there was an answer.
        retry_after: Seconds the server asks to wait.
        code: The ``code`` of TensorBay's answer, such as ``"ResourceNotExist"``.
        at_once: Whether the retry needs no pause.
    """

    reason: str
    repeat: bool = field(kw_only=True)
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    at_once: bool = False

    def says(self, status: int, code: str) -> bool:
        """Return whether TensorBay says so, by the status or, as the SDK reads it, by the code."""
        return self.status == status or self.code == code


class GaveUp(Exception):  # noqa: N818 - never seen by users
    """A request failed for good; `last` is its last failure."""

    def __init__(self, last: RequestFailed, tries: int, seconds: float) -> None:
        times = "once" if tries == 1 else f"{tries} times in {seconds:.1f} s"
        super().__init__(f"{last.reason}; tried {times}")
        self.last = last


class Stopped(Exception):  # noqa: N818 - never seen by users
    """The answer is no longer wanted."""


class _Session(requests.Session):
    """A session that sends the key to no host but TensorBay's."""

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        if self.should_strip_auth(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("Authorization", None)
            prepared_request.headers.pop("X-Token", None)


class _Adapter(HTTPAdapter):
    """Connections that share one TLS context; requests reads the certificates for each of them."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*args, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, *_: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"  # by the certificates of the context


@dataclass(frozen=True, slots=True)
class Wait:
    """How long one attempt may take.

    Args:
        read: Seconds to wait for each piece of the answer.
        deadline: End of the last attempt, by `time.monotonic`.
        stop: Set when the answer is no longer wanted.
    """

    read: float
    deadline: float
    stop: threading.Event

    @property
    def remaining(self) -> float:
        """Seconds left until the deadline; a twentieth at least, so that one request fits in."""
        return max(self.deadline - time.monotonic(), 0.05)


class Transport:
    """One pool of connections, used by all threads.

    Args:
        connections: Downloads at a time; as many as there are threads.
        patience: Seconds after which a request is not retried any more.
        ca_bundle: File or folder of certificates to trust instead of the usual ones.

    Raises:
        ConfigurationError: If it holds no certificates.
    """

    def __init__(
        self, connections: int, patience: float, ca_bundle: str | os.PathLike[str] | None = None
    ) -> None:
        self.patience = patience
        self._session = _Session()
        self._session.auth = _unchanged  # otherwise requests looks into ~/.netrc
        self._session.max_redirects = 5
        pools = {"pool_connections": 16, "pool_maxsize": 4 * connections}
        adapter = _Adapter(_tls_context(ca_bundle), **pools)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._downloads = threading.BoundedSemaphore(connections)
        self._random = random.Random()  # the user's sequence of random numbers stays as it is
        self._latency: dict[str, float] = {}  # seconds until an answer begins, smoothed, by kind

    def send(
        self, method: str, url: str, *, kind: str, wait: Wait, **options: Any
    ) -> requests.Response:
        """Return the answer if its status is 200 or 201; its body is not read yet.

        Args:
            method: Such as ``"GET"``.
            url: Address.
            kind: ``"api"`` or ``"file"``: requests of one kind are about equally fast.
            wait: How long to wait.
            **options: Of `requests.request`.

        Raises:
            RequestFailed: If there is no answer, or one with another status.
            Stopped: If ``wait.stop`` was set while the answer was read.
        """
        started = time.perf_counter()
        timeout = (min(_CONNECT_TIMEOUT, wait.remaining), min(wait.read, wait.remaining))
        try:
            with hide_queries():
                response = self._session.request(
                    method, url, stream=True, timeout=timeout, **options
                )
        except (requests.RequestException, OSError, ValueError) as error:
            raise _failure_of(error) from None
        seconds = time.perf_counter() - started
        self._latency[kind] = 0.9 * self._latency.get(kind, seconds) + 0.1 * seconds
        if response.status_code in (200, 201):
            return response
        with response:
            raise self._refusal_of(response, wait)

    def read_body(self, response: requests.Response, wait: Wait) -> bytes:
        """Return the whole body of an answer of the API.

        Raises:
            RequestFailed: If it breaks off, comes too slowly or is larger than 64 MiB.
            Stopped: If ``wait.stop`` was set.
        """
        return b"".join(self._pieces(response, wait, _LARGEST_ANSWER))

    def download(self, url: str, write: Callable[[bytes], object], wait: Wait) -> None:
        """Pass the file behind an address to ``write``, piece by piece.

        There are never more downloads at a time than connections, however many threads ask.

        Raises:
            RequestFailed: If it breaks off, comes too slowly or is larger than 1 GiB.
            Stopped: If it is no longer wanted.
            OSError: What ``write`` raises.
        """
        if not self._downloads.acquire(timeout=wait.remaining):
            raise RequestFailed("all connections wait for answers", repeat=True)
        try:
            if wait.stop.is_set():
                raise Stopped
            with self.send("GET", url, kind="file", wait=wait, headers=_AS_IT_IS) as response:
                for piece in self._pieces(response, wait, _LARGEST_FILE):
                    write(piece)
        finally:
            self._downloads.release()

    def retry(
        self,
        attempt: Callable[[Wait], T],
        what: str,
        *,
        kind: str,
        stop: threading.Event | None = None,
        within: Wait | None = None,
    ) -> T:
        """Call ``attempt`` until it succeeds, with growing pauses, and return what it returns.

        Args:
            attempt: Makes one request and raises `RequestFailed` if it fails.
            what: What is requested, for the log.
            kind: As for `send`.
            stop: Ends the pauses and the retries when it is set.
            within: The attempt this is a part of: it ends with that one.

        Raises:
            GaveUp: If it did not succeed in time, or a retry is pointless.
            Stopped: If ``stop`` was set.
        """
        began = time.monotonic()
        deadline = began + self.patience
        stop = stop or threading.Event()
        if within is not None:
            deadline, stop = within.deadline, within.stop
        for tries in itertools.count(1):
            if stop.is_set():
                break
            started = time.perf_counter()
            growth = 2.0 ** max(tries - 2, 0)  # from the second retry on the server is given longer
            try:
                answer = attempt(Wait(self._read_timeout(kind) * growth, deadline, stop))
            except RequestFailed as failure:
                seconds = time.perf_counter() - started
                _log.debug("%s: %s after %.3f s", what, failure.reason, seconds)
                pause = self._pause(tries, failure)
                now = time.monotonic()
                if not failure.repeat or now + pause > deadline:
                    raise GaveUp(failure, tries, now - began) from None
                stop.wait(pause)
            else:
                _log.debug("%s: %.3f s", what, time.perf_counter() - started)
                return answer
        raise Stopped

    def _read_timeout(self, kind: str) -> float:
        """Return a few times the usual latency of this kind of request."""
        # The first files are about as fast as the listing.
        known = kind if kind in self._latency else "api"
        latency = self._latency.get(known)
        if latency is None:
            return _FIRST_TIMEOUT
        return min(max(6 * latency, _SHORTEST_TIMEOUT[known]), self.patience / 2)

    def _pause(self, tries: int, failure: RequestFailed) -> float:
        if failure.at_once:
            return 0.0
        pause = min(_FIRST_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE)
        return float(max(pause * self._random.uniform(0.5, 1.5), failure.retry_after or 0.0))

    def _pieces(self, response: requests.Response, wait: Wait, largest: int) -> Iterator[bytes]:
        """Yield a body as it comes; one that drips, breaks off or does not end is a failure."""
        began, received_before, received = time.monotonic(), 0, 0
        while piece := _next_piece(response):
            if wait.stop.is_set():
                raise Stopped
            received += len(piece)
            if received > largest:
                raise RequestFailed(f"the answer has more than {largest:,} bytes", repeat=False)
            seconds = time.monotonic() - began
            if seconds > self.patience:
                new = received - received_before
                if new < _SLOWEST * seconds:
                    reason = f"the answer comes too slowly ({new} bytes in {seconds:.1f} s)"
                    raise RequestFailed(reason, repeat=True)
                began, received_before = time.monotonic(), received
            yield piece

    def _refusal_of(self, response: requests.Response, wait: Wait) -> RequestFailed:
        """Describe an answer with another status, in TensorBay's words if it has any."""
        status = response.status_code
        try:
            answer = json.loads(self.read_body(response, wait))
        except (RequestFailed, ValueError, RecursionError):  # not JSON, or not all of it
            answer = None
        fields = answer if isinstance(answer, dict) else {}
        code, message = str(fields.get("code") or ""), str(fields.get("message") or "")
        return RequestFailed(
            ": ".join(word for word in (f"HTTP {status}", code, message[:200]) if word),
            repeat=_RETRY.is_retry("GET", status),
            status=status,
            retry_after=_seconds_to_wait(response.headers.get("Retry-After", "")),
            code=code or None,
        )


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _tls_context(ca_bundle: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Return a context with the certificates given, of the environment, or of requests."""
    named = {"ca_bundle": ca_bundle, **{name: os.environ.get(name) for name in _CERTIFICATES}}
    usual = ("certifi", DEFAULT_CA_BUNDLE_PATH)
    name, path = next(((name, path) for name, path in named.items() if path), usual)
    context = create_urllib3_context()
    try:
        context.load_verify_locations(
            **{"capath" if Path(path).is_dir() else "cafile": os.fspath(path)}
        )
    except OSError as error:
        raise ConfigurationError(
            f"{name} must be a file or folder of certificates (PEM). Received: {path} "
            f"({error.strerror or error})"
        ) from None
    return context


def _next_piece(response: requests.Response) -> bytes:
    """Return what has come of a body, ``b""`` at its end; a body that was cut is an error."""
    try:
        return bytes(response.raw.read1(_CHUNK, decode_content=True) or b"")
    except HTTPError as error:
        raise _failure_of(requests.ConnectionError(error)) from None
    except (OSError, ValueError) as error:
        raise _failure_of(error) from None


def _seconds_to_wait(header: str) -> float | None:
    """Read ``Retry-After``: seconds, which some servers send as a fraction, or a date."""
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return _RETRY.parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):
        return None


def _failure_of(error: Exception) -> RequestFailed:
    """Describe an exception of requests or urllib3 without the address in its text."""
    causes = list(_causes(error, set()))
    refusal = next(filter(None, map(_tls_refusal, causes)), None)
    if refusal is not None:
        return RequestFailed(f"TLS: {refusal}", repeat=False)
    if any(isinstance(cause, (requests.Timeout, TimeoutError)) for cause in causes):
        return RequestFailed("no answer in time", repeat=True)
    is_passing = isinstance(error, requests.RequestException)  # not a damaged file of certificates
    if not is_passing or isinstance(error, (requests.TooManyRedirects, ValueError)):  # a wrong URL
        reason = f"the request could not be made ({type(error).__name__})"
        return RequestFailed(reason, repeat=False)
    named = [cause for cause in causes if isinstance(cause, OSError) and cause.strerror]
    if named:
        return RequestFailed(str(named[-1].strerror), repeat=True)
    return RequestFailed(f"the connection broke ({type(causes[-1]).__name__})", repeat=True)


def _tls_refusal(cause: BaseException) -> str | None:
    """Return why TLS would fail in a retry, too, or ``None`` if it may succeed."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message or "the certificate was refused"
    if isinstance(cause, ssl.SSLError) and cause.reason in _LASTING_TLS:
        return cause.reason.replace("_", " ").lower()
    return None


def _causes(error: Any, seen: set[int]) -> Iterator[BaseException]:
    """Yield an exception and everything it was made from, outermost first."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    for cause in (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args):
        yield from _causes(cause, seen)
