"""Files fetched ahead of time by several threads, and handed on in order."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Final, Generic, TypeVar

from flowercnn.errors import SourceError
from flowercnn.sources.tensorbay.api import NO_IMAGE, RemoteDataset, explained
from flowercnn.sources.tensorbay.cache import NewFile
from flowercnn.sources.tensorbay.listing import ListedFile, Online, SegmentListing, file_name
from flowercnn.sources.tensorbay.transport import RequestFailed, Wait

__all__ = ["fetch_content", "fetch_file", "prefetch"]

_STALL: Final = 0.03  # seconds of waiting for one file after which more than a window is fetched
_FIRST_STALL: Final = 0.5  # for the first one, which has to wait for connections
_THREADS_PER_DOWNLOAD: Final = (
    2  # so that some can pause before they repeat a request while as many as wanted fetch
)
_REACH: Final = 8  # windows that may be fetched ahead of a file that has to be repeated
_LAST_WAIT: Final = 1.0  # seconds to wait, when closed, for requests that are under way
_STALE: Final = frozenset(
    {400, 401, 403, 404, 410}
)  # what stores of files say of an address that has expired
_NO_IMAGE_BEGINS: Final = (b"<", b"{")  # as an error page and a JSON answer do, and no image does
_BEFORE_PAGES: Final = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and white space
_PAGES: Final = (".svg", ".xml", ".html", ".htm", ".json")  # files that begin so by right

A = TypeVar("A")


def fetch_file(online: Online, file: ListedFile, stop: threading.Event | None = None) -> bool:
    """Fetch a file into the cache, and return whether it was not there before.

    Args:
        online: The data set.
        file: One of its files.
        stop: Ends the attempts when it is set.

    Raises:
        GaveUp: If there is no answer.
        SourceError: If the cache cannot be written, or the listing has changed.
        Stopped: If ``stop`` was set.
    """
    dataset = online.dataset()
    if online.cache.has(file_name(online.cache, dataset, file.segment, file.path)):
        return False
    _Download(online, dataset, file).run(stop)
    return True


def fetch_content(online: Online, dataset: RemoteDataset, segment: str, path: str) -> bytes:
    """Fetch a file that was removed from the cache, and return its content.

    Raises:
        SourceError: If it cannot be fetched.
    """
    where = f"TensorBay data set {online.name!r}, segment {segment!r}"
    with explained(f"{where}, file {path!r}"):
        for file in online.listing(dataset, segment):
            if file.path == path:
                content = bytearray()
                _Download(online, dataset, file, content).run()
                return bytes(content)
    raise SourceError(f"{where}: there is no file {path!r} any more.")


@dataclass(slots=True)
class _Download:
    """The download of one file into the cache, however many requests it takes.

    Args:
        online: The data set.
        dataset: The same at its commit.
        file: One of its files.
        content: Takes the bytes as well, if given.
    """

    online: Online
    dataset: RemoteDataset
    file: ListedFile
    content: bytearray | None = None
    refused: str | None = field(default=None, init=False)  # the address that was refused last

    def run(self, stop: threading.Event | None = None) -> None:
        what = f"GET file {self.file.segment}/{self.file.path}"
        self.online.api.transport.retry(self._attempt, what, kind="file", stop=stop)
        self._listing.forget_url(self.file)

    @property
    def _listing(self) -> SegmentListing:
        return self.online.listing(self.dataset, self.file.segment)

    def _attempt(self, wait: Wait) -> None:
        url = self._listing.url(self.file, self.refused, wait)
        cache = self.online.cache
        new = cache.new_file(file_name(cache, self.dataset, self.file.segment, self.file.path))
        try:
            self._download(url, new, wait)
            cache.commit(new)
        except RequestFailed as failure:
            if failure.status in _STALE:
                failure.repeat = True
                failure.at_once = self.refused is None
                self.refused = url
            raise
        finally:
            new.discard()

    def _download(self, url: str, new: NewFile, wait: Wait) -> None:
        if self.content is not None:
            self.content.clear()

        def write(piece: bytes) -> None:
            new.write(piece)
            if self.content is not None:
                self.content += piece

        try:
            self.online.api.transport.download(url, write, wait)
        except OSError as error:  # of writing; those of the network are RequestFailed
            raise self.online.cache.problem(error) from error
        is_page = new.begin.lstrip(_BEFORE_PAGES).startswith(_NO_IMAGE_BEGINS)
        if is_page and not self.file.path.lower().endswith(_PAGES):  # it would stay in the cache
            reason = "the server answered with a page or JSON in place of the image"
            raise RequestFailed(reason, repeat=True, code=NO_IMAGE)


def prefetch(
    fetch: Callable[[A, threading.Event], object], items: Iterable[A], *, threads: int, window: int
) -> Iterator[A]:
    """Yield each item, in order, once ``fetch(item, stop)`` has returned.

    At most ``window`` items are under way or done ahead of the consumer, however slow it is. Only
    while it waits for one slow item, such as one that is retried, do the other threads continue, up
    to eight windows ahead: what they fetch is on disk and takes no memory. An exception is raised
    in place of its item, and closing the iterator ends what is under way.
    """
    pending: deque[tuple[A, Future[object]]] = deque()
    stop = threading.Event()
    pool = ThreadPoolExecutor(
        _THREADS_PER_DOWNLOAD * threads, thread_name_prefix="flowercnn-tensorbay"
    )
    reach = _REACH * window
    reader = _ReadAhead(items, reach, stop)

    def submit(count: int) -> None:
        for _ in range(count):
            item = reader.take(wait=not pending)
            if item is None:
                break
            pending.append((item, pool.submit(fetch, item, stop)))

    stall = _FIRST_STALL
    try:
        submit(window)
        while pending:
            item, first = pending[0]
            while not wait([first], timeout=stall).done:
                unfinished = sum(not future.done() for _, future in pending)
                submit(min(window - unfinished, reach - len(pending)))
            first.result()
            pending.popleft()
            submit(window - len(pending))
            stall = _STALL
            yield item
    finally:
        stop.set()
        under_way = [future for _, future in pending if not future.cancel()]
        ended = reader.close(_LAST_WAIT) and not wait(under_way, timeout=_LAST_WAIT).not_done
        pool.shutdown(wait=ended)  # otherwise its threads end with the time of a hanging server


class _ReadAhead(Generic[A]):
    """An iterator read by a thread of its own, so that nobody waits for the next page of a listing.

    Args:
        items: What is read.
        count: Items read ahead.
        stop: Ends the reading when it is set.
    """

    def __init__(self, items: Iterable[A], count: int, stop: threading.Event) -> None:
        self._items, self._stop = items, stop
        self._queue: Queue[tuple[A | None, BaseException | None]] = Queue(count)
        self._over = False
        self._thread = threading.Thread(
            target=self._read, name="flowercnn-tensorbay-listing", daemon=True
        )
        self._thread.start()

    def take(self, *, wait: bool) -> A | None:
        """Return the next item; ``None`` at the end or, unless ``wait``, if it is not there yet."""
        if self._over:
            return None
        try:
            item, error = self._queue.get(block=wait)
        except Empty:
            return None
        if error is not None:
            raise error
        self._over = item is None
        return item

    def close(self, seconds: float) -> bool:
        """Wait for the thread, whose ``stop`` is set, and return whether it has ended in time."""
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()  # it may wait for room, and stops after one more item
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _read(self) -> None:
        try:
            for item in self._items:
                self._queue.put((item, None))
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the item would have come
            self._queue.put((None, error))
        else:
            self._queue.put((None, None))
