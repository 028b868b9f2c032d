"""Evaluating a classifier on a data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_choice, tracked
from flowercnn.data import Dataset, LabelEncoder
from flowercnn.errors import ConfigurationError, DataError, ImageError, few
from flowercnn.evaluation.evaluation import Evaluation
from flowercnn.preprocessing import BadImages, Preprocessing

__all__ = ["Classifier", "evaluate"]

_log = logging.getLogger(__name__)


class _Answer(Protocol):
    """Prediction for one image: probabilities, or the error that it could not be decoded for."""

    @property
    def key(self) -> str: ...
    @property
    def probabilities(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def error(self) -> str | None: ...


class _Calibration(Protocol):
    """Calibration, as far as a report shows it."""

    def summary(self) -> Any: ...


class Classifier(Protocol):
    """Classifier that can be evaluated, such as a `flowercnn.Predictor`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        ...

    @property
    def info(self) -> Mapping[str, Any]:
        """Metadata kept with the model."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the images."""
        ...

    @property
    def calibration(self) -> _Calibration | None:
        """Calibration, or ``None``."""
        ...

    def predict_iter(self, inputs: Dataset, /) -> Iterator[_Answer]:
        """Yield one prediction per sample."""
        ...


def evaluate(
    predictor: Classifier, dataset: Dataset, *, bad_images: BadImages = "error", progress: bool = True
) -> Evaluation:
    """Predict every picture of a data set and compare with the truth.

    Classes are matched by name, so the data set may have them in another order or only some of them. A warning is
    logged if the data set is the one that `train` has trained the classifier on.

    Args:
        predictor: The classifier.
        dataset: Pictures it has not learned from.
        bad_images: ``"error"`` or ``"skip"``: what to do about pictures that cannot be decoded.
        progress: Whether to show a progress bar.

    Raises:
        ConfigurationError: If an argument is not what it must be.
        DataError: If the data set is empty.
        UnknownNameError: If it has pictures of a class the classifier does not know.
        ImageError: If pictures cannot be decoded (all are named), or all were to be skipped.
    """
    _check_arguments(predictor, dataset, bad_images)
    _warn_if_learned(predictor.info, dataset)
    encoder = LabelEncoder(predictor.class_names)
    truth = encoder.encode([sample.label or "" for sample in dataset.samples])
    stream = predictor.predict_iter(dataset)
    predictions = list(tracked(stream, total=len(dataset), description="Predicting", unit="img", enabled=progress))
    failed = [prediction for prediction in predictions if prediction.error is not None]
    if failed and (bad_images == "error" or len(failed) == len(predictions)):
        raise ImageError(
            f"{len(failed)} of {len(dataset)} pictures cannot be used: "
            f"{few([f'{prediction.key}: {prediction.error}' for prediction in failed])} "
            "Replace or remove them, or leave them out with bad_images='skip'."
        )
    rows = [(index, each.probabilities) for index, each in enumerate(predictions) if each.probabilities is not None]
    return Evaluation(
        class_names=predictor.class_names,
        keys=tuple(predictions[index].key for index, _ in rows),
        y_true=truth[[index for index, _ in rows]],
        y_prob=np.stack([probabilities for _, probabilities in rows]),
        skipped=tuple(prediction.key for prediction in failed),
        refused=tuple(prediction.key for prediction in predictions if prediction.reason is not None),
        samples=tuple(dataset.samples[index] for index, _ in rows),
        info={
            **predictor.info,
            "preprocessing": predictor.preprocessing.to_dict(),
            "calibration": None if predictor.calibration is None else predictor.calibration.summary(),
        },
    )


def _check_arguments(predictor: object, dataset: object, bad_images: object) -> None:
    check_choice("bad_images", bad_images, get_args(BadImages))
    if not hasattr(predictor, "predict_iter"):  # a layer above defines its class
        raise ConfigurationError(
            "predictor must be a flowercnn.Predictor; load one with Predictor.load(path), or make one of a Keras "
            f"model with Predictor(model, class_names, preprocessing). Received: {type(predictor).__name__}"
        )
    if not isinstance(dataset, Dataset):
        raise ConfigurationError(
            "dataset must be a flowercnn.Dataset; make one with Dataset.from_source(source). "
            f"Received: {type(dataset).__name__}"
        )
    if not len(dataset):
        raise DataError("There is nothing to evaluate on: the data set is empty.")


def _warn_if_learned(info: Mapping[str, Any], dataset: Dataset) -> None:
    known = info.get("fingerprints")
    if isinstance(known, Mapping) and known.get("train") == dataset.fingerprint():
        _log.warning(
            "The classifier has learned from these pictures: the figures say nothing about others. Evaluate on "
            "pictures it has not seen, such as run.splits.test."
        )
