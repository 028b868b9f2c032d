"""Feature vectors per second against ``predict`` of stock Keras on the same backbone, in float32,
in the same run.

    python tests/benchmarks/features.py [backbone] [weights file]

Prints medians of interleaved rounds, and the largest difference of the vectors.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from flowercnn.models.backbone_table import BACKBONES
from flowercnn.models.backbones import build_backbone
from flowercnn.models.backend import import_keras
from flowercnn.models.graph import head_of
from flowercnn.prediction.similar import Extractor

PICTURES, ROUNDS = 96, 7


def main(name: str = "mobilenet", weights: str | None = None) -> None:
    keras = import_keras()
    side = BACKBONES[name].side
    model = build_backbone(
        name, (side, side), 17, weights=None if weights is None else Path(weights)
    )
    stock = keras.Model(model.inputs[0], head_of(model).input)
    extractor = Extractor(model, images=1000)
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, side, side, 3), dtype=np.uint8)
    runs: dict[str, Callable[[], Any]] = {
        "stock predict": lambda: stock.predict(pixels, verbose=0),
        "flowercnn": lambda: extractor(pixels),
    }
    results = {label: run() for label, run in runs.items()}  # compiles
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(ROUNDS):
        for label, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[label].append(time.perf_counter() - started)
    medians = {label: float(np.median(times)) for label, times in seconds.items()}
    for label, median in medians.items():
        print(f"{label:14} {PICTURES / median:7.1f} img/s")
    print(f"ratio {medians['stock predict'] / medians['flowercnn']:.2f}")
    print(f"largest difference {np.abs(results['flowercnn'] - results['stock predict']).max():.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
