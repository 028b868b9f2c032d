"""Feature vectors of images, and similar images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_count
from flowercnn.data import Dataset, as_dataset
from flowercnn.prediction.decoding import usable_batches
from flowercnn.prediction.extractor import Extractor
from flowercnn.preprocessing import Preprocessing
from flowercnn.sources import DataSource, ImageInput, PredictInput, Sample, one_picture

__all__ = ["Similar", "embed", "find_similar"]


class Embedder(Protocol):
    """A network with its preprocessing, such as a `Predictor`."""

    @property
    def model(self) -> Any:
        """The Keras model."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become pixels."""
        ...


@dataclass(frozen=True, slots=True)
class Similar:
    """Similar image of a data set.

    Args:
        sample: The image, of the data set that was searched.
        similarity: Cosine of the angle between both feature vectors, -1 to 1.
    """

    sample: Sample
    similarity: float


def embed(predictor: Embedder, images: PredictInput) -> npt.NDArray[np.float32]:
    """Feature vectors: return the inputs of the network's last dense layer, one row per image.

    Args:
        predictor: A classifier whose network ends in a dense layer.
        images: As `Predictor.predict` takes them.

    Returns:
        Shape (n, d), float32, in order.

    Raises:
        ImageError: If images cannot be used; all are named.
        ConfigurationError: If the network does not end in a dense layer.

    Example:
        >>> embed(predictor, [picture, picture]).dtype
        dtype('float32')
    """
    extractor = Extractor(predictor.model)
    batches = usable_batches(predictor.preprocessing, images, extractor.batch)
    return np.concatenate([np.empty((0, extractor.size), np.float32), *map(extractor, batches)])


def find_similar(
    predictor: Embedder,
    image: ImageInput,
    dataset: Dataset | DataSource | str | os.PathLike[str],
    k: int = 5,
) -> list[Similar]:
    """Nearest neighbours: return the ``k`` images most similar to an image, best first.

    Args:
        predictor: A classifier whose network ends in a dense layer.
        image: The image.
        dataset: The images to search: a data set, a source, or a path or URI of one. It may contain
            the image itself.
        k: How many, at least 1; all if there are fewer.

    Raises:
        ConfigurationError: If ``image`` is not one image, ``k`` is below 1, or ``dataset`` is
            something else.
        ImageError: If images cannot be used.

    Example:
        >>> from flowercnn import Dataset, ImageFolder
        >>> photos = Dataset.from_source(ImageFolder("photos"))
        >>> nearest = find_similar(predictor, photos[0].image, photos, k=1)
        >>> [similar.sample.key == photos[0].key for similar in nearest]
        [True]
    """
    k = check_count("k", k)
    dataset = as_dataset(dataset)
    rows = embed(predictor, [one_picture(image)[1], *dataset.samples]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarities = rows[1:] @ rows[0]
    nearest = np.argsort(-similarities, kind="stable")[:k]
    return [Similar(dataset[int(index)], float(similarities[index])) for index in nearest]
