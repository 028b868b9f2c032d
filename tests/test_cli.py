from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import flowercnn as fc
from flowercnn.cli import main

pytestmark = pytest.mark.versions


def run_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["--quiet", *map(str, arguments)])


@pytest.fixture(scope="module")
def model(run: fc.TrainingRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.predictor.save(tmp_path_factory.mktemp("cli") / "model.keras")


def test_train_writes_a_model_and_says_what_to_type_next(
    photo_folder: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "m.keras", tmp_path / "r.html"
    options = ["--model", "article", "--epochs", 1, "--image-size", 24, 24, "--batch-size", 8]
    result = run_command("train", photo_folder, "--out", out, "--report", report, *options)
    assert result.exit_code == 0, result.output
    assert "Test accuracy" in result.output
    assert f"Next: flowercnn predict {out}" in result.output
    assert out.is_file()
    assert report.is_file()


def test_predict_answers_for_files_and_folders(model: Path, photo_folder: Path) -> None:
    result = run_command("predict", model, photo_folder / "red" / "0.png", photo_folder / "blue")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith(f"{photo_folder / 'red' / '0.png'}\t")


def test_the_command_line_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowercnn", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"flowercnn, version {fc.__version__}\n"


def test_names_that_the_terminal_cannot_show_are_escaped() -> None:
    code = "from flowercnn.cli import main; main(['audit', 'no/花'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
    )
    assert b"no/\\u82b1" in done.stderr


def test_predict_speaks_json(model: Path, photo_folder: Path) -> None:
    result = run_command("predict", model, photo_folder / "red" / "0.png", "--json", "--top", 2)
    answer = json.loads(result.output)
    assert len(answer["predictions"]) == 2
    assert answer["error"] is None


def test_predict_goes_on_after_a_bad_picture_and_says_so(model: Path, photo_folder: Path) -> None:
    result = run_command("predict", model, "gone.jpg", photo_folder / "red" / "0.png")
    assert result.exit_code == 1
    assert "gone.jpg\terror:" in result.output
    assert "red" in result.output
    assert "1 image could not be used" in result.output


def test_names_of_files_forge_no_lines_of_the_terminal(model: Path) -> None:
    forged = "gone\n\x1b(Bgood.jpg\tred 100.0%"
    result = run_command("predict", model, forged)
    assert "gone\\n\\x1b(Bgood.jpg\\tred 100.0%\terror:" in result.output
    assert "\x1b" not in result.output + run_command("predict", model, forged + "[*]").output


def test_evaluate_prints_every_class(model: Path, photo_folder: Path, tmp_path: Path) -> None:
    result = run_command("evaluate", model, photo_folder, "--report", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("accuracy ")
    assert all(f"  {name} " in result.output for name in ("red", "green", "blue"))
    assert json.loads((tmp_path / "r.json").read_text())["samples"] == 30


def test_audit_tells_and_changes_nothing(photo_folder: Path) -> None:
    assert run_command("audit", photo_folder).exit_code == 0
    (photo_folder / "red" / "copy.png").write_bytes((photo_folder / "blue" / "0.png").read_bytes())
    (photo_folder / "red" / "broken.jpg").write_bytes(b"x")
    result = run_command("audit", photo_folder)
    assert result.exit_code == 1
    assert "blue/0.png = red/copy.png" in result.output
    assert "red/broken.jpg" in result.output


def test_keys_forge_no_lines_of_an_audit(photo_folder: Path) -> None:
    (photo_folder / "red" / "0\nNothing found.png").write_bytes(b"x")
    assert "0\\nNothing found.png" in run_command("audit", photo_folder).output


@pytest.mark.parametrize("report", ["r.txt", f"{__file__}/r.html"])
def test_a_report_that_could_not_be_written_is_found_before_anything_else(
    model: Path, report: str
) -> None:
    for command in (("train", "no such folder"), ("evaluate", model, "no such folder")):
        result = run_command(*command, "--report", report)
        assert result.exit_code == 2
        assert "'--report'" in result.output


def test_a_report_without_test_pictures_is_not_silently_left_out(
    photo_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", "article", "--epochs", 1, "--image-size", 24, 24, "--test", 0]
    result = run_command(
        "train",
        photo_folder,
        "--out",
        tmp_path / "m.keras",
        "--report",
        tmp_path / "r.html",
        *options,
    )
    assert result.exit_code == 0
    assert "No report" in result.output


def test_a_demo_cannot_go_into_a_file() -> None:
    assert run_command("demo", "--out", __file__).exit_code == 2


def test_export_writes_the_other_format(model: Path, tmp_path: Path) -> None:
    result = run_command("export", model, tmp_path / "m.keras")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "m.keras").is_file()


def test_models_lists_the_names() -> None:
    assert {"article", "fast"} <= {
        line.split()[0] for line in run_command("models").output.splitlines()
    }


def test_a_file_of_weights_can_be_named_for_a_backbone(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowercnn.models.backend import import_keras

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    net = import_keras().applications.MobileNet(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    weights, out = tmp_path / "mobilenet.weights.h5", tmp_path / "m.keras"
    import_keras().Model(net.input, net.get_layer("conv_pw_3_relu").output).save_weights(weights)
    options = ["--weights", weights, "--image-size", 32, 32, "--out", out]
    result = run_command("train", photo_folder, "--model", "backbone:mobilenet", *options)
    assert result.exit_code == 0, result.output
    assert fc.Predictor.load(out).info["model"] == "backbone:mobilenet"
    result = run_command("train", photo_folder, "--model", "fast", *options)
    assert "Received: 'weights'" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "no such folder"),
        ("train", ".", "--model", "fst"),
        ("predict", "no-such-model.keras", "x.jpg"),
        ("evaluate", "no-such-model.keras", "."),
        ("audit", "no such folder"),
        ("demo", "--out", f"{__file__}/demo"),
    ],
)
def test_errors_are_a_sentence_and_no_traceback(arguments: tuple[str, ...]) -> None:
    result = run_command(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_the_demo_leaves_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowercnn import demo

    monkeypatch.setattr(demo, "_PER_CLASS", 6)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    result = run_command("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"model.keras", "history.png", "predictions.png", "report.html", "report.json"}
    assert result.output.count("really") == 3
    assert "Test accuracy" in result.output
    assert "Next: flowercnn train" in result.output
