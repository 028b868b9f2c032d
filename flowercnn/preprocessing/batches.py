"""The order in which pictures are learned from, and the parts in which they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowercnn._utils import generator, ordered_map
from flowercnn.preprocessing.augment import Augmentation, AugmentationDraw, Mixing, MixingDraw
from flowercnn.preprocessing.pixels import Pixels

__all__ = ["Part", "TrainingBatches"]

_PARTS_AHEAD = 3


class Part(NamedTuple):
    """Some pictures of a batch.

    Args:
        pixels: Shape (n, height, width, 3), uint8.
        labels: Shape (n,), int64.
        draw: How they are augmented, or ``None``.
        mixing: How they are mixed with one another, or ``None``.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    draw: AugmentationDraw | None
    mixing: MixingDraw | None


@dataclass(frozen=True, slots=True)
class TrainingBatches:
    """Training data in another order each epoch; the order depends on (seed, epoch) alone.

    Args:
        pixels: All training pictures.
        labels: Shape (n,), int64.
        image_size: (height, width) of the pictures.
        batch_size: Pictures per step; the last batch of an epoch has what is left, at least two.
        part_size: At most so many pictures are read and computed at once.
        augmentation: Random changes, or ``None``.
        seed: The user's seed.
        mixing: Blending of pictures with one another, or ``None``; then batches should be one part.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    image_size: tuple[int, int]
    batch_size: int
    part_size: int
    augmentation: Augmentation | None
    seed: int
    mixing: Mixing | None = None

    def __len__(self) -> int:
        """Return how many batches make an epoch."""
        return len(self._bounds())

    def sizes(self) -> list[int]:
        """Return the number of pictures of each batch of an epoch."""
        return [end - start for start, end in self._bounds()]

    def epoch(
        self, epoch: int, *, output_size: tuple[int, int] | None = None, mix: bool = True
    ) -> Iterator[Iterator[Part]]:
        """Yield the batches of an epoch (from 0), each an iterator of parts to be used up before the next.

        Parts are read ahead in a thread.

        Args:
            epoch: From 0.
            output_size: (height, width) of the augmented pictures; by default that of the pictures.
            mix: Whether pictures are mixed in this epoch.
        """
        order = generator(self.seed, "order", epoch).permutation(len(self.labels))
        batches = [order[start:end] for start, end in self._bounds()]
        parts = [[batch[i : i + self.part_size] for i in range(0, len(batch), self.part_size)] for batch in batches]

        def read(indices: npt.NDArray[np.int64]) -> Part:
            draw = mixing = None
            if self.augmentation is not None:
                draw = self.augmentation.draw(
                    indices, image_size=self.image_size, seed=self.seed, epoch=epoch, output_size=output_size
                )
            if self.mixing is not None and mix:
                mixing = self.mixing.draw(indices, seed=self.seed, epoch=epoch)
            return Part(self.pixels.take(indices), self.labels[indices], draw, mixing)

        flat = [indices for batch in parts for indices in batch]
        stream = ordered_map(read, flat, workers=1, window=_PARTS_AHEAD)
        for batch in parts:
            yield islice(stream, len(batch))

    def _bounds(self) -> list[tuple[int, int]]:
        """Start and end of each batch; one picture left over joins the batch before it."""
        count = len(self.labels)
        starts = list(range(0, count, self.batch_size))
        if len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], count], strict=True))
