"""How fast sources are listed, beside `keras.utils.image_dataset_from_directory` in the same run.

Run it with ``python tests/benchmarks/listing.py``. A million samples are listed in a process of
their own, so that its peak of memory is theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowercnn import Dataset, ImageFolder, ImageTable, Sample

CLASSES = 20
MILLION = 1_000_000


@dataclass(frozen=True)
class Generated:
    """A source that makes up its samples."""

    count: int

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self.count):
            name = f"class_{number % 1000:03d}"
            yield Sample(f"{name}/{number:07d}.jpg", name, f"/photos/{name}/{number:07d}.jpg")


def main() -> None:
    """Print the medians and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--million", action="store_true", help="List a million samples and print time and memory."
    )
    arguments = parser.parse_args()
    if arguments.million:
        print(json.dumps(list_a_million()))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder), arguments.files, arguments.runs)
    command = [sys.executable, __file__, "--million"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(json.dumps({**figures, "million": json.loads(done.stdout)}, indent=1))


def compare(folder: Path, count: int, runs: int) -> dict[str, object]:
    """List a folder and a table of as many files with both libraries, in turn."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    root, table = folder / "photos", folder / "photos.csv"
    write_files(root, table, count)

    def list_with_keras() -> int:
        dataset = keras.utils.image_dataset_from_directory(root, shuffle=False, verbose=False)
        return len(dataset.file_paths)

    contestants: dict[str, Callable[[], int]] = {
        "keras": list_with_keras,
        "folder": lambda: len(Dataset.from_source(ImageFolder(root))),
        "table": lambda: len(
            Dataset.from_source(ImageTable(table, image="image", label="label", root=root))
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for name in list(contestants) * (1 + runs):  # the first round warms caches up
        started = time.perf_counter()
        found = contestants[name]()
        seconds[name].append(time.perf_counter() - started)
        if found != count:
            raise SystemExit(f"{name} found {found} of {count} files")
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    return {
        "files": count,
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_as_fast_as_keras": {
            name: round(medians["keras"] / medians[name], 1) for name in ("folder", "table")
        },
    }


def write_files(root: Path, table: Path, count: int) -> None:
    """Write empty files in class folders, and a table of them."""
    rows = ["image,label"]
    for label in range(CLASSES):
        (root / f"class_{label:02d}").mkdir(parents=True)
    for number in range(count):
        name = f"class_{number % CLASSES:02d}"
        (root / name / f"{number:06d}.jpg").touch()
        rows.append(f"{name}/{number:06d}.jpg,{name}")
    table.write_text("\n".join(rows), encoding="utf-8")


def list_a_million() -> dict[str, float]:
    """Return the seconds and the peak of memory in megabytes of indexing a million samples."""
    started = time.perf_counter()
    dataset = Dataset.from_source(Generated(MILLION))
    seconds = time.perf_counter() - started
    if len(dataset) != MILLION:
        raise SystemExit(f"found {len(dataset)} of {MILLION} samples")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return {"samples": MILLION, "seconds": round(seconds, 1), "peak_mb": round(peak / 1e6)}


if __name__ == "__main__":
    main()
