"""Pictures per second over TLS: our TensorBay against the bare SDK's loop, on the same server in
another process.

    PYTHONPATH=.:tests/servers python tests/benchmarks/remote_speed.py FOLDER [--rounds 3] ...

FOLDER has one sub-folder of photographs per class. The SDK's loop reads 128 of them in one thread
and without faults, of which it survives none. Rounds are interleaved; medians and their ratio are
printed, and how much the memory grew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorbay_server import (
    FAULTS,
    Knobs,
    ServedDataset,
    ServedFile,
    TensorBayServer,
    loopback_certificate,
)

import flowercnn as fc

NAME = "Flower17-1"
PEERS_SHARE = 128  # files: one page


def dataset_of(folder: Path) -> ServedDataset:
    """Every fifth photograph is in the segment ``test``, the others are in ``train``."""
    segments: dict[str, list[ServedFile]] = {"test": [], "train": []}
    for path in sorted(folder.glob("*/*.*")):
        file = ServedFile(f"{path.parent.name}/{path.name}", path, path.parent.name)
        segments["test" if sum(map(len, segments.values())) % 5 == 4 else "train"].append(file)
    classes = sorted({file.path.split("/")[0] for files in segments.values() for file in files})
    return ServedDataset(NAME, segments, classes)


def serve(folder: Path, authority: Path, knobs: Knobs, pipe: Any) -> None:
    """Run a server until the other end of the pipe says that it is enough."""
    context, _ = loopback_certificate(authority)
    with TensorBayServer([dataset_of(folder)], knobs=knobs, tls=context) as server:
        pipe.send((server.url, server.key))
        pipe.recv()


@contextmanager
def served(folder: Path, knobs: Knobs) -> Iterator[tuple[str, str, str]]:
    """Yield address, key and certificate authority of a server in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with tempfile.TemporaryDirectory() as authority:
        process = spawn.Process(target=serve, args=(folder, Path(authority), knobs, theirs))
        process.start()
        url, key = ours.recv()
        try:
            yield url, key, str(Path(authority) / "loopback-ca.pem")
        finally:
            ours.send("enough")
            process.join()


def resident() -> float:
    """Megabytes of memory this process has now."""
    return (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        / 2**20
    )


def our_rate(url: str, key: str, authority: str, files: dict[str, Path]) -> tuple[float, float]:
    """Return pictures per second of one run with an empty cache, and the megabytes by which the
    memory grew."""
    with tempfile.TemporaryDirectory() as cache:
        before = highest = resident()
        began = time.perf_counter()
        samples = []
        for sample in fc.TensorBay(NAME, key, url=url, ca_bundle=authority, cache_dir=cache):
            samples.append(sample)
            highest = max(highest, resident())
        seconds = time.perf_counter() - began
        keys = [sample.key for sample in samples]
        assert keys == list(files), "every sample once, in order"
        for sample in samples:
            assert callable(sample.image)
            assert sample.image() == files[sample.key].read_bytes(), sample.key
    return len(samples) / seconds, highest - before


def sdk_rate(url: str, key: str, authority: str) -> float:
    """Return pictures per second of the SDK's own loop in one thread."""
    from tensorbay import GAS
    from tensorbay.dataset import Dataset

    os.environ["REQUESTS_CA_BUNDLE"] = authority
    try:
        began = time.perf_counter()
        segment = Dataset(NAME, GAS(key, url))["train"]
        for data in segment[:PEERS_SHARE]:
            with data.open() as file:
                file.read()
        return PEERS_SHARE / (time.perf_counter() - began)
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--fault-rate", type=float, default=0.1)
    given = parser.parse_args()
    dataset = dataset_of(given.folder)
    files = {
        f"{segment}/{file.path}": Path(str(file.content))
        for segment in ("test", "train")
        for file in dataset.segments[segment]
    }
    healthy = Knobs(latency=given.latency)
    faulty = Knobs(
        latency=given.latency, fault_rate=given.fault_rate, faults=FAULTS, retry_after="1"
    )
    rates: dict[str, list[float]] = {
        "SDK, no faults": [],
        "flowercnn, no faults": [],
        "flowercnn, faults": [],
    }
    growth = 0.0
    with served(given.folder, healthy) as good, served(given.folder, faulty) as bad:
        sdk_rate(*good)  # imports what the SDK needs
        for _ in range(given.rounds):
            rates["SDK, no faults"].append(sdk_rate(*good))
            for name, server in (("flowercnn, no faults", good), ("flowercnn, faults", bad)):
                rate, grown = our_rate(*server, files)
                rates[name].append(rate)
                growth = max(growth, grown)
    peer = statistics.median(rates["SDK, no faults"])
    print(
        f"{len(files)} pictures over TLS, {given.latency * 1000:.0f} ms latency, faults "
        f"{given.fault_rate:.0%}"
    )
    for name, measured in rates.items():
        median = statistics.median(measured)
        print(
            f"{name:22} {median:6.0f} pictures/s  ratio {median / peer:5.1f}  of "
            f"{[round(rate) for rate in measured]}"
        )
    print(f"memory grew by {growth:.0f} MB at most; all bytes were compared")


if __name__ == "__main__":
    main()
