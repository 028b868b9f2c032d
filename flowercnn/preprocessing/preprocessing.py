"""The one definition of how a picture becomes pixels: the same for training, evaluation and prediction."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, TypeVar, get_args

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
"""What to do about pictures that cannot be decoded: one error that names them all, or leave them out."""

R = TypeVar("R")

_LARGEST_SIDE: Final = 8192
_CODE_VERSION: Final = 3  # part of every cache entry's name: raise it when the pixels change


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From anything that stands for a picture to uint8 pixels of one size.

    Decoding is done by Pillow: upright by EXIF, RGB, transparent parts on ``background``; resizing is
    antialiased. Rescaling to floats is not done here: it is part of the model.

    Args:
        image_size: (height, width) in pixels, each from 1 to 8192.
        resize: ``"stretch"`` to the size, ``"crop"`` the centre, or ``"pad"`` with ``background``.
        background: RGB, 0-255.
        max_pixels: Larger pictures are refused before they are decoded. Pillow itself warns above the default and
            refuses twice as many, whatever is given here.
        memory_limit: Bytes of decoded pictures of one data set kept in memory; more go to a cache on disk.
        cache_dir: Folder of the cache. If given, it is used below the limit too, so that a second run decodes
            nothing. By default the user's cache folder, used above the limit only.

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
        unknown = settings.keys() - {"image_size", "resize", "background", "max_pixels"}
        if unknown:
            raise ConfigurationError(f"Unknown preprocessing settings. Received: {few(sorted(unknown))}")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Return what decides about pixels, as JSON can hold it; not where they are cached."""
        return {
            "image_size": list(self.image_size),
            "resize": self.resize,
            "background": list(self.background),
            "max_pixels": self.max_pixels,
        }

    def replace(self, **changes: Any) -> Preprocessing:
        """Return a copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def decode(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """Return one picture as the network sees it, shape (height, width, 3), uint8, 0-255.

        Raises:
            ImageError: If it cannot be read, is damaged, too large, or no picture.
        """
        return self._pixels_of(read_content(image))

    def decode_each(self, images: Iterable[ImageInput]) -> Iterator[npt.NDArray[np.uint8] | ImageError]:
        """Yield the pixels of each picture in order, decoded in parallel and bounded memory.

        A picture that cannot be decoded is yielded as its error, so that one bad file ends nothing.
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
        """Decode all pictures once.

        Args:
            samples: What to decode; a `Dataset` or any sequence of samples.
            bad_images: ``"error"``: one error that names all pictures that cannot be decoded; ``"skip"``: leave
                them out.
            progress: Whether to show a progress bar.

        Returns:
            The pixels, in memory or on disk, and the positions in ``samples`` of the pictures they hold.

        Raises:
            ImageError: If pictures cannot be decoded, or all were to be skipped.
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
            raise unusable({samples[index].key: error for index, error in errors.items()}, len(samples))
        kept = [index for index in range(len(samples)) if index not in errors]
        return store.pixels(), np.array(kept, dtype=np.int64)

    def open_store(self, count: int, *, used: int = 0) -> MemoryStore | DiskStore:
        """Return where decoded images go: memory, or the cache on disk if they are too many.

        Args:
            count: How many there will be at most.
            used: Bytes of ``memory_limit`` that are used already.
        """
        height, width = self.image_size
        if self.cache_dir is None and used + count * height * width * 3 <= self.memory_limit:
            return MemoryStore(count, self.image_size)
        cache = PixelCache(self.cache_dir, self._fingerprint(), self.image_size)
        return DiskStore(cache, self.image_size)

    def _decode_or_error(self, image: ImageInput) -> npt.NDArray[np.uint8] | ImageError:
        try:
            return self.decode(image)
        except ImageError as error:
            return error

    def _pixels_of(self, content: Any) -> npt.NDArray[np.uint8]:
        image = decode_image(
            content,
            background=self.background,
            max_pixels=self.max_pixels,
            at_least=self.image_size,
        )
        return self.fit(image)

    def fit(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return a decoded image at ``image_size``, shape (height, width, 3), uint8.

        Args:
            image: In mode RGB, upright.
        """
        return np.array(resize(image, self.image_size, self.resize, self.background), dtype=np.uint8)

    def _fingerprint(self) -> str:
        """Return a name for all that decides about pixels; another one means other pixels."""
        settings = json.dumps([_CODE_VERSION, self.to_dict()], sort_keys=True)
        return hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()


def _decoded(function: Callable[[ImageInput], R], samples: Sequence[Sample], *, progress: bool) -> Iterator[R]:
    images = (sample.image for sample in samples)
    results = image_map(function, images, like=samples[0].image if samples else b"", count=len(samples))
    return tracked(results, total=len(samples), description="Decoding", unit="img", enabled=progress)


def _check_colour(colour: Any) -> tuple[int, int, int]:
    rule = "background must be (red, green, blue), three ints from 0 to 255."
    try:
        red, green, blue = map(operator.index, colour)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{rule} Received: background={colour!r}") from None
    if not all(0 <= value <= 255 for value in (red, green, blue)):  # noqa: PLR2004 - a byte
        raise ConfigurationError(f"{rule} Received: background={colour!r}")
    return red, green, blue
