"""The access key is nowhere it could be found afterwards."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from tensorbay import GAS
from tensorbay_server import FAULTS, TensorBayServer

from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.sources.tensorbay import TensorBay
from flowercnn.sources.tensorbay.api import load_sdk
from flowercnn.sources.tensorbay.credentials import Secret

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]

WORK = """
import logging, pickle, pathlib, sys, traceback
from flowercnn import Dataset
from flowercnn.sources.tensorbay import TensorBay

folder, mode, *urls = sys.argv[1:]
if mode == "debug":
    logging.basicConfig(level=logging.DEBUG)
for number, url in enumerate(urls):
    own = pathlib.Path(folder, str(number))
    own.mkdir()
    source = TensorBay("Flowers", url=url, patience=1.0, cache_dir=own / "cache")
    print(source, vars(source))
    try:
        dataset = Dataset.from_source(source)
        (own / "dataset.pickle").write_bytes(pickle.dumps((dataset, source, list(source))))
        print(dataset, dataset[0], [len(sample.image()) for sample in dataset])
    except Exception as error:
        traceback.print_exc()
        (own / "error.pickle").write_bytes(pickle.dumps(error))
        while error is not None:
            (own / "causes.txt").open("a").write(repr(error) + str(vars(error)))
            error = error.__context__ or error.__cause__
source = TensorBay("Flowers", url=urls[-1], patience=1.0, cache_dir=own / "another")
list(source)  # the last one ends the process with a traceback
"""

FAULTY: list[dict[str, Any]] = [
    {},
    {"fault_rate": 0.1, "faults": ["429", "500", "reset", "cut", "expired"]},
    {},  # the key is refused
    {"lost": 3},
    *({"fault_rate": 1.0, "faults": [fault]} for fault in FAULTS),
]


@pytest.mark.parametrize("mode", ["quiet", "debug"])
def test_the_key_is_in_nothing_that_runs_leave_behind(
    serve: Serve, tmp_path: Path, mode: str
) -> None:
    servers = [serve(**knobs) for knobs in FAULTY]
    servers[2].key, key = "ACCESSKEY-of-someone-else", servers[0].key
    files, output = _run(servers, key, tmp_path, mode)
    assert output.count("18 samples, 3 classes") == 2
    assert (
        output.count("SourceError: TensorBay") == 2 + len(FAULTS) + 1
    )  # refused, lost, each fault, at the end
    assert "HTTP 401" in output
    assert (
        len({path.name for path in files} & {"dataset.pickle", "error.pickle", "causes.txt"}) == 3
    )
    _assert_without(key, files, output)
    assert "Signature=" not in output


def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_error(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http import HTTPStatus

    from tensorbay_server import _Refused

    def repeat(*_: Any) -> Any:
        raise _Refused(HTTPStatus.FORBIDDEN, "AccessDenied", f"{server.key} may not")

    monkeypatch.setattr(server, "answer", repeat)
    with pytest.raises(SourceError, match="AccessDenied: \\*\\*\\* may not"):
        list(read(server))


def test_the_sdk_no_longer_logs_the_key_when_its_users_call_it_themselves(
    server: TensorBayServer, caplog: pytest.LogCaptureFixture
) -> None:
    load_sdk()
    caplog.set_level(logging.DEBUG)
    gas = GAS(server.key, "https://127.0.0.1/")
    gas._client._open_api = f"{server.url}gatewayv2/tensorbay-open-api/v1/"
    assert list(gas.list_dataset_names()) == ["Flowers"]
    server.knobs.script = {"datasets": ["500", "reset"]}
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the SDK raises
            list(gas.list_dataset_names())
    records = [record for record in caplog.records if record.name == "tensorbay.utility.requests"]
    assert len(records) == 3
    assert all('"X-Token": "***"' in record.getMessage() for record in records)
    assert server.key not in caplog.text


def test_requests_of_others_are_logged_as_ever(
    server: TensorBayServer, caplog: pytest.LogCaptureFixture
) -> None:
    load_sdk()
    caplog.set_level(logging.DEBUG)
    requests.get(f"{server.url}other?page=7", timeout=5)
    assert "/other?page=7" in caplog.text


def test_representations_and_copies_show_no_key(server: TensorBayServer, read: Read) -> None:
    source = read(server)
    list(source)
    sample = next(iter(source))
    for thing in (source, vars(source), sample, copy.copy(source), copy.deepcopy(source)):
        assert server.key not in f"{thing} {thing!r}"


def test_a_source_as_a_dict_shows_no_key(server: TensorBayServer, read: Read) -> None:
    source = read(server, segments=["train"])
    list(source)
    options = dataclasses.asdict(source)
    assert options["segments"] == ["train"]
    assert server.key not in f"{options}"


def test_pickles_hold_no_key(server: TensorBayServer, read: Read) -> None:
    source = read(server)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for thing in (source, next(iter(source)), Secret(server.key)):
            assert server.key.encode() not in pickle.dumps(thing, protocol)


@pytest.mark.parametrize(
    "make",
    [
        lambda key: TensorBay("Flowers", key, threads=0),
        lambda key: TensorBay("Flowers", access_key=key, url="ftp://somewhere"),
        lambda key: TensorBay("Flowers", key, no_such_option=1),  # type: ignore[call-arg]
        lambda key: TensorBay("Flowers", key.removeprefix("Accesskey-")),
        lambda key: TensorBay("Flowers", key.encode()),
        lambda key: TensorBay("Flowers", "Accesskey-1", url=f"https://me:{key}@somewhere/"),
        lambda key: TensorBay(key, "Flowers"),
        lambda key: TensorBay(f" {key} of", "Accesskey-1"),
        lambda key: TensorBay("Flowers", "Accesskey-1", segments=key),
        lambda key: TensorBay("Flowers", "Accesskey-1", segments=["train", key]),
        lambda key: TensorBay("Flowers", "Accesskey-1", revision=key),
        lambda key: TensorBay("Flowers", "Accesskey-1", profile=key),
        lambda key: TensorBay("Flowers", "Accesskey-1", url=f"https://somewhere/?key={key}"),
        lambda key: TensorBay("Flowers", "Accesskey-1", ca_bundle=key),
        lambda key: TensorBay("Flowers", "Accesskey-1", threads=key),
    ],
)
def test_an_error_of_refused_arguments_shows_no_key(make: Callable[[str], TensorBay]) -> None:
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        make("Accesskey-SEKRET")
    assert "SEKRET" not in "".join(traceback.format_exception_only(caught.value))
    assert "SEKRET" not in f"{caught.value!r} {vars(caught.value)}"


def test_a_secret_is_kept_by_copies_and_lost_by_pickles() -> None:
    secret = Secret("Accesskey-1")
    assert copy.copy(secret).reveal() == copy.deepcopy(secret).reveal() == "Accesskey-1"
    assert pickle.loads(pickle.dumps(secret)).reveal() is None  # noqa: S301 - it is our own
    assert f"{secret} {secret!r}" == "Secret('***') Secret('***')"
    assert secret.hide_in("the key Accesskey-1") == "the key ***"


def _run(
    servers: list[TensorBayServer], key: str, folder: Path, mode: str
) -> tuple[list[Path], str]:
    """Run `WORK` in another process with a key in its environment; return its files and what it
    printed."""
    folder = folder / "run"
    folder.mkdir()
    surroundings = {**os.environ, "FLOWERCNN_TENSORBAY_KEY": key, "TMPDIR": str(folder)}
    command = [sys.executable, "-c", WORK, str(folder), mode, *(server.url for server in servers)]
    done = subprocess.run(
        command, env=surroundings, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    roots = (folder, Path(surroundings["HOME"]))
    return [
        path for root in roots for path in root.rglob("*") if path.is_file()
    ], done.stdout + done.stderr


def _assert_without(key: str, files: list[Path], output: str) -> None:
    secret = key.split("-", 1)[1]
    assert secret not in output
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
        assert secret not in str(path)
