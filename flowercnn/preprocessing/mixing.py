"""Blending training pictures with one another, labels included: drawn in NumPy by seed, epoch and picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError
from flowercnn.seeding import generator

__all__ = ["Mixing", "MixingDraw", "apply_mixing"]

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
