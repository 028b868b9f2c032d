"""What is kept on disk, for how long, and what can be read from it alone."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorbay_server import (
    ServedDataset,
    ServedFile,
    TensorBayServer,
    example_dataset,
    example_files,
)

from flowercnn.errors import SourceError
from flowercnn.sources.base import Sample
from flowercnn.sources.tensorbay import TensorBay, clear_cache
from flowercnn.sources.tensorbay.cache import DiskCache, NewFile, default_cache_dir

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]
FLOWERS = example_dataset()
EVERYTHING = FLOWERS.keys("test", "train")


def content(sample: Sample) -> bytes:
    assert callable(sample.image)
    return sample.image()


def cached(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("files/**/*") if path.is_file())


def big_files(count: int) -> list[ServedFile]:
    return [
        ServedFile(f"{number}.jpg", bytes([number]) * 10_000, "rose") for number in range(count)
    ]


def test_a_second_run_asks_for_no_file(server: TensorBayServer, read: Read) -> None:
    first = [content(sample) for sample in read(server)]
    server.asked.clear()
    assert [content(sample) for sample in read(server)] == first
    assert server.count("file") == 0


def test_another_commit_is_another_file(serve: Serve, read: Read) -> None:
    new, old = ServedFile("1.jpg", b"new", "rose"), ServedFile("1.jpg", b"old", "rose")
    server = serve(ServedDataset("Flowers", {"train": [new]}, tags={"v1": {"train": [old]}}))
    assert [content(sample) for sample in read(server)] == [b"new"]
    assert [content(sample) for sample in read(server, revision="v1")] == [b"old"]


def test_another_segment_or_data_set_is_another_file(serve: Serve, read: Read) -> None:
    files = {name: [ServedFile("1.jpg", name.encode(), "rose")] for name in ("a", "b", "c")}
    server = serve(
        ServedDataset("One", {"a": files["a"], "b": files["b"]}),
        ServedDataset("Two", {"a": files["c"]}),
    )
    assert [content(sample) for name in ("One", "Two") for sample in read(server, name)] == [
        b"a",
        b"b",
        b"c",
    ]


def test_the_cache_is_where_the_platform_keeps_a_users_caches() -> None:
    assert default_cache_dir().name == "flowercnn"
    assert default_cache_dir().is_relative_to(os.environ["HOME"])


def test_without_a_place_given_the_platforms_is_used(server: TensorBayServer, read: Read) -> None:
    list(read(server, cache_dir=None))
    assert len(cached(default_cache_dir() / "tensorbay")) == 18


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_other_users_cannot_look_into_the_cache(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    list(read(server))
    folders = [
        path
        for path in (tmp_path / "cache" / "tensorbay").rglob("*")
        if path.is_dir() and path.name != "files"
    ]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_clearing_removes_what_is_tensorbays_and_nothing_else(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    list(read(server))
    other = tmp_path / "cache" / "flowercnn-pixels" / "1"
    other.parent.mkdir()
    other.touch()
    clear_cache(tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [other]
    server.asked.clear()
    assert len(list(read(server))) == 18
    assert server.count("file") == 18


def test_the_cache_stays_below_its_limit_and_drops_what_was_not_used_for_longest(
    serve: Serve, read: Read, tmp_path: Path
) -> None:
    server = serve(ServedDataset("Flowers", {"train": big_files(10)}))
    list(read(server))
    for path in cached(tmp_path):
        os.utime(path, (1, 1))
    kept = next(iter(read(server, threads=1, window=1)))  # uses the first file
    more = serve(ServedDataset("More", {"train": [ServedFile("1.jpg", bytes(10_000), "rose")]}))
    list(read(more, "More", cache_limit=60_000))
    assert sum(path.stat().st_size for path in cached(tmp_path)) <= 60_000
    server.asked.clear()
    assert content(kept) == bytes(10_000)
    assert server.count("file") == 0


def test_a_data_set_larger_than_the_cache_is_read_all_the_same(
    serve: Serve, read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowercnn")
    files = big_files(10)
    server = serve(ServedDataset("Flowers", {"train": files}))
    samples = list(read(server, cache_limit=35_000, threads=2))
    assert len(cached(tmp_path)) <= 3
    assert [content(sample) for sample in samples] == [file.content for file in files]
    assert "more than cache_limit=35000 bytes" in caplog.text


def test_a_file_that_was_removed_is_fetched_again_when_its_bytes_are_wanted(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    samples = list(read(server, segments=["train"]))
    for path in cached(tmp_path):
        path.unlink()
    assert content(samples[3]) == FLOWERS.segments["train"][3].content
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed"])
def test_a_damaged_file_is_not_believed_but_fetched_again(
    server: TensorBayServer,
    read: Read,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples = list(read(server, segments=["train"]))
    for path in cached(tmp_path):
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-1], "emptied": b"", "changed": b"x" + whole[1:]}[damage])
    assert [content(sample) for sample in samples] == [
        file.content for file in FLOWERS.segments["train"]
    ]
    assert "is damaged; it is fetched again" in caplog.text


def test_temporary_files_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "tensorbay" / "files" / "ab"
    folder.mkdir(parents=True)
    old, young = folder / ".0123", folder / ".4567"
    for path, age in ((old, 100_000), (young, 100)):
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    cache = DiskCache(tmp_path, 10**6)
    file = cache.new_file(cache.name("a"))
    cache.commit(file)
    assert not old.exists()
    assert young.exists()


def test_two_processes_may_fill_one_cache_at_once(server: TensorBayServer, tmp_path: Path) -> None:
    server.knobs.latency = 0.02
    code = f"""
from flowercnn.sources.tensorbay import TensorBay
source = TensorBay("Flowers", {server.key!r}, url={server.url!r}, cache_dir={str(tmp_path)!r})
print(sum(len(sample.image()) for sample in source))
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    expected = sum(len(file.read()) for files in FLOWERS.segments.values() for file in files)
    assert [int(process.communicate()[0]) for process in both] == [expected] * 2


def test_a_cache_that_can_only_be_read_is_read(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [content(sample) for sample in read(server)]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(NewFile, "__init__", refuse)
    assert [content(sample) for sample in read(server)] == first


def test_offline_everything_comes_from_the_cache_without_a_key(
    server: TensorBayServer, read: Read
) -> None:
    online = list(read(server))
    asked = len(server.asked)
    source = TensorBay("Flowers", url=server.url, cache_dir=read(server).cache_dir, offline=True)
    offline = list(source)
    assert [(s.key, s.label, s.split) for s in offline] == [
        (s.key, s.label, s.split) for s in online
    ]
    assert [content(sample) for sample in offline] == [content(sample) for sample in online]
    assert source.class_names == ("tulip", "daisy", "rose")
    assert len(source) == 18
    assert len(server.asked) == asked


def test_offline_the_region_is_found_without_a_key(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    source = TensorBay("Flowers", offline=True, cache_dir=tmp_path)
    with pytest.raises(SourceError, match="the data set at this revision and url is not"):
        list(source)


def test_offline_the_address_of_the_profile_is_the_one_that_was_read_from(
    server: TensorBayServer, read: Read
) -> None:
    path = Path("~/.gasconfig").expanduser()
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"[profiles]\ndefault = \n\t{server.key}\n\t{server.url}\n")
    options = {"access_key": None, "url": None}
    assert (
        len(list(read(server, **options))) == len(list(read(server, offline=True, **options))) == 18
    )


def test_offline_what_was_not_read_before_is_refused(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    list(read(server, segments=["train"]))
    with pytest.raises(SourceError, match="the list of the segment 'test' is not"):
        list(read(server, offline=True))
    assert len(list(read(server, offline=True, segments=["train"]))) == 12
    with pytest.raises(SourceError, match="the data set at this revision"):
        list(read(server, offline=True, revision="v1"))
    cached(tmp_path)[0].unlink()
    with pytest.raises(SourceError, match="1 of 12 files .train/.*with offline=False"):
        list(read(server, offline=True, segments=["train"]))


def test_offline_a_file_that_is_lost_later_is_an_error_with_its_name(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    list(read(server))
    sample = next(iter(read(server, offline=True)))
    clear_cache(tmp_path / "cache")
    with pytest.raises(
        SourceError, match="Flowers: test/tulip/00012.jpg> is not in the cache any more"
    ):
        content(sample)


def test_a_run_that_was_broken_off_leaves_no_listing_that_offline_would_believe(
    serve: Serve, read: Read
) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(300)}))
    samples = iter(read(server, threads=1, window=1))
    next(samples)
    samples.close()  # type: ignore[attr-defined]  # it is a generator
    with pytest.raises(SourceError, match="must be in the cache"):
        list(read(server, offline=True))


def test_samples_can_be_read_in_another_process_from_the_cache(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    samples = list(read(server, segments=["train"]))
    (tmp_path / "samples").write_bytes(pickle.dumps(samples))
    asked = len(server.asked)
    code = f"""
import pickle, pathlib
samples = pickle.loads(pathlib.Path({str(tmp_path / "samples")!r}).read_bytes())
print(sum(len(sample.image()) for sample in samples))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) == sum(len(file.read()) for file in FLOWERS.segments["train"])
    assert len(server.asked) == asked


def test_another_process_fetches_again_with_the_key_of_its_own_environment(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    sample = pickle.dumps(next(iter(read(server, segments=["train"]))))
    clear_cache(tmp_path / "cache")
    (tmp_path / "sample").write_bytes(sample)
    code = f"""
import pickle, pathlib
print(len(pickle.loads(pathlib.Path({str(tmp_path / "sample")!r}).read_bytes()).image()))
"""
    with_key = {**os.environ, "TENSORBAY_ACCESS_KEY": server.key}
    done = subprocess.run(
        [sys.executable, "-c", code], env=with_key, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == len(FLOWERS.segments["train"][0].read())
    clear_cache(tmp_path / "cache")
    refused = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert "TensorBay needs an access key" in refused.stderr
