from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowercnn import (
    ConfigurationError,
    Dataset,
    Flower17,
    Flower102,
    ImageFolder,
    InMemory,
    SourceError,
    SyntheticFlowers,
    UnknownNameError,
    sources,
)
from flowercnn.cli import main
from flowercnn.sources import as_source, list_sources, open_source
from flowercnn.sources.registry import RegisteredSource, registered_sources

Install = Callable[..., None]

GOOD = """
from flowercnn import Sample

class Garden:
    def __init__(self, where):
        self.where = where
    def __iter__(self):
        yield Sample(key="1", label=self.where, image=b"")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with one module and entry points, as pip leaves it."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def write(package: str, module: str, **points: str) -> None:
        name = package.replace("-", "_")
        (site / f"{name}.py").write_text(module, encoding="utf-8")
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8"
        )
        lines = "".join(f"{scheme} = {name}:{what}\n" for scheme, what in points.items())
        (info / "entry_points.txt").write_text(f"[flowercnn.sources]\n{lines}", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_the_built_in_schemes_are_listed() -> None:
    assert {"flower102", "flower17", "folder", "synthetic", "table", "tensorbay"} <= set(
        list_sources()
    )


def test_folders_tables_and_drawn_flowers_are_opened_by_name(tmp_path: Path) -> None:
    assert open_source("folder:photos") == ImageFolder("photos")
    assert open_source("flower17:") == Flower17()
    assert open_source("flower17:photos") == Flower17("photos")
    assert open_source("flower102:photos") == Flower102("photos")
    assert repr(open_source("synthetic:")) == repr(SyntheticFlowers())
    assert repr(open_source("synthetic:7")) == repr(SyntheticFlowers(7))


@pytest.mark.parametrize(
    "uri", ["folder:", "table:", "synthetic:many", "synthetic:-1", "synthetic:0"]
)
def test_what_a_scheme_cannot_open_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="Received"):
        open_source(uri)


@pytest.mark.parametrize("uri", ["photos", "", ":photos", None, 3])
def test_what_is_no_uri_is_refused(uri: Any) -> None:
    with pytest.raises(ConfigurationError, match="uri must look like 'scheme:rest'"):
        open_source(uri)


def test_an_unknown_scheme_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'folder'\? Received: 'foldr:x'"):
        open_source("foldr:x")


def test_a_package_adds_a_scheme(install: Install) -> None:
    install("garden-photos", GOOD, garden="Garden")
    assert "garden" in list_sources()
    assert [sample.label for sample in open_source("garden:Kew:north")] == ["Kew:north"]
    assert [sample.label for sample in as_source("garden:Kew")] == ["Kew"]


def test_a_broken_package_is_named(install: Install) -> None:
    install("broken-photos", "import nowhere_to_be_found", broken="Broken")
    with pytest.raises(
        SourceError, match=r"'broken' from broken-photos failed \(ModuleNotFoundError: .*nowhere"
    ):
        open_source("broken:x")


def test_a_package_that_fails_is_named(install: Install) -> None:
    install("failing-photos", "def fail(rest):\n    return 1 / 0", failing="fail")
    with pytest.raises(
        SourceError, match=r"failing-photos failed \(ZeroDivisionError: division by zero\)"
    ):
        open_source("failing:x")


def test_a_package_whose_function_is_missing_is_named(install: Install) -> None:
    install("hollow-photos", "", hollow="missing")
    with pytest.raises(SourceError, match=r"hollow-photos failed \(AttributeError"):
        open_source("hollow:x")


def test_a_broken_package_does_not_break_the_others(install: Install) -> None:
    install("broken-photos", "raise RuntimeError", broken="Broken")
    install("garden-photos", GOOD, garden="Garden")
    assert {"broken", "garden"} <= set(list_sources())
    assert len(list(open_source("garden:Kew"))) == 1
    assert open_source("folder:photos") == ImageFolder("photos")


def test_the_packages_of_all_schemes_and_what_is_wrong_with_them_are_known(
    install: Install,
) -> None:
    install("broken-photos", "raise RuntimeError('no')", broken="Broken")
    install("leaving-photos", "raise SystemExit", leaving="Left")
    install("garden-photos", GOOD, garden="Garden", folder="Garden")
    install("other-photos", GOOD, twice="Garden")
    install("third-photos", GOOD, twice="Garden")
    known = {(each.scheme, each.package): each.problem or "" for each in registered_sources()}
    assert known["folder", "flowercnn"] == known["garden", "garden-photos"] == ""
    assert (
        "'broken' from broken-photos failed (RuntimeError: no)" in known["broken", "broken-photos"]
    )
    assert (
        "'leaving' from leaving-photos failed (SystemExit: )" in known["leaving", "leaving-photos"]
    )
    assert "the scheme is built in" in known["folder", "garden-photos"]
    assert "Remove all but one" in known["twice", "other-photos, third-photos"]


def test_the_command_line_lists_schemes_with_their_packages(install: Install) -> None:
    install("broken-photos", "import nowhere_to_be_found", broken="Broken")
    install("garden-photos", GOOD, garden="Garden")
    done = CliRunner().invoke(main, ["sources"])
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.output.splitlines()}
    assert lines["garden"] == "garden-photos"
    assert lines["folder"] == "flowercnn"
    assert "broken-photos failed (ModuleNotFoundError" in lines["broken"]


def test_a_package_with_damaged_metadata_breaks_no_other(install: Install, tmp_path: Path) -> None:
    install("garden-photos", GOOD, garden="Garden")
    info = tmp_path / "site-packages" / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(
        "[flowercnn.sources]\nno equals sign\n", encoding="utf-8"
    )
    assert len(list(open_source("garden:Kew"))) == 1
    assert RegisteredSource("garden", "garden-photos") in registered_sources()


def test_listing_imports_no_package(install: Install) -> None:
    install("broken-photos", "raise RuntimeError", broken="Broken")
    list_sources()
    assert "broken_photos" not in sys.modules


@pytest.mark.parametrize("result", ["None", "'photos'", "3"])
def test_a_package_must_return_a_source(install: Install, result: str) -> None:
    install("odd-photos", f"def make(rest):\n    return {result}", odd="make")
    with pytest.raises(SourceError, match="'odd' from odd-photos must return a source. Received: "):
        open_source("odd:x")


def test_what_a_package_says_is_wrong_with_its_argument_is_said(install: Install) -> None:
    lines = "def make(rest):\n    raise ConfigurationError('a year, please')"
    module = f"from flowercnn import ConfigurationError\n{lines}"
    install("picky-photos", module, picky="make")
    with pytest.raises(ConfigurationError, match="^a year, please$"):
        open_source("picky:x")


def test_a_package_cannot_replace_a_built_in_scheme(install: Install) -> None:
    install("garden-photos", GOOD, folder="Garden")
    assert open_source("folder:photos") == ImageFolder("photos")


def test_two_packages_with_one_scheme_are_both_named(install: Install) -> None:
    install("garden-photos", GOOD, garden="Garden")
    install("other-photos", GOOD, garden="Garden")
    with pytest.raises(SourceError, match="registered by garden-photos, other-photos"):
        open_source("garden:Kew")


def test_a_source_is_its_own_source() -> None:
    source = InMemory([b""], ["rose"])
    assert as_source(source) is source


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    assert as_source(tmp_path) == as_source(str(tmp_path)) == ImageFolder(str(tmp_path))


def test_a_path_that_is_not_there_is_a_folder_that_says_so() -> None:
    with pytest.raises(SourceError, match="nowhere: not a folder"):
        list(as_source("nowhere"))


def test_an_archive_is_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("rose/1.png", b"")
    assert [sample.key for sample in as_source(tmp_path / "photos.zip")] == ["rose/1.png"]


def test_a_folder_with_a_colon_in_its_name_goes_before_a_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip(reason="Windows has no such names")
    (tmp_path / "synthetic:3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert as_source("synthetic:3") == ImageFolder("synthetic:3")


def test_a_drive_of_windows_is_no_scheme() -> None:
    assert as_source("C:\\photos") == ImageFolder("C:\\photos")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigurationError, match=r"Received: the file .*notes\.txt', \.txt"):
        as_source(tmp_path / "notes.txt")


@pytest.mark.parametrize("value", [None, 3, b"photos"])
def test_what_is_no_source_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="source must be a source such as"):
        as_source(value)


@pytest.mark.parametrize("name", sources.__all__)
def test_every_name_in_sources_can_be_imported_and_says_what_it_is(name: str) -> None:
    assert getattr(sources, name).__doc__ or name == "ImageInput"


def test_importing_sources_imports_nothing_heavy() -> None:
    heavy = (
        "'numpy', 'PIL', 'pandas', 'pyarrow', 'polars', 'fsspec', 'datasets', 'requests', 'scipy'"
    )
    heavy += ", 'tensorflow'"
    code = f"import sys, flowercnn.sources; print(*{{{heavy}}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_listing_a_folder_and_a_table_imports_no_extra(plant: Callable[..., Path]) -> None:
    root = plant("rose/1.png")
    (root / "t.csv").write_text("image,label\nrose/1.png,rose\n")
    heavy = "'pandas', 'pyarrow', 'polars', 'fsspec', 'datasets', 'requests', 'scipy'"
    heavy += ", 'tensorflow', 'sklearn'"
    code = (
        f"import sys, flowercnn as fc; list(fc.ImageFolder({str(root)!r}))\n"
        f"list(fc.ImageTable({str(root / 't.csv')!r}, image='image', label='label'))\n"
        f"print(*{{{heavy}}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_dataset_is_taken_where_a_source_is() -> None:
    dataset = Dataset.from_source(SyntheticFlowers(per_class=1, num_classes=2))
    assert as_source(dataset) is dataset
