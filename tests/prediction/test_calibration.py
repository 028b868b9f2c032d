from __future__ import annotations

import base64
import json
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import flowercnn as fc
from flowercnn.prediction.calibration import Calibration
from flowercnn.prediction.calibrator import calibrate
from flowercnn.prediction.conformal import nonconformity_scores
from flowercnn.prediction.explain import grad_cam, occlusion
from flowercnn.prediction.out_of_distribution import OutOfDistributionDetector
from flowercnn.saving.guards.archive import PLACEHOLDER, fill_checksum
from flowercnn.sources import filter  # noqa: A004 - as users write it


def test_a_calibration_comes_back_from_its_description() -> None:
    random = np.random.default_rng(0)
    detector = OutOfDistributionDetector.fit(
        {"a": 2, "b": 3}, random.random((30, 5)), random.random((25, 5))
    )
    calibration = Calibration(
        0.8, applied=True, reason=None, set_scores=np.linspace(0, 1, 9), detector=detector
    )
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    features = random.random((40, 5)) * 3
    assert again.unknown(features) == calibration.unknown(features)
    assert again.set_threshold(0.8) == pytest.approx(calibration.set_threshold(0.8))
    with pytest.raises(fc.ConfigurationError, match="5 features. Received: 4"):
        again.unknown(features[:, :4])
    wrong: dict[str, Any] = {
        "familiarity": {},
        "truth_probabilities": "?",
        "false_alarms": 2,
        "temperature": None,
    }
    for name, value in wrong.items():
        with pytest.raises(fc.ConfigurationError):
            Calibration.from_dict({**calibration.to_dict(), name: value})


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0, 1, exclude_max=True)
)
def test_a_threshold_is_the_probability_of_a_picture_and_stays_so_when_it_is_saved(
    probabilities: list[float], coverage: float
) -> None:
    scores = nonconformity_scores(np.array(probabilities, np.float32))
    calibration = Calibration(1.0, applied=True, reason=None, set_scores=scores)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert np.array_equal(again.set_scores, calibration.set_scores)
    assert again.to_dict() == calibration.to_dict()
    assert again.set_threshold(coverage) in {*probabilities, 0, -math.inf}
    assert (
        sum(each >= again.set_threshold(coverage) for each in probabilities)
        >= coverage * len(probabilities) - 1e-6
    )


def test_scores_of_version_0_1_0_mean_what_they_meant() -> None:
    calibration = fc.Predictor.load(
        Path(__file__).parents[1] / "saving" / "files" / "0.1.0.keras"
    ).calibration
    assert calibration is not None
    rounded = np.frombuffer(base64.b64decode("KsPVPoBSHD/2CmY/"), "<f4").astype(np.float64)
    assert [calibration.set_threshold(share) for share in (0.25, 0.5, 0.75)] == (
        1 - rounded
    ).tolist()
    written = calibration.to_dict()
    assert Calibration.from_dict(written).set_threshold(0.5) == 1 - rounded[1]
    assert written["set_scores"] == "KsPVPoBSHD/2CmY/"
    del written["truth_probabilities"]
    for damaged in ("?", None):
        with pytest.raises(fc.ConfigurationError, match="damaged"):
            Calibration.from_dict({**written, "set_scores": damaged})


def packed(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def described(**changes: Any) -> dict[str, Any]:
    """The description of a calibration that knows one layer ``"maps"`` of two feature maps."""
    detector = OutOfDistributionDetector.fit({"maps": 2}, np.eye(2), np.eye(2))
    calibration = Calibration(
        1.0, applied=True, reason=None, set_scores=np.empty(0), detector=detector
    )
    document = calibration.to_dict()
    layer = document["familiarity"]["layers"][0]
    for name, value in changes.items():
        (layer if name in layer else document["familiarity"] if name == "layers" else document)[
            name
        ] = value
    return document


@pytest.mark.parametrize(
    "changes",
    [
        {"variances": "", "directions": ""},
        {"variances": ""},
        {"directions": packed(1, 2, 3)},
        {"mean": "", "scale": "", "directions": "", "size": 0},
        {"size": 3},
        {"size": 2.0},
        {"layers": []},
        {"temperature": 0},
        {"temperature": "inf"},
        {"temperature": 10**400},
        {"reason": {"a": 1}},
        {"false_alarms": "0.05"},
    ],
)
def test_a_description_whose_parts_do_not_fit_together_is_damaged(changes: dict[str, Any]) -> None:
    Calibration.from_dict(described())
    with pytest.raises(fc.ConfigurationError, match="damaged"):
        Calibration.from_dict(described(**changes))


def two_maps(calibration: Calibration | None = None) -> fc.Predictor:
    import keras

    layers = keras.layers
    stack = [
        keras.Input((16, 16, 3)),
        layers.Conv2D(2, 3, name="maps"),
        layers.GlobalAveragePooling2D(),
    ]
    model = keras.Sequential([*stack, layers.Dense(2, activation="softmax", name="answer")])
    return fc.Predictor(
        model, ["a", "b"], fc.Preprocessing(image_size=(16, 16)), calibration=calibration
    )


def test_a_calibration_of_layers_without_such_feature_maps_is_refused() -> None:
    assert (
        two_maps(Calibration.from_dict(described()))
        .predict_one(np.zeros((9, 9, 3), np.uint8))
        .error
        is None
    )
    for changes in ({"name": "answer"}, {"mean": packed(1), "scale": packed(1), "directions": "",
                                         "variances": packed(1), "size": 1}):  # fmt: skip
        with pytest.raises(fc.ConfigurationError, match="of another network"):
            two_maps(Calibration.from_dict(described(**changes)))


@pytest.mark.parametrize("runtime", ["keras", "litert"])
@pytest.mark.parametrize(
    "changes",
    [
        {
            "name": "answer",
            "mean": packed(1),
            "scale": packed(1),
            "directions": "",
            "variances": packed(1),
            "size": 1,
        },
        {
            "mean": packed(1),
            "scale": packed(1),
            "directions": "",
            "variances": packed(1),
            "size": 1,
        },
        {"variances": "", "directions": ""},
    ],
)
def test_a_file_whose_calibration_is_of_another_network_is_refused_when_it_is_loaded(
    tmp_path: Path, changes: dict[str, Any], runtime: Any
) -> None:
    saved = two_maps(Calibration.from_dict(described())).save(tmp_path / "model.keras")
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "evil.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "flowercnn.json":
                content = json.dumps(
                    {**json.loads(content), "calibration": described(**changes)}
                ).encode()
            new.writestr(name, content)
        new.comment = PLACEHOLDER
    fill_checksum(tmp_path / "evil.keras")
    with pytest.raises(fc.ModelFileError, match="evil.keras: The calibration"):
        fc.Predictor.load(tmp_path / "evil.keras", runtime=runtime)


@pytest.fixture(scope="module")
def flowers() -> fc.Dataset:
    return fc.Dataset.from_source(
        fc.SyntheticFlowers(per_class=60, num_classes=4, image_size=(64, 64))
    )


@pytest.fixture(scope="module")
def trained(
    flowers: fc.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[fc.TrainingRun, Path]:
    out = tmp_path_factory.mktemp("calibrated") / "model.keras"
    run = fc.train(
        flowers, val=0.3, test=0.3, image_size=(64, 64), epochs=8, seed=1, out=out, progress=False
    )
    return run, out


def test_training_calibrates_on_val_and_the_file_keeps_it(
    trained: tuple[fc.TrainingRun, Path],
) -> None:
    run, out = trained
    assert run.evaluation is not None
    assert run.splits is not None
    calibration = run.predictor.calibration
    assert calibration is not None
    assert calibration.applied
    assert calibration.temperature != 1
    loaded = fc.Predictor.load(out)
    pictures = [sample.image for sample in run.splits.test][:20]
    pairs = zip(loaded.predict(pictures), run.predictor.predict(pictures), strict=True)
    assert all((a.label, a.reason) == (b.label, b.reason) for a, b in pairs)


def test_the_temperature_is_in_the_weights_that_every_export_has(
    trained: tuple[fc.TrainingRun, Path],
) -> None:
    import keras

    run, out = trained
    assert run.evaluation is not None
    assert run.splits is not None
    pixels = np.stack(
        [run.predictor.preprocessing.decode(sample.image) for sample in run.splits.test]
    )
    stock = keras.saving.load_model(out, compile=False).predict(
        pixels.astype(np.float32), verbose=0
    )
    assert np.abs(stock - run.evaluation.y_prob).max() < 1e-4
    again = calibrate(run.predictor, run.splits.train, run.splits.val, progress=False).calibration
    assert again is not None
    assert run.predictor.calibration is not None
    # Little is left to mend; what is, is owed to the prior, which began at the network's own
    # temperature.
    assert abs(math.log(again.temperature)) < 0.3 * abs(
        math.log(run.predictor.calibration.temperature)
    )


def test_prediction_sets_hold_the_truth_as_often_as_promised(
    trained: tuple[fc.TrainingRun, Path],
) -> None:
    run, _ = trained
    assert run.splits is not None
    for coverage in (0.6, 0.9, 0.95):
        sets = [run.predictor.predict_set(sample.image, coverage) for sample in run.splits.test]
        held = [sample.label in found for sample, found in zip(run.splits.test, sets, strict=True)]
        spread = math.sqrt(coverage * (1 - coverage) * (1 / len(sets) + 1 / len(run.splits.val)))
        assert np.mean(held) >= coverage - 3 * spread
        assert all(found == [name for name, _ in run.predictor.predict_one(s.image).top(len(found))]
                   for s, found in zip(run.splits.test, sets, strict=True))  # fmt: skip
    assert run.predictor.predict_set(run.splits.test[0].image, 0.999) == [
        name for name, _ in run.predictor.predict_one(run.splits.test[0].image).top(4)
    ]


def test_pictures_of_nothing_known_are_unknown_with_a_reason(
    trained: tuple[fc.TrainingRun, Path],
) -> None:
    run, _ = trained
    assert run.splits is not None
    assert run.evaluation is not None
    assert len(run.evaluation.refused) <= 0.2 * len(run.evaluation)
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8)
    predictions = run.predictor.predict(list(noise))
    assert np.mean([prediction.label is None for prediction in predictions]) >= 0.8
    unknown = next(prediction for prediction in predictions if prediction.label is None)
    assert unknown.error is None
    assert unknown.reason is not None
    assert "unlike the training images" in unknown.reason
    assert "reason=" in repr(unknown)
    assert unknown.top(1)[0][0] in run.predictor.class_names
    trusting = run.predictor.with_false_alarms(0)
    assert all(prediction.label is not None for prediction in trusting.predict(list(noise)))


def test_few_validation_pictures_change_nothing_and_it_is_said(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    calibrated = calibrate(
        predictor, coloured.subset(range(9, 30)), coloured.subset(range(9)), progress=False
    )
    assert calibrated.calibration is not None
    assert calibrated.calibration.reason == "there are 9 validation images, fewer than 20."
    pixels = np.zeros((1, *predictor.image_size, 3), np.uint8)
    assert np.array_equal(calibrated.predict_proba(pixels), predictor.predict_proba(pixels))
    assert calibrated.predict_one(np.zeros((9, 9, 3), np.uint8)).label is not None


def test_folders_and_sources_are_taken_where_data_sets_are(
    predictor: fc.Predictor, photo_folder: Path
) -> None:
    train = filter(fc.ImageFolder(photo_folder), lambda sample: sample.key[-5] <= "2")
    with pytest.raises(fc.SplitError, match="9 samples are in both train and val"):
        calibrate(predictor, train, str(photo_folder), progress=False)
    val = filter(fc.ImageFolder(photo_folder), lambda sample: sample.key[-5] > "2")
    calibration = calibrate(predictor, train, val, progress=False).calibration
    assert calibration is not None
    assert calibration.applied


def test_heads_without_dense_and_softmax_keep_their_probabilities(coloured: fc.Dataset) -> None:
    import keras

    layers = keras.layers
    stack = [
        keras.Input((16, 16, 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(3, 3),
        layers.GlobalAveragePooling2D(),
    ]
    preprocessing = fc.Preprocessing(image_size=(16, 16))
    bare = fc.Predictor(
        keras.Sequential([*stack, layers.Softmax()]), coloured.class_names, preprocessing
    )
    with pytest.raises(fc.ConfigurationError, match="train must have images"):
        calibrate(bare, coloured.subset([]), coloured)
    with pytest.raises(fc.ConfigurationError, match=r"Sample.*list"):
        calibrate(bare, coloured, [1])  # type: ignore[list-item]  # that is the point
    with pytest.raises(
        fc.ConfigurationError, match=r"predictor must be a flowercnn\.Predictor.*int"
    ):
        calibrate(3, coloured, coloured)  # type: ignore[arg-type]  # that is the point
    train, val = coloured.subset(range(0, 30, 4)), coloured.subset([i for i in range(30) if i % 4])
    calibration = calibrate(bare, train, val, progress=False).calibration
    assert calibration is not None
    assert calibration.reason == "the network does not end in Dense and softmax."
    ending = [layers.Dense(3), layers.Activation("softmax")]
    split = fc.Predictor(keras.Sequential([*stack, *ending]), coloured.class_names, preprocessing)
    calibration = calibrate(split, train, val, progress=False).calibration
    assert calibration is not None
    assert calibration.applied


def with_inner_model(kind: str, pooling: str | None = None) -> Any:
    import keras

    layers = keras.layers
    pixels = keras.Input((16, 16, 3))
    inner_input = keras.Input((16, 16, 3))
    maps = layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2)(inner_input))
    inner = keras.Model(
        inner_input,
        maps if pooling is None else layers.GlobalAveragePooling2D()(maps),
        name="inner",
    )
    if kind == "sequential":
        inner = keras.Sequential([layers.Conv2D(4, 3, strides=2), layers.ReLU()], name="inner")
    found = inner(layers.Rescaling(1 / 255)(pixels), training=False)
    if kind == "used twice":
        found = layers.Concatenate()([found, inner(layers.Rescaling(-1 / 255, 1)(pixels))])
    pooled = found if pooling else layers.GlobalAveragePooling2D()(found)
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(pooled))


@pytest.mark.parametrize("kind", ["functional", "sequential", "used twice"])
def test_the_output_of_a_model_within_the_network_is_a_feature_map(
    coloured: fc.Dataset, tmp_path: Path, kind: str
) -> None:
    bare = fc.Predictor(
        with_inner_model(kind), coloured.class_names, fc.Preprocessing(image_size=(16, 16))
    )
    train, val = coloured.subset(range(0, 30, 4)), coloured.subset([i for i in range(30) if i % 4])
    calibrated = calibrate(bare, train, val, false_alarms=0.1, progress=False)
    calibration = calibrated.calibration
    assert calibration is not None
    assert calibration.reason is None
    assert calibration.detector is not None
    assert calibration.detector.layers == (("concatenate",) if kind == "used twice" else ("inner",))
    assert grad_cam(calibrated, coloured[0]).heat.shape == (16, 16)
    noise = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    expected = [prediction.label for prediction in calibrated.predict(noise)]
    assert None in expected
    runtimes: list[Any] = ["keras", "auto"]
    for name in ("model.keras", "model.h5"):
        for runtime in runtimes:
            loaded = fc.Predictor.load(calibrated.save(tmp_path / name), runtime=runtime)
            assert [prediction.label for prediction in loaded.predict(noise)] == expected


def test_a_layer_taken_from_another_model_counts_where_this_one_calls_it() -> None:
    import keras

    layers = keras.layers
    maps = layers.Conv2D(2, 3, name="maps")
    keras.Sequential([keras.Input((8, 8, 3)), maps])
    stack = [
        keras.Input((16, 16, 3)),
        maps,
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, activation="softmax"),
    ]
    predictor = fc.Predictor(
        keras.Sequential(stack), ["a", "b"], fc.Preprocessing(image_size=(16, 16))
    )
    assert grad_cam(predictor, np.zeros((9, 9, 3), np.uint8)).heat.shape == (16, 16)


def test_a_network_whose_feature_maps_are_out_of_reach_says_so(coloured: fc.Dataset) -> None:
    model = with_inner_model("functional", pooling="avg")
    bare = fc.Predictor(model, coloured.class_names, fc.Preprocessing(image_size=(16, 16)))
    calibrated = calibrate(
        bare, coloured.subset(range(9, 30)), coloured.subset(range(9)), progress=False
    )
    assert calibrated.calibration is not None
    reason = (
        r"no feature maps outside the models within it \(inner\); build those with pooling=None"
    )
    assert calibrated.calibration.reason is not None
    assert re.search(
        f"fewer than 20. Also, no image is called unknown: .* {reason}",
        calibrated.calibration.reason,
    )
    with pytest.raises(fc.ConfigurationError, match=f"{reason}.*occlusion"):
        grad_cam(bare, coloured[0])


def test_wrong_uses_are_told(predictor: fc.Predictor, coloured: fc.Dataset) -> None:
    bare = fc.Predictor(predictor.model, predictor.class_names, predictor.preprocessing)
    with pytest.raises(fc.ConfigurationError, match="was not calibrated"):
        bare.predict_set(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(fc.ConfigurationError, match="val must have images"):
        calibrate(bare, coloured, coloured.subset([]))
    with pytest.raises(
        fc.SplitError,
        match="3 samples are in both train and val: blue/0.png, blue/1.png, blue/2.png",
    ):
        calibrate(bare, coloured, coloured.subset(range(3)))
    train, val = coloured.subset(range(0, 30, 4)), coloured.subset([i for i in range(30) if i % 4])
    calibrated = calibrate(bare, train, val, progress=False)
    for coverage in (-0.1, 1, 95, "0.9"):
        with pytest.raises(fc.ConfigurationError, match="coverage must be a share"):
            calibrated.predict_set(np.zeros((8, 8, 3), np.uint8), coverage)  # type: ignore[arg-type]  # the point
    with pytest.raises(fc.ConfigurationError, match="false_alarms must be a share"):
        calibrated.with_false_alarms(1.5)
    calibration = calibrated.with_false_alarms(np.float32(0.25)).calibration  # type: ignore[arg-type]  # the point
    assert calibration is not None
    assert json.dumps(calibration.to_dict()["false_alarms"]) == "0.25"
    assert calibration.detector is not None
    gone = tuple(f"gone {name}" for name in calibration.detector.layers)
    other = replace(calibration, detector=replace(calibration.detector, layers=gone))
    with pytest.raises(fc.ConfigurationError, match="another network"):
        fc.Predictor(bare.model, bare.class_names, bare.preprocessing, calibration=other)
    with pytest.raises(fc.ImageError):
        calibrated.predict_set(b"no picture")


@pytest.mark.parametrize("explain", [grad_cam, occlusion])
def test_explanations_look_where_the_flower_is(
    trained: tuple[fc.TrainingRun, Path], explain: Any
) -> None:
    run, _ = trained
    assert run.splits is not None
    explanations = [
        explain(run.predictor, sample.image, sample.label)
        for sample in run.splits.test.samples[::8]
    ]
    for each in explanations:
        assert each.heat.shape == (64, 64)
        assert each.heat.min() >= 0
        assert each.heat.max() <= 1
        assert each.overlay().shape == (64, 64, 3)
    mean = np.mean([each.heat for each in explanations], axis=0)
    assert mean[16:48, 16:48].mean() > mean.mean()  # drawn flowers are in the middle


def test_explanations_are_of_the_class_asked_for(predictor: fc.Predictor, tmp_path: Path) -> None:
    picture = np.zeros((24, 24, 3), np.uint8)
    assert grad_cam(predictor, picture, "red").class_name == "red"
    assert occlusion(predictor, picture).class_name == predictor.predict_one(picture).top(1)[0][0]
    grad_cam(predictor, picture).figure(dark=True).savefig(tmp_path / "cam.png")
    assert (tmp_path / "cam.png").stat().st_size > 3000
    with pytest.raises(fc.UnknownNameError, match="Did you mean 'red'"):
        grad_cam(predictor, picture, "rd")


@pytest.mark.parametrize("explain", [grad_cam, occlusion])
def test_explanations_take_one_picture_as_predict_one_does(
    predictor: fc.Predictor, coloured: fc.Dataset, tmp_path: Path, explain: Any
) -> None:
    sample = coloured[0]
    Image.fromarray(predictor.preprocessing.decode(sample.image)).save(tmp_path / "picture.png")
    expected = explain(predictor, tmp_path / "picture.png").heat
    with (tmp_path / "picture.png").open("rb") as file:
        assert np.array_equal(explain(predictor, file).heat, expected)
    assert np.array_equal(explain(predictor, sample).heat, explain(predictor, sample.image).heat)
    with pytest.raises(
        fc.ConfigurationError, match=r"image must be a single image\. Received: several"
    ):
        explain(predictor, coloured)
    with pytest.raises(
        fc.ConfigurationError, match=r"image must be a single image\. Received: none"
    ):
        explain(predictor, [])
