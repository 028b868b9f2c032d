"""Demo: the complete workflow on drawn flowers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowercnn._utils import make_folder
from flowercnn.evaluation import prediction_grid, save_figure
from flowercnn.prediction import Predictor
from flowercnn.sources import Sample, SyntheticFlowers
from flowercnn.workflow import train

__all__ = ["run_demo"]

_PER_CLASS = 60
_IMAGE_SIZE = (64, 64)
_EPOCHS = 16
_GRID = 20
_EXAMPLES = 3


def run_demo(folder: Path, *, seed: int, progress: bool, say: Callable[[str], object]) -> None:
    """Draw flowers, train on them, and write model, plots and report to ``folder``.

    Args:
        folder: Created if needed; files of the same names in it are replaced.
        seed: Seed of everything.
        progress: Whether to show progress bars.
        say: Called with each line of the result.

    Raises:
        OutputError: If the folder cannot be created.
    """
    make_folder(folder)
    model = folder / "model.keras"
    run = train(
        SyntheticFlowers(per_class=_PER_CLASS, seed=seed),
        image_size=_IMAGE_SIZE,
        epochs=_EPOCHS,
        seed=seed,
        out=model,
        progress=progress,
    )
    evaluation, predictor = run.evaluation, run.predictor
    assert evaluation is not None  # noqa: S101 - there is a test part
    run.history.plot(folder / "history.png")
    evaluation.save_report(folder / "report.html")
    samples = evaluation.samples
    positions = np.linspace(0, len(samples) - 1, _GRID).round().astype(int)
    chosen = [samples[index] for index in positions]
    save_prediction_grid(folder / "predictions.png", predictor, chosen)
    say(f"Test {evaluation.summary()}")
    for sample, prediction in zip(chosen, predictor.predict(chosen[:_EXAMPLES]), strict=False):
        answer = f"{prediction.label or 'unknown'} ({prediction.confidence:.0%})"
        say(f"  {sample.key}: {answer}, really {sample.label}")
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    say(f"Trained in {run.seconds['total']:.0f} s. See {folder}: {names}")
    say(f"Next: flowercnn train FOLDER   or   flowercnn predict {model} IMAGE...")


def save_prediction_grid(path: Path, predictor: Predictor, samples: list[Sample]) -> Path:
    """Save a figure of samples with labels and predictions, and return its path."""
    predictions = predictor.predict(samples)
    figure = prediction_grid(
        [predictor.preprocessing.decode(sample.image) for sample in samples],
        [sample.label or "" for sample in samples],
        [prediction.label or "unknown" for prediction in predictions],
        [prediction.confidence for prediction in predictions],
    )
    return save_figure(figure, path)
