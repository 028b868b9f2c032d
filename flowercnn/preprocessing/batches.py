"""Training batches: the order of the images, and the micro-batches in which they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowercnn._utils import generator, ordered_map
from flowercnn.preprocessing.augment import Augmentation, AugmentationDraw, Mixing, MixingDraw
from flowercnn.preprocessing.pixels import Pixels

__all__ = ["MicroBatch", "TrainingBatches"]

_READ_AHEAD = 3  # micro-batches


class MicroBatch(NamedTuple):
    """Some images of a batch.

    Args:
        pixels: Shape (n, height, width, 3), uint8.
        labels: Shape (n,), int64.
        draw: Their augmentation, or ``None``.
        mixing: How they are mixed with one another, or ``None``.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    draw: AugmentationDraw | None
    mixing: MixingDraw | None


@dataclass(frozen=True, slots=True)
class TrainingBatches:
    """Training data, shuffled each epoch; the order depends on (seed, epoch) only.

    Args:
        pixels: All training images.
        labels: Shape (n,), int64.
        image_size: (height, width) of the images.
        batch_size: Images per step; the last batch of an epoch has the rest, at least two.
        micro_batch_size: Largest number of images that are read and computed at once.
        augmentation: Random changes, or ``None``.
        seed: The user's seed.
        mixing: Blending of images with one another, or ``None``; a batch should then be a single
            micro-batch.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    image_size: tuple[int, int]
    batch_size: int
    micro_batch_size: int
    augmentation: Augmentation | None
    seed: int
    mixing: Mixing | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._bounds())

    def sizes(self) -> list[int]:
        """Return the number of images of each batch of an epoch."""
        return [end - start for start, end in self._bounds()]

    def epoch(
        self, epoch: int, *, output_size: tuple[int, int] | None = None, mix: bool = True
    ) -> Iterator[Iterator[MicroBatch]]:
        """Yield the batches of an epoch, each an iterator to be exhausted before the next.

        Micro-batches are read ahead in a thread.

        Args:
            epoch: From 0.
            output_size: (height, width) of the augmented images; by default that of the images.
            mix: Whether images are mixed in this epoch.
        """
        order = generator(self.seed, "order", epoch).permutation(len(self.labels))
        step = self.micro_batch_size
        purpose = {"seed": self.seed, "epoch": epoch}
        batches = [order[start:end] for start, end in self._bounds()]
        split = [[batch[i : i + step] for i in range(0, len(batch), step)] for batch in batches]

        def read(indices: npt.NDArray[np.int64]) -> MicroBatch:
            draw = mixing = None
            if self.augmentation is not None:
                draw = self.augmentation.draw(
                    indices, image_size=self.image_size, output_size=output_size, **purpose
                )
            if self.mixing is not None and mix:
                mixing = self.mixing.draw(indices, **purpose)
            return MicroBatch(self.pixels.take(indices), self.labels[indices], draw, mixing)

        stream = ordered_map(read, chain.from_iterable(split), workers=1, window=_READ_AHEAD)
        for batch in split:
            yield islice(stream, len(batch))

    def _bounds(self) -> list[tuple[int, int]]:
        """Start and end of each batch; a single image left over joins the last batch."""
        count = len(self.labels)
        starts = list(range(0, count, self.batch_size))
        if len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))
