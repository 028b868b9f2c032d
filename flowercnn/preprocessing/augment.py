"""Random changes to training pictures: drawn in NumPy by seed, epoch and picture, applied in TensorFlow.

What happens to a picture depends on (seed, epoch, its position in the data set) alone: not on the batch it is in, the
number of threads, or where a run was resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flowercnn._utils import generator
from flowercnn.errors import ConfigurationError

__all__ = ["Augmentation", "AugmentationDraw", "Mixing", "MixingDraw", "apply_augmentation", "apply_mixing"]


_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
_MIDDLE_GREY = 127.5


class AugmentationDraw(NamedTuple):
    """What is done to each picture of a batch.

    Args:
        transforms: Shape (n, 8), float32: projective transforms from output to input pixels.
        colours: Shape (n, 3, 3), float32: each pixel (as a row) is multiplied by this.
        offsets: Shape (n, 1, 1, 1), float32: then this is added to all channels.
    """

    transforms: npt.NDArray[np.float32]
    colours: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far training pictures are changed at random.

    Defaults keep what tells flowers apart: colours move little in hue, petals are not cut to nothing.

    Args:
        flip: Whether half of the pictures are mirrored left to right.
        min_area: Smallest share of the picture's area that a random crop shows, over 0 to 1; 1 shows all.
        aspect: Crops are up to this many times wider or higher than the picture, at least 1.
        rotate: Largest turn either way, in degrees.
        brightness: Largest change of brightness either way, as a share.
        contrast: Largest change of contrast either way, as a share.
        saturation: Largest change of saturation either way, as a share.
        hue: Largest turn of the hue either way, in degrees.

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
        if not 0 < self.min_area <= 1:
            raise ConfigurationError(f"min_area must be over 0 and at most 1. Received: min_area={self.min_area!r}")
        if not self.aspect >= 1:
            raise ConfigurationError(f"aspect must be at least 1. Received: aspect={self.aspect!r}")
        for name, limit in (("rotate", 180), ("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 180)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ConfigurationError(f"{name} must be from 0 to {limit}. Received: {name}={value!r}")

    def draw(
        self,
        indices: npt.ArrayLike,
        *,
        image_size: tuple[int, int],
        seed: int,
        epoch: int,
        output_size: tuple[int, int] | None = None,
    ) -> AugmentationDraw:
        """Return what is done in this epoch to the pictures at ``indices`` of the training data.

        Args:
            indices: Positions in the training data, shape (n,).
            image_size: (height, width) of the pictures.
            seed: The user's seed.
            epoch: From 0.
            output_size: (height, width) of the changed pictures; by default that of the pictures.
        """
        uniform = np.stack(
            [generator(seed, "augment", epoch, int(index)).random(10) for index in np.asarray(indices)]
        )
        signed = 2 * uniform - 1
        return AugmentationDraw(
            _rescaled(self._transforms(uniform, signed, image_size), image_size, output_size or image_size),
            *self._colours(signed),
        )

    def _transforms(
        self, uniform: npt.NDArray[np.float64], signed: npt.NDArray[np.float64], image_size: tuple[int, int]
    ) -> npt.NDArray[np.float64]:
        """Rows (a0, a1, a2, b0, b1, b2, 0, 0): output (x, y) shows input (a0 x + a1 y + a2, b0 x + b1 y + b2)."""
        height, width = image_size
        area = self.min_area + (1 - self.min_area) * uniform[:, 0]
        stretch = np.exp(signed[:, 1] * math.log(self.aspect) / 2)
        scale_x, scale_y = np.minimum(np.sqrt(area) * stretch, 1), np.minimum(np.sqrt(area) / stretch, 1)
        mirror = np.where(self.flip & (uniform[:, 2] < 0.5), -1.0, 1.0)  # noqa: PLR2004 - half of them
        angle = np.deg2rad(self.rotate) * signed[:, 3]
        a0, a1 = scale_x * np.cos(angle) * mirror, -scale_y * np.sin(angle)
        b0, b1 = scale_x * np.sin(angle) * mirror, scale_y * np.cos(angle)
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        # The crop's centre lies anywhere that keeps an unturned crop inside the picture.
        a2 = centre_x + signed[:, 4] * (1 - scale_x) * width / 2 - a0 * centre_x - a1 * centre_y
        b2 = centre_y + signed[:, 5] * (1 - scale_y) * height / 2 - b0 * centre_x - b1 * centre_y
        zero = np.zeros_like(a0)
        return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)

    def _colours(self, signed: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Hue, saturation, contrast and brightness as one affine map of RGB."""
        identity, grey = np.eye(3), np.tile(_GREY[:, None], (1, 3))
        saturation = (1 + self.saturation * signed[:, 6])[:, None, None]
        contrast = (1 + self.contrast * signed[:, 7])[:, None, None]
        brightness = (1 + self.brightness * signed[:, 8])[:, None, None]
        hue = _hue_rotations(np.deg2rad(self.hue) * signed[:, 9])
        colours = hue @ (saturation * identity + (1 - saturation) * grey) * contrast * brightness
        offsets = ((1 - contrast) * brightness * _MIDDLE_GREY)[..., None]
        return colours.astype(np.float32), offsets.astype(np.float32)


def _rescaled(
    transforms: npt.NDArray[np.float64], image_size: tuple[int, int], output_size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Let transforms start from pixels of another size: the centre of output pixel x lies at (x + 1/2) s - 1/2."""
    y_scale, x_scale = (size / output for size, output in zip(image_size, output_size, strict=True))
    a0, a1, a2, b0, b1, b2, *rest = transforms.T
    a2 = a2 + a0 * (x_scale - 1) / 2 + a1 * (y_scale - 1) / 2
    b2 = b2 + b0 * (x_scale - 1) / 2 + b1 * (y_scale - 1) / 2
    return np.stack([a0 * x_scale, a1 * y_scale, a2, b0 * x_scale, b1 * y_scale, b2, *rest], axis=1).astype(
        np.float32
    )


def _hue_rotations(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotations of RGB about the grey axis (Rodrigues' formula), for pixels as rows, shape (n, 3, 3)."""
    axis = 1 / math.sqrt(3)
    cross = axis * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    return cosine * np.eye(3) + sine * cross + (1 - cosine) / 3


def apply_augmentation(pixels: Any, draw: Any, image_size: tuple[int, int]) -> Any:
    """Return the changed pictures, shape (n, height, width, 3), float32, 0-255; one pass each for place and colour.

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


_LARGEST_PATCH = 0.7  # of a side: about half of the area


class MixingDraw(NamedTuple):
    """What each picture of a batch takes from the picture before it.

    Args:
        shares: Shape (n,), float32, 0.5 to 1: the weight a picture keeps against the one blended in.
        patches: Shape (n, 4), float32, 0 to 1: top, bottom, left and right of the patch pasted in, or zeros; ``None``
            without CutMix.
    """

    shares: npt.NDArray[np.float32]
    patches: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Mixing:
    """Blends each picture with another (mixup, Zhang et al. 2018) or pastes a patch of it (CutMix, Yun et al. 2019).

    Where both are on, each picture has one of them, by a coin.

    Args:
        mixup: Both parameters of the Beta distribution of the share kept, at least 0; 0 for no mixup.
        cutmix: Both parameters of the Beta distribution of the area left, at least 0; 0 for no CutMix.
        until: The share of the training after which pictures are left whole, 0 to 1.

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
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ConfigurationError(f"{name} must be from 0 to {limit}. Received: {name}={value!r}")

    def draw(self, indices: npt.ArrayLike, *, seed: int, epoch: int) -> MixingDraw:
        """Return what is mixed in this epoch into the pictures at ``indices`` of the training data, shape (n,)."""
        rows = [self._draw_one(generator(seed, "mix", epoch, int(index))) for index in np.asarray(indices)]
        shares, patches = zip(*rows, strict=True)
        return MixingDraw(np.array(shares, np.float32), np.array(patches, np.float32) if self.cutmix else None)

    def _draw_one(self, random: np.random.Generator) -> tuple[float, tuple[float, float, float, float]]:
        if self.cutmix and (not self.mixup or random.random() < 0.5):  # noqa: PLR2004 - a coin
            side = min(float(np.sqrt(1 - random.beta(self.cutmix, self.cutmix))), _LARGEST_PATCH)
            top, left = (1 - side) * random.random(2)
            return 1.0, (top, top + side, left, left + side)
        share = float(random.beta(self.mixup, self.mixup)) if self.mixup else 1.0
        return max(share, 1 - share), (0.0, 0.0, 0.0, 0.0)


def apply_mixing(pixels: Any, targets: Any, draw: Any, image_size: tuple[int, int]) -> tuple[Any, Any]:
    """Return the mixed pictures and targets; each is mixed with the one before it in the batch.

    Args:
        pixels: Tensor of shape (n, height, width, 3), float32.
        targets: Tensor of shape (n, num_classes), float32, rows sum to 1.
        draw: The shares and patches of a `MixingDraw`.
        image_size: (height, width) of the pictures.
    """
    import tensorflow as tf

    shares, patches = draw
    kept = shares[:, None, None, None]
    if patches is not None:
        kept = kept * (1 - _inside(patches, image_size))
    share = tf.reduce_mean(kept, axis=(1, 2, 3))[:, None]
    others, other_targets = tf.roll(pixels, 1, axis=0), tf.roll(targets, 1, axis=0)
    return kept * pixels + (1 - kept) * others, share * targets + (1 - share) * other_targets


def _inside(patches: Any, image_size: tuple[int, int]) -> Any:
    """Return 1 for the pixels in each patch, 0 for the others; shape (n, height, width, 1), float32."""
    import tensorflow as tf

    top, bottom, left, right = (patches[:, i : i + 1] for i in range(4))
    rows, columns = ((tf.range(side, dtype=tf.float32) + 0.5) / side for side in image_size)
    inside_rows = tf.cast((rows >= top) & (rows < bottom), tf.float32)
    inside_columns = tf.cast((columns >= left) & (columns < right), tf.float32)
    return inside_rows[:, :, None, None] * inside_columns[:, None, :, None]
