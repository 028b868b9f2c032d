"""A TensorBay server on this machine: what `flowercnn.TensorBay` is tested against, faults
included.

It speaks the part of the protocol that reading needs, to the SDK itself as well:

    with TensorBayServer([example_dataset("Flowers")]) as server:
        source = TensorBay("Flowers", server.key, url=server.url)

The hosted service could not be compared with; the SDK's source says what it expects of it.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tensorbay_data import (
    EXAMPLE_CLASSES,
    FAULTS,
    LARGEST_PAGE,
    Asked,
    Knobs,
    ServedDataset,
    ServedFile,
    example_dataset,
    example_files,
    loopback_certificate,
)

__all__ = [
    "EXAMPLE_CLASSES",
    "FAULTS",
    "Asked",
    "Knobs",
    "ServedDataset",
    "ServedFile",
    "TensorBayServer",
    "example_dataset",
    "example_files",
    "loopback_certificate",
]

_API: Final = "/gatewayv2/tensorbay-open-api/v1/"


class _Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"success": False, "code": code, "message": message}


class TensorBayServer:
    """A server on a free port of this machine; a context manager.

    Args:
        datasets: What it serves.
        key: The access key it accepts.
        knobs: How it behaves.
        tls: A server-side TLS context, such as `loopback_certificate` makes; ``None`` for plain
            HTTP.
    """

    def __init__(
        self,
        datasets: Sequence[ServedDataset],
        *,
        key: str = "Accesskey-0123456789abcdef0123456789abcdef",
        knobs: Knobs | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.datasets = {dataset.id: dataset for dataset in datasets}
        self.key, self.knobs = key, knobs or Knobs()
        self.asked: list[Asked] = []
        self.busiest = 0  # most requests answered at the same time
        self._busy = 0
        self._lock = threading.Lock()
        self._random = random.Random(self.knobs.seed)
        self._signing_key = hashlib.sha256(key.encode()).digest()
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads, self._server.owner, self._server.tls = True, self, tls
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """What to give as ``url``."""
        scheme = "http" if self._server.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}/"

    def count(self, what: str) -> int:
        """Return how many requests of a kind there were; see `Asked`."""
        return sum(asked.what == what for asked in self.asked)

    def begin(self, what: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        """Note a request, and return what shall go wrong with it."""
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            if self.knobs.script.get(what):
                fault = self.knobs.script[what].pop(0)
            else:
                fault = (
                    self._random.choice(self.knobs.faults)
                    if self._random.random() < self.knobs.fault_rate
                    else ""
                )
            self.asked.append(Asked(what, query, headers, fault))
        return "503" if fault == "expired" and what != "file" else fault

    def end(self) -> None:
        """Note the end of a request."""
        with self._lock:
            self._busy -= 1

    def signed(self, dataset: ServedDataset, commit_id: str, segment: str, number: int) -> str:
        """Return an address for a file, good for a while."""
        path = "/".join(["files", dataset.id, commit_id, quote(segment, safe=""), str(number)])
        expires = str(time.time() + self.knobs.url_lifetime)
        signature = self._signature(path, expires)
        return f"{self.knobs.store or self.url}{path}?Expires={expires}&Signature={signature}"

    def open_signed(self, path: str, query: Mapping[str, str]) -> bytes | None:
        """Return the file behind an address, or ``None`` if that is wrong or has expired."""
        expires = query.get("Expires", "0")
        good = hmac.compare_digest(
            query.get("Signature", ""), self._signature(path.lstrip("/"), expires)
        )
        if not good or float(expires) < time.time():
            return None
        _, dataset_id, commit_id, segment, number = path.lstrip("/").split("/")
        state = self.datasets[dataset_id].state(commit_id) or {}
        return state[unquote(segment)][int(number)].read()

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._signing_key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()

    def answer(self, section: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer of the API.

        Raises:
            _Refused: If there is no such thing.
        """
        first, _, rest = section.partition("/")
        if first != "datasets":
            raise _not_there("section", section)
        if not rest:
            named = [
                entry for entry in self.datasets.values() if query.get("name", "") in entry.name
            ]
            return self._page(
                [{"id": entry.id, "name": entry.name} for entry in named], "datasets", query
            )
        dataset_id, _, part = rest.partition("/")
        dataset = self.datasets.get(dataset_id)
        if dataset is None:
            raise _not_there("dataset", dataset_id)
        answers: dict[str, Callable[[ServedDataset, Mapping[str, str]], dict[str, Any]]] = {
            "": self._info,
            "branches": self._branches,
            "commits": self._commits,
            "segments": self._segments,
            "labels/catalogs": self._catalogue,
            "data/details": self._details,
            "data/urls": self._urls,
        }
        if part not in answers:
            raise _not_there("section", section)
        return answers[part](dataset, query)

    def _info(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        return {
            "name": dataset.name,
            "type": int(dataset.fusion),
            "commitId": dataset.commit_of("main"),
            "defaultBranch": "main",
            "alias": "",
            "isPublic": False,
            "updateTime": 0,
            "owner": "",
        }

    def _branches(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        names = [name for name in ("main", *dataset.branches) if query.get("name", name) == name]
        return self._page(
            [{"name": name, **_commit(dataset.commit_of(name))} for name in names],
            "branches",
            query,
        )

    def _commits(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        wanted = query.get("commit", "main")
        ids = (
            [dataset.commit_of(wanted)]
            if wanted in ("main", *dataset.branches, *dataset.tags)
            else [wanted]
        )
        if dataset.state(ids[0]) is None:
            raise _not_there("commit", wanted)
        return self._page([_commit(commit_id) for commit_id in ids], "commits", query)

    def _segments(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        entries = [{"name": name, "description": ""} for name in self._state(dataset, query)]
        return self._page(entries, "segments", query)

    def _catalogue(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        self._state(dataset, query)
        if dataset.categories is None:
            return {"catalog": {}}
        classification: dict[str, Any] = {
            "categories": [{"name": name} for name in dataset.categories]
        }
        if dataset.delimiter is not None:
            classification["categoryDelimiter"] = dataset.delimiter
        return {"catalog": {"CLASSIFICATION": classification}}

    def _details(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        files = self._files(dataset, query)
        urls = self._urls(dataset, query)["urls"]
        answer = self._page(files, "dataDetails", query)
        answer["dataDetails"] = [
            {
                "remotePath": file.path,
                "timestamp": 0,
                "label": file.dumped_label(),
                "url": url["url"],
            }
            for file, url in zip(answer["dataDetails"], urls, strict=True)
        ]
        return answer

    def _urls(self, dataset: ServedDataset, query: Mapping[str, str]) -> dict[str, Any]:
        name = query["segmentName"]
        entries = [
            {"remotePath": file.path, "number": number}
            for number, file in enumerate(self._files(dataset, query))
        ]
        answer = self._page(entries, "urls", query)
        for entry in answer["urls"]:
            entry["url"] = self.signed(dataset, query["commit"], name, entry.pop("number"))
        return answer

    def _state(
        self, dataset: ServedDataset, query: Mapping[str, str]
    ) -> Mapping[str, Sequence[ServedFile]]:
        state = dataset.state(query.get("commit", ""))
        if state is None:
            raise _not_there("commit", query.get("commit", ""))
        return state

    def _files(self, dataset: ServedDataset, query: Mapping[str, str]) -> Sequence[ServedFile]:
        name = query.get("segmentName", "")
        state = self._state(dataset, query)
        if name not in state:
            raise _not_there("segment", name)
        return state[name]

    def _page(self, entries: Sequence[Any], name: str, query: Mapping[str, str]) -> dict[str, Any]:
        offset, limit = int(query.get("offset", "0")), int(query.get("limit", LARGEST_PAGE))
        if limit > LARGEST_PAGE:
            raise _Refused(HTTPStatus.BAD_REQUEST, "InvalidParamsValue", "limit")
        lost = self.knobs.lost if name in ("dataDetails", "urls") else 0
        end = min(offset + min(limit, self.knobs.page_cap), len(entries) - lost)
        page = list(entries[offset : max(end, offset)])
        return {name: page, "offset": offset, "recordSize": len(page), "totalCount": len(entries)}


class _Server(ThreadingHTTPServer):
    owner: TensorBayServer
    tls: ssl.SSLContext | None
    request_queue_size = 128

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake in the connection's own thread, so that a slow one delays nobody."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Say nothing."""

    def do_GET(self) -> None:
        owner = self.server.owner
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        what = _kind_of(address.path)
        fault = owner.begin(
            what, query, {name.lower(): value for name, value in self.headers.items()}
        )
        try:
            owner.stopping.wait(owner.knobs.latency)
            self._answer(owner, address.path, query, what, fault)
        finally:
            owner.end()

    def _answer(
        self, owner: TensorBayServer, path: str, query: Mapping[str, str], what: str, fault: str
    ) -> None:
        if fault == "reset":
            # With a linger time of zero the system sends RST instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "hang":
            owner.stopping.wait(owner.knobs.hang)
            self.close_connection = True
        elif fault.isdigit():
            headers = (
                {} if owner.knobs.retry_after is None else {"Retry-After": owner.knobs.retry_after}
            )
            self._send(
                int(fault),
                b'{"success": false, "message": "a fault was asked for"}',
                headers=headers,
            )
        elif fault == "expired":
            self._send(
                HTTPStatus.FORBIDDEN, b"<Error><Code>AccessDenied</Code></Error>", "application/xml"
            )
        elif fault == "page":
            self._send(
                HTTPStatus.OK, b"<html>Please log in to the wireless network</html>", "text/html"
            )
        elif fault == "nothing":
            self._send(HTTPStatus.OK, b"{}")
        elif fault == "redirect":
            self._send(
                HTTPStatus.FOUND, b"", headers={"Location": f"{owner.knobs.redirect}{self.path}"}
            )
        elif what == "file":
            self._send_file(owner, path, query, cut=fault == "cut")
        else:
            self._send_answer(owner, path, query, cut=fault == "cut")

    def _send_file(
        self, owner: TensorBayServer, path: str, query: Mapping[str, str], *, cut: bool
    ) -> None:
        content = owner.open_signed(path, query)
        if content is None:
            self._send(
                HTTPStatus.FORBIDDEN, b"<Error><Code>AccessDenied</Code></Error>", "application/xml"
            )
        else:
            self._send(HTTPStatus.OK, content, "image/jpeg", cut=cut, chunked=owner.knobs.chunked)

    def _send_answer(
        self, owner: TensorBayServer, path: str, query: Mapping[str, str], *, cut: bool
    ) -> None:
        status, answer = HTTPStatus.OK, {}
        try:
            if not hmac.compare_digest(self.headers.get("X-Token", ""), owner.key):
                raise _Refused(HTTPStatus.UNAUTHORIZED, "Unauthorized", "The access key is wrong")
            answer = owner.answer(path.removeprefix(_API), query)
        except _Refused as refused:
            status, answer = refused.status, refused.body
        body, headers = json.dumps(answer).encode(), {}
        if owner.knobs.compressed and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers = gzip.compress(body), {"Content-Encoding": "gzip"}
        self._send(status, body, headers=headers, cut=cut)

    def _send(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        *,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
        chunked: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[: len(body) // 2] if cut else body
        if chunked:
            for start in range(0, len(sent), 4096):
                piece = sent[start : start + 4096]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"" if cut else b"0\r\n\r\n")
        else:
            self.wfile.write(sent)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut


def _kind_of(path: str) -> str:
    if path.startswith("/files/"):
        return "file"
    section = path.removeprefix(_API)
    parts = section.split("/", 2)
    return parts[2] if len(parts) > 2 else "dataset" if len(parts) == 2 else parts[0]


def _commit(commit_id: str) -> dict[str, Any]:
    return {
        "commitId": commit_id,
        "parentCommitId": None,
        "title": "first",
        "description": "",
        "committer": {"name": "", "date": 0},
    }


def _not_there(kind: str, name: str) -> _Refused:
    return _Refused(HTTPStatus.NOT_FOUND, "ResourceNotExist", f"The {kind} {name} does not exist")
