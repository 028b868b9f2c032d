"""What the tests of sources share: tiny pictures, and a file server on this computer with the
faults of real ones."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY: dict[int, bytes] = {}


def tiny_png(number: int) -> bytes:
    """A picture of 8 x 8 pixels, another one for each number."""
    if number not in TINY:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        TINY[number] = buffer.getvalue()
    return TINY[number]


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    return tiny_png


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures to paths below a folder; the folder is returned."""

    def write(*paths: str, root: str = "photos") -> Path:
        for number, path in enumerate(paths):
            file = tmp_path / root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tiny_png(number))
        return tmp_path / root

    return write


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the library, in a temporary folder."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "flowercnn"


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of change of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.lstat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def unchanged() -> Iterator[Callable[[Path], Path]]:
    """Say which folder must be the same, to the byte, when the test is over."""
    before: dict[Path, dict[str, tuple[str, int]]] = {}

    def watch(folder: Path) -> Path:
        before[folder] = snapshot(folder)
        return folder

    yield watch
    for folder, content in before.items():
        assert snapshot(folder) == content


class FileServer:
    """Serves ``files`` by path; ``faults`` has, by path, what goes wrong at the next requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.pages: dict[str, bytes] = {}  # of folders; those without one have a page of links
        self.faults: dict[str, list[str | int]] = {}
        self.refusals: dict[str, list[int]] = {}  # statuses of the next answers, those to HEAD too
        self.headers: dict[str, str] = {}  # sent with every file
        self.ranges = True
        self.requests: list[tuple[str, str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> bytes | None:
        """The file, or a page of links to what is in the folder."""
        if path in self.files or path in self.pages:
            return self.files.get(path) or self.pages[path]
        prefix = path.rstrip("/") + "/"
        names = {
            name.removeprefix(prefix).partition("/")
            for name in self.files
            if name.startswith(prefix)
        }
        links = "".join(
            f'<a href="{prefix}{name}{slash}">{name}</a>' for name, slash, _ in sorted(names)
        )
        return links.encode() if links else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a branch for each fault
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.respond(body=False)

            def do_GET(self) -> None:
                self.respond(body=True)

            def respond(self, *, body: bool) -> None:
                path = self.path.partition("?")[0]
                wanted = self.headers.get("Range")
                server.requests.append((self.command, path, wanted))
                content = server.answer(path)
                fault = server.faults[path].pop(0) if body and server.faults.get(path) else None
                if server.refusals.get(path):
                    fault = server.refusals[path].pop(0)
                if fault == "drop":
                    self.close_connection = True
                    return
                if isinstance(fault, int) or content is None:
                    self.send_error(fault if isinstance(fault, int) else 404)
                    return
                start, end = 0, len(content)
                if wanted and server.ranges:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    start, end = int(first), min(int(last or end) + 1, end) if last else end
                    if start >= len(content):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
                else:
                    self.send_response(200)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                part = content[start:end]
                self.send_header("Content-Length", str(len(part)))
                self.send_header(
                    "Content-Type", "text/html" if path not in server.files else "image/png"
                )
                if server.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if body:
                    self.wfile.write(part[: len(part) // 2] if fault == "cut" else part)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[FileServer]:
    running = FileServer()
    yield running
    running.close()
