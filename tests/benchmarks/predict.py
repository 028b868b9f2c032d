"""Measure prediction: python tests/benchmarks/predict.py MODEL.keras FOLDER [ROUNDS].

Ratios of interleaved medians in one run: one picture from bytes against ``load_img`` +
``model.predict`` and against decoding plus a bare LiteRT invoke; a folder against
``image_dataset_from_directory`` + ``model.predict``; both once more with an int8 export; the
command line with and without TensorFlow; memory over 20,000 pictures.
"""

from __future__ import annotations

import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import flowercnn as fc

BATCH = 32


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def interleaved(rounds: int, **functions: Callable[[], object]) -> dict[str, float]:
    """Return the median seconds of each function, all called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: statistics.median(values) for name, values in times.items()}


def bare_invoke(model: str, predictor: fc.Predictor) -> Callable[[bytes], object]:
    """LiteRT and nothing else."""
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(model) as archive:
        interpreter = Interpreter(
            model_content=archive.read("model.tflite"), num_threads=os.cpu_count()
        )
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]

    def decode_and_invoke(content: bytes) -> None:
        pixels = predictor.preprocessing.decode(content)
        interpreter.set_tensor(index, pixels[None].astype(np.float32))
        interpreter.invoke()

    return decode_and_invoke


def single_image(model: str, small: Path, contents: list[bytes], rounds: int) -> None:
    import keras

    stock = keras.saving.load_model(model)
    predictor, int8 = fc.Predictor.load(model), fc.Predictor.load(small)
    bare = bare_invoke(model, predictor)
    streams = {
        name: cycle(contents) for name in ("keras", "bare", "ours", "int8")
    }  # each sees the same pictures

    def with_keras() -> None:
        image = keras.utils.load_img(
            io.BytesIO(next(streams["keras"])), target_size=predictor.image_size
        )
        stock.predict(keras.utils.img_to_array(image)[None], verbose=0)

    times = interleaved(
        rounds,
        keras=with_keras,
        bare=lambda: bare(next(streams["bare"])),
        ours=lambda: predictor.predict_one(next(streams["ours"])),
        int8=lambda: int8.predict_one(next(streams["int8"])),
    )
    print(f"one picture: {times['ours'] * 1e3:.2f} ms on {predictor.runtime}")
    print(f"  {times['keras'] / times['ours']:.1f} x faster than load_img + model.predict")
    print(f"  {times['ours'] / times['bare']:.2f} of decoding + bare LiteRT")
    print(
        f"  int8: {times['int8'] * 1e3:.2f} ms, {times['keras'] / times['int8']:.1f} x faster than "
        "Keras"
    )


def a_folder(model: str, small: Path, folder: str, rounds: int) -> None:
    import keras

    stock = keras.saving.load_model(model)
    light, heavy = (fc.Predictor.load(model, runtime=name) for name in ("litert", "keras"))
    int8 = fc.Predictor.load(small)

    def with_keras() -> None:
        size = light.image_size
        data = keras.utils.image_dataset_from_directory(
            folder, image_size=size, batch_size=BATCH, shuffle=False, verbose=0
        )
        stock.predict(data, verbose=0)

    times = interleaved(
        rounds,
        peer=with_keras,
        litert=lambda: light.predict(folder),
        keras=lambda: heavy.predict(folder),
        int8=lambda: int8.predict(folder),
    )
    print(f"a folder with Keras: {times['peer']:.2f} s")
    for name in ("litert", "keras", "int8"):
        print(
            f"  {name}: {times[name]:.2f} s, {times['peer'] / times[name]:.2f} x the images per "
            "second"
        )


def the_command(model: str, picture: str, rounds: int) -> None:
    def run(runtime: str) -> None:
        code = "from flowercnn.cli import main; main()"
        arguments = [sys.executable, "-c", code, "predict", model, picture, "--runtime", runtime]
        subprocess.run(arguments, check=True, capture_output=True)

    times = interleaved(rounds, light=lambda: run("litert"), heavy=lambda: run("keras"))
    print(
        f"the command: {times['light']:.2f} s, {times['light'] / times['heavy']:.3f} of the time "
        "with TensorFlow"
    )


def memory(model: str, contents: list[bytes]) -> None:
    stream: Iterator[Any] = fc.Predictor.load(model).predict_iter(islice(cycle(contents), 20_000))
    for _ in islice(stream, 1_000):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(1 for _ in stream)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"memory: {grown:.1f} MB more after {count:,} further pictures")


def main(model: str, folder: str, rounds: str = "5") -> None:
    """Print the ratios."""
    from flowercnn.sources.folder import find_images

    paths = find_images(folder)
    contents = [Path(path).read_bytes() for path in paths[:: max(1, len(paths) // 100)]]
    memory(model, contents)
    with tempfile.TemporaryDirectory() as directory:
        small = Path(directory, "small.tflite")
        fc.Predictor.load(model).export(small, "litert-int8", images=contents)
        single_image(model, small, contents, 20 * int(rounds))
        a_folder(model, small, folder, int(rounds))
    the_command(model, paths[0], int(rounds))


main(*sys.argv[1:])
