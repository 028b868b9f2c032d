"""Folders, memory, tables, URIs, the Oxford flowers and TensorBay objects."""

from __future__ import annotations

import io
import logging
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import flowercnn as fc
from flowercnn.sources.plugins import as_source, list_sources


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def keys(source: fc.DataSource) -> list[str]:
    return [sample.key for sample in source]


def test_a_folder_gives_its_pictures_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "a/10.jpg", "a/9.JPEG", "b/1.webp")
    samples = list(fc.ImageFolder(tmp_path))
    assert [(s.key, s.label) for s in samples] == [
        ("a/10.jpg", "a"), ("a/9.JPEG", "a"), ("b/1.webp", "b"), ("b/2.png", "b"),
    ]  # fmt: skip


def test_nested_folders_belong_to_the_first(tmp_path: Path) -> None:
    source = fc.ImageFolder(touch(tmp_path, "rose/red/x/1.jpg", "rose/2.jpg"))
    assert [(s.key, s.label) for s in source] == [("rose/2.jpg", "rose"), ("rose/red/x/1.jpg", "rose")]


def test_hidden_and_other_files_and_empty_folders_are_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1.jpg", "a/.hidden.jpg", "a/.git/2.jpg", ".cache/3.jpg", "a/notes.txt", "__MACOSX/4.jpg", "5.jpg"
    )
    (tmp_path / "empty").mkdir()
    assert keys(fc.ImageFolder(tmp_path)) == ["a/1.jpg"]
    assert fc.Dataset.from_source(fc.ImageFolder(tmp_path)).class_names == ("a",)


def test_links_to_files_are_read_and_links_to_folders_only_if_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.jpg", "photos/a/2.jpg")
    (tmp_path / "photos/a/link.jpg").symlink_to(tmp_path / "real/1.jpg")
    (tmp_path / "photos/a/broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "photos/linked").symlink_to(tmp_path / "real")
    (tmp_path / "photos/a/loop").symlink_to(tmp_path / "photos/a")
    assert keys(fc.ImageFolder(tmp_path / "photos")) == ["a/2.jpg", "a/link.jpg"]
    followed = keys(fc.ImageFolder(tmp_path / "photos", follow_links=True))
    assert followed == ["a/2.jpg", "a/link.jpg", "linked/1.jpg"]


def test_unicode_names_are_the_same_on_every_system(tmp_path: Path) -> None:
    decomposed = "Lo\u0308wenzahn"
    touch(tmp_path, f"{decomposed}/1.jpg")
    (sample,) = fc.ImageFolder(tmp_path)
    assert (sample.label, sample.key) == ("L\u00f6wenzahn", "L\u00f6wenzahn/1.jpg")
    assert os.path.isfile(str(sample.image))  # noqa: PTH113
    touch(tmp_path, "L\u00f6wenzahn/2.jpg")
    with pytest.raises(fc.SourceError, match="differ only in their Unicode form"):
        list(fc.ImageFolder(tmp_path))


def test_train_val_test_folders_are_predefined_parts(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "validation/a/2.jpg", "TEST/b/3.jpg")
    assert [(s.key, s.label, s.split) for s in fc.ImageFolder(tmp_path)] == [
        ("TEST/b/3.jpg", "b", "test"), ("train/a/1.jpg", "a", "train"), ("validation/a/2.jpg", "a", "val"),
    ]  # fmt: skip
    assert {s.label for s in fc.ImageFolder(tmp_path, layout="classes")} == {"TEST", "train", "validation"}


@pytest.mark.parametrize("names", [(), ("1.jpg",), ("a/x.txt", "b/y.md")])
def test_a_folder_without_pictures_is_an_error_that_says_what_is_there(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(fc.SourceError, match="no pictures found.*one sub-folder per class.*Passed over"):
        list(fc.ImageFolder(touch(tmp_path, *names)))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", touch(tmp_path, "file.jpg") / "file.jpg"):
        with pytest.raises(fc.SourceError, match="not a folder that can be listed"):
            list(fc.ImageFolder(path))
    with pytest.raises(fc.ConfigurationError, match="root must be"):
        fc.ImageFolder("")
    with pytest.raises(fc.ConfigurationError, match="layout"):
        fc.ImageFolder("x", layout="flat")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(fc.SourceError, match="train, val and test only"):
        list(fc.ImageFolder(touch(tmp_path, "a/1.jpg"), layout="splits"))


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        ([np.zeros((4, 4, 3))], ["a"], "images\\[0\\].*uint8.*0-1 floats"),
        ([np.zeros((4, 4, 3), np.uint8)], ["a", "b"], "equally many"),
        ([3], ["a"], "Received: int"),
    ],
)
def test_pictures_in_memory_are_checked(images: list[Any], labels: list[str], reason: str) -> None:
    with pytest.raises(fc.ConfigurationError, match=reason):
        fc.InMemory(images, labels)


def test_numpy_labels_and_given_classes_are_taken() -> None:
    source = fc.InMemory(np.zeros((2, 4, 4, 3), np.uint8), np.array(["b", "a"]), class_names=["b", "a"])
    assert fc.Dataset.from_source(source).labels.tolist() == [0, 1]
    assert (len(source), repr(source)) == (2, "InMemory(2 images)")


def test_a_table_gives_a_sample_per_row(tmp_path: Path) -> None:
    touch(tmp_path, "p/1.jpg", "p/2, 3.jpg")
    table = tmp_path / "t.csv"
    text = '\ufefffile,kind,plant,part\r\np/1.jpg,rose,A,train\r\n"p/2, 3.jpg","tulip, red",,test\r\n'
    table.write_text(text, encoding="utf-8")
    samples = list(fc.ImageTable(table, image="file", label="kind", group="plant", split="part"))
    assert [(s.key, s.label, s.group, s.split) for s in samples] == [
        ("p/1.jpg", "rose", "A", "train"), ("p/2, 3.jpg", "tulip, red", None, "test"),
    ]  # fmt: skip


def test_missing_pictures_and_columns_of_a_table_are_named(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("file\tkind\n1.jpg\trose\n2.jpg\t\n")
    with pytest.raises(fc.SourceError, match="2 of 2 pictures are not in .*: 1.jpg, 2.jpg"):
        list(fc.ImageTable(table, image="file", label="kind"))
    with pytest.raises(fc.UnknownNameError, match="Did you mean 'kind'"):
        list(fc.ImageTable(table, image="file", label="kinds"))
    touch(tmp_path, "1.jpg", "2.jpg")
    assert [s.label for s in fc.ImageTable(table, image="file", label="kind")] == ["rose", None]


@pytest.mark.parametrize("content", [b"file,kind\n1.jpg", b"\xff\xfe\x00", b'file,kind\n"1.jpg,rose'])
def test_a_malformed_table_is_an_error(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(fc.FlowerCNNError):
        list(fc.ImageTable(table, image="file", label="kind"))
    with pytest.raises(fc.ConfigurationError, match="DataFrame"):
        fc.ImageTable(3, image="file", label="kind")


def test_uris_name_sources(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    assert keys(fc.open_source(f"folder:{tmp_path}")) == ["a/1.jpg"]
    assert keys(as_source(str(tmp_path))) == keys(as_source(tmp_path)) == ["a/1.jpg"]
    assert len(list(as_source("synthetic:2"))) == 34
    assert {"folder", "flower17", "flower102", "synthetic", "tensorbay"} <= set(list_sources())
    with pytest.raises(fc.UnknownNameError, match="Did you mean 'folder'"):
        fc.open_source("foldr:photos")
    for uri in ("photos", "", 3):
        with pytest.raises(fc.ConfigurationError, match="scheme:rest"):
            fc.open_source(uri)  # type: ignore[arg-type]  # that is the point


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "herbarium.py").write_text(
        "import numpy as np, flowercnn as fc\n"
        "def good(rest): return fc.InMemory(np.zeros((1, 4, 4, 3), np.uint8), [rest])\n"
        "def bad(rest): raise RuntimeError('no herbarium')\n"
        "def wrong(rest): return 'text'\n"
    )
    info = tmp_path / "herbarium-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: herbarium\nVersion: 1.0\n")
    points = "".join(f"{name} = herbarium:{name}\n" for name in ("good", "bad", "wrong", "gone"))
    (info / "entry_points.txt").write_text(f"[flowercnn.sources]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plug_in")
def test_a_package_adds_a_scheme() -> None:
    assert "good" in list_sources()
    assert [sample.label for sample in fc.open_source("good:rose")] == ["rose"]


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize("scheme", ["bad", "wrong", "gone"])
def test_a_broken_plug_in_is_named_and_breaks_no_other(scheme: str) -> None:
    with pytest.raises(fc.SourceError, match=f"'{scheme}' from herbarium"):
        fc.open_source(f"{scheme}:x")
    assert keys(fc.open_source("good:x")) == ["000000"]


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def oxford(tmp_path: Path) -> Iterator[str]:
    """A loopback server with a small Flower17 archive, a hostile member in it, and its splits."""
    root = tmp_path / "server"
    root.mkdir()
    with tarfile.open(root / "17flowers.tgz", "w:gz") as archive:
        for name in (
            "jpg/image_0001.jpg",
            "jpg/image_0002.jpg",
            "jpg/image_1360.jpg",
            "../../image_0003.jpg",
            "../evil",
        ):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            archive.addfile(member, io.BytesIO(jpeg()))
        link = tarfile.TarInfo("jpg/image_0004.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    savemat(root / "datasplits.mat", {"trn1": [[1, 3]], "val1": [[2]], "tst1": [[1360]]})
    handler = partial(SimpleHTTPRequestHandler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_flower17_is_fetched_once_and_has_official_parts(oxford: str, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "down" / "cache"
    source = fc.Flower17(root, url=oxford)
    samples = list(source)
    assert [(s.key, s.label, s.split) for s in samples] == [
        ("image_0001.jpg", "Daffodil", "train"),
        ("image_0002.jpg", "Daffodil", "val"),
        ("image_0003.jpg", "Daffodil", "train"),
        ("image_1360.jpg", "Pansy", "test"),
    ]
    written = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {("deep", "down", "cache"), ("server", "17flowers.tgz"), ("server", "datasplits.mat")}
    assert keys(fc.Flower17(root, download=False)) == keys(source)
    assert len(source.class_names) == 17


def test_without_a_network_the_error_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(fc.SourceError, match=r"17flowers.tgz.*put 17flowers.tgz into .* by hand"):
        list(fc.Flower17(tmp_path, url="http://127.0.0.1:9/"))
    with pytest.raises(fc.SourceError, match="no photographs named"):
        list(fc.Flower102(tmp_path, download=False))
    with pytest.raises(fc.ConfigurationError, match="split must be"):
        fc.Flower17(split=4)


def test_flower102_reads_a_folder_that_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "jpg/image_00001.jpg", "jpg/image_00002.jpg")
    savemat(tmp_path / "imagelabels.mat", {"labels": [[102, 7]]})
    savemat(tmp_path / "setid.mat", {"trnid": [[2]], "valid": [[9]], "tstid": [[1]]})
    samples = list(fc.Flower102(tmp_path, download=False))
    assert [(s.label, s.split) for s in samples] == [("102", "test"), ("007", "train")]


def tensorbay_dataset(folder: Path) -> Any:
    from tensorbay.dataset import Data, Dataset
    from tensorbay.label import Classification

    dataset = Dataset("Flowers")
    for segment_name in ("train", "test"):
        segment = dataset.create_segment(segment_name)
        for number, category in enumerate(["rose", "daisy", None]):
            path = folder / f"{segment_name}{number}.jpg"
            path.write_bytes(jpeg())
            data = Data(str(path))
            if category:
                data.label.classification = Classification(category)
            segment.append(data)
    return dataset


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tensorbay_data_set_in_hand_is_a_source(tmp_path: Path) -> None:
    source = fc.TensorBay(tensorbay_dataset(tmp_path))
    samples = list(source)
    assert [(s.key.split("/")[0], s.label, s.split) for s in samples] == [
        (name, label, name) for name in ("test", "train") for label in ("rose", "daisy", None)
    ]
    image: Any = samples[0].image
    assert image() == jpeg()
    assert len(fc.Dataset.from_source(source, unlabelled="skip")) == 4
    assert [s.key.split("/")[0] for s in fc.TensorBay(source.dataset, segments=[1])] == ["train"] * 3
    with pytest.raises(fc.UnknownNameError, match="segments test, train"):
        list(fc.TensorBay(source.dataset, segments=["trian"]))


def test_the_access_key_shows_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    key = "Accesskey-" + "5" * 32
    source = fc.TensorBay("Flower17-1", key, url="https://127.0.0.1:9")
    assert key not in repr(source)
    monkeypatch.setenv("TENSORBAY_ACCESS_KEY", "Accesskey-" + "6" * 32)
    assert key.encode() not in pickle.dumps(source)
    assert b"66666" not in pickle.dumps(source)
    for name in ("FLOWERCNN_TENSORBAY_KEY", "TENSORBAY_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(fc.ConfigurationError, match="needs an access key.*FLOWERCNN_TENSORBAY_KEY"):
        fc.TensorBay("Flower17-1")
    with pytest.raises(fc.ConfigurationError, match="must begin with") as wrong:
        fc.TensorBay("Flower17-1", "secret-key")
    assert "secret-key" not in str(wrong.value)
    caplog.set_level(logging.DEBUG)
    assert "Accesskey" not in caplog.text
