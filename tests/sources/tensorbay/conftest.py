"""A TensorBay on this machine, and sources that read from it; no other machine can be reached."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tensorbay_server import (
    Knobs,
    ServedDataset,
    TensorBayServer,
    example_dataset,
    loopback_certificate,
)

from flowercnn.sources.tensorbay import TensorBay


@pytest.fixture(autouse=True)
def no_one_elses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no cache and no profile of whoever runs the tests, and no way to another machine."""
    for name in (
        "FLOWERCNN_TENSORBAY_KEY",
        "TENSORBAY_ACCESS_KEY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture
def serve() -> Iterator[Callable[..., TensorBayServer]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(*datasets: ServedDataset, tls: Any = None, **knobs: Any) -> TensorBayServer:
            knobs.setdefault("hang", 5.0)
            server = TensorBayServer(datasets or [example_dataset()], knobs=Knobs(**knobs), tls=tls)
            return stack.enter_context(server)

        yield start


@pytest.fixture
def server(serve: Callable[..., TensorBayServer]) -> TensorBayServer:
    """A server with the example data set, in good health."""
    return serve()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., TensorBay]:
    """Make a source that reads from a server."""

    def make(server: TensorBayServer, dataset: Any = "Flowers", **options: Any) -> TensorBay:
        options.setdefault("cache_dir", tmp_path / "cache")
        if isinstance(dataset, str):
            options = {"access_key": server.key, "url": server.url, **options}
        return TensorBay(dataset, **options)

    return make


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The TLS context of a server on this machine, and the authority to trust."""
    return loopback_certificate(tmp_path_factory.mktemp("certificate"))
