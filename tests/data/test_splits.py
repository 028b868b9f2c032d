from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowercnn import ConfigurationError, Dataset, ImageFolder, InMemory, Sample, SplitError, Splits
from flowercnn.errors import OutputError
from flowercnn.sources.base import SplitName


class Listed:
    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __iter__(self):  # type: ignore[no-untyped-def]  # as a user would write it
        return iter(self.samples)


def dataset_of(counts: dict[str, int]) -> Dataset:
    samples = [
        Sample(f"{name}/{i}", name, b"") for name, count in counts.items() for i in range(count)
    ]
    return Dataset.from_source(Listed(samples))


COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 40), min_size=1)
SHARES = st.floats(0.01, 0.45)


@given(COUNTS, SHARES, SHARES, st.integers(0, 100))
@settings(deadline=None)
def test_the_parts_are_disjoint_and_together_everything(
    counts: dict[str, int], val: float, test: float, seed: int
) -> None:
    dataset = dataset_of(counts)
    parts = dataset.split(val, test, seed)
    assert sorted(key for part in parts for key in part.keys) == sorted(dataset.keys)


@given(COUNTS, SHARES, SHARES, st.integers(0, 100))
@settings(deadline=None)
def test_every_class_is_in_every_part_in_its_share(
    counts: dict[str, int], val: float, test: float, seed: int
) -> None:
    parts = dataset_of(counts).split(val, test, seed)
    for name, count in counts.items():
        in_parts = [part.class_counts()[name] for part in parts]
        assert min(in_parts) >= 1
        assert abs(in_parts[2] - test * count) <= 1
        assert abs(in_parts[1] - val * count) <= 1


@given(COUNTS, st.integers(0, 10))
@settings(deadline=None)
def test_a_split_does_not_depend_on_the_order_of_listing(counts: dict[str, int], seed: int) -> None:
    dataset = dataset_of(counts)
    backwards = Dataset.from_source(Listed(list(dataset)[::-1]))
    assert set(dataset.split(seed=seed).test.keys) == set(backwards.split(seed=seed).test.keys)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 8)), min_size=60, max_size=90),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_a_group_is_never_on_two_sides(rows: list[tuple[str, int]], seed: int) -> None:
    samples = [
        Sample(str(i), name, b"", group=f"plant {name}{group}")
        for i, (name, group) in enumerate(rows)
    ]
    dataset = Dataset.from_source(Listed(samples))
    try:
        parts = dataset.split(0.2, 0.2, seed)
    except SplitError:
        return  # said so, rather than put a group on both sides
    groups = [{sample.group for sample in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_groups_of_usual_size_do_split() -> None:
    samples = [Sample(f"{n}{i}", n, b"", group=f"{n}{i // 3}") for n in "ab" for i in range(60)]
    parts = Dataset.from_source(Listed(samples)).split(0.2, 0.2)
    assert [len(part) for part in parts] == [72, 24, 24]


def test_another_seed_is_another_split() -> None:
    dataset = dataset_of({"a": 50, "b": 50})
    assert dataset.split(seed=0).test.keys != dataset.split(seed=1).test.keys


def test_adding_pictures_moves_few_of_those_there() -> None:
    before, after = (set(dataset_of({"a": n, "b": n}).split(seed=0).test.keys) for n in (100, 110))
    assert len(before - after) <= 8


def test_no_val_asked_for_is_an_empty_val() -> None:
    train, val, test = dataset_of({"a": 10, "b": 10}).split(val=0)
    assert (len(train), len(val), len(test)) == (16, 0, 4)
    assert val.class_names == train.class_names


@pytest.mark.parametrize(
    ("val", "test"), [(0.5, 0.5), (0.9, 0.2), (-0.1, 0.2), (0.2, 1.0), ("0.2", 0.2), (True, 0)]
)
def test_shares_that_leave_nothing_are_refused(val: float, test: float) -> None:
    with pytest.raises(ConfigurationError, match="Received: (val|test)="):
        dataset_of({"a": 10, "b": 10}).split(val, test)


def test_a_share_may_be_a_number_of_numpy() -> None:
    train, val, test = dataset_of({"a": 10, "b": 10}).split(np.int64(0), np.float32(0.5))  # type: ignore[arg-type]
    assert [len(part) for part in (train, val, test)] == [10, 0, 10]


def test_a_class_too_small_for_three_parts_is_named() -> None:
    with pytest.raises(
        SplitError, match=r"at least 3 samples.*'lonely' \(1\).*leave these classes out"
    ):
        dataset_of({"a": 10, "lonely": 1}).split()


def test_groups_too_large_to_divide_are_an_error() -> None:
    samples = [Sample(f"{n}{i}", n, b"", group=n) for n in "ab" for i in range(10)]
    with pytest.raises(SplitError, match="groups"):
        Dataset.from_source(Listed(samples)).split()


def test_groups_as_large_as_a_quota_are_divided() -> None:
    samples = [Sample(f"{n}{i}", n, b"", group=f"{n}{i // 5}") for n in "abcd" for i in range(20)]
    splits = Dataset.from_source(Listed(samples)).split(val=0.2, test=0.2)
    assert [set(part.class_counts().values()) for part in splits] == [{10}, {5}, {5}]


def test_large_groups_have_a_chance_to_be_tested() -> None:
    sizes = [1] * 40 + [12]
    samples = [
        Sample(f"{n}{g}/{i}", n, b"", group=f"{n}{g}")
        for n in "ab"
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    dataset = Dataset.from_source(Listed(samples))
    tested = [
        any(key.startswith("a40/") for key in dataset.split(seed=seed).test.keys)
        for seed in range(60)
    ]
    assert 0 < sum(tested) < 30


@given(COUNTS, st.integers(2, 3), st.integers(0, 10))
@settings(deadline=None)
def test_folds_test_everything_once_and_stay_stratified(
    counts: dict[str, int], k: int, seed: int
) -> None:
    dataset = dataset_of(counts)
    folds = dataset.folds(k, seed)
    tested = Counter(key for fold in folds for key in fold.test.keys)
    assert tested == Counter(dataset.keys)
    for fold in folds:
        assert not set(fold.train.keys) & set(fold.test.keys)
        assert all(fold.test.class_counts()[n] in (c // k, c // k + 1) for n, c in counts.items())


def test_folds_leave_something_of_each_class_to_learn_from() -> None:
    samples = [
        Sample(f"{n}{i}", n, b"", group="one" if n == "c" else None)
        for n in "abc"
        for i in range(10)
    ]
    with pytest.raises(SplitError, match="in one group.*c"):
        Dataset.from_source(Listed(samples)).folds(5)


@pytest.mark.parametrize("k", [0, 1, -2, 2.5, "3"])
def test_folds_need_a_number_of_at_least_two(k: int) -> None:
    with pytest.raises(ConfigurationError, match="k must be"):
        dataset_of({"a": 10, "b": 10}).folds(k)


def test_a_saved_split_comes_back(tmp_path: Path) -> None:
    dataset = dataset_of({"a": 10, "ü": 10})
    splits = dataset.split(seed=7)
    loaded = Splits.load(splits.save(tmp_path / "splits.json"), dataset)
    assert [part.keys for part in loaded] == [part.keys for part in splits]


def test_a_split_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        dataset_of({"a": 10, "b": 10}).split().save(tmp_path / "file" / "splits.json")


def test_a_split_is_saved_to_a_path_and_read_from_one() -> None:
    dataset = dataset_of({"a": 10, "b": 10})
    with pytest.raises(ConfigurationError, match="Received: path=None"):
        dataset.split().save(None)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigurationError, match="Received: path=None"):
        Splits.load(None, dataset)  # type: ignore[arg-type]  # that is the point


def test_a_saved_split_of_other_samples_is_refused(tmp_path: Path) -> None:
    path = dataset_of({"a": 10, "b": 10}).split().save(tmp_path / "splits.json")
    with pytest.raises(SplitError, match=r"1 sample not in the split \(b/10\)"):
        Splits.load(path, dataset_of({"a": 10, "b": 11}))
    with pytest.raises(SplitError, match="other classes"):
        Splits.load(path, dataset_of({"a": 10, "c": 10}))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "flowercnn-splits", "train": 3}'])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(SplitError, match="not a split file"):
        Splits.load(path, dataset_of({"a": 10, "b": 10}))


def test_a_saved_split_is_of_a_data_set(tmp_path: Path) -> None:
    path = dataset_of({"a": 5, "b": 5}).split().save(tmp_path / "split.json")
    with pytest.raises(
        ConfigurationError, match=r"Dataset.from_source\(source\). Received: dataset=ImageFolder"
    ):
        Splits.load(path, ImageFolder("photos"))  # type: ignore[arg-type]  # that is the point


def test_a_key_in_two_parts_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of({"a": 10, "b": 10})
    path = dataset.split().save(tmp_path / "splits.json")
    content = json.loads(path.read_text())
    content["val"].append(content["train"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="1 key in two parts"):
        Splits.load(path, dataset)


def _with_parts(parts: dict[SplitName, int]) -> Dataset:
    samples = [
        Sample(f"{part}/{name}/{i}", name, b"", split=part)
        for part, count in parts.items()
        for name in "ab"
        for i in range(count)
    ]
    return Dataset.from_source(Listed(samples))


def test_predefined_parts_are_taken_as_they_are() -> None:
    splits = _with_parts({"train": 5, "val": 2, "test": 3}).predefined_split()
    assert [len(part) for part in splits] == [10, 4, 6]
    assert all(key.startswith("test/") for key in splits.test.keys)


def test_val_is_drawn_from_train_where_there_is_none() -> None:
    splits = _with_parts({"train": 10, "test": 3}).predefined_split(val=0.2)
    assert [len(part) for part in splits] == [16, 4, 6]
    assert all(key.startswith("train/") for key in splits.val.keys)


def test_test_is_drawn_from_train_where_there_is_none() -> None:
    splits = _with_parts({"train": 10, "val": 3}).predefined_split(test=0.2)
    assert [len(part) for part in splits] == [16, 6, 4]
    splits = _with_parts({"train": 10}).predefined_split(val=0.1, test=0.2)
    assert [len(part) for part in splits] == [14, 2, 4]


def test_a_class_that_cannot_be_learned_is_named(caplog: pytest.LogCaptureFixture) -> None:
    rows: list[tuple[str, SplitName]] = [
        ("a", "train"),
        ("b", "train"),
        ("a", "test"),
        ("B", "test"),
    ]
    samples = [
        Sample(f"{part}/{name}/{i}", name, b"", split=part) for name, part in rows for i in range(3)
    ]
    Dataset.from_source(Listed(samples)).predefined_split(val=0)
    assert "none in train, so that they cannot be learned: B." in caplog.text


def test_predefined_parts_must_be_there() -> None:
    with pytest.raises(SplitError, match="predefined part"):
        dataset_of({"a": 10, "b": 10}).predefined_split()
    with pytest.raises(SplitError, match="no train"):
        _with_parts({"val": 3, "test": 3}).predefined_split()


def test_labels_of_a_part_are_those_of_the_whole() -> None:
    dataset = dataset_of({"a": 10, "b": 10, "c": 10})
    only_c = dataset.subset(np.flatnonzero(dataset.labels == 2))
    assert only_c.labels.tolist() == [2] * 10


def _with_copies(
    pictures: Any, tmp_path: Path, originals: list[Path] | None = None, pairs: int = 60
) -> Path:
    """Four classes of pictures with exact copies and near-copies in other classes."""
    folder = tmp_path / "photos"
    for name in "abcd":
        (folder / name).mkdir(parents=True)
    for number in range(4 * pairs):
        image = pictures.texture(number) if originals is None else Image.open(originals[number])
        path = folder / "abcd"[number % 4] / f"{number}.jpg"
        image.save(path, quality=92)
        other = folder / "abcd"[(number // 4) % 4]
        if number < pairs:
            (other / f"exact{number}.jpg").write_bytes(path.read_bytes())
        elif number < 2 * pairs:
            pictures.copy_of(image, number, number).save(other / f"near{number}.jpg", quality=90)
    return folder


def _straddling(parts: list[Dataset]) -> list[str]:
    side = {key: number for number, part in enumerate(parts) for key in part.keys}
    home = {key.split("/")[1]: key for key in side}
    copies = [key for key in side if "exact" in key or "near" in key]
    assert len(copies) >= 40
    return [
        key
        for key in copies
        if side[key] != side[home[key.split("/")[1].removeprefix("exact").removeprefix("near")]]
    ]


def test_no_copy_straddles_a_split_or_a_fold(pictures: Any, tmp_path: Path) -> None:
    dataset = Dataset.from_source(ImageFolder(_with_copies(pictures, tmp_path)))
    for seed in range(3):
        splits = dataset.split(seed=seed, progress=False)
        assert _straddling(list(splits)) == []
        assert splits.overlaps(progress=False) == []
        assert _straddling([fold.test for fold in dataset.folds(4, seed, progress=False)]) == []
        assert min(min(part.class_counts().values()) for part in splits) >= 8
    assert _straddling(list(dataset.split(duplicates="ignore"))) != []


def test_no_copy_of_a_photograph_straddles_a_split(
    pictures: Any, tmp_path: Path, photographs: Path
) -> None:
    originals = sorted(photographs.glob("*/*.jpg"))[::4]
    dataset = Dataset.from_source(ImageFolder(_with_copies(pictures, tmp_path, originals)))
    assert _straddling(list(dataset.split(progress=False))) == []


def test_overlaps_are_an_error_that_lists_the_pairs(pictures: Any, tmp_path: Path) -> None:
    dataset = Dataset.from_source(ImageFolder(_with_copies(pictures, tmp_path, pairs=20)))
    leaky = dataset.split(duplicates="ignore")
    path = leaky.save(tmp_path / "splits.json")
    with pytest.raises(
        SplitError,
        match=r"pairs of samples.*(train|val) \w/\w+.jpg = (val|test) .*(same file|near-dup)",
    ):
        Splits.load(path, dataset, progress=False)
    assert Splits.load(path, dataset, check=False).test.keys == leaky.test.keys
    sound = dataset.split(progress=False)
    assert Splits.load(sound.save(path), dataset, progress=False).test.keys == sound.test.keys


def test_groups_and_keys_on_two_sides_are_overlaps() -> None:
    samples = [
        Sample(f"{name}{i}", name, b"", group="plant" if i < 2 else None)
        for name in "a"
        for i in range(4)
    ]
    dataset = Dataset.from_source(Listed(samples))
    splits = Splits(dataset.subset([0, 2]), dataset.subset([1]), dataset.subset([2, 3]))
    told = [
        (overlap.first, overlap.second, overlap.reason)
        for overlap in splits.overlaps(progress=False)
    ]
    assert told == [("train a0", "val a1", "same group"), ("train a2", "test a2", "same key")]


def test_a_split_goes_by_content_and_not_by_name(pictures: Any, tmp_path: Path) -> None:
    folder = _with_copies(pictures, tmp_path, pairs=10)
    before = Dataset.from_source(ImageFolder(folder)).split(progress=False)
    names = {path: path.with_name(f"renamed-{path.name}") for path in folder.rglob("*.jpg")}
    for old, new in names.items():
        old.rename(new)
    after = Dataset.from_source(ImageFolder(folder)).split(progress=False)
    assert {key.replace("/", "/renamed-") for key in before.test.keys} == set(after.test.keys)


def test_predefined_parts_with_copies_are_an_error_or_lose_them(
    pictures: Any, tmp_path: Path
) -> None:
    folder = _with_copies(pictures, tmp_path, pairs=5)
    samples = [
        Sample(
            s.key,
            s.label,
            s.image,
            split="test" if "exact" in s.key or "near" in s.key else "train",
        )
        for s in ImageFolder(folder)
    ]
    dataset = Dataset.from_source(Listed(samples))
    with pytest.raises(SplitError, match="10 pairs of samples"):
        dataset.predefined_split(progress=False)
    dropped = dataset.predefined_split(val=0, duplicates="drop", progress=False)
    assert [len(part) for part in dropped] == [10, 0, 10]
    ignored = dataset.predefined_split(val=0, duplicates="ignore")
    assert [len(part) for part in ignored] == [20, 0, 10]
    for wrong in ("group", "keep"):
        with pytest.raises(ConfigurationError, match="duplicates must be"):
            dataset.predefined_split(duplicates=wrong)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigurationError, match="duplicates must be"):
        dataset.split(duplicates="drop")  # type: ignore[arg-type]  # that is the point


def test_blank_pictures_are_no_copies_of_one_another() -> None:
    blank = InMemory(np.zeros((20, 16, 16, 3), np.uint8), ["a", "b"] * 10)
    assert [len(part) for part in Dataset.from_source(blank).split(progress=False)] == [14, 2, 4]


def test_pictures_are_read_once_for_all_that_is_asked(pictures: Any, tmp_path: Path) -> None:
    reads: list[int] = []

    def read(number: int) -> bytes:
        reads.append(number)
        return (tmp_path / f"{number}.jpg").read_bytes()

    for number in range(20):
        pictures.texture(number).save(tmp_path / f"{number}.jpg")
    samples = [Sample(str(n), "ab"[n % 2], partial(read, n)) for n in range(20)]
    dataset = Dataset.from_source(Listed(samples))
    splits = dataset.split(progress=False)
    dataset.audit(progress=False)
    splits.check(progress=False)
    splits.train.folds(2, progress=False)
    assert sorted(reads) == list(range(20))
