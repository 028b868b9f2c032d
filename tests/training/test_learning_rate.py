from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import SIZE

import flowercnn as fc
from flowercnn.training.learning_rate import read_suggestion


def test_a_learning_rate_is_found_and_plotted(coloured: fc.Dataset, tmp_path: Path) -> None:
    trainer = fc.Trainer("article", image_size=SIZE, batch_size=8)
    found = trainer.find_learning_rate(coloured, steps=60, progress=False)
    assert 1e-5 < found.suggestion < 0.1
    assert len(found.rates) == len(found.losses)
    assert found.plot(tmp_path / "rates.png").stat().st_size > 5000
    assert found == trainer.find_learning_rate(coloured, steps=60, progress=False)


def test_rates_so_high_that_nothing_is_left_are_said_to_be(coloured: fc.Dataset) -> None:
    trainer = fc.Trainer("article", image_size=SIZE)
    with pytest.raises(fc.TrainingError, match="Try lower rates"):
        trainer.find_learning_rate(coloured, lowest=1e30, highest=1e37, progress=False)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    with pytest.raises(fc.TrainingError, match="did not fall"):
        read_suggestion(np.geomspace(1e-4, 1, 30).tolist(), np.linspace(1, 9, 30).tolist())


@pytest.mark.parametrize(
    "settings",
    [{"lowest": 0}, {"lowest": 2}, {"steps": 5}, {"steps": 30.0}, {"highest": float("inf")}],
)
def test_rates_to_try_must_rise(coloured: fc.Dataset, settings: dict[str, Any]) -> None:
    with pytest.raises(fc.ConfigurationError, match="Rates must rise"):
        fc.Trainer().find_learning_rate(coloured, **settings)
