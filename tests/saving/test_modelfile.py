from __future__ import annotations

import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.models.copies import make_training_copy
from flowercnn.prediction.calibration import Calibration
from flowercnn.saving.guards.archive import PLACEHOLDER, fill_checksum
from flowercnn.saving.modelfile import check_can_be_saved

FILES = Path(__file__).parent / "files"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved(run: fc.TrainingRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.predictor.save(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_everything_comes_back(predictor: fc.Predictor, tmp_path: Path, suffix: str) -> None:
    path = predictor.save(tmp_path / f"model{suffix}")
    loaded = fc.Predictor.load(path)
    assert loaded.class_names == predictor.class_names
    assert loaded.preprocessing == predictor.preprocessing
    assert loaded.info["model"] == "fast"
    assert loaded.info["versions"]["flowercnn"] == fc.__version__
    assert np.array_equal(loaded.predict_proba(PIXELS), predictor.predict_proba(PIXELS))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_a_network_with_random_layers_comes_back(tmp_path: Path, suffix: str) -> None:
    keras = import_keras()
    layers = keras.layers
    x = pixels = keras.Input((32, 32, 3))
    for layer in (
        *(
            layers.Rescaling(1 / 255),
            layers.GaussianNoise(0.1),
            layers.Conv2D(8, 3),
            layers.SpatialDropout2D(0.2),
        ),
        *(
            layers.GroupNormalization(4),
            layers.GaussianDropout(0.2),
            layers.GlobalAveragePooling2D(),
        ),
        *(layers.Dropout(0.3), layers.Dense(3, activation="softmax")),
    ):
        x = layer(x)
    random = fc.Predictor(
        keras.Model(pixels, x), ["a", "b", "c"], fc.Preprocessing(image_size=(32, 32))
    )
    path = random.save(tmp_path / f"model{suffix}")
    for runtime in ("auto", "keras"):
        loaded = fc.Predictor.load(path, runtime=runtime)
        assert np.allclose(loaded.predict_proba(PIXELS), random.predict_proba(PIXELS), atol=1e-5)


def head(classes: int = 3) -> list[Any]:
    layers = import_keras().layers
    return [layers.GlobalMaxPooling2D(), layers.Dense(classes, activation="softmax")]


def classifier(*layers: Any) -> fc.Predictor:
    keras = import_keras()
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), *layers, *head()]
    )
    return fc.Predictor(model, ["a", "b", "c"], fc.Preprocessing(image_size=(32, 32)))


@pytest.mark.parametrize("kind", ["a block without an input", "a regulariser of activations"])
def test_networks_in_which_keras_notes_addresses_come_back(tmp_path: Path, kind: str) -> None:
    keras = import_keras()
    block = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    regularised = keras.layers.Conv2D(4, 3, activity_regularizer="l2")
    noted = classifier(block if kind.startswith("a block") else regularised)
    path = noted.save(tmp_path / "model.keras", light=False)
    loaded = fc.Predictor.load(path, runtime="keras")
    assert np.allclose(loaded.predict_proba(PIXELS), noted.predict_proba(PIXELS), atol=1e-5)


def test_a_file_that_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    adapted = import_keras().layers.Dense(4)
    changed = classifier(adapted)
    adapted.enable_lora(2)
    path = tmp_path / "model.keras"
    with pytest.raises(
        fc.ModelFileError,
        match=rf"^{path}: not written.*loaded again: rejected: the weights in the file",
    ):
        changed.save(path, light=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_what_the_older_format_forgets_is_not_written_in_it(tmp_path: Path) -> None:
    layers = import_keras().layers
    for layer, reason in (
        (layers.UnitNormalization(axis=[1, 2]), "other answers"),
        (layers.LayerNormalization(axis=[1, 2, 3]), "damaged"),
    ):
        forgotten = classifier(layers.Conv2D(4, 3), layer)
        with pytest.raises(
            fc.ModelFileError, match=rf"model\.h5: not written.*{reason}.*Save it as \.keras"
        ):
            forgotten.save(tmp_path / "model.h5")
        assert not list(tmp_path.iterdir())
        loaded = fc.Predictor.load(
            forgotten.save(tmp_path / "model.keras", light=False), runtime="keras"
        )
        assert np.allclose(loaded.predict_proba(PIXELS), forgotten.predict_proba(PIXELS), atol=1e-5)
        (tmp_path / "model.keras").unlink()


def test_a_layer_shared_by_two_models_is_said_to_be_the_reason(tmp_path: Path) -> None:
    keras = import_keras()
    shared = keras.layers.Conv2D(3, 3, padding="same", name="twice")
    inside = keras.Input((32, 32, 3))
    inner = keras.Model(inside, shared(inside))
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Add()([inner(pixels), shared(pixels)])
    for layer in head():
        x = layer(x)
    predictor = fc.Predictor(
        keras.Model(pixels, x), ["a", "b", "c"], fc.Preprocessing(image_size=(32, 32))
    )
    with pytest.raises(
        fc.ModelFileError,
        match=r"model\.keras: not written.*'twice' is shared between a model and one",
    ):
        predictor.save(tmp_path / "model.keras", light=False)
    with pytest.raises(fc.ConfigurationError, match="'twice' is shared"):
        make_training_copy(predictor.model, precision="float32", any_size=True)


def test_layers_that_are_no_danger_come_back(tmp_path: Path) -> None:
    keras = import_keras()
    layers = keras.layers
    orthogonal = layers.Dense(
        4, kernel_regularizer=keras.regularizers.OrthogonalRegularizer(), activation="hard_tanh"
    )
    harmless = classifier(
        *(
            layers.Conv2DTranspose(4, 3, strides=2, output_padding=1),
            layers.Identity(),
            layers.RMSNormalization(),
        ),
        *(layers.ActivityRegularization(l2=0.1), layers.AlphaDropout(0.1), layers.Reshape((-1, 4))),
        *(layers.GlobalAveragePooling1D(), orthogonal, layers.Reshape((2, 2, 1))),
    )
    loaded = fc.Predictor.load(
        harmless.save(tmp_path / "model.keras", light=False), runtime="keras"
    )
    assert np.allclose(loaded.predict_proba(PIXELS), harmless.predict_proba(PIXELS), atol=1e-5)


def test_an_initialiser_with_an_array_is_said_to_be_one() -> None:
    keras = import_keras()
    start = keras.initializers.Constant(np.arange(4.0))
    with pytest.raises(fc.ModelFileError, match=r"Constant\(array\).*set_weights"):
        check_can_be_saved(classifier(keras.layers.Conv2D(4, 3, bias_initializer=start)).model)


def test_class_names_too_long_for_a_file_are_found_before_training(predictor: fc.Predictor) -> None:
    check_can_be_saved(predictor.model, predictor.class_names)
    with pytest.raises(fc.ModelFileError, match="class_names: 30,000 names.*Shorten the names"):
        check_can_be_saved(
            predictor.model, [f"{number:150}".replace(" ", "x") for number in range(30_000)]
        )


def test_a_new_process_predicts_the_same(
    saved: Path, predictor: fc.Predictor, tmp_path: Path
) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = (
        "import sys, numpy as np, flowercnn as fc\np = "
        "fc.Predictor.load(sys.argv[1])\nnp.save(sys.argv[3], "
        "p.predict_proba(np.load(sys.argv[2])))"
    )
    arguments = [saved, tmp_path / "pixels.npy", tmp_path / "out.npy"]
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True
    )
    assert np.array_equal(np.load(tmp_path / "out.npy"), predictor.predict_proba(PIXELS))


def test_stock_keras_opens_the_file_without_flowercnn(
    saved: Path, predictor: fc.Predictor, tmp_path: Path
) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = (
        "import sys; sys.modules['flowercnn'] = None\nimport keras, numpy as np\nmodel = "
        "keras.saving.load_model(sys.argv[1])\nnp.save(sys.argv[3], "
        "model.predict(np.load(sys.argv[2]), verbose=0))"
    )
    arguments = [saved, tmp_path / "pixels.npy", tmp_path / "out.npy"]
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True
    )
    assert np.allclose(np.load(tmp_path / "out.npy"), predictor.predict_proba(PIXELS), atol=1e-6)


def test_the_file_holds_no_optimizer(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert json.loads(archive.read("config.json"))["compile_config"] in (None, {})
        weights = archive.getinfo("model.weights.h5").file_size
    model = fc.Predictor.load(saved).model
    assert weights < 4 * model.count_params() * 1.5 + 200_000


def test_a_failed_save_keeps_the_old_file(
    predictor: fc.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = predictor.save(tmp_path / "model.keras")
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(fc.ModelFileError, match="No space left"):
        predictor.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["model", "model.pt", "model.keras.zip"])
def test_other_suffixes_are_refused(predictor: fc.Predictor, tmp_path: Path, name: str) -> None:
    with pytest.raises(fc.ModelFileError, match=".keras or .h5"):
        predictor.save(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_export_goes_by_suffix_or_format(predictor: fc.Predictor, tmp_path: Path) -> None:
    assert (
        fc.Predictor.load(predictor.export(tmp_path / "a.h5")).class_names == predictor.class_names
    )
    assert predictor.export(tmp_path / "b", format="keras").path.name == "b.keras"
    with pytest.raises(fc.ConfigurationError, match="format must be"):
        predictor.export(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a model file"),
        (b"hello", "not a model file"),
        (b"PK\x03\x04 half a zip", "damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "damaged"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(fc.ModelFileError, match=reason):
        fc.Predictor.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "gone.keras", "there is no such file"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(
            fc.ModelFileError, match=rf"{reason}.* Give a file that Predictor\.save"
        ):
            fc.Predictor.load(path)


def test_a_keras_model_of_others_is_refused_with_the_way_out(
    predictor: fc.Predictor, tmp_path: Path
) -> None:
    predictor.model.save(tmp_path / "plain.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor.model.save(tmp_path / "plain.h5")
    for name in ("plain.keras", "plain.h5"):
        with pytest.raises(fc.ModelFileError, match="no class names.*flowercnn.Predictor"):
            fc.Predictor.load(tmp_path / name)


def test_an_h5_file_that_was_cut_off_is_damaged(predictor: fc.Predictor, tmp_path: Path) -> None:
    path = predictor.save(tmp_path / "model.h5")
    content = path.read_bytes()
    for length in (
        len(content) - 10,
        len(content) - 100,
        len(content) * 9 // 10,
        len(content) // 2,
        100,
    ):
        path.write_bytes(content[:length])
        with pytest.raises(fc.ModelFileError, match="damaged"):
            fc.Predictor.load(path)


def altered(saved: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model file, with a fitting checksum, some members changed by functions, removed
    or added."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            change = changes.pop(name.replace(".", "_"), lambda content: content)
            if change is not None:
                new.writestr(name, change(old.read(name)))
        for name, content in changes.items():
            new.writestr(name, content)
        new.comment = PLACEHOLDER
    fill_checksum(target)
    return target


def _edit(function: Any) -> Any:
    def change(content: bytes) -> str:
        config = json.loads(content)
        function(config)
        return json.dumps(config)

    return change


def first_layer(config: Any) -> Any:
    return config["config"]["layers"][1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: first_layer(c).update(class_name="Lambda"), "'Lambda'"),
        (lambda c: first_layer(c).update(class_name="TFSMLayer"), "'TFSMLayer'"),
        (lambda c: first_layer(c).update(module="os", class_name="system"), "os.system"),
        (lambda c: first_layer(c).update(module="keras.src.utils.file_utils"), "file_utils"),
        (lambda c: first_layer(c).update(registered_name="evil>Layer"), "custom class"),
        (lambda c: c["config"]["layers"][2]["config"].update(filters=10**9), "filters"),
        (lambda c: c.update(class_name="Model"), "functional or sequential"),
        (lambda c: first_layer(c)["config"].update(scale=10**12), "beyond any size"),
    ],
)
def test_a_hostile_network_is_refused_before_keras_sees_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("Keras was asked to load it")

    monkeypatch.setattr(import_keras().saving, "load_model", reached)
    with pytest.raises(fc.ModelFileError, match=f"rejected.*{reason}"):
        fc.Predictor.load(altered(saved, tmp_path / "evil.keras", config_json=_edit(change)))


@pytest.mark.parametrize("member", ["../evil.txt", "assets/x", "model.weights.npz"])
def test_members_that_do_not_belong_are_refused(saved: Path, tmp_path: Path, member: str) -> None:
    with pytest.raises(fc.ModelFileError, match="other members"):
        fc.Predictor.load(altered(saved, tmp_path / "evil.keras", **{member: b"x"}))


def test_compressed_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(saved) as old,
        zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(fc.ModelFileError, match="compressed"):
        fc.Predictor.load(tmp_path / "bomb.keras")


def test_weights_that_lie_elsewhere_are_refused(saved: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.h5"
    with h5py.File(weights, "w") as file:
        file["evil"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(fc.ModelFileError, match="rejected: the weights are not laid out"):
        fc.Predictor.load(
            altered(
                saved,
                tmp_path / "evil.keras",
                model_weights_h5=lambda _content: weights.read_bytes(),
            ),
            runtime="keras",
        )


@pytest.mark.parametrize("part", ["class_names", "preprocessing"])
def test_a_newer_minor_version_loads_with_parts_nobody_knows(
    saved: Path, tmp_path: Path, part: str
) -> None:
    newer = _edit(lambda c: c.update(version="1.7", hierarchy={"rose": "plant"}, requires=[part]))
    loaded = fc.Predictor.load(altered(saved, tmp_path / "newer.keras", flowercnn_json=newer))
    assert loaded.class_names == ("blue", "green", "red")


def test_a_newer_minor_version_says_which_part_it_cannot_do_without(
    saved: Path, tmp_path: Path
) -> None:
    newer = _edit(lambda c: c.update(version="1.7", hierarchy={}, requires=["hierarchy"]))
    with pytest.raises(
        fc.ModelFileError, match=r"1\.7 and cannot be used without hierarchy.*newer flowercnn"
    ):
        fc.Predictor.load(altered(saved, tmp_path / "newer.keras", flowercnn_json=newer))


def test_a_newer_format_is_said_to_be_one(saved: Path, tmp_path: Path) -> None:
    newer = altered(
        saved, tmp_path / "newer.keras", flowercnn_json=_edit(lambda c: c.update(version=99))
    )
    with pytest.raises(fc.ModelFileError, match="format version 99"):
        fc.Predictor.load(newer)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(class_names=["a"]),
        lambda c: c.update(class_names=["a", "a", "b"]),
        lambda c: c.update(class_names=None),
        lambda c: c["preprocessing"].update(image_size=[0, 0]),
        lambda c: c["preprocessing"].update(image_size=[10**9, 10**9]),
        lambda c: c["preprocessing"].update(max_pixels=2**40),
        lambda c: c["preprocessing"].update(cache_dir="/"),
        lambda c: c.pop("preprocessing"),
        lambda c: c.update(class_names=["a", "b\x1b[2J", "c"]),
        lambda c: c.update(class_names=["a", "b", "c" * 2000]),
        lambda c: c.update(class_names=[str(n) for n in range(100_001)]),
        lambda c: c.update(class_names=[["a"], "b", "c"]),
        lambda c: c.update(class_names={"a": 1, "b": 2, "c": 3}),
        lambda c: c.update(version=None),
        lambda c: c.update(version="one"),
        lambda c: c.update(requires="everything"),
        lambda c: c.update(info={"accuracy": float("nan")}),
        lambda c: c.update(info={"accuracy": 10**400}),
        lambda c: c.update(calibration=[1]),
    ],
)
def test_wrong_settings_inside_are_a_model_file_error(
    saved: Path, tmp_path: Path, change: Any
) -> None:
    with pytest.raises(fc.ModelFileError):
        fc.Predictor.load(altered(saved, tmp_path / "wrong.keras", flowercnn_json=_edit(change)))


def test_calibration_travels_with_the_model(predictor: fc.Predictor, tmp_path: Path) -> None:
    calibration = Calibration(
        1.5, applied=True, reason=None, set_scores=np.array([0.25, 0.5]), false_alarms=0.1
    )
    calibrated = predictor.with_calibration(calibration)
    loaded = fc.Predictor.load(calibrated.save(tmp_path / "model.keras"))
    assert loaded.calibration is not None
    assert loaded.calibration.to_dict() == calibration.to_dict()
    noted = loaded.with_info(note="x").calibration
    assert noted is loaded.calibration
    assert calibrated.with_calibration(None).calibration is None


@pytest.mark.parametrize("part", ["temperature", "set_scores", "familiarity"])
def test_a_damaged_calibration_is_a_model_file_error(
    saved: Path, tmp_path: Path, part: str
) -> None:
    def damage(document: dict[str, Any]) -> None:
        document["calibration"] = {
            "temperature": 1.0,
            "applied": False,
            "reason": None,
            "false_alarms": 0.05,
        }
        document["calibration"] |= {"set_scores": "", "familiarity": None}
        document["calibration"][part] = "no such thing"

    with pytest.raises(fc.ModelFileError, match="calibration"):
        fc.Predictor.load(altered(saved, tmp_path / "wrong.keras", flowercnn_json=_edit(damage)))


@pytest.mark.parametrize("info", [{"threshold": float("nan")}, {"threshold": {1, 2}}])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    predictor: fc.Predictor, tmp_path: Path, info: dict[str, Any]
) -> None:
    with pytest.raises(fc.ModelFileError, match="JSON values only"):
        predictor.with_info(**info).save(tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_a_network_with_weights_that_are_not_finite_is_not_saved(
    predictor: fc.Predictor, tmp_path: Path
) -> None:
    keras = import_keras()
    model = keras.models.clone_model(predictor.model)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(fc.ModelFileError, match="NaN"):
        fc.Predictor(model, predictor.class_names, predictor.preprocessing).save(
            tmp_path / "model.keras"
        )


def test_a_file_without_the_light_copy_is_half_as_large(
    saved: Path, predictor: fc.Predictor, tmp_path: Path
) -> None:
    heavy = predictor.save(tmp_path / "model.keras", light=False)
    assert heavy.stat().st_size < 0.6 * saved.stat().st_size
    assert np.array_equal(
        fc.Predictor.load(heavy).predict_proba(PIXELS), predictor.predict_proba(PIXELS)
    )


@pytest.mark.parametrize("version", sorted(path.stem for path in FILES.glob("*.keras")))
@pytest.mark.parametrize("runtime", ["keras", "litert"])
def test_files_of_released_versions_still_answer_the_same(version: str, runtime: Any) -> None:
    answers = json.loads((FILES / f"{version}.json").read_text())
    loaded = fc.Predictor.load(FILES / f"{version}.keras", runtime=runtime)
    pixels = (np.arange(2 * 16 * 16 * 3) * 7 % 256).astype(np.uint8).reshape(2, 16, 16, 3)
    assert list(loaded.class_names) == answers["class_names"]
    assert np.allclose(loaded.predict_proba(pixels), answers["probabilities"], atol=1e-5)


def test_the_present_version_has_left_a_file() -> None:
    assert (FILES / f"{fc.__version__}.keras").is_file()
