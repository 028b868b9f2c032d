"""A trained classifier: from pictures to class names."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError, ImageError, ModelFileError
from flowercnn.labels import LabelEncoder
from flowercnn.prediction.description import Description
from flowercnn.prediction.exportfile import read_export
from flowercnn.prediction.inputs import PredictInput, keyed_pictures
from flowercnn.prediction.modelfile import read_model, write_model
from flowercnn.prediction.network import Network, RuntimeChoice
from flowercnn.prediction.prediction import Prediction
from flowercnn.prediction.runtimes import RuntimeName, litert_interpreter
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.sources.base import ImageInput

if TYPE_CHECKING:
    from flowercnn.prediction.exports import ExportFormat, ExportReport

__all__ = ["Predictor"]

_BATCH_DIMENSIONS = 4


class Predictor:
    """A trained network with the class names and the preprocessing it was trained with.

    Made by training or by `load`; several threads may use one. It computes with the weights the model has at the
    first prediction.

    Args:
        model: A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.
        class_names: One name per output, in order.
        preprocessing: How pictures become pixels.
        calibration: What evaluation has found out about the probabilities (JSON values by name). It is kept in model
            files and exports; a temperature must be in the model's weights already.
        info: Anything else to keep with the model (JSON values by name): versions, training, metrics.
        runtime: ``"keras"``, ``"litert"`` or ``"auto"``.

    Raises:
        ConfigurationError: If the model's shapes do not fit the class names and the picture size.
        MissingDependencyError: If ``runtime="litert"`` and ai-edge-litert is not installed.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        *,
        calibration: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
        runtime: RuntimeChoice = "auto",
    ) -> None:
        from flowercnn.models.registry import check_shapes

        names = LabelEncoder(tuple(class_names)).class_names
        check_shapes(model, "model", preprocessing.image_size, len(names))
        if runtime not in ("auto", "keras", "litert"):
            raise ConfigurationError(f"runtime must be 'auto', 'keras' or 'litert'. Received: runtime={runtime!r}")
        if runtime == "litert":
            litert_interpreter()
        self._description = Description(names, preprocessing, dict(calibration or {}), dict(info or {}))
        self._network = Network(model, wanted=runtime)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, runtime: RuntimeChoice = "auto", max_pixels: int | None = None
    ) -> Predictor:
        """Return the predictor in a model file or an export. No code in the file is run.

        Args:
            path: A ``.keras`` or ``.h5`` file of `save`, or a ``.tflite`` or ``.onnx`` file of `export`.
            runtime: What computes. ``"litert"`` and ``"onnx"`` do so without importing TensorFlow. ``"auto"`` takes
                LiteRT if the file carries it and ai-edge-litert is installed, else Keras; and for exports what they
                are for.
            max_pixels: Larger pictures are refused before they are decoded; by default what the file says, and never
                more than that.

        Raises:
            ConfigurationError: If ``runtime`` is none of these, or ``max_pixels`` is not a positive int.
            MissingDependencyError: If the runtime asked for is not installed.
            ModelFileError: If the file cannot be read, is not one of this library, is not safe to load, or does not
                hold the network for the runtime asked for.

        Example:
            >>> path = predictor.save("model.keras")
            >>> Predictor.load(path).class_names == predictor.class_names
            True
        """
        if runtime not in get_args(RuntimeChoice):
            raise ConfigurationError(
                f"runtime must be one of {', '.join(get_args(RuntimeChoice))}. Received: runtime={runtime!r}"
            )
        where = Path(path)
        if where.suffix in (".tflite", ".onnx"):
            description, computes = read_export(where)
            if runtime not in ("auto", computes.name):
                raise ModelFileError(
                    f"{where}: holds no network for runtime={runtime!r}, only for {computes.name!r}."
                )
            return cls._of(_limited(description, max_pixels), Network(runtime=computes))
        file = read_model(where)
        return cls._of(_limited(file.description, max_pixels), Network.of_file(file, runtime))

    @classmethod
    def _of(cls, description: Description, network: Network) -> Predictor:
        predictor = cls.__new__(cls)
        predictor._description = description  # noqa: SLF001 - its own
        predictor._network = network  # noqa: SLF001
        return predictor

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Predictor({len(self.class_names)} classes, pictures {height} x {width})"

    @property
    def model(self) -> Any:
        """The Keras model: (n, height, width, 3) pixels 0-255 in, (n, num_classes) probabilities out.

        Raises:
            ModelFileError: If this is an export for another runtime, or the file's weights cannot be used.
        """
        return self._network.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self._description.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become pixels."""
        return self._description.preprocessing

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model sees."""
        return self._description.preprocessing.image_size

    @property
    def calibration(self) -> dict[str, Any]:
        """What evaluation has found out about the probabilities; empty if nothing."""
        return dict(self._description.calibration)

    @property
    def info(self) -> dict[str, Any]:
        """What was kept with the model: versions, training, metrics."""
        return dict(self._description.info)

    @property
    def runtime(self) -> RuntimeName:
        """What computes: ``"keras"``, ``"litert"`` or ``"onnx"``."""
        return self._network.runtime.name

    def with_info(self, **info: Any) -> Predictor:
        """Return the same classifier with more kept beside it (JSON values)."""
        return self._of(replace(self._description, info={**self._description.info, **info}), self._network)

    def with_calibration(self, **calibration: Any) -> Predictor:
        """Return the same classifier with more known about its probabilities (JSON values)."""
        known = {**self._description.calibration, **calibration}
        return self._of(replace(self._description, calibration=known), self._network)

    def predict_one(self, image: PredictInput, *, tta: bool = False) -> Prediction:
        """Return the prediction for one picture; a picture that cannot be used is one with ``error`` set.

        Args:
            image: Anything `Sample.image` takes, an ``http`` or ``https`` URL, or an open file.
            tta: Whether to average over the picture and its mirror image; takes twice the time.

        Raises:
            ConfigurationError: If ``image`` is not one picture.

        Example:
            >>> predictor.predict_one(picture).label in predictor.class_names
            True
        """
        pairs = list(islice(keyed_pictures(image), 2))
        if len(pairs) != 1:
            found = "several" if pairs else "none"
            raise ConfigurationError(f"image must be one picture. Received: {found}; give several to predict().")
        (key, picture) = pairs[0]
        return self._predictions([key], list(self.preprocessing.decode_each([picture])), tta=tta)[0]

    def predict(self, images: PredictInput, *, tta: bool = False) -> list[Prediction]:
        """Return one prediction per picture, in order; bad pictures are records with ``error``, never an abort.

        Args:
            images: Anything `predict_one` takes, a `Dataset` or source, a folder or archive (with all pictures in
                it), a pattern such as ``"photos/**/*.jpg"``, or an iterable of those.
            tta: As in `predict_one`.

        Raises:
            ConfigurationError: If something is neither a picture nor holds pictures.
            SourceError: If a folder, archive or source cannot be listed, or nothing fits a pattern.
        """
        return list(self.predict_iter(images, tta=tta))

    def predict_iter(self, images: PredictInput, *, tta: bool = False) -> Iterator[Prediction]:
        """Yield one prediction per picture as `predict` does, in bounded memory however many there are.

        Pictures are decoded ahead in threads and computed in batches. For a camera, where each answer is wanted at
        once, call `predict_one` per frame.
        """
        keys: deque[str] = deque()

        def pictures() -> Iterator[ImageInput]:
            for key, image in keyed_pictures(images):
                keys.append(key)
                yield image

        decoded = self.preprocessing.decode_each(pictures())
        while batch := list(islice(decoded, self._network.runtime.batch)):
            yield from self._predictions([keys.popleft() for _ in batch], batch, tta=tta)

    def predict_proba(self, array: npt.NDArray[Any], *, tta: bool = False) -> npt.NDArray[np.float32]:
        """Return the probabilities for pictures that have the model's size already.

        Args:
            array: Shape (n, height, width, 3), uint8 or float, values 0-255.
            tta: As in `predict_one`.

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
        batch = self._network.runtime.batch
        parts = [self._probabilities(pixels[i : i + batch], tta=tta) for i in range(0, len(pixels), batch)]
        return np.concatenate([np.empty((0, len(self.class_names)), np.float32), *parts])

    def save(self, path: str | os.PathLike[str], *, light: bool = True) -> Path:
        """Write the model with class names, preprocessing and calibration to one file, whole or not at all.

        Args:
            path: Ends in ``.keras``, or in ``.h5`` for the older format of Keras.
            light: Whether a ``.keras`` file also carries the network for LiteRT, where ai-edge-litert is installed.
                It doubles the size of the file and lets it predict without TensorFlow.

        Returns:
            The path.

        Raises:
            ModelFileError: If the suffix is another, the model has layers that are not Keras's own or weights that
                are not finite, or the file cannot be written.
        """
        wanted = light and Path(path).suffix == ".keras"
        copy = self._network.light if wanted else None
        return write_model(path, self.model, self._description, litert=copy)

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
        (``model.tflite.json``). Whatever fails, what was at ``path`` before stays and no file is left.

        Args:
            path: The file, or the folder of a SavedModel.
            format: ``"keras"``, ``"h5"``, ``"saved_model"`` (a folder), ``"litert"``, ``"litert-int8"`` or
                ``"onnx"``; by default what the suffix says (``.keras``, ``.h5``, ``.tflite``, ``.onnx``).
            images: Pictures to prove it on, as for `predict`; by default flowers that the library draws.
                ``"litert-int8"`` needs some dozens of training pictures: every second one sets the ranges of the
                numbers, the others prove the result.
            min_agreement: Share of those pictures that must get the same label, 0-1; by default 1, and 0.97 for
                ``"litert-int8"``. Probabilities may differ by 1e-4 at most, except for ``"litert-int8"``.

        Returns:
            The path and what was measured.

        Raises:
            ConfigurationError: If the format is not one of these, or pictures are missing.
            MissingDependencyError: If the format needs a package that is not installed.
            ModelFileError: If the network cannot be written in this format, or the copy answers otherwise.
        """
        from flowercnn.prediction.exports import export

        return export(self, self._description, path, format, images=images, min_agreement=min_agreement)

    def _predictions(
        self, keys: Sequence[str], decoded: Sequence[npt.NDArray[np.uint8] | ImageError], *, tta: bool
    ) -> list[Prediction]:
        usable = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
        rows = iter(self._probabilities(np.stack(usable), tta=tta) if usable else ())
        return [
            Prediction.failed(key, self.class_names, str(pixels))
            if isinstance(pixels, ImageError)
            else Prediction.of(key, self.class_names, next(rows))
            for key, pixels in zip(keys, decoded, strict=True)
        ]

    def _probabilities(self, pixels: npt.NDArray[Any], *, tta: bool) -> npt.NDArray[np.float32]:
        """Probabilities of one batch."""
        compute = self._network.runtime
        if not tta:
            return compute(pixels)
        average: npt.NDArray[np.float32] = np.mean(
            [compute(pixels), compute(pixels[:, :, ::-1])], axis=0, dtype=np.float32
        )
        return average


def _limited(description: Description, max_pixels: int | None) -> Description:
    if max_pixels is None:
        return description
    limited = description.preprocessing.replace(max_pixels=max_pixels)
    if max_pixels > description.preprocessing.max_pixels:
        return description
    return replace(description, preprocessing=limited)
