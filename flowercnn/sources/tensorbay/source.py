"""The source: the samples of a data set on TensorBay."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flowercnn._utils import as_path
from flowercnn.errors import ConfigurationError, DataError, SourceError, few
from flowercnn.sources.base import Sample, SplitName, part_of
from flowercnn.sources.tensorbay.api import Api, RemoteDataset, explain, roots_of
from flowercnn.sources.tensorbay.cache import DiskCache
from flowercnn.sources.tensorbay.credentials import (
    Credentials,
    Secret,
    check_key,
    contains_key,
    find_credentials,
)
from flowercnn.sources.tensorbay.fetch import fetch_content, fetch_file, prefetch
from flowercnn.sources.tensorbay.listing import File, ListedFile, Offline, Online, file_name
from flowercnn.sources.tensorbay.objects import (
    LocalDataset,
    LocalFile,
    RemoteObject,
    convert_object,
)
from flowercnn.sources.tensorbay.options import Options, check_url
from flowercnn.sources.tensorbay.transport import GaveUp, Transport

__all__ = ["TensorBay", "TensorBayPicture"]

F = TypeVar("F", bound=File)

_log = logging.getLogger("flowercnn.sources.tensorbay")


class _ListingFailedError(Exception):
    """The files of a segment could not be listed to the end."""


def _marking_errors(files: Iterator[F]) -> Iterator[F]:
    """Mark errors of the listing; those of a file say already how many were fetched."""
    try:
        yield from files
    except SourceError as error:
        raise _ListingFailedError(str(error)) from error.__cause__


class _State:
    """Connections and answers of a source; never pickled, nor used in a forked process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process = os.getpid()
        self.cache: DiskCache | None = None
        self.remote: Online | Offline | None = None
        self.class_names: tuple[str, ...] | None = None

    def __deepcopy__(self, memo: Any) -> _State:  # for dataclasses.asdict: a lock cannot be copied
        return _State()


@dataclass(frozen=True, eq=False, repr=False)
class TensorBay(Options):
    """A data set of classified images on TensorBay, prefetched and cached on disk.

    The samples come segment by segment in TensorBay's order. Iterating lists the data set page by
    page and fetches its files by several threads into a cache; each sample is yielded once its file
    is there. A second pass, or a second run, requests no file again. TensorBay is only read.

    - The key of a sample is ``segment/remote path``. Its label is the category of its
      classification, the delimiter of nested categories included. `class_names` are the catalogue's
      categories in the catalogue's order.
    - Requests that fail temporarily (429, 5xx, resets, no answer, cut answers, expired addresses)
      are retried with growing, slightly random pauses, or the pause the server asks for, until
      ``patience`` seconds are over. Then there is one error; what was fetched stays in the cache,
      and the next run continues from there.
    - The access key is shown in no repr, log, error message, pickle or file. An unpickled source
      looks it up in the environment and the profile.
    - A remote ``Dataset`` or ``Segment`` of the SDK stands for its data set, commit and segment.
      These are listed again: changes made to the object in memory are not seen. A local one is read
      as it is.

    Args:
        dataset: The name of a data set, or a ``tensorbay`` ``Dataset`` or ``Segment``, remote or
            local, such as ``tensorbay.opendataset`` makes. Fusion data sets are refused.
        access_key: The access key. By default that of the environment variable
            ``FLOWERCNN_TENSORBAY_KEY`` or, if not set, ``TENSORBAY_ACCESS_KEY``, otherwise of the
            profile that ``gas auth`` writes to ``~/.gasconfig``.
        segments: Segments by name or by number in the sorted names (``[1]`` is the SDK's
            ``dataset[1]``); ``None`` for all, in sorted order.
        revision: A branch, tag or commit id; ``None`` for the default branch.
        url: Address of a regional or private TensorBay: https, or http on this machine. By default
            that of the profile, if the key is from there, otherwise that of the key's region.
        profile: Name of the profile in ``~/.gasconfig``.
        ca_bundle: File or folder of certificates to trust, for a private TensorBay; by default that
            of the environment variable ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or
            ``SSL_CERT_FILE``.
        unlabelled: Rule for files without a class. By default their label is ``None``, and
            `Dataset.from_source` refuses or skips them by its own rule; only if no file has a
            class, that is an error here. ``"error"`` refuses them, ``"skip"`` leaves them out and
            logs how many, ``"keep"`` takes them even if no file has a class, for prediction.
        predefined_splits: Whether segments named train, val (valid, validation) and test are the
            predefined parts: if there are at least two, one is train, and all are named so.
        threads: Files fetched at a time, 1 to 64.
        window: Files fetched ahead of the sample that was yielded last; ``None`` for four times
            ``threads``. While that sample's file is retried, the others continue, up to eight times
            as far.
        patience: Seconds, above 0, after which a request is not retried any more.
        cache_dir: Folder of the cache; ``None`` for the platform's folder for a user's caches.
        cache_limit: Bytes the files in the cache may take; the least recently used are removed.
        offline: Whether to read from the cache alone, without a key and without requests.

    Raises:
        ConfigurationError: If an argument is wrong, or there is no access key.
        SourceError: If the data set cannot be read (when iterated).
        UnknownNameError: If it has no such segment (when iterated).
        DataError: If no file has a class, or some have none and ``unlabelled`` is ``"error"`` (when
            iterated).

    Example:
        >>> source = TensorBay("Flower17-1", "Accesskey-0123456789", segments=["train"])
        >>> source
        TensorBay('Flower17-1', segments=['train'])
    """

    dataset: Any
    access_key: str | Secret | None = None
    _state: _State = field(default_factory=_State, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is None or self.dataset == "":
            raise ConfigurationError(
                f"dataset must be the name of a TensorBay data set. Received: {self.dataset!r}"
            )
        if contains_key(self.dataset):
            raise ConfigurationError(
                "dataset must be the name of a TensorBay data set. Received: an access key"
            )
        if not (self.access_key is None or isinstance(self.access_key, Secret)):
            object.__setattr__(self, "access_key", check_key(self.access_key))
        if isinstance(self.dataset, str):
            if not self.offline:
                find_credentials(self._secret, self.profile)
            return
        if not isinstance(self.dataset, (RemoteObject, LocalDataset)):
            object.__setattr__(self, "dataset", convert_object(self.dataset))
        self.check_for_object(
            self.access_key, is_segment=getattr(self.dataset, "segment", None) is not None
        )

    @property
    def _secret(self) -> Secret | None:
        return self.access_key if isinstance(self.access_key, Secret) else None

    def __repr__(self) -> str:
        shown = [repr(getattr(self.dataset, "name", self.dataset))]
        for option in dataclasses.fields(Options):
            value = getattr(self, option.name)
            if value != option.default:
                shown.append(f"{option.name}={value!r}")
        return f"TensorBay({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_state"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _state=_State())

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample once, in order, as soon as its file is in the cache.

        Raises:
            SourceError: If the data set or a file cannot be read, or the cache cannot be written.
            UnknownNameError: If it has no such segment.
            DataError: If no file has a class, or some have none and ``unlabelled`` is ``"error"``.
        """
        if isinstance(self.dataset, LocalDataset):
            return self._local_samples(self.dataset)
        return self._remote_samples(self._remote())

    def __len__(self) -> int:
        """Return the number of samples; lists the data set, but fetches no file."""
        if isinstance(self.dataset, LocalDataset):
            return sum(1 for _ in self._labelled(self._local_files(self.dataset)))
        remote = self._remote()
        return sum(1 for _ in self._labelled(self._remote_files(remote)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The categories of the catalogue in its order, then the other classes of files, sorted.

        Raises:
            SourceError: If the data set cannot be listed.
        """
        state = self._fresh_state()
        if state.class_names is None:
            try:
                state.class_names = self._find_class_names()
            except AttributeError as error:  # which getattr(source, "class_names", None) would hide
                raise SourceError(f"{self!r}: the classes cannot be read ({error}).") from error
        return state.class_names

    def _find_class_names(self) -> tuple[str, ...]:
        files: Iterator[File]
        if isinstance(self.dataset, LocalDataset):
            declared = self.dataset.categories()
            files = self._local_files(self.dataset)
        else:
            remote = self._remote()
            declared = remote.categories()
            files = self._remote_files(remote)
        used = {file.label for file in files if file.label is not None}
        undeclared = sorted(used.difference(declared or ()))
        if declared and undeclared:
            _log.warning(
                "%r: %d classes are not in the catalogue: %s",
                self,
                len(undeclared),
                few(undeclared),
            )
        return (*(declared or ()), *undeclared)

    def _fresh_state(self) -> _State:
        if self._state.process != os.getpid():  # connections and locks are the parent's
            object.__setattr__(self, "_state", _State())
        return self._state

    def _cache(self) -> DiskCache:
        state = self._fresh_state()
        if state.cache is None:
            state.cache = DiskCache(self.cache_dir, self.cache_limit)
        return state.cache

    def _remote(self) -> Online | Offline:
        state = self._fresh_state()
        with state.lock:
            if state.remote is None:
                state.remote = self._open()
            return state.remote

    def _open(self) -> Online | Offline:
        """Prepare to read, without a request."""
        cache = self._cache()
        if self.offline:
            credentials = self._credentials_if_any()
            roots = roots_of(self.url or credentials.url, credentials.key)
            return Offline(cache, roots, self.dataset, self.revision)
        if isinstance(self.dataset, RemoteObject):
            given = self.dataset
            key = given.key if given.key.reveal() else find_credentials(None, self.profile).key
            segments = () if given.segment is None else (given.segment,)
            found = RemoteDataset(given.name, given.dataset_id, given.commit_id, segments)
            api = self._api(given.root, key)
            return Online(api, cache, given.name, found=found, held=given.held)
        credentials = find_credentials(self._secret, self.profile)
        check_url(credentials.url or None)
        root = roots_of(self.url or credentials.url, credentials.key)[0]
        api = self._api(root, credentials.key)
        return Online(api, cache, self.dataset, revision=self.revision)

    def _credentials_if_any(self) -> Credentials:
        """Return where the data set would be read from; offline no key is needed."""
        try:
            return find_credentials(self._secret, self.profile)
        except ConfigurationError:
            return Credentials(Secret(None))

    def _api(self, root: str, key: Secret) -> Api:
        ca_bundle = None if self.ca_bundle is None else as_path(self.ca_bundle)
        return Api(root, key, Transport(self.threads, self.patience, ca_bundle))

    def _chosen(self, dataset: RemoteDataset | LocalDataset) -> list[str]:
        return self.chosen_segments(list(dataset.segments), dataset.name)

    def _splits(self, segments: Sequence[str]) -> dict[str, SplitName | None]:
        """Return the predefined part of each segment."""
        parts = {segment: part_of(segment) for segment in segments}
        known = set(parts.values())
        divided = (
            self.predefined_splits and len(parts) > 1 and None not in known and "train" in known
        )
        return parts if divided else dict.fromkeys(segments)

    def _labelled(self, files: Iterator[F]) -> Iterator[F]:
        """Yield the files that become samples, by the rule for those without a class."""
        rule, count = self.unlabelled, 0
        without: list[F] = []
        for file in files:
            if file.label is not None:
                if rule is None and len(without) == count:
                    yield from without  # they have waited for the first file with a class
                if rule != "error" or not without:  # after the first without, only counted
                    yield file
            elif rule == "keep":
                yield file
            else:
                if rule is None and len(without) < count:
                    yield file
                without.append(file)
            count += 1
        if without and (rule == "error" or len(without) == count):
            keys = few([_key_of(file) for file in without], 3)
            raise DataError(
                f"{self!r}: {len(without)} of {count} files have no class: {keys}. Label them, "
                "leave them out with unlabelled='skip', or, to predict them, take them with 'keep'."
            )
        if rule == "skip" and without:
            without_class = "%r: left out %d of %d files, which have no class."
            _log.warning(without_class, self, len(without), count)

    def _local_files(self, dataset: LocalDataset) -> Iterator[LocalFile]:
        for segment in self._chosen(dataset):
            yield from dataset.files(segment)

    def _remote_files(self, remote: Online | Offline) -> Iterator[File]:
        return remote.files(self._chosen(remote.dataset()))

    def _local_samples(self, dataset: LocalDataset) -> Iterator[Sample]:
        splits = self._splits(self._chosen(dataset))
        for file in self._labelled(self._local_files(dataset)):
            yield Sample(_key_of(file), file.label, file.local_path, split=splits[file.segment])

    def _remote_samples(self, remote: Online | Offline) -> Iterator[Sample]:
        dataset = remote.dataset()
        segments = self._chosen(dataset)
        splits = self._splits(segments)
        files: Iterator[File]
        if isinstance(remote, Offline):
            files = self._labelled(remote.files(segments))
        else:
            files = self._fetched(remote, self._labelled(remote.files(segments)))
        for file in files:
            picture = TensorBayPicture(self, dataset, file.segment, file.path)
            yield Sample(_key_of(file), file.label, picture, split=splits[file.segment])

    def _fetched(self, remote: Online, files: Iterator[ListedFile]) -> Iterator[ListedFile]:
        """Yield each file once it is in the cache; others are fetched meanwhile."""
        lock = threading.Lock()
        fetched = found = 0
        began = time.perf_counter()

        def progress() -> str:
            there = f"{fetched} files were fetched and {found} were there before"
            return f"{there}; the next run continues from there."

        def fetch(file: ListedFile, stop: threading.Event) -> None:
            nonlocal fetched, found
            try:
                is_new = fetch_file(remote, file, stop)
            except GaveUp as error:
                where = f"segment {file.segment!r}, file {file.path!r}"
                subject = f"TensorBay data set {remote.name!r}, {where}"
                raise explain(subject, error, progress()) from None
            with lock:
                fetched += is_new
                found += not is_new

        limits = {"threads": self.threads, "window": self.files_ahead}
        try:
            yield from prefetch(fetch, _marking_errors(files), **limits)
        except _ListingFailedError as error:
            message = f"{error} {progress()}" if fetched or found else str(error)
            raise SourceError(message) from None
        seconds = time.perf_counter() - began
        finished = "%r: %d files fetched, %d in the cache, in %.1f s"
        _log.info(finished, remote.name, fetched, found, seconds)

    def read(self, picture: TensorBayPicture) -> bytes:
        """Return the content of an image from the cache, or fetch it again if it was removed.

        Raises:
            SourceError: If it is not in the cache and cannot be fetched.
        """
        cache = self._cache()
        name = file_name(cache, picture.dataset, picture.segment, picture.path)
        content = cache.read(name)
        if content is not None:
            return content
        remote = self._remote()
        if isinstance(remote, Offline):
            raise SourceError(
                f"{picture!r} is not in the cache any more, and offline=True forbids to fetch it. "
                "Read the data set through once with offline=False, and a larger cache_limit."
            )
        return fetch_content(remote, picture.dataset, picture.segment, picture.path)


@dataclass(frozen=True, slots=True, repr=False)
class TensorBayPicture:
    """The bytes of one image when called, from the cache or, if removed there, fetched again.

    Args:
        source: The source it is from.
        dataset: The data set, at the commit it was listed at.
        segment: Of the data set.
        path: In the segment.
    """

    source: TensorBay
    dataset: RemoteDataset
    segment: str
    path: str

    def __repr__(self) -> str:
        return f"<TensorBay {self.dataset.name}: {self.segment}/{self.path}>"

    def __call__(self) -> bytes:
        """Return the encoded image.

        Raises:
            SourceError: If it is not in the cache and cannot be fetched.
        """
        return self.source.read(self)


def _key_of(file: File) -> str:
    return f"{file.segment}/{file.path}" if file.segment else file.path
