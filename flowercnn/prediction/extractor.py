"""Extractor of feature vectors, for many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import cpu_count, ordered_map
from flowercnn.errors import ImageError
from flowercnn.models import fold_normalization, head_of, import_keras
from flowercnn.runtimes import LiteRTRuntime
from flowercnn.saving import light_copy

__all__ = ["Extractor"]

_PIXELS_AT_ONCE: Final = 8 * 256 * 256  # so few that activations stay in the processor's caches
_MOST_AT_ONCE: Final = 64
_MANY: Final = 256


class Extractor:
    """Computes feature vectors fast: normalisation folded, compiled, small parts in several
    threads.

    Args:
        model: A classifier that ends in a dense layer; not changed.
        images: About how many will be asked for. For many it is worth some seconds to prepare for
            them.
        output: What is computed, shape (n, size), in place of the input of the last layer.

    Raises:
        ConfigurationError: If it ends in another layer.
    """

    def __init__(self, model: Any, *, images: int = 0, output: Any = None) -> None:
        import tensorflow as tf

        keras = import_keras()
        wanted = head_of(model).input if output is None else output
        network = fold_normalization(keras.Model(model.inputs[0], wanted, name="features"))
        self.size = int(network.output_shape[1])
        height, width = network.input_shape[1:3]
        self._at_once = max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // (height * width)))
        self._workers = min(4, cpu_count())
        self.batch = 2 * self._workers * self._at_once  # images to give at once
        # LiteRT is much faster than TensorFlow at depthwise convolutions, and slower at dense ones.
        worth_it = images >= _MANY and any(
            "Depthwise" in type(layer).__name__ for layer in network.layers
        )
        light = light_copy(network) if worth_it else None
        self._light = None if light is None else LiteRTRuntime(light)
        self._compute = tf.function(
            lambda pixels: network(tf.cast(pixels, tf.float32), training=False),
            reduce_retracing=True,
        )

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the feature vectors, shape (n, size), of images of shape (n, height, width, 3),
        0-255."""
        if self._light is not None:
            return self._light(pixels)
        slices = [pixels[i : i + self._at_once] for i in range(0, len(pixels), self._at_once)]
        parts = ordered_map(
            lambda part: self._compute(part).numpy(),
            slices,
            workers=self._workers,
            window=2 * self._workers,
        )
        return np.concatenate([np.empty((0, self.size), np.float32), *parts])

    def stream(
        self, images: Iterable[npt.NDArray[np.uint8] | ImageError]
    ) -> Iterator[npt.NDArray[np.float32] | ImageError]:
        """Yield the feature vectors of the views of each image, shape (views, size), in order and
        bounded memory.

        Args:
            images: Of each its views, shape (views, height, width, 3), 0-255, or an error, which
                is passed on.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, self.batch)):
            usable = [views for views in batch if not isinstance(views, ImageError)]
            rows = iter(self(np.concatenate(usable)) if usable else ())
            for views in batch:
                yield (
                    views
                    if isinstance(views, ImageError)
                    else np.stack(list(islice(rows, len(views))))
                )
