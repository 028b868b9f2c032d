"""What happens when the network, the server or the store of files fails in passing, and when it
fails for good."""

from __future__ import annotations

import gc
import logging
import random
import ssl
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import tensorbay_server
from tensorbay import GAS
from tensorbay.client import config
from tensorbay.utility.requests import get_session
from tensorbay_server import (
    FAULTS,
    ServedDataset,
    ServedFile,
    TensorBayServer,
    example_dataset,
    example_files,
)

from flowercnn.errors import ConfigurationError, SourceError
from flowercnn.sources.base import Sample
from flowercnn.sources.tensorbay import TensorBay
from flowercnn.sources.tensorbay.transport import Stopped, Transport, Wait

Serve = Callable[..., TensorBayServer]
Read = Callable[..., TensorBay]
FLOWERS = example_dataset()
TRAIN = FLOWERS.keys("train")


def content(sample: Sample) -> bytes:
    assert callable(sample.image)
    return sample.image()


def keys(source: TensorBay) -> list[str]:
    return [sample.key for sample in source]


@pytest.mark.parametrize(
    "fault", [*FAULTS, "500 500", "expired expired", "reset hang cut", "403", "400", "page"]
)
def test_a_file_that_fails_in_passing_is_fetched_again(
    server: TensorBayServer, read: Read, fault: str
) -> None:
    server.knobs.script = {"file": ["", *fault.split()]}
    samples = list(read(server, segments=["train"]))
    assert [content(sample) for sample in samples] == [
        file.content for file in FLOWERS.segments["train"]
    ]
    assert server.count("file") == 12 + len(fault.split())


@pytest.mark.parametrize("fault", [*FAULTS, "page", "reset 503"])
@pytest.mark.parametrize("what", ["datasets", "segments", "data/details", "labels/catalogs"])
def test_a_question_that_fails_in_passing_is_asked_again(
    server: TensorBayServer, read: Read, what: str, fault: str
) -> None:
    server.knobs.script = {what: fault.split()}
    assert keys(read(server, segments=["train"])) == TRAIN
    assert server.count(what) == 1 + len(fault.split())


def test_a_failed_refresh_of_addresses_is_repeated(server: TensorBayServer, read: Read) -> None:
    server.knobs.script = {"file": ["expired"], "data/urls": ["reset", "cut", "503"]}
    assert keys(read(server, segments=["train"])) == TRAIN
    assert server.count("data/urls") == 4


def test_addresses_that_expired_are_renewed_a_page_at_a_time(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(100)}))
    source = read(server, threads=2, window=2)
    samples = iter(source)
    next(samples)
    server._signing_key = b"another"  # the addresses there are now stop being good
    assert len(list(samples)) == 99
    assert server.count("data/urls") == 1


def test_addresses_are_renewed_in_shorter_pages_where_the_server_wants_that(
    serve: Serve, read: Read
) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(100)}))
    source = read(server, threads=2, window=2)
    samples = iter(source)
    next(samples)
    server._signing_key, server.knobs.page_cap = b"another", 40
    assert len(list(samples)) == 99
    assert [asked.query["offset"] for asked in server.asked if asked.what == "data/urls"] == [
        "0",
        "40",
        "80",
    ]


def test_a_listing_without_addresses_is_completed(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    details = server._details

    def without(*args: Any) -> Any:
        answer = details(*args)
        for entry in answer["dataDetails"]:
            del entry["url"], entry["timestamp"]
        return answer

    monkeypatch.setattr(server, "_details", without)
    assert keys(read(server, segments=["train"])) == TRAIN
    assert server.count("data/urls") == 1


@pytest.mark.parametrize(
    "kind", ["compressed", "http 1.0", "files elsewhere", "more than was asked for"]
)
def test_other_servers_are_understood(
    serve: Serve, read: Read, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    server = serve()
    if kind == "compressed":
        server.knobs.compressed = True
    elif kind == "http 1.0":
        monkeypatch.setattr(tensorbay_server._Handler, "protocol_version", "HTTP/1.0")
    elif kind == "files elsewhere":
        store = serve()
        server.knobs.store = store.url.replace("127.0.0.1", "localhost")
    else:
        answer = server.answer
        monkeypatch.setattr(
            server, "answer", lambda *args: {"requestId": 7, "more": [None], **answer(*args)}
        )
    samples = list(read(server, segments=["train"]))
    assert [content(sample) for sample in samples] == [
        file.content for file in FLOWERS.segments["train"]
    ]
    if kind == "files elsewhere":
        assert (server.count("file"), store.count("file")) == (0, 12)
        assert not any("x-token" in asked.headers for asked in store.asked)


def test_a_remote_path_that_moved_meanwhile_is_noticed(serve: Serve, read: Read) -> None:
    files = example_files(3)
    server = serve(ServedDataset("Flowers", {"train": files}))
    server.knobs.script = {"file": ["", "expired"]}
    samples = iter(read(server, threads=1, window=1))
    next(samples)
    files.reverse()
    with pytest.raises(
        SourceError, match="'Flowers', segment 'train': it was changed while it was read"
    ):
        list(samples)


@pytest.mark.parametrize("header", ["1", "0.9", "date"])
def test_the_pause_a_server_asks_for_is_kept(
    server: TensorBayServer, read: Read, header: str
) -> None:
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.knobs.retry_after, server.knobs.script = header, {"file": ["429"]}
    began = time.monotonic()
    assert keys(read(server, segments=["train"])) == TRAIN
    assert time.monotonic() - began >= 0.9


def test_a_pause_longer_than_patience_is_an_error_at_once(
    server: TensorBayServer, read: Read
) -> None:
    server.knobs.retry_after, server.knobs.script = "3600", {"file": ["429"]}
    began = time.monotonic()
    with pytest.raises(SourceError, match="HTTP 429.*tried once.*raise patience"):
        keys(read(server, segments=["train"]))
    assert time.monotonic() - began < 2


def test_everything_arrives_although_a_tenth_goes_wrong(
    serve: Serve, read: Read, certificate: tuple[Any, Path]
) -> None:
    dataset = example_dataset(train=250, test=50)
    server = serve(dataset, tls=certificate[0], latency=0.005, fault_rate=0.1, page_cap=60)
    samples = list(read(server, threads=8, ca_bundle=certificate[1]))
    assert [sample.key for sample in samples] == dataset.keys("test", "train")
    files = [*dataset.segments["test"], *dataset.segments["train"]]
    assert [content(sample) for sample in samples] == [file.content for file in files]
    assert {asked.fault for asked in server.asked} >= set(FAULTS)


def test_one_file_that_hangs_does_not_hold_the_others_up(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(60)}))
    server.knobs.script = {"file": ["", "", "hang"]}
    samples = read(server, threads=2, window=4)
    ahead = [server.count("file") - number for number, _ in enumerate(samples, start=1)]
    assert len(ahead) == 60
    assert (
        max(ahead) > 6
    )  # more than a window and a repeated request, while the one that hung was waited for


def test_a_store_that_never_answers_is_one_error_within_patience(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(100)}), hang=20)
    server.knobs.script = {"file": ["hang"] * 1000}
    began = time.monotonic()
    with pytest.raises(
        SourceError, match=r"file 'tulip/00000.jpg': (no answer in time|all connections wait)"
    ):
        keys(read(server, threads=2, patience=1.5))
    assert time.monotonic() - began < 4


def test_giving_up_names_the_file_and_counts_and_goes_on_from_there(
    server: TensorBayServer, read: Read
) -> None:
    server.knobs.script = {"file": ["", "", "", *["503"] * 50]}
    with pytest.raises(SourceError) as caught:
        keys(read(server, segments=["train"], threads=1, window=1, patience=2))
    message = str(caught.value)
    assert "data set 'Flowers', segment 'train', file 'tulip/00003.jpg': HTTP 503" in message
    assert (
        "3 files were fetched and 0 were there before; the next run continues from there" in message
    )
    server.knobs.script, server.asked[:] = {}, []
    assert keys(read(server, segments=["train"])) == TRAIN
    assert server.count("file") == 9


def test_a_failed_listing_leaves_nothing_behind_and_the_source_can_be_used_again(
    server: TensorBayServer, read: Read
) -> None:
    source = read(server, segments=["train"], patience=2)
    for what in ("segments", "data/details"):
        server.knobs.script = {what: ["500"] * 50}
        with pytest.raises(SourceError, match="HTTP 500"):
            keys(source)
    server.knobs.script = {}
    assert keys(source) == TRAIN


def test_a_listing_that_failed_in_the_middle_is_continued(serve: Serve, read: Read) -> None:
    dataset = ServedDataset("Flowers", {"train": example_files(300)})
    server = serve(dataset)
    server.knobs.script = {"data/details": ["", "", *["reset"] * 50]}
    source = read(server, patience=2)
    with pytest.raises(SourceError, match="segment 'train'"):
        keys(source)
    server.knobs.script = {}
    assert keys(source) == dataset.keys("train")


@pytest.mark.parametrize("what", ["datasets", "dataset", "segments", "data/details"])
def test_an_answer_of_another_form_is_one_clear_error(
    server: TensorBayServer, read: Read, what: str
) -> None:
    server.knobs.script = {what: ["nothing"]}
    with pytest.raises(
        SourceError, match="TensorBay's answer about .* has no '.*Is url the address of a TensorBay"
    ):
        keys(read(server))


def test_a_page_that_keeps_coming_for_a_picture_is_an_error_and_never_kept(
    server: TensorBayServer, read: Read
) -> None:
    server.knobs.script = {"file": ["page"] * 200}
    with pytest.raises(
        SourceError, match=r"file '\S+': the server answered with a page.*tried \d+ times.*login"
    ):
        list(read(server, segments=["train"], threads=1, patience=0.5))
    server.knobs.script = {}
    samples = list(read(server, segments=["train"]))
    assert [content(sample) for sample in samples] == [
        file.content for file in FLOWERS.segments["train"]
    ]


@pytest.mark.parametrize("page", [b"\n  <html>", b"\xef\xbb\xbf<?xml", b' {"error": 1}'])
def test_a_page_may_begin_with_white_space(serve: Serve, read: Read, page: bytes) -> None:
    server = serve(ServedDataset("Flowers", {"train": [ServedFile("a", page, "rose")]}))
    with pytest.raises(SourceError, match="a page or JSON in place of the image"):
        list(read(server, patience=0.2))


def test_a_file_named_like_a_page_is_taken_as_it_is(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"train": [ServedFile("a.svg", b"<svg/>", "rose")]}))
    assert [content(sample) for sample in read(server)] == [b"<svg/>"]
    assert server.count("file") == 1


def test_the_settings_and_the_session_of_the_sdk_are_left_alone(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(config.__dict__)
    session = get_session()  # its settings are frozen from here on: GET is not repeated in it
    gas = GAS(server.key, "https://127.0.0.1/")
    monkeypatch.setattr(gas._client, "_open_api", f"{server.url}gatewayv2/tensorbay-open-api/v1/")
    assert list(gas.list_dataset_names()) == ["Flowers"]
    adapters = dict(session.adapters)
    server.knobs.script = {"datasets": ["500"], "file": ["reset"]}
    assert keys(read(server, segments=["train"])) == TRAIN
    assert dict(config.__dict__) == before
    assert get_session() is session
    assert dict(session.adapters) == adapters


def test_the_users_random_numbers_stay_as_they_are(server: TensorBayServer, read: Read) -> None:
    server.knobs.script = {"file": ["503"]}
    random.seed(3)
    state = random.getstate()
    keys(read(server))
    assert random.getstate() == state


def test_an_answer_may_begin_late_where_they_all_do(serve: Serve, read: Read) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(3)}), latency=0.7)
    assert len(keys(read(server))) == 3
    assert server.count("file") == 3  # none was asked for twice


def test_an_iterator_that_is_dropped_leaves_no_thread_and_no_open_connection(
    serve: Serve, read: Read, certificate: tuple[Any, Path]
) -> None:
    server = serve(
        ServedDataset("Flowers", {"train": example_files(200)}), tls=certificate[0], latency=0.01
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", ResourceWarning
        )  # pytest makes one that nobody can catch a failure too
        next(iter(read(server, ca_bundle=certificate[1])))
        gc.collect()
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("flowercnn-tensorbay")
    ]


@pytest.mark.parametrize("ends", ["close", "error"])
def test_nothing_goes_on_after_the_consumer_has_stopped(
    serve: Serve, read: Read, ends: str
) -> None:
    server = serve(ServedDataset("Flowers", {"train": example_files(200)}), latency=0.01)
    samples = iter(read(server, threads=2))
    next(samples)
    if ends == "close":
        samples.close()  # type: ignore[attr-defined]  # it is a generator
    else:
        with pytest.raises(ZeroDivisionError):
            samples.throw(ZeroDivisionError)  # type: ignore[attr-defined]  # it is a generator
    asked = server.count("file")
    time.sleep(0.2)
    assert server.count("file") == asked < 20


def test_tls_is_checked_and_a_private_authority_can_be_given(
    serve: Serve, read: Read, certificate: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = certificate
    server = serve(tls=context)
    assert server.url.startswith("https://")
    with pytest.raises(SourceError, match="TLS: .*certificate.*tried once.*ca_bundle='ca.pem'"):
        keys(read(server))
    assert keys(read(server, segments=["train"], ca_bundle=authority)) == TRAIN
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(authority))
            assert keys(read(server, segments=["train"])) == TRAIN


def test_what_holds_no_certificates_is_refused_by_its_name(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(
        ConfigurationError, match=r"^ca_bundle must be a file .* of certificates.*ca\.pem"
    ):
        keys(read(server, ca_bundle=tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(
        ConfigurationError, match="^REQUESTS_CA_BUNDLE must be .*missing.pem .No such file"
    ):
        keys(read(server))


def test_connections_are_checked_by_one_context_that_reads_the_certificates_once(
    serve: Serve, read: Read, certificate: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = certificate
    server = serve(tls=context)
    loaded: list[Any] = []
    load = ssl.SSLContext.load_verify_locations

    def count(self: ssl.SSLContext, *args: Any, **options: Any) -> None:
        loaded.append(self)
        load(self, *args, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", count)
    server.knobs.script = {"file": ["reset"] * 6}
    assert keys(read(server, segments=["train"], ca_bundle=authority)) == TRAIN
    assert len(loaded) == 1
    assert loaded[0].verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_over_tls_are_survived_too(
    serve: Serve, read: Read, certificate: tuple[Any, Path], fault: str
) -> None:
    context, authority = certificate
    server = serve(tls=context)
    server.knobs.script = {"file": [fault, "", fault], "data/details": [fault]}
    assert keys(read(server, segments=["train"], ca_bundle=authority)) == TRAIN


def test_every_failure_is_in_the_debug_log(
    server: TensorBayServer, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flowercnn")
    server.knobs.script = {"file": ["503", "reset"]}
    keys(read(server, segments=["train"], threads=1))
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("GET file train/") and ": HTTP 503" in line for line in lines)
    assert any(
        line.startswith("GET file train/") and ": Connection reset by peer after" in line
        for line in lines
    )


def drip(handler: Any, owner: TensorBayServer, *_: Any, cut: bool) -> None:
    """Send a byte now and then, as no network does but some servers."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not owner.stopping.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


@pytest.mark.parametrize("answer", ["_send_file", "_send_answer"])
def test_an_answer_that_drips_is_given_up_when_patience_ends(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(tensorbay_server._Handler, answer, drip)
    with pytest.raises(SourceError, match=r"comes too slowly \(\d+ bytes in 0"):
        keys(read(server, patience=0.3))


def test_an_answer_nobody_wants_any_more_is_not_read_to_its_end(
    server: TensorBayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorbay_server._Handler, "_send_file", drip)
    stop = threading.Event()
    url = server.signed(FLOWERS, FLOWERS.commit_of("main"), "train", 0)
    with pytest.raises(Stopped):
        Transport(1, 60).download(url, lambda _: stop.set(), Wait(1, time.monotonic() + 60, stop))


@pytest.mark.parametrize(
    ("limit", "what"), [("_LARGEST_FILE", "file"), ("_LARGEST_ANSWER", "catalogue|data set")]
)
def test_an_answer_without_an_end_is_given_up(
    server: TensorBayServer, read: Read, monkeypatch: pytest.MonkeyPatch, limit: str, what: str
) -> None:
    monkeypatch.setattr(f"flowercnn.sources.tensorbay.transport.{limit}", 10)
    with pytest.raises(SourceError, match=f"({what}).*has more than 10 bytes; tried once"):
        keys(read(server))
