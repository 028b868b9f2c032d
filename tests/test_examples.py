"""Every example in the documentation and in the docstrings is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorbay_server import (
    EXAMPLE_CLASSES,
    ServedDataset,
    TensorBayServer,
    example_files,
    loopback_certificate,
)

import flowercnn as fc
from flowercnn.sources.tensorbay.credentials import KEY_VARIABLES

ROOT = Path(__file__).parents[1]
SLOW = ("backbones.md", "train.md")  # more than half a minute each
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "_build" not in path.parts
]
MODULES = sorted(module.name for module in pkgutil.walk_packages(fc.__path__, "flowercnn."))


def blocks(page: Path, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def examples(page: Path) -> list[str]:
    return blocks(page, "python")


@pytest.fixture(scope="module")
def tensorbay(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[TensorBayServer, TensorBayServer, Path]]:
    """A TensorBay on this machine, another one that speaks TLS, and the authority to trust."""
    files = {"train": example_files(60), "test": example_files(30, 60)}
    flowers = ServedDataset("Flower17-1", files, EXAMPLE_CLASSES, tags={"v1.0": files})
    context, authority = loopback_certificate(tmp_path_factory.mktemp("certificate"))
    with TensorBayServer([flowers]) as server, TensorBayServer([flowers], tls=context) as secured:
        yield server, secured, authority


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensorbay: tuple[TensorBayServer, TensorBayServer, Path],
) -> None:
    """A folder with ``photos/``, three species of drawn flowers, and a home whose profile leads to
    a TensorBay."""
    server, secured, authority = tensorbay
    (tmp_path / ".gasconfig").write_text(
        f"[profiles]\ndefault = \n\t{server.key}\n\t{server.url}\nwork = \n\t{server.key}\n"
    )
    (tmp_path / "our-authority.pem").write_bytes(authority.read_bytes())
    for name, value in {
        "HOME": tmp_path,
        "XDG_CACHE_HOME": tmp_path / "cache",
        "OUR_TENSORBAY": secured.url,
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for sample in fc.SyntheticFlowers(per_class=10, num_classes=3):
        path = tmp_path / "photos" / f"{sample.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sample.image
        assert callable(image)
        path.write_bytes(image())
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else [])
        for page in PAGES
        if examples(page)
    ],
)
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
    names = {
        **vars(module),
        "predictor": predictor,
        "image": next(iter(Path("photos").rglob("*.png"))),
    }
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=names):
        results.run(test)
    assert results.failures == 0


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = blocks(ROOT / "README.md", "sh")
    assert len(commands) == 2
    assert commands[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
