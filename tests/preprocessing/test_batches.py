from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowercnn.preprocessing.augment import Augmentation
from flowercnn.preprocessing.batches import TrainingBatches
from flowercnn.preprocessing.pixels import MemoryPixels


def batches_of(
    count: int, batch_size: int = 8, part_size: int = 3, seed: int = 0
) -> TrainingBatches:
    array = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 3), dtype=np.uint8
    )
    return TrainingBatches(
        MemoryPixels(array), np.arange(count), (2, 2), batch_size, part_size, None, seed
    )


def labels_of(batches: TrainingBatches, epoch: int) -> list[list[int]]:
    return [
        [int(label) for part in batch for label in part.labels] for batch in batches.epoch(epoch)
    ]


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None)
def test_an_epoch_has_every_picture_once(count: int, batch_size: int, part_size: int) -> None:
    batches = batches_of(count, batch_size, part_size)
    epoch = labels_of(batches, 0)
    assert sorted(label for batch in epoch for label in batch) == list(range(count))
    assert [len(batch) for batch in epoch] == batches.sizes()
    assert len(batches) == len(epoch)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert labels_of(batches_of(50), 3) == labels_of(batches_of(50, part_size=7), 3)
    assert labels_of(batches_of(50), 3) != labels_of(batches_of(50), 4)
    assert labels_of(batches_of(50), 3) != labels_of(batches_of(50, seed=1), 3)


def test_pixels_go_with_their_labels() -> None:
    for batch in batches_of(30).epoch(0):
        for part in batch:
            assert (part.pixels[:, 0, 0, 0] == part.labels).all()
            assert len(part.labels) <= 3


def test_one_picture_left_over_joins_the_batch_before() -> None:
    assert batches_of(17).sizes() == [8, 9]
    assert batches_of(18).sizes() == [8, 8, 2]
    assert batches_of(1).sizes() == [1]


@pytest.mark.parametrize("part_size", [2, 5])
def test_augmentation_is_the_same_in_parts_of_any_size(part_size: int) -> None:
    array = np.zeros((10, 4, 4, 3), dtype=np.uint8)

    def draws(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        batches = TrainingBatches(
            MemoryPixels(array), np.arange(10), (4, 4), 10, size, Augmentation(), 0
        )
        return np.concatenate(
            [part.draw.transforms for batch in batches.epoch(0) for part in batch if part.draw]
        )

    assert np.array_equal(draws(10), draws(part_size))
