"""Contract checks of a network, with a sentence to its author for each problem."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from flowercnn.errors import FlowerCNNError
from flowercnn.models import build_model, copy_model, import_keras, renew_constants, seeded_weights
from flowercnn.saving import check_network

__all__ = ["check_model", "model_problems"]

_IMAGES: Final = 6
_CLOSE: Final = 1e-4
_CLOSE_IN_HALF: Final = 5e-3  # of a sum in float16 or bfloat16
_SAME: Final = 1e-6
_MAJORITY: Final = 3  # of five random initialisations
_TINY: Final = 1e-38
# Standard deviation of the logits of new networks: 0.1-1.5 with rescaling inside, 4-50 without.
_STRONG: Final = 2.5
_WEAK: Final = 0.5
_OTHER_PREDICTIONS: Final = (
    "gives other predictions: a layer has state besides its weights and config."
)
_RESCALING: Final = "keras.layers.Rescaling(1 / 255)"

Pixels: TypeAlias = npt.NDArray[np.float32]
Size: TypeAlias = tuple[int, int]


def check_model(
    model: Any,
    *,
    image_size: tuple[int, int] = (64, 64),
    num_classes: int = 3,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check that a network keeps the contract of a model.

    Checks:

    - It is a functional or sequential Keras model from (n, height, width, 3) to (n, num_classes).
    - It takes pixels 0-255, uint8 or float, and returns finite probabilities with row sums of 1.
    - Rescaling is inside: untrained, it is not almost certain of its predictions at pixels 0-255.
    - The prediction for an image depends neither on the rest of the batch nor on chance.
    - A training step works: the loss is finite and every trainable weight has a gradient.
    - It has stock layers only, and is unchanged by copying, and by saving and loading.

    Args:
        model: A function ``(image_size, num_classes, **options)``, a registered name, or a Keras
            model.
        image_size: (height, width) to build it for; ignored for a Keras model.
        num_classes: Number of classes to build it for; ignored for a Keras model.
        options: Arguments of the function or name.

    Raises:
        AssertionError: If the network breaks the contract, with a sentence for each problem.

    Example:
        >>> check_model("fast")
    """
    problems = model_problems(
        model, image_size=image_size, num_classes=num_classes, options=options
    )
    if problems:
        own_name = getattr(model, "name", getattr(model, "__name__", repr(model)))
        name = model if isinstance(model, str) else own_name
        title = f"{name} does not keep the contract of a model:"
        raise AssertionError("\n- ".join([title, *problems]))


def model_problems(
    model: Any,
    *,
    image_size: tuple[int, int] = (64, 64),
    num_classes: int = 3,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the problems of a network, a sentence each; see `check_model`."""
    keras = import_keras()
    if isinstance(model, keras.Model):
        built = model
    else:
        try:
            built = _build(model, image_size, num_classes, dict(options or {}))
        except FlowerCNNError as error:
            return [str(error)]
        except Exception as error:  # noqa: BLE001 - a sentence, whatever the author's code raises
            return [f"Building it fails: {_described(error)}"]
        if not isinstance(built, keras.Model):
            return [f"The function must return a Keras model. It returns {type(built).__name__}."]
    requested = None if built is model else (image_size, num_classes)
    return _shape_problems(built, requested) or _behaviour(built)


def _build(model: Any, image_size: Size, num_classes: int, options: dict[str, Any]) -> Any:
    if isinstance(model, str):
        return build_model(model, image_size=image_size, num_classes=num_classes, **options)
    with seeded_weights(0):
        return model(image_size, num_classes, **options)


def _shape_problems(model: Any, requested: tuple[Size, int] | None) -> list[str]:
    keras = import_keras()
    problems = []
    if not isinstance(model, keras.Sequential) and type(model).__name__ != "Functional":
        use = "Use keras.Sequential or keras.Model(inputs, outputs)."
        return [f"It is a {type(model).__name__}: model files contain no code. {use}"]
    if not model.built or len(model.inputs) != 1 or len(model.outputs) != 1:
        begin = "begin with keras.Input((height, width, 3))"
        return [f"It must be built, with one input and one output: {begin}."]
    inputs, outputs = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(inputs) != 4 or inputs[0] is not None or inputs[3] != 3:  # noqa: PLR2004 - RGB images
        problems.append(f"Its input must have the shape (None, height, width, 3). It has {inputs}.")
    elif requested is not None and inputs[1:3] != tuple(requested[0]):
        mismatch = f"Built for images of {requested[0]}, it takes {inputs[1:3]}"
        problems.append(f"{mismatch}: use the argument image_size.")
    if len(outputs) != 2 or outputs[0] is not None:  # noqa: PLR2004 - (n, num_classes)
        mismatch = f"Its output must have the shape (None, num_classes). It has {outputs}"
        problems.append(f"{mismatch}: flatten or pool before the last layer.")
    elif requested is not None and outputs[1] != requested[1]:
        mismatch = f"Built for {requested[1]} classes, it has {outputs[1]} outputs"
        problems.append(f"{mismatch}: use the argument num_classes.")
    elif outputs[1] == 1:
        problems.append("It has one output. Two classes are two outputs with softmax.")
    return problems


def _behaviour(model: Any) -> list[str]:
    pixels = _random_images(model)
    try:
        rows = _compute(model, pixels)
    except Exception as error:  # noqa: BLE001 - a sentence, whatever the author's layers raise
        return [f"It cannot compute pixels 0-255 (float32): {_described(error)}"]
    if not np.isfinite(rows).all():
        return [f"At pixels 0-255 it returns NaN or infinite values. Begin with {_RESCALING}."]
    is_single = model.outputs[0].dtype == "float32"
    problems = _probability_problems(rows, _CLOSE if is_single else _CLOSE_IN_HALF)
    if not problems and _is_saturated(model, pixels):
        problems.append(
            "At pixels 0-255 it is almost certain of its predictions before training. It seems to "
            f"expect pixels that were rescaled outside: begin with {_RESCALING}."
        )
    checks = (_chance_problem, _batch_problem, _step_problem, _copy_problem, _saving_problem)
    return [*problems, *filter(None, (check(model, pixels) for check in checks))]


def _random_images(model: Any) -> Pixels:
    """Images that differ in brightness, colour and texture, 0-255."""
    height, width = (side or 64 for side in model.inputs[0].shape[1:3])
    random = np.random.default_rng(0)
    colours = random.uniform(40, 215, (_IMAGES, 1, 1, 3))
    noise = random.normal(0, 30, (_IMAGES, height, width, 3))
    return np.clip(colours + noise, 0, 255).round().astype(np.float32)


def _compute(model: Any, pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(model(pixels, training=False), dtype=np.float64)


def _probability_problems(rows: npt.NDArray[np.float64], close: float) -> list[str]:
    if (rows < 0).any() or (rows > 1 + close).any():
        problem = (
            f"Its outputs are no probabilities but {rows.min():.3g} to {rows.max():.3g} (logits?)"
        )
        return [f"{problem}. End with activation='softmax'."]
    sums = rows.sum(axis=1)
    if np.abs(sums - 1).max() > close:
        problem = (
            f"The probabilities of an image add up to {sums.min():.6g} to {sums.max():.6g}, not 1"
        )
        return [f"{problem}. End with activation='softmax'."]
    return []


def _is_saturated(model: Any, pixels: Pixels) -> bool:
    """Return whether the network is almost certain of its predictions with most initial weights.

    Several draws are needed, as one says little and a trained network is often certain.
    """
    try:
        own = _strength(model, pixels)
        if own < _WEAK:
            return False
        strong = [own > _STRONG]
        while max(strong.count(True), strong.count(False)) < _MAJORITY:
            strong.append(_strength(_with_new_weights(model, len(strong)), pixels) > _STRONG)
    except Exception:  # noqa: BLE001 - other checks report what cannot be trained
        return False
    return strong.count(True) == _MAJORITY


def _strength(model: Any, pixels: Pixels) -> float:
    """Return the typical standard deviation of an image's logits.

    It is the lower of training and prediction, as batch normalisation can replace rescaling, but
    before training only in training mode.
    """
    spread = _spread(_compute(model, pixels))
    if spread < _WEAK:
        return spread
    weights = model.get_weights()  # batch normalisation changes in training mode
    try:
        return min(spread, _spread(np.asarray(model(pixels, training=True), dtype=np.float64)))
    finally:
        model.set_weights(weights)


def _spread(rows: npt.NDArray[np.float64]) -> float:
    return float(np.median(np.log(np.maximum(rows, _TINY)).std(axis=1)))


def _with_new_weights(model: Any, seed: int) -> Any:
    """A copy with new initial weights, except non-trainable ones (an adapted Normalization)."""
    with seeded_weights(seed):
        copy = import_keras().models.clone_model(model)
    for weight, new in zip(model.weights, copy.weights, strict=True):
        if not weight.trainable:
            new.assign(weight)
    renew_constants(copy)
    return copy


def _chance_problem(model: Any, pixels: Pixels) -> str | None:
    if np.abs(_compute(model, pixels) - _compute(model, pixels)).max() <= _SAME:
        return None
    return (
        "The same image gives other predictions each time. "
        "Random layers must be inactive unless training=True."
    )


def _batch_problem(model: Any, pixels: Pixels) -> str | None:
    together = _compute(model, pixels)
    try:
        alone = np.concatenate([_compute(model, pixels[i : i + 1]) for i in range(len(pixels))])
    except Exception as error:  # noqa: BLE001 - see above
        return f"It cannot compute one image alone: {_described(error)}"
    difference = np.abs(together - alone).max()
    if difference <= _CLOSE:
        return None
    return (
        f"The prediction for an image depends on the rest of its batch (probabilities differ by "
        f"{difference:.2g}). Use no batch statistics outside BatchNormalization."
    )


def _step_problem(model: Any, pixels: Pixels) -> str | None:
    import tensorflow as tf

    labels = np.arange(len(pixels)) % model.outputs[0].shape[1]
    cross_entropy = import_keras().losses.sparse_categorical_crossentropy
    weights = model.get_weights()  # batch normalisation changes in training mode
    try:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(labels, model(pixels, training=True)))
        gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    except Exception as error:  # noqa: BLE001 - see above
        return f"It cannot be trained: {_described(error)}"
    finally:
        model.set_weights(weights)
    pairs = list(zip(model.trainable_weights, gradients, strict=True))
    dead = ", ".join(weight.path for weight, gradient in pairs if gradient is None)
    if dead:
        return f"These weights have no influence on the output and cannot learn: {dead}."
    bad = [weight.path for weight, gradient in pairs if not np.isfinite(np.asarray(gradient)).all()]
    if bad or not np.isfinite(float(loss)):
        outcome = f"a loss of {float(loss):.3g} and gradients that are not finite: {', '.join(bad)}"
        return f"A training step gives {outcome}."
    return None


def _copy_problem(model: Any, pixels: Pixels) -> str | None:
    try:
        copy = copy_model(model)
    except FlowerCNNError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - get_config is the author's
        return None  # reported by `_saving_problem`
    if np.abs(_compute(model, pixels) - _compute(copy, pixels)).max() <= _SAME:
        return None
    return f"A copy of it, as made for training and saving, {_OTHER_PREDICTIONS}"


def _saving_problem(model: Any, pixels: Pixels) -> str | None:
    keras = import_keras()
    try:
        check_network(json.loads(model.to_json()), "It")
    except FlowerCNNError as error:
        return (
            f"{error} It can be trained and used, but not saved: model files contain stock Keras "
            "layers only, so that loading one runs no code."
        )
    except Exception as error:  # noqa: BLE001 - get_config is the author's
        return f"It cannot be described for saving: {_described(error)}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            loaded = keras.saving.load_model(path, compile=False)
        except Exception as error:  # noqa: BLE001 - see above
            return f"It cannot be saved and loaded: {_described(error)}"
    if np.abs(_compute(model, pixels) - _compute(loaded, pixels)).max() > _SAME:
        return f"After saving and loading it {_OTHER_PREDICTIONS}"
    return None


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
