"""Decoding of everything that users pass to a classifier."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from flowercnn.data import Dataset
from flowercnn.errors import ConfigurationError, ImageError, unusable
from flowercnn.preprocessing import Preprocessing
from flowercnn.sources import ImageInput, PredictInput, keyed_images

__all__ = ["KeyedPixels", "check_pixels", "decoded_batches", "is_batch", "usable_batches"]

_BATCH_DIMENSIONS: Final = 4
_WHITE: Final = 255

KeyedPixels: TypeAlias = tuple[str, npt.NDArray[np.uint8] | ImageError]
"""Key of an image, and its pixels, shape (height, width, 3), or why it cannot be used."""


def decoded_batches(
    preprocessing: Preprocessing, images: PredictInput, batch_size: int
) -> Iterator[list[KeyedPixels]]:
    """Yield images in batches, decoded ahead in threads and bounded memory.

    If ``images`` raises an error, the images before it come first.
    """
    keys: deque[str] = deque()
    failed: list[Exception] = []

    def readable() -> Iterator[ImageInput]:
        try:
            for key, image in keyed_images(images):
                keys.append(key)
                yield image
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    decoded: Iterator[npt.NDArray[np.uint8] | ImageError]
    if isinstance(images, Dataset):  # which knows what was decoded before
        keys.extend(images.keys)
        decoded = images.decode_each(preprocessing)
    else:
        decoded = preprocessing.decode_each(readable())
    while batch := list(islice(decoded, batch_size)):
        yield [(keys.popleft(), pixels) for pixels in batch]
    if failed:
        raise failed[0]


def usable_batches(
    preprocessing: Preprocessing, images: PredictInput, batch_size: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield pixels in batches, shape (n, height, width, 3); after the last, reject bad images.

    Raises:
        ImageError: If images cannot be used; all are named.
    """
    errors: dict[str, ImageError] = {}
    count = 0
    for batch in decoded_batches(preprocessing, images, batch_size):
        count += len(batch)
        errors.update((key, pixels) for key, pixels in batch if isinstance(pixels, ImageError))
        usable = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
        if not errors:  # otherwise the rest is only checked for more errors
            yield np.stack(usable)
    if errors:
        raise unusable(errors, count, "call predict(), which returns a record for each")


def is_batch(images: Any, image_size: tuple[int, int]) -> bool:
    """Return whether these are images in one array whose pixels are used as they are."""
    if not hasattr(images, "__array__") or np.ndim(images) != _BATCH_DIMENSIONS:
        return False
    is_of_size = tuple(np.shape(images)[1:]) == (*image_size, 3)
    return is_of_size or np.asarray(images).dtype != np.uint8


def check_pixels(images: Any, image_size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return an array of images, uint8 or float32.

    Raises:
        ConfigurationError: If shape, dtype or values are not those of images.
    """
    pixels = np.asarray(images)
    expected = (*image_size, 3)
    is_number = np.issubdtype(pixels.dtype, np.floating) or pixels.dtype == np.uint8
    if pixels.shape[1:] != expected or not is_number:
        raise ConfigurationError(
            f"an array of images must have shape (n, {', '.join(map(str, expected))}), dtype "
            f"uint8 or float, values 0-255. Received: shape {pixels.shape}, dtype {pixels.dtype}. "
            "Images of other sizes must be uint8."
        )
    if pixels.dtype == np.uint8 or not pixels.size:
        return pixels
    rule = "an array of images must have values 0-255; rescaling is part of the network"
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= _WHITE):  # so that NaN is rejected, too
        raise ConfigurationError(f"{rule}. Received: values from {low:g} to {high:g}")
    if 0 < high <= 1:
        received = f"nothing above {high:g}, which is black. Multiply by 255."
        raise ConfigurationError(f"{rule}. Received: {received}")
    return pixels.astype(np.float32)
