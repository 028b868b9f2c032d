"""Feature vectors of pictures, and pictures that look alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_count
from flowercnn.data import Dataset
from flowercnn.errors import ConfigurationError, ImageError, few
from flowercnn.prediction.extractor import Extractor
from flowercnn.sources import ImageInput, PredictInput, Sample, keyed_pictures, one_picture

if TYPE_CHECKING:
    from flowercnn.prediction.predictor import Predictor

__all__ = ["Similar", "embed", "find_similar"]


@dataclass(frozen=True, slots=True)
class Similar:
    """A picture that looks like another.

    Args:
        sample: The picture, of the data set that was searched.
        similarity: Cosine of the angle between both feature vectors, -1 to 1.
    """

    sample: Sample
    similarity: float


def embed(predictor: Predictor, images: PredictInput) -> npt.NDArray[np.float32]:
    """Return one feature vector per picture: what goes into the network's last dense layer.

    Args:
        predictor: A classifier whose network ends in a dense layer.
        images: As `Predictor.predict` takes them.

    Returns:
        Shape (n, d), float32, in order.

    Raises:
        ImageError: If pictures cannot be used; all are named.
        ConfigurationError: If the network does not end in a dense layer.

    Example:
        >>> embed(predictor, [picture, picture]).dtype
        dtype('float32')
    """
    keys: list[str] = []

    def pictures() -> Iterable[ImageInput]:
        for key, image in keyed_pictures(images):
            keys.append(key)
            yield image

    extractor = Extractor(predictor.model)
    decoded = predictor.preprocessing.decode_each(pictures())
    rows: list[Any] = list(
        extractor.stream(pixels if isinstance(pixels, ImageError) else pixels[None] for pixels in decoded)
    )
    errors = [f"{key}: {row}" for key, row in zip(keys, rows, strict=True) if isinstance(row, ImageError)]
    if errors:
        raise ImageError(f"{len(errors)} of {len(rows)} pictures cannot be used: {few(errors)}")
    return np.concatenate([np.empty((0, extractor.size), np.float32), *rows])


def find_similar(predictor: Predictor, image: ImageInput, dataset: Dataset, k: int = 5) -> list[Similar]:
    """Return the ``k`` pictures of a data set whose feature vectors are nearest to a picture's, nearest first.

    Args:
        predictor: A classifier whose network ends in a dense layer.
        image: The picture.
        dataset: Where to look. The picture itself is found if it is in it.
        k: How many, at least 1; all if there are fewer.

    Raises:
        ConfigurationError: If ``image`` is not one picture, ``k`` is below 1, or ``dataset`` is none.
        ImageError: If pictures cannot be used.

    Example:
        >>> from flowercnn import Dataset, ImageFolder
        >>> photos = Dataset.from_source(ImageFolder("photos"))
        >>> [found.sample.key == photos[0].key for found in find_similar(predictor, photos[0].image, photos, k=1)]
        [True]
    """
    k = check_count("k", k)
    if not isinstance(dataset, Dataset):
        raise ConfigurationError(
            "dataset must be a flowercnn.Dataset; make one with Dataset.from_source(source). "
            f"Received: {type(dataset).__name__}"
        )
    rows = embed(predictor, [one_picture(image)[1], *dataset.samples]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarities = rows[1:] @ rows[0]
    return [Similar(dataset[int(i)], float(similarities[i])) for i in np.argsort(-similarities, kind="stable")[:k]]
