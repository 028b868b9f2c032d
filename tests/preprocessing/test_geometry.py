from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowercnn.preprocessing.resize import ResizeMode, resize

pytestmark = pytest.mark.versions

BLACK = (0, 0, 0)
SIDE = st.integers(1, 60)


@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(get_args(ResizeMode)))
@settings(deadline=None)
def test_every_mode_gives_exactly_the_size(
    w: int, h: int, width: int, height: int, mode: ResizeMode
) -> None:
    assert resize(Image.new("RGB", (w, h)), (height, width), mode, BLACK).size == (width, height)


@pytest.mark.parametrize("mode", get_args(ResizeMode))
def test_a_picture_of_the_size_stays_as_it_is(mode: ResizeMode) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(resize(image, (20, 30), mode, BLACK)), np.asarray(image))


def bands() -> Image.Image:
    """Red, green and blue thirds side by side, 90 wide and 30 high."""
    return Image.fromarray(
        np.repeat(np.repeat(np.eye(3, dtype=np.uint8) * 255, 30, axis=0)[None], 30, axis=0)
    )


def test_crop_keeps_the_middle_in_proportion() -> None:
    pixels = np.asarray(resize(bands(), (30, 30), "crop", BLACK))
    assert (pixels[:, 3:-3] == [0, 255, 0]).all()


def test_stretch_keeps_everything_out_of_proportion() -> None:
    pixels = np.asarray(resize(bands(), (30, 30), "stretch", BLACK))
    assert pixels[15, 4].argmax() == 0
    assert pixels[15, 15].argmax() == 1
    assert pixels[15, 26].argmax() == 2


def test_pad_keeps_everything_in_proportion_and_fills() -> None:
    pixels = np.asarray(resize(bands(), (30, 30), "pad", (7, 8, 9)))
    assert (pixels[:9] == [7, 8, 9]).all()
    assert (pixels[-9:] == [7, 8, 9]).all()
    assert pixels[15, 4].argmax() == 0
    assert pixels[15, 26].argmax() == 2


@pytest.mark.parametrize("mode", get_args(ResizeMode))
def test_scaling_down_is_antialiased(mode: ResizeMode) -> None:
    checks = Image.fromarray(np.uint8(np.indices((256, 256)).sum(axis=0) % 2 * 255)).convert("RGB")
    pixels = np.asarray(resize(checks, (16, 16), mode, BLACK)).astype(float)
    assert (
        np.abs(pixels - 127.5).max() < 8
    )  # nearest or plain bilinear sampling would give black and white
