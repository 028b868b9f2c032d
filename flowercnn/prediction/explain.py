"""Grad-CAM, and occlusion as a check on it: the parts of an image that a class depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn.errors import ConfigurationError, UnknownNameError, closest
from flowercnn.models import last_feature_map, no_feature_maps, with_features
from flowercnn.prediction.predictor import Predictor
from flowercnn.sources import PredictInput, single_image

__all__ = ["Explanation", "grad_cam", "occlusion"]

_GREY: Final = 127
_STEPS: Final = 7  # patches that cover a side, with as many half-way between


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Heat map: the parts of an image that speak for a class.

    Args:
        class_name: The class.
        image: The input of the network, shape (height, width, 3), uint8.
        heat: Shape (height, width), float32, 0-1: 1 where most speaks for the class.
    """

    class_name: str
    image: npt.NDArray[np.uint8]
    heat: npt.NDArray[np.float32]

    def overlay(self, opacity: float = 0.55) -> npt.NDArray[np.uint8]:
        """Return the image under the heat, shape (height, width, 3), uint8; grey where cold.

        Args:
            opacity: Of the hottest place, 0-1. Where it is cold the image shows through.
        """
        from matplotlib import colormaps

        colours = colormaps["viridis"](self.heat)[..., :3] * 255
        share = opacity * self.heat[..., None]
        grey = np.asarray(Image.fromarray(self.image).convert("L"), dtype=np.float32)[..., None]
        ground = grey + (self.image - grey) * self.heat[..., None]
        mixed: npt.NDArray[np.uint8] = np.clip(
            ground * (1 - share) + colours * share, 0, 255
        ).astype(np.uint8)
        return mixed

    def figure(self, *, dark: bool = False) -> Any:
        """Return a ``matplotlib.figure.Figure`` of the image and the overlay side by side."""
        from flowercnn.evaluation import overlay_figure

        return overlay_figure([self.image], [self.overlay()], [self.class_name], dark=dark)


def grad_cam(
    predictor: Predictor, image: PredictInput, class_name: str | None = None
) -> Explanation:
    """Return where the last feature map speaks for a class (Selvaraju et al. 2017).

    Each channel counts by the mean gradient of the logarithm of the class's probability with
    respect to it.

    Args:
        predictor: A classifier with feature maps, as every network for images here has. Of a
            model within the network, only the output counts as one.
        image: One image, as `Predictor.predict_one` takes it.
        class_name: The class to explain; by default the most probable one.

    Raises:
        ConfigurationError: If the network has no feature maps, or ``image`` is not one image.
        UnknownNameError: If the classifier does not know the class.
        ImageError: If the image cannot be used.

    Example:
        >>> explanation = grad_cam(predictor, image)
        >>> explanation.heat.shape == predictor.image_size, explanation.overlay().dtype
        (True, dtype('uint8'))
    """
    import tensorflow as tf

    layer = last_feature_map(predictor.model)
    if layer is None:
        reason = f"Grad-CAM needs feature maps: {no_feature_maps(predictor.model)}"
        raise ConfigurationError(f"{reason}. occlusion() takes any network.")
    pixels = predictor.preprocessing.decode(single_image(image)[1])
    label = _label(predictor, pixels, class_name)
    extended = with_features(predictor.model, (layer,))
    with tf.GradientTape() as tape:
        probabilities, features = extended(tf.cast(pixels[None], tf.float32), training=False)
        # Of the logarithm: where a softmax is sure of itself, the gradient of the probability is 0.
        target = tf.math.log(probabilities[:, label] + 1e-12)
    gradient = tape.gradient(target, features)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))[0].numpy()
    return Explanation(predictor.class_names[label], pixels, _scaled(heat, predictor.image_size))


def occlusion(
    predictor: Predictor, image: PredictInput, class_name: str | None = None
) -> Explanation:
    """Return where a grey patch costs a class most probability (Zeiler & Fergus 2014).

    It looks at answers only, so it checks what `grad_cam` reads from gradients. The arguments and
    errors are those of `grad_cam`; any network will do.
    """
    pixels = predictor.preprocessing.decode(single_image(image)[1])
    label = _label(predictor, pixels, class_name)
    height, width = predictor.image_size
    tall, wide = -(-height // _STEPS), -(-width // _STEPS)
    tops = np.linspace(0, height - tall, 2 * _STEPS - 1).round().astype(int)
    lefts = np.linspace(0, width - wide, 2 * _STEPS - 1).round().astype(int)
    places = [(slice(top, top + tall), slice(left, left + wide)) for top in tops for left in lefts]
    covered = np.repeat(pixels[None], len(places), axis=0)
    for pixels_covered, place in zip(covered, places, strict=True):
        pixels_covered[place] = _GREY
    whole = predictor.predict_proba(pixels[None])[0, label]
    drops = whole - predictor.predict_proba(covered)[:, label]
    heat, times = np.zeros((height, width)), np.zeros((height, width))
    for drop, place in zip(drops, places, strict=True):
        heat[place] += max(float(drop), 0.0)
        times[place] += 1
    mean = heat / np.maximum(times, 1)
    return Explanation(predictor.class_names[label], pixels, _scaled(mean, (height, width)))


def _label(predictor: Predictor, pixels: npt.NDArray[np.uint8], class_name: str | None) -> int:
    if class_name is None:
        return int(predictor.predict_proba(pixels[None])[0].argmax())
    if class_name not in predictor.class_names:
        hint = closest(class_name, predictor.class_names)
        rule = "class_name must be one the classifier knows"
        raise UnknownNameError(f"{rule}.{hint} Received: {class_name!r}")
    return predictor.class_names.index(class_name)


def _scaled(heat: npt.NDArray[Any], image_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Scale heat to 0-1 and resize it to the image; all zeros stay zeros."""
    highest = float(heat.max())
    normed = (heat / highest if highest > 0 else heat).astype(np.float32)
    height, width = image_size
    resized = np.asarray(Image.fromarray(normed).resize((width, height), Image.Resampling.BICUBIC))
    clipped: npt.NDArray[np.float32] = np.clip(resized, 0, 1).astype(np.float32)
    return clipped
