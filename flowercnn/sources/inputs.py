"""Inputs of a classifier, as pairs of key and image."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image

from flowercnn.errors import ConfigurationError, ImageError, SourceError
from flowercnn.sources.archive import is_archive, open_archive
from flowercnn.sources.base import DataSource, ImageInput, Sample
from flowercnn.sources.folder import find_images
from flowercnn.sources.tree import ListedTree, is_image
from flowercnn.sources.urls import fetch, is_url

__all__ = ["PredictInput", "keyed_images", "single_image"]

PredictInput: TypeAlias = "ImageInput | Sample | DataSource | Iterable[Any]"
"""One image (also a URL or an open file), a folder, archive, pattern, data set, or source, or an
iterable of those."""

_IMAGE_DIMENSIONS: Final = 3
_TEXTS_AND_OBJECTS: Final = "OSTU"  # as NumPy names them


def keyed_images(images: PredictInput) -> Iterator[tuple[str, ImageInput]]:
    """Yield key and image of everything in ``images``, in order; folders are listed when reached.

    The key of a file is its path, of an image in an archive its path in it, of a URL the URL, of
    a sample its key, of anything else its number from 0.

    Raises:
        ConfigurationError: If something is neither an image nor holds images.
        SourceError: If a folder or archive cannot be listed, or nothing matches a pattern; in an
            iterable it becomes an image that cannot be read.
    """
    for number, (key, image) in enumerate(_expand(images)):
        yield (str(number) if key is None else key), image


def _expand(item: Any) -> Iterator[tuple[str | None, ImageInput]]:
    if isinstance(item, Sample):
        yield item.key, item.image
    elif isinstance(item, (str, os.PathLike)):
        yield from _expand_path(os.fspath(item))
    elif isinstance(item, (bytes, bytearray, memoryview, Image.Image)) or _is_one_array(item):
        yield None, item
    elif _is_open_file(item):  # which is an iterable of lines, too
        yield None, item.read
    elif isinstance(item, Iterable):
        for member in item:
            is_path = isinstance(member, (str, os.PathLike))
            yield from _expand_listed_path(member) if is_path else _expand(member)
    elif isinstance(item, Callable):  # type: ignore[arg-type]  # typing wants isinstance on a class
        yield None, item
    else:
        raise ConfigurationError(
            "Images must be paths, URLs, bytes, open files, Pillow images, uint8 arrays, samples, "
            f"folders, or iterables of those. Received: {type(item).__name__} {item!r}"
        )


def _expand_listed_path(member: str | os.PathLike[str]) -> Iterator[tuple[str, ImageInput]]:
    """Yield the images of a path; where there are none, one that cannot be read."""
    path = os.fspath(member)
    try:
        yield from _expand_path(path)
    except SourceError as error:
        yield path, partial(_fail, str(error))


def _fail(reason: str) -> bytes:
    raise ImageError(reason)


def _expand_path(path: str) -> Iterator[tuple[str, ImageInput]]:
    if is_url(path):
        yield path, partial(fetch, path)
        return
    path = os.path.expanduser(path)  # noqa: PTH111 - paths stay the strings the user gave
    if os.path.isdir(path):  # noqa: PTH112
        yield from ((found, found) for found in find_images(path))
    elif os.path.lexists(path):
        if is_archive(path):
            yield from sorted(_images_in(open_archive(path)), key=itemgetter(0))
        else:
            yield path, path
    elif glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - as the user wrote it, absolute or not
        files = [name for name in matches if os.path.isfile(name)]  # noqa: PTH113
        if not files:
            raise SourceError(f"{path}: no file matches this pattern.")
        yield from ((name, name) for name in files)
    else:
        yield path, path  # its prediction will have the error


def _images_in(archive: ListedTree, folder: str = "") -> Iterator[tuple[str, ImageInput]]:
    """Yield path and image of all in an archive, with or without class folders, unsorted."""
    for name, kind, handle in archive.entries(folder):
        if kind == "folder":
            yield from _images_in(archive, handle)
        elif kind == "file" and is_image(name):
            yield folder + name, handle


def single_image(image: PredictInput) -> tuple[str, ImageInput]:
    """Return key and image of an input that is a single image.

    Raises:
        ConfigurationError: If it is several, or none.
        FlowerCNNError: As `keyed_images`.
    """
    pairs = list(islice(keyed_images(image), 2))
    if len(pairs) != 1:
        found = "several: give one at a time, or many to predict()" if pairs else "none"
        raise ConfigurationError(f"image must be a single image. Received: {found}")
    return pairs[0]


def _is_open_file(item: Any) -> bool:
    """Return whether this is read like a file; a data set has a method ``read``, too."""
    return callable(getattr(item, "read", None)) and not hasattr(item, "class_names")


def _is_one_array(item: Any) -> bool:
    """Return whether this is an array of pixels, not of paths or other objects."""
    if not isinstance(item, np.ndarray) or item.ndim > _IMAGE_DIMENSIONS:
        return False
    return item.ndim == 0 or item.dtype.kind not in _TEXTS_AND_OBJECTS
