"""TensorBay's API: the requests of reading, by the SDK's own client over our transport."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

from flowercnn.errors import MissingDependencyError, SourceError
from flowercnn.sources.tensorbay.credentials import Secret, protect_logs
from flowercnn.sources.tensorbay.transport import GaveUp, RequestFailed, Transport, Wait

__all__ = [
    "FUSION",
    "NO_IMAGE",
    "Api",
    "RemoteDataset",
    "explain",
    "explained",
    "field_of",
    "find_categories",
    "find_dataset",
    "load_sdk",
    "roots_of",
    "with_segments",
]

FUSION: Final = (
    "is a fusion data set: its frames join the images of several sensors, and there is no one "
    "image to classify. Give a data set that is not."
)
NO_IMAGE: Final = "NoImage"
"""The ``code`` of a failure in which a page came in place of an image."""

_PAGE_SIZE: Final = 128  # entries, as many as the SDK requests
_HOSTS: Final = {
    "Accesskey-": "https://gas.graviti.cn/",
    "ACCESSKEY-": "https://gas.graviti.com/",
}
_OPEN_API: Final = "gatewayv2/tensorbay-open-api/v1/"
_FORBIDDEN: Final = 403
_UNAUTHORISED: Final = (401, "Unauthorized")
_NOT_FOUND: Final = (404, "ResourceNotExist")
_BAD_REQUEST: Final = (400, "InvalidParamsValue")  # the answer to what cannot be a commit id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteDataset:
    """A data set at one commit.

    Args:
        name: Its name.
        dataset_id: Its id.
        commit_id: The commit.
        segments: The names of its segments in the SDK's order; empty if not known.
    """

    name: str
    dataset_id: str
    commit_id: str
    segments: tuple[str, ...] = ()


def load_sdk() -> Any:
    """Import the SDK, which takes a second, and protect its logs.

    Raises:
        MissingDependencyError: If it, or something it needs, cannot be imported.
    """
    try:
        import tensorbay
        import tensorbay.dataset
    except Exception as error:  # numpy-quaternion fails in many ways if it does not fit NumPy
        raise MissingDependencyError(
            f"The TensorBay SDK cannot be imported ({type(error).__name__}: {error}). Install it "
            "with pip install 'tensorbay!=1.24.*' numpy-quaternion"
        ) from error
    protect_logs()
    return tensorbay


def roots_of(url: str, key: Secret | None) -> list[str]:
    """Return the addresses of the API; without an address and a key, those of all regions."""
    if url:
        return [urljoin(url, _OPEN_API)]
    text = (key.reveal() if key is not None else None) or ""
    hosts = [host for prefix, host in _HOSTS.items() if text.startswith(prefix)]
    return [urljoin(host, _OPEN_API) for host in hosts or _HOSTS.values()]


class Api:
    """The API of one TensorBay; every answer is a checked JSON object.

    Args:
        root: Address of the API.
        key: The access key.
        transport: What sends the requests.
    """

    def __init__(self, root: str, key: Secret, transport: Transport) -> None:
        self.root = root
        self.transport = transport
        self._key = key
        # The SDK's client takes https addresses only, so it is given the address afterwards.
        client = load_sdk().GAS(key.reveal(), "https://localhost/")._client  # noqa: SLF001
        client._open_api = root  # noqa: SLF001
        client.do = transport.send  # the SDK's session retries no GET and logs the key
        self._client = client

    def get(
        self,
        section: str,
        dataset_id: str = "",
        *,
        query: Mapping[str, Any],
        what: str,
        wait: Wait | None = None,
    ) -> Any:
        """Return the answer to a GET request.

        Args:
            section: Of the API, such as ``"data/details"``.
            dataset_id: The data set it is about.
            query: Its parameters.
            what: What is requested, for log and errors.
            wait: Of the attempt it is a part of, if any.

        Raises:
            GaveUp: If there is no answer.
        """

        def attempt(wait: Wait) -> Any:
            return self._get_once(section, dataset_id, dict(query), wait)

        request = f"GET {section or 'datasets'} {what}"
        return self.transport.retry(attempt, request, kind="api", within=wait)

    def pages(
        self, section: str, dataset_id: str, entries: str, *, query: Mapping[str, Any], what: str
    ) -> Iterator[list[Any]]:
        """Yield the entries of a listing, page by page, until there are as many as announced.

        A page may be shorter than requested; the next one begins where it ended.

        Raises:
            SourceError: If the listing ends too early, grows, or changes while it is read.
            GaveUp: If there is no answer.
        """
        total, received = None, 0
        while total is None or received < total:
            where = f"{what} from {received}"
            page_query = {**query, "offset": received, "limit": _PAGE_SIZE}
            answer = self.get(section, dataset_id, query=page_query, what=where)
            page = field_of(answer, entries, list, where)
            count = field_of(answer, "totalCount", int, where)
            total = count if total is None else total
            received += len(page)
            if count != total or received > total or (not page and received < total):
                raise SourceError(
                    f"TensorBay's list of {what} contradicts itself: {total} entries announced, "
                    f"then {count}, {received} received. It was changed while it was read, or the "
                    "server is faulty. Run it again; give revision= a commit id to read a state "
                    "that cannot change."
                )
            if page:
                yield page

    def _get_once(self, section: str, dataset_id: str, params: dict[str, Any], wait: Wait) -> Any:
        options = {"params": params, "wait": wait, "kind": "api"}
        try:
            with self._client.open_api_do("GET", section, dataset_id, **options) as response:
                return json.loads(self.transport.read_body(response, wait))
        except RequestFailed as failure:
            failure.reason = self._key.hide_in(failure.reason)  # a server may repeat it
            if failure.status == _FORBIDDEN and failure.code is None:
                failure.repeat = True  # not from TensorBay but from something on the way
            raise
        except (ValueError, RecursionError):  # ValueError: neither JSON nor UTF-8
            raise RequestFailed("the answer is not JSON", repeat=True) from None


def field_of(answer: Any, name: str, kind: type[T], what: str) -> T:
    """Return a field of an answer.

    Raises:
        SourceError: If it is missing or of another type.
    """
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise SourceError(
            f"TensorBay's answer about {what or 'the data set'} has no {name!r} "
            f"({kind.__name__}). Is url the address of a TensorBay? "
            f"Received: {name}={type(value).__name__}"
        )
    return value


def find_dataset(api: Api, name: str, revision: str | None) -> RemoteDataset:
    """Look up a data set, without its segments.

    Raises:
        GaveUp: If TensorBay does not answer, or refuses.
        SourceError: If there is no such data set or revision, or it is a fusion data set.
    """
    query = {"offset": 0, "limit": _PAGE_SIZE, "name": name}
    found = field_of(api.get("", query=query, what=repr(name)), "datasets", list, "data sets")
    # The SDK takes the first one; TensorBay may find names that only begin alike.
    ids = [
        entry.get("id")
        for entry in found
        if isinstance(entry, dict) and entry.get("name", name) == name
    ]
    if not ids or not isinstance(ids[0], str):
        raise SourceError(
            f"TensorBay has no data set named {name!r} for this access key. Check the name, which "
            "is case-sensitive, and fork a public data set into your workspace first."
        )
    dataset_id = ids[0]
    info = api.get("", dataset_id, query={}, what=repr(name))
    if field_of(info, "type", int, repr(name)):
        raise SourceError(f"The TensorBay data set {name!r} {FUSION}")
    if revision is None:
        return RemoteDataset(name, dataset_id, field_of(info, "commitId", str, repr(name)))
    return RemoteDataset(name, dataset_id, _commit_of(api, name, dataset_id, revision))


def _commit_of(api: Api, name: str, dataset_id: str, revision: str) -> str:
    """Return the commit id of a branch, tag or commit, looked up in the SDK's order."""
    for section, parameter in (("branches", "name"), ("commits", "commit")):
        query = {"offset": 0, "limit": _PAGE_SIZE, parameter: revision}
        try:
            answer = api.get(section, dataset_id, query=query, what=repr(revision))
        except GaveUp as error:
            if not (error.last.says(*_NOT_FOUND) or error.last.says(*_BAD_REQUEST)):
                raise
            continue
        for entry in field_of(answer, section, list, f"revision {revision!r}"):
            named = entry.get("name", revision) if isinstance(entry, dict) else revision
            if section == "commits" or named == revision:
                return field_of(entry, "commitId", str, f"revision {revision!r}")
    raise SourceError(
        f"The TensorBay data set {name!r} has no branch, tag or commit {revision!r}. Leave "
        "revision out for the default branch. Drafts have no revision before they are committed."
    )


def with_segments(api: Api, dataset: RemoteDataset) -> RemoteDataset:
    """Return the data set with its segments.

    Raises:
        GaveUp: If TensorBay does not answer, or refuses.
        SourceError: If there is no segment, or one twice.
    """
    what = f"{dataset.name!r}, segments"
    query = {"commit": dataset.commit_id}
    pages = api.pages("segments", dataset.dataset_id, "segments", query=query, what=what)
    names = [field_of(entry, "name", str, what) for page in pages for entry in page]
    if not names:
        raise SourceError(
            f"The TensorBay data set {dataset.name!r} has no segment at this revision: nothing was "
            "committed to it."
        )
    if len(set(names)) != len(names):
        raise SourceError(f"TensorBay's list of {what} names one twice. Run it again.")
    return dataclasses.replace(dataset, segments=tuple(sorted(names)))


def find_categories(api: Api, dataset: RemoteDataset) -> tuple[str, ...] | None:
    """Return the categories of the catalogue in its order, or ``None`` without classification.

    Raises:
        GaveUp: If TensorBay does not answer, or refuses.
    """
    what = f"{dataset.name!r}, catalogue"
    query = {"commit": dataset.commit_id}
    try:
        answer = api.get("labels/catalogs", dataset.dataset_id, query=query, what=what)
    except GaveUp as error:
        if not error.last.says(*_NOT_FOUND):
            raise
        return None
    catalogue = answer.get("catalog") if isinstance(answer, dict) else None
    classification = catalogue.get("CLASSIFICATION") if isinstance(catalogue, dict) else None
    entries = classification.get("categories") if isinstance(classification, dict) else None
    names = [field_of(entry, "name", str, what) for entry in entries or ()]
    return tuple(dict.fromkeys(name for name in names if name)) or None


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turn the failure of a request into an error for users."""
    try:
        yield
    except GaveUp as error:
        raise explain(subject, error) from None


def explain(subject: str, error: GaveUp, more: str = "") -> SourceError:
    """Return the error that says why a request failed, and what users can do."""
    last = error.last
    if last.says(*_UNAUTHORISED):
        hint = (
            "The access key is not accepted. Copy it again from TensorBay's developer tools; keys "
            "that begin with 'Accesskey-' belong to gas.graviti.cn, those with 'ACCESSKEY-' to "
            "gas.graviti.com, others need url=."
        )
    elif last.status == _FORBIDDEN:
        hint = "The owner of the access key may not read this, or a proxy forbids it."
    elif last.reason.startswith("TLS"):
        hint = (
            "The server's certificate is not trusted. If it is a private TensorBay, give its "
            "certificate authority with ca_bundle='ca.pem' or the environment variable "
            "REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
        )
    elif last.code == NO_IMAGE:
        hint = (
            "A proxy or a network that wants a login may have answered: open a page in a browser. "
            "If the file itself is not an image, remove it from the data set, or leave its "
            "segment out with segments=[...]."
        )
    elif last.status is not None and not last.repeat:
        hint = "Check url and the name of the data set."
    else:
        hint = "Check the network, a proxy and url, or raise patience."
    return SourceError(" ".join(part for part in (f"{subject}: {error}.", hint, more) if part))
