"""How fast an audit is, against decoding alone: ``python tests/benchmarks/audit.py FOLDER [COUNT]
[SIDE]``.

Makes COUNT different pictures of SIDE pixels, each a part of a photograph of FOLDER, then decodes
and audits them in turn, three times, and prints the medians. Decoding alone is by Pillow, at full
size, in as many threads.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import flowercnn as fc
from flowercnn._utils.parallel import cpu_count, ordered_map
from flowercnn.sources.base import Sample

ERRAND = 16  # pictures handed to a thread at a time, as the audit does


def make_pictures(photographs: Path, folder: Path, count: int, side: int) -> None:
    paths = sorted(photographs.glob("*/*.jpg"))

    def make(number: int) -> None:
        random = np.random.default_rng(number)
        original = Image.open(paths[number % len(paths)]).convert("RGB")
        width, height = original.size
        share = random.uniform(0.4, 0.7)
        left, top = random.uniform(0, 1 - share, size=2) * (width, height)
        part = original.crop(
            (int(left), int(top), int(left + share * width), int(top + share * height))
        )
        if random.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        part.resize((side, side)).save(folder / "ab"[number % 2] / f"{number}.jpg", quality=90)

    for name in "ab":
        (folder / name).mkdir()
    list(ordered_map(make, range(count), workers=cpu_count(), window=4 * cpu_count()))


def decode_fully(samples: Sequence[Sample]) -> None:
    for sample in samples:
        with Image.open(sample.image) as image:  # type: ignore[arg-type]  # a path: the source is a folder
            image.load()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    photographs = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    side = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(photographs, Path(folder), count, side)
        dataset = fc.Dataset.from_source(fc.ImageFolder(folder))
        errands = [dataset.samples[start : start + ERRAND] for start in range(0, count, ERRAND)]
        times: dict[str, list[float]] = {"decode": [], "audit": []}
        for _ in range(3):
            decoding = ordered_map(
                decode_fully, errands, workers=cpu_count(), window=4 * cpu_count()
            )
            times["decode"].append(seconds(lambda decoding=decoding: list(decoding)))  # type: ignore[misc]
            fresh = fc.Dataset(dataset.samples, dataset.encoder)
            times["audit"].append(seconds(lambda fresh=fresh: fresh.audit(progress=False)))  # type: ignore[misc]
    alone, audited = (statistics.median(values) for values in times.values())
    print(
        f"{count} pictures of {side} x {side}: decoding alone {alone:.1f} s, audit {audited:.1f} s"
    )
    print(f"the audit has {alone / audited:.2f} of the speed of decoding alone")


if __name__ == "__main__":
    main()
