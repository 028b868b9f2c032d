"""What a TensorBay on this machine serves, and how it behaves: the arguments of
`TensorBayServer`."""

from __future__ import annotations

import hashlib
import io
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trustme
from PIL import Image

__all__ = [
    "EXAMPLE_CLASSES",
    "FAULTS",
    "LARGEST_PAGE",
    "Asked",
    "Knobs",
    "ServedDataset",
    "ServedFile",
    "example_dataset",
    "example_files",
    "loopback_certificate",
]

EXAMPLE_CLASSES: Final = ("tulip", "daisy", "rose")
"""The catalogue of `example_dataset`: not in alphabetical order."""

LARGEST_PAGE: Final = 128
"""Entries TensorBay sends at a time."""

FAULTS: Final = ("429", "500", "503", "reset", "hang", "cut", "expired")
"""Kinds of faults: three HTTP statuses, a connection that is reset, one that never answers, half an
answer, and an address of a file that is refused as expired (for other requests: 503)."""


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file of a data set.

    Args:
        path: Its remote path.
        content: Its bytes, or the path of a file with them.
        category: Its class, or ``None``.
        label: The whole label as TensorBay sends it; by default made from ``category``.
    """

    path: str
    content: bytes | Path = field(repr=False)
    category: str | None = None
    label: Any = ...

    def read(self) -> bytes:
        """Return its bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def dumped_label(self) -> Any:
        """Return the label as TensorBay sends it."""
        if self.label is not ...:
            return self.label
        return (
            {}
            if self.category is None
            else {"CLASSIFICATION": {"category": self.category, "attributes": {}}}
        )


@dataclass(frozen=True, slots=True)
class ServedDataset:
    """A data set.

    Args:
        name: Its name.
        segments: The files of each segment on the default branch, ``main``.
        categories: Of the catalogue, in its order; ``None`` for a catalogue without classification.
        delimiter: Of nested categories.
        fusion: Whether it says of itself that it is a fusion data set.
        branches: Segments of other branches, by name.
        tags: Segments of tagged commits, by name.
    """

    name: str
    segments: Mapping[str, Sequence[ServedFile]] = field(repr=False)
    categories: Sequence[str] | None = None
    delimiter: str | None = None
    fusion: bool = False
    branches: Mapping[str, Mapping[str, Sequence[ServedFile]]] = field(
        default_factory=dict, repr=False
    )
    tags: Mapping[str, Mapping[str, Sequence[ServedFile]]] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """The id TensorBay would give it."""
        return _hash("dataset", self.name)

    def keys(self, *segments: str) -> list[str]:
        """Return the keys `flowercnn.TensorBay` gives the files of some segments of the default
        branch, in order."""
        return [f"{segment}/{file.path}" for segment in segments for file in self.segments[segment]]

    def commit_of(self, revision: str) -> str:
        """Return the commit id of a branch or tag."""
        return _hash("commit", self.name, revision)

    def state(self, commit_id: str) -> Mapping[str, Sequence[ServedFile]] | None:
        """Return the segments at a commit, or ``None`` if there is no such commit."""
        states = {"main": self.segments, **self.branches, **self.tags}
        return next(
            (state for name, state in states.items() if self.commit_of(name) == commit_id), None
        )


@dataclass(slots=True)
class Knobs:
    """How the server behaves; may be turned while it runs.

    Args:
        latency: Seconds before every answer begins.
        fault_rate: Share of requests that go wrong, 0 to 1.
        faults: Which of `FAULTS` happen, equally often.
        hang: Seconds a request hangs before its connection is closed.
        retry_after: Value of the ``Retry-After`` header of 429 and 503, or ``None`` for no such
            header.
        page_cap: Most entries a page of a listing has, whatever was asked for.
        lost: Files at the end of every listing that are announced but never sent.
        url_lifetime: Seconds the address of a file is good for.
        chunked: Whether files are sent in chunks, without their length.
        compressed: Whether answers of the API are compressed for who accepts that.
        store: Address (``https://host:port/``) of another server with the same data sets, which
            serves the files.
        redirect: Address (``https://host:port``) requests are redirected to.
        script: Faults of the next requests of a kind (see `Asked`), in order, ``""`` for none;
            before any at random. Besides those of `FAULTS`, ``"page"`` (a web page with status
            200), ``"nothing"`` (an empty JSON object) and ``"redirect"`` (to `redirect`).
        seed: Of the faults at random.
    """

    latency: float = 0.0
    fault_rate: float = 0.0
    faults: Sequence[str] = FAULTS
    hang: float = 30.0
    retry_after: str | None = None
    page_cap: int = LARGEST_PAGE
    lost: int = 0
    url_lifetime: float = 3600.0
    chunked: bool = False
    compressed: bool = False
    store: str | None = None
    redirect: str | None = None
    script: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request the server has had.

    Args:
        what: ``"file"``, or the part of the API, such as ``"data/details"``.
        query: Its parameters.
        headers: Its headers, names in lower case.
        fault: What was done to it, ``""`` for nothing.
    """

    what: str
    query: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    fault: str = ""


def example_files(count: int, first: int = 0) -> list[ServedFile]:
    """Return small JPEGs of three classes in turn, each of a colour of its own.

    Args:
        count: How many.
        first: Number of the first one; the same number is the same file.
    """
    files = []
    for number in range(first, first + count):
        name = EXAMPLE_CLASSES[number % len(EXAMPLE_CLASSES)]
        buffer = io.BytesIO()
        Image.new("RGB", (16, 12), (number % 256, number // 256 % 256, 90)).save(buffer, "JPEG")
        files.append(ServedFile(f"{name}/{number:05d}.jpg", buffer.getvalue(), name))
    return files


def example_dataset(name: str = "Flowers", train: int = 12, test: int = 6) -> ServedDataset:
    """Return a data set of `example_files` with the segments ``train`` and ``test``."""
    return ServedDataset(
        name, {"train": example_files(train), "test": example_files(test, train)}, EXAMPLE_CLASSES
    )


def loopback_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for ``127.0.0.1``; return the server's context and the file with the
    authority to trust.

    Args:
        folder: Where to put that file.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    path = folder / "loopback-ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path


def _hash(*parts: str) -> str:
    return hashlib.md5("/".join(parts).encode(), usedforsecurity=False).hexdigest()
