"""A trained classifier: from pictures to class names."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError, ImageError
from flowercnn.labels import LabelEncoder
from flowercnn.models.parts import pictures_at_once
from flowercnn.models.registry import check_shapes
from flowercnn.prediction.inputs import PredictInput, keyed_pictures
from flowercnn.prediction.modelfile import read_model, write_model
from flowercnn.prediction.prediction import Prediction
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.sources.base import ImageInput

if TYPE_CHECKING:
    from flowercnn.dataset import Dataset
    from flowercnn.prediction.similar import Similar

__all__ = ["Predictor"]

_BATCH = 64
_BATCH_DIMENSIONS = 4


class Predictor:
    """A Keras model with the class names and the preprocessing it was trained with.

    Made by training or by `load`; several threads may use one.

    Args:
        model: A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.
        class_names: One name per output, in order.
        preprocessing: How pictures become pixels.
        info: Anything else to keep with the model (JSON values): versions, training, metrics.

    Raises:
        ConfigurationError: If the model's shapes do not fit the class names and the picture size.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        *,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self._class_names = LabelEncoder(tuple(class_names)).class_names
        check_shapes(model, "model", preprocessing.image_size, len(self._class_names))
        self._model = model
        self._preprocessing = preprocessing
        self._info = dict(info or {})
        self._batch = pictures_at_once(model, most=_BATCH)
        self._compiled: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Predictor({len(self._class_names)} classes, pictures {height} x {width})"

    @property
    def model(self) -> Any:
        """The Keras model: (n, height, width, 3) pixels 0-255 in, (n, num_classes) probabilities out."""
        return self._model

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self._class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become pixels."""
        return self._preprocessing

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model sees."""
        return self._preprocessing.image_size

    @property
    def info(self) -> dict[str, Any]:
        """What was kept with the model: versions, training, metrics."""
        return dict(self._info)

    def with_info(self, **info: Any) -> Predictor:
        """Return the same classifier with more kept beside it (JSON values)."""
        return Predictor(self._model, self._class_names, self._preprocessing, info={**self._info, **info})

    def predict_one(self, image: ImageInput) -> Prediction:
        """Return the prediction for one picture; a picture that cannot be used is one with ``error`` set.

        Example:
            >>> predictor.predict_one(picture).label in predictor.class_names
            True
        """
        ((key, picture),) = keyed_pictures([image])
        return self._predictions([key], list(self._preprocessing.decode_each([picture])))[0]

    def predict(self, images: PredictInput) -> list[Prediction]:
        """Return one prediction per picture, in order; bad pictures are records with ``error``, never an abort.

        Args:
            images: Anything `Sample.image` takes, a `Dataset` or source, a folder (with all pictures below it), or
                an iterable of those.

        Raises:
            ConfigurationError: If something is neither a picture nor holds pictures.
            SourceError: If a folder or source cannot be listed.
        """
        return list(self.predict_iter(images))

    def predict_iter(self, images: PredictInput) -> Iterator[Prediction]:
        """Yield one prediction per picture as `predict` does, in bounded memory however many there are."""
        keys: deque[str] = deque()

        def pictures() -> Iterator[ImageInput]:
            for key, image in keyed_pictures(images):
                keys.append(key)
                yield image

        # Decoding runs ahead in threads while a batch is computed.
        decoded = self._preprocessing.decode_each(pictures())
        while batch := list(islice(decoded, self._batch)):
            yield from self._predictions([keys.popleft() for _ in batch], batch)

    def predict_proba(self, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the probabilities for pictures that have the model's size already.

        Args:
            array: Shape (n, height, width, 3), uint8 or float, values 0-255.

        Returns:
            Shape (n, num_classes), float32, rows sum to 1.

        Raises:
            ConfigurationError: If shape, dtype or values are others.
        """
        pixels = np.asarray(array)
        expected = (*self.image_size, 3)
        number = np.issubdtype(pixels.dtype, np.floating) or pixels.dtype == np.uint8
        if pixels.ndim != _BATCH_DIMENSIONS or pixels.shape[1:] != expected or not number:
            raise ConfigurationError(
                f"array must have shape (n, {', '.join(map(str, expected))}), dtype uint8 or float, values 0-255. "
                f"Received: shape {pixels.shape}, dtype {pixels.dtype}. Pictures of other sizes go to predict()."
            )
        if pixels.dtype != np.uint8:
            pixels = pixels.astype(np.float32)
            if not np.isfinite(pixels).all():
                raise ConfigurationError("array must be finite. Received: NaN or infinite values")
        parts = [self._probabilities(pixels[i : i + self._batch]) for i in range(0, len(pixels), self._batch)]
        return np.concatenate([np.empty((0, len(self._class_names)), np.float32), *parts])

    def embed(self, images: PredictInput) -> npt.NDArray[np.float32]:
        """Return one feature vector per picture, shape (n, d), float32; see `flowercnn.prediction.similar.embed`."""
        from flowercnn.prediction.similar import embed

        return embed(self, images)

    def find_similar(self, image: ImageInput, dataset: Dataset, k: int = 5) -> list[Similar]:
        """Return the ``k`` pictures of ``dataset`` most like ``image``; see `flowercnn.prediction.similar`."""
        from flowercnn.prediction.similar import find_similar

        return find_similar(self, image, dataset, k)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model with class names and preprocessing to one file, whole or not at all.

        Args:
            path: Ends in ``.keras``, or in ``.h5`` for the older format of Keras.

        Returns:
            The path.

        Raises:
            ModelFileError: If the suffix is another, the model has layers that are not Keras's own, or the file
                cannot be written.
        """
        return write_model(path, self._model, self._class_names, self._preprocessing, self._info)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictor:
        """Return the predictor saved in a ``.keras`` or ``.h5`` file. No code in the file is run.

        Raises:
            ModelFileError: If the file cannot be read, is not a model saved by this library, or is not safe to load.
        """
        model, class_names, preprocessing, info = read_model(Path(path))
        return cls(model, class_names, preprocessing, info=info)

    def export(self, path: str | os.PathLike[str], format: Literal["keras", "h5"] | None = None) -> Path:  # noqa: A002 - the public name
        """Write the model for other programs and return the path.

        Args:
            path: The file.
            format: ``"keras"`` or ``"h5"``; by default what the suffix says.

        Raises:
            ConfigurationError: If the format is not one of these.
            ModelFileError: As `save`.
        """
        chosen = format or Path(path).suffix.removeprefix(".")
        if chosen not in ("keras", "h5"):
            raise ConfigurationError(f"format must be 'keras' or 'h5'. Received: format={chosen!r}")
        return self.save(Path(path).with_suffix(f".{chosen}"))

    def _predictions(
        self, keys: Sequence[str], decoded: Sequence[npt.NDArray[np.uint8] | ImageError]
    ) -> list[Prediction]:
        usable = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
        rows = iter(self._probabilities(np.stack(usable)) if usable else ())
        return [
            Prediction.failed(key, self._class_names, str(pixels))
            if isinstance(pixels, ImageError)
            else Prediction.of(key, self._class_names, next(rows))
            for key, pixels in zip(keys, decoded, strict=True)
        ]

    def _probabilities(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities of one batch, from one compiled function for the life of the predictor."""
        with self._lock:
            if self._compiled is None:
                import tensorflow as tf

                model = self._model
                self._compiled = tf.function(
                    lambda pictures: model(tf.cast(pictures, tf.float32), training=False), reduce_retracing=True
                )
        probabilities: npt.NDArray[np.float32] = self._compiled(pixels).numpy()
        return probabilities
