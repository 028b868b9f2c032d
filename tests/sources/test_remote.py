from __future__ import annotations

import copy
import gzip
import io
import pickle
import socket
import sys
import tarfile
import traceback
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowercnn import (
    Dataset,
    ImageError,
    ImageFolder,
    ImageTable,
    MissingDependencyError,
    Sample,
    SourceError,
    UnknownNameError,
)
from flowercnn.sources import as_source, open_source
from flowercnn.sources.remote import RemoteImage, _system, read_remote
from flowercnn.sources.urls import StorageOptions, key_of_url, shown
from flowercnn.testing import check_source

pytestmark = pytest.mark.versions

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

Png = Callable[[int], bytes]


@pytest.fixture
def memory() -> Iterator[Callable[[Mapping[str, bytes]], str]]:
    """Write files to a folder in memory and return its URL."""
    system = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"

    def write(files: Mapping[str, bytes]) -> str:
        for path, content in files.items():
            system.pipe(f"{root}/{path}", content)
        return f"memory:/{root}"

    yield write
    if system.exists(root):
        system.rm(root, recursive=True)


Memory = Callable[[Mapping[str, bytes]], str]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Keep how long would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("flowercnn.sources.remote.time.sleep", waited.append)
    return waited


def photos(png: Png) -> dict[str, bytes]:
    return {
        f"{name}/{number}.png": png(number) for name in ("daisy", "rose") for number in range(4)
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def contents(source: ImageFolder | ImageTable | Any) -> dict[str, bytes]:
    def content(sample: Sample) -> bytes:
        assert callable(sample.image)
        return sample.image()

    return {sample.key: content(sample) for sample in source}


def test_a_folder_in_memory_is_a_folder(memory: Memory, png: Png) -> None:
    source = ImageFolder(memory(photos(png)))
    assert contents(source) == photos(png)
    check_source(source)


def test_the_rules_of_folders_hold(memory: Memory, png: Png) -> None:
    names = [
        "train/rose/deep/1.PNG",
        "test/rose/1.png",
        "train/.hidden/1.png",
        "train/rose/notes.txt",
    ]
    samples = list(ImageFolder(memory(dict.fromkeys(names, png(1)))))
    assert [(sample.key, sample.label, sample.split) for sample in samples] == [
        ("test/rose/1.png", "rose", "test"),
        ("train/rose/deep/1.PNG", "rose", "train"),
    ]


def test_a_folder_of_a_web_server_is_a_folder(server: Any, png: Png) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {f"/photos/{name}": content for name, content in photos(png).items()}
    source = ImageFolder(f"{server.url}/photos")
    assert contents(source) == photos(png)
    check_source(source)


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tgz"])
def test_an_archive_on_a_web_server_is_a_folder(
    server: Any, png: Png, name: str, cache: Path
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    tar = tarred(photos(png))
    server.files = {"/p.zip": zipped(photos(png)), "/p.tar": tar, "/p.tgz": gzip.compress(tar)}
    source = ImageFolder(f"{server.url}/{name}")
    assert contents(source) == photos(png)
    check_source(source)


def test_one_picture_of_a_zip_on_a_web_server_takes_one_request(server: Any, png: Png) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {"/p.zip": zipped(photos(png))}
    samples = list(ImageFolder(f"{server.url}/p.zip"))
    server.requests.clear()
    assert samples[3].image() == png(3)  # type: ignore[operator]  # it is a function
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["p.zip", "p.tar"])
def test_a_server_that_cannot_send_parts_is_named(server: Any, png: Png, name: str) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {"/p.zip": zipped(photos(png)), "/p.tar": tarred(photos(png))}
    server.ranges = False
    with pytest.raises(
        SourceError, match=rf"{name}: the server cannot send parts .* put simplecache:: before it\."
    ):
        contents(ImageFolder(f"{server.url}/{name}"))


@pytest.mark.parametrize("way", ["simplecache", "filecache"])
@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tgz"])
def test_a_cache_does_without_parts_of_a_file(
    server: Any, png: Png, name: str, way: str, cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    tar = tarred(photos(png))
    server.files = {"/p.zip": zipped(photos(png)), "/p.tar": tar, "/p.tgz": gzip.compress(tar)}
    server.ranges = False
    options = {way: {"cache_storage": str(tmp_path / "copies")}}
    assert contents(ImageFolder(f"{way}::{server.url}/{name}", storage_options=options)) == photos(
        png
    )


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_chained_url_is_a_folder_in_an_archive(memory: Memory, png: Png, kind: str) -> None:
    pack = zipped if kind == "zip" else tarred
    root = memory(
        {"archive": pack({f"data/in/{name}": content for name, content in photos(png).items()})}
    )
    assert contents(ImageFolder(f"{kind}://data/in::{root}/archive")) == photos(png)
    assert contents(ImageFolder(f"{kind}://::{root}/archive")) == photos(png)


def test_an_archive_may_be_named_by_its_kind_and_path(png: Png, tmp_path: Path) -> None:
    (tmp_path / "photos.bin").write_bytes(zipped(photos(png)))
    for url in (f"zip://{tmp_path}/photos.bin", f"zip://::{tmp_path}/photos.bin"):
        assert contents(ImageFolder(url)) == photos(png)


def test_links_to_what_is_not_below_a_page_are_passed_over(server: Any, png: Png) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {"/photos/rose/1.png": png(1), "/other/2.png": png(2)}
    links = (
        "/",
        "../",
        "../other/",
        "/other/",
        "rose/../../other/",
        "?C=N;O=D",
        "javascript:x()",
        "rose/",
    )
    server.pages["/photos"] = server.pages["/photos/"] = b"".join(
        b'<a href="%b">x</a>' % x.encode() for x in links
    )
    for url in (f"{server.url}/photos", f"{server.url}/photos/"):
        assert [sample.key for sample in ImageFolder(url)] == ["rose/1.png"]
    assert {path for _, path, _ in server.requests} <= {"/photos", "/photos/", "/photos/rose/"}


def test_pages_that_go_deeper_and_deeper_are_refused(server: Any) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.pages = {"/photos" + "/d" * depth + "/": b'<a href="d/">d</a>' for depth in range(99)}
    with pytest.raises(SourceError, match="nested more than 64 deep"):
        list(ImageFolder(f"{server.url}/photos/"))


def test_a_file_system_that_fails_at_once_is_a_source_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("token=secret")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(SourceError, match=r"^memory://x: cannot be read \(RuntimeError\)"):
        list(ImageFolder("memory://x"))


def test_a_folder_that_is_not_in_the_archive_is_named(memory: Memory, png: Png) -> None:
    with pytest.raises(SourceError, match="there is no folder 'else' in it"):
        list(ImageFolder(f"zip://else::{memory({'a.zip': zipped(photos(png))})}/a.zip"))


def test_a_chained_cache_is_used_for_the_pictures_too(
    memory: Memory, png: Png, tmp_path: Path
) -> None:
    source = ImageFolder(
        f"simplecache::{memory(photos(png))}",
        storage_options={"simplecache": {"cache_storage": str(tmp_path / "c")}},
    )
    assert contents(source) == photos(png)
    assert len(list((tmp_path / "c").iterdir())) == 8


def test_names_that_lead_out_of_a_remote_archive_are_refused(memory: Memory, png: Png) -> None:
    root = memory({"a.zip": zipped({"rose/1.png": png(1), "../1.png": png(2)})})
    with pytest.raises(SourceError, match="leads out of the archive"):
        list(ImageFolder(f"{root}/a.zip"))


def test_a_remote_table_names_remote_pictures(memory: Memory, png: Png) -> None:
    rows = "".join(f"{name},{name.partition('/')[0]}\n" for name in photos(png))
    root = memory({**photos(png), "photos.csv": f"image,label\n{rows}".encode()})
    source = ImageTable(f"{root}/photos.csv", image="image", label="label")
    assert contents(source) == photos(png)
    check_source(source)
    assert contents(as_source(f"{root}/photos.csv")) == photos(png)


@pytest.mark.parametrize("name", ["my photos", "100%", "a%20b", "r\u00f6se #1"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_uri_of_a_path_is_a_place(png: Png, tmp_path: Path, name: str, kind: str) -> None:
    files = {"a%20b/1 %41.png": png(1), "c d/2.png": png(2)}
    for path, content in files.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_bytes(content)
    (tmp_path / f"{name}.zip").write_bytes(zipped(files))
    root = tmp_path / name if kind == "folder" else tmp_path / f"{name}.zip"
    assert contents(ImageFolder(root.as_uri())) == files
    assert contents(open_source(root.as_uri())) == files
    assert contents(ImageFolder(f"simplecache::{root.as_uri()}")) == files


def test_the_uri_of_a_table_is_a_place(png: Png, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(1))
    (folder / "t.csv").write_text("file,label\n1.png,rose\n")
    assert contents(open_source((folder / "t.csv").as_uri())) == {"1.png": png(1)}


def test_a_local_table_may_name_urls(memory: Memory, png: Png) -> None:
    root = memory(photos(png))
    table = {"image": [f"{root}/rose/1.png", f"{root}/daisy/2.png"], "label": ["rose", "daisy"]}
    assert list(contents(ImageTable(table, image="image", label="label")).values()) == [
        png(1),
        png(2),
    ]


def test_the_root_of_a_table_may_be_a_url(memory: Memory, png: Png) -> None:
    table = {"image": ["rose/1.png", "./daisy\\2.png"], "label": ["rose", "daisy"]}
    source = ImageTable(table, image="image", label="label", root=memory(photos(png)))
    assert contents(source) == {"rose/1.png": png(1), "daisy/2.png": png(2)}


def test_a_url_can_be_opened_by_name(memory: Memory, png: Png) -> None:
    root = memory(photos(png))
    assert contents(open_source(root)) == contents(as_source(root)) == photos(png)


def test_a_picture_that_is_not_there_is_an_image_error(memory: Memory, png: Png) -> None:
    with pytest.raises(ImageError, match="there is no such file"):
        RemoteImage(f"{memory(photos(png))}/rose/99.png")()


def test_a_missing_picture_on_a_web_server_is_an_image_error(
    server: Any, no_waiting: list[float]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with pytest.raises(ImageError, match="there is no such file"):
        RemoteImage(f"{server.url}/1.png")()
    assert no_waiting == []


def test_a_folder_that_is_not_there_is_a_source_error(memory: Memory) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        list(ImageFolder(f"{memory({})}/nothing"))


@pytest.mark.parametrize("faults", [[503], [500, 429], ["cut"], [503, "cut"]])
def test_what_may_pass_is_tried_again(
    server: Any, png: Png, faults: list[int | str], no_waiting: list[float]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.faults = {"/1.png": png(1)}, {"/1.png": faults}
    assert RemoteImage(f"{server.url}/1.png")() == png(1)
    assert no_waiting


def test_what_does_not_pass_is_an_error_after_three_attempts(
    server: Any, png: Png, no_waiting: list[float]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.faults = {"/1.png": png(1)}, {"/1.png": [503] * 9}
    with pytest.raises(SourceError, match="cannot be read"):
        RemoteImage(f"{server.url}/1.png")()
    assert len(no_waiting) == 2


def test_what_is_forbidden_is_not_tried_again(
    server: Any, png: Png, no_waiting: list[float]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.faults = {"/1.png": png(1)}, {"/1.png": [403] * 9}
    with pytest.raises(SourceError, match="cannot be read"):
        RemoteImage(f"{server.url}/1.png")()
    assert no_waiting == []


QUERY, USER = "sig=T0K", "me:s3cret"


def test_a_query_does_not_hide_what_a_url_ends_with(server: Any, png: Png, cache: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    table = b"file,label\nphotos/rose/1.png,rose\n"
    server.files = {
        "/p.zip": zipped(photos(png)),
        "/p.tgz": gzip.compress(tarred(photos(png))),
        "/t.csv": table,
    }
    server.files["/photos/rose/1.png"] = png(1)
    for name in ("p.zip", "p.tgz"):
        assert contents(ImageFolder(f"{server.url}/{name}?{QUERY}")) == photos(png)
    assert contents(open_source(f"{server.url}/t.csv?{QUERY}")) == {"photos/rose/1.png": png(1)}


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tgz", "t.csv"])
def test_what_a_url_holds_in_secret_is_in_no_message_and_no_traceback(
    server: Any, name: str
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.faults = {f"/{name}": b"x" * 2000}, {f"/{name}": [403] * 9}
    with pytest.raises(SourceError) as caught:
        list(open_source(f"{server.url.replace('://', f'://{USER}@')}/{name}?{QUERY}"))
    shown = "".join(traceback.format_exception(caught.value))
    assert "T0K" not in shown
    assert "s3cret" not in shown


def test_a_number_sign_in_the_path_of_a_table_is_a_part_of_it(server: Any, png: Png) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {"/photos/%231.png": png(1), "/photos/": b"a page"}
    table = ImageTable(
        {"file": ["#1.png"], "label": ["rose"]},
        image="file",
        label="label",
        root=f"{server.url}/photos",
    )
    assert contents(table) == {"#1.png": png(1)}


def test_nobody_listening_is_a_source_error() -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with pytest.raises(SourceError, match="Check the URL"):
        list(ImageFolder("http://127.0.0.1:9/photos"))


def test_a_sub_folder_that_cannot_be_listed_is_an_error_and_not_left_out(
    server: Any, png: Png
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {f"/photos/{name}": content for name, content in photos(png).items()}
    server.faults = {path: ["drop"] * 9 for path in ("/photos/rose", "/photos/rose/")}
    with pytest.raises(SourceError, match="cannot be read"):
        list(ImageFolder(f"{server.url}/photos"))


def test_each_request_of_a_listing_is_tried_again(
    server: Any, png: Png, no_waiting: list[float]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    names = ["a/1.png", "b/2.png", "c/3.png"]
    server.files = {f"/photos/{name}": png(number) for number, name in enumerate(names)}
    server.faults = {f"/photos/{name}/": [503, 503] for name in "abc"}
    assert [sample.key for sample in ImageFolder(f"{server.url}/photos")] == names
    assert len(no_waiting) == 6


def test_a_file_beyond_the_limit_is_refused(
    memory: Memory, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowercnn.sources.remote._LARGEST_FILE", 50)
    root = memory(photos(png))
    with pytest.raises(ImageError, match="more than 50 bytes"):
        RemoteImage(f"{root}/rose/1.png")()
    with pytest.raises(SourceError, match="more than 50 bytes"):
        read_remote(f"{root}/rose/1.png", {})


def test_an_unknown_kind_of_url_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"fsspec knows no s4:// URLs. Did you mean 's3'"):
        list(ImageFolder("s4://bucket/photos"))


def test_without_fsspec_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flowercnn\[remote\]'"):
        list(ImageFolder("s3://bucket/photos"))


def test_without_what_a_url_needs_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependencyError, match="s3fs"):
        list(ImageFolder("s3://bucket/photos"))


def test_what_may_be_secret_in_a_url_is_not_shown() -> None:
    url = "https://user:word@example.org/a/b.png?signature=abc#x"
    assert shown(url) == "https://example.org/a/b.png"
    assert shown(f"zip://a::{url}") == "zip://a::https://example.org/a/b.png"
    assert repr(RemoteImage(url, StorageOptions(key="secret"))) == "<https://example.org/a/b.png>"
    assert "word" not in repr(ImageFolder(url)) + repr(ImageTable(url, image="a", label="b"))
    with pytest.raises(UnknownNameError) as caught:
        list(ImageFolder(url.replace("https", "httpx")))
    assert "word" not in str(caught.value) + str(caught.value.__cause__)


def test_the_key_of_a_url_has_no_secrets_and_tells_urls_apart() -> None:
    keys = {key_of_url(f"https://user:word@example.org/a?{query}") for query in ("id=1", "id=2")}
    assert len(keys) == 2
    assert all(key.startswith("https://example.org/a?") and "id" not in key for key in keys)
    rows = {"image": ["https://user:word@example.org/a.png"], "label": ["rose"]}
    assert [sample.key for sample in ImageTable(rows, image="image", label="label")] == [
        "https://example.org/a.png"
    ]


@pytest.mark.parametrize(
    "make", [ImageFolder, lambda url, **options: ImageTable(url, image="a", label="b", **options)]
)
def test_options_are_neither_shown_nor_pickled_but_copied(make: Any) -> None:
    source = make("s3://bucket", storage_options={"secret": "hidden"})
    assert "hidden" not in repr(source)
    assert b"hidden" not in pickle.dumps(source)
    assert pickle.loads(pickle.dumps(source)).root == source.root  # noqa: S301 - made here
    assert copy.deepcopy(source).storage_options == {"secret": "hidden"}
    assert b"hidden" not in pickle.dumps(RemoteImage("s3://bucket", StorageOptions(anon="hidden")))


def test_a_remote_picture_can_be_pickled(memory: Memory, png: Png) -> None:
    picture = RemoteImage(f"{memory(photos(png))}/rose/1.png")
    assert pickle.loads(pickle.dumps(picture))() == png(1)  # noqa: S301 - made here


def test_pictures_of_a_web_server_are_read_concurrently_and_right(server: Any, png: Png) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {f"/photos/rose/{number}.png": png(number) for number in range(60)}
    assert (
        Dataset.from_source(ImageFolder(f"{server.url}/photos")).audit(progress=False).unusable
        == ()
    )


@pytest.mark.parametrize(
    "headers", [{"ETag": '"1"'}, {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}]
)
def test_a_compressed_tar_that_changes_on_a_web_server_is_unpacked_anew(
    server: Any, png: Png, cache: Path, headers: dict[str, str]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.headers = headers
    old, new = ({name: png(number) for name in ("rose/1.png", "daisy/1.png")} for number in (1, 2))
    for files in (old, new):
        server.files = {"/p.tgz": gzip.compress(tarred(files), mtime=0)}
        assert contents(ImageFolder(f"{server.url}/p.tgz")) == files
        server.headers = {name: value.replace("1", "2") for name, value in headers.items()}
    server.requests.clear()
    assert contents(ImageFolder(f"{server.url}/p.tgz")) == new
    if "ETag" in headers:  # fsspec of 2024 does not tell the date, so that it is unpacked anew
        assert {method for method, _, _ in server.requests} == {"HEAD"}
    assert len(list(cache.rglob("*.tar"))) == 1


def test_a_compressed_tar_of_which_only_the_size_is_known_is_unpacked_each_time(
    server: Any, png: Png, cache: Path
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    old, new = ({"rose/1.png": png(number), "daisy/1.png": png(3)} for number in (1, 2))
    server.files = {"/p.tgz": gzip.compress(tarred(old), mtime=0)}
    first = list(ImageFolder(f"{server.url}/p.tgz"))
    assert contents(ImageFolder(f"{server.url}/p.tgz")) == old
    assert contents(first) == old
    server.files = {"/p.tgz": gzip.compress(tarred(new), mtime=0)}
    assert contents(ImageFolder(f"{server.url}/p.tgz")) == new
    assert len(list(cache.rglob("*.tar"))) == 1


@pytest.mark.parametrize("status", [503, 429])
def test_a_server_that_is_out_of_order_has_no_missing_files(
    server: Any, png: Png, no_waiting: list[float], status: int
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.refusals = {"/1.png": png(1)}, {"/1.png": [status] * 2}
    assert RemoteImage(f"{server.url}/1.png")() == png(1)
    assert len(no_waiting) in (1, 2)  # older versions of fsspec ask for the size, too
    server.refusals = {"/1.png": [status] * 99}
    with pytest.raises(SourceError, match=r"1\.png: cannot be read"):
        RemoteImage(f"{server.url}/1.png")()


def test_what_is_gone_for_good_is_missing(server: Any, png: Png, no_waiting: list[float]) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.refusals = {"/1.png": png(1)}, {"/1.png": [410] * 9}
    with pytest.raises(ImageError, match="there is no such file"):
        RemoteImage(f"{server.url}/1.png")()
    assert no_waiting == []


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tgz"])
@pytest.mark.parametrize("fault", [503, "cut"])
def test_what_may_pass_while_an_archive_is_listed_is_tried_again(
    server: Any, png: Png, name: str, fault: int | str, cache: Path, no_waiting: list[float]
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    tar = tarred(photos(png))
    server.files = {"/p.zip": zipped(photos(png)), "/p.tar": tar, "/p.tgz": gzip.compress(tar)}
    server.faults = {f"/{name}": [fault, fault]}
    assert len(list(ImageFolder(f"{server.url}/{name}"))) == 8
    assert len(no_waiting) == 2


@pytest.mark.parametrize("way", ["{}/photos", "{}/p.zip", "simplecache::{}/p.zip"])
def test_a_web_server_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    monkeypatch.setattr("flowercnn.sources.remote._SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceError, match="cannot be read"):
            list(ImageFolder(way.format(url)))


def test_a_timeout_of_ones_own_is_kept(server: Any, png: Png) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files = {"/1.png": png(1)}
    options = StorageOptions({"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=7)}})
    assert _system(server.url, options)[0].client_kwargs["timeout"].total == 7


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tgz"])
def test_a_server_that_fails_while_an_archive_is_listed_makes_it_no_damaged_archive(
    server: Any, png: Png, name: str, cache: Path
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    server.files, server.faults = {f"/{name}": zipped(photos(png))}, {f"/{name}": [503] * 9}
    with pytest.raises(SourceError, match=r"cannot be read \(ClientResponseError\)"):
        list(ImageFolder(f"{server.url}/{name}"))
