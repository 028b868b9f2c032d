from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowercnn import ConfigurationError
from flowercnn.preprocessing.augment import Augmentation, apply_augmentation

NOTHING = Augmentation(
    flip=False, min_area=1, aspect=1, rotate=0, brightness=0, contrast=0, saturation=0, hue=0
)
SIZE = (24, 32)


def pictures(count: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def augmented(
    augmentation: Augmentation, pixels: np.ndarray[Any, Any], *, seed: int = 0, epoch: int = 0
) -> np.ndarray[Any, Any]:
    draw = augmentation.draw(range(len(pixels)), image_size=SIZE, seed=seed, epoch=epoch)
    return np.asarray(apply_augmentation(pixels, draw, SIZE))


def test_no_change_asked_for_is_no_change() -> None:
    assert np.abs(augmented(NOTHING, pictures()) - pictures()).max() < 0.01


def test_flipping_mirrors_some_and_only_left_to_right() -> None:
    pixels = pictures(20)
    changed = augmented(Augmentation(**{**_settings(NOTHING), "flip": True}), pixels)
    mirrored = [
        np.abs(new - old[:, ::-1]).max() < 0.01 for new, old in zip(changed, pixels, strict=True)
    ]
    same = [np.abs(new - old).max() < 0.01 for new, old in zip(changed, pixels, strict=True)]
    assert 3 < sum(mirrored) < 17
    assert all(m != s for m, s in zip(mirrored, same, strict=True))


def test_what_happens_to_a_picture_does_not_depend_on_its_batch() -> None:
    together = Augmentation().draw([4, 9, 2], image_size=SIZE, seed=1, epoch=2)
    alone = Augmentation().draw([9], image_size=SIZE, seed=1, epoch=2)
    assert all(np.array_equal(a[1:2], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_is_another_change(other: dict[str, int]) -> None:
    assert not np.allclose(
        augmented(Augmentation(), pictures()), augmented(Augmentation(), pictures(), **other)
    )


def test_values_stay_in_range() -> None:
    wild = Augmentation(min_area=0.1, rotate=180, brightness=1, contrast=1, saturation=1, hue=180)
    changed = augmented(wild, pictures(40))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert np.isfinite(changed).all()


def test_grey_stays_grey_whatever_happens_to_the_colours() -> None:
    grey = np.full((10, *SIZE, 3), 100, dtype=np.uint8)
    changed = augmented(Augmentation(hue=90, saturation=1), grey)
    assert np.ptp(changed, axis=3).max() < 0.01


def test_a_hue_turned_by_a_third_swaps_the_channels() -> None:
    from flowercnn.preprocessing.augment import _hue_rotations

    turned = np.array([1.0, 0, 0]) @ _hue_rotations(np.array([2 * np.pi / 3]))[0]
    assert np.allclose(np.sort(turned), [0, 0, 1])
    assert turned[0] < 0.01


def test_crops_show_no_less_than_the_area_asked_for() -> None:
    draw = Augmentation(rotate=0, min_area=0.4, aspect=1).draw(
        range(200), image_size=SIZE, seed=0, epoch=0
    )
    area = np.abs(draw.transforms[:, 0] * draw.transforms[:, 4])
    assert area.min() >= 0.4 - 1e-6
    assert area.max() <= 1
    assert area.min() < 0.45
    assert area.max() > 0.95


def test_unturned_crops_stay_inside_the_picture() -> None:
    draw = Augmentation(rotate=0, flip=True).draw(range(200), image_size=SIZE, seed=0, epoch=0)
    a0, _, a2, _, b1, b2, *_ = draw.transforms.T
    for scale, shift, side in ((a0, a2, SIZE[1]), (b1, b2, SIZE[0])):
        ends = np.stack([shift, scale * (side - 1) + shift])
        assert ends.min() >= -0.51
        assert ends.max() <= side - 0.49


@pytest.mark.parametrize(
    "setting",
    [
        {"min_area": 0},
        {"min_area": 1.1},
        {"aspect": 0.9},
        {"rotate": 181},
        {"hue": -1},
        {"contrast": 2},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        Augmentation(**setting)  # type: ignore[arg-type]  # the settings are floats here


def _settings(augmentation: Augmentation) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(augmentation)


def test_pictures_shrunk_on_the_way_show_the_same() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 32)[None, None, :, None], (1, 24, 32, 3)).astype(
        np.uint8
    )
    draw = NOTHING.draw([0], image_size=SIZE, seed=0, epoch=0, output_size=(12, 16))
    shrunk = np.asarray(apply_augmentation(ramp, draw, (12, 16)))
    assert shrunk.shape == (1, 12, 16, 3)
    # The middle of an output pixel is the border of two input pixels.
    assert np.allclose(
        shrunk[0, 5, :, 0], (ramp[0, 0, ::2, 0].astype(float) + ramp[0, 0, 1::2, 0]) / 2, atol=0.01
    )
