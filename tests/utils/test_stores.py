from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowercnn._utils import entry_digest, read_arrays, read_entry, write_arrays, write_entry


def test_arrays_come_back_with_what_is_said_about_them(tmp_path: Path) -> None:
    arrays = {"keys": np.array(["a", "ü"]), "rows:0000": np.arange(6.0).reshape(2, 3)}
    path = write_arrays(tmp_path / "deep" / "store.npz", arrays, {"epochs": 3})
    about, read = read_arrays(path)
    assert about == {"epochs": 3}
    assert set(read) == set(arrays)
    assert all(np.array_equal(read[name], array) for name, array in arrays.items())
    assert read_arrays(write_arrays(path, {}))[0] == {}


@pytest.mark.parametrize("arrays", [{"about": np.zeros(1)}, {"a": np.array([object()])}])
def test_arrays_that_would_need_pickle_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be of numbers or text"):
        write_arrays(tmp_path / "store.npz", arrays)
    assert not list(tmp_path.iterdir())


def test_damaged_arrays_say_so(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "store.npz", {"a": np.zeros(100)}, {})
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[:-40], whole[:100] + b"x" + whole[101:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            read_arrays(path)
    np.savez(path, a=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(path)
    np.savez(path, about=np.array("[]"))
    with pytest.raises(ValueError, match="must be a JSON object"):
        read_arrays(path)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "other.npz")


def test_a_cache_entry_is_verified(tmp_path: Path) -> None:
    path = write_entry(tmp_path / "ab" / "entry", b"content")
    assert read_entry(path) == b"content"
    assert path.stat().st_size == len(b"content") + entry_digest().digest_size
    for damaged in (b"", path.read_bytes()[:-1], b"C" + path.read_bytes()[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            read_entry(path)
