"""Pictures on TensorBay, read with its own SDK."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flowercnn.errors import ConfigurationError, SourceError, UnknownNameError, closest, few
from flowercnn.sources.base import Sample, SplitName

__all__ = ["TensorBay"]

_KEY_VARIABLES: Final = ("FLOWERCNN_TENSORBAY_KEY", "TENSORBAY_ACCESS_KEY")
_ATTEMPTS: Final = 5
_PARTS: Final[dict[str, SplitName]] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class TensorBay:
    """A data set of classified pictures on TensorBay.

    The samples come segment by segment; the key is ``segment/remote path``. Pictures are fetched when they are
    decoded, 16 at a time; a failed fetch is repeated with growing pauses. Pictures without a label have ``None``:
    ``Dataset.from_source(source, unlabelled="skip")`` leaves them out. If every segment is named train, val (valid,
    validation) or test, those are the predefined parts. Classes are in the catalogue's order.

    Args:
        dataset: The name of a data set, or a ``tensorbay`` ``Dataset`` or ``Segment`` already in hand, local or
            remote, such as ``tensorbay.opendataset`` makes.
        access_key: The AccessKey; by default that of the environment variable ``FLOWERCNN_TENSORBAY_KEY``, else
            ``TENSORBAY_ACCESS_KEY``. It is in no repr, log or pickle.
        segments: Names or numbers of the segments wanted; all by default.
        revision: A branch, tag or commit id; the default branch by default.
        url: Of a regional or private TensorBay.

    Raises:
        ConfigurationError: If an argument is wrong, or there is no access key.
        SourceError: If the data set cannot be opened or read (when iterated).
        UnknownNameError: If it has no such segment (when iterated).
    """

    dataset: Any
    access_key: str | None = field(default=None, repr=False)
    segments: Sequence[str | int] | None = field(default=None, kw_only=True)
    revision: str | None = field(default=None, kw_only=True)
    url: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.segments, (str, int)):
            raise ConfigurationError(f"segments must be a list of names or numbers. Received: {self.segments!r}")
        if isinstance(self.dataset, str):
            if not self.dataset:
                raise ConfigurationError("dataset must be the name of a data set. Received: an empty name")
            self._key()
        elif not hasattr(self.dataset, "__iter__") or not (self._is_segment() or hasattr(self.dataset, "keys")):
            raise ConfigurationError(
                f"dataset must be a name, or a tensorbay Dataset or Segment. Received: {type(self.dataset).__name__}"
            )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle without the key: where it is unpickled, the key comes from the environment."""
        return _restore, (self.dataset, self.segments, self.revision, self.url)

    def __iter__(self) -> Iterator[Sample]:
        """List the data set, in one thread as the SDK wants it."""
        segments = [self.dataset] if self._is_segment() else self._chosen(self._open())
        names = [_segment_name(segment) for segment in segments]
        in_parts = all(name.casefold() in _PARTS for name in names)
        for name, segment in zip(names, segments, strict=True):
            split = _PARTS[name.casefold()] if in_parts else None
            for data in _listed(segment, name):
                path = str(getattr(data, "target_remote_path", None) or data.path)
                label = getattr(getattr(data.label, "classification", None), "category", None)
                yield Sample(f"{name}/{path}", label or None, _Fetch(data, f"{name}/{path}"), split=split)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the catalogue's order; ``None`` where there is no catalogue."""
        if self._is_segment():
            return None
        classification = getattr(self._open().catalog, "classification", None)
        categories = getattr(classification, "categories", None)
        return tuple(category.name for category in categories) if categories else None

    def _is_segment(self) -> bool:
        return type(self.dataset).__name__.endswith("Segment") and not isinstance(self.dataset, str)

    def _key(self) -> str:
        found = self.access_key or next((os.environ[name] for name in _KEY_VARIABLES if os.environ.get(name)), None)
        if not found:
            raise ConfigurationError(
                f"TensorBay needs an access key: give access_key, or set {' or '.join(_KEY_VARIABLES)}."
            )
        if not found.startswith(("Accesskey-", "ACCESSKEY-")):
            raise ConfigurationError(
                "access_key must begin with 'Accesskey-' or 'ACCESSKEY-'. Received: another form"
            )
        return found

    def _open(self) -> Any:
        """Return the SDK's data set; a new one each time, because a failed listing leaves one empty for ever."""
        if not isinstance(self.dataset, str):
            return self.dataset
        _silence_sdk()
        from tensorbay import GAS
        from tensorbay.dataset import Dataset

        started = time.perf_counter()
        try:
            gas = GAS(self._key(), self.url or "")
            arguments = () if self.revision is None else (self.revision,)
            dataset = Dataset(self.dataset, gas, *arguments)
            dataset.keys()
        except Exception as error:  # noqa: BLE001 - the SDK raises anything
            raise SourceError(
                f"TensorBay data set {self.dataset!r} cannot be opened ({_reason(error)}). Check its name, the "
                "revision, the access key and the network; fusion data sets hold no single pictures."
            ) from None  # the SDK's traceback has the key in its frames
        _log.debug("Opened %r in %.2f s", self.dataset, time.perf_counter() - started)
        return dataset

    def _chosen(self, dataset: Any) -> list[Any]:
        names = list(dataset.keys())
        chosen: list[str] = []
        for wanted in names if self.segments is None else self.segments:
            if isinstance(wanted, int) and -len(names) <= wanted < len(names):
                chosen.append(names[wanted])
            elif wanted in names:
                chosen.append(str(wanted))
            else:
                raise UnknownNameError(
                    f"{self.dataset!r} has the segments {few(names)}.{closest(wanted, names)} Received: {wanted!r}"
                )
        return [dataset[name] for name in chosen]


@dataclass(frozen=True, slots=True, repr=False)
class _Fetch:
    """The bytes of one picture when called; safe in several threads once listed."""

    data: Any
    key: str

    def __repr__(self) -> str:
        return f"<{self.key} on TensorBay>"

    def __call__(self) -> bytes:
        for attempt in range(_ATTEMPTS):
            try:
                return _read(self.data)
            except Exception as error:  # noqa: BLE001 - the SDK raises anything
                if attempt == _ATTEMPTS - 1:
                    raise SourceError(
                        f"{self.key} cannot be fetched from TensorBay after {_ATTEMPTS} attempts ({_reason(error)})."
                    ) from None
                time.sleep(0.2 * 2**attempt * (1 + random.random()))
        raise AssertionError("unreachable")


def _read(data: Any) -> bytes:
    """Read once, inside the ``with``, and compare the length: the SDK checks neither."""
    with data.open() as file:
        content = bytes(file.read())
        headers = getattr(getattr(file, "response", None), "headers", {})
    expected = headers.get("Content-Length")
    if expected is not None and "Content-Encoding" not in headers and len(content) != int(expected):
        raise OSError(f"{len(content)} of {expected} bytes")
    return content


def _listed(segment: Any, name: str) -> Iterator[Any]:
    try:
        count = len(segment)
        listed = [segment[index] for index in range(count)]
    except Exception as error:  # noqa: BLE001 - the SDK raises anything
        raise SourceError(f"TensorBay segment {name!r} cannot be listed ({_reason(error)}).") from None
    yield from listed


def _segment_name(segment: Any) -> str:
    return str(getattr(segment, "name", "") or "default")


def _reason(error: Exception) -> str:
    """The kind of an error and its HTTP status; its text could hold a signed URL."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return type(error).__name__ + (f", HTTP {status}" if status else "")


def _silence_sdk() -> None:
    """Keep the SDK from writing request headers, the key among them, to stderr on every failure."""
    logger = logging.getLogger("tensorbay.utility.requests")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _restore(dataset: Any, segments: Any, revision: Any, url: Any) -> TensorBay:
    return TensorBay(dataset, segments=segments, revision=revision, url=url)
