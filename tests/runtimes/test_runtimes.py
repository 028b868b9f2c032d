from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.runtimes import keras as keras_runtime
from flowercnn.runtimes import litert
from flowercnn.runtimes.keras import KerasRuntime
from flowercnn.saving import light

pytestmark = pytest.mark.versions

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def rows(predictions: list[fc.Prediction]) -> Any:
    return np.stack([p.probabilities for p in predictions if p.probabilities is not None])


@pytest.fixture(scope="module")
def forms(predictor: fc.Predictor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    return {
        "keras": predictor.save(folder / "model.keras"),
        "litert": folder / "model.keras",
        "onnx": predictor.export(folder / "model.onnx").path,
    }


@pytest.mark.parametrize("runtime", ["keras", "litert", "onnx"])
def test_every_runtime_gives_the_answers_of_keras(
    predictor: fc.Predictor, forms: dict[str, Path], runtime: Any
) -> None:
    loaded = fc.Predictor.load(forms[runtime], runtime=runtime)
    assert loaded.runtime == runtime
    expected = predictor.model.predict(PIXELS, verbose=0)
    assert np.allclose(loaded.predict_proba(PIXELS), expected, atol=1e-5)
    assert np.allclose(loaded.predict_proba(PIXELS[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("runtime", ["keras", "litert", "onnx"])
def test_eight_threads_get_the_right_answers(
    forms: dict[str, Path], coloured: fc.Dataset, runtime: Any
) -> None:
    loaded = fc.Predictor.load(forms[runtime], runtime=runtime)
    pictures = [sample.image for sample in coloured]
    expected = rows(loaded.predict(pictures))
    fresh = fc.Predictor.load(forms[runtime], runtime=runtime)
    with ThreadPoolExecutor(8) as pool:
        singles = list(pool.map(fresh.predict_one, pictures * 4))
        batches = list(pool.map(fresh.predict, [pictures] * 8))
    for answers in (singles[:30], singles[-30:], *batches):
        assert np.allclose(rows(answers), expected, atol=1e-5)


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_light_runtimes_import_no_tensorflow(
    forms: dict[str, Path], photo_folder: Path, runtime: str
) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\nimport flowercnn "
        "as fc\np = fc.Predictor.load(sys.argv[1], "
        "runtime=sys.argv[2])\nprint(*(prediction.label for prediction in "
        "p.predict(sys.argv[3])))"
    )
    arguments = [
        sys.executable,
        "-c",
        code,
        str(forms[runtime]),
        runtime,
        str(photo_folder / "red"),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["red"] * 10


def test_the_command_uses_the_light_copy(forms: dict[str, Path], photo_folder: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\nfrom flowercnn.cli "
        "import main; main()"
    )
    arguments = [
        sys.executable,
        "-c",
        code,
        "predict",
        str(forms["keras"]),
        str(photo_folder / "red" / "0.png"),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "\tred " in done.stdout


def test_without_litert_keras_computes(
    predictor: fc.Predictor, forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    loaded = fc.Predictor.load(forms["keras"])
    assert loaded.runtime == "keras"
    assert np.allclose(loaded.predict_proba(PIXELS), predictor.predict_proba(PIXELS), atol=1e-5)
    with pytest.raises(fc.MissingDependencyError, match=r"flowercnn\[litert\]"):
        fc.Predictor.load(forms["keras"], runtime="litert")
    with pytest.raises(fc.MissingDependencyError, match=r"flowercnn\[litert\]"):
        fc.Predictor(
            predictor.model, predictor.class_names, predictor.preprocessing, runtime="litert"
        )


def test_keras_computes_where_a_finder_refuses_litert(
    forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.startswith("ai_edge_litert"):
                raise ModuleNotFoundError(name)

    for name in [each for each in sys.modules if each.startswith("ai_edge_litert")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert fc.Predictor.load(forms["keras"]).runtime == "keras"


def test_runtimes_a_file_is_not_for_are_refused(
    predictor: fc.Predictor, forms: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(fc.ModelFileError, match="Export it to .onnx"):
        fc.Predictor.load(forms["keras"], runtime="onnx")
    heavy = predictor.save(tmp_path / "m.keras", light=False)
    with pytest.raises(fc.ModelFileError, match="Save it again"):
        fc.Predictor.load(heavy, runtime="litert")
    with pytest.raises(fc.ConfigurationError, match="runtime must be"):
        fc.Predictor.load(heavy, runtime="torch")  # type: ignore[arg-type]  # that is the point


def test_a_network_is_converted_once(
    predictor: fc.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def count(model: Any, _layers: tuple[str, ...]) -> bytes | None:
        calls.append(model)
        return None

    monkeypatch.setattr("flowercnn.prediction.network.light_copy", count)
    fresh = fc.Predictor(predictor.model, predictor.class_names, predictor.preprocessing)
    for _ in range(2):
        fresh.with_info(a=1).predict_proba(PIXELS[:1])
        fresh.save(tmp_path / "m.keras")
    assert len(calls) == 1


def test_large_networks_get_fewer_interpreters(
    predictor: fc.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = predictor._network.light
    assert light is not None
    monkeypatch.setattr(litert, "_BYTES_OF_COPIES", len(light))
    single = litert.LiteRTRuntime(light)
    assert np.array_equal(single(PIXELS), predictor.predict_proba(PIXELS))
    assert not single._many


def test_memory_stays_flat_over_a_long_stream(predictor: fc.Predictor) -> None:
    import resource

    def pictures(count: int) -> Iterator[Any]:
        for number in range(count):
            yield np.full((64, 64, 3), number % 256, np.uint8)

    sum(1 for _ in predictor.predict_iter(pictures(300)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in predictor.predict_iter(pictures(2_000))) == 2_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("runtime", ["keras", "litert"])
def test_tta_is_the_mean_of_the_picture_and_its_mirror(
    predictor: fc.Predictor, runtime: Any
) -> None:
    chosen = fc.Predictor(
        predictor.model, predictor.class_names, predictor.preprocessing, runtime=runtime
    )
    mean = (chosen.predict_proba(PIXELS) + chosen.predict_proba(PIXELS[:, :, ::-1])) / 2
    assert np.allclose(chosen.predict_proba(PIXELS, tta=True), mean, atol=1e-6)
    mirrored = rows(
        [chosen.predict_one(picture, tta=True) for picture in (PIXELS[0], PIXELS[0][:, ::-1])]
    )
    assert np.allclose(mirrored[0], mirrored[1], atol=1e-6)
    streamed = rows(chosen.predict(PIXELS, tta=True))
    assert np.allclose(streamed, mean, atol=1e-6)


def test_a_network_whose_light_copy_would_be_refused_is_saved_without_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keras = pytest.importorskip("keras")
    pixels = keras.Input((16, 16, 3))
    grown = keras.layers.Conv2DTranspose(4, 3, name="grown")(pixels)
    pooled = keras.layers.GlobalAveragePooling2D()(grown)
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(pooled))
    saved = fc.Predictor(model, ["a", "b", "c"], fc.Preprocessing((16, 16)))
    path = saved.save(tmp_path / "model.keras")
    (record,) = caplog.records
    assert (
        record.levelname,
        "TransposeConv" in record.message,
        "TensorFlow" in record.message,
    ) == (
        "WARNING",
        True,
        True,
    )
    assert saved.runtime == "keras"
    assert fc.Predictor.load(path).runtime == "keras"


def test_a_large_network_is_computed_from_its_variables_to_the_same_answers(
    predictor: fc.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = tuple(layer.name for layer in predictor.model.layers if len(layer.output.shape) == 4)[
        1:3
    ]
    expected = KerasRuntime(predictor.model, layers).with_features(PIXELS)
    monkeypatch.setattr(keras_runtime, "_MOST_CONSTANTS", 0)
    monkeypatch.setattr("flowercnn.runtimes.convert.constant_function", None)
    for answer, other in zip(
        KerasRuntime(predictor.model, layers).with_features(PIXELS), expected, strict=True
    ):
        assert np.allclose(answer, other, atol=1e-5)
    assert KerasRuntime(predictor.model).with_features(PIXELS[:3])[1].shape == (3, 0)


def test_a_large_network_is_saved_without_a_light_copy(
    predictor: fc.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "_MOST_IN_LIGHT_COPY", 0)
    large = fc.Predictor(predictor.model, predictor.class_names, predictor.preprocessing)
    assert large.runtime == "keras"
    assert fc.Predictor.load(large.save(tmp_path / "model.keras")).runtime == "keras"
