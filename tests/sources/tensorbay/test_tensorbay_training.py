"""Learning from TensorBay is learning from the same pictures in folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbay_server import ServedDataset, ServedFile, TensorBayServer

import flowercnn as fc

pytestmark = pytest.mark.versions


def test_the_weights_are_those_of_the_same_pictures_in_folders(
    serve: Callable[..., TensorBayServer], read: Callable[..., fc.TensorBay], tmp_path: Path
) -> None:
    files: dict[str, list[ServedFile]] = {"summer": [], "winter": []}
    for number, sample in enumerate(fc.SyntheticFlowers(per_class=8, num_classes=2)):
        assert callable(sample.image)
        file = ServedFile(f"{sample.key}.png", sample.image(), sample.label)
        segment = ("summer", "winter")[number % 2]
        files[segment].append(file)
        path = tmp_path / "photos" / str(sample.label) / f"{segment}-{Path(file.path).name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read())
    server = serve(ServedDataset("Flowers", files), fault_rate=0.1, faults=["500", "cut"])
    runs = []
    sources: list[fc.DataSource] = [read(server), fc.ImageFolder(tmp_path / "photos")]
    for number, source in enumerate(sources):
        out, checkpoints = tmp_path / f"{number}.keras", tmp_path / f"checkpoints{number}"
        settings: dict[str, Any] = {
            "model": "fast",
            "image_size": (32, 32),
            "epochs": 1,
            "seed": 3,
            "progress": False,
        }
        runs.append(fc.train(_Renamed(source), out=out, checkpoint_dir=checkpoints, **settings))
    evaluation = runs[0].evaluation
    assert evaluation is not None
    evaluation.save_report(tmp_path / "report.html")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"report.html", "0.keras", "checkpoints0"} <= {
        path.relative_to(tmp_path).parts[0] for path in written
    }
    assert not [path for path in written if server.key.encode() in path.read_bytes()]
    ours, theirs = (run.predictor.model.get_weights() for run in runs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


class _Renamed:
    """A source whose keys are made equal: ``summer/rose/1.png`` and ``rose/summer-1.png`` are the
    same picture."""

    def __init__(self, source: fc.DataSource) -> None:
        samples = [(self._renamed(sample.key), sample) for sample in source]
        self.samples = [
            fc.Sample(key, sample.label, sample.image)
            for key, sample in sorted(samples, key=lambda s: s[0])
        ]

    def __iter__(self) -> Iterator[fc.Sample]:
        return iter(self.samples)

    @staticmethod
    def _renamed(key: str) -> str:
        first, second, *rest = key.split("/")
        return f"{second}/{first}-{rest[0]}" if rest else key
