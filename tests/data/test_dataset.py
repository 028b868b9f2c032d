from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flowercnn as fc
from flowercnn import (
    ConfigurationError,
    DataError,
    Dataset,
    DataSource,
    FlowerCNNError,
    Sample,
    SourceError,
    UnknownNameError,
)
from flowercnn.data import as_dataset


class Rows:
    """A source as a newcomer writes it."""

    def __init__(self, *rows: tuple[str, str | None]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Sample]:
        for path, label in self.rows:
            yield Sample(key=path, label=label, image=path)


def test_a_class_of_five_lines_is_a_source() -> None:
    source = Rows(("1.jpg", "rose"), ("2.jpg", "daisy"))
    assert isinstance(source, DataSource)
    dataset = Dataset.from_source(source)
    assert dataset.keys == ("1.jpg", "2.jpg")
    assert dataset.class_names == ("daisy", "rose")
    assert dataset.labels.tolist() == [1, 0]


def test_declared_classes_keep_their_order_and_those_without_samples() -> None:
    source = Rows(("1", "rose"))
    source.class_names = ["tulip", "rose"]  # type: ignore[attr-defined]  # optional by duck typing
    dataset = Dataset.from_source(source)
    assert dataset.class_counts() == {"tulip": 0, "rose": 1}


def test_class_names_given_go_before_those_declared() -> None:
    assert Dataset.from_source(
        Rows(("1", "b"), ("2", "a")), class_names=["b", "a"]
    ).labels.tolist() == [0, 1]


def test_a_label_that_is_no_class_is_named() -> None:
    with pytest.raises(UnknownNameError, match="'rouse'"):
        Dataset.from_source(Rows(("1", "rouse")), class_names=["rose"])


def test_a_data_set_is_a_source_of_itself() -> None:
    dataset = Dataset.from_source(Rows(("1", "b"), ("2", "a")), class_names=["b", "a"])
    assert Dataset.from_source(dataset).class_names == ("b", "a")


def test_missing_labels_are_an_error_or_left_out() -> None:
    source = Rows(("1", "a"), ("2", None))
    with pytest.raises(DataError, match=r"1 of 2 samples have no label: 2\..*unlabelled='skip'"):
        Dataset.from_source(source)
    assert Dataset.from_source(source, unlabelled="skip").keys == ("1",)


def test_repeated_keys_are_named() -> None:
    with pytest.raises(DataError, match=r"'same' \(2 times\)"):
        Dataset.from_source(Rows(("same", "a"), ("same", "b"), ("other", "a")))


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        Dataset.from_source(Rows())
    with pytest.raises(DataError, match="no labelled samples"):
        Dataset.from_source(Rows(("1", None)), unlabelled="skip")


def test_a_path_or_a_uri_is_taken_wherever_a_source_is(photo_folder: Path) -> None:
    listed = Dataset.from_source(fc.ImageFolder(photo_folder))
    for source in (photo_folder, str(photo_folder), f"folder:{photo_folder}"):
        assert Dataset.from_source(source).keys == listed.keys
        assert as_dataset(source).labels.tolist() == listed.labels.tolist()
    assert as_dataset(listed) is listed
    with pytest.raises(SourceError, match="photos-of-nobody"):
        Dataset.from_source("photos-of-nobody")


@pytest.mark.parametrize("source", [b"photos", 3, None])
def test_what_is_no_source_is_refused_with_the_way_out(source: DataSource) -> None:
    with pytest.raises(ConfigurationError, match="ImageFolder"):
        Dataset.from_source(source)


def test_a_source_of_other_things_is_told_so() -> None:
    with pytest.raises(ConfigurationError, match=r"must yield flowercnn.Sample.*tuple"):
        Dataset.from_source([("1.jpg", "rose")])  # type: ignore[list-item]  # that is the point


@pytest.mark.parametrize(
    "fields",
    [
        {"key": ""},
        {"key": 3},
        {"label": ""},
        {"label": 3},
        {"group": 1},
        {"split": "training"},
    ],
)
def test_a_sample_with_a_wrong_field_is_refused(fields: dict[str, object]) -> None:
    good: dict[str, object] = {"key": "k", "label": "l", "image": b""}
    with pytest.raises(ConfigurationError, match=f"Sample {next(iter(fields))} must be"):
        Sample(**(good | fields))  # type: ignore[arg-type]  # that is the point


def test_labels_cannot_be_changed(coloured: Dataset) -> None:
    with pytest.raises(ValueError, match="read-only"):
        coloured.labels[0] = 2


def test_a_slice_is_a_data_set(coloured: Dataset) -> None:
    assert coloured[3].key == coloured[3:5][0].key
    assert coloured[::-1].keys == coloured.keys[::-1]
    assert coloured[:0].class_names == coloured.class_names


def test_subsets_keep_order_and_classes(coloured: Dataset) -> None:
    part = coloured.subset([5, 2])
    assert part.keys == (coloured.keys[5], coloured.keys[2])
    assert part.class_names == coloured.class_names
    assert coloured.subset(coloured.labels == 1).class_counts() == {
        "blue": 0,
        "green": 10,
        "red": 0,
    }
    assert len(coloured.subset([])) == 0


@pytest.mark.parametrize("indices", [[-1], [30], [0, 0], [0.5], [[0]], np.ones(3, dtype=bool)])
def test_wrong_positions_are_refused(coloured: Dataset, indices: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="indices must"):
        coloured.subset(indices)


def test_fingerprints_tell_data_apart_and_not_orders(coloured: Dataset) -> None:
    assert coloured.fingerprint() == coloured.subset(np.arange(30)[::-1]).fingerprint()
    assert coloured.fingerprint() != coloured.subset(np.arange(29)).fingerprint()


def test_the_repr_is_one_line(coloured: Dataset) -> None:
    assert repr(coloured) == "Dataset(30 samples, 3 classes: blue, green, red)"


def test_every_error_of_from_source_is_a_flowercnn_error() -> None:
    assert issubclass(DataError, FlowerCNNError)
    assert issubclass(DataError, ValueError)
