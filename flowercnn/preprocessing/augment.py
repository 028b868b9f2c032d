"""Augmentation of training images: drawn in NumPy, applied in TensorFlow.

The changes to an image depend only on (seed, epoch, its position in the data set): not on its
batch, the number of threads or where a run was resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_number, generator

__all__ = [
    "Augmentation",
    "AugmentationDraw",
    "Mixing",
    "MixingDraw",
    "apply_augmentation",
    "apply_mixing",
]

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Size: TypeAlias = tuple[int, int]

_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
_MIDDLE_GREY = 127.5
_LARGEST_PATCH = 0.7  # of a side: about half of the area


class AugmentationDraw(NamedTuple):
    """Changes to each image of a batch.

    Args:
        transforms: Shape (n, 8), float32: projective transforms from output to input pixels.
        colours: Shape (n, 3, 3), float32: each pixel (as a row) is multiplied by this.
        offsets: Shape (n, 1, 1, 1), float32: then added to all channels.
    """

    transforms: Float32
    colours: Float32
    offsets: Float32


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of the random changes to training images.

    The defaults keep what distinguishes flowers: small changes of hue, and crops that show most of
    the petals.

    Args:
        flip: Whether half of the images are mirrored left to right.
        min_area: Smallest share of the area that a random crop shows, above 0 and at most 1.
        aspect: Largest factor by which a crop is wider or higher than the image, at least 1.
        rotate: Largest rotation either way, 0-180 degrees.
        brightness: Largest change of brightness either way, 0-1.
        contrast: Largest change of contrast either way, 0-1.
        saturation: Largest change of saturation either way, 0-1.
        hue: Largest rotation of the hue either way, 0-180 degrees.

    Raises:
        ConfigurationError: If a number is out of its range.

    Example:
        >>> draw = Augmentation().draw([0, 5], image_size=(64, 64), seed=0, epoch=3)
        >>> draw.transforms.shape, draw.colours.shape
        ((2, 8), (2, 3, 3))
    """

    flip: bool = True
    min_area: float = 0.4
    aspect: float = 4 / 3
    rotate: float = 15.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 5.0

    def __post_init__(self) -> None:
        check_number("min_area", self.min_area, above=0, most=1)
        check_number("aspect", self.aspect, least=1)
        for name in ("rotate", "hue"):
            check_number(name, getattr(self, name), least=0, most=180)
        for name in ("brightness", "contrast", "saturation"):
            check_number(name, getattr(self, name), least=0, most=1)

    def draw(
        self,
        indices: npt.ArrayLike,
        *,
        image_size: tuple[int, int],
        seed: int,
        epoch: int,
        output_size: tuple[int, int] | None = None,
    ) -> AugmentationDraw:
        """Return the changes to images of the training data in an epoch.

        Args:
            indices: Positions in the training data, shape (n,).
            image_size: (height, width) of the images.
            seed: The user's seed.
            epoch: From 0.
            output_size: (height, width) of the changed images; by default that of the images.
        """
        generators = [generator(seed, "augment", epoch, int(i)) for i in np.asarray(indices)]
        uniform = np.stack([random.random(10) for random in generators])
        signed = 2 * uniform - 1
        transforms = self._transforms(uniform, signed, image_size)
        scaled = _rescaled(transforms, image_size, output_size or image_size)
        return AugmentationDraw(scaled, *self._colours(signed))

    def _transforms(self, uniform: Float64, signed: Float64, image_size: Size) -> Float64:
        """Rows (a0, a1, a2, b0, b1, b2, 0, 0).

        Output (x, y) shows input (a0 x + a1 y + a2, b0 x + b1 y + b2).
        """
        height, width = image_size
        area = self.min_area + (1 - self.min_area) * uniform[:, 0]
        stretch = np.exp(signed[:, 1] * math.log(self.aspect) / 2)
        scale_x = np.minimum(np.sqrt(area) * stretch, 1)
        scale_y = np.minimum(np.sqrt(area) / stretch, 1)
        mirror = np.where(self.flip & (uniform[:, 2] < 0.5), -1.0, 1.0)  # noqa: PLR2004 - half of them
        angle = np.deg2rad(self.rotate) * signed[:, 3]
        a0, a1 = scale_x * np.cos(angle) * mirror, -scale_y * np.sin(angle)
        b0, b1 = scale_x * np.sin(angle) * mirror, scale_y * np.cos(angle)
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        # The crop's centre is anywhere that keeps an unrotated crop inside the image.
        a2 = centre_x + signed[:, 4] * (1 - scale_x) * width / 2 - a0 * centre_x - a1 * centre_y
        b2 = centre_y + signed[:, 5] * (1 - scale_y) * height / 2 - b0 * centre_x - b1 * centre_y
        zero = np.zeros_like(a0)
        return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)

    def _colours(self, signed: Float64) -> tuple[Float32, Float32]:
        """Hue, saturation, contrast and brightness as one affine map of RGB."""
        identity, grey = np.eye(3), np.tile(_GREY[:, None], (1, 3))
        saturation = (1 + self.saturation * signed[:, 6])[:, None, None]
        contrast = (1 + self.contrast * signed[:, 7])[:, None, None]
        brightness = (1 + self.brightness * signed[:, 8])[:, None, None]
        hue = _hue_rotations(np.deg2rad(self.hue) * signed[:, 9])
        colours = hue @ (saturation * identity + (1 - saturation) * grey) * contrast * brightness
        offsets = ((1 - contrast) * brightness * _MIDDLE_GREY)[..., None]
        return colours.astype(np.float32), offsets.astype(np.float32)


def _rescaled(transforms: Float64, image_size: Size, output_size: Size) -> Float32:
    """Transforms from output pixels of another size: the centre of x is at (x + 1/2) s - 1/2."""
    y_scale, x_scale = (size / out for size, out in zip(image_size, output_size, strict=True))
    a0, a1, a2, b0, b1, b2, *rest = transforms.T
    a2 = a2 + a0 * (x_scale - 1) / 2 + a1 * (y_scale - 1) / 2
    b2 = b2 + b0 * (x_scale - 1) / 2 + b1 * (y_scale - 1) / 2
    columns = [a0 * x_scale, a1 * y_scale, a2, b0 * x_scale, b1 * y_scale, b2, *rest]
    return np.stack(columns, axis=1).astype(np.float32)


def _hue_rotations(angles: Float64) -> Float64:
    """Rotations of RGB rows about the grey axis (Rodrigues' formula), shape (n, 3, 3)."""
    axis = 1 / math.sqrt(3)
    cross = axis * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    return cosine * np.eye(3) + sine * cross + (1 - cosine) / 3


def apply_augmentation(pixels: Any, draw: Any, image_size: Size) -> Any:
    """Return augmented images, shape (n, height, width, 3), float32, 0-255.

    Args:
        pixels: Tensor of shape (n, height, width, 3), uint8.
        draw: The three arrays of an `AugmentationDraw`. Borders are filled by reflection.
        image_size: (height, width) of the result.
    """
    import tensorflow as tf

    transforms, colours, offsets = draw
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(pixels, tf.float32),
        transforms=transforms,
        output_shape=image_size,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )
    rows = tf.reshape(moved, [-1, image_size[0] * image_size[1], 3])
    coloured = tf.reshape(tf.matmul(rows, colours), [-1, *image_size, 3])
    return tf.clip_by_value(coloured + offsets, 0.0, 255.0)


class MixingDraw(NamedTuple):
    """How each image of a batch is mixed with the image before it.

    Args:
        shares: Shape (n,), float32, 0.5 to 1: the image's own weight in the blend.
        patches: Shape (n, 4), float32, 0 to 1: top, bottom, left and right of the patch pasted in,
            or zeros; ``None`` without CutMix.
    """

    shares: Float32
    patches: Float32 | None


@dataclass(frozen=True, slots=True)
class Mixing:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

    Mixup blends an image with another, CutMix pastes a patch of the other into it. If both are on,
    each image has one of them, with equal probability.

    Args:
        mixup: Both parameters of the Beta distribution of an image's own share, 0-100; 0 for none.
        cutmix: Both parameters of the Beta distribution of the area left, 0-100; 0 for none.
        until: Share of the training after which images are not mixed, 0 to 1.

    Raises:
        ConfigurationError: If a number is out of its range.

    Example:
        >>> draw = Mixing(mixup=0.2).draw([0, 5], seed=0, epoch=3)
        >>> draw.shares.shape, bool((draw.shares >= 0.5).all())
        ((2,), True)
    """

    mixup: float = 0.2
    cutmix: float = 0.0
    until: float = 0.85

    def __post_init__(self) -> None:
        for name, limit in (("mixup", 100), ("cutmix", 100), ("until", 1)):
            check_number(name, getattr(self, name), least=0, most=limit)

    def draw(self, indices: npt.ArrayLike, *, seed: int, epoch: int) -> MixingDraw:
        """Return the mixing of the images at ``indices``, shape (n,), in an epoch."""
        generators = [generator(seed, "mix", epoch, int(i)) for i in np.asarray(indices)]
        shares, patches = zip(*map(self._draw_one, generators), strict=True)
        patched = np.array(patches, np.float32) if self.cutmix else None
        return MixingDraw(np.array(shares, np.float32), patched)

    def _draw_one(self, random: np.random.Generator) -> tuple[float, tuple[float, ...]]:
        if self.cutmix and (not self.mixup or random.random() < 0.5):  # noqa: PLR2004 - a coin
            side = min(float(np.sqrt(1 - random.beta(self.cutmix, self.cutmix))), _LARGEST_PATCH)
            top, left = (1 - side) * random.random(2)
            return 1.0, (top, top + side, left, left + side)
        share = float(random.beta(self.mixup, self.mixup)) if self.mixup else 1.0
        return max(share, 1 - share), (0.0, 0.0, 0.0, 0.0)


def apply_mixing(pixels: Any, targets: Any, draw: Any, image_size: Size) -> tuple[Any, Any]:
    """Return images and targets, each mixed with the one before it in the batch.

    Args:
        pixels: Tensor of shape (n, height, width, 3), float32.
        targets: Tensor of shape (n, num_classes), float32, rows sum to 1.
        draw: The shares and patches of a `MixingDraw`.
        image_size: (height, width) of the images.
    """
    import tensorflow as tf

    shares, patches = draw
    weights = shares[:, None, None, None]
    if patches is not None:
        weights = weights * (1 - _inside(patches, image_size))
    share = tf.reduce_mean(weights, axis=(1, 2, 3))[:, None]
    others, other_targets = tf.roll(pixels, 1, axis=0), tf.roll(targets, 1, axis=0)
    mixed = weights * pixels + (1 - weights) * others
    return mixed, share * targets + (1 - share) * other_targets


def _inside(patches: Any, image_size: Size) -> Any:
    """Mask of the pixels in each patch, shape (n, height, width, 1), float32."""
    import tensorflow as tf

    top, bottom, left, right = (patches[:, i : i + 1] for i in range(4))
    rows, columns = ((tf.range(side, dtype=tf.float32) + 0.5) / side for side in image_size)
    inside_rows = tf.cast((rows >= top) & (rows < bottom), tf.float32)
    inside_columns = tf.cast((columns >= left) & (columns < right), tf.float32)
    return inside_rows[:, :, None, None] * inside_columns[:, None, :, None]
