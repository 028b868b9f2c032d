"""What is told of a URL and its options: nothing that may be secret."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from flowercnn.errors import ConfigurationError

__all__ = ["StorageOptions", "checked_options", "key_of_url", "shown"]


class StorageOptions(dict[str, Any]):
    """What fsspec needs for a URL. It may hold passwords, so it is neither shown nor pickled.

    A source that arrives in another process has none: there, fsspec's own configuration decides.
    """

    def __repr__(self) -> str:
        return f"<{len(self)} options>"

    def __reduce__(self) -> tuple[type[StorageOptions], tuple[()]]:
        return StorageOptions, ()

    def __deepcopy__(self, _: object) -> StorageOptions:
        return self


def checked_options(value: Any) -> StorageOptions:
    """Return the argument ``storage_options``; ``None`` is none.

    Raises:
        ConfigurationError: If it is no mapping of names.
    """
    if value is None:
        return StorageOptions()
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError(
            "storage_options must be a mapping of names to values, such as {'anon': True}. "
            f"Received: {type(value).__name__}"  # not the value: it may be a password
        )
    return StorageOptions(value)


def shown(where: str) -> str:
    """Return a path or URL without what may be secret in it: user, password, query.

    Example:
        >>> shown("zip://a::https://me:pw@example.org/p.zip?token=1"), shown("photos/rose?.jpg")
        ('zip://a::https://example.org/p.zip', 'photos/rose?.jpg')
    """
    return "::".join(_bare(part) if "://" in part else part for part in where.split("::"))


def key_of_url(url: str) -> str:
    """Return a text that tells a URL from others, without what may be secret; a query becomes its hash."""
    _, question_mark, query = url.partition("?")
    return (
        f"{shown(url)}?{hashlib.blake2b(query.encode(), digest_size=8).hexdigest()}" if question_mark else shown(url)
    )


def _bare(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
