"""Calibration of a classifier on validation images."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_instance, check_share
from flowercnn.data import Dataset, LabelEncoder, as_dataset
from flowercnn.errors import ConfigurationError, SplitError, few
from flowercnn.models import feature_map_layers, no_feature_maps, output_shapes
from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.conformal import nonconformity_scores
from flowercnn.prediction.out_of_distribution import OutOfDistributionDetector
from flowercnn.prediction.predictor import Predictor
from flowercnn.prediction.temperature import divide_logits, fit_temperature, logits_layer
from flowercnn.preprocessing import BadImages
from flowercnn.runtimes import KerasRuntime
from flowercnn.sources import DataSource

__all__ = ["calibrate"]

_FEWEST = 20  # validation images for a temperature; with fewer it is noise


def calibrate(
    predictor: Predictor,
    train: Dataset | DataSource | str | os.PathLike[str],
    val: Dataset | DataSource | str | os.PathLike[str],
    *,
    false_alarms: float = 0.05,
    bad_images: BadImages = "error",
    progress: bool = True,
) -> Predictor:
    """Calibration: return the classifier with temperature, prediction sets and unknown images.

    - Temperature scaling: the last layer is divided by the number that makes the probabilities of
      ``val`` fit best, so that every prediction and export has it. This takes a network that ends
      in ``Dense`` and softmax and 20 images; otherwise `Calibration.reason` says what is missing.
    - Conformal prediction sets: `Predictor.predict_set` returns sets of any coverage.
    - Out-of-distribution detection: `Predictor.predict` returns ``label=None`` with a ``reason``
      for images farther from ``train`` than all but the share ``false_alarms`` of ``val``. With
      fewer than ``1 / false_alarms - 1`` images in ``val`` no image is unknown. This takes a
      network with feature maps; otherwise `Calibration.reason` says so.

    Args:
        predictor: A trained classifier; not changed.
        train: What it was trained on: a data set, a source, or a path or URI of one.
        val: Images of the same kind that it has not learned from, likewise.
        false_alarms: The share of in-distribution images that may be called unknown, from 0 (none)
            to below 1.
        bad_images: ``"error"`` or ``"skip"``, for images that cannot be decoded.
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: If ``predictor``, ``train`` or ``val`` is something else, a part is
            empty, or ``false_alarms`` out of range.
        SplitError: If a key is in both ``train`` and ``val``.
        UnknownNameError: If there are images of a class the classifier does not know.
        ImageError: If images cannot be decoded.
    """
    check_instance("predictor", predictor, Predictor, "load one with Predictor.load(path)")
    check_share("false_alarms", false_alarms)
    train = _nonempty("train", train)
    val = _nonempty("val", val)
    shared = sorted(set(train.keys) & set(val.keys))
    if shared:  # it is more confident on images it has learned from
        both = f"{len(shared)} samples are in both train and val: {few(shared)}"
        raise SplitError(f"{both}. Make both with Dataset.split.")
    model = predictor.model
    layers = feature_map_layers(model)
    answers = _compute(predictor, val, layers, bad_images=bad_images, progress=progress)
    calibrated, temperature, reason = _scale(predictor, answers)
    if reason is None:
        answers = _compute(calibrated, val, layers, bad_images=bad_images, progress=False)
    reasons = [] if reason is None else [reason]
    detector = None
    if layers:
        learned = _compute(predictor, train, layers, bad_images=bad_images, progress=progress)
        shapes = output_shapes(model)
        sizes = {name: int(shapes[name][-1]) for name in layers}
        detector = OutOfDistributionDetector.fit(sizes, learned.features, answers.features)
    else:
        reasons.append(f"no image is called unknown: {no_feature_maps(model)}.")
    of_truth = answers.y_prob[np.arange(len(answers.y_true)), answers.y_true]
    calibration = Calibration(
        temperature=temperature,
        applied=reason is None,
        reason=" Also, ".join(reasons) or None,
        set_scores=nonconformity_scores(of_truth),
        detector=detector,
        false_alarms=false_alarms,
    )
    return calibrated.with_calibration(calibration)


class _Answers(NamedTuple):
    """Labels (n,), probabilities (n, num_classes), mean activations (n, features)."""

    y_true: npt.NDArray[np.int64]
    y_prob: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


def _nonempty(name: str, part: Dataset | DataSource | str | os.PathLike[str]) -> Dataset:
    dataset = as_dataset(part)
    if not len(dataset):
        rule = f"{name} must have images: calibration is fitted on them"
        raise ConfigurationError(f"{rule}. Received: none")
    return dataset


def _compute(
    predictor: Predictor,
    dataset: Dataset,
    layers: tuple[str, ...],
    *,
    bad_images: BadImages,
    progress: bool,
) -> _Answers:
    loaded = dataset.load(predictor.preprocessing, bad_images=bad_images, progress=progress)
    names = [dataset.samples[index].label or "" for index in loaded.kept]
    labels = LabelEncoder(predictor.class_names).encode(names)
    runtime = KerasRuntime(predictor.model, layers)
    pixels = loaded.pixels
    size = runtime.batch
    starts = range(0, len(pixels), size)
    batches = (pixels.take(range(start, min(start + size, len(pixels)))) for start in starts)
    probabilities, features = zip(*map(runtime.with_features, batches), strict=True)
    return _Answers(labels, np.concatenate(probabilities), np.concatenate(features))


def _scale(predictor: Predictor, answers: _Answers) -> tuple[Predictor, float, str | None]:
    """Return the classifier with scaled logits, the temperature, and a reason if not scaled."""
    count = len(answers.y_true)
    model = predictor.model
    layer = logits_layer(model)
    temperature = 1.0
    reason = None
    if count < _FEWEST:
        reason = f"there are {count} validation images, fewer than {_FEWEST}."
    elif layer is None:
        reason = "the network does not end in Dense and softmax."
    else:
        temperature = fit_temperature(answers.y_true, answers.y_prob)
        model = divide_logits(model, layer, temperature)
    scaled = Predictor(model, predictor.class_names, predictor.preprocessing, info=predictor.info)
    return scaled, temperature, reason
