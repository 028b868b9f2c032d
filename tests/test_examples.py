"""Every example in the documentation and in the docstrings is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import flowercnn as fc

ROOT = Path(__file__).parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "_build" not in path.parts]
MODULES = sorted(module.name for module in pkgutil.walk_packages(fc.__path__, "flowercnn."))


def blocks(page: Path, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def examples(page: Path) -> list[str]:
    return blocks(page, "python")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with ``photos/``: three species of drawn flowers."""
    for sample in fc.SyntheticFlowers(per_class=10, num_classes=3):
        path = tmp_path / "photos" / f"{sample.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sample.image
        assert callable(image)
        path.write_bytes(image())
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_the_examples_of_a_page_run_in_order(page: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for example in examples(page):
        exec(compile(example, page.name, "exec"), names)  # noqa: S102 - our own documentation


def test_there_are_examples_to_run() -> None:
    assert sum(bool(examples(page)) for page in PAGES) >= 4


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(name: str, predictor: fc.Predictor) -> None:
    module = importlib.import_module(name)
    names = {**vars(module), "predictor": predictor, "picture": next(iter(Path("photos").rglob("*.png")))}
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=names):
        results.run(test)
    assert results.failures == 0


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = blocks(ROOT / "README.md", "sh")
    assert len(commands) == 2
    assert commands[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
