from __future__ import annotations

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
    "begin", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HT", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 404 No\r\nX-A: "]
)
def test_an_answer_that_drips_is_given_up_in_time(
    dripping: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(url, "_SECONDS_IN_ALL", 0.3)
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"cannot be fetched \(TimeoutError\)"):
        url.fetch(f"http://127.0.0.1:{dripping(begin)}/a.jpg")
    assert time.monotonic() - started < 5


def test_tls_that_drips_is_given_up_in_time(dripping: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url, "_SECONDS_IN_ALL", 0.3)
    record = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"  # of the handshake, 16 KiB announced
    with pytest.raises(ImageError, match=r"cannot be fetched \(TimeoutError\)"):
        url.fetch(f"https://127.0.0.1:{dripping(record)}/a.jpg")
