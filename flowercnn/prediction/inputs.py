"""What users hand to a classifier, as pairs of key and picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from flowercnn.errors import ConfigurationError
from flowercnn.sources.base import DataSource, ImageInput, Sample
from flowercnn.sources.folder import find_pictures

__all__ = ["PredictInput", "keyed_pictures"]

PredictInput: TypeAlias = "ImageInput | Sample | DataSource | Iterable[Any]"
"""One picture, a folder, a data set or source, or an iterable of those."""

_ONE_PICTURE_DIMENSIONS = 3


def keyed_pictures(images: PredictInput) -> Iterator[tuple[str, ImageInput]]:
    """Yield key and picture of everything in ``images``, in order, listing folders as it meets them.

    The key of a file is its path, of a sample its key, of anything else its number from 0.

    Raises:
        ConfigurationError: If something is no picture and nothing that holds pictures.
    """
    for number, (key, image) in enumerate(_expand(images)):
        yield (str(number) if key is None else key), image


def _expand(item: Any) -> Iterator[tuple[str | None, ImageInput]]:
    if isinstance(item, Sample):
        yield item.key, item.image
    elif isinstance(item, (str, os.PathLike)):
        path = os.fspath(item)
        if os.path.isdir(path):  # noqa: PTH112 - paths stay the strings the user gave
            yield from ((found, found) for found in find_pictures(path))
        else:
            yield path, path
    elif isinstance(item, (bytes, bytearray, memoryview, Image.Image)) or _is_one_array(item):
        yield None, item
    elif isinstance(item, Iterable):
        for member in item:
            yield from _expand(member)
    elif isinstance(item, Callable):  # type: ignore[arg-type]  # typing wants isinstance on a class
        yield None, item
    else:
        raise ConfigurationError(
            "Pictures must be paths, bytes, Pillow images, uint8 arrays, samples, folders, or iterables of those. "
            f"Received: {type(item).__name__} {item!r}"
        )


def _is_one_array(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.ndim <= _ONE_PICTURE_DIMENSIONS
