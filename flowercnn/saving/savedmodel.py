"""TensorFlow SavedModel, which takes pixels or the bytes of image files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.preprocessing import Preprocessing
from flowercnn.runtimes import RuntimeName, constant_function, quiet
from flowercnn.saving.description import Description

__all__ = ["SavedModelRuntime", "decode", "write_saved_model"]

_BATCH: Final = 32


def write_saved_model(path: Path, *, model: Any, description: Description) -> None:
    """Write a SavedModel folder with two signatures.

    ``serving_default`` takes ``pixels``, float32 (n, height, width, 3), 0-255, of the model's size.
    ``serve_bytes`` takes ``images``, (n,) strings: the bytes of JPEG, PNG, GIF or BMP files of any
    size. Both return ``probabilities``, float32 (n, num_classes), and ``labels``, (n,) strings.

    Raises:
        OSError: If it cannot be written.
    """
    import tensorflow as tf

    network = constant_function(model, batch=None, dtype="float32")
    size = description.preprocessing.image_size
    names = tf.constant(description.class_names)

    def answers(pixels: Any) -> dict[str, Any]:
        probabilities = network(pixels)
        return {
            "probabilities": probabilities,
            "labels": tf.gather(names, tf.argmax(probabilities, axis=1)),
        }

    @tf.function(input_signature=[tf.TensorSpec((None, *size, 3), tf.float32, name="pixels")])  # type: ignore[untyped-decorator]  # TensorFlow is untyped
    def serve(pixels: Any) -> dict[str, Any]:
        return answers(pixels)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="images")])  # type: ignore[untyped-decorator]  # as above
    def serve_bytes(images: Any) -> dict[str, Any]:
        signature = tf.TensorSpec((*size, 3), tf.float32)
        read = lambda content: decode(content, description.preprocessing)  # noqa: E731 - TensorFlow traces it
        return answers(tf.map_fn(read, images, fn_output_signature=signature))

    module = tf.Module()
    module.serve, module.serve_bytes = serve, serve_bytes
    try:
        with quiet():
            tf.saved_model.save(
                module, str(path), signatures={"serving_default": serve, "serve_bytes": serve_bytes}
            )
    except tf.errors.OpError as error:  # such as ResourceExhaustedError, on a full disk
        reason = f"{type(error).__name__}: {error.message}"
        raise OSError(f"TensorFlow cannot write the SavedModel ({reason})") from error
    extra = path / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / "flowercnn.json").write_text(description.to_json(), encoding="utf-8")


def decode(content: Any, preprocessing: Preprocessing) -> Any:
    """Decode and resize in TensorFlow, as in Pillow but at full size and without EXIF.

    Args:
        content: A string tensor without dimensions: the bytes of a JPEG, PNG, GIF or BMP file.
        preprocessing: The size, the resize mode and the background.

    Returns:
        A tensor of shape (height, width, 3), float32, whole numbers 0-255.
    """
    import tensorflow as tf

    height, width = preprocessing.image_size
    image = tf.cast(tf.io.decode_image(content, channels=3, expand_animations=False), tf.float32)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    target = tf.constant([height, width], tf.float32)
    scale = target / size
    if preprocessing.resize == "crop":
        scale = tf.fill([2], tf.reduce_max(scale))
    elif preprocessing.resize == "pad":
        scale = tf.maximum(tf.round(size * tf.reduce_min(scale)), 1.0) / size
    before = (target - size * scale) / 2
    before = tf.floor(before) if preprocessing.resize == "pad" else before
    per_axis = [(size[i], target[i], scale[i], before[i]) for i in (0, 1)]
    down, across = (_resizing(*axis) for axis in per_axis)
    background = tf.constant(preprocessing.background, tf.float32)
    lower = tf.einsum("yh,hwc->ywc", down, image - background)  # outside the image this is zero
    resized = tf.einsum("xw,ywc->yxc", across, lower)
    clipped = tf.clip_by_value(tf.round(resized + background), 0.0, 255.0)
    return tf.ensure_shape(clipped, (height, width, 3))


def _resizing(size: Any, target: Any, scale: Any, before: Any) -> Any:
    """Return the matrix, shape (target, size), of Pillow's Hamming filter along one axis.

    Args:
        size: Pixels of the image.
        target: Pixels of the result.
        scale: Pixels of the result per pixel of the image.
        before: Pixels of the result before the image begins; less than zero if it is cut.
    """
    import tensorflow as tf

    centres = (tf.range(target) + 0.5 - before) / scale
    distances = (tf.range(size) + 0.5 - centres[:, None]) * tf.minimum(scale, 1.0)
    angles = math.pi * distances
    sinc = tf.where(angles == 0, 1.0, tf.math.divide_no_nan(tf.sin(angles), angles))
    window = sinc * (0.54 + 0.46 * tf.cos(angles))
    inside = (tf.abs(distances) < 1) & ((centres > 0) & (centres < size))[:, None]
    weights = tf.where(inside, window, 0.0)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=1, keepdims=True))


class SavedModelRuntime:
    """A SavedModel folder that was just written, to compare it with its network.

    Args:
        path: The folder. Never a stranger's: it may hold anything TensorFlow can do, reading files
            included.
    """

    name: RuntimeName = "keras"
    batch: int = _BATCH

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(path))

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities; see `Runtime`."""
        import tensorflow as tf

        return self._answer("serving_default", tf.constant(pixels, tf.float32))

    def decode_and_predict(self, contents: list[bytes]) -> npt.NDArray[np.float32]:
        """Return probabilities of encoded images; rows of zeros for formats TensorFlow lacks."""
        import tensorflow as tf

        rows = [np.zeros((1, self._classes()), np.float32)] * len(contents)
        for place, content in enumerate(contents):
            try:
                rows[place] = self._answer("serve_bytes", tf.constant([content]))
            except tf.errors.InvalidArgumentError:
                continue
        return np.concatenate(rows)

    def _answer(self, signature: str, value: Any) -> npt.NDArray[np.float32]:
        outputs = self._loaded.signatures[signature](value)
        probabilities: npt.NDArray[np.float32] = outputs["probabilities"].numpy()
        return probabilities

    def _classes(self) -> int:
        outputs = self._loaded.signatures["serving_default"].structured_outputs
        return int(outputs["probabilities"].shape[1])
