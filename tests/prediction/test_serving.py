"""The service in docs/how-to/serve.md, run."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import flowercnn as fc

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "service"}
    for example in re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        exec(compile(example, PAGE.name, "exec"), names)  # noqa: S102 - our own documentation
    return names


@pytest.fixture
def client(service: dict[str, Any], predictor: fc.Predictor, tmp_path: Path) -> Any:
    return TestClient(service["make_app"](str(predictor.save(tmp_path / "model.keras"))))


def test_the_service_says_that_it_is_well(client: Any) -> None:
    assert client.get("/health").json() == {"status": "ok", "classes": 3, "runtime": "litert"}


def test_the_service_answers_as_the_predictor(
    client: Any, predictor: fc.Predictor, photo_folder: Path
) -> None:
    path = photo_folder / "red" / "3.png"
    answer = client.post("/predict", content=path.read_bytes())
    assert answer.status_code == 200
    expected = predictor.predict_one(path)
    assert answer.json()["label"] == expected.label
    assert answer.json()["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
    assert len(answer.json()["top"]) == 3


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 422), (b"/etc/passwd", 422), (b"http://127.0.0.1/x", 422)]
)
def test_the_service_refuses_what_is_no_picture(client: Any, body: bytes, status: int) -> None:
    assert client.post("/predict", content=body).status_code == status


def test_an_upload_that_is_broken_off_is_no_error_of_the_service(client: Any) -> None:
    sent: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
    }
    scope |= {
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("x", 80),
        "client": ("y", 1),
    }
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_the_service_says_why_a_picture_has_no_label(
    client: Any, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = fc.Prediction.of(
        "x", ("a", "b"), np.array([0.5, 0.5], np.float32), "it shows nothing known"
    )
    monkeypatch.setattr(fc.Predictor, "predict_one", lambda *_: unknown)
    answer = client.post("/predict", content=b"a picture")
    assert (answer.status_code, answer.json()["detail"]) == (422, "it shows nothing known")


def test_the_service_limits_bytes_and_pixels_and_writes_nothing(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert client.post("/predict", content=bytes(11 * 2**20)).status_code == 413
    Image.new("1", (10_000, 6_000)).save(tmp_path / "large.png")
    answer = client.post("/predict", content=(tmp_path / "large.png").read_bytes())
    assert answer.status_code == 422
    assert "max_pixels=50,000,000" in answer.json()["detail"]
    assert not list((tmp_path / "temporary").iterdir())
