"""Feature vectors of images, and similar images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_count, cpu_count, ordered_map
from flowercnn.data import Dataset, as_dataset
from flowercnn.errors import ImageError
from flowercnn.models import fold_normalization, head_of, import_keras
from flowercnn.prediction.decoding import usable_batches
from flowercnn.preprocessing import Preprocessing
from flowercnn.runtimes import LiteRTRuntime
from flowercnn.saving import light_copy
from flowercnn.sources import DataSource, ImageInput, PredictInput, Sample, single_image

__all__ = ["Extractor", "Similar", "embed", "find_similar"]

_PIXELS_AT_ONCE: Final = 8 * 256 * 256  # keeps activations in the processor's caches
_MOST_AT_ONCE: Final = 64
_MANY: Final = 256


class Extractor:
    """Extractor of feature vectors: normalisation folded, compiled, small parts in threads.

    Args:
        model: A classifier that ends in a dense layer; not changed.
        images: About how many images there will be. Many are worth some seconds of preparation.
        output: The tensor to compute, shape (n, size), in place of the input of the last layer.

    Raises:
        ConfigurationError: If it ends in another layer.
    """

    def __init__(self, model: Any, *, images: int = 0, output: Any = None) -> None:
        import tensorflow as tf

        keras = import_keras()
        wanted = head_of(model).input if output is None else output
        network = fold_normalization(keras.Model(model.inputs[0], wanted, name="features"))
        self.size = int(network.output_shape[1])
        height, width = network.input_shape[1:3]
        self._at_once = max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // (height * width)))
        self._workers = min(4, cpu_count())
        self.batch = 2 * self._workers * self._at_once  # images to give at once
        # LiteRT is much faster than TensorFlow at depthwise convolutions, and slower at dense ones.
        kinds = {type(layer).__name__ for layer in network.layers}
        worth_it = images >= _MANY and any("Depthwise" in kind for kind in kinds)
        light = light_copy(network) if worth_it else None
        self._light = None if light is None else LiteRTRuntime(light)

        def compute(pixels: Any) -> Any:
            return network(tf.cast(pixels, tf.float32), training=False)

        self._compute = tf.function(compute, reduce_retracing=True)

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return feature vectors (n, size) of images (n, height, width, 3), 0-255."""
        if self._light is not None:
            return self._light(pixels)
        slices = [pixels[i : i + self._at_once] for i in range(0, len(pixels), self._at_once)]
        workers, compute = self._workers, lambda part: self._compute(part).numpy()
        parts = ordered_map(compute, slices, workers=workers, window=2 * workers)
        return np.concatenate([np.empty((0, self.size), np.float32), *parts])

    def stream(
        self, images: Iterable[npt.NDArray[np.uint8] | ImageError]
    ) -> Iterator[npt.NDArray[np.float32] | ImageError]:
        """Yield feature vectors of each image's views, (views, size), in bounded memory.

        Args:
            images: Views of each image, shape (views, height, width, 3), 0-255, or an error, which
                is passed on.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, self.batch)):
            usable = [views for views in batch if not isinstance(views, ImageError)]
            rows = iter(self(np.concatenate(usable)) if usable else ())
            for views in batch:
                if isinstance(views, ImageError):
                    yield views
                else:
                    yield np.stack(list(islice(rows, len(views))))


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
        >>> embed(predictor, [image, image]).dtype
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
    rows = embed(predictor, [single_image(image)[1], *dataset.samples]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarities = rows[1:] @ rows[0]
    nearest = np.argsort(-similarities, kind="stable")[:k]
    return [Similar(dataset[int(index)], float(similarities[index])) for index in nearest]
