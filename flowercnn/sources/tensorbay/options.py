"""How a data set on TensorBay is read: options that check themselves."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import numpy as np

from flowercnn._utils import as_path, check_choice, check_count, check_number
from flowercnn.errors import ConfigurationError, UnknownNameError, closest, few
from flowercnn.sources.tensorbay.credentials import contains_key

__all__ = ["Options", "check_url"]

_MOST_THREADS: Final = 64
_WINDOWS: Final = 4  # files fetched ahead per thread
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PATHS: Final = ("ca_bundle", "cache_dir")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Options:
    """Options of `TensorBay`, which describes them.

    Raises:
        ConfigurationError: If one has a type or value it cannot have.
    """

    segments: Sequence[str | int] | None = None
    revision: str | None = None
    url: str | None = None
    profile: str = "default"
    ca_bundle: str | os.PathLike[str] | None = None
    unlabelled: Literal["error", "skip", "keep"] | None = None
    predefined_splits: bool = True
    threads: int = 16
    window: int | None = None
    patience: float = 10.0
    cache_dir: str | os.PathLike[str] | None = None
    cache_limit: int = 10 * 2**30
    offline: bool = False

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_paths()
        check_url(self.url)
        checked = {
            "segments": _segments(self.segments),
            "unlabelled": check_choice(
                "unlabelled", self.unlabelled, (None, "error", "skip", "keep")
            ),
            "threads": check_count("threads", self.threads, most=_MOST_THREADS),
            "patience": check_number("patience", self.patience, above=0),
            "cache_limit": check_count("cache_limit", self.cache_limit),
        }
        if self.window is not None:
            checked["window"] = check_count("window", self.window)
        for name in ("predefined_splits", "offline"):
            checked[name] = check_choice(name, getattr(self, name), (True, False))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def files_ahead(self) -> int:
        """Files fetched ahead of the sample that was yielded last."""
        return self.window or _WINDOWS * self.threads

    def check_for_object(self, access_key: object, *, is_segment: bool) -> None:
        """Refuse options that an object of the SDK decides.

        Raises:
            ConfigurationError: If one is given.
        """
        given = {"access_key": access_key, "revision": self.revision, "url": self.url}
        for name, value in given.items():
            if value is not None:
                raise ConfigurationError(
                    f"{name} must be None where dataset is an object of the SDK: it is read from "
                    "there as it was opened."
                )
        if self.offline:
            raise ConfigurationError(
                "offline needs the name of a data set. Received: an object of the SDK"
            )
        if is_segment and self.segments is not None:
            raise ConfigurationError("segments must be None where dataset is a Segment.")

    def chosen_segments(self, names: Sequence[str], dataset: str) -> list[str]:
        """Return the names of the segments wanted, by name or number, in the order wanted.

        Raises:
            UnknownNameError: If there is no such segment, or one is wanted twice.
        """
        chosen: list[str] = []
        for item in names if self.segments is None else self.segments:
            if isinstance(item, int) and -len(names) <= item < len(names):
                chosen.append(names[item])
            elif item in names:
                chosen.append(str(item))
            else:
                raise UnknownNameError(
                    f"The TensorBay data set {dataset!r} has {len(names)} segments, numbered from "
                    f"0: {few(names)}.{closest(item, names)} Received: segments with {item!r}"
                )
        if len(set(chosen)) != len(chosen):
            raise UnknownNameError(
                f"segments must name each segment once. Received: {list(self.segments or ())!r} = "
                f"{chosen!r}"
            )
        return chosen

    def _check_texts(self) -> None:
        for option in dataclasses.fields(Options):
            value = getattr(self, option.name)
            texts = value if isinstance(value, (list, tuple)) else [value]
            is_path = option.name in _PATHS  # which may well have a part of that form
            if any(contains_key(text, only=is_path) for text in texts):
                raise ConfigurationError(
                    f"{option.name} must not be an access key, which belongs in access_key. "
                    "Received: an access key"
                )
        if not isinstance(self.profile, str):
            raise _wrong("profile", "the name of a profile in ~/.gasconfig", self.profile)
        if not (self.revision is None or (isinstance(self.revision, str) and self.revision)):
            raise _wrong("revision", "a branch, tag or commit id, or None", self.revision)

    def _check_paths(self) -> None:
        if self.cache_dir is not None:
            as_path(self.cache_dir, "cache_dir")
        if self.ca_bundle is not None and not as_path(self.ca_bundle, "ca_bundle").exists():
            rule = "an existing file or folder of certificates, or None"
            raise _wrong("ca_bundle", rule, self.ca_bundle)


def check_url(url: object) -> None:
    """Refuse addresses the key must not be sent to.

    Raises:
        ConfigurationError: If it is neither https nor on this machine, or holds a password.
    """
    if url is None:
        return
    rule = "the address of a TensorBay, such as 'https://gas.graviti.com/'"
    if not isinstance(url, str):
        raise _wrong("url", rule, url)
    try:
        parts = urlsplit(url)
        host, has_password = parts.hostname or "", bool(parts.username or parts.password)
    except ValueError:
        raise _wrong("url", rule, url) from None
    if has_password:
        raise ConfigurationError(
            f"url must be {rule}, without user name and password. Received: one with them"
        )
    if not host or parts.scheme not in ("https", "http"):
        raise _wrong("url", rule, url)
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise _wrong("url", f"{rule}, https because the access key is sent there", url)


def _segments(given: Any) -> list[str | int] | None:
    """Return the segments wanted as a list, NumPy's numbers as Python's."""
    if given is None:
        return None
    items = [given] if isinstance(given, (str, int, np.integer)) else given
    is_list = isinstance(items, Sequence) and len(items) > 0
    if not is_list or not all(
        isinstance(item, (str, int, np.integer)) and not isinstance(item, bool) for item in items
    ):
        raise _wrong("segments", "a list of names or numbers, or None", given)
    return [int(item) if isinstance(item, np.integer) else item for item in items]


def _wrong(name: str, rule: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {rule}. Received: {name}={value!r}")
