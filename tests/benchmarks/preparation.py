"""From JPEGs to pictures ready for training, against ``image_dataset_from_directory`` plus
``cache``, in one run.

    python tests/benchmarks/preparation.py FOLDER

Both decode the folder to the size ``fast`` uses, cut to shape, in turns; medians are printed. Then
ours once more with a cache on disk: the first and the second run.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.models.registry import recipe_of

ROUNDS = 3


def main(folder: str) -> None:
    keras = import_keras()
    dataset = fc.Dataset.from_source(fc.ImageFolder(folder))
    image_size = recipe_of("fast").image_size

    def ours(preprocessing: fc.Preprocessing) -> None:
        preprocessing.load(dataset.samples, progress=False)

    def of_keras() -> None:
        pictures = keras.utils.image_dataset_from_directory(
            folder, image_size=image_size, batch_size=32, crop_to_aspect_ratio=True, verbose=False
        ).cache()
        for _ in pictures:
            pass

    plain = fc.Preprocessing(image_size=image_size)
    runs: dict[str, Callable[[], None]] = {"flowercnn": lambda: ours(plain), "keras": of_keras}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            seconds[name].append(timed(run))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:20} {median:6.2f} s  {len(dataset) / median:6.0f} pictures/s")
    print(f"ratio {medians['keras'] / medians['flowercnn']:.2f}")
    with tempfile.TemporaryDirectory() as cache:
        cached = plain.replace(cache_dir=cache)
        print(f"with a cache on disk: first run {timed(lambda: ours(cached)):.2f} s, ", end="")
        print(f"second {timed(lambda: ours(cached)):.2f} s")


def timed(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1])
