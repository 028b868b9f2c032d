"""Evaluation of a classifier on a data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_choice, tracked
from flowercnn.data import Dataset, LabelEncoder, as_dataset
from flowercnn.errors import ConfigurationError, DataError, unusable
from flowercnn.evaluation.evaluation import Evaluation
from flowercnn.preprocessing import BadImages, Preprocessing
from flowercnn.sources import DataSource

__all__ = ["evaluate"]

_log = logging.getLogger(__name__)


class _Prediction(Protocol):
    """Prediction of one image: probabilities, or the error it could not be decoded for."""

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


class _Classifier(Protocol):
    """Classifier that can be evaluated, such as a `flowercnn.Predictor`."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def info(self) -> Mapping[str, Any]: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def calibration(self) -> _Calibration | None: ...
    def predict_iter(self, inputs: Dataset, /) -> Iterator[_Prediction]: ...


def evaluate(
    predictor: _Classifier,
    dataset: Dataset | DataSource | str | os.PathLike[str],
    *,
    bad_images: BadImages = "error",
    progress: bool = True,
) -> Evaluation:
    """Evaluate a classifier on a data set.

    Classes are matched by name, so the data set may have them in another order or only some of
    them. A warning is logged if `train` trained the classifier on this data set.

    Args:
        predictor: The classifier.
        dataset: Images it was not trained on: a data set, a source, a path or a URI.
        bad_images: ``"error"`` or ``"skip"`` images that cannot be decoded.
        progress: Whether to show a progress bar.

    Raises:
        ConfigurationError: If an argument is invalid.
        SourceError: If a path or a source cannot be read.
        DataError: If the data set is empty.
        UnknownNameError: If it has images of a class the classifier does not have.
        ImageError: If images cannot be decoded (all are named), or none is left after skipping.
    """
    check_choice("bad_images", bad_images, get_args(BadImages))
    if not hasattr(predictor, "predict_iter"):  # a layer above defines its class
        raise ConfigurationError(
            "predictor must be a flowercnn.Predictor; load one with Predictor.load(path), or wrap "
            "a Keras model with Predictor(model, class_names, preprocessing). "
            f"Received: {type(predictor).__name__}"
        )
    data = as_dataset(dataset)
    if not len(data):
        raise DataError("There is nothing to evaluate on: the data set is empty.")
    _warn_if_trained_on(predictor.info, data)
    labels = LabelEncoder(predictor.class_names).encode([each.label or "" for each in data.samples])
    stream = predictor.predict_iter(data)
    predictions = list(
        tracked(stream, total=len(data), description="Predicting", unit="img", enabled=progress)
    )
    errors = {each.key: each.error for each in predictions if each.error is not None}
    if errors and (bad_images == "error" or len(errors) == len(predictions)):
        raise unusable(errors, len(data))
    rows = [(i, p.probabilities) for i, p in enumerate(predictions) if p.probabilities is not None]
    calibration = predictor.calibration
    return Evaluation(
        class_names=predictor.class_names,
        keys=tuple(predictions[index].key for index, _ in rows),
        y_true=labels[[index for index, _ in rows]],
        y_prob=np.stack([probabilities for _, probabilities in rows]),
        skipped=tuple(errors),
        refused=tuple(each.key for each in predictions if each.reason is not None),
        samples=tuple(data.samples[index] for index, _ in rows),
        info={
            **predictor.info,
            "preprocessing": predictor.preprocessing.to_dict(),
            "calibration": None if calibration is None else calibration.summary(),
        },
    )


def _warn_if_trained_on(info: Mapping[str, Any], dataset: Dataset) -> None:
    fingerprints = info.get("fingerprints")
    if isinstance(fingerprints, Mapping) and fingerprints.get("train") == dataset.fingerprint():
        _log.warning(
            "The classifier was trained on these images: the metrics say nothing about others. "
            "Evaluate on images it was not trained on, such as run.splits.test."
        )
