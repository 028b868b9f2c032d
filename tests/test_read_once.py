"""Each image is read once by `train`, whatever it is read for."""

from __future__ import annotations

import http.server
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

import flowercnn as fc

SETTINGS: dict[str, Any] = {"image_size": (32, 32), "epochs": 1, "batch_size": 8, "progress": False}
NAMES = [f"{label}/{number}.png" for label in ("blue", "red") for number in range(12)]


def encoded(name: str) -> bytes:
    label, number = name.split("/")
    noise = np.random.default_rng([*number.encode()]).normal(0, 30, (40, 48, 3))
    colour = (30, 60, 200) if label == "blue" else (210, 40, 30)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Counting:
    """A source that counts how often each of its images is fetched; those of ``bad`` are not
    images."""

    def __init__(self, *, bad: tuple[str, ...] = (), parts: bool = False) -> None:
        self.fetched: Counter[str] = Counter()
        self.bad, self.parts = bad, parts

    def __iter__(self) -> Iterator[fc.Sample]:
        splits: tuple[Literal["train", "val", "test"], ...] = (
            "train",
            "train",
            "train",
            "train",
            "val",
            "test",
        )
        for number, name in enumerate(NAMES):
            split = splits[number % 6] if self.parts else None
            yield fc.Sample(name, name.split("/")[0], self._image(name), split=split)

    def _image(self, name: str) -> Callable[[], bytes]:
        def fetch() -> bytes:
            self.fetched[name] += 1
            return b"text" if name in self.bad else encoded(name)

        return fetch

    def check(self) -> None:
        assert dict(self.fetched) == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"duplicates": "ignore"},
        {"val": 0.0},
        {"test": 0.0},
        {
            "preprocessing": fc.Preprocessing(image_size=(32, 32), memory_limit=0),
            "image_size": None,
        },
    ],
    ids=["usual", "duplicates ignored", "no val", "no test", "on disk"],
)
def test_each_image_is_fetched_once(
    settings: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = Counting()
    fc.train(source, **{**SETTINGS, **settings})
    source.check()


def test_each_image_is_fetched_once_with_a_checkpoint(tmp_path: Any) -> None:
    source = Counting()
    fc.train(source, checkpoint_dir=tmp_path, out=tmp_path / "model.keras", **SETTINGS)
    source.check()


@pytest.mark.parametrize("duplicates", ["group", "ignore"])
def test_each_image_is_fetched_once_where_bad_ones_are_left_out(duplicates: Any) -> None:
    source = Counting(bad=("blue/3.png", "red/7.png"))
    run = fc.train(source, bad_images="skip", duplicates=duplicates, **SETTINGS)
    source.check()
    assert run.evaluation is not None
    assert set(run.skipped) | set(run.evaluation.skipped) == {"blue/3.png", "red/7.png"}


@pytest.mark.parametrize("duplicates", ["group", "ignore"])
def test_bad_images_are_named_before_any_training(
    duplicates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowercnn.training.loop.Loop.run", None)
    source = Counting(bad=("blue/3.png", "red/7.png"))
    with pytest.raises(
        fc.ImageError, match=r"2 of 24 images cannot be used: blue/3.png: .* red/7.png"
    ):
        fc.train(source, duplicates=duplicates, **SETTINGS)
    source.check()


@pytest.mark.parametrize("duplicates", ["group", "ignore"])
def test_each_image_of_predefined_parts_is_fetched_once(duplicates: Any) -> None:
    source = Counting(parts=True)
    run = fc.train(source, duplicates=duplicates, **SETTINGS)
    source.check()
    assert run.splits is not None
    assert [len(part) for part in run.splits] == [16, 4, 4]


@pytest.mark.parametrize("model", ["backbone:mobilenet", "auto"])
def test_each_image_is_fetched_once_for_a_backbone(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    source = Counting()
    options: dict[str, Any] = {"model_options": {"weights": None}} if model != "auto" else {}
    fc.train(source, model=model, **SETTINGS, **options)
    source.check()


def test_each_image_is_fetched_once_by_cross_validation() -> None:
    source = Counting()
    found = fc.cross_validate(source, k=3, **SETTINGS)
    assert len(found.evaluation) == len(NAMES)
    source.check()


class Server(http.server.BaseHTTPRequestHandler):
    """Sends the images, and counts how often each was asked for."""

    asked: ClassVar[Counter[str]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.asked[name] += 1
        content = encoded(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_each_image_behind_a_url_is_downloaded_once(tmp_path: Any) -> None:
    pytest.importorskip("aiohttp")

    class Counted(Server):
        asked: ClassVar[Counter[str]] = Counter()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        rows = "".join(f"{root}/{name},{name.split('/')[0]}\n" for name in NAMES)
        (tmp_path / "table.csv").write_text(f"image,label\n{rows}")
        fc.train(tmp_path / "table.csv", **SETTINGS)
    finally:
        server.shutdown()
        server.server_close()
    assert dict(Counted.asked) == dict.fromkeys(NAMES, 1)
