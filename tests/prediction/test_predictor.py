from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.predictor import _unpickled


def rows(predictions: list[fc.Prediction]) -> Any:
    return np.stack([p.probabilities for p in predictions if p.probabilities is not None])


def test_one_picture_in_every_form_gives_the_same_answer(
    predictor: fc.Predictor, photo_folder: Path
) -> None:
    path = photo_folder / "red" / "0.png"
    content = path.read_bytes()
    image = Image.open(io.BytesIO(content))
    forms = [
        path,
        str(path),
        content,
        image,
        np.asarray(image),
        lambda: content,
        bytearray(content),
    ]
    answers = [predictor.predict_one(form) for form in forms]  # type: ignore[arg-type]  # bytearray is extra
    assert (rows(answers) == rows(answers)[:1]).all()
    assert answers[0].key == str(path)


def test_folders_iterables_and_data_sets_keep_their_order(
    predictor: fc.Predictor, photo_folder: Path
) -> None:
    dataset = fc.Dataset.from_source(fc.ImageFolder(photo_folder))
    whole, folder = predictor.predict(dataset), predictor.predict(photo_folder)
    assert [p.key for p in whole] == list(dataset.keys)
    assert np.array_equal(rows(whole), rows(folder))
    mixed = predictor.predict([photo_folder / "red", dataset[0], dataset[1].image])
    assert len(mixed) == 12
    assert mixed[10].key == dataset.keys[0]


def test_a_batch_of_arrays_is_an_iterable_of_pictures(predictor: fc.Predictor) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (5, 50, 40, 3), dtype=np.uint8)
    assert [p.key for p in predictor.predict(batch)] == ["0", "1", "2", "3", "4"]


def test_training_evaluation_and_prediction_see_the_same_pixels(
    run: fc.TrainingRun, coloured: fc.Dataset
) -> None:
    pixels, _ = run.predictor.preprocessing.load(coloured.samples, progress=False)
    direct = run.predictor.predict_proba(pixels.take(range(30)))
    assert np.array_equal(direct, rows(run.predictor.predict(coloured)))
    assert np.array_equal(direct, fc.evaluate(run.predictor, coloured, progress=False).y_prob)


def test_bad_pictures_are_records_in_their_places(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    def fails() -> bytes:
        raise RuntimeError("camera is off")

    predictions = predictor.predict([b"", coloured[0].image, "gone.jpg", np.zeros((3, 3)), fails])
    assert [p.label is None for p in predictions] == [True, False, True, True, True]
    reasons = [p.error or "" for p in predictions]
    for reason, word in zip(
        reasons, ["empty", "", "No such file", "uint8", "camera is off"], strict=True
    ):
        assert word in reason
    bad = predictions[0]
    assert (bad.confidence, bad.probabilities, bad.top(3)) == (0, None, [])
    assert predictor.predict_one(b"").error


def test_a_picture_without_pixels_is_a_record_and_the_others_are_answered(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    empty, good = predictor.predict([Image.new("RGB", (0, 5)), coloured[0].image])
    assert "0 x 5 pixels" in (empty.error or "")
    assert good.label is not None


def pickled_and_back(each: Any) -> Any:
    return pickle.loads(pickle.dumps(each))  # noqa: S301 - its own


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickled_and_back])
@pytest.mark.parametrize("runtime", ["auto", "keras"])
def test_a_copied_or_pickled_predictor_answers_the_same(
    predictor: fc.Predictor, duplicate: Any, runtime: Any
) -> None:
    calibrated = predictor.with_calibration(
        Calibration(1.0, applied=True, reason=None, set_scores=np.array([0.5]))
    )
    original = fc.Predictor(
        predictor.model, predictor.class_names, predictor.preprocessing,
        calibration=calibrated.calibration, info={"note": "x"}, runtime=runtime,
    )  # fmt: skip
    again = duplicate(original)
    assert (again.class_names, again.preprocessing) == (
        original.class_names,
        original.preprocessing,
    )
    assert (again.runtime, again.info["note"]) == (original.runtime, "x")
    assert again.calibration.to_dict() == original.calibration.to_dict()  # type: ignore[union-attr]  # it has one
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert np.allclose(again.predict_proba(pixels), original.predict_proba(pixels), atol=1e-6)


def test_an_export_that_is_pickled_is_refused_with_the_reason(
    predictor: fc.Predictor, tmp_path: Path
) -> None:
    loaded = fc.Predictor.load(predictor.export(tmp_path / "model.tflite"))
    assert copy.copy(loaded).class_names == predictor.class_names
    with pytest.raises(fc.ModelFileError, match="load the .keras file"):
        pickle.dumps(loaded)


def test_what_is_unpickled_is_checked_like_any_model_file() -> None:
    with pytest.raises(fc.ModelFileError, match="not a model file"):
        _unpickled(b"hello", "auto")


@pytest.mark.parametrize("suffix", [".KERAS", ".H5", ".TFLITE", ".ONNX"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_files_load_by_their_suffix_in_any_case(
    predictor: fc.Predictor, tmp_path: Path, suffix: str
) -> None:
    path = predictor.export(tmp_path / f"model{suffix.lower()}").path.rename(
        tmp_path / f"MODEL{suffix}"
    )
    assert fc.Predictor.load(path).class_names == predictor.class_names


def test_a_model_is_saved_to_a_path_and_read_from_one(predictor: fc.Predictor) -> None:
    with pytest.raises(fc.ConfigurationError, match="path must be a path.*Received: path=None"):
        predictor.save(None)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(fc.ConfigurationError, match="path must be a path.*Received: path=None"):
        fc.Predictor.load(None)  # type: ignore[arg-type]  # that is the point


def test_what_holds_no_pictures_is_refused(predictor: fc.Predictor) -> None:
    with pytest.raises(fc.ConfigurationError, match="Received: int 3"):
        predictor.predict(3)  # type: ignore[arg-type]  # that is the point


def test_a_stream_is_predicted_as_it_comes(predictor: fc.Predictor, coloured: fc.Dataset) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield coloured[0].image

    stream = predictor.predict_iter(endless())
    assert next(stream).label is not None
    assert taken < 400
    stream.close()  # type: ignore[attr-defined]  # it is a generator


def test_pictures_before_an_error_of_their_source_are_answered(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    def breaking() -> Any:
        yield coloured[0].image
        yield coloured[1].image
        raise OSError("the camera is gone")

    stream = predictor.predict_iter(breaking())
    assert [next(stream).label is not None for _ in range(2)] == [True, True]
    with pytest.raises(OSError, match="the camera is gone"):
        next(stream)


def test_probabilities_of_ready_pixels(predictor: fc.Predictor) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (130, 32, 32, 3), dtype=np.uint8)
    probabilities = predictor.predict_proba(pixels)
    assert probabilities.shape == (130, 3)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(probabilities, predictor.predict_proba(pixels.astype(np.float64)), atol=1e-6)
    assert predictor.predict_proba(pixels[:0]).shape == (0, 3)


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_probabilities_of_everything_that_predict_takes(
    predictor: fc.Predictor, coloured: fc.Dataset, photo_folder: Path
) -> None:
    one = photo_folder / "red" / "0.png"
    contents = [path.read_bytes() for path in sorted(photo_folder.rglob("*.png"))]
    larger = np.zeros((2, 50, 40, 3), np.uint8)
    forms: list[Any] = [
        one,
        str(photo_folder),
        contents,
        coloured,
        fc.ImageFolder(photo_folder),
        larger,
        larger[0],
    ]
    for images in (*forms, Image.open(one), iter(contents)):
        proba = predictor.predict_proba(contents if images is forms[2] else images)
        if not hasattr(images, "__next__"):
            assert np.array_equal(proba, rows(predictor.predict(images)))
        assert proba.dtype == np.float32
    assert len(predictor.predict_proba(iter(contents))) == len(contents)
    assert predictor.predict_proba([]).shape == (0, 3)
    with pytest.raises(fc.ImageError, match="1 of 1 image cannot be used: nowhere"):
        predictor.predict_proba(np.array([["nowhere"]]))
    mirrored = predictor.predict_proba(one, tta=True)
    assert np.array_equal(mirrored, rows(predictor.predict(one, tta=True)))


def test_bad_images_have_no_probabilities_and_are_all_named(
    predictor: fc.Predictor, coloured: fc.Dataset, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"none")
    many = [coloured[0].image] * 40  # more than a batch
    for method in (predictor.predict_proba, predictor.predict_logits):
        with pytest.raises(
            fc.ImageError, match=r"3 of 83 images.*bad\.png: .*41: .*82: .*predict\(\)"
        ):
            method([bad, *many, b"", *many, b"x"])


def test_logits_are_the_scores_before_the_softmax(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    keras = import_keras()
    head = predictor.model.layers[-1]
    scores = keras.Model(predictor.model.inputs[0], head.input)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    expected = np.array(scores(pixels.astype(np.float32)) @ head.kernel + head.bias)
    expected -= expected.mean(axis=1, keepdims=True)
    for runtime in ("keras", "litert"):
        logits = fc.Predictor(
            predictor.model, predictor.class_names, predictor.preprocessing, runtime=runtime
        ).predict_logits(pixels)
        assert logits.shape == (40, 3)
        assert logits.dtype == np.float32
        assert np.allclose(logits, expected, atol=1e-4)
        assert np.allclose(softmax(logits), predictor.predict_proba(pixels), atol=1e-5)
    assert np.allclose(
        softmax(predictor.predict_logits(coloured)), predictor.predict_proba(coloured), atol=1e-5
    )
    assert np.isfinite(predictor.predict_logits(np.zeros((1, 32, 32, 3), np.uint8), tta=True)).all()


def test_logits_are_finite_where_probabilities_are_zero() -> None:
    keras = import_keras()
    layers = keras.layers
    certain = layers.Dense(
        3, activation="softmax", bias_initializer=keras.initializers.Constant(0.0)
    )
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.GlobalAveragePooling2D(), certain])
    certain.set_weights([np.zeros((3, 3), np.float32), np.array([500, 0, -500], np.float32)])
    predictor = fc.Predictor(model, ["a", "b", "c"], fc.Preprocessing(image_size=(8, 8)))
    images = np.zeros((1, 8, 8, 3), np.uint8)
    logits = predictor.predict_logits(images)
    assert np.isfinite(logits).all()
    assert logits.argmax() == 0
    assert np.allclose(softmax(logits), predictor.predict_proba(images), atol=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 31, 32, 3)),
        np.zeros((1, 32, 32, 3), np.int64),
        np.full((1, 32, 32, 3), np.nan),
        np.full((1, 32, 32, 3), np.inf),
        np.full((1, 32, 32, 3), -5.0),
        np.full((1, 32, 32, 3), 0.7),
        np.full((1, 32, 32, 3), 300, np.float32),
    ],
)
def test_pixels_of_another_shape_or_kind_are_refused(predictor: fc.Predictor, array: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="array of images must"):
        predictor.predict_proba(array)


def test_several_threads_get_the_right_answers(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    expected = rows(predictor.predict(coloured))
    fresh = fc.Predictor(predictor.model, predictor.class_names, predictor.preprocessing)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(fresh.predict_one, [sample.image for sample in coloured] * 4))
    assert np.allclose(rows(answers), np.concatenate([expected] * 4), atol=1e-6)


def test_top_is_best_first(predictor: fc.Predictor, coloured: fc.Dataset) -> None:
    prediction = predictor.predict_one(coloured[0].image)
    top = prediction.top(3)
    assert top[0] == (prediction.label, prediction.confidence)
    assert [share for _, share in top] == sorted((share for _, share in top), reverse=True)
    assert {name for name, _ in top} == set(predictor.class_names)
    with pytest.raises(fc.ConfigurationError, match="k must be"):
        prediction.top(0)


def test_reprs_are_one_line(predictor: fc.Predictor) -> None:
    assert repr(predictor) == "Predictor(3 classes, images 32 x 32)"
    assert "error=" in repr(predictor.predict_one(b""))


def test_a_model_that_does_not_fit_is_refused(predictor: fc.Predictor) -> None:
    with pytest.raises(fc.ConfigurationError, match=r"to \(None, 2\)"):
        fc.Predictor(predictor.model, ("a", "b"), predictor.preprocessing)
    with pytest.raises(
        fc.ConfigurationError,
        match="class_names must be a list or tuple of names. Received: .*'abc'",
    ):
        fc.Predictor(predictor.model, "abc", predictor.preprocessing)
    with pytest.raises(fc.ConfigurationError, match="preprocessing must be"):
        fc.Predictor(predictor.model, predictor.class_names, (32, 32))  # type: ignore[arg-type]  # that is the point


def test_a_model_that_ends_in_something_else_than_probabilities_is_refused(
    predictor: fc.Predictor,
) -> None:
    keras = import_keras()
    layers = [
        keras.layers.Conv2D(4, 3),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    ]
    logits = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    with pytest.raises(fc.ConfigurationError, match="must return probabilities"):
        fc.Predictor(logits, predictor.class_names, predictor.preprocessing)
