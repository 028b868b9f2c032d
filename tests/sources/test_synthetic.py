from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flowercnn.errors import ConfigurationError
from flowercnn.sources.base import DataSource, Sample, declared_class_names
from flowercnn.sources.drawing import PALETTE, SPECIES, Brush, Species, mix, shade
from flowercnn.sources.synthetic import DrawnFlower, SyntheticFlowers

ALL_SPECIES = range(len(SPECIES))


def picture(
    species: int, number: int = 0, seed: int = 0, image_size: tuple[int, int] = (64, 64)
) -> np.ndarray:
    return np.asarray(DrawnFlower(species, number, seed, image_size).draw())


def png(sample: Sample) -> bytes:
    assert isinstance(sample.image, DrawnFlower)
    return sample.image()


def files(samples: Iterable[Sample]) -> dict[str, bytes]:
    return {sample.key: png(sample) for sample in samples}


def test_it_is_a_data_source_that_declares_its_classes() -> None:
    source = SyntheticFlowers(per_class=1)
    assert isinstance(source, DataSource)
    assert declared_class_names(source) == source.class_names


def test_there_are_seventeen_species_with_distinct_names() -> None:
    assert len(set(SyntheticFlowers().class_names)) == 17


def test_fewer_classes_are_the_first_of_all() -> None:
    everything = SyntheticFlowers().class_names
    assert [SyntheticFlowers(num_classes=k).class_names for k in (2, 9, 17)] == [
        everything[:2],
        everything[:9],
        everything,
    ]


def test_every_class_has_as_many_samples_as_asked_for() -> None:
    source = SyntheticFlowers(per_class=3, num_classes=4)
    labels = [sample.label for sample in source]
    assert len(labels) == len(source) == 12
    assert {name: labels.count(name) for name in source.class_names} == dict.fromkeys(
        source.class_names, 3
    )


def test_it_can_be_iterated_again() -> None:
    source = SyntheticFlowers(per_class=2, num_classes=3)
    assert list(source) == list(source)


def test_keys_are_unique_and_start_with_the_class_name_also_beyond_four_digits() -> None:
    samples = list(SyntheticFlowers(per_class=10_001, num_classes=2))
    assert len({sample.key for sample in samples}) == 20_002
    assert all(sample.key.startswith(f"{sample.label}/") for sample in samples)


def test_nothing_is_drawn_until_an_image_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: DrawnFlower) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(DrawnFlower, "draw", refuse)
    samples = list(SyntheticFlowers(per_class=1000))
    with pytest.raises(AssertionError, match="drawn"):
        png(samples[0])


@pytest.mark.parametrize("image_size", [(160, 160), (32, 32), (48, 100), (100, 48), (33, 35)])
def test_an_image_is_a_png_in_rgb_of_the_size_asked_for(image_size: tuple[int, int]) -> None:
    source = SyntheticFlowers(per_class=1, image_size=image_size)
    opened = [Image.open(io.BytesIO(data)) for data in files(source).values()]
    assert {(image.format, image.mode, image.size) for image in opened} == {
        ("PNG", "RGB", image_size[::-1])
    }


def test_two_pictures_of_one_seed_species_and_number_are_the_same() -> None:
    assert files(SyntheticFlowers(2, image_size=(64, 64))) == files(
        SyntheticFlowers(2, image_size=(64, 64))
    )


def test_a_picture_does_not_depend_on_how_many_are_asked_for() -> None:
    few = files(SyntheticFlowers(per_class=1, num_classes=2, image_size=(64, 64)))
    many = files(SyntheticFlowers(per_class=3, num_classes=5, image_size=(64, 64)))
    assert few == {key: many[key] for key in few}


def test_a_picture_does_not_depend_on_those_drawn_before() -> None:
    forward = files(SyntheticFlowers(per_class=2, num_classes=3, image_size=(64, 64)))
    backward = files(
        reversed(list(SyntheticFlowers(per_class=2, num_classes=3, image_size=(64, 64))))
    )
    assert backward == forward


def test_no_two_pictures_are_alike_across_numbers_species_and_seeds() -> None:
    digests = {
        hashlib.sha256(picture(species, number, seed).tobytes()).digest()
        for species in ALL_SPECIES
        for number in range(4)
        for seed in (0, 1, 2**40)
    }
    assert len(digests) == 17 * 4 * 3


def test_a_picture_in_another_size_is_the_same_scene() -> None:
    large, small = picture(0, image_size=(160, 160)), picture(0, image_size=(80, 80))
    reduced = large.reshape(80, 2, 80, 2, 3).mean((1, 3))
    other = picture(0, number=1, image_size=(80, 80))
    assert np.abs(reduced - small).mean() < 0.25 * np.abs(reduced - other).mean()


def test_an_image_pickles_and_draws_the_same_afterwards() -> None:
    sample = next(iter(SyntheticFlowers(per_class=1)))
    copy = pickle.loads(pickle.dumps(sample))  # noqa: S301 - our own bytes
    assert copy == sample
    assert png(copy) == png(sample)


@pytest.mark.parametrize("species", SPECIES, ids=[species.name for species in SPECIES])
def test_a_bloom_covers_a_good_part_of_its_place_and_has_the_colour_asked_for(
    species: Species,
) -> None:
    canvas = Image.new("RGB", (120, 120))
    light = np.array([0.0, -1.0])
    brush = Brush(
        ImageDraw.Draw(canvas),
        np.eye(2) * 50,
        np.array([60.0, 60.0]),
        light,
        np.random.default_rng(0),
    )
    species.paint(brush, PALETTE["blue"])
    pixels = np.asarray(canvas).astype(int)
    painted = pixels.any(axis=2)
    blue = (pixels[..., 2] > pixels[..., 0] + 40) & (pixels[..., 2] > pixels[..., 1] + 20)
    assert painted.mean() > 0.12
    assert blue[painted].mean() > 0.3


def test_every_colour_of_a_species_is_in_the_palette() -> None:
    assert {colour for species in SPECIES for colour in species.colours} <= PALETTE.keys()


def test_no_species_has_a_colour_to_itself() -> None:
    for species in SPECIES:
        others = {colour for other in SPECIES if other is not species for colour in other.colours}
        assert set(species.colours) <= others, species.name


def test_a_mixture_is_where_it_should_be_between_two_colours() -> None:
    assert mix((0, 100, 200), (100, 0, 200), 0.25) == (25, 75, 200)


def test_shading_brightens_above_zero_and_darkens_below() -> None:
    grey = (120, 120, 120)
    assert min(shade(grey, 0.3)) > 120 > max(shade(grey, -0.3))
    assert shade(grey, 0.0) == grey


@pytest.fixture(scope="module")
def thumbnails() -> tuple[np.ndarray, np.ndarray]:
    """Return 40 pictures of each species averaged to 8x8 pixels, as (17, 40, 8, 8, 3), and their
    labels (17, 40)."""
    pictures = [[picture(species, number) for number in range(40)] for species in ALL_SPECIES]
    small = np.array(pictures).reshape(17, 40, 8, 8, 8, 8, 3).mean((3, 5))
    return small, np.repeat(np.arange(17), 40).reshape(17, 40)


def accuracy(model: Any, features: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy on the last 15 of each class after learning from the first 25."""
    train, test = features[:, :25].reshape(17 * 25, -1), features[:, 25:].reshape(17 * 15, -1)
    pipeline = make_pipeline(StandardScaler(), model).fit(train, labels[:, :25].ravel())
    return float(pipeline.score(test, labels[:, 25:].ravel()))


def test_the_mean_colour_does_not_give_the_species_away(
    thumbnails: tuple[np.ndarray, np.ndarray],
) -> None:
    small, labels = thumbnails
    assert accuracy(LogisticRegression(max_iter=1000), small.mean((2, 3)), labels) < 0.6


def test_the_nearest_thumbnail_is_of_the_same_species_far_more_often_than_by_chance(
    thumbnails: tuple[np.ndarray, np.ndarray],
) -> None:
    small, labels = thumbnails
    assert accuracy(KNeighborsClassifier(1), small, labels) > 4 / 17


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"per_class": 0}, "per_class"),
        ({"per_class": 2.0}, "per_class"),
        ({"per_class": True}, "per_class"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 18}, "num_classes"),
        ({"num_classes": "3"}, "num_classes"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"image_size": 160}, "image_size"),
        ({"image_size": (160, 160, 3)}, "image_size"),
        ({"image_size": (31, 160)}, "image_size"),
        ({"image_size": (160, 64.5)}, "image_size"),
    ],
)
def test_an_argument_it_cannot_use_is_refused_by_name(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} must be .* Received: {name}="):
        SyntheticFlowers(**arguments)


def test_numpy_integers_are_integers() -> None:
    arguments: dict[str, Any] = {
        "per_class": np.int64(2),
        "num_classes": np.int32(3),
        "seed": np.uint8(4),
    }
    source = SyntheticFlowers(**arguments)
    assert (
        repr(source)
        == "SyntheticFlowers(per_class=2, num_classes=3, seed=4, image_size=(160, 160))"
    )


def test_its_repr_makes_the_same_source() -> None:
    source = SyntheticFlowers(per_class=1, num_classes=2, seed=5, image_size=(32, 48))
    assert list(eval(repr(source))) == list(source)  # noqa: S307 - the text is our own
