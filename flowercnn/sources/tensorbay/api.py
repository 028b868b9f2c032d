"""What TensorBay is asked, by the SDK's own client over our transport."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

from flowercnn.errors import MissingDependencyError, SourceError
from flowercnn.sources.tensorbay.credentials import Masked, Secret
from flowercnn.sources.tensorbay.redaction import protect_logs
from flowercnn.sources.tensorbay.transport import RequestFailed, Transport, Wait, read_body

__all__ = ["PAGE", "Api", "field_of", "load_sdk", "roots_of"]

PAGE: Final = 128
"""Entries asked for at a time, as many as the SDK asks for."""

_DEFAULT_HOSTS: Final = {"Accesskey-": "https://gas.graviti.cn/", "ACCESSKEY-": "https://gas.graviti.com/"}
_OPEN_API: Final = "gatewayv2/tensorbay-open-api/v1/"
_FORBIDDEN: Final = 403

T = TypeVar("T")


def load_sdk() -> Any:
    """Import the SDK, which takes a second, and protect its logs.

    Raises:
        MissingDependencyError: If it is not there, or something it needs does not work.
    """
    try:
        import tensorbay
        import tensorbay.dataset
    except Exception as error:  # numpy-quaternion fails in many ways where it does not fit NumPy
        raise MissingDependencyError(
            f"The TensorBay SDK cannot be imported ({type(error).__name__}: {error}). Install it with "
            "pip install 'tensorbay!=1.24.*' numpy-quaternion"
        ) from error
    protect_logs()
    return tensorbay


def roots_of(url: str, key: Secret | None) -> list[str]:
    """Return the addresses under which the API may be: one, or, without address and key, that of each region."""
    if url:
        return [urljoin(url, _OPEN_API)]
    text = (key.reveal() if key is not None else None) or ""
    hosts = [host for prefix, host in _DEFAULT_HOSTS.items() if text.startswith(prefix)]
    return [urljoin(host, _OPEN_API) for host in hosts or _DEFAULT_HOSTS.values()]


class Api:
    """The questions this package asks; every answer is a checked JSON object.

    Args:
        root: Address of the API.
        key: The access key.
        transport: What sends the requests.
    """

    def __init__(self, root: str, key: Secret, transport: Transport) -> None:
        self.root, self.transport, self._key = root, transport, key
        # The SDK's client knows how to ask; it takes https addresses only, so it gets the address afterwards.
        client = load_sdk().GAS(Masked(key.reveal()), "https://localhost/")._client  # noqa: SLF001
        client._open_api = root  # noqa: SLF001
        client.do = transport.send  # instead of the SDK's session, which repeats no GET and logs the key
        self._client = client

    def ask(
        self, section: str, dataset_id: str = "", *, query: Mapping[str, Any], what: str, wait: Wait | None = None
    ) -> Any:
        """Return the answer to a GET.

        Args:
            section: Of the API, such as ``"data/details"``.
            dataset_id: The data set it is about.
            query: Its parameters.
            what: What is asked for, for log and errors.
            wait: Of the attempt it is a part of, if it is one.

        Raises:
            GaveUp: If there is none. No frame of its traceback holds the key.
        """

        def attempt(wait: Wait) -> Any:
            return self._ask_once(section, dataset_id, dict(query), wait)

        asked = f"GET {section or 'datasets'} {what}"
        return self.transport.persist(attempt, asked, kind="api", within=wait)

    def pages(
        self, section: str, dataset_id: str, entries: str, *, query: Mapping[str, Any], what: str
    ) -> Iterator[list[Any]]:
        """Yield the entries of a listing, page by page, until there are as many as it has said.

        A page may be shorter than asked for; the next one begins where it ended.

        Raises:
            SourceError: If the listing ends too early, grows, or changes while it is read.
            GaveUp: If a page cannot be had.
        """
        total, received = None, 0
        while total is None or received < total:
            where = f"{what} from {received}"
            answer = self.ask(section, dataset_id, query={**query, "offset": received, "limit": PAGE}, what=where)
            page, count = field_of(answer, entries, list, where), field_of(answer, "totalCount", int, where)
            total = count if total is None else total
            received += len(page)
            if count != total or received > total or (not page and received < total):
                raise SourceError(
                    f"TensorBay's list of {what} contradicts itself: {total} entries announced, then {count}, "
                    f"{received} received. It was changed while it was read, or the server is faulty. Run it again; "
                    "give revision= a commit id to read a state that cannot change."
                )
            if page:
                yield page

    def _ask_once(self, section: str, dataset_id: str, params: dict[str, Any], wait: Wait) -> Any:
        try:
            with self._client.open_api_do(
                "GET", section, dataset_id, params=params, wait=wait, kind="api"
            ) as response:
                answer = json.loads(read_body(response, wait))
        except RequestFailed as error:
            failure = error
            failure.reason = self._key.hide_in(failure.reason)  # in case the server repeats it
            if failure.status == _FORBIDDEN and failure.code is None:
                failure.repeat = True  # not TensorBay's word but that of something on the way
        except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8
            failure = RequestFailed("the answer is not JSON", repeat=True)
        else:
            return answer
        raise failure


def field_of(answer: Any, name: str, kind: type[T], what: str) -> T:
    """Return a field of an answer.

    Raises:
        SourceError: If it is not there or of another type.
    """
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise SourceError(
            f"TensorBay's answer about {what or 'the data set'} has no {name!r} ({kind.__name__}). Is url the "
            f"address of a TensorBay? Received: {name}={type(value).__name__}"
        )
    return value
