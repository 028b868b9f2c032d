"""How fast an audit is, against decoding alone: ``python tests/benchmarks/audit.py FOLDER [COUNT] [SIDE]``.

Makes COUNT different pictures of SIDE pixels by blending photographs of FOLDER, then decodes and audits them in turn,
three times, and prints the medians. Decoding alone is by Pillow, at full size, in as many threads.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import flowercnn as fc
from flowercnn.parallel import cpu_count, ordered_map
from flowercnn.preprocessing.decode import decode, read_content
from flowercnn.sources.base import Sample


def make_pictures(photographs: Path, folder: Path, count: int, side: int) -> None:
    random = np.random.default_rng(0)
    paths = sorted(photographs.glob("*/*.jpg"))[::4]
    originals = [Image.open(path).convert("RGB").resize((side, side)) for path in paths]
    for number in range(count):
        first, second = random.integers(len(originals), size=2)
        picture = Image.blend(originals[first], originals[second], random.uniform(0.3, 0.7))
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture.save(path, quality=90)


def decode_fully(sample: Sample) -> tuple[int, int]:
    return decode(read_content(sample.image), background=(255, 255, 255), max_pixels=10**8).size


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
        times: dict[str, list[float]] = {"decode": [], "audit": []}
        for _ in range(3):
            decoding = ordered_map(decode_fully, dataset.samples, workers=cpu_count(), window=4 * cpu_count())
            times["decode"].append(seconds(lambda decoding=decoding: list(decoding)))  # type: ignore[misc]
            fresh = fc.Dataset(dataset.samples, dataset.encoder)
            times["audit"].append(seconds(lambda fresh=fresh: fresh.audit(progress=False)))  # type: ignore[misc]
    alone, audited = (statistics.median(values) for values in times.values())
    print(f"{count} pictures of {side} x {side}: decoding alone {alone:.1f} s, audit {audited:.1f} s")
    print(f"the audit has {alone / audited:.2f} of the speed of decoding alone")


if __name__ == "__main__":
    main()
