"""Preprocessing of images, the same in training, evaluation and prediction."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import as_path, check_choice, check_count, check_pair, image_map, tracked
from flowercnn.errors import ConfigurationError, ImageError, few, unusable
from flowercnn.preprocessing.decode import decode_image, read_content
from flowercnn.preprocessing.pixels import DiskStore, MemoryStore, PixelCache, Pixels
from flowercnn.preprocessing.resize import ResizeMode, resize
from flowercnn.sources import ImageInput, Sample

__all__ = ["BadImages", "Preprocessing"]

BadImages = Literal["error", "skip"]
"""Handling of images that cannot be decoded: one error that names them all, or leave them out."""

R = TypeVar("R")
Image8: TypeAlias = npt.NDArray[np.uint8]

_PIXEL_SETTINGS: Final = ("image_size", "resize", "background", "max_pixels")
_LARGEST_SIDE: Final = 8192
_CODE_VERSION: Final = 3  # part of the cache's names: increase it when the pixels change


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Decoding and resizing of images to uint8 pixels of one size.

    Pillow decodes: upright by EXIF, RGB, transparent areas on ``background``. Resizing is
    antialiased. Rescaling to floats is part of the model.

    Args:
        image_size: (height, width) in pixels, each from 1 to 8192.
        resize: ``"stretch"`` to the size, ``"crop"`` the centre, or ``"pad"`` with ``background``.
        background: RGB, 0-255.
        max_pixels: Larger images are rejected before they are decoded. Whatever its value, Pillow
            warns above the default and rejects above twice the default.
        memory_limit: Bytes of decoded images per data set in memory; more are cached on disk.
        cache_dir: Folder of the cache. If set, it is also used below the limit, so that a second
            run decodes nothing. By default the user's cache folder, used above the limit only.

    Raises:
        ConfigurationError: If a setting has a wrong type or value.

    Example:
        >>> import numpy as np
        >>> from flowercnn import Preprocessing
        >>> Preprocessing(image_size=(64, 96)).decode(np.zeros((200, 200, 3), dtype=np.uint8)).shape
        (64, 96, 3)
    """

    image_size: tuple[int, int] = (128, 128)
    resize: ResizeMode = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 89_478_485
    memory_limit: int = 512 * 2**20
    cache_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        checked = {
            "image_size": check_pair("image_size", self.image_size, most=_LARGEST_SIDE),
            "resize": check_choice("resize", self.resize, get_args(ResizeMode)),
            "background": _check_colour(self.background),
            "max_pixels": check_count("max_pixels", self.max_pixels),
            "memory_limit": check_count("memory_limit", self.memory_limit, least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.cache_dir is not None:
            as_path(self.cache_dir, "cache_dir")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that `to_dict` described.

        Raises:
            ConfigurationError: If a setting is unknown or wrong.
        """
        unknown = few(sorted(settings.keys() - set(_PIXEL_SETTINGS)))
        if unknown:
            raise ConfigurationError(f"Unknown preprocessing settings. Received: {unknown}")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that determine pixels, as JSON types; not those of the cache."""
        settings = {name: getattr(self, name) for name in _PIXEL_SETTINGS}
        return settings | {name: list(settings[name]) for name in ("image_size", "background")}

    def replace(self, **changes: Any) -> Preprocessing:
        """Return a copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def decode(self, image: ImageInput) -> Image8:
        """Return the pixels of an image, shape (height, width, 3), uint8, 0-255.

        Raises:
            ImageError: If it cannot be read, is damaged, too large, or not an image.
        """
        return self._pixels_of(read_content(image))

    def decode_each(self, images: Iterable[ImageInput]) -> Iterator[Image8 | ImageError]:
        """Yield the pixels of each image in order, decoded in parallel and in bounded memory.

        An image that cannot be decoded is yielded as its error, so that one bad file ends nothing.
        """
        if isinstance(images, Sequence) and len(images) == 1:  # threads would only add time
            return iter([self._decode_or_error(images[0])])
        iterator = iter(images)
        first = next(iterator, None)
        if first is None:
            return iter(())
        return image_map(self._decode_or_error, chain((first,), iterator), like=first)

    def load(
        self, samples: Sequence[Sample], *, bad_images: BadImages = "error", progress: bool = True
    ) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """Decode all images of a data set.

        Args:
            samples: A `Dataset` or any sequence of samples.
            bad_images: ``"error"``: raise one error that names all images that cannot be decoded;
                ``"skip"``: leave them out.
            progress: Whether to show a progress bar.

        Returns:
            The pixels, in memory or on disk, and the positions of their images in ``samples``.

        Raises:
            ImageError: If images cannot be decoded, or none is left.
            SourceError: If the cache cannot be written.
        """
        check_choice("bad_images", bad_images, get_args(BadImages))
        store = self.open_store(len(samples))
        errors: dict[int, ImageError] = {}

        def prepared(image: ImageInput) -> Any:
            try:
                content = read_content(image)
                return store.prepare(content, lambda: self._pixels_of(content))
            except ImageError as error:
                return error

        for index, result in enumerate(_decoded(prepared, samples, progress=progress)):
            if isinstance(result, ImageError):
                errors[index] = result
            else:
                store.add(result)
        if errors and (bad_images == "error" or len(errors) == len(samples)):
            raise unusable({samples[i].key: error for i, error in errors.items()}, len(samples))
        positions = [index for index in range(len(samples)) if index not in errors]
        return store.pixels(), np.array(positions, dtype=np.int64)

    def open_store(self, count: int, *, used: int = 0) -> MemoryStore | DiskStore:
        """Return a store for decoded images: memory, or the cache on disk above ``memory_limit``.

        Args:
            count: Largest number of images.
            used: Bytes of ``memory_limit`` already in use.
        """
        height, width = self.image_size
        if self.cache_dir is None and used + count * height * width * 3 <= self.memory_limit:
            return MemoryStore(count, self.image_size)
        cache = PixelCache(self.cache_dir, self._fingerprint(), self.image_size)
        return DiskStore(cache, self.image_size)

    def _decode_or_error(self, image: ImageInput) -> Image8 | ImageError:
        try:
            return self.decode(image)
        except ImageError as error:
            return error

    def _pixels_of(self, content: Any) -> Image8:
        limits: Any = {"max_pixels": self.max_pixels, "at_least": self.image_size}
        return self.fit(decode_image(content, background=self.background, **limits))

    def fit(self, image: Image.Image) -> Image8:
        """Return an upright RGB image at ``image_size``, shape (height, width, 3), uint8."""
        return np.array(
            resize(image, self.image_size, self.resize, self.background), dtype=np.uint8
        )

    def _fingerprint(self) -> str:
        """Hash of all that determines pixels."""
        settings = json.dumps([_CODE_VERSION, self.to_dict()], sort_keys=True)
        return hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()


def _decoded(
    function: Callable[[ImageInput], R], samples: Sequence[Sample], *, progress: bool
) -> Iterator[R]:
    images, count = (sample.image for sample in samples), len(samples)
    results = image_map(function, images, like=samples[0].image if samples else b"", count=count)
    return tracked(results, total=count, description="Decoding", unit="img", enabled=progress)


def _check_colour(colour: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = map(operator.index, colour)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= value <= 255 for value in (red, green, blue)):  # noqa: PLR2004 - a byte
        rule = "background must be (red, green, blue), three ints from 0 to 255."
        raise ConfigurationError(f"{rule} Received: background={colour!r}")
    return red, green, blue
