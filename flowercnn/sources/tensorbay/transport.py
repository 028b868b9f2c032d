"""HTTP that survives what networks do: requests that are checked, timed and repeated."""

from __future__ import annotations

import json
import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from flowercnn.errors import ConfigurationError
from flowercnn.sources.tensorbay.redaction import hide_queries

__all__ = ["GaveUp", "RequestFailed", "Stopped", "Transport", "Wait", "read_body"]

_CHUNK: Final = 64 * 1024
_SLOWEST: Final = 1024  # bytes per second; what brings fewer for as long as patience lasts is given up
_LARGEST_FILE: Final = 2**30
_LARGEST_ANSWER: Final = 2**26
_FIRST_PAUSE: Final = 0.1  # seconds; doubles with every repetition
_LONGEST_PAUSE: Final = 2.0
_SHORTEST_WAIT: Final = {"file": 0.3, "api": 1.0}  # seconds an answer has to begin, however fast others are
_UNKNOWN_WAIT: Final = 2.0  # where it is not known yet how fast it is
_CONNECT_WAIT: Final = 3.0  # seconds; a lost packet of a new connection is sent again after one second
_REPEATABLE: Final = frozenset({408, 425, 429})  # and everything from 500 on
_SERVER_ERROR: Final = 500
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}
_CERTIFICATES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

_LASTING_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "TLSV1_ALERT_UNKNOWN_CA"})
_UNUSABLE: Final = (
    requests.TooManyRedirects,
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
)

T = TypeVar("T")

_log = logging.getLogger("flowercnn.sources.tensorbay")


class RequestFailed(Exception):  # noqa: N818 - never seen by users
    """One request came to nothing.

    Args:
        reason: Why, in words without an address or a key.
        repeat: Whether asking again may help.
        status: The HTTP status, where there was an answer.
        retry_after: Seconds the server asks to wait, where it does.
        code: The ``code`` of TensorBay's answer, such as ``"ResourceNotExist"``.
    """

    def __init__(
        self,
        reason: str,
        *,
        repeat: bool,
        status: int | None = None,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.repeat, self.status, self.retry_after, self.code = reason, repeat, status, retry_after, code
        self.at_once = False  # whether asking again needs no pause

    def says(self, status: int, code: str) -> bool:
        """Return whether TensorBay says so by the status or, as the SDK understands it, by the code."""
        return self.status == status or self.code == code


class GaveUp(Exception):  # noqa: N818 - never seen by users
    """A request failed for good; `last` is its last failure."""

    def __init__(self, last: RequestFailed, tries: int, seconds: float) -> None:
        times = "once" if tries == 1 else f"{tries} times in {seconds:.1f} s"
        super().__init__(f"{last.reason}; tried {times}")
        self.last = last.with_traceback(None)  # it leads to frames that hold the key


class Stopped(Exception):  # noqa: N818 - never seen by users
    """Nobody wants the answer any more."""


class _Session(requests.Session):
    """A session that sends the key to no host that was not meant."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        before, now = str(response.request.url), str(prepared_request.url)
        if self.should_strip_auth(before, now):
            prepared_request.headers.pop("Authorization", None)
            prepared_request.headers.pop("X-Token", None)


class _Adapter(HTTPAdapter):
    """Connections that share one TLS context; requests would read the certificates anew for each of them."""

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
        connect: Seconds to connect.
        read: Seconds to wait for each piece of the answer.
        deadline: When nobody waits any more, by `time.monotonic`.
        stop: Set when nobody wants the answer any more.
        patience: Seconds in which an answer under way must bring something.
    """

    connect: float
    read: float
    deadline: float
    stop: threading.Event
    patience: float

    @property
    def remaining(self) -> float:
        """Seconds left until the deadline; a twentieth at least, so that one may ask once."""
        return max(self.deadline - time.monotonic(), 0.05)


class Transport:
    """One pool of connections, used by all threads.

    Args:
        connections: Connections per host; as many as there are threads.
        patience: Seconds after which a request is not repeated any more.
        ca_bundle: File or folder of certificates to trust instead of the usual ones.

    Raises:
        ConfigurationError: If there are no certificates in it.
    """

    def __init__(self, connections: int, patience: float, ca_bundle: str | None = None) -> None:
        self.patience = patience
        self._session = _Session()
        self._session.auth = _unchanged  # else requests looks into ~/.netrc
        self._session.max_redirects = 5
        context = _tls_context(ca_bundle)
        adapter = _Adapter(context, pool_connections=16, pool_maxsize=4 * connections, max_retries=0)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._files = threading.BoundedSemaphore(connections)
        self._random = random.Random()  # its own: the user's sequence of random numbers stays as it is
        self._usual: dict[str, float] = {}  # seconds until an answer begins, smoothed, by kind of request

    def send(self, method: str, url: str, *, kind: str, wait: Wait, **options: Any) -> requests.Response:
        """Return the answer if its status is 200 or 201; its body is not read yet.

        Args:
            method: Such as ``"GET"``.
            url: Address.
            kind: Of the request: such as are equally fast have the same.
            wait: How long to wait.
            **options: Of `requests.request`.

        Raises:
            RequestFailed: If it cannot be had, or says something else.
            Stopped: If ``wait.stop`` was set while it said so.
        """
        started = time.perf_counter()
        try:
            timeout = (min(wait.connect, wait.remaining), min(wait.read, wait.remaining))
            with hide_queries():
                response = self._session.request(method, url, stream=True, timeout=timeout, **options)
        except (requests.RequestException, OSError, ValueError) as error:
            failure = _failure_of(error)
        else:
            self._learn(kind, time.perf_counter() - started)
            if response.status_code in (200, 201):
                return response
            with response:
                failure = _refusal_of(response, wait)
        raise failure

    def download(self, url: str, write: Callable[[bytes], object], wait: Wait) -> None:
        """Hand the file behind an address to ``write``, piece by piece.

        There are never more downloads at a time than connections, however many threads ask for one.

        Raises:
            RequestFailed: If it cannot be had, or not all of it, comes too slowly or is larger than 1 GiB.
            Stopped: If it is not wanted any more.
            OSError: What ``write`` raises.
        """
        if not self._files.acquire(timeout=wait.remaining):
            raise RequestFailed("all connections wait for answers", repeat=True)
        try:
            if wait.stop.is_set():
                raise Stopped
            with self.send("GET", url, kind="file", wait=wait, headers=_AS_IT_IS) as response:
                for piece in _pieces(response, wait, _LARGEST_FILE):
                    write(piece)
        finally:
            self._files.release()

    def persist(
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
            attempt: Asks once and raises `RequestFailed` if that came to nothing.
            what: What is asked, for the log.
            kind: As for `send`.
            stop: Ends the pauses and the repetitions when it is set.
            within: The attempt this is a part of: it ends with it.

        Raises:
            GaveUp: If it did not succeed in time, or asking again is pointless.
            Stopped: If ``stop`` was set.
        """
        began = time.monotonic()
        deadline, stop = began + self.patience, stop or threading.Event()
        if within is not None:
            deadline, stop = within.deadline, within.stop
        longer, tries = 1.0, 0
        while not stop.is_set():
            tries += 1
            started = time.perf_counter()
            try:
                answer = attempt(Wait(_CONNECT_WAIT, self._usual_wait(kind) * longer, deadline, stop, self.patience))
            except RequestFailed as error:
                failure = error
            else:
                _log.debug("%s: %.3f s", what, time.perf_counter() - started)
                return answer
            _log.debug("%s: %s after %.3f s", what, failure.reason, time.perf_counter() - started)
            pause = self._pause(tries, failure)
            if not failure.repeat or time.monotonic() + pause > deadline:
                raise GaveUp(failure, tries, time.monotonic() - began)
            longer = longer if tries == 1 else 2 * longer  # from the second repetition on it is given more time
            stop.wait(pause)
        raise Stopped

    def _usual_wait(self, kind: str) -> float:
        """Return a few times as long as an answer of this kind usually takes to begin."""
        shortest = _SHORTEST_WAIT[kind] if kind in self._usual else _SHORTEST_WAIT["api"]
        usual = self._usual.get(kind) or self._usual.get("api")  # the first files are about as fast as the listing
        return _UNKNOWN_WAIT if usual is None else min(max(6 * usual, shortest), self.patience / 2)

    def _learn(self, kind: str, seconds: float) -> None:
        self._usual[kind] = 0.9 * self._usual.get(kind, seconds) + 0.1 * seconds

    def _pause(self, tries: int, failure: RequestFailed) -> float:
        if failure.at_once:
            return 0.0
        pause = min(_FIRST_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE) * self._random.uniform(0.5, 1.5)
        return float(max(pause, failure.retry_after or 0.0))


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return what checks servers: by the certificates given, those of the environment, or those of requests."""
    named = {"ca_bundle": ca_bundle, **{name: os.environ.get(name) for name in _CERTIFICATES}}
    name, path = next(((name, path) for name, path in named.items() if path), ("certifi", DEFAULT_CA_BUNDLE_PATH))
    context = create_urllib3_context()
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})  # noqa: PTH112
    except OSError as error:
        raise ConfigurationError(
            f"{name} must be a file or folder of certificates (PEM). Received: {path} ({error.strerror or error})"
        ) from None
    return context


def check_length(response: requests.Response) -> None:
    """Compare what came over the wire with what was announced: not every urllib3 does.

    Raises:
        RequestFailed: If they differ.
    """
    announced = response.headers.get("Content-Length", "")
    if not announced.isdigit() or "Transfer-Encoding" in response.headers:
        return
    received = response.raw.tell()
    if received != int(announced):
        raise RequestFailed(f"the answer was cut short ({received} of {announced} bytes)", repeat=True)


def read_body(response: requests.Response, wait: Wait) -> bytes:
    """Return the whole body.

    Raises:
        RequestFailed: If it does not come, or not all of it, comes too slowly or is larger than 64 MiB.
        Stopped: If ``wait.stop`` was set.
    """
    return b"".join(_pieces(response, wait, _LARGEST_ANSWER))


def _pieces(response: requests.Response, wait: Wait, largest: int) -> Iterator[bytes]:
    """Yield a body as it comes, and see that it does come, and ends."""
    began, since, received = time.monotonic(), 0, 0
    while piece := _next_piece(response):
        if wait.stop.is_set():
            raise Stopped
        received += len(piece)
        if received > largest:
            raise RequestFailed(f"the answer has more than {largest:,} bytes", repeat=False)
        seconds = time.monotonic() - began
        if seconds > wait.patience:
            if received - since < _SLOWEST * seconds:
                raise RequestFailed(
                    f"the answer comes too slowly ({received - since} bytes in {seconds:.1f} s)", repeat=True
                )
            began, since = time.monotonic(), received
        yield piece
    check_length(response)


def _next_piece(response: requests.Response) -> bytes:
    """Return what has come of a body, ``b""`` at its end; only the network's errors become `RequestFailed`."""
    read = (
        getattr(response.raw, "read1", None) or response.raw.read
    )  # urllib3 1 waits until all that is asked for came
    amount = _CHUNK if hasattr(response.raw, "read1") else _SLOWEST
    try:
        with hide_queries():
            return bytes(read(amount, decode_content=True) or b"")
    except HTTPError as error:
        failure = _failure_of(requests.ConnectionError(error))
    except (requests.RequestException, OSError, ValueError) as error:
        failure = _failure_of(error)
    raise failure


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _refusal_of(response: requests.Response, wait: Wait) -> RequestFailed:
    """Describe an answer with another status, in TensorBay's words where it has any."""
    status = response.status_code
    try:
        answer = json.loads(read_body(response, wait))
    except (RequestFailed, ValueError, RecursionError):  # no JSON, or not all of it
        answer = None
    said = answer if isinstance(answer, dict) else {}
    code, message = str(said.get("code") or ""), str(said.get("message") or "")
    words = ": ".join(word for word in (f"HTTP {status}", code, message[:200]) if word)
    return RequestFailed(
        words,
        repeat=status in _REPEATABLE or status >= _SERVER_ERROR,
        status=status,
        retry_after=_seconds_to_wait(response.headers.get("Retry-After", "")),
        code=code or None,
    )


def _seconds_to_wait(header: str) -> float | None:
    """Read ``Retry-After``: a number of seconds or a date."""
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError, IndexError):  # no date, or one without a time zone
        return None


def _failure_of(error: Exception) -> RequestFailed:
    """Describe an exception of requests without the address in its text."""
    causes = _causes(error)
    tls = next((words for cause in causes if (words := _tls_refusal(cause))), None)
    if tls is not None:
        return RequestFailed(f"TLS: {tls}", repeat=False)
    if any(isinstance(cause, (requests.Timeout, TimeoutError)) for cause in causes):
        return RequestFailed("no answer in time", repeat=True)
    if isinstance(error, _UNUSABLE):
        return RequestFailed(f"the address cannot be used ({type(error).__name__})", repeat=False)
    if not isinstance(error, requests.RequestException):  # such as a file of certificates that is none
        return RequestFailed(f"the request could not be made ({type(error).__name__})", repeat=False)
    named = [cause for cause in causes if isinstance(cause, OSError) and cause.strerror]
    if named:
        return RequestFailed(str(named[-1].strerror), repeat=True)
    return RequestFailed(f"the connection broke ({type(causes[-1]).__name__})", repeat=True)


def _tls_refusal(cause: BaseException) -> str | None:
    """Return why TLS will fail the next time as well, or ``None`` if it may not."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message or "the certificate was refused"
    if isinstance(cause, ssl.SSLError) and cause.reason in _LASTING_TLS:
        return cause.reason.replace("_", " ").lower()
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and everything it was made of, outermost first."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and current not in found:
            found.append(current)
            waiting += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
    return found
