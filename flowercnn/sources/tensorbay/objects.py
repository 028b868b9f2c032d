"""The SDK's own objects: what a remote one stands for, and what is in a local one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.sources.tensorbay.api import FUSION, load_sdk
from flowercnn.sources.tensorbay.credentials import Secret
from flowercnn.sources.tensorbay.listing import File

__all__ = ["LocalDataset", "LocalFile", "RemoteObject", "convert_object"]


@dataclass(frozen=True, slots=True)
class LocalFile(File):
    """A file on this machine.

    Args:
        segment: Of the data set.
        path: In the segment.
        label: Its class, or ``None``.
        local_path: On this machine.
    """

    local_path: str


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """Remote data set of an SDK object, without the object, which would pickle the key.

    Args:
        name: Of the data set.
        segment: The one segment meant, or ``None`` for a data set.
        dataset_id: Its id.
        commit_id: Its commit.
        root: Address of the API.
        key: The access key.
        held: How many files the object holds of each segment it has listed already.
    """

    name: str
    segment: str | None
    dataset_id: str
    commit_id: str
    root: str
    key: Secret
    held: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LocalDataset:
    """A data set whose files are on this machine, such as `tensorbay.opendataset` makes."""

    name: str
    segments: Mapping[str, Any] = field(repr=False)
    catalogue: Any = field(repr=False)

    def files(self, segment: str) -> Iterator[LocalFile]:
        """Yield the files of a segment.

        Raises:
            ConfigurationError: If a file is not on this machine.
            SourceError: If the segment is empty.
        """
        if not len(self.segments[segment]):
            raise SourceError(
                f"TensorBay data set {self.name!r}: the segment {segment!r} is empty. Choose "
                "others "
                "with segments=[...]."
            )
        for data in self.segments[segment]:
            if not hasattr(data, "target_remote_path") or hasattr(data, "url"):
                raise ConfigurationError(
                    f"The local segment {segment!r} must hold tensorbay Data, files on this "
                    "machine. "
                    f"Received: {type(data).__name__}. For remote files give the remote data set, "
                    "and segments=[...]."
                )
            category = getattr(getattr(data.label, "classification", None), "category", None)
            label = category if isinstance(category, str) and category else None
            yield LocalFile(segment, data.target_remote_path, label, data.path)

    def categories(self) -> tuple[str, ...] | None:
        """Return the categories of the catalogue in its order, or ``None`` without a catalogue."""
        entries = getattr(getattr(self.catalogue, "classification", None), "categories", None)
        return tuple(entry.name for entry in entries) if entries else None


def convert_object(thing: Any) -> RemoteObject | LocalDataset:
    """Return what an object of the SDK stands for, without a request.

    Raises:
        ConfigurationError: If it is not a ``Dataset`` or ``Segment`` of images.
    """
    kinds = load_sdk().dataset
    if isinstance(thing, (kinds.FusionDataset, kinds.FusionSegment)):
        raise ConfigurationError(
            f"dataset {FUSION} Received: {type(thing).__name__} {thing.name!r}"
        )
    if not isinstance(thing, (kinds.Dataset, kinds.Segment)):
        raise ConfigurationError(
            "dataset must be the name of a TensorBay data set, or a tensorbay Dataset or Segment. "
            f"Received: {type(thing).__name__} {thing!r}"
        )
    is_segment = isinstance(thing, kinds.Segment)
    if hasattr(thing, "_client"):
        return _remote(thing, is_segment=is_segment)
    if is_segment:
        return LocalDataset(thing.name, {thing.name: thing}, None)
    return LocalDataset(thing.name, {name: thing[name] for name in thing.keys()}, thing.catalog)  # noqa: SIM118 - no dict


def _remote(thing: Any, *, is_segment: bool) -> RemoteObject:
    client = thing._client  # noqa: SLF001 - there is no public way to the id of a data set
    dataset_client = client._dataset_client if is_segment else client  # noqa: SLF001
    if client.status.is_draft or not client.status.commit_id:
        raise ConfigurationError(
            "dataset must be at a commit: a draft may change while it is read. Commit it, or "
            "check out a revision. "
            f"Received: {thing.name!r} at draft {client.status.draft_number}"
        )
    listed = [thing] if is_segment else list(getattr(thing, "_segments", ()))
    return RemoteObject(
        name=dataset_client.name,
        segment=thing.name if is_segment else None,
        dataset_id=dataset_client.dataset_id,
        commit_id=client.status.commit_id,
        root=client._client._open_api,  # noqa: SLF001
        key=Secret(client._client.access_key),  # noqa: SLF001
        held={segment.name: len(segment._data._items) for segment in listed if _is_listed(segment)},  # noqa: SLF001
    )


def _is_listed(segment: Any) -> bool:
    return hasattr(segment, "_client") and hasattr(getattr(segment, "_data", None), "_items")
