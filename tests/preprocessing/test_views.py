from __future__ import annotations

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.preprocessing.views import Views

PREPROCESSING = fc.Preprocessing(image_size=(32, 48))


def sample(key: str = "a") -> fc.Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    return fc.Sample(key=key, image=pixels, label="x")


def test_the_first_view_is_the_picture_and_the_second_its_mirror_image() -> None:
    views = Views(mirror=True).of(sample(), PREPROCESSING)
    whole = PREPROCESSING.decode(sample().image)
    assert np.array_equal(views, np.stack([whole, whole[:, ::-1]]))


def test_parts_are_of_the_size_of_the_picture_and_differ_from_it_and_each_other() -> None:
    views = Views(parts=3).of(sample(), PREPROCESSING)
    assert views.shape == (len(Views(parts=3)), 32, 48, 3)
    assert views.dtype == np.uint8
    assert len({view.tobytes() for view in views}) == 4


def test_parts_depend_on_the_seed_and_the_key_alone() -> None:
    def part(seed: int, key: str) -> bytes:
        return bytes(Views(parts=1, seed=seed).of(sample(key), PREPROCESSING)[1])

    assert part(0, "a") == part(0, "a")
    assert len({part(0, "a"), part(1, "a"), part(0, "b")}) == 3


def test_a_picture_of_one_colour_has_views_of_that_colour() -> None:
    plain = fc.Sample(key="a", image=np.full((70, 50, 3), (10, 200, 90), dtype=np.uint8), label="x")
    views = Views(mirror=True, parts=4).of(plain, PREPROCESSING)
    assert (views == (10, 200, 90)).all()


def test_a_picture_that_cannot_be_decoded_is_an_error() -> None:
    with pytest.raises(fc.ImageError):
        Views(parts=1).of(fc.Sample(key="a", image=b"no picture", label="x"), PREPROCESSING)
