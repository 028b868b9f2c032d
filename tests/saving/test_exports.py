from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.prediction.calibration import Calibration
from flowercnn.preprocessing.resize import ResizeMode
from flowercnn.runtimes import convert
from flowercnn.saving import exports, savedmodel
from flowercnn.saving.exports import ExportReport

pytestmark = pytest.mark.versions

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
FLOAT_FORMATS = [("keras", ".keras"), ("h5", ".h5"), ("litert", ".tflite"), ("onnx", ".onnx")]


@pytest.fixture(scope="module")
def calibrated(predictor: fc.Predictor) -> fc.Predictor:
    scores = np.linspace(0.0, 0.5, 40)
    return predictor.with_calibration(
        Calibration(1.25, applied=True, reason=None, set_scores=scores)
    )


@pytest.mark.parametrize(("name", "suffix"), FLOAT_FORMATS)
def test_float_exports_answer_the_same_and_carry_everything(
    calibrated: fc.Predictor, coloured: fc.Dataset, tmp_path: Path, name: str, suffix: str
) -> None:
    report = calibrated.export(tmp_path / f"model{suffix}", images=coloured)
    assert isinstance(report, ExportReport)
    assert (report.format, report.samples, report.agreement) == (name, 30, 1.0)
    assert report.max_difference <= 1e-4
    assert report.size == (tmp_path / f"model{suffix}").stat().st_size
    assert report.seconds > 0
    assert f"{name}, " in report.summary()
    loaded = fc.Predictor.load(report)
    assert (loaded.class_names, loaded.preprocessing) == (
        calibrated.class_names,
        calibrated.preprocessing,
    )
    assert loaded.calibration is not None
    assert calibrated.calibration is not None
    assert loaded.calibration.to_dict() == calibrated.calibration.to_dict()
    assert loaded.predict_set(PIXELS[0], 0.9) == calibrated.predict_set(PIXELS[0], 0.9)
    assert np.allclose(loaded.predict_proba(PIXELS), calibrated.predict_proba(PIXELS), atol=1e-5)
    beside = json.loads((tmp_path / f"model{suffix}.json").read_text())
    assert beside["class_names"] == list(calibrated.class_names)
    assert beside["calibration"]["temperature"] == 1.25
    assert beside["export"]["agreement"] == 1.0
    assert beside["preprocessing"] == {**calibrated.preprocessing.to_dict(), "filter": "hamming"}
    assert len(list(tmp_path.iterdir())) == 2


def test_int8_is_a_third_of_the_size_and_agrees(
    predictor: fc.Predictor, coloured: fc.Dataset, tmp_path: Path
) -> None:
    report = predictor.export(tmp_path / "small.tflite", "litert-int8", images=coloured)
    full = predictor.export(tmp_path / "full.tflite")
    assert report.size <= full.size / 3
    assert report.agreement >= 0.97
    assert report.samples == 15
    loaded = fc.Predictor.load(report)
    assert [p.label for p in loaded.predict(coloured)] == [
        p.label for p in predictor.predict(coloured)
    ]


@pytest.mark.parametrize("images", [None, [b"no picture"] * 30, []])
def test_int8_wants_pictures(predictor: fc.Predictor, tmp_path: Path, images: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="images"):
        predictor.export(tmp_path / "small.tflite", "litert-int8", images=images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
def test_a_saved_model_takes_pixels_or_bytes(
    predictor: fc.Predictor, tmp_path: Path, mode: ResizeMode
) -> None:
    import tensorflow as tf

    resizing = predictor.preprocessing.replace(resize=mode, background=(200, 10, 90))
    other = fc.Predictor(predictor.model, predictor.class_names, resizing)
    pictures = [
        sample.image()
        for sample in fc.SyntheticFlowers(per_class=1, num_classes=6, seed=1)
        if callable(sample.image)
    ]
    report = other.export(tmp_path / "served", "saved_model", images=pictures)
    assert (report.agreement, report.bytes_agreement) == (1.0, 1.0)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    decoded = loaded.signatures["serve_bytes"](tf.constant(pictures))
    expected = other.predict(pictures)
    assert [label.decode() for label in decoded["labels"].numpy()] == [p.label for p in expected]
    rows = np.stack([p.probabilities for p in expected if p.probabilities is not None])
    assert np.allclose(decoded["probabilities"].numpy(), rows, atol=0.02)
    inside = json.loads((tmp_path / "served" / "assets.extra" / "flowercnn.json").read_text())
    assert inside["class_names"] == list(predictor.class_names)
    assert (tmp_path / "served.json").is_file()


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(90, 40), (33, 200), (300, 301)])
def test_a_saved_model_resizes_as_pillow_does(mode: ResizeMode, size: tuple[int, int]) -> None:
    import tensorflow as tf

    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "PNG")
    preprocessing = fc.Preprocessing(image_size=(64, 96), resize=mode, background=(200, 10, 90))
    decoded = savedmodel.decode(tf.constant(content.getvalue()), preprocessing).numpy()
    assert np.abs(decoded - preprocessing.decode(content.getvalue())).max() <= 1


def test_a_saved_model_replaces_its_own_kind_only(predictor: fc.Predictor, tmp_path: Path) -> None:
    for _ in range(2):
        predictor.export(tmp_path / "served", "saved_model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(fc.ModelFileError, match="another folder"):
        predictor.export(tmp_path / "mine", "saved_model")
    assert {path.name for path in tmp_path.iterdir()} == {"served", "served.json", "mine"}
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ".keras"])
def test_an_export_that_answers_otherwise_is_not_written(
    predictor: fc.Predictor,
    coloured: fc.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    before = predictor.export(tmp_path / f"model{suffix}").path.read_bytes()
    monkeypatch.setattr(exports, "_LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(fc.ModelFileError, match="not written: on 30 images"):
        predictor.export(tmp_path / f"model{suffix}", images=coloured)
    with pytest.raises(fc.ModelFileError, match="not written"):
        predictor.export(tmp_path / f"new{suffix}", images=coloured)
    assert (tmp_path / f"model{suffix}").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_an_export_without_room_for_its_json_leaves_the_old_file(
    predictor: fc.Predictor, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")
    (tmp_path / f"model{suffix}.json").mkdir()
    with pytest.raises(fc.ModelFileError, match=rf"model{suffix}\.json: cannot be written"):
        predictor.export(path)
    assert path.read_bytes() == b"old"
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, f"{path.name}.json"}


def test_a_tilde_is_the_home_folder_for_an_export_and_all_beside_it(
    predictor: fc.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert predictor.export("~/a.keras").path == tmp_path / "a.keras"
    (tmp_path / "b.keras").mkdir()
    with pytest.raises(fc.ModelFileError, match="cannot be written"):
        predictor.export("~/b.keras")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.keras",
        "a.keras.json",
        "b.keras",
    ]


@pytest.mark.parametrize("before", ["old", None])
def test_an_export_that_cannot_be_moved_into_place_leaves_the_old_json(
    predictor: fc.Predictor, tmp_path: Path, before: str | None
) -> None:
    (tmp_path / "model.onnx" / "thesis").mkdir(parents=True)
    beside = tmp_path / "model.onnx.json"
    if before is not None:
        beside.write_text(before)
    with pytest.raises(fc.ModelFileError, match=r"model\.onnx: cannot be written"):
        predictor.export(tmp_path / "model.onnx")
    assert (beside.read_text() if beside.exists() else None) == before
    assert {entry.name for entry in tmp_path.iterdir()} <= {"model.onnx", "model.onnx.json"}


def test_the_agreement_asked_for_decides(
    predictor: fc.Predictor, coloured: fc.Dataset, tmp_path: Path
) -> None:
    for wrong in (1.5, -1, "all", True):
        with pytest.raises(fc.ConfigurationError, match="min_agreement"):
            predictor.export(tmp_path / "m.tflite", min_agreement=wrong)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("path", "name", "reason"),
    [
        ("model", None, "format must be one of"),
        ("model.pt", None, "format must be one of"),
        ("model.onnx", "onyx", "Did you mean 'onnx'"),
        ("model.onnx", "litert", "must end in .tflite"),
    ],
)
def test_formats_nobody_knows_are_refused(
    predictor: fc.Predictor, tmp_path: Path, path: str, name: Any, reason: str
) -> None:
    with pytest.raises(fc.ConfigurationError, match=reason):
        predictor.export(tmp_path / path, name)


def test_the_memory_that_onnx_takes_for_many_weights_is_said_before(
    predictor: fc.Predictor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert.to_onnx(predictor.model)
    assert not caplog.records
    monkeypatch.setattr(convert, "_MANY_WEIGHTS", 0)
    convert.to_onnx(predictor.model)
    assert "million weights to ONNX takes up to" in caplog.text


def test_an_export_holds_no_keras_model(predictor: fc.Predictor, tmp_path: Path) -> None:
    loaded = fc.Predictor.load(predictor.export(tmp_path / "model.tflite"))
    with pytest.raises(fc.ModelFileError, match="holds no Keras model"):
        loaded.save(tmp_path / "model.keras")
    with pytest.raises(fc.ModelFileError, match="runtime='onnx'"):
        fc.Predictor.load(tmp_path / "model.tflite", runtime="onnx")


def test_a_layer_a_format_does_not_know_is_said_to_be_one(
    predictor: fc.Predictor, tmp_path: Path
) -> None:
    keras = import_keras()
    import tensorflow as tf

    class Odd(keras.layers.Layer):  # type: ignore[name-defined, misc]  # Keras is untyped
        def call(self, inputs: Any) -> Any:
            return inputs + tf.cast(tf.strings.length(tf.strings.as_string(inputs)) * 0, tf.float32)

    inputs = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(Odd()(features)))
    odd = fc.Predictor(model, predictor.class_names, predictor.preprocessing)
    assert odd.runtime == "keras"
    assert odd.predict_proba(PIXELS).shape == (4, 3)
    with pytest.raises(fc.ModelFileError, match="LiteRT cannot compute"):
        odd.export(tmp_path / "odd.tflite")
    assert not list(tmp_path.iterdir())


def test_layers_that_the_converters_take_apart_are_exported(
    predictor: fc.Predictor, tmp_path: Path
) -> None:
    keras = import_keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            *(
                keras.Input((32, 32, 3)),
                layers.Normalization(mean=[100.0, 110, 120], variance=[3000.0, 3100, 3200]),
            ),
            *(
                layers.Conv2D(4, 3, strides=2, activation="selu"),
                layers.UpSampling2D((2, 1)),
                layers.Cropping2D(1),
            ),
            *(
                layers.CenterCrop(20, 10),
                layers.Conv2D(4, 3, activation="mish"),
                layers.ELU(0.5),
                layers.Dense(4),
            ),
            *(
                layers.ReLU(threshold=0.1),
                layers.Conv2D(4, 1, activation="log_softmax"),
                layers.Dense(4, "gelu"),
            ),
            *(layers.Conv2D(4, 1, activation="celu"), layers.Conv2D(4, 1, activation="squareplus")),
            *(layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")),
        ]
    )
    taken = fc.Predictor(model, predictor.class_names, predictor.preprocessing, runtime="keras")
    for name in ("model.tflite", "model.onnx"):
        loaded = fc.Predictor.load(taken.export(tmp_path / name))
        assert np.allclose(loaded.predict_proba(PIXELS), taken.predict_proba(PIXELS), atol=1e-5)


def with_layer(predictor: fc.Predictor, layer: Any) -> fc.Predictor:
    keras = import_keras()
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), layer, *head]
    )
    return fc.Predictor(model, predictor.class_names, predictor.preprocessing, runtime="keras")


def test_a_layer_that_cannot_be_exported_is_named(
    predictor: fc.Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = import_keras().layers
    groups = with_layer(predictor, layers.Conv2D(3, 3, groups=3, name="apart"))
    with pytest.raises(
        fc.ModelFileError, match="ONNX cannot compute: a convolution in groups, at '.*apart"
    ):
        groups.export(tmp_path / "m.onnx")
    overflowing = with_layer(predictor, layers.Conv2D(3, 3, activation="softplus", name="soft"))
    with pytest.raises(
        fc.ModelFileError, match="soft with the activation softplus, which it makes infinite"
    ):
        overflowing.export(tmp_path / "m.tflite")
    unknown = with_layer(predictor, layers.Activation("soft_shrink", name="shrunk"))
    with pytest.raises(
        fc.ModelFileError,
        match=r"/m\.onnx: not written.* is not one this library reads \(at '.*shrunk",
    ):
        unknown.export(tmp_path / "m.onnx")
    resized = with_layer(predictor, layers.Resizing(9, 9, interpolation="bicubic"))
    with pytest.raises(fc.ModelFileError, match="ResizeBicubic") as caught:
        resized.export(tmp_path / "m.tflite")
    assert "site-packages" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert not caplog.records


@pytest.mark.parametrize(
    ("difference", "agreement", "way_out"),
    [
        (float("nan"), 1.0, "returns NaN"),
        (0.2, 1.0, "Build the network in float32"),
        (1e-6, 0.5, "lower min_agreement"),
    ],
)
def test_the_way_out_fits_what_is_wrong(
    tmp_path: Path, difference: float, agreement: float, way_out: str
) -> None:
    report = ExportReport(tmp_path / "m.onnx", "onnx", 9, agreement, difference, 1, 1.0)
    with pytest.raises(fc.ModelFileError, match=way_out) as caught:
        exports._check_report(report, 1.0)
    assert ("min_agreement" in str(caught.value)) == (agreement < 1)


@pytest.mark.slow
def test_exports_of_a_network_for_photographs(photographs: Path, tmp_path: Path) -> None:
    names = ["Crocus", "Daisy", "Sunflower"]
    samples = [sample for sample in fc.ImageFolder(photographs) if sample.label in names]
    train, _, test = fc.Dataset.from_source(samples).split(val=0, test=0.3, seed=0)
    run = fc.Trainer("fast", epochs=8, image_size=(64, 64)).fit(train, progress=False)
    report = run.predictor.export(tmp_path / "m.tflite", "litert-int8", images=train)
    float_size = run.predictor.export(tmp_path / "f.tflite", images=test).size
    assert report.size <= float_size / 3
    loaded = fc.Predictor.load(report)
    agreement = np.mean(
        [
            a.label == b.label
            for a, b in zip(loaded.predict(test), run.predictor.predict(test), strict=True)
        ]
    )
    assert agreement >= 0.97
