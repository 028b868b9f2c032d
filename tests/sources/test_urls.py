from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flowercnn import ImageError
from flowercnn.sources import urls as url

Serve = Callable[[bytes], int]


@pytest.fixture
def dripping() -> Iterator[Serve]:
    """Serve on this computer: the beginning of an answer, then a byte now and then, without end."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def drip(begin: bytes) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(begin)
            while not over.wait(0.02):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

    def serve(begin: bytes) -> int:
        threading.Thread(target=drip, args=(begin,), daemon=True).start()
        return int(listening.getsockname()[1])

    yield serve
    over.set()
    listening.close()


@pytest.mark.parametrize(
    "begin",
    [b"HTTP/1.1 200 OK\r\nX-A: ", b"HT", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 404 No\r\nX-A: "],
)
def test_an_answer_that_drips_is_given_up_in_time(
    dripping: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(url, "_SECONDS_IN_ALL", 0.3)
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"cannot be fetched \(TimeoutError\)"):
        url.fetch(f"http://127.0.0.1:{dripping(begin)}/a.jpg")
    assert time.monotonic() - started < 5


def test_tls_that_drips_is_given_up_in_time(
    dripping: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "_SECONDS_IN_ALL", 1)  # loading certificates takes a part
    record = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"  # of the handshake, 16 KiB announced
    with pytest.raises(ImageError, match=r"cannot be fetched \(TimeoutError\)"):
        url.fetch(f"https://127.0.0.1:{dripping(record)}/a.jpg")


def test_chunks_that_pause_too_long_are_given_up(dripping: Serve) -> None:
    address = f"http://127.0.0.1:{dripping(b'HTTP/1.1 200 OK' + bytes([13, 10, 13, 10]))}/a.jpg"
    with pytest.raises(TimeoutError), url.open_url(address, pause=0.3, size=10**6) as (_, chunks):
        list(chunks)  # bytes come, but no 16 KiB in time


@pytest.fixture
def answers() -> Iterator[Callable[..., str]]:
    """Serve on this computer: each answer to one request, as it is."""
    listening = socket.create_server(("127.0.0.1", 0))

    def respond(contents: tuple[bytes, ...]) -> None:
        with contextlib.suppress(OSError):  # closed before all were asked for
            for content in contents:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(2**16)
                    connection.sendall(content)

    def serve(*contents: bytes) -> str:
        threading.Thread(target=respond, args=(contents,), daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    listening.close()


def test_redirects_are_limited(answers: Callable[..., str]) -> None:
    again = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(ImageError, match=r"cannot be fetched \(TooManyRedirects\)"):
        url.fetch(answers(*[again] * 11))


def test_the_body_of_a_redirect_is_not_read(dripping: Serve, answers: Callable[..., str]) -> None:
    target = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrose")
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\n\r\n".encode()
    assert url.fetch(f"http://127.0.0.1:{dripping(redirect)}/a.jpg") == b"rose"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nrose", "ConnectionError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9, 8\r\n\r\nrose", "InvalidHeader"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://me:s3cret@a.b/\r\n\r\n", "InvalidSchema"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[s3cret/\r\n\r\n", "ValueError"),
        (b"", "ConnectionError"),
    ],
)
def test_reasons_show_no_secrets(answers: Callable[..., str], answer: bytes, reason: str) -> None:
    address = answers(answer).replace("http://", "http://me:s3cret@")
    with pytest.raises(ImageError, match=rf"/a.jpg: cannot be fetched \({reason}") as caught:
        url.fetch(f"{address}/a.jpg?token=s3cret")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_body_is_yielded_as_it_is_sent(answers: Callable[..., str]) -> None:
    headers = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
    assert url.fetch(answers(headers + b"rose")) == b"rose"


def test_a_proxy_is_used_and_watched(
    dripping: Serve, answers: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrose"))
    assert url.fetch("http://flowers.example/a.jpg") == b"rose"
    monkeypatch.setattr(url, "_SECONDS_IN_ALL", 1)  # loading certificates takes a part
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{dripping(b'HT')}")
    with pytest.raises(ImageError, match="TimeoutError"):
        url.fetch("https://flowers.example/a.jpg")
