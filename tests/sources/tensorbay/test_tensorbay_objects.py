"""Data sets and segments of the SDK itself, remote and local."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from tensorbay import GAS
from tensorbay import dataset as sdk
from tensorbay.label import Catalog, Classification
from tensorbay.opendataset import Flower17
from tensorbay_server import ServedDataset, TensorBayServer, example_dataset, example_files

from flowercnn.data.dataset import Dataset
from flowercnn.errors import ConfigurationError, DataError, SourceError
from flowercnn.preprocessing.decode import read_content
from flowercnn.sources.tensorbay import TensorBay

pytestmark = pytest.mark.versions

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]
FLOWERS = example_dataset()


def keys(source: TensorBay) -> list[str]:
    return [sample.key for sample in source]


def unpickled(content: bytes) -> TensorBay:
    return pickle.loads(content)  # type: ignore[no-any-return]  # noqa: S301 - it is our own


def gas_of(server: TensorBayServer) -> Any:
    gas = GAS(server.key, "https://127.0.0.1/")
    gas._client._open_api = f"{server.url}gatewayv2/tensorbay-open-api/v1/"
    return gas


def remote(server: TensorBayServer, revision: str | None = None) -> Any:
    return sdk.Dataset("Flowers", gas_of(server), revision)


@pytest.fixture
def local(tmp_path: Path) -> Any:
    """A local data set with four pictures in two segments."""
    dataset = sdk.Dataset("Mine")
    dataset._catalog = Catalog.loads(
        {"CLASSIFICATION": {"categories": [{"name": "rose"}, {"name": "daisy"}]}}
    )
    for number, (segment, category) in enumerate(
        [("a", "rose"), ("a", "daisy"), ("b", "daisy"), ("b", "rose")]
    ):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(bytes(example_files(1, number)[0].read()))
        data = sdk.Data(str(path))
        data.label.classification = Classification(category)
        (dataset[segment] if segment in dataset else dataset.create_segment(segment)).append(data)
    return dataset


def test_the_sdk_itself_reads_from_the_server_of_the_tests(server: TensorBayServer) -> None:
    dataset = remote(server)
    assert dataset.keys() == ("test", "train")
    assert [data.path for data in dataset[1]] == [file.path for file in FLOWERS.segments["train"]]
    assert [data.label.classification.category for data in dataset["train"]][:3] == [
        "tulip",
        "daisy",
        "rose",
    ]
    assert list(dataset.catalog.classification.categories.keys()) == ["tulip", "daisy", "rose"]
    with dataset["train"][0].open() as file:
        assert file.read() == FLOWERS.segments["train"][0].content


def test_the_sdk_loses_what_short_pages_do_not_hold_and_we_do_not(serve: Serve, read: Read) -> None:
    dataset = ServedDataset("Flowers", {"train": example_files(136)})
    opened = remote(serve(dataset, page_cap=50))
    assert len(opened["train"]) == 58
    assert keys(read(None, opened)) == dataset.keys("train")


def test_a_remote_data_set_is_read_like_its_name(server: TensorBayServer, read: Read) -> None:
    source = read(server, remote(server))
    assert keys(source) == keys(read(server))
    assert source.class_names == ("tulip", "daisy", "rose")
    assert keys(read(server, remote(server), segments=[1])) == FLOWERS.keys("train")


def test_a_remote_segment_is_read_with_the_catalogue_of_its_data_set(
    server: TensorBayServer, read: Read
) -> None:
    source = read(server, remote(server)["train"])
    assert keys(source) == FLOWERS.keys("train")
    assert source.class_names == ("tulip", "daisy", "rose")


def test_a_remote_data_set_is_read_at_the_revision_it_was_opened_at(
    serve: Serve, read: Read
) -> None:
    server = serve(
        ServedDataset(
            "Flowers", {"train": example_files(2)}, tags={"v1": {"train": example_files(5)}}
        )
    )
    assert len(keys(read(server, remote(server, "v1")))) == 5
    assert len(keys(read(server, remote(server, "v1")["train"]))) == 5


def test_faults_do_not_stop_a_remote_object(server: TensorBayServer, read: Read) -> None:
    opened = remote(server)
    server.knobs.script = {
        "segments": ["500"],
        "data/details": ["reset"],
        "file": ["503", "cut", "expired"],
    }
    assert keys(read(server, opened)) == FLOWERS.keys("test", "train")


def test_an_object_that_holds_another_number_of_files_is_told(
    server: TensorBayServer, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    opened = remote(server)
    del opened["train"][0]
    assert keys(read(server, opened, segments=["train"])) == FLOWERS.keys("train")
    assert "holds 11 files of the segment 'train', TensorBay lists 12" in caplog.text


def test_a_draft_is_refused(server: TensorBayServer, read: Read) -> None:
    opened = remote(server)
    opened._client._status.checkout(draft_number=3)
    with pytest.raises(
        ConfigurationError, match="a draft may change.*Received: 'Flowers' at draft 3"
    ):
        read(server, opened)


def test_fusion_objects_are_refused_with_a_sentence() -> None:
    for thing in (sdk.FusionDataset("many sensors"), sdk.FusionSegment("many sensors")):
        with pytest.raises(
            ConfigurationError, match="is a fusion data set.*Received: Fusion.* 'many sensors'"
        ):
            TensorBay(thing)


def test_a_pickle_of_a_remote_object_holds_no_key_and_finds_one_again(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(read(server, remote(server)))
    assert server.key.encode() not in pickled
    with pytest.raises(ConfigurationError, match="TensorBay needs an access key"):
        keys(unpickled(pickled))
    monkeypatch.setenv("TENSORBAY_ACCESS_KEY", server.key)
    assert keys(unpickled(pickled)) == FLOWERS.keys("test", "train")


@pytest.mark.parametrize(
    "options",
    [{"access_key": "Accesskey-1"}, {"revision": "v1"}, {"url": "https://gas.graviti.cn/"}],
)
def test_what_an_object_knows_itself_is_refused_beside_it(
    local: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(
        ConfigurationError, match=f"{next(iter(options))} must be None where dataset is an object"
    ):
        TensorBay(local, **options)


def test_offline_needs_a_name(local: Any) -> None:
    with pytest.raises(ConfigurationError, match="offline needs the name"):
        TensorBay(local, offline=True)


def test_a_segment_has_no_segments(server: TensorBayServer, read: Read) -> None:
    with pytest.raises(
        ConfigurationError, match="segments must be None where dataset is a Segment"
    ):
        read(server, remote(server)["train"], segments=[0])


def test_a_local_data_set_is_read_from_its_files(local: Any) -> None:
    source = TensorBay(local)
    samples = list(source)
    assert [(sample.key, sample.label) for sample in samples] == [
        ("a/0.jpg", "rose"),
        ("a/1.jpg", "daisy"),
        ("b/2.jpg", "daisy"),
        ("b/3.jpg", "rose"),
    ]
    assert [read_content(sample.image) for sample in samples] == [
        file.read() for file in example_files(4)
    ]
    assert source.class_names == ("rose", "daisy")
    assert len(source) == 4
    assert repr(source) == "TensorBay('Mine')"


def test_a_local_segment_is_read_with_sorted_classes(local: Any) -> None:
    source = TensorBay(local["b"])
    assert keys(source) == ["b/2.jpg", "b/3.jpg"]
    assert source.class_names == ("daisy", "rose")


def test_segments_of_a_local_data_set_can_be_chosen(local: Any) -> None:
    assert keys(TensorBay(local, segments=[1])) == ["b/2.jpg", "b/3.jpg"]


def test_a_remote_path_of_its_own_is_the_key_of_a_local_file(local: Any) -> None:
    local["a"][0].target_remote_path = "roses/red.jpg"
    assert keys(TensorBay(local))[0] == "a/roses/red.jpg"


def test_local_files_without_a_class_follow_the_same_rule(local: Any, tmp_path: Path) -> None:
    local["a"].append(sdk.Data(str(tmp_path / "0.jpg"), target_remote_path="x.jpg"))
    with pytest.raises(DataError, match="1 of 5 files have no class: a/x.jpg"):
        keys(TensorBay(local, unlabelled="error"))
    assert len(keys(TensorBay(local, unlabelled="skip"))) == 4
    assert [sample.label for sample in TensorBay(local)].count(None) == 1


def test_a_local_segment_without_files_is_refused(local: Any) -> None:
    local.create_segment("c")
    with pytest.raises(SourceError, match="'Mine': the segment 'c' is empty"):
        keys(TensorBay(local))


def test_remote_files_in_a_local_segment_are_refused(server: TensorBayServer, local: Any) -> None:
    local["a"].append(remote(server)["train"][0])
    with pytest.raises(
        ConfigurationError, match="'a' must hold tensorbay Data.*Received: RemoteData"
    ):
        keys(TensorBay(local))


def test_a_local_data_set_can_be_pickled(local: Any) -> None:
    assert keys(unpickled(pickle.dumps(TensorBay(local)))) == keys(TensorBay(local))


def test_the_sdks_loader_of_flower17_becomes_a_data_set_with_its_official_parts(
    tmp_path: Path,
) -> None:
    (tmp_path / "jpg").mkdir()
    for number in (1, 81, 2, 82, 3, 83):
        (tmp_path / "jpg" / f"image_{number:04d}.jpg").write_bytes(
            example_files(1, number)[0].read()
        )
    parts = {"trn1": [1, 81], "val1": [2, 82], "tst1": [3, 83]}
    contents = {name: np.array([numbers]) for name, numbers in parts.items()}
    savemat(tmp_path / "datasplits.mat", contents)
    dataset = Dataset.from_source(TensorBay(Flower17(str(tmp_path))))
    assert dataset.num_classes == 17
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.class_names[2] == "Lily Valley"
    assert [part.keys[0] for part in dataset.predefined_split()] == [
        "train/image_0001.jpg",
        "validation/image_0002.jpg",
        "test/image_0003.jpg",
    ]


def test_the_catalogue_of_the_loader_is_a_json_file(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalog.json"
    catalogue.write_text(
        json.dumps({"CLASSIFICATION": {"categories": [{"name": "b"}, {"name": "a"}]}})
    )
    dataset = sdk.Dataset("Mine")
    dataset.load_catalog(str(catalogue))
    dataset.create_segment("s").append(sdk.Data(str(catalogue)))
    dataset["s"][0].label.classification = Classification("a")
    assert TensorBay(dataset).class_names == ("b", "a")
