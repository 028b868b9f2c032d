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

from flowercnn.sources.tensorbay.cache import DiskCache, NewFile
from flowercnn.sources.tensorbay.listing import Entry, SegmentListing
from flowercnn.sources.tensorbay.transport import RequestFailed, Transport, Wait

__all__ = ["NO_PICTURE", "FileFetch", "prefetch"]

NO_PICTURE: Final = "NoPicture"
"""The ``code`` of a failure where the answer was a page in place of a picture."""

_STALL: Final = 0.03  # seconds of waiting for one file after which more than a window is fetched
_FIRST_STALL: Final = 0.5  # for the first one, which has to wait for connections
_THREADS_PER_DOWNLOAD: Final = 2  # so that some can pause before they repeat a request while as many as wanted fetch
_REACH: Final = 8  # windows that may be fetched ahead of a file that has to be repeated
_LAST_WAIT: Final = 1.0  # seconds to wait, when closed, for requests that are under way
_STALE: Final = frozenset({400, 401, 403, 404, 410})  # what stores of files say of an address that has expired
_NO_PICTURE: Final = (b"<", b"{")  # how an error page and a JSON answer begin, and no picture does
_BEFORE_PAGES: Final = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and white space
_PAGES: Final = (".svg", ".xml", ".html", ".htm", ".json")  # files that begin so by right

A = TypeVar("A")


@dataclass(slots=True)
class FileFetch:
    """The fetching of one file into the cache, however many requests it takes.

    Args:
        transport: What asks for it.
        cache: Where it goes.
        name: Of the file in the cache.
        listing: Which knows its address.
        entry: What is asked for.
        keep_content: Whether to leave the bytes in ``content`` as well.
    """

    transport: Transport
    cache: DiskCache
    name: str
    listing: SegmentListing
    entry: Entry
    keep_content: bool = False
    content: bytearray = field(default_factory=bytearray, repr=False)
    _refused: str | None = field(default=None, repr=False)

    def run(self, stop: threading.Event | None = None) -> None:
        """Fetch it; ``stop`` ends the attempts when it is set.

        Raises:
            GaveUp: If it cannot be had.
            Stopped: If ``stop`` was set.
            SourceError: If the cache cannot be written, or the listing has changed.
        """
        what = f"GET file {self.entry.segment}/{self.entry.path}"
        self.transport.persist(self._attempt, what, kind="file", stop=stop)
        self.listing.forget_url(self.entry)

    def _attempt(self, limit: Wait) -> None:
        url = self.listing.url(self.entry, self._refused, limit)
        file = self.cache.new_file(self.name)
        try:
            self._download(url, file, limit)
            self.cache.keep(file)
        except RequestFailed as error:
            failure = error
        else:
            return
        finally:
            file.discard()
        if failure.status in _STALE:
            failure.repeat, failure.at_once = True, self._refused is None
            self._refused = url
        raise failure

    def _download(self, url: str, file: NewFile, limit: Wait) -> None:
        self.content.clear()

        def write(piece: bytes) -> None:
            file.write(piece)
            if self.keep_content:
                self.content += piece

        try:
            self.transport.download(url, write, limit)
        except OSError as error:  # of writing; those of the network are RequestFailed
            raise self.cache.problem(error) from error
        is_page = file.begin.lstrip(_BEFORE_PAGES).startswith(_NO_PICTURE)
        if is_page and not self.entry.path.lower().endswith(_PAGES):  # once kept, it would be in the cache for good
            reason = "the server answered with a page or JSON in place of the picture"
            raise RequestFailed(reason, repeat=True, code=NO_PICTURE)


def prefetch(
    fetch: Callable[[A, threading.Event], object], items: Iterable[A], *, threads: int, window: int
) -> Iterator[A]:
    """Yield each item, in order, once ``fetch(item, stop)`` has returned.

    At most ``window`` items are under way or done ahead of the consumer, however slow it is. Only while it waits for
    one item that takes long, such as one that has to be repeated, do the other threads go on, up to eight windows
    ahead: what they fetch is on disk and takes no memory. An exception is raised where its item would have come, and
    closing the iterator ends what is under way.
    """
    pending: deque[tuple[A, Future[object]]] = deque()
    stop = threading.Event()
    pool = ThreadPoolExecutor(_THREADS_PER_DOWNLOAD * threads, thread_name_prefix="flowercnn-tensorbay")
    reach = _REACH * window
    listed = _ReadAhead(items, reach, stop)

    def submit(count: int) -> None:
        for _ in range(count):
            item = listed.take(wait=not pending)
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
        ended = listed.close(_LAST_WAIT) and not wait(under_way, timeout=_LAST_WAIT).not_done
        pool.shutdown(wait=ended)  # else its threads end when a server that hangs has used up its time


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
        self._thread = threading.Thread(target=self._read, name="flowercnn-tensorbay-listing", daemon=True)
        self._thread.start()

    def take(self, *, wait: bool) -> A | None:
        """Return the next item; ``None`` at the end, and, unless ``wait``, if it has not been read yet."""
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
                self._queue.get_nowait()  # it may wait for room, and stops once it has put one item more
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
