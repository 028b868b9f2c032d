from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

import flowercnn as fc
from flowercnn._utils.files import (
    can_be_written,
    make_folder,
    replace_file,
    replace_folder,
    write_result,
)
from flowercnn._utils.interrupts import interrupts_deferred
from flowercnn.errors import OutputError


def test_a_file_is_written_with_the_folders_it_needs(tmp_path: Path) -> None:
    path = replace_file(tmp_path / "a" / "b.txt", lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "model.txt"
    target.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_file(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_result_that_cannot_be_written_is_an_error_of_ours_and_of_the_system(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "file" / "x.txt", tmp_path / "folder.txt"):
        with pytest.raises(
            fc.FlowerCNNError, match="cannot be written .* Give the name of a file in"
        ) as caught:
            write_result(path, lambda temporary: temporary.touch())
        assert isinstance(caught.value, OSError)
    with pytest.raises(OutputError, match="Give the name of a folder in"):
        make_folder(tmp_path / "file" / "folder")


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    suffixes = []

    def write(temporary: Path) -> None:
        suffixes.append(temporary.suffix)
        temporary.touch()

    replace_file(tmp_path / "x.keras", write)
    assert suffixes == [".keras"]


def test_it_can_be_told_beforehand_whether_a_file_could_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert can_be_written(tmp_path / "new" / "folder" / "x.keras")
    assert can_be_written(tmp_path / "file")
    assert not can_be_written(tmp_path / "file" / "x.keras")
    assert not can_be_written(tmp_path)


def test_where_nothing_is_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Path, "exists", lambda _: False
    )  # as on a drive of Windows that is not there
    assert not can_be_written("x.keras")


def test_in_a_folder_that_was_removed_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    assert not can_be_written("x.keras")


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert (
        replace_file(tmp_path / "link.txt", lambda temporary: temporary.write_text("new"))
        == tmp_path / "link.txt"
    )
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_who_may_read_a_file_may_read_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    target.chmod(0o640)
    replace_file(target, lambda temporary: temporary.write_text("new"))
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 244 + ".keras", "x." + "y" * 248])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path, name: str) -> None:
    assert replace_file(tmp_path / name, Path.touch).is_file()
    assert replace_folder(tmp_path / f"f{name[1:]}", lambda folder: (folder / "a").touch()).is_dir()


def test_ctrl_c_between_two_folders_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_folder(tmp_path / "model", lambda folder: (folder / "a").write_text("old"))
    rename, done = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "model", lambda folder: (folder / "a").write_text("new"))
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_handler_that_is_not_pythons_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda _: None)
        with interrupts_deferred() as came:
            patched.undo()
            assert signal.getsignal(signal.SIGINT) is before
    assert came == []


def test_a_tilde_is_the_home_folder_for_all_that_is_written_and_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, predictor: fc.Predictor, photo_folder: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    predictor.save("~/models/m.keras")
    assert (tmp_path / "models" / "m.keras").is_file()
    first = f"~/{photo_folder.relative_to(tmp_path)}/red/0.png"
    assert fc.Predictor.load("~/models/m.keras").predict_one(first).label is not None
    assert can_be_written("~/new/m.keras")
