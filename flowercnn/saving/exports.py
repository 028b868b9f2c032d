"""Exports for other programs: written beside the target, proved on images, moved into place."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn._utils import as_path, check_number, replace_file, replace_folder
from flowercnn.errors import ConfigurationError, ImageError, ModelFileError, closest, counted
from flowercnn.preprocessing import Preprocessing, read_content
from flowercnn.runtimes import (
    Computer,
    KerasRuntime,
    Runtime,
    litert_interpreter,
    to_litert,
    to_onnx,
)
from flowercnn.saving.description import Description
from flowercnn.saving.light import read_export, write_litert, write_onnx
from flowercnn.saving.modelfile import read_model, write_model
from flowercnn.saving.savedmodel import SavedModelRuntime, write_saved_model
from flowercnn.sources import PredictInput, SyntheticFlowers, keyed_images

__all__ = ["ExportFormat", "ExportReport", "export"]

ExportFormat: TypeAlias = Literal["keras", "h5", "saved_model", "litert", "litert-int8", "onnx"]
"""For other programs: Keras, Keras 2, TensorFlow and TF Serving, LiteRT (TensorFlow Lite), ONNX."""

_BY_SUFFIX: Final[dict[str, ExportFormat]] = {
    ".keras": "keras",
    ".h5": "h5",
    ".tflite": "litert",
    ".onnx": "onnx",
}
_SUFFIXES: Final = {chosen: suffix for suffix, chosen in _BY_SUFFIX.items()} | {
    "saved_model": "",
    "litert-int8": ".tflite",
}
_MOST_IMAGES: Final = 400
_FEWEST_FOR_INT8: Final = 16
_LARGEST_DIFFERENCE: Final = 1e-4
_AGREEMENT_OF_INT8: Final = 0.97
_TIMED_CALLS: Final = 15


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Export report: the file written, and how it compares with its classifier on the same images.

    It can be used as a path.

    Args:
        path: The file or folder.
        format: The format of the export.
        samples: Number of images that both have classified.
        agreement: Share of them with the same label, 0-1.
        max_difference: The largest difference of a probability, 0-1.
        size: Bytes of the file, or of all files of the folder.
        seconds: For one image, without decoding: the median of some calls.
        bytes_agreement: Of a SavedModel, the agreement if it decodes the images itself. TensorFlow
            decodes and resizes slightly differently.
    """

    path: Path
    format: ExportFormat
    samples: int
    agreement: float
    max_difference: float
    size: int
    seconds: float
    bytes_agreement: float | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def to_dict(self) -> dict[str, Any]:
        """Return the measurements, as JSON can hold them."""
        names = ("format", "samples", "agreement", "max_difference", "size", "seconds")
        results = {name: getattr(self, name) for name in names}
        if self.bytes_agreement is not None:
            results["bytes_agreement"] = self.bytes_agreement
        return results

    def summary(self) -> str:
        """Return the report in one line."""
        return (
            f"{self.path}: {self.format}, {self.size / 1e6:.2f} MB, {self.seconds * 1e3:.1f} ms "
            f"per image; on {self.samples} images the same label for {self.agreement:.1%}, "
            f"probabilities within {self.max_difference:.1g}"
        )


class ExportableNetwork(Protocol):
    """The network of a classifier, in the forms that exports are made from."""

    @property
    def model(self) -> Any:
        """The Keras model."""
        ...

    @property
    def light(self) -> bytes | None:
        """The network as LiteRT flatbuffer, or ``None`` where LiteRT cannot compute it."""
        ...

    @property
    def runtime(self) -> Runtime:
        """The runtime that predicts."""
        ...


def export(
    network: ExportableNetwork,
    description: Description,
    path: str | os.PathLike[str],
    format: ExportFormat | None,  # noqa: A002 - the public name
    *,
    images: PredictInput | None,
    min_agreement: float | None,
) -> ExportReport:
    """Write an export and prove it; arguments and errors are those of `Predictor.export`."""
    chosen = _choose_format(path, format)
    if chosen not in ("keras", "h5"):
        description = _without_detector(description)
    target = _target(as_path(path), chosen)
    least = _least_agreement(chosen, min_agreement)
    contents, pixels = _decoded(images, description.preprocessing, chosen)
    ranges = None
    if chosen == "litert-int8":
        ranges, contents, pixels = pixels[::2], contents[1::2], pixels[1::2]
    write, read = _format(chosen, network, description, ranges)
    beside = target.with_name(f"{target.name}.json")
    reports: list[ExportReport] = []

    def write_and_prove(temporary: Path) -> None:
        write(temporary)
        try:
            runtime = read(temporary)
        except ModelFileError as error:
            reason = f"it could not be loaded again: {str(error).removeprefix(f'{temporary}: ')}"
            raise ModelFileError(f"{target}: not written, as {reason}") from error
        measured = _measure(network.runtime, runtime, pixels, contents)
        report = ExportReport(target, chosen, len(pixels), size=_size(temporary), **measured)
        _check_report(report, least)
        reports.append(report)
        # Before the export itself is moved into place: if this fails, nothing has changed yet.
        _write_json(beside, report, description)

    move = replace_folder if chosen == "saved_model" else replace_file
    try:
        with _restored_on_failure(beside):
            move(target, write_and_prove)
    except ModelFileError:
        raise
    except OSError as error:
        reason = f"{error.filename2 or target}: cannot be written ({error.strerror or error})"
        raise ModelFileError(f"{reason}. Choose another path, or make room there.") from error
    return reports[0]


def _without_detector(description: Description) -> Description:
    """Leave out the out-of-distribution detector: other formats compute no features for it."""
    if not description.calibration:
        return description
    return replace(description, calibration={**description.calibration, "familiarity": None})


def _choose_format(path: str | os.PathLike[str], wanted: str | None) -> ExportFormat:
    known: tuple[ExportFormat, ...] = get_args(ExportFormat)
    name = _BY_SUFFIX.get(as_path(path).suffix) if wanted is None else wanted
    for chosen in known:
        if chosen == name:
            return chosen
    hint = "" if wanted is None else closest(wanted, known)
    rule = f"one of {', '.join(known)}, or a path must end in {', '.join(_BY_SUFFIX)}"
    received = f"format={wanted!r}, path={os.fspath(path)!r}"
    raise ConfigurationError(f"format must be {rule}.{hint} Received: {received}")


def _target(path: Path, chosen: ExportFormat) -> Path:
    suffix = _SUFFIXES[chosen]
    if path.suffix == suffix or not suffix:
        return path
    if path.suffix in _BY_SUFFIX:
        rule = f"{suffix} for format={chosen!r}"
        raise ConfigurationError(f"path must end in {rule}. Received: path={str(path)!r}")
    return path.with_name(path.name + suffix)


def _least_agreement(chosen: ExportFormat, wanted: float | None) -> float:
    if wanted is not None:
        return check_number("min_agreement", wanted, least=0, most=1)
    return _AGREEMENT_OF_INT8 if chosen == "litert-int8" else 1.0


def _decoded(
    images: PredictInput | None, preprocessing: Preprocessing, chosen: ExportFormat
) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
    """Return bytes and pixels, shape (n, height, width, 3), of the images for the proof."""
    if images is None:
        if chosen == "litert-int8":
            raise ConfigurationError(
                "format='litert-int8' needs images=: some dozens of training images, to measure "
                "the ranges of the network's numbers."
            )
        images = SyntheticFlowers(per_class=1)
    inputs = [image for _, image in keyed_images(images)]
    places = np.linspace(0, len(inputs) - 1, min(len(inputs), _MOST_IMAGES)).round().astype(int)
    usable: list[tuple[bytes, npt.NDArray[np.uint8]]] = []
    for place in places:
        with contextlib.suppress(ImageError):
            content = read_content(inputs[place])
            usable.append((_encoded(content), preprocessing.decode(content)))
    fewest = _FEWEST_FOR_INT8 if chosen == "litert-int8" else 1
    if len(usable) < fewest:
        rule = f"at least {counted(fewest, 'image')} that can be decoded"
        raise ConfigurationError(f"images must hold {rule}. Received: {len(usable)}")
    return [content for content, _ in usable], np.stack([pixels for _, pixels in usable])


def _encoded(content: bytes | Image.Image) -> bytes:
    if isinstance(content, bytes):
        return content
    buffer = io.BytesIO()
    content.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _format(
    chosen: ExportFormat,
    network: ExportableNetwork,
    description: Description,
    ranges: npt.NDArray[np.uint8] | None,
) -> tuple[Callable[[Path], object], Callable[[Path], Computer]]:
    """Return the functions that write a format and read it again."""
    model = network.model
    if chosen in ("keras", "h5"):
        light = network.light if chosen == "keras" else None
        write = partial(write_model, model=model, description=description, litert=light)
        return write, lambda path: KerasRuntime(read_model(path).keras_model())
    if chosen == "saved_model":
        return partial(write_saved_model, model=model, description=description), SavedModelRuntime
    read = lambda path: read_export(path)[1]  # noqa: E731 - both formats are read with it
    if chosen == "onnx":
        proto = to_onnx(model)
        return lambda path: write_onnx(path, proto, description), read
    litert_interpreter()  # before the work: without it nothing can be proved
    flatbuffer = to_litert(model, ranges)
    return lambda path: write_litert(path, flatbuffer, description), read


def _measure(
    original: Computer, exported: Computer, pixels: npt.NDArray[np.uint8], contents: list[bytes]
) -> dict[str, Any]:
    expected = _probabilities(original, pixels)
    received = _probabilities(exported, pixels)
    labels = expected.argmax(axis=1)
    measured: dict[str, Any] = {
        "agreement": float((received.argmax(axis=1) == labels).mean()),
        "max_difference": float(np.abs(received - expected).max()),
        "seconds": _seconds(exported, pixels[:1]),
    }
    if isinstance(exported, SavedModelRuntime):
        decoded_there = exported.decode_and_predict(contents).argmax(axis=1)
        measured["bytes_agreement"] = float((decoded_there == labels).mean())
    return measured


def _probabilities(computer: Computer, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    starts = range(0, len(pixels), computer.batch)
    return np.concatenate([computer(pixels[start : start + computer.batch]) for start in starts])


def _seconds(runtime: Computer, image: npt.NDArray[np.uint8]) -> float:
    times = []
    for _ in range(_TIMED_CALLS):
        started = time.perf_counter()
        runtime(image)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _check_report(report: ExportReport, least: float) -> None:
    most = 1.0 if report.format == "litert-int8" else _LARGEST_DIFFERENCE
    if report.agreement >= least and report.max_difference <= most:  # never of NaN
        return
    raise ModelFileError(
        f"{report.path}: not written: on {report.samples} images the copy gives the same label for "
        f"{report.agreement:.1%} (at least {least:.1%} wanted) and probabilities that differ by up "
        f"to {report.max_difference:.2g} (at most {most:g} wanted). {_way_out(report, most)}"
    )


def _way_out(report: ExportReport, most: float) -> str:
    if math.isnan(report.max_difference):
        return (
            "It returns NaN for some image, or the network itself does. Check predict_proba() for "
            "these images; if it returns numbers, export to another format."
        )
    if report.max_difference > most:
        return (
            f"A layer computes differently in this format ({report.format}), or in float16 or "
            "bfloat16. Build the network in float32, replace the layer, or export to another "
            "format: 'keras' and 'saved_model' compute as TensorFlow does."
        )
    return "Give more representative images=, or lower min_agreement if you can live with it."


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _write_json(path: Path, report: ExportReport, description: Description) -> None:
    document = {**json.loads(description.to_json()), "export": report.to_dict()}
    document["preprocessing"]["filter"] = "hamming"  # for those who resize images themselves
    text = json.dumps(document, indent=1)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def _restored_on_failure(path: Path) -> Iterator[None]:
    """Restore a small file, or its absence, if the block fails."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    except BaseException:
        if before is None:
            if path.is_file():
                path.unlink()
        elif path.read_bytes() != before:
            replace_file(path, lambda temporary: temporary.write_bytes(before))
        raise
