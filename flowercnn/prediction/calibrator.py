"""Fits a classifier's calibration on validation pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flowercnn.data import Dataset, LabelEncoder
from flowercnn.errors import ConfigurationError, SplitError, few
from flowercnn.models import copy_model, feature_map_layers, import_keras, no_feature_maps, output_shapes
from flowercnn.prediction.calibration import Calibration, Familiarity, check_share, fit_temperature, scores_of_truth
from flowercnn.prediction.predictor import Predictor
from flowercnn.preprocessing import BadImages

__all__ = ["calibrate"]

_FEWEST = 20  # validation pictures for a temperature; with fewer it is noise


def calibrate(
    predictor: Predictor,
    train: Dataset,
    val: Dataset,
    *,
    false_alarms: float = 0.05,
    bad_images: BadImages = "error",
    progress: bool = True,
) -> Predictor:
    """Return the classifier with calibrated probabilities, prediction sets and "I don't know".

    - Temperature: the last layer is divided by one number that makes the probabilities of ``val`` fit best, so every
      prediction and export has it. This takes a network that ends in ``Dense`` and softmax and 20 pictures; else
      `Calibration.reason` says what is missing.
    - `Predictor.predict_set` can then be asked for sets of any coverage.
    - `Predictor.predict` gives ``label=None`` with a ``reason`` for pictures less like ``train`` than all but the
      share ``false_alarms`` of ``val``. Fewer than ``1 / false_alarms - 1`` pictures in ``val`` refuse nothing. This
      takes a network with feature maps; else `Calibration.reason` says so.

    Args:
        predictor: A trained classifier; not changed.
        train: What it was trained on.
        val: Pictures it has not learned from, of the same kind.
        false_alarms: The share of known pictures that may be refused, 0 to below 1; 0 refuses none.
        bad_images: ``"error"`` or ``"skip"``: what to do about pictures that cannot be decoded.
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: If ``predictor``, ``train`` or ``val`` is something else, a part is empty, or
            ``false_alarms`` out of range.
        SplitError: If a key is in both ``train`` and ``val``.
        UnknownNameError: If there are pictures of a class the classifier does not know.
        ImageError: If pictures cannot be decoded.
    """
    check_share("false_alarms", false_alarms)
    _check_arguments(predictor, train, val)
    both = sorted(set(train.keys) & set(val.keys))
    if both:  # it is surer of pictures it has learned from
        raise SplitError(f"{len(both)} samples are in both train and val: {few(both)}. Make both with Dataset.split.")
    layers = feature_map_layers(predictor.model)
    y_true, y_prob, features = _outputs(predictor, val, layers, bad_images=bad_images, progress=progress)
    model, reasons = predictor.model, []
    temperature = 1.0
    if len(y_true) < _FEWEST:
        reasons.append(f"there are {len(y_true)} validation pictures, fewer than {_FEWEST}.")
    elif (logits := _last_dense(predictor.model)) is None:
        reasons.append("the network does not end in Dense and softmax.")
    else:
        temperature = fit_temperature(y_true, y_prob)
        model = _divided(predictor.model, logits, temperature)
    calibrated = Predictor(model, predictor.class_names, predictor.preprocessing, info=predictor.info)
    applied = not reasons
    if applied:
        y_true, y_prob, features = _outputs(calibrated, val, layers, bad_images=bad_images, progress=False)
    familiarity = None
    if layers:
        learned = _outputs(predictor, train, layers, bad_images=bad_images, progress=progress)[2]
        shapes = output_shapes(predictor.model)
        familiarity = Familiarity.fit({name: int(shapes[name][-1]) for name in layers}, learned, features)
    else:
        reasons.append(f"no picture is refused as unknown: {no_feature_maps(predictor.model)}.")
    calibration = Calibration(
        temperature=temperature,
        applied=applied,
        reason=" Also, ".join(reasons) or None,
        set_scores=scores_of_truth(y_prob[np.arange(len(y_true)), y_true]),
        familiarity=familiarity,
        false_alarms=false_alarms,
    )
    return calibrated.with_calibration(calibration)


def _check_arguments(predictor: Any, train: Any, val: Any) -> None:
    if not isinstance(predictor, Predictor):
        raise ConfigurationError(
            "predictor must be a flowercnn.Predictor; load one with Predictor.load(path). "
            f"Received: {type(predictor).__name__}"
        )
    for name, part in (("train", train), ("val", val)):
        if not isinstance(part, Dataset):
            raise ConfigurationError(
                f"{name} must be a flowercnn.Dataset; make one with Dataset.from_source(source). "
                f"Received: {type(part).__name__}"
            )
        if not len(part):
            raise ConfigurationError(f"{name} must have pictures: calibration is fitted on them. Received: none")


def _outputs(
    predictor: Predictor, dataset: Dataset, layers: tuple[str, ...], *, bad_images: BadImages, progress: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Labels, probabilities and mean activations of a data set."""
    loaded = dataset.load(predictor.preprocessing, bad_images=bad_images, progress=progress)
    encoder = LabelEncoder(predictor.class_names)
    labels = encoder.encode([dataset.samples[index].label or "" for index in loaded.kept])
    y_prob, features = predictor.outputs(loaded.pixels, layers)
    return labels, y_prob, features


def _last_dense(model: Any) -> str | None:
    """The name of the dense layer whose softmax is the model's output, if it ends so."""
    layers = import_keras().layers
    last = model.layers[-1]
    if type(last) is layers.Dense and getattr(last.activation, "__name__", "") == "softmax":
        return str(last.name)
    softmax = type(last) is layers.Softmax or (
        type(last) is layers.Activation and getattr(last.activation, "__name__", "") == "softmax"
    )
    if softmax and len(model.layers) > 1:
        before = model.layers[-2]
        linear = type(before) is layers.Dense and getattr(before.activation, "__name__", "") == "linear"
        if linear and last.input is before.output:
            return str(before.name)
    return None


def _divided(model: Any, layer: str, temperature: float) -> Any:
    """A copy of the model with the weights of one layer divided."""
    copy = copy_model(model)
    dense = copy.get_layer(layer)
    dense.set_weights([weights / temperature for weights in dense.get_weights()])
    return copy
