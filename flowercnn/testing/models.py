"""What a network must keep to, said in sentences to its author."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import FlowerCNNError
from flowercnn.models import build_model, copy_model, import_keras, renew_constants, seeded_weights
from flowercnn.saving import check_network

__all__ = ["check_model", "model_problems"]

_PICTURES: Final = 6
_CLOSE: Final = 1e-4
_CLOSE_IN_HALF: Final = 5e-3  # of a sum in float16 or bfloat16
_SAME: Final = 1e-6
_DIMENSIONS: Final = 4
_MAJORITY: Final = 3  # of five draws of first weights
_TINY: Final = 1e-38
_STRONG: Final = 2.5  # standard deviation of the logits of new networks: 0.1-1.5 with rescaling inside, 4-50 without
_WEAK: Final = 0.5


def check_model(
    model: Any,
    *,
    image_size: tuple[int, int] = (64, 64),
    num_classes: int = 3,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Raise an error that says everything that is wrong with a network of your own.

    What is checked:

    - It is a functional or sequential Keras model from (n, height, width, 3) to (n, num_classes).
    - It takes pixels 0-255, uint8 or float, and returns probabilities: finite, 0-1, each row with the sum 1.
    - Rescaling is inside: at pixels 0-255 it is not all but certain of an answer before it has learned anything.
    - The answer for a picture depends neither on the pictures beside it nor on chance.
    - It can be trained a step: the loss is finite and every trainable weight has a gradient.
    - It has stock layers only, and is the same as a copy, and after saving and loading.

    Args:
        model: A function ``(image_size, num_classes, **options)``, a registered name, or a Keras model.
        image_size: (height, width) to build it for; of a Keras model its own is taken.
        num_classes: To build it for; likewise.
        options: Of the function or name.

    Raises:
        AssertionError: If anything is wrong, with a sentence for each thing.

    Example:
        >>> check_model("fast")
    """
    problems = model_problems(model, image_size=image_size, num_classes=num_classes, options=options)
    if problems:
        name = model if isinstance(model, str) else getattr(model, "name", getattr(model, "__name__", repr(model)))
        raise AssertionError(
            f"{name} does not keep the contract of a model:\n" + "\n".join(f"- {problem}" for problem in problems)
        )


def model_problems(
    model: Any,
    *,
    image_size: tuple[int, int] = (64, 64),
    num_classes: int = 3,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what is wrong with a network, a sentence each; an empty list if nothing is. See `check_model`."""
    keras = import_keras()
    if isinstance(model, keras.Model):
        built = model
    else:
        try:
            built = _build(model, image_size, num_classes, dict(options or {}))
        except FlowerCNNError as error:
            return [str(error)]
        except Exception as error:  # noqa: BLE001 - whatever the author's code raises is said, not thrown
            return [f"Building it fails: {type(error).__name__}: {error}"]
        if not isinstance(built, keras.Model):
            return [f"The function must return a Keras model. It returns {type(built).__name__}."]
    return _shape_problems(built, None if built is model else (image_size, num_classes)) or _behaviour(built)


def _build(model: Any, image_size: tuple[int, int], num_classes: int, options: dict[str, Any]) -> Any:
    if isinstance(model, str):
        return build_model(model, image_size=image_size, num_classes=num_classes, **options)
    with seeded_weights(0):
        return model(image_size, num_classes, **options)


def _shape_problems(model: Any, asked: tuple[tuple[int, int], int] | None) -> list[str]:
    keras = import_keras()
    problems = []
    if not isinstance(model, keras.Sequential) and type(model).__name__ != "Functional":
        own = type(model).__name__
        return [f"It is a {own}: model files hold no code. Use keras.Sequential or keras.Model(inputs, outputs)."]
    if not model.built or len(model.inputs) != 1 or len(model.outputs) != 1:
        return ["It must be built, with one input and one output: begin with keras.Input((height, width, 3))."]
    inputs, outputs = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(inputs) != _DIMENSIONS or inputs[0] is not None or inputs[3] != 3:  # noqa: PLR2004 - red, green, blue
        problems.append(f"Its input must have the shape (None, height, width, 3). It has {inputs}.")
    elif asked is not None and inputs[1:3] != tuple(asked[0]):
        problems.append(f"Asked for pictures of {asked[0]}, it takes {inputs[1:3]}: use the argument image_size.")
    if len(outputs) != 2 or outputs[0] is not None:  # noqa: PLR2004 - (n, num_classes)
        problems.append(
            f"Its output must have the shape (None, num_classes). It has {outputs}: flatten or pool before "
            "the last layer."
        )
    elif asked is not None and outputs[1] != asked[1]:
        problems.append(f"Asked for {asked[1]} classes, it has {outputs[1]} outputs: use the argument num_classes.")
    elif outputs[1] == 1:
        problems.append("It has one output. Two classes are two outputs with softmax.")
    return problems


def _behaviour(model: Any) -> list[str]:
    pixels = _pictures(model)
    try:
        rows = _compute(model, pixels)
    except Exception as error:  # noqa: BLE001 - whatever the author's layers raise is said, not thrown
        return [f"It cannot compute pixels 0-255 (float32): {type(error).__name__}: {error}"]
    if not np.isfinite(rows).all():
        return ["At pixels 0-255 it returns NaN or infinite values. Begin with keras.layers.Rescaling(1 / 255)."]
    problems = _probability_problems(rows, _CLOSE if model.outputs[0].dtype == "float32" else _CLOSE_IN_HALF)
    if not problems and _is_saturated(model, pixels):
        problems.append(
            "At pixels 0-255 it is all but certain of an answer before it has learned anything. It seems to expect "
            "pixels that were rescaled outside: begin with keras.layers.Rescaling(1 / 255)."
        )
    checks: tuple[Callable[[Any, npt.NDArray[np.float32]], str | None], ...] = (
        _chance_problem,
        _batch_problem,
        _step_problem,
        _copy_problem,
        _saving_problem,
    )
    problems.extend(problem for check in checks if (problem := check(model, pixels)) is not None)
    return problems


def _pictures(model: Any) -> npt.NDArray[np.float32]:
    """Pictures that differ in brightness, colour and texture, 0-255."""
    height, width = (side or 64 for side in model.inputs[0].shape[1:3])
    random = np.random.default_rng(0)
    colours = random.uniform(40, 215, (_PICTURES, 1, 1, 3))
    noise = random.normal(0, 30, (_PICTURES, height, width, 3))
    return np.clip(colours + noise, 0, 255).round().astype(np.float32)


def _compute(model: Any, pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(model(pixels, training=False), dtype=np.float64)


def _probability_problems(rows: npt.NDArray[np.float64], close: float) -> list[str]:
    if (rows < 0).any() or (rows > 1 + close).any():
        reached = f"{rows.min():.3g} to {rows.max():.3g}"
        return [f"Its outputs are no probabilities but {reached} (logits?). End with activation='softmax'."]
    sums = rows.sum(axis=1)
    if np.abs(sums - 1).max() > close:
        reached = f"{sums.min():.6g} to {sums.max():.6g}"
        return [f"The probabilities of a picture add up to {reached}, not 1. End with activation='softmax'."]
    return []


def _is_saturated(model: Any, pixels: npt.NDArray[np.float32]) -> bool:
    """Return whether the network is all but certain of its answers with whatever weights it begins with.

    It is asked with new weights, as one draw says little, and a trained network may well be certain.
    """
    try:
        own = _strength(model, pixels)
        if own < _WEAK:
            return False
        strong = [own > _STRONG]
        while max(strong.count(True), strong.count(False)) < _MAJORITY:
            strong.append(_strength(_with_new_weights(model, len(strong)), pixels) > _STRONG)
    except Exception:  # noqa: BLE001 - what cannot be trained or copied is said by other checks
        return False
    return strong.count(True) == _MAJORITY


def _strength(model: Any, pixels: npt.NDArray[np.float32]) -> float:
    """Return how far apart the logits of a picture usually are.

    In training batch normalisation does what else rescaling does, and in prediction only after training: the lower
    counts.
    """
    resting = _spread(_compute(model, pixels))
    if resting < _WEAK:
        return resting
    kept = model.get_weights()  # batch normalisation moves in training
    try:
        return min(resting, _spread(np.asarray(model(pixels, training=True), dtype=np.float64)))
    finally:
        model.set_weights(kept)


def _spread(rows: npt.NDArray[np.float64]) -> float:
    return float(np.median(np.log(np.maximum(rows, _TINY)).std(axis=1)))


def _with_new_weights(model: Any, seed: int) -> Any:
    """A copy with other first weights; those that do not learn, as of an adapted Normalization, are kept."""
    with seeded_weights(seed):
        copy = import_keras().models.clone_model(model)
    for weight, new in zip(model.weights, copy.weights, strict=True):
        if not weight.trainable:
            new.assign(weight)
    renew_constants(copy)
    return copy


def _chance_problem(model: Any, pixels: npt.NDArray[np.float32]) -> str | None:
    if np.abs(_compute(model, pixels) - _compute(model, pixels)).max() <= _SAME:
        return None
    return "The same picture gives other answers each time. Random layers must rest unless training=True is given."


def _batch_problem(model: Any, pixels: npt.NDArray[np.float32]) -> str | None:
    together = _compute(model, pixels)
    try:
        alone = np.concatenate([_compute(model, pixels[i : i + 1]) for i in range(len(pixels))])
    except Exception as error:  # noqa: BLE001 - whatever the author's layers raise is said, not thrown
        return f"It cannot compute one picture alone: {type(error).__name__}: {error}"
    if np.abs(together - alone).max() <= _CLOSE:
        return None
    return (
        f"The answer for a picture depends on those beside it in the batch (probabilities differ by "
        f"{np.abs(together - alone).max():.2g}). Use no statistics of the batch outside BatchNormalization."
    )


def _step_problem(model: Any, pixels: npt.NDArray[np.float32]) -> str | None:
    import tensorflow as tf

    labels = np.arange(len(pixels)) % model.outputs[0].shape[1]
    kept = model.get_weights()  # batch normalisation moves in training
    try:
        with tf.GradientTape() as tape:
            losses = import_keras().losses.sparse_categorical_crossentropy(labels, model(pixels, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    except Exception as error:  # noqa: BLE001 - whatever the author's layers raise is said, not thrown
        return f"It cannot be trained: {type(error).__name__}: {error}"
    finally:
        model.set_weights(kept)
    pairs = list(zip(model.trainable_weights, gradients, strict=True))
    dead = [weight.path for weight, gradient in pairs if gradient is None]
    if dead:
        return f"These weights have no influence on the output and cannot learn: {', '.join(dead)}."
    bad = [weight.path for weight, gradient in pairs if not np.isfinite(np.asarray(gradient)).all()]
    if bad or not np.isfinite(float(loss)):
        return (
            f"A training step gives a loss of {float(loss):.3g} and gradients that are not finite: {', '.join(bad)}."
        )
    return None


def _copy_problem(model: Any, pixels: npt.NDArray[np.float32]) -> str | None:
    try:
        copy = copy_model(model)
    except FlowerCNNError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - get_config is the author's
        return None  # `_saving_problem` says so
    if np.abs(_compute(model, pixels) - _compute(copy, pixels)).max() <= _SAME:
        return None
    return (
        "A copy of it, as training and saving make one, gives other answers: a layer keeps more than its weights and "
        "config."
    )


def _saving_problem(model: Any, pixels: npt.NDArray[np.float32]) -> str | None:
    keras = import_keras()
    try:
        check_network(json.loads(model.to_json()), "It")
    except FlowerCNNError as error:
        return (
            f"{error} It can be trained and used, but not saved: model files hold stock Keras layers only, so that "
            "loading one runs no code."
        )
    except Exception as error:  # noqa: BLE001 - get_config is the author's
        return f"It cannot be described for saving: {type(error).__name__}: {error}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            loaded = keras.saving.load_model(path, compile=False)
        except Exception as error:  # noqa: BLE001 - whatever the author's layers raise is said, not thrown
            return f"It cannot be saved and loaded: {type(error).__name__}: {error}"
    if np.abs(_compute(model, pixels) - _compute(loaded, pixels)).max() > _SAME:
        return "After saving and loading it gives other answers: a layer keeps more than its weights and config."
    return None
