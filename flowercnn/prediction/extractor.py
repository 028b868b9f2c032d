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

_PIXELS_AT_ONCE: Final = 8 * 256 * 256  # keeps activations in the processor's caches
_MOST_AT_ONCE: Final = 64
_MANY: Final = 256


class Extractor:
    """Extractor of feature vectors: normalisation folded, compiled, small parts in threads.

    Args:
        model: A classifier that ends in a dense layer; not changed.
        images: About how many images there will be. Many are worth some seconds of preparation.
        output: The tensor to compute, shape (n, size), in place of the input of the last layer.

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
        kinds = {type(layer).__name__ for layer in network.layers}
        worth_it = images >= _MANY and any("Depthwise" in kind for kind in kinds)
        light = light_copy(network) if worth_it else None
        self._light = None if light is None else LiteRTRuntime(light)

        def compute(pixels: Any) -> Any:
            return network(tf.cast(pixels, tf.float32), training=False)

        self._compute = tf.function(compute, reduce_retracing=True)

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return feature vectors (n, size) of images (n, height, width, 3), 0-255."""
        if self._light is not None:
            return self._light(pixels)
        slices = [pixels[i : i + self._at_once] for i in range(0, len(pixels), self._at_once)]
        workers, compute = self._workers, lambda part: self._compute(part).numpy()
        parts = ordered_map(compute, slices, workers=workers, window=2 * workers)
        return np.concatenate([np.empty((0, self.size), np.float32), *parts])

    def stream(
        self, images: Iterable[npt.NDArray[np.uint8] | ImageError]
    ) -> Iterator[npt.NDArray[np.float32] | ImageError]:
        """Yield feature vectors of each image's views, (views, size), in bounded memory.

        Args:
            images: Views of each image, shape (views, height, width, 3), 0-255, or an error, which
                is passed on.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, self.batch)):
            usable = [views for views in batch if not isinstance(views, ImageError)]
            rows = iter(self(np.concatenate(usable)) if usable else ())
            for views in batch:
                if isinstance(views, ImageError):
                    yield views
                else:
                    yield np.stack(list(islice(rows, len(views))))
