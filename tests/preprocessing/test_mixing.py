from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowercnn import ConfigurationError
from flowercnn.preprocessing.augment import Mixing, MixingDraw, apply_mixing

SIZE = (8, 10)


@given(st.floats(0.05, 5), st.floats(0.05, 5), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_pictures_keep_half_of_themselves_or_more(mixup: float, cutmix: float, seed: int) -> None:
    shares, patches = Mixing(mixup, cutmix).draw(np.arange(20), seed=seed, epoch=1)
    assert patches is not None
    assert ((shares >= 0.5) & (shares <= 1)).all()
    top, bottom, left, right = patches.T
    assert ((top >= 0) & (bottom <= 1 + 1e-6) & (left >= 0) & (right <= 1 + 1e-6)).all()
    assert ((bottom - top) * (right - left) < 0.5).all()


def test_what_is_mixed_depends_on_seed_epoch_and_picture_alone() -> None:
    mixing = Mixing(0.4, 1.0)
    whole = mixing.draw([3, 7, 9], seed=1, epoch=2)
    alone = mixing.draw([7], seed=1, epoch=2)
    assert whole.shares[1] == alone.shares[0]
    assert whole.patches is not None
    assert alone.patches is not None
    assert np.array_equal(whole.patches[1], alone.patches[0])
    assert not np.array_equal(whole.shares, mixing.draw([3, 7, 9], seed=1, epoch=3).shares)


def mix(shares: list[float], patches: list[tuple[float, ...]] | None) -> tuple[Any, Any]:
    pixels = np.stack([np.full((*SIZE, 3), value, np.float32) for value in (0, 100)])
    draw = MixingDraw(
        np.array(shares, np.float32), None if patches is None else np.array(patches, np.float32)
    )
    mixed, targets = apply_mixing(pixels, np.eye(2, dtype=np.float32), draw, SIZE)
    return np.asarray(mixed), np.asarray(targets)


@pytest.mark.parametrize("patches", [None, [(0, 0, 0, 0), (0, 0, 0, 0)]])
def test_mixup_blends_pixels_and_labels_alike(patches: list[tuple[float, ...]] | None) -> None:
    mixed, targets = mix([0.75, 1.0], patches)
    assert np.allclose(mixed[0], 25)
    assert np.allclose(mixed[1], 100)
    assert np.allclose(targets, [[0.75, 0.25], [0.0, 1.0]])


def test_cutmix_pastes_a_patch_and_its_share_of_the_label() -> None:
    mixed, targets = mix([1.0, 1.0], [(0, 0.5, 0, 0.5), (0, 0, 0, 0)])
    assert (mixed[0, :4, :5] == 100).all()
    assert (mixed[0, 4:] == 0).all()
    assert (mixed[0, :, 5:] == 0).all()
    assert np.allclose(targets[0], [0.75, 0.25])


def test_there_are_no_patches_without_cutmix() -> None:
    assert Mixing(mixup=0.2).draw([0, 1], seed=0, epoch=0).patches is None


@pytest.mark.parametrize(
    "setting", [{"mixup": -1}, {"cutmix": -0.1}, {"until": 1.5}, {"mixup": float("nan")}]
)
def test_a_wrong_setting_is_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        Mixing(**setting)
