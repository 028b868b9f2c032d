"""Description of a classifier, as JSON: the same text in a model file and in every export."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from flowercnn import __version__
from flowercnn.data import LabelEncoder, check_printable
from flowercnn.errors import ConfigurationError, FlowerCNNError, ModelFileError, few
from flowercnn.preprocessing import Preprocessing

__all__ = ["Description", "parse_json"]

_FORMAT: Final = "flowercnn-model"
_MAJOR: Final = 1
_MINOR: Final = 0
_PARTS: Final = frozenset({"class_names", "preprocessing", "calibration", "info"})
_MOST_BYTES: Final = 4 * 2**20
_MOST_CLASSES: Final = 100_000
_MOST_PIXELS: Final = 2**28  # of an image; no file may switch off the limit of decoding
_DEEPEST: Final = 32
_LARGEST_INT: Final = 2**64


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a classifier: everything but its network.

    Args:
        class_names: One per output, in order.
        preprocessing: How images become pixels.
        calibration: Calibration as JSON values by name: the temperature (already in the weights),
            quantiles of conformal prediction, the threshold of unknown images.
        info: Anything else, as JSON values by name: versions, training, metrics.
    """

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text that `from_json` reads.

        Raises:
            ModelFileError: If ``calibration`` or ``info`` hold something that JSON cannot.
        """
        document = {
            "format": _FORMAT,
            "version": f"{_MAJOR}.{_MINOR}",
            "requires": [],
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing.to_dict(),
            "calibration": dict(self.calibration),
            "info": {**self.info, "versions": _versions()},
        }
        try:
            text = json.dumps(document, ensure_ascii=True, allow_nan=False, indent=1)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"calibration and info must hold JSON values only: {error}."
            raise ModelFileError(reason) from error
        self.from_json(text, "this classifier")  # nothing is written that could not be read
        return text

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> Description:
        """Return the description in ``text``.

        Unknown parts of a newer minor version are ignored, unless the file lists them in
        ``requires``: then its results would be wrong without them.

        Args:
            text: JSON.
            name: Of the file, for messages.

        Raises:
            ModelFileError: If it is not a description, is of a newer version, or has invalid
                values.
        """
        size = len(text)
        if size > _MOST_BYTES:
            reason = f"the description has {size:,} bytes, over {_MOST_BYTES:,}"
            raise ModelFileError(f"{name}: rejected: {reason}.")
        document = parse_json(text, name)
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ModelFileError(f"{name}: its description is not one of flowercnn.")
        _check_version(document, name)
        class_names = _read_class_names(document.get("class_names"), name)
        try:
            preprocessing = Preprocessing.from_dict(document["preprocessing"])
        except (FlowerCNNError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"{name}: its preprocessing cannot be used: {error}") from error
        if preprocessing.max_pixels > _MOST_PIXELS:
            reason = f"max_pixels={preprocessing.max_pixels} is over {_MOST_PIXELS:,}"
            raise ModelFileError(f"{name}: rejected: {reason}.")
        calibration, info = document.get("calibration", {}), document.get("info", {})
        if not isinstance(calibration, dict) or not isinstance(info, dict):
            raise ModelFileError(f"{name}: its calibration and info must be JSON objects.")
        return cls(class_names, preprocessing, calibration, info)


def parse_json(text: str | bytes, name: str) -> Any:
    """Return the value of a JSON text: finite numbers, distinct keys, bounded depth.

    Raises:
        ModelFileError: If it is anything else.
    """
    try:
        document = json.loads(text, object_pairs_hook=_distinct, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name}: damaged: not readable JSON ({error}).") from error
    for depth, value in _walk(document):
        if depth > _DEEPEST:
            raise ModelFileError(f"{name}: rejected: JSON nested deeper than {_DEEPEST} levels.")
        is_infinite = isinstance(value, float) and not math.isfinite(value)
        if is_infinite or (isinstance(value, int) and abs(value) > _LARGEST_INT):
            raise ModelFileError(f"{name}: rejected: a number out of range.")
    return document


def _walk(document: Any) -> Iterator[tuple[int, Any]]:
    waiting = [(0, document)]
    while waiting:
        depth, value = waiting.pop()
        yield depth, value
        if isinstance(value, (dict, list)):
            children = value.values() if isinstance(value, dict) else value
            waiting.extend((depth + 1, child) for child in children)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check_version(document: dict[str, Any], name: str) -> None:
    text = document.get("version")
    shown = str(text)[:100]
    major = str(text).partition(".")[0]
    reason = ""
    if isinstance(text, bool) or not isinstance(text, (str, int)) or not major.isdecimal():
        reason = f"its format version must be like '1.0'. Received: {shown!r}"
    elif major != str(_MAJOR):
        reason = (
            f"the file has format version {shown}, this flowercnn reads {_MAJOR}.x. Install the "
            "flowercnn that wrote it, or a newer one."
        )
    if reason:
        raise ModelFileError(f"{name}: {reason}")
    required = document.get("requires", [])
    if not isinstance(required, list) or not all(isinstance(part, str) for part in required):
        raise ModelFileError(f"{name}: its list of required parts must be a list of names.")
    missing = [part for part in required if part not in _PARTS]
    if missing:
        raise ModelFileError(
            f"{name}: the file has format version {text} and cannot be used without "
            f"{few(missing)}, which this flowercnn ({_MAJOR}.{_MINOR}) does not know. Install a "
            "newer flowercnn."
        )


def _read_class_names(names: Any, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not 2 <= len(names) <= _MOST_CLASSES:  # noqa: PLR2004 - one leaves no choice
        rule = f"a list of 2 to {_MOST_CLASSES:,} names"
        raise ModelFileError(f"{where}: its class names must be {rule}.")
    try:
        class_names = LabelEncoder(tuple(names)).class_names
        check_printable(class_names)
    except (ConfigurationError, TypeError) as error:
        reason = f"its class names cannot be used: {str(error)[:500]}"
        raise ModelFileError(f"{where}: rejected: {reason}") from error
    return class_names


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "flowercnn": __version__}
    for package in ("keras", "tensorflow", "pillow", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a light installation
            continue
    return versions
