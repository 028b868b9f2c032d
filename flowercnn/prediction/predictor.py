"""Predictor, a trained classifier: from images to class names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import as_path, check_choice, check_class_names, check_instance, check_share
from flowercnn.data import check_printable
from flowercnn.errors import ConfigurationError, ImageError
from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.decoding import (
    KeyedPixels,
    check_pixels,
    decoded_batches,
    is_batch,
    usable_batches,
)
from flowercnn.prediction.network import (
    Network,
    RuntimeChoice,
    check_feature_maps,
    layers_of,
    read_predictor,
)
from flowercnn.prediction.prediction import Prediction
from flowercnn.prediction.temperature import SMALLEST_PROBABILITY
from flowercnn.preprocessing import Preprocessing
from flowercnn.runtimes import RuntimeName, litert_interpreter
from flowercnn.saving import Description, write_model
from flowercnn.sources import DataSource, ImageInput, PredictInput, single_image

if TYPE_CHECKING:
    from flowercnn.data import Dataset
    from flowercnn.prediction.similar import Similar
    from flowercnn.saving import ExportFormat, ExportReport

__all__ = ["Predictor"]


class Predictor:
    """A trained network with the class names and the preprocessing it was trained with.

    Made by training or by `load`; several threads may use one. It computes with the weights the
    model has at the first prediction. It can be pickled and deep-copied: what travels is the model
    file that `save` writes.

    Args:
        model: A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes)
            probabilities.
        class_names: One name per output, in order.
        preprocessing: How images become pixels.
        calibration: Calibration, see `flowercnn.calibrate`. Its temperature must be in the model's
            weights already.
        info: Anything else to keep with the model (JSON values by name): versions, training,
            metrics.
        runtime: ``"keras"``, ``"litert"`` or ``"auto"``.

    Raises:
        ConfigurationError: If the model's shapes do not fit the class names and the image size,
            it returns no probabilities, a name has control characters, or the calibration is of
            another network.
        MissingDependencyError: If ``runtime="litert"`` and ai-edge-litert is not installed.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        *,
        calibration: Calibration | None = None,
        info: Mapping[str, Any] | None = None,
        runtime: RuntimeChoice = "auto",
    ) -> None:
        from flowercnn.models import check_probabilities, check_shapes  # load() needs neither

        check_instance("preprocessing", preprocessing, Preprocessing)
        names = check_class_names(class_names)
        check_printable(names)
        check_shapes(model, "model", preprocessing.image_size, len(names))
        # Weights that are not finite are rejected on saving.
        if all(np.isfinite(weight).all() for weight in model.get_weights()):
            check_probabilities(model, "model")
        check_choice("runtime", runtime, ("auto", "keras", "litert"))
        if runtime == "litert":
            litert_interpreter()
        described = {} if calibration is None else calibration.to_dict()
        self._description = Description(names, preprocessing, described, dict(info or {}))
        self._calibration = calibration
        self._network = Network(model, layers=layers_of(calibration), wanted=runtime)
        check_feature_maps(model, calibration)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        runtime: RuntimeChoice = "auto",
        max_pixels: int | None = None,
    ) -> Predictor:
        """Return the predictor in a model file or an export. No code in the file is run.

        Args:
            path: A ``.keras`` or ``.h5`` file of `save`, or a ``.tflite`` or ``.onnx`` file of
                `export`.
            runtime: ``"litert"`` and ``"onnx"`` do not import TensorFlow. ``"auto"`` is
                LiteRT if the file has it and ai-edge-litert is installed, otherwise Keras; for an
                export, the runtime of its format.
            max_pixels: Larger images are rejected before they are decoded; by default, and at
                most, the limit in the file.

        Raises:
            ConfigurationError: If ``runtime`` is something else, or ``max_pixels`` is not a
                positive int.
            MissingDependencyError: If the runtime asked for is not installed.
            ModelFileError: If the file cannot be read, is not one of this library, is not safe to
                load, or does not hold the network for the runtime asked for.

        Example:
            >>> path = predictor.save("model.keras")
            >>> Predictor.load(path).class_names == predictor.class_names
            True
        """
        return cls._of(*read_predictor(as_path(path), runtime, max_pixels))

    @classmethod
    def _of(
        cls, description: Description, calibration: Calibration | None, network: Network
    ) -> Predictor:
        predictor = cls.__new__(cls)
        predictor._description = description  # noqa: SLF001 - its own
        predictor._calibration = calibration  # noqa: SLF001
        predictor._network = network  # noqa: SLF001
        return predictor

    def __copy__(self) -> Predictor:
        return self._of(self._description, self._calibration, self._network)

    def __reduce__(self) -> tuple[Any, ...]:
        # As a model file, because threads and networks cannot be pickled; loading checks it.
        keras = self.runtime == "keras"
        with tempfile.TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "model.keras", light=not keras).read_bytes()
        return _unpickled, (content, "keras" if keras else "auto")

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Predictor({len(self.class_names)} classes, images {height} x {width})"

    @property
    def model(self) -> Any:
        """The Keras model: (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.

        Raises:
            ModelFileError: If this is an export for another runtime, or the file's weights cannot
                be used.
        """
        return self._network.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self._description.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become pixels."""
        return self._description.preprocessing

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the model's input."""
        return self._description.preprocessing.image_size

    @property
    def calibration(self) -> Calibration | None:
        """The calibration, or ``None`` for a classifier that was not calibrated."""
        return self._calibration

    @property
    def info(self) -> dict[str, Any]:
        """Values kept with the model: versions, training, metrics."""
        return dict(self._description.info)

    @property
    def runtime(self) -> RuntimeName:
        """The runtime: ``"keras"``, ``"litert"`` or ``"onnx"``."""
        return self._network.runtime.name

    def with_info(self, **info: Any) -> Predictor:
        """Return the same classifier with more info (JSON values)."""
        described = replace(self._description, info={**self._description.info, **info})
        return self._of(described, self._calibration, self._network)

    def with_calibration(self, calibration: Calibration | None) -> Predictor:
        """Return the classifier with another calibration, already applied to its weights."""
        kept = {} if calibration is None else calibration.to_dict()
        described = replace(self._description, calibration=kept)
        return self._of(described, calibration, self._network.with_layers(layers_of(calibration)))

    def with_false_alarms(self, share: float) -> Predictor:
        """Return the classifier with another share of in-distribution images called unknown.

        Args:
            share: From 0 (no image is unknown) to below 1.

        Raises:
            ConfigurationError: If the share is out of range, or the classifier was not calibrated.
        """
        return self.with_calibration(replace(self._calibrated(), false_alarms=share))

    def predict_set(self, image: PredictInput, coverage: float = 0.95) -> list[str]:
        """Conformal prediction set: class names, most probable first, that hold the true one.

        Over images like those of validation, the true class is in the set with at least the
        probability ``coverage`` (split conformal prediction); this is no promise for a single
        image. Small sets mean easy images. The most probable class is always in the set.

        Args:
            image: One image.
            coverage: From 0 to below 1. With n validation images, more than n / (n + 1) can only
                be met by all classes.

        Raises:
            ConfigurationError: If the coverage is out of range, or the classifier was not
                calibrated.
            ImageError: If the image cannot be used.
        """
        check_share("coverage", coverage)
        least = self._calibrated().set_threshold(coverage)
        prediction = self.predict_one(image)
        if prediction.probabilities is None:
            raise ImageError(prediction.error)
        order = np.argsort(-prediction.probabilities, kind="stable").tolist()
        certain = [label for label in order if float(prediction.probabilities[label]) >= least]
        return [self.class_names[label] for label in certain or order[:1]]

    def _calibrated(self) -> Calibration:
        if self._calibration is None:
            raise ConfigurationError(
                "This classifier was not calibrated: train with a val part, or use "
                "flowercnn.calibrate(predictor, train, val)."
            )
        return self._calibration

    def predict_one(self, image: PredictInput, *, tta: bool = False) -> Prediction:
        """Return the prediction for one image, with ``error`` set if it cannot be used.

        Args:
            image: Anything `Sample.image` takes, an ``http`` or ``https`` URL, or an open file.
            tta: Whether to average over the image and its mirror image; it takes twice the time.

        Raises:
            ConfigurationError: If ``image`` is not one image.

        Example:
            >>> predictor.predict_one(image).label in predictor.class_names
            True
        """
        key, image = single_image(image)
        (pixels,) = self.preprocessing.decode_each([image])
        return self._predictions([(key, pixels)], tta=tta)[0]

    def predict(self, images: PredictInput, *, tta: bool = False) -> list[Prediction]:
        """Return one prediction per image, in order; bad images are records with ``error``.

        Args:
            images: Anything `predict_one` takes, a `Dataset` or source, a folder or archive (with
                all images in it), a pattern such as ``"photos/**/*.jpg"``, or an iterable of
                those.
            tta: As in `predict_one`.

        Raises:
            ConfigurationError: If something is neither an image nor holds images.
            SourceError: If a source cannot be listed, or a folder, archive or pattern that is all
                there is; in an iterable those are records with ``error``, too.
        """
        return list(self.predict_iter(images, tta=tta))

    def predict_iter(self, images: PredictInput, *, tta: bool = False) -> Iterator[Prediction]:
        """Yield one prediction per image as `predict` does, in bounded memory.

        Images are decoded ahead in threads and computed in batches. For a camera, which needs each
        result at once, call `predict_one` per frame. If ``images`` raises an error, the images
        before it come first.
        """
        for batch in decoded_batches(self.preprocessing, images, self._network.runtime.batch):
            yield from self._predictions(batch, tta=tta)

    def predict_proba(
        self, images: PredictInput | npt.NDArray[Any], *, tta: bool = False
    ) -> npt.NDArray[np.float32]:
        """Class probabilities: one row per image.

        Rows and images correspond, so bad images are an error; `predict` returns records instead.

        Args:
            images: As in `predict`; or images that have the model's size already, as one array of
                shape (n, height, width, 3), uint8 or float, values 0-255, whose pixels are used as
                they are.
            tta: As in `predict_one`.

        Returns:
            Shape (n, num_classes), float32, rows sum to 1.

        Raises:
            ConfigurationError: If something is neither an image nor holds images, or an array has
                another shape, dtype or range of values.
            ImageError: If images cannot be used; all are named.
            SourceError: If a source cannot be listed.
        """
        rows = [self._probabilities(pixels, tta=tta) for pixels in self._pixel_batches(images)]
        return np.concatenate([np.empty((0, len(self.class_names)), np.float32), *rows])

    def predict_logits(
        self, images: PredictInput | npt.NDArray[Any], *, tta: bool = False
    ) -> npt.NDArray[np.float32]:
        """Logits: the scores before the softmax, one row per image, with mean 0.

        A softmax does not change if a constant is added to a row, and the exports for LiteRT and
        ONNX hold no logits. So the logits here are the logarithms of the probabilities, shifted to
        mean 0, whatever computes them. They equal those of the last layer up to a constant per row,
        and their softmax equals `predict_proba`. The temperature of the calibration is part of
        them. Probabilities below 1.2e-38 count as that number.

        Args:
            images: As in `predict_proba`.
            tta: As in `predict_one`.

        Returns:
            Shape (n, num_classes), float32, rows sum to 0.

        Raises:
            ConfigurationError: As `predict_proba` does.
            ImageError: Likewise.
            SourceError: Likewise.
        """
        probabilities = self.predict_proba(images, tta=tta).astype(np.float64)
        logits = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
        centred = logits - logits.mean(axis=1, keepdims=True)
        return np.asarray(centred, np.float32)

    def embed(self, images: PredictInput) -> npt.NDArray[np.float32]:
        """Return feature vectors, shape (n, d), float32; see `flowercnn.prediction.embed`."""
        from flowercnn.prediction.similar import embed

        return embed(self, images)

    def find_similar(
        self, image: ImageInput, dataset: Dataset | DataSource | str | os.PathLike[str], k: int = 5
    ) -> list[Similar]:
        """Return the ``k`` most similar images; see `flowercnn.prediction.find_similar`."""
        from flowercnn.prediction.similar import find_similar

        return find_similar(self, image, dataset, k)

    def save(self, path: str | os.PathLike[str], *, light: bool = True) -> Path:
        """Write the model, class names, preprocessing and calibration to one file, atomically.

        Args:
            path: Ends in ``.keras``, or in ``.h5`` for the older format of Keras.
            light: Whether a ``.keras`` file also carries the network for LiteRT, where
                ai-edge-litert is installed. It doubles the size of the file and lets it predict
                without TensorFlow. Networks of over 32 million weights are saved without one;
                `export` makes one on request.

        Returns:
            The path.

        Raises:
            ModelFileError: If the suffix is another, the model has layers that are not Keras's own
                or weights that are not finite, or the file cannot be written.
        """
        target = as_path(path)
        copy = self._network.light if light and target.suffix == ".keras" else None
        return write_model(target, self.model, self._description, litert=copy)

    def export(
        self,
        path: str | os.PathLike[str],
        format: ExportFormat | None = None,  # noqa: A002 - the public name
        *,
        images: PredictInput | None = None,
        min_agreement: float | None = None,
    ) -> ExportReport:
        """Write the network for other programs, after proving that it answers as this one does.

        Class names, preprocessing and calibration travel inside the file, and as JSON beside it
        (``model.tflite.json``). Whatever fails, what was at ``path`` before stays and no file is
        left.

        Args:
            path: The file, or the folder of a SavedModel.
            format: ``"keras"``, ``"h5"``, ``"saved_model"`` (a folder), ``"litert"``,
                ``"litert-int8"`` or ``"onnx"``; by default what the suffix says (``.keras``,
                ``.h5``, ``.tflite``, ``.onnx``).
            images: Images to prove it on, as for `predict`; by default flowers that the library
                draws. ``"litert-int8"`` needs some dozens of training images: every second one
                sets the ranges of the numbers, the others prove the result.
            min_agreement: Share of those images that must get the same label, 0-1; by default 1,
                and 0.97 for ``"litert-int8"``. Probabilities may differ by 1e-4 at most, except for
                ``"litert-int8"``.

        Returns:
            The path and what was measured.

        Raises:
            ConfigurationError: If the format is not one of these, or images are missing.
            MissingDependencyError: If the format needs a package that is not installed.
            ModelFileError: If the network cannot be written in this format, or the copy answers
                otherwise.
        """
        from flowercnn.saving import export

        network, described = self._network, self._description
        return export(network, described, path, format, images=images, min_agreement=min_agreement)

    def _pixel_batches(self, images: PredictInput | npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Yield pixels of the model's size in batches."""
        batch = self._network.runtime.batch
        if not is_batch(images, self.image_size):
            yield from usable_batches(self.preprocessing, images, batch)
            return
        pixels = check_pixels(images, self.image_size)
        yield from (pixels[start : start + batch] for start in range(0, len(pixels), batch))

    def _predictions(self, batch: Sequence[KeyedPixels], *, tta: bool) -> list[Prediction]:
        usable = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
        rows = self._answers(np.stack(usable), tta=tta) if usable else iter(())
        return [
            Prediction.failed(key, self.class_names, str(pixels))
            if isinstance(pixels, ImageError)
            else Prediction.of(key, self.class_names, *next(rows))
            for key, pixels in batch
        ]

    def _answers(
        self, pixels: npt.NDArray[Any], *, tta: bool
    ) -> Iterator[tuple[npt.NDArray[np.float32], str | None]]:
        """Yield the probabilities of each image of a batch, and why it is unknown, or ``None``."""
        compute = self._network.runtime
        probabilities, features = compute.with_features(pixels)
        if tta:
            probabilities = _average(probabilities, compute(pixels[:, :, ::-1]))
        reasons: list[str | None] = [None] * len(pixels)
        # exports for other programs have no features
        if self._calibration is not None and features.shape[1]:
            reasons = self._calibration.unknown(features)
        yield from zip(probabilities, reasons, strict=True)

    def _probabilities(self, pixels: npt.NDArray[Any], *, tta: bool) -> npt.NDArray[np.float32]:
        """Probabilities of one batch."""
        compute = self._network.runtime
        return _average(compute(pixels), compute(pixels[:, :, ::-1])) if tta else compute(pixels)


def _average(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return ((a + b) / 2).astype(np.float32)


def _unpickled(content: bytes, runtime: RuntimeChoice) -> Predictor:
    """Return the predictor in the bytes of a model file, checked like any other."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return Predictor.load(path, runtime=runtime)
