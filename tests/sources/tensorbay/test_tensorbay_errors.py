"""One clear error for each thing that cannot work, soon."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbay_server import ServedDataset, ServedFile, TensorBayServer, _Refused, example_files

from flowercnn.errors import ConfigurationError, FlowerCNNError, MissingDependencyError, SourceError
from flowercnn.sources.tensorbay import TensorBay, api, cache
from flowercnn.sources.tensorbay.options import Options

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]
KEY = "Accesskey-0123456789"


@pytest.fixture(autouse=True)
def within_fifteen_seconds() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 15


def test_a_wrong_key_is_refused_with_where_to_find_the_right_one(
    server: TensorBayServer, read: Read
) -> None:
    with pytest.raises(
        SourceError, match="HTTP 401: Unauthorized.*The access key is not accepted. Copy it again"
    ):
        list(read(server, access_key="Accesskey-of-someone-else"))
    assert len(server.asked) == 1


def test_a_key_without_the_right_is_told_so(
    server: TensorBayServer, read: Read, monkeypatch: Any
) -> None:
    def refuse(*_: Any) -> Any:
        raise _Refused(HTTPStatus.FORBIDDEN, "AccessDenied", "no permission")

    monkeypatch.setattr(server, "answer", refuse)
    with pytest.raises(
        SourceError, match="HTTP 403: AccessDenied: no permission; tried once. The owner of the"
    ):
        list(read(server))


@pytest.mark.parametrize("status", [400, 403])
def test_the_code_of_an_answer_counts_as_it_does_for_the_sdk(
    server: TensorBayServer, read: Read, monkeypatch: Any, status: int
) -> None:
    def refuse(*_: Any) -> Any:
        raise _Refused(HTTPStatus(status), "Unauthorized", "who is that?")

    monkeypatch.setattr(server, "answer", refuse)
    with pytest.raises(
        SourceError, match=f"HTTP {status}: Unauthorized: who .* tried once. The access key is not"
    ):
        list(read(server))


def test_a_host_that_is_down_is_an_error_within_patience(read: Read) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    source = TensorBay("Flowers", KEY, url=f"https://127.0.0.1:{port}/", patience=1.0)
    with pytest.raises(
        SourceError, match="data set 'Flowers': Connection refused; tried .* times in .*network"
    ):
        list(source)


def test_a_host_that_never_answers_is_an_error_within_patience() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(SourceError, match="no answer in time"):
            list(TensorBay("Flowers", KEY, url=url, patience=1.0))


def test_a_host_that_does_not_speak_tls_is_an_error_at_once(server: TensorBayServer) -> None:
    url = server.url.replace("http:", "https:")
    with pytest.raises(SourceError, match="TLS: .*tried once"):
        list(TensorBay("Flowers", KEY, url=url))


def test_the_standard_patience_leaves_room_below_fifteen_seconds() -> None:
    assert TensorBay("Flowers", KEY).patience == 10


def test_a_disk_that_is_full_is_one_error_that_names_the_cache(
    server: TensorBayServer, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = cache.NewFile.commit

    def commit_three(self: cache.NewFile) -> int:
        if len(list((tmp_path / "cache").rglob("files/*/[0-9a-f]*"))) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return commit(self)

    monkeypatch.setattr(cache.NewFile, "commit", commit_three)
    with pytest.raises(
        SourceError, match=f"{tmp_path}/cache/tensorbay: .*No space left on device.*cache_dir"
    ):
        list(read(server, threads=1))
    assert server.count("file") <= 8  # it is not tried again and again
    assert not list(tmp_path.rglob("cache/**/.*"))  # and no half file is left


def test_a_file_the_system_will_not_take_is_the_same_error(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        ServedDataset("Flowers", {"train": [ServedFile("1.jpg", bytes(300_000), "rose")]})
    )
    cache = str(tmp_path / "cache")
    code = f"""
import resource
from flowercnn.sources.tensorbay import TensorBay
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
list(TensorBay("Flowers", {server.key!r}, url={server.url!r}, cache_dir={cache!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "SourceError" in done.stderr
    assert "the TensorBay cache cannot be written (File too large)" in done.stderr
    assert not list(tmp_path.rglob("cache/**/.*"))


def test_a_write_that_fails_in_the_middle_is_the_same_error(
    serve: Serve, read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: cache.NewFile, piece: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.NewFile, "write", full)
    with pytest.raises(SourceError, match="cache cannot be written .No space left on device"):
        list(read(serve(ServedDataset("Flowers", {"train": example_files(1)}))))
    assert not list(tmp_path.rglob("cache/**/.*"))


def test_a_cache_that_is_a_file_is_one_error(
    server: TensorBayServer, read: Read, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cache cannot be written"):
        list(read(server, cache_dir=tmp_path / "file"))


def test_an_sdk_that_cannot_be_imported_is_told_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorbay", None)
    with pytest.raises(
        MissingDependencyError, match="TensorBay SDK cannot be imported.*pip install"
    ):
        api.load_sdk()


def test_no_key_at_all_is_told_with_every_way_to_give_one() -> None:
    with pytest.raises(
        ConfigurationError, match="FLOWERCNN_TENSORBAY_KEY .or TENSORBAY_ACCESS_KEY.*gas auth"
    ):
        TensorBay("Flowers")


@pytest.mark.parametrize(
    "key",
    ["<Your Key>", "", "  ", "accesskey-1", "Accesskey-\n", "Accesskey-a b", "ACCESSKEY-é", 7],
)
def test_a_key_of_the_wrong_form_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="access_key must begin with 'Accesskey-'"
    ) as caught:
        TensorBay("Flowers", key)
    assert str(key).strip() in ("", "Accesskey-") or str(key) not in str(caught.value)


WRONG = {
    "dataset is empty": {"dataset": ""},
    "dataset is None": {"dataset": None},
    "dataset is a number": {"dataset": 17},
    "dataset is a key": {"dataset": KEY},
    "no segments": {"segments": []},
    "segments of another type": {"segments": [1.5]},
    "segments are a bool": {"segments": [True]},
    "revision is empty": {"revision": ""},
    "revision is a number": {"revision": 3},
    "url without scheme": {"url": "gas.graviti.cn"},
    "url without host": {"url": "https://"},
    "url is http elsewhere": {"url": "http://gas.graviti.cn/"},
    "url is of another kind": {"url": "ftp://gas.graviti.cn/"},
    "url with a password": {"url": "https://me:secret@gas.graviti.cn/"},
    "url cannot be read": {"url": "https://[::1/"},
    "url is a number": {"url": 3},
    "profile is a number": {"profile": 3},
    "ca_bundle is missing": {"ca_bundle": "missing.pem"},
    "unlabelled": {"unlabelled": "ignore"},
    "no threads": {"threads": 0},
    "too many threads": {"threads": 65},
    "threads are a bool": {"threads": True},
    "no window": {"window": 0},
    "no patience": {"patience": 0},
    "patience is a word": {"patience": "long"},
    "patience has no end": {"patience": float("inf")},
    "no cache": {"cache_limit": 0},
    "offline is a word": {"offline": "yes"},
    "predefined_splits is None": {"predefined_splits": None},
    "cache_dir is a number": {"cache_dir": 5},
    "ca_bundle is a number": {"ca_bundle": 5},
}


@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG)
def test_an_argument_that_cannot_be_meant_is_refused_when_it_is_given(
    options: dict[str, Any],
) -> None:
    name = next(iter(options))
    with pytest.raises(ConfigurationError, match=rf"^{name} must .*Received: ") as caught:
        TensorBay(**{"dataset": "Flowers", "access_key": KEY, **options})
    assert "secret" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_numbers_of_numpy_are_taken_as_those_of_python() -> None:
    numbers: dict[str, Any] = {"threads": 8, "window": 32, "cache_limit": 10**6, "patience": 2.5}
    given: dict[str, Any] = {name: np.asarray(value)[()] for name, value in numbers.items()}
    given["segments"] = [np.int32(0)]
    source = TensorBay("Flowers", KEY, **given)
    assert {name: getattr(source, name) for name in numbers} == numbers
    assert "np." not in f"{source!r}"


def test_options_check_themselves_and_cannot_be_changed() -> None:
    with pytest.raises(ConfigurationError, match="^threads must be an int from 1 to 64"):
        Options(threads=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().threads = 3  # type: ignore[misc]  # that is the point


def test_all_errors_are_the_librarys(serve: Serve, read: Read) -> None:
    for dataset in (
        ServedDataset("Flowers", {}),
        ServedDataset("Flowers", {"a": [ServedFile("1", b"")]}),
    ):
        with pytest.raises(FlowerCNNError):
            list(read(serve(dataset)))
