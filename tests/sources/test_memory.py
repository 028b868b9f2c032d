from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowercnn import ConfigurationError, Dataset, InMemory

PICTURES = np.zeros((3, 8, 8, 3), dtype=np.uint8)


def test_every_picture_has_its_label_and_number() -> None:
    samples = list(InMemory(PICTURES, ["rose", "daisy", None]))
    assert [(sample.key, sample.label) for sample in samples] == [
        *(("000000", "rose"), ("000001", "daisy"), ("000002", None))
    ]


def test_keys_can_be_given() -> None:
    assert [sample.key for sample in InMemory(PICTURES, ["a"] * 3, keys=["x", "y", "z"])] == [
        "x",
        "y",
        "z",
    ]


def test_keys_of_a_series_are_taken_by_position() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    keys = pandas.Series(np.array(["x", "y", "z"]), index=[2, 0, 1])
    assert [sample.key for sample in InMemory(PICTURES, ["a"] * 3, keys=keys)] == ["x", "y", "z"]


def test_keys_in_an_array_become_plain_strings() -> None:
    keys = [sample.key for sample in InMemory(PICTURES, ["a"] * 3, keys=np.array(["x", "y", "z"]))]  # type: ignore[arg-type]  # as users have them
    assert [type(key) for key in keys] == [str] * 3


@pytest.mark.parametrize("label", [1, 1.5, "", ["a"]])
def test_a_label_that_is_no_name_is_refused_with_its_place_and_the_way_out(label: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"labels\[1\] must be.*from_arrays\(images, labels\)"
    ):
        InMemory(PICTURES, ["a", label, "b"])


@pytest.mark.parametrize("name", ["images", "labels", "keys"])
def test_what_has_no_length_is_refused(name: str) -> None:
    arguments: dict[str, Any] = {"images": PICTURES, "labels": ["a"] * 3, "keys": ["x", "y", "z"]}
    with pytest.raises(ConfigurationError, match=f"{name} must be a sequence.*Received: generator"):
        InMemory(**{**arguments, name: (each for each in arguments[name])})


def test_classes_can_be_given_in_their_order() -> None:
    dataset = Dataset.from_source(InMemory(PICTURES, ["a", "b", "a"], class_names=["c", "b", "a"]))
    assert dataset.labels.tolist() == [2, 1, 2]


def test_nothing_is_copied() -> None:
    first = next(iter(InMemory(PICTURES, ["a"] * 3)))
    assert np.shares_memory(first.image, PICTURES)


def test_the_number_of_pictures_is_known() -> None:
    assert len(InMemory(PICTURES, ["a"] * 3)) == 3


def test_numpy_strings_become_plain_ones() -> None:
    labels = [sample.label for sample in InMemory(PICTURES, np.array(["a", "b", "c"]))]
    assert [type(label) for label in labels] == [str] * 3


@pytest.mark.parametrize(
    "image",
    [
        "1.png",
        Path("1.png"),
        b"PNG",
        Image.new("RGB", (8, 8)),
        PICTURES[0],
        PICTURES[0, ..., 0],
        lambda: b"",
    ],
    ids=["str", "Path", "bytes", "Pillow", "array", "grey array", "function"],
)
def test_a_picture_can_be_of_any_kind_a_sample_can_have(image: Any) -> None:
    assert next(iter(InMemory([image], ["a"]))).image is image


@pytest.mark.parametrize(
    "image", [PICTURES[0].astype(float), PICTURES[0, 0, 0]], ids=["floats", "one dimension"]
)
def test_an_array_that_is_no_uint8_picture_is_refused_with_its_place(image: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"images\[1\] must be a uint8 array .*Received: dtype"
    ):
        InMemory([PICTURES[0], image], ["a", "b"])


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"images\[0\] must be a path.*Received: int"):
        InMemory([3], ["a"])


@pytest.mark.parametrize(("labels", "keys"), [(["a"], None), (["a"] * 3, ["x"])])
def test_lengths_that_differ_are_refused(labels: list[str], keys: list[str] | None) -> None:
    with pytest.raises(ConfigurationError, match="equally many. Received: {'images': 3"):
        InMemory(PICTURES, labels, keys=keys)
