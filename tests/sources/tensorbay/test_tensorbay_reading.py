"""What is read, in which order, under which names."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbay_server import (
    EXAMPLE_CLASSES,
    ServedDataset,
    ServedFile,
    TensorBayServer,
    _Refused,
    example_dataset,
    example_files,
)

from flowercnn.data.dataset import Dataset
from flowercnn.errors import DataError, ImageError, SourceError, UnknownNameError
from flowercnn.preprocessing.decode import decode_image
from flowercnn.preprocessing.preprocessing import Preprocessing
from flowercnn.sources.base import DataSource, Sample
from flowercnn.sources.registry import open_source
from flowercnn.sources.tensorbay import TensorBay

pytestmark = pytest.mark.versions

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]
FLOWERS = example_dataset()


def content(sample: Sample) -> bytes:
    assert callable(sample.image)
    return sample.image()


def only(*files: ServedFile, **options: Any) -> ServedDataset:
    return ServedDataset("Flowers", {"train": files}, **options)


def test_every_sample_comes_once_in_order_with_its_label_and_bytes(
    server: TensorBayServer, read: Read
) -> None:
    samples = list(read(server))
    files = [*FLOWERS.segments["test"], *FLOWERS.segments["train"]]
    assert [sample.key for sample in samples] == FLOWERS.keys("test", "train")
    assert [sample.label for sample in samples] == [file.category for file in files]
    assert [content(sample) for sample in samples] == [file.content for file in files]


def test_it_is_a_source_that_a_data_set_is_made_of(server: TensorBayServer, read: Read) -> None:
    source = read(server)
    assert isinstance(source, DataSource)
    dataset = Dataset.from_source(source)
    assert (len(dataset), len(source), dataset.class_names) == (18, 18, EXAMPLE_CLASSES)


def test_a_source_can_be_named_by_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBAY_ACCESS_KEY", "Accesskey-0123")
    assert repr(open_source("tensorbay:Flower17-1")) == "TensorBay('Flower17-1')"


def test_iterating_again_gives_the_same_samples_without_listing_again(
    server: TensorBayServer, read: Read
) -> None:
    source = read(server)
    first = list(source)
    asked = len(server.asked)
    assert list(source) == first
    assert len(server.asked) == asked


@pytest.mark.parametrize("segments", [["train"], "train", [1], 1, [-1]])
def test_segments_are_chosen_by_name_or_by_number_in_sorted_order(
    server: TensorBayServer, read: Read, segments: Any
) -> None:
    assert [sample.key for sample in read(server, segments=segments)] == FLOWERS.keys("train")


def test_segments_come_in_the_order_wanted(server: TensorBayServer, read: Read) -> None:
    assert [sample.key for sample in read(server, segments=["train", 0])] == FLOWERS.keys(
        "train", "test"
    )


def test_only_the_segments_wanted_are_asked_for(server: TensorBayServer, read: Read) -> None:
    list(read(server, segments=["train"]))
    assert {
        asked.query["segmentName"] for asked in server.asked if asked.what == "data/details"
    } == {"train"}


def test_an_unknown_segment_is_refused_with_those_there_are(
    server: TensorBayServer, read: Read
) -> None:
    with pytest.raises(
        UnknownNameError, match="2 segments.*test, train. Did you mean 'train'.*'trian'"
    ):
        list(read(server, segments=["trian"]))


def test_a_segment_number_out_of_range_is_refused(server: TensorBayServer, read: Read) -> None:
    with pytest.raises(
        UnknownNameError, match="2 segments, numbered from 0.*Received: segments with 2"
    ):
        list(read(server, segments=[2]))


@pytest.mark.parametrize("segments", [np.int64(1), [np.int64(1)], (np.uint8(1),)])
def test_segments_may_be_numbers_of_numpy(
    server: TensorBayServer, read: Read, segments: Any
) -> None:
    source = read(server, segments=segments)
    assert source.segments == [1]
    assert [sample.key for sample in source] == [sample.key for sample in read(server, segments=1)]


def test_a_segment_wanted_twice_is_refused(server: TensorBayServer, read: Read) -> None:
    with pytest.raises(UnknownNameError, match="each segment once"):
        list(read(server, segments=["train", 1]))


def test_an_empty_segment_is_refused(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"empty": [], "train": example_files(2)}))
    with pytest.raises(SourceError, match="'Flowers', segment 'empty': the segment is empty"):
        list(read(server))
    assert len(list(read(server, segments=["train"]))) == 2


def test_a_data_set_without_a_segment_is_refused(serve: Serve, read: Read) -> None:
    with pytest.raises(SourceError, match="'Flowers' has no segment"):
        list(read(serve(ServedDataset("Flowers", {}))))


@pytest.mark.parametrize("kind", ["branches", "tags"])
def test_a_branch_or_tag_is_read_at_its_own_state(serve: Serve, read: Read, kind: str) -> None:
    old = {"train": example_files(3, 100)}
    served: dict[str, Any] = {kind: {"old": old}}
    server = serve(ServedDataset("Flowers", {"train": example_files(2)}, **served))
    assert [content(sample) for sample in read(server, revision="old")] == [
        file.content for file in old["train"]
    ]


def test_a_commit_id_is_read_at_its_own_state(serve: Serve, read: Read) -> None:
    dataset = ServedDataset(
        "Flowers", {"train": example_files(2)}, tags={"old": {"train": example_files(3, 100)}}
    )
    assert len(list(read(serve(dataset), revision=dataset.commit_of("old")))) == 3


def test_an_unknown_revision_is_refused(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match="'Flowers' has no branch, tag or commit 'v9'"):
        list(read(server, revision="v9"))

    def refuse(*_: Any) -> Any:
        raise _Refused(HTTPStatus.BAD_REQUEST, "InvalidParamsValue", "no commit id")

    monkeypatch.setattr(server, "_commits", refuse)
    with pytest.raises(SourceError, match="'Flowers' has no branch, tag or commit 'v9'"):
        list(read(server, revision="v9"))


def test_an_unknown_data_set_is_refused(server: TensorBayServer, read: Read) -> None:
    with pytest.raises(SourceError, match="no data set named 'Flowers2'"):
        list(read(server, "Flowers2"))


def test_a_data_set_whose_name_only_begins_alike_is_not_taken_for_it(
    serve: Serve, read: Read
) -> None:
    server = serve(example_dataset("Flowers17", train=1), example_dataset("Flowers", train=2))
    assert len(list(read(server, "Flowers", segments=["train"]))) == 2
    with pytest.raises(SourceError, match="no data set named 'Flower'"):
        list(read(server, "Flower"))


def test_a_fusion_data_set_is_refused_with_a_sentence(serve: Serve, read: Read) -> None:
    with pytest.raises(SourceError, match="'Flowers' is a fusion data set: its frames join"):
        list(read(serve(ServedDataset("Flowers", {"train": example_files(1)}, fusion=True))))


def test_classes_are_in_catalogue_order_those_without_a_file_included(
    serve: Serve, read: Read
) -> None:
    server = serve(only(*example_files(3), categories=["rose", "poppy", "tulip", "daisy"]))
    assert read(server).class_names == ("rose", "poppy", "tulip", "daisy")


def test_without_a_catalogue_classes_are_sorted_labels(serve: Serve, read: Read) -> None:
    assert read(serve(only(*example_files(3)))).class_names == ("daisy", "rose", "tulip")


def test_a_label_the_catalogue_lacks_comes_last_and_is_told(
    serve: Serve, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    source = read(serve(only(*example_files(3), categories=["tulip", "rose"])))
    assert source.class_names == ("tulip", "rose", "daisy")
    assert "1 classes are not in the catalogue: daisy" in caplog.text
    assert Dataset.from_source(source).labels.tolist() == [0, 2, 1]


def test_nested_categories_are_kept_as_they_are(serve: Serve, read: Read) -> None:
    file = ServedFile("1.jpg", b"\xff", "plant.rose.wild")
    source = read(serve(only(file, categories=["plant.daisy", "plant.rose.wild"], delimiter=".")))
    assert [sample.label for sample in source] == ["plant.rose.wild"]
    assert source.class_names == ("plant.daisy", "plant.rose.wild")


NO_CLASS: dict[str, Any] = {
    "no label": {},
    "null": None,
    "null classification": {"CLASSIFICATION": None},
    "null category": {"CLASSIFICATION": {"category": None, "attributes": {}}},
    "empty category": {"CLASSIFICATION": {"category": ""}},
    "another label": {"BOX2D": []},
}


@pytest.mark.parametrize("label", NO_CLASS.values(), ids=NO_CLASS)
def test_files_without_a_class_are_an_error_with_their_number(
    serve: Serve, read: Read, label: Any
) -> None:
    server = serve(only(ServedFile("a.jpg", b"\xff", label=label), *example_files(3)))
    with pytest.raises(
        DataError, match="1 of 4 files have no class: train/a.jpg.*unlabelled='skip'"
    ):
        list(read(server, unlabelled="error"))
    assert server.count("file") == 0


def test_by_default_the_data_set_says_what_becomes_of_files_without_a_class(
    serve: Serve, read: Read
) -> None:
    server = serve(
        only(ServedFile("a.jpg", b"\xff"), ServedFile("b.jpg", b"\xff"), *example_files(2))
    )
    assert [sample.label for sample in read(server)] == [None, None, "tulip", "daisy"]
    with pytest.raises(DataError, match="2 of 4 samples have no label: train/a.jpg"):
        Dataset.from_source(read(server))
    assert len(Dataset.from_source(read(server), unlabelled="skip")) == 2


def test_files_without_a_class_can_be_left_out_and_are_counted(
    serve: Serve, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    source = read(serve(only(*example_files(2), ServedFile("a.jpg", b"\xff"))), unlabelled="skip")
    assert [sample.key for sample in source] == ["train/tulip/00000.jpg", "train/daisy/00001.jpg"]
    assert "left out 1 of 3 files, which have no class" in caplog.text
    assert len(source) == 2


def test_files_without_a_class_can_be_kept(serve: Serve, read: Read) -> None:
    source = read(
        serve(only(ServedFile("a.jpg", b"\xff"), ServedFile("b.jpg", b"\xfe"))), unlabelled="keep"
    )
    assert [sample.label for sample in source] == [None, None]


@pytest.mark.parametrize("unlabelled", [None, "error", "skip"])
def test_a_data_set_without_any_class_is_refused(serve: Serve, read: Read, unlabelled: str) -> None:
    server = serve(only(ServedFile("a.jpg", b"\xff"), ServedFile("b.jpg", b"\xff")))
    with pytest.raises(DataError, match="2 of 2 files have no class.*unlabelled='skip'"):
        list(read(server, unlabelled=unlabelled))
    assert server.count("file") == 0


def test_segments_named_like_parts_are_the_predefined_split(serve: Serve, read: Read) -> None:
    segments = {
        "Validation": example_files(3),
        "test": example_files(3, 3),
        "train": example_files(3, 6),
    }
    source = read(serve(ServedDataset("Flowers", segments)))
    assert [sample.split for sample in source] == ["val"] * 3 + ["test"] * 3 + ["train"] * 3
    assert [len(part) for part in Dataset.from_source(source).predefined_split()] == [3, 3, 3]


def test_predefined_splits_can_be_turned_off(server: TensorBayServer, read: Read) -> None:
    assert {sample.split for sample in read(server, predefined_splits=False)} == {None}


def test_one_segment_alone_is_no_split(server: TensorBayServer, read: Read) -> None:
    assert {sample.split for sample in read(server, segments=["train"])} == {None}


def test_a_segment_of_another_name_makes_no_split(serve: Serve, read: Read) -> None:
    segments = {
        "train": example_files(1),
        "test": example_files(1, 1),
        "extra": example_files(1, 2),
    }
    assert {sample.split for sample in read(serve(ServedDataset("Flowers", segments)))} == {None}


def test_short_pages_lose_nothing(serve: Serve, read: Read) -> None:
    dataset = ServedDataset("Flowers", {"train": example_files(136)})
    assert [sample.key for sample in read(serve(dataset, page_cap=50))] == dataset.keys("train")


def test_many_pages_of_segments_are_all_listed(serve: Serve, read: Read) -> None:
    dataset = ServedDataset(
        "Flowers", {f"s{number:03d}": example_files(1, number) for number in range(7)}
    )
    assert len(list(read(serve(dataset, page_cap=3)))) == 7


def test_a_listing_that_ends_too_early_is_refused(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(10)}), lost=2)
    with pytest.raises(
        SourceError, match="contradicts itself: 10 entries announced, then 10, 8 received"
    ):
        list(read(server, segments=["train"]))


def test_a_listing_that_changes_its_length_is_refused(serve: Serve, read: Read) -> None:
    files = example_files(200)
    server = serve(ServedDataset("Flowers", {"train": files}))
    samples = iter(read(server, threads=1, window=1))
    next(samples)  # with so small a window the second page has not been asked for yet
    files += example_files(1, 200)
    with pytest.raises(
        SourceError, match="contradicts itself: 200 entries announced, then 201"
    ) as caught:
        list(samples)
    assert re.search(
        r"\. \d+ files were fetched and 0 were there before; the next run continues",
        str(caught.value),
    )


@pytest.mark.parametrize("count", [130, 3])  # on two pages, and on one
def test_a_listing_that_names_a_file_twice_is_refused(serve: Serve, read: Read, count: int) -> None:
    files = example_files(count)
    server = serve(ServedDataset("Flowers", {"train": [*files, files[0]]}))
    with pytest.raises(SourceError, match="names 1 files twice, such as 'tulip/00000.jpg'"):
        list(read(server))


def test_files_in_chunks_arrive_whole(serve: Serve, read: Read) -> None:
    big = bytes(range(256)) * 122  # 31,232 bytes
    source = read(serve(only(ServedFile("1.jpg", big, "rose")), chunked=True))
    assert [content(sample) for sample in source] == [big]


def test_pictures_are_decoded_after_the_connection_is_gone(
    server: TensorBayServer, read: Read
) -> None:
    sample = next(iter(read(server, segments=["train"])))
    server.knobs.fault_rate = 1.0
    assert decode_image(content(sample), background=(0, 0, 0), max_pixels=1000).size == (16, 12)


def test_a_file_that_is_no_picture_is_found_by_its_key_when_it_is_decoded(
    serve: Serve, read: Read
) -> None:
    dataset = Dataset.from_source(
        read(serve(only(*example_files(3), ServedFile("bad.jpg", b"\xff\xd8?", "rose"))))
    )
    with pytest.raises(ImageError, match="train/bad.jpg"):
        Preprocessing(image_size=(8, 8)).load(dataset.samples, progress=False)


def test_several_threads_may_begin_at_once(serve: Serve, read: Read) -> None:
    source = read(serve(latency=0.02), threads=4)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: [sample.key for sample in source], range(8)))
    assert found == [FLOWERS.keys("test", "train")] * 8


def test_many_threads_do_not_overflow_the_pool(
    serve: Serve, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(200)}), latency=0.1)
    assert len(list(read(server, threads=40))) == 200
    assert server.busiest > 20
    assert "pool is full" not in caplog.text


def test_no_more_files_are_fetched_at_a_time_than_threads_are_wanted(
    serve: Serve, read: Read
) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(60)}), latency=0.01)
    list(read(server, threads=3))
    assert server.busiest <= 4  # and one page of the listing


def test_the_first_sample_comes_before_more_than_a_window_is_fetched(
    serve: Serve, read: Read
) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(300)}), latency=0.01)
    samples = iter(read(server, threads=4))
    next(samples)
    assert server.count("file") <= 17
    samples.close()  # type: ignore[attr-defined]  # it is a generator
    assert server.count("file") <= 17


def test_a_remote_path_leads_nowhere_outside_the_cache(
    serve: Serve, read: Read, tmp_path: Path
) -> None:
    files = [
        ServedFile(path, path.encode(), "rose")
        for path in ("../../../up.jpg", "/root.jpg", "a\\b\0.jpg", "é" * 300)
    ]
    samples = list(read(serve(only(*files))))
    assert [content(sample) for sample in samples] == [file.content for file in files]
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert len(names) == 4 + 2  # and two listings
    assert all(set(name.removesuffix(".json")) <= set("0123456789abcdef") for name in names)


def test_debug_logs_tell_what_was_asked_and_how_long_it_took(
    server: TensorBayServer, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    list(read(server, segments=["train"]))
    own = [record.getMessage() for record in caplog.records if record.name.startswith("flowercnn.")]
    assert any(
        line.startswith("GET data/details 'Flowers', segment 'train' from 0: 0.") for line in own
    )
    assert any(line.startswith("GET file train/tulip/00000.jpg: 0.") for line in own)
    assert any("12 files fetched, 0 in the cache" in line for line in own)


def test_importing_the_source_does_not_import_the_sdk() -> None:
    code = "import sys, flowercnn; flowercnn.TensorBay; sys.exit('tensorbay' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
