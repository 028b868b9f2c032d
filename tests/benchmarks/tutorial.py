"""Measure flowercnn against the tutorial's script: python tests/benchmarks/tutorial.py FOLDER
[EPOCHS] [RUNS].

Same photographs, network, epochs and batch; whole processes, in turn, medians of wall-clock time
and peak memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def measure(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script as a process of its own; return its figures, seconds and peak memory in MB."""
    started = time.perf_counter()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{script} failed with exit code {process.returncode}")
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures | {"seconds": time.perf_counter() - started, "megabytes": usage.ru_maxrss / 1024}


def main(folder: str, epochs: str = "20", runs: str = "1") -> None:
    """Print the figures of both and their ratios."""
    results: dict[str, list[dict[str, Any]]] = {"tutorial_script.py": [], "tutorial_ours.py": []}
    for _ in range(int(runs)):
        for script, figures in results.items():
            figures.append(measure(script, folder, epochs, "0.2"))
            print(script, figures[-1], flush=True)
    theirs, ours = results.values()
    for name in ("seconds", "megabytes", "accuracy"):
        a, b = (statistics.median(figure[name] for figure in side) for side in (ours, theirs))
        print(f"{name}: flowercnn {a:.3f}, tutorial {b:.3f}, ratio {a / b:.3f}")


main(*sys.argv[1:])
