"""Many pictures at once: quicker, with the labels of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import flowercnn as fc
from flowercnn.models import twin
from flowercnn.prediction import bulk, predictor
from flowercnn.prediction.bulk import BulkRuntime
from flowercnn.prediction.runtimes import KerasRuntime

SIZE = 32
NOISE = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow computes bfloat16 on any processor; only not quickly."""
    monkeypatch.setattr(twin, "has_bfloat16", lambda: True)


def network(sharpness: float) -> Any:
    """A network that is the surer of itself the larger ``sharpness`` is."""
    model = fc.build_model("fast", image_size=(SIZE, SIZE), num_classes=3)
    kernel, bias = model.layers[-1].get_weights()
    generator = np.random.default_rng(0)
    model.layers[-1].set_weights([sharpness * generator.normal(size=kernel.shape), bias])
    return model


def rows(predictions: list[fc.Prediction]) -> npt.NDArray[np.float32]:
    return np.stack([each.probabilities for each in predictions if each.probabilities is not None])


def test_what_is_not_sure_in_bfloat16_is_computed_in_float32() -> None:
    model = network(60)
    exact = KerasRuntime(model)(NOISE)
    sure = exact.max(axis=1) > 0.95
    assert sure.sum() > 0
    runtime = BulkRuntime(model, None)
    runtime._quick, runtime._is_tried = KerasRuntime(twin.make_twin(model, precision="bfloat16")), True
    answers = runtime(NOISE)
    quick = runtime._quick(NOISE)
    unsure = quick.max(axis=1) < bulk._SURE
    assert np.allclose(answers[unsure], exact[unsure], atol=1e-5)
    assert np.array_equal(answers[~unsure], quick[~unsure])
    assert np.array_equal(answers.argmax(axis=1), exact.argmax(axis=1))


def test_a_network_that_is_sure_of_little_is_computed_in_float32_only() -> None:
    model = network(0.01)
    runtime = BulkRuntime(model, None)
    assert np.allclose(runtime(NOISE), KerasRuntime(model)(NOISE), atol=1e-6)
    assert runtime._quick is None


def test_a_network_that_bfloat16_gets_wrong_is_computed_in_float32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "make_twin", lambda *_, **__: network(-60))
    runtime = BulkRuntime(network(60), None)
    runtime(NOISE)
    assert runtime._quick is None


def test_only_many_pictures_are_computed_in_bulk_and_only_without_exact(
    monkeypatch: pytest.MonkeyPatch, run: fc.TrainingRun, coloured: fc.Dataset
) -> None:
    seen: list[int] = []
    outputs = BulkRuntime.outputs

    def counted(self: BulkRuntime, pixels: npt.NDArray[Any]) -> Any:
        seen.append(len(pixels))
        return outputs(self, pixels)

    monkeypatch.setattr(BulkRuntime, "outputs", counted)
    expected = rows(run.predictor.predict(coloured))
    assert not seen
    monkeypatch.setattr(predictor, "_MANY", 30)
    fresh = fc.Predictor(run.predictor.model, run.predictor.class_names, run.predictor.preprocessing)
    list(fresh.predict_iter(coloured))
    fresh.predict(coloured, exact=True)
    fresh.predict(iter(list(coloured)))
    fresh.predict(list(coloured)[:29])
    assert not seen
    predictions = fresh.predict(coloured)
    assert sum(seen) == len(coloured)
    assert [each.key for each in predictions] == list(coloured.keys)
    assert np.array_equal(rows(predictions).argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(rows(predictions) - expected).max() < 0.01


def test_a_runtime_that_was_asked_for_stays(
    monkeypatch: pytest.MonkeyPatch, run: fc.TrainingRun, coloured: fc.Dataset, tmp_path: Any
) -> None:
    monkeypatch.setattr(predictor, "_MANY", 1)
    monkeypatch.setattr(predictor, "BulkRuntime", None)
    path = run.predictor.save(tmp_path / "model.keras")
    assert len(fc.Predictor.load(path, runtime="litert").predict(coloured)) == len(coloured)
    exported = run.predictor.export(tmp_path / "model.tflite")
    assert len(fc.Predictor.load(exported).predict(coloured)) == len(coloured)
