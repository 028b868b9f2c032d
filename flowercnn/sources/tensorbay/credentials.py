"""The access key: where it is looked up, and how it stays out of reprs, pickles and logs."""

from __future__ import annotations

import configparser
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from flowercnn._utils import expanded
from flowercnn.errors import ConfigurationError

__all__ = [
    "KEY_VARIABLES",
    "Credentials",
    "Secret",
    "check_key",
    "contains_key",
    "find_credentials",
    "hide_queries",
    "protect_logs",
]

KEY_VARIABLES: Final = ("FLOWERCNN_TENSORBAY_KEY", "TENSORBAY_ACCESS_KEY")
"""Environment variables that may hold the key, in the order of precedence."""

_KEY: Final = re.compile(r"(Accesskey|ACCESSKEY)-[\x21-\x7e]+")
_SECRETS: Final = (
    (re.compile(r"(?i)(accesskey-)[^\s\"',}]+"), r"\1***"),
    (re.compile(r"(?i)(\"?x-token\"?\s*[:=]\s*\"?)[^\s\"',}]+"), r"\1***"),
    (re.compile(r"(https?://[^\s\"'?]+)\?[^\s\"']+"), r"\1?***"),
)
_QUERY: Final = re.compile(r"\?[^\s\"']+")
_hiding = threading.local()


class Secret:
    """A text that no repr, format, log or pickle shows; `reveal` returns it.

    A pickle of it is empty: `reveal` of what comes out returns ``None``.

    Example:
        >>> Secret("Accesskey-1234")
        Secret('***')
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | None) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __reduce__(self) -> tuple[type[Secret], tuple[None]]:
        return Secret, (None,)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def reveal(self) -> str | None:
        """Return the text, or ``None`` if it was lost in a pickle."""
        return self._text

    def hide_in(self, text: str) -> str:
        """Return ``text`` with every occurrence of the secret replaced by ``***``."""
        return text.replace(self._text, "***") if self._text else text


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, and the address that was stored with it (``""`` if there was none)."""

    key: Secret
    url: str = ""


def contains_key(value: object, *, only: bool = False) -> bool:
    """Return whether an argument is a text with an access key in it, or ``only`` that."""
    if not isinstance(value, str):
        return False
    return (_KEY.fullmatch(value.strip()) if only else _KEY.search(value)) is not None


def check_key(key: Any, name: str = "access_key") -> Secret:
    """Return an access key as a secret; the error does not show it.

    Args:
        key: What the user passed.
        name: Where it is from, for the error.

    Raises:
        ConfigurationError: If it is not of a key's form.
    """
    if isinstance(key, str) and _KEY.fullmatch(key.strip()):
        return Secret(key.strip())
    if not isinstance(key, str):
        received = f"a {type(key).__name__}"
    elif not key.strip():
        received = "an empty text"
    elif key.strip().startswith(("Accesskey-", "ACCESSKEY-")):
        received = f"{len(key)} characters, some of which no key can have"
    else:
        received = f"{len(key)} characters that begin otherwise"
    raise ConfigurationError(
        f"{name} must begin with 'Accesskey-' or 'ACCESSKEY-', as TensorBay's developer tools show "
        "it. "
        f"Received: {received}"
    )


def find_credentials(access_key: Secret | None, profile: str) -> Credentials:
    """Return the first key found in the argument, the environment and the profile of ``gas``.

    Raises:
        ConfigurationError: If there is no key, or the one found is not of a key's form.
    """
    if access_key is not None and access_key.reveal() is not None:
        return Credentials(access_key)
    for name in KEY_VARIABLES:
        if os.environ.get(name, "").strip():
            return Credentials(check_key(os.environ[name], f"The environment variable {name}"))
    stored = _from_profile(profile)
    if stored is not None:
        return stored
    raise ConfigurationError(
        f"TensorBay needs an access key. Give access_key, set {KEY_VARIABLES[0]} (or "
        f"{KEY_VARIABLES[1]}), or run 'gas auth', which writes the profile {profile!r} to "
        "~/.gasconfig. Received: none of these."
    )


def _from_profile(profile: str) -> Credentials | None:
    """Read ``name = <newline> key <newline> url`` under ``[profiles]``, as ``gas auth`` writes."""
    try:
        path = expanded("~/.gasconfig")
    except ConfigurationError:  # without a home there is no profile
        return None
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        damaged = False
    except (configparser.Error, OSError, UnicodeDecodeError):
        damaged = path.exists()
    if damaged:  # raised here and not in the handler: the parser's error quotes lines of the file
        raise ConfigurationError(
            f"{path}: not a file 'gas auth' has written. Run it again, or give access_key."
        )
    if parser.has_option("profiles", profile):
        lines = parser.get("profiles", profile).split()
    elif parser.has_option(profile, "accesskey"):  # the form of old SDKs
        lines = [parser.get(profile, "accesskey"), parser.get(profile, "url", fallback="")]
    else:
        return None
    key, url = [*lines, "", ""][:2]
    return Credentials(check_key(key, f"{path}: the profile {profile!r}"), url)


class _HideSecrets(logging.Filter):
    """The SDK logs the headers of a failed request, the key included, and of all at DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for pattern, replacement in _SECRETS:
            message = pattern.sub(replacement, message)
        record.msg, record.args = message, None
        return True


class _HideQueries(logging.Filter):
    """urllib3 logs every address at DEBUG; the query of a signed one gives access to the file."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_hiding, "active", False):
            record.msg, record.args = _QUERY.sub("?***", record.getMessage()), None
        return True


def protect_logs() -> None:
    """Keep secrets out of what the SDK and urllib3 log; levels and handlers stay the user's."""
    filters = (
        ("tensorbay.utility.requests", _HideSecrets),
        ("urllib3.connectionpool", _HideQueries),
    )
    for name, kind in filters:
        logger = logging.getLogger(name)
        if not any(isinstance(present, kind) for present in logger.filters):
            logger.addFilter(kind())


@contextmanager
def hide_queries() -> Iterator[None]:
    """Cut queries out of what urllib3 logs in this thread; its other users are not affected."""
    _hiding.active = True
    try:
        yield
    finally:
        _hiding.active = False
