from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowercnn import Preprocessing

pytestmark = pytest.mark.versions

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from flowercnn.saving import savedmodel  # noqa: E402 - it needs TensorFlow


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(savedmodel, "constant_function", lambda *_, **__: None)
    monkeypatch.setattr(tf.saved_model, "save", full)
    description: Any = SimpleNamespace(
        class_names=("a", "b"), preprocessing=Preprocessing(image_size=(8, 8))
    )
    with pytest.raises(OSError, match="ResourceExhaustedError: No space left on device"):
        savedmodel.write_saved_model(tmp_path, model=None, description=description)
