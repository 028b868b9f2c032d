"""The arguments of `TensorBay`, checked when they are given and not in the middle of a night."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np

from flowercnn.errors import ConfigurationError
from flowercnn.sources.tensorbay.credentials import Secret, key_problem
from flowercnn.sources.tensorbay.objects import RemoteObject

if TYPE_CHECKING:
    from flowercnn.sources.tensorbay.source import TensorBay

__all__ = ["check_object", "check_options", "check_url", "plain_segments"]

_MOST_THREADS: Final = 64
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check_options(source: TensorBay) -> None:
    """Refuse arguments that cannot be meant.

    Raises:
        ConfigurationError: If one has a type or value it cannot have. The access key is not shown.
    """
    _check_key(source)
    segments, revision, patience = source.segments, source.revision, source.patience
    _require("segments", segments, segments is None or _are_segments(segments), "a list of names or numbers, or None")
    is_revision = revision is None or (isinstance(revision, str) and bool(revision))
    _require("revision", revision, is_revision, "a branch, tag or commit id, or None")
    check_url(source.url)
    _require("profile", source.profile, isinstance(source.profile, str), "the name of a profile in ~/.gasconfig")
    _check_paths(source)
    for name in ("predefined_splits", "offline"):
        _require(name, getattr(source, name), isinstance(getattr(source, name), bool), "True or False")
    policies = (None, "error", "skip", "keep")
    _require("unlabelled", source.unlabelled, source.unlabelled in policies, "None, 'error', 'skip' or 'keep'")
    threads = source.threads
    _require("threads", threads, _is_count(threads) and threads <= _MOST_THREADS, f"an int from 1 to {_MOST_THREADS}")
    _require("window", source.window, source.window is None or _is_count(source.window), "an int from 1, or None")
    _require("cache_limit", source.cache_limit, _is_count(source.cache_limit), "a number of bytes, an int from 1")
    is_number = isinstance(patience, (int, float)) and not isinstance(patience, bool)
    _require("patience", patience, is_number and 0 < patience < math.inf, "seconds, a finite number above 0")


def plain_segments(given: Any) -> Any:
    """Return the segments wanted as a list, one of them too, with NumPy's numbers as those of Python."""
    if isinstance(given, (str, int, np.integer)):
        given = [given]
    if isinstance(given, (list, tuple)) and any(isinstance(item, np.integer) for item in given):
        return [int(item) if isinstance(item, np.integer) else item for item in given]
    return given


def check_object(source: TensorBay) -> None:
    """Refuse arguments that an object of the SDK has its own say about.

    Raises:
        ConfigurationError: If one is given.
    """
    for name in ("access_key", "revision", "url"):
        if getattr(source, name) is not None:
            raise ConfigurationError(
                f"{name} must be None where dataset is an object of the SDK: it is read from there as it was opened."
            )
    if source.offline:
        raise ConfigurationError("offline needs the name of a data set. Received: an object of the SDK")
    if (
        isinstance(source.dataset, RemoteObject)
        and source.dataset.segment is not None
        and source.segments is not None
    ):
        raise ConfigurationError("segments must be None where dataset is a Segment.")


def check_url(url: object) -> None:
    """Refuse addresses the key must not be sent to.

    Raises:
        ConfigurationError: If it is neither https nor on this machine, or holds a password.
    """
    if url is None:
        return
    rule = "the address of a TensorBay, such as 'https://gas.graviti.com/'"
    _require("url", url, isinstance(url, str), rule)
    if _has_password(str(url)):
        raise ConfigurationError(f"url must be {rule}, without user name and password. Received: one with them")
    try:
        parts = urlsplit(str(url))
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    _require("url", url, bool(host) and parts.scheme in ("https", "http"), rule)
    is_safe = parts.scheme == "https" or host in _LOOPBACK
    _require("url", url, is_safe, f"{rule}, https because the access key is sent there")


def _has_password(url: str) -> bool:
    """Return whether there is a user or password in an address, which leaves it in no variable of the caller."""
    try:
        parts = urlsplit(url)
        return bool(parts.username or parts.password)
    except ValueError:
        return False


def _check_paths(source: TensorBay) -> None:
    bundle, folder = source.ca_bundle, source.cache_dir
    exists = bundle is None or (isinstance(bundle, (str, os.PathLike)) and Path(bundle).exists())
    _require("ca_bundle", bundle, exists, "an existing file or folder of certificates, or None")
    is_path = folder is None or isinstance(folder, (str, os.PathLike))
    _require("cache_dir", folder, is_path, "the path of a folder, or None")


def _check_key(source: TensorBay) -> None:
    if isinstance(source.dataset, str) and key_problem(source.dataset) is None:
        raise ConfigurationError("dataset must be the name of a TensorBay data set. Received: an access key")
    if source.dataset is None or source.dataset == "":
        raise ConfigurationError(f"dataset must be the name of a TensorBay data set. Received: {source.dataset!r}")
    secret = source.access_key  # revealed in no variable: a traceback may show them
    given = isinstance(secret, Secret) and secret.reveal() is not None
    problem = key_problem(secret.reveal()) if given else None  # type: ignore[union-attr]
    if problem is not None:
        raise ConfigurationError(
            "access_key must begin with 'Accesskey-' or 'ACCESSKEY-', as TensorBay's developer tools show it. "
            f"Received: {problem}"
        )


def _require(name: str, value: object, fits: bool, rule: str) -> None:  # noqa: FBT001 - reads well where it is called
    if not fits:
        raise ConfigurationError(f"{name} must be {rule}. Received: {name}={value!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_segments(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) > 0
        and all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in value)
    )
