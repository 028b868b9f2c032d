"""Every built-in source keeps the contract, and `check_source` finds every way to break it."""

from __future__ import annotations

import csv
import io
import itertools
import random
import tarfile
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowercnn import (
    ConfigurationError,
    Flower17,
    ImageFolder,
    ImageTable,
    InMemory,
    Sample,
    SyntheticFlowers,
    sources,
)
from flowercnn.sources.base import checked_class_names
from flowercnn.testing import check_source, source_problems


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [png(number) for number in range(12)]
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters='/\\:*?"<>|. '),
    min_size=1,
    max_size=8,
)


def write_folder(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = root / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURES[number % len(PICTURES)])
    return root


def make_folder(root: Path) -> Any:
    return ImageFolder(write_folder(root / "photos", ["rose", "daisy", "rose"]))


def make_parts(root: Path) -> Any:
    return ImageFolder(write_folder(root / "photos", ["train/rose", "val/rose", "test/rose"]))


def make_zip(root: Path) -> Any:
    with zipfile.ZipFile(root / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, picture in enumerate(PICTURES):
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", picture)
    return ImageFolder(root / "photos.zip")


def make_tar(root: Path) -> Any:
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(write_folder(root / "photos", ["rose", "daisy"]), "photos")
    return ImageFolder(root / "photos.tar")


def make_url(root: Path) -> Any:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    write_folder(root / "photos", ["rose", "daisy"])
    return ImageFolder((root / "photos").as_uri())


def make_table(root: Path) -> Any:
    write_folder(root, ["rose", "daisy"])
    (root / "t.csv").write_text("f,c,g,s\nrose/0.png,rose,1,train\ndaisy/1.png,daisy,2,test\n")
    return ImageTable(root / "t.csv", image="f", label="c", group="g", split="s")


def make_flower17(root: Path) -> Any:
    for number in (1, 81, 1360):
        (root / f"image_{number:04d}.jpg").write_bytes(PICTURES[0])
    return Flower17(root, download=False)


def make_concat(root: Path) -> Any:
    return sources.concat(here=make_folder(root / "1"), there=make_folder(root / "2"))


def make_limit(root: Path) -> Any:
    return sources.limit(make_folder(root), per_class=1, seed=3)


def make_filter(root: Path) -> Any:
    return sources.filter(make_folder(root), lambda sample: sample.label == "rose")


def make_mapped(root: Path) -> Any:
    return sources.map_labels(make_folder(root), {"rose": "daisy"})


def make_memory(_: Path) -> Any:
    return InMemory(np.zeros((3, 8, 8, 3), np.uint8), ["a", "b", None])


def make_synthetic(_: Path) -> Any:
    return SyntheticFlowers(per_class=2, num_classes=3, image_size=(32, 32))


def make_arrays(_: Path) -> Any:
    return sources.from_arrays(np.zeros((3, 8, 8)), [0, 1, 0], class_names=["a", "b"])


BUILT_IN: list[Callable[[Path], Any]] = [
    *(
        make_folder,
        make_parts,
        make_zip,
        make_tar,
        make_url,
        make_table,
        make_flower17,
        make_memory,
        make_synthetic,
    ),
    *(make_arrays, make_concat, make_limit, make_filter, make_mapped),
]


@pytest.mark.parametrize("make", BUILT_IN, ids=lambda make: make.__name__.removeprefix("make_"))
def test_every_built_in_source_keeps_the_contract(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    check_source(make(tmp_path))


def zip_of(root: Path, names: list[str]) -> Any:
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(f"{name}/{number}.png", PICTURES[number])
    return ImageFolder(root / "photos.zip")


def tar_of(root: Path, names: list[str]) -> Any:
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(write_folder(root / "photos", names), "photos")
    return ImageFolder(root / "photos.tar")


def url_of(root: Path, names: list[str]) -> Any:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    return ImageFolder(f"file://{write_folder(root / 'photos', names)}")


def table_of(root: Path, names: list[str]) -> Any:
    write_folder(root, ["x"] * len(names))
    rows = {"image": [f"x/{number}.png" for number in range(len(names))], "label": names}
    return ImageTable(rows, image="image", label="label", root=root)


def csv_of(root: Path, names: list[str]) -> Any:
    write_folder(root, ["x"] * len(names))
    with (root / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("f", "c"), *((f"x/{number}.png", name) for number, name in enumerate(names))]
        )
    return ImageTable(root / "t.csv", image="f", label="c")


def memory_of(_: Path, names: list[str]) -> Any:
    return InMemory(PICTURES[: len(names)], names)


def composed_of(root: Path, names: list[str]) -> Any:
    both = sources.concat(here=memory_of(root, names), there=table_of(root, names))
    kept = sources.filter(both, lambda sample: not sample.key.endswith("1.png"))
    return sources.limit(sources.map_labels(kept, {names[0]: "first"}), per_class=2, seed=0)


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda root, names: ImageFolder(write_folder(root / "photos", names)),
            zip_of,
            tar_of,
            url_of,
        ),
        *(table_of, csv_of, memory_of, composed_of),
    ],
    ids=["folder", "zip", "tar", "url", "frame", "csv", "memory", "composed"],
)
@settings(max_examples=10, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=6))
def test_sources_of_any_names_keep_the_contract(
    make: Callable[[Path, list[str]], Any],
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
) -> None:
    composed = [unicodedata.normalize("NFC", name) for name in names]
    source = make(tmp_path_factory.mktemp("photos"), composed)
    check_source(source, images=3)
    assert {sample.label for sample in source} <= {*composed, "first"}


class Good:
    """A source that keeps the contract, for others to break."""

    def __iter__(self) -> Iterator[Sample]:
        for number, picture in enumerate(PICTURES):
            yield Sample(key=str(number), label="ab"[number % 2], image=picture)


class NewKeys(Good):
    def __iter__(self) -> Iterator[Sample]:
        for sample in super().__iter__():
            yield Sample(f"{sample.key}-{random.random()}", sample.label, sample.image)


class NewOrder(Good):
    def __init__(self) -> None:
        self.turns = 0

    def __iter__(self) -> Iterator[Sample]:
        self.turns += 1
        yield from list(super().__iter__())[:: (-1) ** self.turns]


class NewLabels(Good):
    def __init__(self) -> None:
        self.labels = itertools.cycle(["a", "b", "c", "d", "e"])

    def __iter__(self) -> Iterator[Sample]:
        for sample in super().__iter__():
            yield Sample(sample.key, next(self.labels), sample.image)


class NewGroups(NewLabels):
    def __iter__(self) -> Iterator[Sample]:
        for sample in super().__iter__():
            yield Sample(sample.key, "a", sample.image, group=sample.label)


class FewerAgain(Good):
    def __init__(self) -> None:
        self.left = 12

    def __iter__(self) -> Iterator[Sample]:
        yield from itertools.islice(super().__iter__(), self.left)
        self.left -= 1


class Repeated(Good):
    def __iter__(self) -> Iterator[Sample]:
        yield from super().__iter__()
        yield from super().__iter__()


class SharedState(Good):
    def __iter__(self) -> Iterator[Sample]:
        self.rows = super().__iter__()
        while True:
            try:
                yield next(self.rows)
            except StopIteration:
                return


class Once(Good):
    def __init__(self) -> None:
        self.rows = super().__iter__()

    def __iter__(self) -> Iterator[Sample]:
        return self

    def __next__(self) -> Sample:
        return next(self.rows)


class Pairs:
    def __iter__(self) -> Iterator[Any]:
        yield "1.jpg", "rose"


class Empty:
    def __iter__(self) -> Iterator[Sample]:
        return iter(())


class Failing(Good):
    def __iter__(self) -> Iterator[Sample]:
        yield from super().__iter__()
        raise KeyError("row 13")


class Slow(Good):
    def __iter__(self) -> Iterator[Sample]:
        for sample in super().__iter__():
            time.sleep(0.02)
            yield sample


class SlowBefore(Good):
    def __iter__(self) -> Iterator[Sample]:
        time.sleep(0.2)
        return super().__iter__()


class WrongLength(Good):
    def __len__(self) -> int:
        return 11


class MissingClass(Good):
    class_names = ("a",)


class TwoSameClasses(Good):
    class_names = ("a", "b", "a")


class ClassesInASet(Good):
    class_names = frozenset({"a", "b"})


class ClassesByAMethod(Good):
    def class_names(self) -> list[str]:
        return ["a", "b"]


class ClassesThatFail(Good):
    @property
    def class_names(self) -> list[str]:
        raise KeyError("species")


class ClassesWithoutAttribute(Good):
    @property
    def class_names(self) -> list[str]:
        return self.species  # type: ignore[attr-defined, no-any-return]  # that is the mistake


class ClassesInNewOrder(Good):
    def __init__(self) -> None:
        self.turns = 0

    @property
    def class_names(self) -> list[str]:
        self.turns += 1
        return ["a", "b"][:: (-1) ** self.turns]


class RepeatedKeysOnly(Good):
    """Two keys for twelve samples with labels and pictures of their own."""

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__()):
            yield Sample(f"k{number // 6}", sample.label, sample.image)


class WithImages(Good):
    """Pictures made by a function of the encoded bytes."""

    def __init__(self, image: Callable[[bytes], Any]) -> None:
        self.image = image

    def __iter__(self) -> Iterator[Sample]:
        for sample in super().__iter__():
            yield Sample(sample.key, sample.label, self.image(sample.image))  # type: ignore[arg-type]  # bytes


class SharedFile(Good):
    """All pictures in one open file, whose position the threads take from one another."""

    def __iter__(self) -> Iterator[Sample]:
        file = io.BytesIO(b"".join(PICTURES))
        start = 0
        for number, picture in enumerate(PICTURES):
            yield Sample(str(number), "a", self.reader(file, start, len(picture)))
            start += len(picture)

    def reader(self, file: io.BytesIO, start: int, size: int) -> Callable[[], bytes]:
        def read() -> bytes:
            file.seek(start)
            time.sleep(0.001)
            return file.read(size)

        return read


class LockedFile(SharedFile):
    def reader(self, file: io.BytesIO, start: int, size: int) -> Callable[[], bytes]:
        def locked() -> bytes:
            with LOCK:
                return super(LockedFile, self).reader(file, start, size)()

        return locked


LOCK = threading.Lock()


def used_up(picture: bytes) -> Any:
    return io.BytesIO(picture).read


def noise(_: bytes) -> Any:
    return lambda: png(random.randrange(10**6))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (NewKeys(), "The keys change from one iteration to the next"),
        (NewOrder(), "The order changes from one iteration to the next"),
        (NewLabels(), "The label of .* changes from one iteration to the next"),
        (NewGroups(), "The group of .* changes from one iteration to the next"),
        (FewerAgain(), "A second iteration gives 11 samples instead of 12"),
        (Repeated(), r"Every key must come once. Received: '0' \(2 times\)"),
        (
            RepeatedKeysOnly(),
            r"Every key must come once. Received: 'k0' \(6 times\), 'k1' \(6 times\)",
        ),
        (SharedState(), "Two iterations at once disturb each other"),
        (Once(), "It is an iterator: it can be iterated only once"),
        (
            Pairs(),
            r"It must yield flowercnn.Sample\(key, label, image\). Received: tuple \('1.jpg'",
        ),
        (Empty(), "It yields no samples"),
        (Failing(), "Iterating over it failed: KeyError: 'row 13'"),
        (Slow(), r"Listing is slow: \d\.\d+ s for 12 samples"),
        (SlowBefore(), r"Listing is slow: \d\.\d+ s for 12 samples"),
        (WrongLength(), r"len\(\) says 11, but there are 12 samples"),
        (MissingClass(), "class_names must have every label. Missing: b"),
        (TwoSameClasses(), "class_names must be distinct"),
        (
            ClassesInASet(),
            "class_names must be in a fixed order: a list or tuple.*Received: a frozenset",
        ),
        (
            ClassesByAMethod(),
            "class_names must be an attribute or property.*Put @property above it",
        ),
        (ClassesThatFail(), "class_names failed: KeyError: 'species'"),
        (ClassesWithoutAttribute(), "class_names failed: AttributeError: .*species"),
        (
            ClassesInNewOrder(),
            "class_names must be the same at each access. Received: a, b, then b, a",
        ),
        (3, "It has no __iter__ method"),
        ("photos", "It has no __iter__ method"),
        (WithImages(used_up), "cannot be read twice with the same result"),
        (WithImages(noise), "cannot be read twice with the same result"),
        (WithImages(lambda _: "nowhere.jpg"), r"The image of '0' cannot be used: .*No such file"),
        (WithImages(lambda _: b"not a picture"), "The image of '0' cannot be used: not an image"),
        (WithImages(lambda _: PICTURES[0][:60]), "cannot be used: damaged or cut short"),
        (
            WithImages(lambda _: np.zeros((8, 8, 3))),
            "cannot be used: an array must be uint8.*float64",
        ),
        (
            WithImages(lambda _: np.zeros((3, 8, 8), np.uint8)),
            r"cannot be used: an array must be .*\(3, 8, 8\)",
        ),
        (WithImages(lambda _: 3), "Sample image must be a path.*Received: int"),
        (
            WithImages(lambda _: lambda: "text"),
            "cannot be used: an image function must return bytes",
        ),
        (WithImages(lambda _: lambda: 1 / 0), "cannot be used: .*ZeroDivisionError"),
        (SharedFile(), "Read by several threads at once, the image of"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_is_wrong_with_a_source_is_said_in_a_sentence(
    source: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowercnn.testing.sources._NOTICEABLE", 0.1)
    with pytest.raises(
        AssertionError, match=f"does not keep the contract of a source:\n- .*{sentence}"
    ) as caught:
        check_source(source)
    others = [line for line in str(caught.value).splitlines()[2:] if "image" not in line]
    assert others == []


@pytest.mark.parametrize("source", [Good(), LockedFile()], ids=["good", "locked"])
def test_nothing_is_wrong_with_a_source_that_keeps_the_contract(source: Any) -> None:
    assert source_problems(source) == []


def test_everything_that_is_wrong_is_said_at_once() -> None:
    class Bad(Repeated, WrongLength, MissingClass):
        pass

    assert len(source_problems(Bad())) == 3


def test_many_unusable_pictures_are_counted() -> None:
    problems = source_problems(WithImages(lambda _: b"no"), images=8)
    assert problems[-1] == "8 of 8 images cannot be used."


def test_only_some_pictures_are_read() -> None:
    opened = set()

    def note(picture: bytes) -> Any:
        return lambda: (opened.add(picture), picture)[1]  # type: ignore[func-returns-value]  # that is the point

    check_source(WithImages(note), images=3)
    assert opened == {PICTURES[0], PICTURES[5], PICTURES[11]}


def test_a_source_with_repeated_keys_has_no_other_problem() -> None:
    assert len(source_problems(RepeatedKeysOnly())) == 1


@pytest.mark.parametrize("images", [0, -1, "x", 2.0, True, None])
def test_the_number_of_pictures_to_check_must_be_one(images: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"images must be an int of at least 1\. Received: images="
    ):
        check_source(Good(), images=images)


def test_errors_of_sources_are_those_of_the_library() -> None:
    with pytest.raises(ConfigurationError):
        list(sources.map_labels(Good(), lambda _: ""))


@pytest.mark.parametrize("image", [None, 3, ["1.png"]])
def test_a_sample_of_what_is_no_picture_is_refused(image: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Sample image must be .*key='a'"):
        Sample("a", "x", image)


@pytest.mark.parametrize(
    "names", ["ab", b"ab", 3, ["a", ""], ["a", 1], ["a", "a"], frozenset("ab")]
)
def test_names_of_classes_must_be_distinct_texts_in_an_order(names: Any) -> None:
    with pytest.raises(ConfigurationError, match="class_names must be"):
        checked_class_names(names)


def test_names_of_classes_may_be_in_an_array() -> None:
    names = checked_class_names(np.array(["b", "a"]))
    assert names == ("b", "a")
    assert {type(name) for name in names} == {str}
