"""The access key: where it comes from, and how it is kept from being seen."""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from flowercnn._utils import expanded
from flowercnn.errors import ConfigurationError

__all__ = ["KEY_VARIABLES", "Credentials", "Masked", "Secret", "find_credentials", "key_problem", "masked"]

KEY_VARIABLES: Final = ("FLOWERCNN_TENSORBAY_KEY", "TENSORBAY_ACCESS_KEY")
"""Environment variables that may hold the key, in the order they are looked at."""

_KEY = re.compile(r"(Accesskey|ACCESSKEY)-[\x21-\x7e]+")
_SECRET: Final = re.compile(r"(?i)accesskey-|://[^/]*@")


class Secret:
    """A text that no repr, format, log, comparison or pickle shows; `reveal` returns it.

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


class Masked(str):
    """A text like any other, but for its repr: a traceback may show the local variables of who sends it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def masked(argument: Any) -> Any:
    """Return an argument, masked if it looks like a key in the wrong place or an address with a password."""
    return Masked(argument) if isinstance(argument, str) and _SECRET.search(argument) else argument


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key, and the address that was stored with it (``""`` where there was none)."""

    key: Secret
    url: str = ""


def key_problem(key: object) -> str | None:
    """Return what is wrong with the form of a key, in words that do not show it, or ``None``."""
    if not isinstance(key, str):
        return f"a {type(key).__name__}"
    if not key.strip():
        return "an empty text"
    if _KEY.fullmatch(key.strip()):
        return None
    if key.strip().startswith(("Accesskey-", "ACCESSKEY-")):
        return f"{len(key)} characters, some of which no key can have"
    return f"{len(key)} characters that begin otherwise"


def find_credentials(access_key: Secret | None, profile: str) -> Credentials:
    """Return the first key there is: the argument, the environment, the profile in ``~/.gasconfig``.

    Raises:
        ConfigurationError: If there is none, or the one found is of the wrong form.
    """
    if access_key is not None and access_key.reveal() is not None:
        return Credentials(_checked(Masked(access_key.reveal()), "access_key"))
    for name in KEY_VARIABLES:
        value = Masked(os.environ.get(name, ""))
        if value.strip():
            return Credentials(_checked(value, f"The environment variable {name}"))
    stored = _from_profile(profile)
    if stored is not None:
        return stored
    raise ConfigurationError(
        f"TensorBay needs an access key. Give access_key, set {KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]}), or run "
        f"'gas auth', which writes the profile {profile!r} to ~/.gasconfig. Received: none of these."
    )


def _checked(key: Masked, where: str) -> Secret:
    problem = key_problem(key)
    if problem is not None:
        raise ConfigurationError(
            f"{where} must begin with 'Accesskey-' or 'ACCESSKEY-', as TensorBay's developer tools show it. "
            f"Received: {problem}"
        )
    return Secret(key.strip())


def _from_profile(profile: str) -> Credentials | None:
    """Read what ``gas auth`` has written: ``name = <newline> key <newline> url`` under ``[profiles]``."""
    try:
        path = expanded("~/.gasconfig")
    except ConfigurationError:  # who has no home has no profile
        return None
    parser = configparser.RawConfigParser()
    try:
        readable = bool(parser.read(path, encoding="utf-8"))
    except (configparser.Error, OSError, UnicodeDecodeError):
        readable = False
        broken = path.exists()
    else:
        broken = False
    if broken:  # said here and not in the handler: the parser's error quotes lines of the file
        raise ConfigurationError(f"{path}: not a file 'gas auth' has written. Write it anew, or give access_key.")
    if not readable:
        return None
    if parser.has_option("profiles", profile):
        lines = list(map(Masked, parser.get("profiles", profile).split()))
    elif parser.has_option(profile, "accesskey"):  # the form of old SDKs
        lines = list(map(Masked, (parser.get(profile, "accesskey"), parser.get(profile, "url", fallback=""))))
    else:
        return None
    key, url = [*lines, Masked(""), Masked("")][:2]
    return Credentials(_checked(key, f"{path}: the profile {profile!r}"), masked(str(url)))
