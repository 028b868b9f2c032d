"""The files of a data set: listed by TensorBay page by page, or offline from the cache."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowercnn.errors import SourceError, few
from flowercnn.sources.tensorbay.api import (
    FUSION,
    Api,
    RemoteDataset,
    explained,
    field_of,
    find_categories,
    find_dataset,
    with_segments,
)
from flowercnn.sources.tensorbay.cache import DiskCache
from flowercnn.sources.tensorbay.transport import RequestFailed, Wait

__all__ = ["File", "ListedFile", "Offline", "Online", "Page", "SegmentListing", "file_name"]

_log = logging.getLogger("flowercnn.sources.tensorbay")


@dataclass(slots=True)
class Page:
    """A page of a segment's listing; its addresses expire and are renewed together."""

    offset: int
    paths: list[str]
    labels: list[str | None]
    urls: list[str] = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a data set.

    Args:
        segment: Of the data set.
        path: In the segment.
        label: Its class, or ``None``.
    """

    segment: str
    path: str
    label: str | None


@dataclass(frozen=True, slots=True)
class ListedFile(File):
    """A file listed by TensorBay.

    Args:
        segment: Of the data set.
        path: In the segment.
        label: Its class, or ``None``.
        page: The page that lists it.
        index: Its place on that page.
    """

    page: Page = field(repr=False)
    index: int


def file_name(cache: DiskCache, dataset: RemoteDataset, segment: str, path: str) -> str:
    """Return the name of a file in the cache."""
    return cache.name("file", dataset.dataset_id, dataset.commit_id, segment, path)


class SegmentListing:
    """The files of a segment, requested page by page as they are needed and then remembered.

    Several threads may read it; one at a time makes a request.
    """

    def __init__(self, api: Api, dataset: RemoteDataset, name: str) -> None:
        self.name = name
        self.complete = False
        self.pages: list[Page] = []
        self._api, self._dataset = api, dataset
        self._what = f"{dataset.name!r}, segment {name!r}"
        self._query = {"segmentName": name, "commit": dataset.commit_id}
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._remaining = self._request_pages()

    def __iter__(self) -> Iterator[ListedFile]:
        """Yield its files in TensorBay's order.

        Raises:
            GaveUp: If there is no answer; iterating again requests the page again.
            SourceError: If the listing contradicts itself, or the segment is empty.
        """
        number = 0
        while True:
            with self._lock:
                while not self.complete and len(self.pages) <= number:
                    self._next_page()
            if number == len(self.pages):
                return
            page = self.pages[number]
            for index, (path, label) in enumerate(zip(page.paths, page.labels, strict=True)):
                yield ListedFile(self.name, path, label, page, index)
            number += 1

    def url(self, file: ListedFile, refused: str | None, wait: Wait) -> str:
        """Return the address of a file, a new one in place of one that was refused.

        Args:
            file: The file.
            refused: The address that was refused, or ``None``.
            wait: How long to wait for a new one.

        Raises:
            GaveUp: If there is no answer.
            RequestFailed: If another thread waits for it all the time.
            SourceError: If the listing has changed meanwhile.
        """
        page = file.page
        url = page.urls[file.index]
        if url not in ("", refused):
            return url
        if not page.lock.acquire(timeout=wait.remaining):  # another thread gets no answer
            raise RequestFailed("its address could not be renewed in time", repeat=False)
        try:
            if page.urls[file.index] in ("", refused):
                page.urls = self._renewed(page, wait)
            return page.urls[file.index]
        finally:
            page.lock.release()

    def forget_url(self, file: ListedFile) -> None:
        """Forget an address that was used: a million of them take half a gigabyte."""
        file.page.urls[file.index] = ""

    def _next_page(self) -> None:
        try:
            page = next(self._remaining, None)
            self._check_distinct(page)
        except BaseException:
            self._remaining = self._request_pages()  # a generator that has raised is over
            raise
        if page is None:
            if not self.pages:
                raise SourceError(
                    f"TensorBay data set {self._what}: the segment is empty. Choose others with "
                    "segments=[...]."
                )
            self.complete = True
            self._paths.clear()
            return
        self._paths.update(page.paths)
        self.pages.append(page)

    def _check_distinct(self, page: Page | None) -> None:
        counts = Counter(() if page is None else page.paths)
        repeated = [path for path, count in counts.items() if count > 1 or path in self._paths]
        if repeated:
            raise SourceError(
                f"TensorBay data set {self._what}: the listing names {len(repeated)} files twice, "
                f"such as {repeated[0]!r}. It was changed while it was read, or the server is "
                "faulty. Run it again."
            )

    def _request_pages(self) -> Iterator[Page]:
        """Yield the pages that were not received before."""
        offset = 0
        done = sum(len(page.paths) for page in self.pages)
        listing = ("data/details", self._dataset.dataset_id, "dataDetails")
        for entries in self._api.pages(*listing, query=self._query, what=self._what):
            page = self._read(offset, entries)
            offset += len(page.paths)
            if offset > done:
                yield page

    def _read(self, offset: int, entries: list[Any]) -> Page:
        page = Page(offset, [], [], [])
        for entry in entries:
            if isinstance(entry, dict) and "frame" in entry:
                raise SourceError(f"TensorBay data set {self._what}: it {FUSION}")
            page.paths.append(field_of(entry, "remotePath", str, self._what))
            page.urls.append(str(entry.get("url") or ""))  # requested later if it is missing
            page.labels.append(_category_of(entry.get("label")))
        return page

    def _renewed(self, page: Page, wait: Wait) -> list[str]:
        """Return new addresses for a page, however short the pages are in which they come."""
        what = f"{self._what}, addresses from {page.offset}"
        dataset_id = self._dataset.dataset_id
        urls: list[str] = []
        while len(urls) < len(page.paths):
            missing = page.paths[len(urls) :]
            query = {**self._query, "offset": page.offset + len(urls), "limit": len(missing)}
            answer = self._api.get("data/urls", dataset_id, query=query, what=what, wait=wait)
            entries = field_of(answer, "urls", list, what)[: len(missing)]
            new = [field_of(entry, "url", str, what) for entry in entries]
            pairs = zip(entries, missing, strict=False)  # a page may be shorter than requested
            if not new or any(entry.get("remotePath", path) != path for entry, path in pairs):
                raise SourceError(
                    f"TensorBay data set {self._what}: it was changed while it was read. Run it "
                    "again."
                )
            urls += new
        return urls


def _category_of(label: Any) -> str | None:
    """Return the class in an entry's ``label``, or ``None``."""
    classification = label.get("CLASSIFICATION") if isinstance(label, dict) else None
    category = classification.get("category") if isinstance(classification, dict) else None
    return category if isinstance(category, str) and category else None


class Online:
    """A data set listed by TensorBay; every answer is remembered.

    Args:
        api: The API.
        cache: Where files and listings are kept.
        name: Of the data set.
        revision: Branch, tag or commit id, or ``None``.
        found: The data set, if it was looked up already; its segments may be missing.
        held: How many files an object of the SDK holds of each segment.
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
        self.api = api
        self.cache = cache
        self.name = name
        self._revision = revision
        self._found = found
        self._held = dict(held or {})
        self._lock = threading.Lock()
        self._dataset: RemoteDataset | None = None
        self._categories: tuple[tuple[str, ...] | None] | None = None
        self._listings: dict[tuple[str, str], SegmentListing] = {}

    def dataset(self) -> RemoteDataset:
        """Return the data set at its commit, with its segments.

        Raises:
            SourceError: If it cannot be looked up.
        """
        with self._lock, explained(f"TensorBay data set {self.name!r}"):
            if self._dataset is None:
                found = self._found or find_dataset(self.api, self.name, self._revision)
                self._dataset = found if found.segments else with_segments(self.api, found)
            return self._dataset

    def categories(self) -> tuple[str, ...] | None:
        """Return the categories of the catalogue, or ``None`` without a catalogue.

        Raises:
            SourceError: If the catalogue cannot be read.
        """
        dataset = self.dataset()
        with self._lock, explained(f"TensorBay data set {self.name!r}, catalogue"):
            if self._categories is None:
                self._categories = (find_categories(self.api, dataset),)
            return self._categories[0]

    def listing(self, dataset: RemoteDataset, segment: str) -> SegmentListing:
        """Return the listing of a segment."""
        new = SegmentListing(self.api, dataset, segment)
        return self._listings.setdefault((dataset.commit_id, segment), new)

    def files(self, segments: Sequence[str]) -> Iterator[ListedFile]:
        """Yield the files of some segments, listed as they are needed.

        When all are listed, the listing is written to the cache for `Offline`.

        Raises:
            SourceError: If they cannot be listed.
        """
        dataset = self.dataset()
        for segment in segments:
            count = 0
            with explained(f"TensorBay data set {self.name!r}, segment {segment!r}"):
                for file in self.listing(dataset, segment):
                    count += 1
                    yield file
            if self._held.get(segment, count) != count:
                _log.warning(
                    "The tensorbay object holds %d files of the segment %r, TensorBay lists %d: "
                    "these were taken.",
                    self._held[segment],
                    segment,
                    count,
                )
        self._write_records(dataset, segments)

    def _write_records(self, dataset: RemoteDataset, segments: Sequence[str]) -> None:
        categories = self.categories()
        state = {
            "dataset_id": dataset.dataset_id,
            "commit_id": dataset.commit_id,
            "segments": list(dataset.segments),
            "categories": None if categories is None else list(categories),
        }
        name = _state_name(self.cache, self.api.root, self.name, self._revision)
        self.cache.update_record(name, state)
        for segment in segments:
            entries = [[file.path, file.label] for file in self.listing(dataset, segment)]
            self.cache.update_record(_segment_name(self.cache, dataset, segment), entries)


class Offline:
    """A data set listed from the cache alone, as it was when it was last read from TensorBay.

    Args:
        cache: Where it is kept.
        roots: Addresses of the API it may have been read from.
        name: Of the data set.
        revision: Branch, tag or commit id it was read at, or ``None``.
    """

    def __init__(
        self, cache: DiskCache, roots: Sequence[str], name: str, revision: str | None
    ) -> None:
        self.cache = cache
        self.name = name
        self._roots = roots
        self._revision = revision

    def dataset(self) -> RemoteDataset:
        """Return the data set at its commit, with its segments.

        Raises:
            SourceError: If it is not in the cache.
        """
        state = self._state()
        segments = tuple(state["segments"])
        return RemoteDataset(self.name, state["dataset_id"], state["commit_id"], segments)

    def categories(self) -> tuple[str, ...] | None:
        """Return the categories of the catalogue, or ``None`` without a catalogue.

        Raises:
            SourceError: If the data set is not in the cache.
        """
        categories = self._state()["categories"]
        return tuple(categories) if categories else None

    def files(self, segments: Sequence[str]) -> Iterator[File]:
        """Yield the files of some segments.

        Raises:
            SourceError: If a listing or a file is not in the cache.
        """
        dataset = self.dataset()
        files: list[File] = []
        for segment in segments:
            entries = self.cache.read_record(_segment_name(self.cache, dataset, segment))
            if entries is None:
                raise self._missing(f"the list of the segment {segment!r}")
            files += [File(segment, path, label) for path, label in entries]
        missing = [
            f"{file.segment}/{file.path}"
            for file in files
            if not self.cache.has(file_name(self.cache, dataset, file.segment, file.path))
        ]
        if missing:
            raise self._missing(f"{len(missing)} of {len(files)} files ({few(missing, 3)})")
        yield from files

    def _state(self) -> dict[str, Any]:
        for root in self._roots:
            name = _state_name(self.cache, root, self.name, self._revision)
            state = self.cache.read_record(name)
            if state is not None:
                return dict(state)
        raise self._missing("the data set at this revision and url")

    def _missing(self, what: str) -> SourceError:
        return SourceError(
            f"TensorBay data set {self.name!r}: with offline=True everything must be in the cache, "
            f"and {what} is not. Read it through once with offline=False, with the same url, "
            "revision and cache_dir."
        )


def _state_name(cache: DiskCache, root: str, name: str, revision: str | None) -> str:
    """Return the name of the record of a data set's commit, segments and categories."""
    return cache.name("state", root, name, revision or "")


def _segment_name(cache: DiskCache, dataset: RemoteDataset, segment: str) -> str:
    """Return the name of the record of a segment's files."""
    return cache.name("segment", dataset.dataset_id, dataset.commit_id, segment)
