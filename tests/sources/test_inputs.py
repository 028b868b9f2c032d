from __future__ import annotations

import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.sources import urls as url
from flowercnn.sources.inputs import keyed_images


class Pictures(BaseHTTPRequestHandler):
    """A server of one picture, and of answers that are none."""

    picture = b""

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header(
                "Location", {"/moved": "/flower.png", "/moved-out": "file:///etc/passwd"}[self.path]
            )
            self.end_headers()
            return
        found = self.path.startswith(("/flower.png", "/sch%C3%B6ne%20blume.png"))
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(self.picture if found else b"gone")

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(photo_folder: Path) -> Iterator[str]:
    handler = type(
        "Handler", (Pictures,), {"picture": (photo_folder / "red" / "0.png").read_bytes()}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_pictures_come_from_the_web(
    predictor: fc.Predictor, server: str, photo_folder: Path
) -> None:
    expected = predictor.predict_one(photo_folder / "red" / "0.png")
    for name in (
        "flower.png",
        "flower.png?size=1",
        "moved",
        "schöne blume.png",
        "sch%C3%B6ne%20blume.png?q=a b#x",
    ):
        prediction = predictor.predict_one(f"{server}/{name}")
        assert prediction.probabilities is not None
        assert (prediction.probabilities == expected.probabilities).all()
        assert prediction.key == f"{server}/{name}"


@pytest.mark.parametrize("name", ["gone.png", "moved-out"])
def test_what_the_web_does_not_give_is_a_record(
    predictor: fc.Predictor, server: str, name: str
) -> None:
    with_secret = f"{server}/{name}".replace("http://", "http://me:password@")
    if name == "gone.png":
        with_secret += "?token=secret"
    good, bad = predictor.predict([f"{server}/flower.png", with_secret])
    assert good.label is not None
    assert bad.error is not None
    assert "password" not in bad.error
    assert "secret" not in bad.error


def test_a_server_that_is_not_there_or_sends_too_much_is_a_record(
    predictor: fc.Predictor, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be fetched" in (predictor.predict_one("http://127.0.0.1:9/x.jpg").error or "")
    assert "cannot be fetched" in (predictor.predict_one("http://[::1/x.jpg").error or "")
    monkeypatch.setattr(url, "_MOST_BYTES", 100)
    assert "more than 100 bytes" in (predictor.predict_one(f"{server}/flower.png").error or "")
    monkeypatch.setattr(url, "_MOST_BYTES", 10**9)
    monkeypatch.setattr(url, "_SECONDS_IN_ALL", -1)
    assert "TimeoutError" in (predictor.predict_one(f"{server}/flower.png").error or "")


def test_patterns_name_files(
    predictor: fc.Predictor, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(predictor.predict(f"{photo_folder}/**/*.png")) == 30
    monkeypatch.chdir(photo_folder)
    assert [p.key for p in predictor.predict("red/[01].png")] == ["red/0.png", "red/1.png"]
    Path("red/[x].png").write_bytes(Path("red/0.png").read_bytes())
    assert [p.key for p in predictor.predict("red/[x].png")] == ["red/[x].png"]
    with pytest.raises(fc.SourceError, match="no file matches"):
        predictor.predict("*.jpeg")


def test_paths_in_a_list_that_name_nothing_are_records(
    predictor: fc.Predictor, photo_folder: Path, tmp_path: Path
) -> None:
    good = photo_folder / "red" / "0.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    bad = [str(tmp_path / name) for name in ("missing[1].jpg", "what?.png", "empty", "bad.zip")]
    first, *between, last = predictor.predict([good, *bad, good])
    assert first.label == last.label == "red"
    assert [prediction.key for prediction in between] == bad
    reasons = ("no file matches", "no file matches", "no images found", "bad.zip")
    assert all(
        reason in str(prediction.error) for reason, prediction in zip(reasons, between, strict=True)
    )
    for path in (tmp_path / "*.jpg", tmp_path / "empty", tmp_path / "bad.zip"):
        with pytest.raises(fc.SourceError):
            predictor.predict(path)


def test_open_files_are_pictures(predictor: fc.Predictor, photo_folder: Path) -> None:
    path = photo_folder / "red" / "0.png"
    with path.open("rb") as file:
        opened = predictor.predict_one(file)
    in_memory = predictor.predict([io.BytesIO(path.read_bytes()), path])
    assert [opened.label, *(p.label for p in in_memory)] == [predictor.predict_one(path).label] * 3
    assert predictor.predict_one(io.StringIO("text")).error


def test_one_picture_is_one_picture(predictor: fc.Predictor, photo_folder: Path) -> None:
    with pytest.raises(fc.ConfigurationError, match="a single image. Received: several"):
        predictor.predict_one(photo_folder)
    with pytest.raises(fc.ConfigurationError, match="a single image. Received: none"):
        predictor.predict_one([])


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A folder with pictures at three depths, and with what is none."""
    root = tmp_path / "nested"
    (root / "x" / "y").mkdir(parents=True)
    for name in ("x/y/a.png", "b.png", "x/c.JPG", "notes.txt", ".hidden.png"):
        (root / name).write_bytes(name.encode())
    return root


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tbz2"])
def test_an_archive_yields_all_pictures_in_it_by_their_paths(
    nested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_: tmp_path / "cache")
    path = tmp_path / f"photos{suffix}"
    if suffix == ".zip":
        shutil.make_archive(str(path.with_suffix("")), "zip", nested)
    else:
        compression = {".tar.gz": "w:gz", ".tbz2": "w:bz2"}.get(suffix, "w:")
        with tarfile.open(path, compression) as archive:  # type: ignore[call-overload]  # it wants a literal
            archive.add(nested, arcname=".")
    found = [(key, image()) for key, image in keyed_images(path) if callable(image)]
    assert found == [(name, name.encode()) for name in ("b.png", "x/c.JPG", "x/y/a.png")]


def test_a_flat_archive_needs_no_class_folders(
    predictor: fc.Predictor, photo_folder: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.write(photo_folder / "red" / "0.png", "0.png")
    assert predictor.predict(tmp_path / "flat.zip")[0].label == "red"
    assert predictor.predict_one(tmp_path / "flat.zip").key == "0.png"


@pytest.mark.parametrize("kind", [str, Path, np.str_])
def test_an_array_of_paths_is_an_iterable_of_pictures(photo_folder: Path, kind: Any) -> None:
    paths = [str(photo_folder / "red" / name) for name in ("0.png", "1.png")]
    assert [key for key, _ in keyed_images(np.array([kind(path) for path in paths]))] == paths
