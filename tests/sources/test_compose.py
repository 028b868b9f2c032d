from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowercnn import ConfigurationError, DataError, Dataset, Sample, UnknownNameError, sources
from flowercnn.sources.base import declared_class_names


class Rows:
    """A source of key and label pairs that counts how often it is listed."""

    def __init__(self, *rows: tuple[str, str | None], class_names: list[str] | None = None) -> None:
        self.rows = rows
        self.class_names = class_names
        self.listed = 0

    def __iter__(self) -> Iterator[Sample]:
        self.listed += 1
        for key, label in self.rows:
            yield Sample(key, label, b"", group=f"group of {key}", split="train")


def pairs(source: Any) -> list[tuple[str, str | None]]:
    return [(sample.key, sample.label) for sample in source]


ROWS = (("1", "rose"), ("2", "daisy"), ("3", "rose"), ("4", None), ("5", "tulip"), ("6", "rose"))


def test_concat_gives_one_source_after_the_other() -> None:
    both = sources.concat(Rows(("1", "a")), Rows(("2", "b"), ("3", "a")))
    assert pairs(both) == pairs(both) == [("1", "a"), ("2", "b"), ("3", "a")]


def test_named_sources_have_their_name_in_front_of_the_keys() -> None:
    both = sources.concat(Rows(("1", "a")), x=Rows(("1", "a")), y=Rows(("1", "b")))
    assert pairs(both) == [("1", "a"), ("x/1", "a"), ("y/1", "b")]
    assert {(sample.group, sample.split) for sample in both} == {("group of 1", "train")}


def test_concat_refuses_a_key_that_comes_twice_and_says_the_way_out() -> None:
    with pytest.raises(DataError, match=r"key '1'\. Name the sources"):
        list(sources.concat(Rows(("1", "a")), Rows(("1", "b"))))


def test_concat_declares_the_classes_of_all_in_order() -> None:
    both = sources.concat(Rows(class_names=["b", "a"]), Rows(class_names=["c", "a"]))
    assert declared_class_names(both) == ("b", "a", "c")


def test_concat_declares_nothing_if_one_declares_nothing() -> None:
    assert declared_class_names(sources.concat(Rows(class_names=["b", "a"]), Rows())) is None


def test_filter_keeps_what_it_is_told_to() -> None:
    assert pairs(sources.filter(Rows(*ROWS), lambda sample: sample.key > "4")) == [
        ("5", "tulip"),
        ("6", "rose"),
    ]


def test_filter_keeps_the_declared_classes() -> None:
    few = sources.filter(
        Rows(*ROWS, class_names=["tulip", "rose", "daisy"]), lambda sample: sample.label == "rose"
    )
    assert Dataset.from_source(few).class_counts() == {"tulip": 0, "rose": 3, "daisy": 0}


def test_labels_are_renamed_and_merged_and_the_others_stay() -> None:
    merged = sources.map_labels(Rows(*ROWS), {"tulip": "bulb", "daisy": "bulb"})
    assert [label for _, label in pairs(merged)] == ["rose", "bulb", "rose", None, "bulb", "rose"]


def test_labels_are_mapped_by_a_function() -> None:
    assert [label for _, label in pairs(sources.map_labels(Rows(*ROWS), str.upper))][:2] == [
        "ROSE",
        "DAISY",
    ]


def test_a_label_mapped_to_none_is_taken_away() -> None:
    dataset = Dataset.from_source(
        sources.map_labels(Rows(*ROWS), {"rose": None}), unlabelled="skip"
    )
    assert dataset.keys == ("2", "5")


def test_mapped_labels_keep_group_part_and_image() -> None:
    before, after = list(Rows(*ROWS)), list(sources.map_labels(Rows(*ROWS), str.upper))
    assert [(s.group, s.split, s.image) for s in before] == [
        (s.group, s.split, s.image) for s in after
    ]


def test_declared_classes_are_mapped_too() -> None:
    mapped = sources.map_labels(Rows(class_names=["a", "b", "c", "d"]), {"c": "a", "d": None})
    assert declared_class_names(mapped) == ("a", "b")


def test_a_name_in_the_mapping_that_no_sample_has_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'daisy'\? Received: 'dasy'"):
        list(sources.map_labels(Rows(*ROWS), {"dasy": "bulb"}))


def test_a_declared_class_without_samples_may_be_mapped() -> None:
    assert (
        len(
            list(
                sources.map_labels(
                    Rows(*ROWS[:3], class_names=["rose", "daisy", "lily"]), {"lily": "x"}
                )
            )
        )
        == 3
    )


def test_limit_takes_the_first_of_each_class() -> None:
    assert [key for key, _ in pairs(sources.limit(Rows(*ROWS), per_class=2))] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]


def test_limit_with_a_seed_draws_in_the_order_of_the_source() -> None:
    many = Rows(*((f"{number:03d}", "ab"[number % 2]) for number in range(100)))
    drawn = [key for key, _ in pairs(sources.limit(many, per_class=10, seed=1))]
    assert drawn == sorted(drawn)
    assert drawn == [key for key, _ in pairs(sources.limit(many, per_class=10, seed=1))]
    assert drawn != [key for key, _ in pairs(sources.limit(many, per_class=10, seed=2))]
    assert drawn != [f"{number:03d}" for number in range(20)]


def test_a_drawn_choice_does_not_depend_on_the_order_of_listing() -> None:
    rows = [(f"{number:03d}", "a") for number in range(50)]
    forward, backward = (
        sources.limit(Rows(*each), per_class=7, seed=3) for each in (rows, rows[::-1])
    )
    assert sorted(pairs(forward)) == sorted(pairs(backward))


@given(
    st.lists(st.sampled_from(["a", "b", "c", None])),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(0, 2**62)),
)
def test_limit_never_takes_more_and_never_fewer_than_there_are(
    labels: list[str | None], per_class: int, seed: int | None
) -> None:
    source = Rows(*((str(place), label) for place, label in enumerate(labels)))
    counts = Counter(
        label for _, label in pairs(sources.limit(source, per_class=per_class, seed=seed))
    )
    assert counts == {label: min(count, per_class) for label, count in Counter(labels).items()}


@pytest.mark.parametrize(
    "compose",
    [
        lambda source: sources.concat(source, x=Rows()),
        lambda source: sources.filter(source, bool),
        lambda source: sources.map_labels(source, str.upper),
        lambda source: sources.limit(source, per_class=1),
        lambda source: sources.limit(source, per_class=1, seed=0),
    ],
    ids=["concat", "filter", "map_labels", "limit", "limit with a seed"],
)
def test_nothing_is_listed_before_it_is_wanted_and_then_once(compose: Any) -> None:
    source = Rows(*ROWS)
    composed = compose(source)
    assert source.listed == 0
    list(composed)
    assert source.listed == 1


def test_composed_sources_compose() -> None:
    source = sources.limit(
        sources.map_labels(sources.concat(a=Rows(*ROWS), b=Rows(*ROWS)), str.title), per_class=1
    )
    assert pairs(source) == [("a/1", "Rose"), ("a/2", "Daisy"), ("a/4", None), ("a/5", "Tulip")]


@pytest.mark.parametrize(
    "call",
    [
        sources.concat,
        lambda: sources.concat("photos"),  # type: ignore[arg-type]
        lambda: sources.filter(Rows(), "rose"),  # type: ignore[arg-type]
        lambda: sources.filter(3, bool),  # type: ignore[arg-type]
        lambda: sources.map_labels(Rows(), "rose"),  # type: ignore[arg-type]
        lambda: sources.limit(Rows(), per_class=0),
        lambda: sources.limit(Rows(), per_class=True),
        lambda: sources.limit(Rows(), per_class=1, seed=-1),
    ],
)
def test_wrong_arguments_are_refused_at_once(call: Any) -> None:
    with pytest.raises(ConfigurationError, match="Received"):
        call()


NUMBERS: Any = [1]


@pytest.mark.parametrize(
    "source",
    [
        sources.concat(NUMBERS),
        sources.filter(NUMBERS, bool),
        sources.map_labels(NUMBERS, {}),
        sources.limit(NUMBERS, per_class=1),
        sources.limit(NUMBERS, per_class=1, seed=0),
    ],
)
def test_a_list_of_something_else_is_no_source(source: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"must yield flowercnn\.Sample.*Received from list: int"
    ):
        list(source)


def test_the_limit_may_be_an_integer_of_numpy() -> None:
    assert len(list(sources.limit(Rows(*ROWS), per_class=np.int64(2)))) == 5  # type: ignore[arg-type]
