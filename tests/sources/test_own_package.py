"""The package of the page "Write your own source", made of nothing but the page."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import flowercnn as fc
from flowercnn.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-your-own-source.md"


def block(language: str, text: str) -> str:
    """The block of the page that has some text."""
    found = re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (only,) = [each for each in found if text in each]
    return str(only)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The three files, and the metadata pip makes of them."""
    folder = tmp_path / "herbarium-source"
    folder.mkdir()
    (folder / "herbarium_source.py").write_text(
        block("python", "class Herbarium"), encoding="utf-8"
    )
    (folder / "test_herbarium_source.py").write_text(
        block("py", "import Herbarium"), encoding="utf-8"
    )
    (folder / "pyproject.toml").write_text(block("toml", "[project]"), encoding="utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / "herbarium_source-1.0.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    points = project["entry-points"]["flowercnn.sources"]
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[flowercnn.sources]\n{lines}", encoding="utf-8")
    return folder


def test_its_own_tests_pass(package: Path) -> None:
    run = "sys.exit(pytest.main(['-p', 'no:cacheprovider']))"
    start = f"import sys, pytest; sys.path.insert(0, {str(package)!r}); {run}"
    done = subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, cwd=package, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_it_is_listed_on_the_command_line(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    done = CliRunner().invoke(main, ["sources"])
    assert re.search(r"^herbarium +herbarium-source$", done.output, re.MULTILINE), done.output


def test_it_trains_by_name_on_the_command_line(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(package)
    monkeypatch.chdir(tmp_path)
    folder = Path("some/folder")
    folder.mkdir(parents=True)
    for sample in fc.SyntheticFlowers(per_class=8, num_classes=2):
        assert callable(sample.image)
        (folder / (sample.key.replace("/", "-") + ".png")).write_bytes(sample.image())
    options = ["--model", "article", "--epochs", "1", "--image-size", "24", "24"]
    done = CliRunner().invoke(main, ["--quiet", "train", "herbarium:some/folder", *options])
    assert done.exit_code == 0, done.output
    assert "Test accuracy" in done.output
    assert Path("model.keras").is_file()
