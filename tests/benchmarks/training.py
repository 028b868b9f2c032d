"""Training steps per second of ``fast`` against the same network in stock Keras layers and in
PyTorch.

    python tests/benchmarks/training.py [SIDE] [PYTHON_WITH_TORCH]

Each contender is a process of its own and takes its rounds in turn with the others; medians are
printed. A round is some steps: 32 pictures in, changed weights out. Ours is there twice: as
``fast`` trains, from uint8 pixels that are augmented and mixed, with Muon; and "alike", as the
others are, with ready pixels and AdamW. Also printed: the share of this machine's fastest
convolution.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

BATCH, STEPS, ROUNDS, CLASSES = 32, 6, 7, 17
THEIRS = ("keras", "torch")


def ours(side: int, *, alike: bool = False) -> Callable[[], object]:
    from flowercnn.models.precision import choose_precision
    from flowercnn.models.registry import build_model, recipe_of
    from flowercnn.preprocessing.pixels import MemoryPixels
    from flowercnn.training.loop import Loop

    recipe = recipe_of("fast")
    if alike:
        recipe = dataclasses.replace(recipe, optimizer="adamw", augmentation=None, mixing=None)
        recipe = dataclasses.replace(recipe, image_size=(side, side), progressive=())
    else:
        recipe = dataclasses.replace(recipe, progressive=((0, side / recipe.image_size[0]),))
    stored = recipe.image_size[0]
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (BATCH * STEPS, stored, stored, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, BATCH * STEPS)
    model = build_model("fast", image_size=recipe.image_size, num_classes=CLASSES)
    loop = Loop(
        model, recipe, (MemoryPixels(pixels), labels), seed=0, precision=choose_precision("auto")
    )
    return lambda: loop.seconds_per_epoch(steps=STEPS)  # takes the steps of the one epoch there is


def keras_stock(side: int) -> Callable[[], object]:
    from flowercnn.models.backend import import_keras
    from flowercnn.models.registry import build_model

    keras = import_keras()
    model = build_model(
        "fast", image_size=(side, side), num_classes=CLASSES
    )  # stock layers, as every model file
    model.compile(
        keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    random = np.random.default_rng(0)
    pixels = random.uniform(0, 255, (BATCH * STEPS, side, side, 3)).astype(np.float32)
    labels = random.integers(0, CLASSES, BATCH * STEPS)
    return lambda: model.fit(pixels, labels, batch_size=BATCH, verbose=0)


def torch_bfloat16(side: int) -> Callable[[], object]:
    import torch
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]  # PyTorch is not installed where types are checked
        def __init__(self, filters: int) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(filters, filters), nn.ReLU(), conv(filters, filters))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.body(x))

    def conv(inputs: int, filters: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1),
        )

    layers: list[nn.Module] = [conv(3, 32, 2), nn.ReLU()]
    inputs = 32
    for filters in (48, 96, 192):
        layers += [conv(inputs, filters), nn.ReLU(), nn.MaxPool2d(2), Block(filters)]
        inputs = filters
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pixels = torch.randn(BATCH * STEPS, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH * STEPS,))

    def run() -> None:
        for start in range(0, BATCH * STEPS, BATCH):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = model(pixels[start : start + BATCH])
            loss = nn.functional.cross_entropy(outputs.float(), labels[start : start + BATCH])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def peak(_: int) -> Callable[[], object]:
    """The fastest of some convolutions in bfloat16; a round returns its GFLOP/s."""
    import tensorflow as tf

    convolve = tf.function(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))
    cases = [
        (
            tf.ones((BATCH, side, side, c), tf.bfloat16),
            tf.ones((3, 3, c, c), tf.bfloat16),
            2 * 9 * c * c * side * side,
        )
        for side, c in ((48, 64), (24, 128), (12, 192), (12, 256))
    ]

    def run() -> float:
        best = 0.0
        for pixels, kernel, flop in cases:
            for _ in range(4):
                started = time.perf_counter()
                convolve(pixels, kernel).numpy()
                best = max(best, BATCH * flop / (time.perf_counter() - started) / 1e9)
        return best

    return run


def ours_alike(side: int) -> Callable[[], object]:
    return ours(side, alike=True)


CONTENDERS = {
    "flowercnn": ours,
    "alike": ours_alike,
    "keras": keras_stock,
    "torch": torch_bfloat16,
    "peak": peak,
}


def work(name: str, side: int) -> None:
    """Answer each line on standard input with the seconds (or the value) of one round."""
    run = CONTENDERS[name](side)
    run()
    for _ in sys.stdin:
        started = time.perf_counter()
        value = run()
        seconds = time.perf_counter() - started
        print("answer", value if name == "peak" else seconds, flush=True)


def ask(process: subprocess.Popen[str]) -> float:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            return float(line.split()[1])
    raise RuntimeError("a contender ended early")


def forward_gflop(side: int) -> float:
    """Arithmetic of the convolutions for one picture."""
    total, inputs, edge = 2 * 27 * 32 * (side / 2) ** 2, 32, side / 2
    for filters in (48, 96, 192):
        total += 2 * 9 * inputs * filters * edge**2
        edge /= 2
        total += 2 * 2 * 9 * filters * filters * edge**2
        inputs = filters
    return total / 1e9


def main(side: int = 80, torch_python: str | None = None) -> None:
    def start(name: str, python: str) -> subprocess.Popen[str]:
        command = [python, __file__, "--work", name, str(side)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    processes = {
        name: start(name, sys.executable) for name in ("flowercnn", "alike", "keras", "peak")
    }
    if torch_python is not None:
        processes["torch"] = start("torch", torch_python)
    rounds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(ROUNDS):
        for name, process in processes.items():
            rounds[name].append(ask(process))
    for process in processes.values():
        process.kill()
    best = max(rounds.pop("peak"))
    speeds = {name: BATCH * STEPS / statistics.median(times) for name, times in rounds.items()}
    for name, speed in speeds.items():
        ratios = [
            f"{mine} is {speeds[mine] / speed:.2f} times as fast" for mine in ("flowercnn", "alike")
        ]
        print(
            f"{name:10} {speed:7.1f} pictures/s at {side} px   "
            f"{', '.join(ratios if name in THEIRS else [])}"
        )
    used = 3 * forward_gflop(side) * speeds["flowercnn"]
    print(
        f"convolutions of flowercnn: {used:.0f} GFLOP/s, {used / best:.0%} of the fastest seen "
        f"here ({best:.0f})"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 80, *sys.argv[2:])
