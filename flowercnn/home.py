"""The folders of the user, where there is one: some programs on servers and in containers have no home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from flowercnn.errors import ConfigurationError

__all__ = ["expanded", "user_cache", "user_home"]


def user_cache() -> Path:
    """Return the platform's place for a user's caches.

    Raises:
        ConfigurationError: If there is none, as the user has no home.
    """
    with _explained():
        path = platformdirs.user_cache_path("flowercnn")
    if not path.is_absolute():  # such as "~/.cache", which would be made in the current folder
        raise _homeless()
    return path


def user_home() -> Path:
    """Return the user's home.

    Raises:
        ConfigurationError: If there is none.
    """
    with _explained():
        return Path.home()


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the user's home for ``~``.

    Raises:
        ConfigurationError: If there is none.
    """
    with _explained():
        return Path(path).expanduser()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError) as error:
        raise _homeless() from error


def _homeless() -> ConfigurationError:
    return ConfigurationError(
        "The user's home folder is not known: HOME is not set and the system has no entry for the user. "
        "Set HOME, or give the folder: cache_dir or root."
    )
