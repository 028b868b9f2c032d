from __future__ import annotations

from pathlib import Path

import pytest

from flowercnn.atomic import can_be_written, replace_file


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
