"""A trained classifier: from pictures to class names."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError, ImageError, few
from flowercnn.labels import LabelEncoder
from flowercnn.models.parts import pictures_at_once
from flowercnn.models.registry import check_shapes
from flowercnn.prediction.calibration import Calibration, check_share
from flowercnn.prediction.features import with_features
from flowercnn.prediction.inputs import PredictInput, keyed_pictures
from flowercnn.prediction.modelfile import read_model, write_model
from flowercnn.prediction.prediction import Prediction
from flowercnn.preprocessing.pixels import Pixels
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.sources.base import ImageInput

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
        self._calibration = Calibration.from_dict(self._info["calibration"]) if "calibration" in self._info else None
        known = self._calibration and self._calibration.familiarity
        self._layers = known.layers if known else ()
        _check_layers(model, self._layers)
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

    @property
    def calibration(self) -> Calibration | None:
        """What was fitted on validation pictures, or ``None`` for a classifier that was not calibrated."""
        return self._calibration

    def with_false_alarms(self, share: float) -> Predictor:
        """Return the same classifier with another share of known pictures that may be refused as unknown.

        Args:
            share: From 0 (refuse nothing) to below 1.

        Raises:
            ConfigurationError: If the share is out of range, or the classifier was not calibrated.
        """
        calibration = dataclasses.replace(self._calibrated(), false_alarms=share)
        return self.with_info(calibration=calibration.to_dict())

    def predict_set(self, image: ImageInput, coverage: float = 0.95) -> list[str]:
        """Return class names, most probable first, among which the truth is with the chance ``coverage``.

        The promise (split conformal prediction) holds over pictures like those of validation, not for each picture.
        Few names mean an easy picture. The most probable class is always among them.

        Args:
            image: One picture.
            coverage: From 0 to below 1. With n validation pictures, more than n / (n + 1) can only be met by all
                classes.

        Raises:
            ConfigurationError: If the coverage is out of range, or the classifier was not calibrated.
            ImageError: If the picture cannot be used.
        """
        check_share("coverage", coverage)
        least = self._calibrated().set_threshold(coverage)
        (probabilities,) = self._probabilities(self._preprocessing.decode(image)[None])
        order = np.argsort(-probabilities, kind="stable")
        return [
            self._class_names[label]
            for place, label in enumerate(order.tolist())
            if not place or float(probabilities[label]) >= least
        ]

    def _calibrated(self) -> Calibration:
        if self._calibration is None:
            raise ConfigurationError(
                "This classifier was not calibrated: train with a val part, or use "
                "flowercnn.prediction.calibrate.calibrate(predictor, train, val)."
            )
        return self._calibration

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
        rows = iter(self._answers(np.stack(usable)) if usable else ())
        return [
            Prediction.failed(key, self._class_names, str(pixels))
            if isinstance(pixels, ImageError)
            else Prediction.of(key, self._class_names, *next(rows))
            for key, pixels in zip(keys, decoded, strict=True)
        ]

    def _answers(self, pixels: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.float32], str | None]]:
        """Yield the probabilities of each picture of a batch, and why it shows nothing known, if so."""
        probabilities, features = self._run(pixels)
        reasons = self._calibration.unknown(features) if self._calibration else [None] * len(pixels)
        yield from zip(probabilities, reasons, strict=True)

    def outputs(
        self, pixels: Pixels, layers: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the probabilities of decoded pictures, and the mean activations of some layers side by side."""
        compute = _compiled(self._model, tuple(layers))
        starts = range(0, len(pixels), self._batch)
        parts = [compute(pixels.take(range(i, min(i + self._batch, len(pixels))))) for i in starts]
        probabilities, features = zip(*parts, strict=True)
        return np.concatenate(probabilities), np.concatenate(features)

    def _probabilities(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities of one batch, from one compiled function for the life of the predictor."""
        return self._run(pixels)[0]

    def _run(self, pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Probabilities and mean activations of one batch."""
        with self._lock:
            if self._compiled is None:
                self._compiled = _compiled(self._model, self._layers)
        probabilities, features = self._compiled(pixels)
        return probabilities, features


def _compiled(model: Any, layers: tuple[str, ...]) -> Callable[[Any], tuple[Any, Any]]:
    """Return a function from pixels to probabilities and mean activations, compiled when first called."""
    import tensorflow as tf

    extended = with_features(model, layers) if layers else model

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow is untyped
    def compute(pictures: Any) -> tuple[Any, Any]:
        outputs = extended(tf.cast(pictures, tf.float32), training=False)
        if not layers:
            return outputs, tf.zeros([tf.shape(outputs)[0], 0])
        return outputs[0], tf.concat(
            [tf.reduce_mean(feature_map, axis=(1, 2)) for feature_map in outputs[1:]], axis=1
        )

    def run(pixels: Any) -> tuple[Any, Any]:
        probabilities, features = compute(pixels)
        return probabilities.numpy(), features.numpy()

    return run


def _check_layers(model: Any, layers: tuple[str, ...]) -> None:
    missing = set(layers) - {layer.name for layer in model.layers}
    if missing:
        raise ConfigurationError(
            f"The calibration is of another network: this one has no layer {few(sorted(missing))}."
        )
