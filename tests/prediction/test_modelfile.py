from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowercnn as fc
from flowercnn.models.keras3 import import_keras

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


def test_a_new_process_predicts_the_same(saved: Path, predictor: fc.Predictor, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = (
        "import sys, numpy as np, flowercnn as fc\n"
        "p = fc.Predictor.load(sys.argv[1])\n"
        "np.save(sys.argv[3], p.predict_proba(np.load(sys.argv[2])))"
    )
    arguments = [saved, tmp_path / "pixels.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), predictor.predict_proba(PIXELS))


def test_stock_keras_opens_the_file_without_flowercnn(saved: Path, predictor: fc.Predictor, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    code = (
        "import sys; sys.modules['flowercnn'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))"
    )
    arguments = [saved, tmp_path / "pixels.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
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
    assert fc.Predictor.load(predictor.export(tmp_path / "a.h5")).class_names == predictor.class_names
    assert predictor.export(tmp_path / "b", format="keras").name == "b.keras"
    with pytest.raises(fc.ConfigurationError, match="format must be"):
        predictor.export(tmp_path / "c.onnx")


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
    for path in (tmp_path / "gone.keras", tmp_path):
        with pytest.raises(fc.ModelFileError, match="no such file"):
            fc.Predictor.load(path)


def test_a_keras_model_of_others_is_refused_with_the_way_out(predictor: fc.Predictor, tmp_path: Path) -> None:
    predictor.model.save(tmp_path / "plain.keras")
    with pytest.raises(fc.ModelFileError, match="no class names.*flowercnn.Predictor"):
        fc.Predictor.load(tmp_path / "plain.keras")


def altered(saved: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model file with some members changed by functions, removed (None) or added (bytes)."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            change = changes.pop(name.replace(".", "_"), lambda content: content)
            if change is not None:
                new.writestr(name, change(old.read(name)))
        for name, content in changes.items():
            new.writestr(name, content)
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
    with pytest.raises(fc.ModelFileError, match=f"refused.*{reason}"):
        fc.Predictor.load(altered(saved, tmp_path / "evil.keras", config_json=_edit(change)))


@pytest.mark.parametrize("member", ["../evil.txt", "assets/x", "model.weights.npz"])
def test_members_that_do_not_belong_are_refused(saved: Path, tmp_path: Path, member: str) -> None:
    with pytest.raises(fc.ModelFileError, match="other members"):
        fc.Predictor.load(altered(saved, tmp_path / "evil.keras", **{member: b"x"}))


def test_compressed_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(fc.ModelFileError, match="compressed"):
        fc.Predictor.load(tmp_path / "bomb.keras")


def test_weights_that_lie_elsewhere_are_refused(saved: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.h5"
    with h5py.File(weights, "w") as file:
        file["evil"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(fc.ModelFileError, match="link to another place"):
        fc.Predictor.load(
            altered(saved, tmp_path / "evil.keras", model_weights_h5=lambda _content: weights.read_bytes())
        )


def test_a_newer_format_is_said_to_be_one(saved: Path, tmp_path: Path) -> None:
    newer = altered(saved, tmp_path / "newer.keras", flowercnn_json=_edit(lambda c: c.update(version=99)))
    with pytest.raises(fc.ModelFileError, match="format version 99"):
        fc.Predictor.load(newer)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(class_names=["a"]),
        lambda c: c.update(class_names=["a", "a", "b"]),
        lambda c: c.update(class_names=None),
        lambda c: c["preprocessing"].update(image_size=[0, 0]),
        lambda c: c["preprocessing"].update(cache_dir="/"),
        lambda c: c.pop("preprocessing"),
    ],
)
def test_wrong_settings_inside_are_a_model_file_error(saved: Path, tmp_path: Path, change: Any) -> None:
    with pytest.raises(fc.ModelFileError):
        fc.Predictor.load(altered(saved, tmp_path / "wrong.keras", flowercnn_json=_edit(change)))


@given(position=st.floats(0, 1), junk=st.binary(min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_load_or_are_refused(saved: Path, tmp_path: Path, position: float, junk: bytes) -> None:
    content = saved.read_bytes()
    start = int(position * len(content))
    mutated = tmp_path / "mutated.keras"
    mutated.write_bytes(content[:start] + junk + content[start + len(junk) :])
    try:
        assert fc.Predictor.load(mutated).class_names
    except fc.ModelFileError:
        return
