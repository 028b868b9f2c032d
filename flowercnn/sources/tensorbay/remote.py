"""An open remote data set: its segments, classes and files, from TensorBay or, offline, from the cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from flowercnn.errors import SourceError, UnknownNameError, closest, few
from flowercnn.sources.tensorbay.api import Api
from flowercnn.sources.tensorbay.cache import DiskCache
from flowercnn.sources.tensorbay.fetch import NO_PICTURE, FileFetch
from flowercnn.sources.tensorbay.listing import (
    Entry,
    RemoteDataset,
    SegmentListing,
    find_categories,
    find_dataset,
    with_segments,
)
from flowercnn.sources.tensorbay.transport import GaveUp

__all__ = ["File", "Offline", "Online", "choose", "explain", "file_name"]

_UNAUTHORISED: Final = (401, "Unauthorized")
_FORBIDDEN: Final = 403

_log = logging.getLogger("flowercnn.sources.tensorbay")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a data set.

    Args:
        segment: Of the data set.
        path: In the segment.
        label: Its class, or ``None``.
        name: Of the file in the cache.
        entry: Where it is listed, or ``None`` offline.
    """

    segment: str
    path: str
    label: str | None
    name: str
    entry: Entry | None = field(default=None, repr=False)


def file_name(cache: DiskCache, dataset: RemoteDataset, segment: str, path: str) -> str:
    """Return the name of a file in the cache."""
    return cache.name("file", dataset.dataset_id, dataset.commit_id, segment, path)


class Online:
    """A data set read from TensorBay; what was asked once is remembered.

    Args:
        api: Whom to ask.
        cache: Where files and listings are kept.
        name: Of the data set.
        revision: Branch, tag or commit id, or ``None``.
        found: The data set, if it was found already; without segments if those are not known.
        held: How many files an object of the SDK held of each segment.
    """

    def __init__(
        self,
        api: Api,
        cache: DiskCache,
        name: str,
        *,
        revision: str | None = None,
        found: RemoteDataset | None = None,
        held: Mapping[str, int] | None = None,
    ) -> None:
        self.cache, self.name = cache, name
        self._api, self._revision, self._found, self._held = api, revision, found, dict(held or {})
        self._lock = threading.Lock()
        self._dataset: RemoteDataset | None = None
        self._categories: tuple[tuple[str, ...] | None] | None = None
        self._listings: dict[tuple[str, str], SegmentListing] = {}

    def dataset(self) -> RemoteDataset:
        """Return which data set, commit and segments there are.

        Raises:
            SourceError: If that cannot be found out.
        """
        with self._lock, telling(f"TensorBay data set {self.name!r}"):
            if self._dataset is None:
                found = self._found or find_dataset(self._api, self.name, self._revision)
                self._dataset = found if found.segments else with_segments(self._api, found)
            return self._dataset

    def categories(self) -> tuple[str, ...] | None:
        """Return the categories of the catalogue, or ``None`` where it has none.

        Raises:
            SourceError: If they cannot be had.
        """
        dataset = self.dataset()
        with self._lock, telling(f"TensorBay data set {self.name!r}, catalogue"):
            if self._categories is None:
                self._categories = (find_categories(self._api, dataset),)
            return self._categories[0]

    def files(self, segments: Sequence[str]) -> Iterator[File]:
        """Yield the files of some segments; they are listed as they are wanted.

        When all are listed, the listing is kept in the cache for `Offline`.

        Raises:
            SourceError: If they cannot be listed.
        """
        dataset = self.dataset()
        for segment in segments:
            count = 0
            with telling(f"TensorBay data set {self.name!r}, segment {segment!r}"):
                for entry in self._listing(dataset, segment):
                    count += 1
                    yield File(
                        segment, entry.path, entry.label, file_name(self.cache, dataset, segment, entry.path), entry
                    )
            if self._held.get(segment, count) != count:
                _log.warning(
                    "The tensorbay object holds %d files of the segment %r, TensorBay lists %d: these were taken.",
                    self._held[segment],
                    segment,
                    count,
                )
        self._keep_records(dataset, segments)

    def fetch(self, file: File, stop: threading.Event | None = None) -> bool:
        """See that a file is in the cache, and return whether it had to be fetched.

        Raises:
            GaveUp: If it cannot be had.
            SourceError: If the cache cannot be written.
            Stopped: If ``stop`` was set.
        """
        if self.cache.has(file.name):
            return False
        self._fetch(self.dataset(), file).run(stop)
        return True

    def fetch_content(self, dataset: RemoteDataset, segment: str, path: str) -> bytes:
        """Fetch a file that is not in the cache any more, and return its content.

        Raises:
            SourceError: If it cannot be had.
        """
        with telling(f"TensorBay data set {self.name!r}, segment {segment!r}, file {path!r}"):
            for entry in self._listing(dataset, segment):
                if entry.path == path:
                    file = File(segment, path, entry.label, file_name(self.cache, dataset, segment, path), entry)
                    fetch = self._fetch(dataset, file)
                    fetch.keep_content = True
                    fetch.run()
                    return bytes(fetch.content)
        raise SourceError(
            f"TensorBay data set {self.name!r}, segment {segment!r}: there is no file {path!r} any more."
        )

    def _fetch(self, dataset: RemoteDataset, file: File) -> FileFetch:
        if file.entry is None:
            raise ValueError("a file listed offline cannot be fetched")
        listing = self._listing(dataset, file.segment)
        return FileFetch(self._api.transport, self.cache, file.name, listing, file.entry)

    def _listing(self, dataset: RemoteDataset, segment: str) -> SegmentListing:
        return self._listings.setdefault((dataset.commit_id, segment), SegmentListing(self._api, dataset, segment))

    def _keep_records(self, dataset: RemoteDataset, segments: Sequence[str]) -> None:
        categories = self.categories()
        state = {
            "dataset_id": dataset.dataset_id,
            "commit_id": dataset.commit_id,
            "segments": list(dataset.segments),
            "categories": None if categories is None else list(categories),
        }
        _keep(self.cache, state_name(self.cache, self._api.root, self.name, self._revision), state)
        for segment in segments:
            entries = [[entry.path, entry.label] for entry in self._listing(dataset, segment)]
            _keep(self.cache, segment_name(self.cache, dataset, segment), entries)


class Offline:
    """A data set read from the cache alone, as it was when it was last read from TensorBay.

    Args:
        cache: Where it is kept.
        roots: Addresses of the API it may have been read from.
        name: Of the data set.
        revision: Branch, tag or commit id it was read at, or ``None``.
    """

    def __init__(self, cache: DiskCache, roots: Sequence[str], name: str, revision: str | None) -> None:
        self.cache, self.name = cache, name
        self._roots, self._revision = roots, revision

    def dataset(self) -> RemoteDataset:
        """Return which data set, commit and segments there were.

        Raises:
            SourceError: If that is not in the cache.
        """
        state = self._state()
        return RemoteDataset(self.name, state["dataset_id"], state["commit_id"], tuple(state["segments"]))

    def categories(self) -> tuple[str, ...] | None:
        """Return the categories of the catalogue, or ``None`` where it had none.

        Raises:
            SourceError: If they are not in the cache.
        """
        categories = self._state()["categories"]
        return tuple(categories) if categories else None

    def files(self, segments: Sequence[str]) -> Iterator[File]:
        """Yield the files of some segments.

        Raises:
            SourceError: If a listing or a file is not in the cache.
        """
        dataset = self.dataset()
        files = []
        for segment in segments:
            entries = self.cache.read_record(segment_name(self.cache, dataset, segment))
            if entries is None:
                raise self._missing(f"the list of the segment {segment!r}")
            files += [
                File(segment, path, label, file_name(self.cache, dataset, segment, path)) for path, label in entries
            ]
        missing = [f"{file.segment}/{file.path}" for file in files if not self.cache.has(file.name)]
        if missing:
            raise self._missing(f"{len(missing)} of {len(files)} files ({few(missing, 3)})")
        yield from files

    def _state(self) -> dict[str, Any]:
        for root in self._roots:
            state = self.cache.read_record(state_name(self.cache, root, self.name, self._revision))
            if state is not None:
                return dict(state)
        raise self._missing("the data set at this revision and url")

    def _missing(self, what: str) -> SourceError:
        return SourceError(
            f"TensorBay data set {self.name!r}: with offline=True everything must be in the cache, and {what} is "
            "not. Read it through once with offline=False, with the same url, revision and cache_dir."
        )


def choose(names: Sequence[str], wanted: Sequence[str | int] | None, dataset: str) -> list[str]:
    """Return the names of the segments wanted, by name or number, in the order wanted.

    Raises:
        UnknownNameError: If there is no such segment, or one is wanted twice.
    """
    chosen: list[str] = []
    for item in names if wanted is None else wanted:
        if isinstance(item, int) and -len(names) <= item < len(names):
            chosen.append(names[item])
        elif item in names:
            chosen.append(str(item))
        else:
            raise UnknownNameError(
                f"The TensorBay data set {dataset!r} has {len(names)} segments, numbered from 0: {few(names)}."
                f"{closest(item, names)} Received: segments with {item!r}"
            )
    if len(set(chosen)) != len(chosen):
        raise UnknownNameError(f"segments must name each segment once. Received: {list(wanted or ())!r} = {chosen!r}")
    return chosen


@contextmanager
def telling(subject: str) -> Iterator[None]:
    """Turn the failure of a request into an error for users."""
    try:
        yield
    except GaveUp as error:
        raise explain(subject, error) from None


def explain(subject: str, error: GaveUp, more: str = "") -> SourceError:
    """Return the error that tells users why a request failed, and what they can do."""
    last = error.last
    if last.says(*_UNAUTHORISED):
        hint = (
            "The access key is not accepted. Copy it anew from TensorBay's developer tools; keys that begin with "
            "'Accesskey-' belong to gas.graviti.cn, those with 'ACCESSKEY-' to gas.graviti.com, others need url=."
        )
    elif last.status == _FORBIDDEN:
        hint = "The owner of the access key has no right to read this, or something on the way forbids it."
    elif last.reason.startswith("TLS"):
        hint = (
            "The server's certificate is not trusted. If it is a private TensorBay, give its certificate authority "
            "with ca_bundle='ca.pem' or the environment variable REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
        )
    elif last.code == NO_PICTURE:
        hint = (
            "A proxy or a network that wants a login may have answered: open a page in a browser. If the file itself "
            "is no picture, remove it from the data set, or leave its segment out with segments=[...]."
        )
    elif last.status is not None and not last.repeat:
        hint = "Check url and the name of the data set."
    else:
        hint = "Check the network, a proxy and url, or raise patience."
    return SourceError(" ".join(part for part in (f"{subject}: {error}.", hint, more) if part))


def state_name(cache: DiskCache, root: str, name: str, revision: str | None) -> str:
    """Return the name under which it is kept which commit and segments a data set had."""
    return cache.name("state", root, name, revision or "")


def segment_name(cache: DiskCache, dataset: RemoteDataset, segment: str) -> str:
    """Return the name under which the files of a segment are kept."""
    return cache.name("segment", dataset.dataset_id, dataset.commit_id, segment)


def _keep(cache: DiskCache, name: str, record: Any) -> None:
    """Keep a record, unless it is there: a cache that can only be read stays usable."""
    if cache.read_record(name) != record:
        cache.write_record(name, record)
