"""Reading: each image of a data set is fetched once, and its parts share what was found.

From the same bytes come the digest, what the search for duplicates and the audit need, and the
pixels at the size of training. Images that cannot be used are known then, before any training.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import image_map, tracked
from flowercnn.data.inspection import Content, Inspector
from flowercnn.errors import FlowerCNNError, ImageError, SourceError
from flowercnn.preprocessing import (
    DiskStore,
    JoinedPixels,
    MemoryStore,
    Pixels,
    Preprocessing,
    content_digest,
    read_content,
)
from flowercnn.sources import ImageInput, Sample

__all__ = ["LoadedImages", "Readings"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedImages:
    """Images of a data set at one size, with their labels.

    Args:
        pixels: The images, in memory or in a cache on disk.
        labels: Shape (n,), int64.
        kept: Positions in the data set of the images, shape (n,), int64.
        skipped: Keys of the images that could not be decoded and are left out.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    skipped: tuple[str, ...]


class Readings:
    """Results of reading the images of a data set, by key; shared with its parts.

    Pixels are kept for one preprocessing, the last that was asked for, within its ``memory_limit``.
    Encoded images are kept on request only, within the same limit, the others in a temporary
    folder.
    """

    def __init__(self) -> None:
        self._digests: dict[str, str | None] = {}
        self._contents: dict[str, Content] = {}
        self._encoded: _EncodedImages | None = None
        self._decoded: _DecodedImages | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Readings, ()  # a data set that travels is read where it arrives

    def __deepcopy__(self, memo: object) -> Readings:
        return Readings()

    def read(
        self,
        samples: Sequence[Sample],
        *,
        preprocessing: Preprocessing | None = None,
        inspect: bool = False,
        digest: bool = False,
        keep_encoded: bool = False,
        progress: bool = False,
    ) -> None:
        """Read each image once, in threads, and keep what is wanted of it.

        Args:
            samples: The images. Those of which all that is wanted is known already are not read
                again.
            preprocessing: What makes pixels of them, or ``None`` for none.
            inspect: Whether to look for faults and to prepare the search for duplicates.
            digest: Whether a hash of the content is wanted; an inspection has one.
            keep_encoded: Whether to keep the encoded images until `release`, so that they can be
                decoded again.
            progress: Whether to show a progress bar.

        Raises:
            SourceError: If pixels are wanted and an image cannot be fetched.
        """
        decoded = None if preprocessing is None else self._decoded_for(preprocessing)
        if keep_encoded and self._encoded is None:
            self._encoded = _EncodedImages((preprocessing or Preprocessing()).memory_limit)
        encoded = self._encoded if keep_encoded else None

        def is_known(sample: Sample) -> bool:
            return (
                (decoded is None or sample.key in decoded)
                and (encoded is None or sample.key in encoded)
                and (not inspect or sample.key in self._contents)
                and (not digest or sample.key in self._digests)
            )

        waiting = [sample for sample in samples if not is_known(sample)]
        if not waiting:
            return
        chunk = None if decoded is None else decoded.open_chunk(waiting)
        images = image_map(
            lambda sample: self._read_one(sample, chunk, inspect=inspect, digest=digest),
            waiting,
            like=waiting[0].image,
            count=len(waiting),
        )
        shown = tracked(
            images, total=len(waiting), description="Reading", unit="img", enabled=progress
        )
        try:
            for sample, image in zip(waiting, shown, strict=True):
                self._keep(sample, image, chunk, encoded)
        finally:  # what was decoded before Ctrl-C is decoded
            if decoded is not None and chunk is not None:
                decoded.close_chunk(chunk)

    def _keep(
        self, sample: Sample, image: _Image, chunk: _Chunk | None, encoded: _EncodedImages | None
    ) -> None:
        if image.digest is not None or image.content is not None:
            self._digests[sample.key] = image.digest
        if image.content is not None:
            self._contents[sample.key] = image.content
        if encoded is not None:
            encoded.add(sample, image)
        if chunk is not None:
            chunk.add(sample.key, image.entry)

    def contents(self, samples: Sequence[Sample], *, progress: bool = False) -> tuple[Content, ...]:
        """Return the inspection of each image; images without one are read."""
        self.read(samples, inspect=True, progress=progress)
        return tuple(self._contents[sample.key] for sample in samples)

    def known_contents(self, samples: Sequence[Sample]) -> tuple[Content, ...] | None:
        """Return the inspection of each image if all have one, otherwise ``None``."""
        if all(sample.key in self._contents for sample in samples):
            return tuple(self._contents[sample.key] for sample in samples)
        return None

    def digests(self, samples: Sequence[Sample]) -> dict[str, str | None]:
        """Return a hash of each image's content by its key; ``None`` if it cannot be read."""
        self.read(samples, digest=True)
        return {sample.key: self._digests[sample.key] for sample in samples}

    def errors(
        self, samples: Sequence[Sample], preprocessing: Preprocessing
    ) -> dict[str, ImageError]:
        """Return of each image that could not be decoded why, by its key; nothing is read."""
        known = self._decoded_for(preprocessing).errors
        return {sample.key: known[sample.key] for sample in samples if sample.key in known}

    def pixels(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> Pixels:
        """Return the pixels of images that `read` has decoded."""
        return self._decoded_for(preprocessing).part(samples)

    def stream(
        self, samples: Sequence[Sample], preprocessing: Preprocessing
    ) -> Iterator[npt.NDArray[np.uint8] | ImageError]:
        """Yield the pixels of each image, or why it cannot be decoded; none is decoded twice."""
        decoded = self._decoded_for(preprocessing) if self._has_decoded(preprocessing) else None
        if decoded is None or not all(sample.key in decoded for sample in samples):
            return preprocessing.decode_each(self.image(sample) for sample in samples)
        return (decoded.image(sample) for sample in samples)

    def image(self, sample: Sample) -> ImageInput:
        """Return the encoded image that was kept, or the image of the sample."""
        return sample.image if self._encoded is None else self._encoded.get(sample)

    def release(self) -> None:
        """Forget pixels and encoded images; what an inspection found stays."""
        self._decoded = None
        self._encoded = None

    def _has_decoded(self, preprocessing: Preprocessing) -> bool:
        return (
            self._decoded is not None
            and self._decoded.preprocessing.to_dict() == preprocessing.to_dict()
        )

    def _decoded_for(self, preprocessing: Preprocessing) -> _DecodedImages:
        if self._decoded is None or not self._has_decoded(preprocessing):
            self._decoded = _DecodedImages(preprocessing)
        return self._decoded

    def _read_one(
        self, sample: Sample, chunk: _Chunk | None, *, inspect: bool, digest: bool
    ) -> _Image:
        wanted = chunk is not None and sample.key in chunk.wanted
        try:
            encoded = read_content(self.image(sample))
            hashed = isinstance(encoded, bytes) or inspect or digest  # bytes cost little
            found = content_digest(encoded) if hashed else None
        except ImageError as error:
            return _Image(None, None, Content(error=str(error)), error)
        except FlowerCNNError as error:
            if wanted:  # the place cannot be reached: nothing is wrong with the image
                raise
            return _Image(None, None, Content(error=str(error)), None)
        inspector = Inspector(encoded)
        entry: Any = None
        if chunk is not None and wanted:
            try:
                entry = chunk.store.prepare(encoded, lambda: inspector.pixels(chunk.preprocessing))
            except ImageError as error:
                entry = error
        return _Image(encoded, found, inspector.content(found) if inspect else None, entry)


class _Image(NamedTuple):
    """Result of reading one image: ``entry`` is for a store, or why there is none."""

    encoded: bytes | Image.Image | None
    digest: str | None
    content: Content | None
    entry: Any


class _Chunk:
    """Images that are decoded in one go: those of ``wanted``, into ``store``."""

    def __init__(
        self, wanted: frozenset[str], store: MemoryStore | DiskStore, preprocessing: Preprocessing
    ) -> None:
        self.wanted, self.store, self.preprocessing = wanted, store, preprocessing
        self.keys: list[str] = []
        self.errors: dict[str, ImageError] = {}

    def add(self, key: str, entry: Any) -> None:
        """Keep what the store has prepared, or why it could not."""
        if isinstance(entry, ImageError):
            self.errors[key] = entry
        elif entry is not None:
            self.store.add(entry)
            self.keys.append(key)


class _DecodedImages:
    """Pixels by key, for one preprocessing; loaded in one go or in several."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.errors: dict[str, ImageError] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._loaded: list[Pixels] = []
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._places or key in self.errors

    def open_chunk(self, samples: Sequence[Sample]) -> _Chunk:
        """Return where the pixels of images go that are not here yet."""
        height, width = self.preprocessing.image_size
        wanted = frozenset(sample.key for sample in samples if sample.key not in self)
        store = self.preprocessing.open_store(len(wanted), used=self._bytes)
        if isinstance(store, MemoryStore):
            self._bytes += len(wanted) * height * width * 3
        return _Chunk(wanted, store, self.preprocessing)

    def close_chunk(self, chunk: _Chunk) -> None:
        """Take in the images of a chunk."""
        self.errors |= chunk.errors
        self._places |= {key: (len(self._loaded), place) for place, key in enumerate(chunk.keys)}
        self._loaded.append(chunk.store.pixels())

    def part(self, samples: Iterable[Sample]) -> Pixels:
        """Return the pixels of some images, in order."""
        places = [self._places[sample.key] for sample in samples if sample.key in self._places]
        return JoinedPixels(self._loaded, np.array(places, dtype=np.int64))

    def image(self, sample: Sample) -> npt.NDArray[np.uint8] | ImageError:
        """Return the pixels of one image, or why there are none."""
        if sample.key in self.errors:
            return self.errors[sample.key]
        number, position = self._places[sample.key]
        image: npt.NDArray[np.uint8] = self._loaded[number].take([position])[0]
        return image


class _EncodedImages:
    """Encoded images by key: in memory up to a limit, then in a temporary folder."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._images: dict[str, ImageInput] = {}
        self._folder: Path | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._images

    def add(self, sample: Sample, image: _Image) -> None:
        """Keep an image, unless it is in memory anyway."""
        content = image.encoded
        if content is None and isinstance(image.entry, ImageError):
            self._images[sample.key] = partial(_fail, image.entry)
        elif not isinstance(content, bytes) or content is sample.image:
            self._images[sample.key] = sample.image
        elif len(content) <= self._room:
            self._room -= len(content)
            self._images[sample.key] = content
        else:
            self._images[sample.key] = self._write(content)

    def get(self, sample: Sample) -> ImageInput:
        """Return the image that was kept of a sample, or the sample's own."""
        return self._images.get(sample.key, sample.image)

    def _write(self, content: bytes) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="flowercnn-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / str(len(self._images))
        try:
            path.write_bytes(content)
        except OSError as error:
            raise SourceError(
                f"{path.parent}: cannot keep encoded images ({error.strerror or error}). Free some "
                "space, or raise memory_limit."
            ) from error
        return path


def _fail(error: ImageError) -> bytes:
    raise error
