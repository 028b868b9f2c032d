"""What is in a data set: its state at one commit, its segments, and their files page by page."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from flowercnn.errors import SourceError
from flowercnn.sources.tensorbay.api import PAGE, Api, field_of
from flowercnn.sources.tensorbay.transport import GaveUp, RequestFailed, Wait

__all__ = [
    "FUSION",
    "Entry",
    "Page",
    "RemoteDataset",
    "SegmentListing",
    "find_categories",
    "find_dataset",
    "with_segments",
]

FUSION: Final = (
    "is a fusion data set: its frames join the pictures of several sensors, and there is no one picture to classify. "
    "Give a data set that is not."
)
_NOT_FOUND: Final = (404, "ResourceNotExist")
_BAD_REQUEST: Final = (400, "InvalidParamsValue")  # what can be no commit id


@dataclass(frozen=True, slots=True)
class RemoteDataset:
    """A data set at one commit.

    Args:
        name: Its name.
        dataset_id: Its id.
        commit_id: The commit.
        segments: The names of its segments, sorted as the SDK sorts them; none where they are not known.
    """

    name: str
    dataset_id: str
    commit_id: str
    segments: tuple[str, ...] = ()


@dataclass(slots=True)
class Page:
    """A part of a segment's listing; its addresses expire and are renewed together."""

    offset: int
    paths: list[str]
    labels: list[str | None]
    urls: list[str] = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a segment."""

    segment: str
    path: str
    label: str | None
    page: Page = field(repr=False)
    index: int


def find_dataset(api: Api, name: str, revision: str | None) -> RemoteDataset:
    """Look a data set up; its segments are not asked for.

    Raises:
        GaveUp: If TensorBay does not answer, or refuses.
        SourceError: If there is none of this name or revision, or it is a fusion data set.
    """
    found = field_of(
        api.ask("", query={"offset": 0, "limit": PAGE, "name": name}, what=repr(name)), "datasets", list, "data sets"
    )
    # The SDK takes the first one; TensorBay may find names that only begin alike.
    ids = [entry.get("id") for entry in found if isinstance(entry, dict) and entry.get("name", name) == name]
    if not ids or not isinstance(ids[0], str):
        raise SourceError(
            f"TensorBay has no data set named {name!r} for this access key. Check the name, which is case-sensitive, "
            "and fork a public data set into your workspace first."
        )
    dataset_id = ids[0]
    info = api.ask("", dataset_id, query={}, what=repr(name))
    if field_of(info, "type", int, repr(name)):
        raise SourceError(f"The TensorBay data set {name!r} {FUSION}")
    commit_id = (
        field_of(info, "commitId", str, repr(name))
        if revision is None
        else _commit_of(api, name, dataset_id, revision)
    )
    return RemoteDataset(name, dataset_id, commit_id)


def _commit_of(api: Api, name: str, dataset_id: str, revision: str) -> str:
    """Return the commit a branch, tag or commit id means, looked up in the SDK's order."""
    for section, parameter in (("branches", "name"), ("commits", "commit")):
        try:
            answer = api.ask(
                section, dataset_id, query={"offset": 0, "limit": PAGE, parameter: revision}, what=repr(revision)
            )
        except GaveUp as error:
            if not (error.last.says(*_NOT_FOUND) or error.last.says(*_BAD_REQUEST)):
                raise
            continue
        for entry in field_of(answer, section, list, f"revision {revision!r}"):
            if section == "branches" and isinstance(entry, dict) and entry.get("name", revision) != revision:
                continue
            return field_of(entry, "commitId", str, f"revision {revision!r}")
    raise SourceError(
        f"The TensorBay data set {name!r} has no branch, tag or commit {revision!r}. Leave revision out for the "
        "default branch. Drafts have no revision before they are committed."
    )


def with_segments(api: Api, dataset: RemoteDataset) -> RemoteDataset:
    """Return the data set with its segments.

    Raises:
        GaveUp: If TensorBay does not answer, or refuses.
        SourceError: If there is none, or one twice.
    """
    what = f"{dataset.name!r}, segments"
    pages = api.pages("segments", dataset.dataset_id, "segments", query={"commit": dataset.commit_id}, what=what)
    names = [field_of(entry, "name", str, what) for page in pages for entry in page]
    if not names:
        raise SourceError(
            f"The TensorBay data set {dataset.name!r} has no segment at this revision: nothing was committed to it."
        )
    if len(set(names)) != len(names):
        raise SourceError(f"TensorBay's list of {what} names one twice. Run it again.")
    return dataclasses.replace(dataset, segments=tuple(sorted(names)))


def find_categories(api: Api, dataset: RemoteDataset) -> tuple[str, ...] | None:
    """Return the categories of the catalogue in its order, or ``None`` where it has none for classification.

    Raises:
        GaveUp: If TensorBay does not answer, or refuses.
    """
    what = f"{dataset.name!r}, catalogue"
    try:
        answer = api.ask("labels/catalogs", dataset.dataset_id, query={"commit": dataset.commit_id}, what=what)
    except GaveUp as error:
        if not error.last.says(*_NOT_FOUND):
            raise
        return None
    catalogue = answer.get("catalog") if isinstance(answer, dict) else None
    classification = catalogue.get("CLASSIFICATION") if isinstance(catalogue, dict) else None
    entries = classification.get("categories") if isinstance(classification, dict) else None
    names = [field_of(entry, "name", str, what) for entry in entries or ()]
    return tuple(dict.fromkeys(name for name in names if name)) or None


class SegmentListing:
    """The files of a segment, asked for page by page as they are wanted and then remembered.

    Several threads may read it; one at a time asks.
    """

    def __init__(self, api: Api, dataset: RemoteDataset, name: str) -> None:
        self.name = name
        self.complete = False
        self.pages: list[Page] = []
        self._api, self._dataset = api, dataset
        self._what = f"{dataset.name!r}, segment {name!r}"
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._coming = self._ask()

    def __iter__(self) -> Iterator[Entry]:
        """Yield its files in TensorBay's order.

        Raises:
            GaveUp: If a page cannot be had; iterating again asks for it again.
            SourceError: If the listing contradicts itself, or there is nothing in the segment.
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
                yield Entry(self.name, path, label, page, index)
            number += 1

    def url(self, entry: Entry, used: str | None, wait: Wait) -> str:
        """Return the address of a file, a new one if ``used`` is the one there is and was refused.

        Args:
            entry: The file.
            used: The address that was refused, or ``None``.
            wait: How long to ask for a new one.

        Raises:
            GaveUp: If a new one cannot be had.
            RequestFailed: If another thread waits for it all the time.
            SourceError: If the listing has changed meanwhile.
        """
        page = entry.page
        url = page.urls[entry.index]
        if url not in ("", used):
            return url
        if not page.lock.acquire(timeout=wait.remaining):  # another thread is at it, and gets no answer
            raise RequestFailed("its address could not be renewed in time", repeat=False)
        try:
            if page.urls[entry.index] in ("", used):
                page.urls = self._renewed(page, wait)
            return page.urls[entry.index]
        finally:
            page.lock.release()

    def forget_url(self, entry: Entry) -> None:
        """Let go of an address that was used: a million of them are half a gigabyte."""
        entry.page.urls[entry.index] = ""

    def _next_page(self) -> None:
        try:
            page = next(self._coming, None)
            self._refuse_repeated(page)
        except BaseException:
            self._coming = self._ask()  # a generator that has raised is over: next time ask anew
            raise
        if page is None:
            if not self.pages:
                raise SourceError(
                    f"TensorBay data set {self._what}: the segment is empty. Choose others with segments=[...]."
                )
            self.complete = True
            self._paths.clear()
            return
        self._paths.update(page.paths)
        self.pages.append(page)

    def _refuse_repeated(self, page: Page | None) -> None:
        counts = Counter(() if page is None else page.paths)
        repeated = [path for path, count in counts.items() if count > 1 or path in self._paths]
        if repeated:
            raise SourceError(
                f"TensorBay data set {self._what}: the listing names {len(repeated)} files twice, such as "
                f"{repeated[0]!r}. It was changed while it was read, or the server is faulty. Run it again."
            )

    def _ask(self) -> Iterator[Page]:
        """Yield the pages that are not there yet."""
        offset = 0
        query = {"segmentName": self.name, "commit": self._dataset.commit_id}
        done = sum(len(page.paths) for page in self.pages)
        for entries in self._api.pages(
            "data/details", self._dataset.dataset_id, "dataDetails", query=query, what=self._what
        ):
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
            page.urls.append(str(entry.get("url") or ""))  # without one it is asked for when it is needed
            page.labels.append(_category_of(entry.get("label")))
        return page

    def _renewed(self, page: Page, wait: Wait) -> list[str]:
        """Return new addresses for a page, however short the pages are in which they come."""
        what = f"{self._what}, addresses from {page.offset}"
        query = {"segmentName": self.name, "commit": self._dataset.commit_id}
        urls: list[str] = []
        while len(urls) < len(page.paths):
            rest = {"offset": page.offset + len(urls), "limit": len(page.paths) - len(urls)}
            answer = self._api.ask(
                "data/urls", self._dataset.dataset_id, query={**query, **rest}, what=what, wait=wait
            )
            entries = field_of(answer, "urls", list, what)[: rest["limit"]]
            new = [field_of(entry, "url", str, what) for entry in entries]
            paths = page.paths[len(urls) : len(urls) + len(new)]
            if (
                not new
                or [entry.get("remotePath", path) for entry, path in zip(entries, paths, strict=True)] != paths
            ):
                raise SourceError(f"TensorBay data set {self._what}: it was changed while it was read. Run it again.")
            urls += new
        return urls


def _category_of(label: Any) -> str | None:
    """Return the class of an entry's ``label``, or ``None`` where it has none."""
    classification = label.get("CLASSIFICATION") if isinstance(label, dict) else None
    category = classification.get("category") if isinstance(classification, dict) else None
    return category if isinstance(category, str) and category else None
