"""Features of a pretrained backbone, the last layer fitted on them, and freezing."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn._utils import image_map, read_arrays, tracked, write_arrays
from flowercnn.data import Dataset, Units, draw_folds, draw_units, names_and_links
from flowercnn.errors import ImageError, SplitError, TrainingError, counted, few, unusable
from flowercnn.evaluation import loss_and_accuracy
from flowercnn.models import Recipe, flatten_layers, head_of
from flowercnn.prediction import Extractor
from flowercnn.preprocessing import BadImages, Preprocessing, Views, content_digest, read_content
from flowercnn.training.transfer.head import Head, fit_head

__all__ = ["Features", "compute_features", "fit_on_features", "freeze", "stages"]

_MOST_FOLDS: Final = 5
_log = logging.getLogger(__name__)


class Features:
    """Feature vectors of the images of a data set.

    Args:
        rows: Shape (n, views, size), float32 or float16.
        kept: Positions in the data set of the images they are of.
        skipped: Keys of those that could not be decoded.
    """

    def __init__(
        self, rows: npt.NDArray[np.floating], kept: npt.NDArray[np.int64], skipped: tuple[str, ...]
    ) -> None:
        self.rows, self.kept, self.skipped = rows, kept, skipped


def compute_features(
    model: Any,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    views: Views,
    output: Any = None,
    bad_images: BadImages = "error",
    cache: Path | None = None,
    progress: bool = False,
) -> Features:
    """Return the feature vectors of a data set, computed once or taken from ``cache``.

    Args:
        model: A classifier that ends in a dense layer.
        dataset: The images.
        preprocessing: How they become pixels.
        views: Views of each image.
        output: What is computed, shape (n, size), in place of the feature vectors; kept as float16.
        bad_images: What to do about images that cannot be decoded.
        cache: A folder where the vectors are kept, or ``None``. Ctrl-C keeps there what was
            computed.
        progress: Whether to show a progress bar.

    Raises:
        ImageError: If images cannot be decoded; all are named.
    """
    name = _fingerprint(model, preprocessing, views, output)
    dtype = np.float32 if output is None else np.float16
    file = None if cache is None else cache / f"features-{name}.npz"
    stored = {} if file is None else _read(file)
    marks, known = _recognised(dataset, stored)
    waiting = [index for index, key in enumerate(dataset.keys) if key not in known]
    extractor = Extractor(model, images=len(waiting) * len(views), output=output)
    errors: dict[str, ImageError] = {}

    def seen(index: int) -> npt.NDArray[np.uint8] | ImageError:
        sample = dataset[index]
        try:
            content = read_content(dataset.encoded(index))
            if file is not None:
                marks[sample.key] = _mark(content_digest(content), sample.key)
            return views.of(dataclasses.replace(sample, image=content), preprocessing)
        except ImageError as error:
            return error

    like = dataset.encoded(waiting[0]) if waiting else b""
    stream = extractor.stream(image_map(seen, waiting, like=like))
    shown = tracked(
        stream, total=len(waiting), description="Features", unit="img", enabled=progress
    )
    try:
        for index, result in zip(waiting, shown, strict=True):
            if isinstance(result, ImageError):
                errors[dataset.keys[index]] = result
            else:
                known[dataset.keys[index]] = result.astype(dtype)
    finally:
        if file is not None and waiting and known:
            _write(file, {**stored, **{marks[key]: row for key, row in known.items()}})
    if errors and (bad_images == "error" or len(errors) == len(dataset)):
        raise unusable(errors, len(dataset))
    if errors:
        _log.warning(
            "%s cannot be decoded and are left out: %s",
            counted(len(errors), "image"),
            few(sorted(errors)),
        )
    kept = np.array(
        [number for number, key in enumerate(dataset.keys) if key in known], dtype=np.int64
    )
    rows = np.stack([known[dataset.keys[number]] for number in kept])
    if not np.isfinite(rows).all():
        raise TrainingError(
            "The network's features are not finite. Are its weights the right ones?"
        )
    return Features(rows, kept, tuple(errors))


def fit_on_features(features: Features, dataset: Dataset, recipe: Recipe, *, seed: int) -> Head:
    """Return the last layer for the features of a data set, settings chosen by folds."""
    used = dataset.subset(features.kept)
    counts = np.bincount(used.labels, minlength=used.num_classes)
    folds = _folds(used, seed)
    head = fit_head(
        features.rows, used.labels, used.num_classes, folds, recipe.class_weights(counts)
    )
    _log.info(
        "Last layer: shrinkage %g; in cross-validation accuracy %.3f, loss %.3f.",
        head.shrinkage,
        head.accuracy,
        head.loss,
    )
    return head


def _folds(dataset: Dataset, seed: int) -> Sequence[npt.NDArray[np.int64]]:
    """Return folds to choose the last layer's settings; none if impossible.

    Duplicates stay together where they are known. Classes with a single unit of images are always
    learned from: they must not keep the others from being cross-validated.
    """
    units = draw_units(*names_and_links(dataset.samples, dataset.known_contents()), seed)
    testable, fewest = _testable(units, dataset.labels)
    if not testable:
        return ()
    chosen = np.array(sorted(index for unit in testable for index in unit), dtype=np.int64)
    place = {index: number for number, index in enumerate(chosen.tolist())}
    moved = [[place[index] for index in unit] for unit in testable]
    try:
        folds = draw_folds(
            moved, dataset.labels[chosen], dataset.class_names, k=min(_MOST_FOLDS, fewest)
        )
    except SplitError as error:  # groups too large
        _log.info("No cross-validation: %s", error)
        return ()
    return [chosen[fold] for fold in folds]


def _testable(units: Units, labels: npt.NDArray[np.int64]) -> tuple[Units, int]:
    """Return the units of classes that have others, and the fewest such a class has."""
    while True:
        classes = [set(labels[list(unit)].tolist()) for unit in units]
        counts = Counter(label for of_unit in classes for label in of_unit)
        kept = [
            unit
            for unit, of_unit in zip(units, classes, strict=True)
            if min(counts[label] for label in of_unit) > 1
        ]
        if len(kept) == len(units):
            return kept, min(counts.values(), default=0)
        units = kept


def stages(model: Any) -> dict[str, int]:
    """Return the stage of each layer with weights, counted back from the head, which is 0."""
    sizes: list[int] = []
    found: dict[str, int] = {}
    for layer in reversed(model.layers):
        shape = tuple(layer.output.shape)
        if len(shape) == 4 and (not sizes or shape[1] > sizes[-1]):  # noqa: PLR2004 - (n, height, width, channels)
            sizes.append(int(shape[1]))
        found[layer.name] = len(sizes)
    return found


def freeze(model: Any, depth: int | None) -> None:
    """Make layers trainable down to a stage, except normalisation and scaling.

    Args:
        model: A backbone with its head; changed.
        depth: How many stages are trainable: 0 the head alone, 1 the last stage too; ``None`` all.
    """
    for name, stage in stages(model).items():
        layer = model.get_layer(name)
        layer.trainable = name not in ("scale", "to_bgr") and (depth is None or stage <= depth)
        for part in flatten_layers(layer):
            if type(part).__name__ in ("BatchNormalization", "Normalization"):
                part.trainable = False


def set_head(model: Any, head: Head) -> None:
    """Give a backbone its last layer."""
    head_of(model).set_weights([head.kernel, head.bias])


def head_record(
    head: Head,
    train: Features,
    labels: npt.NDArray[np.int64],
    val: Features | None,
    val_labels: Any,
) -> dict[str, float]:
    """Return what `History` keeps of the training of the last layer."""
    record = loss_and_accuracy(labels, head.probabilities(train.rows[:, 0]))
    if val is not None:
        measured = loss_and_accuracy(val_labels, head.probabilities(val.rows[:, 0]))
        record |= {f"val_{name}": value for name, value in measured.items()}
    return {**record, "learning_rate": 0.0}


def _fingerprint(model: Any, preprocessing: Preprocessing, views: Views, output: Any) -> str:
    said = repr((preprocessing.to_dict(), views, None if output is None else output.shape))
    digest = hashlib.blake2b(said.encode(), digest_size=12)
    head = {id(weight) for weight in head_of(model).weights}
    for weight in model.weights:
        if id(weight) not in head:
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _mark(digest: str | None, key: str) -> str:
    """Return the name of an image's features: its key alone does not show a change."""
    return f"{digest} {key}"


def _recognised(
    dataset: Dataset, stored: Mapping[str, npt.NDArray[np.floating]]
) -> tuple[dict[str, str], dict[str, npt.NDArray[np.floating]]]:
    """Return the marks of known images, and the features of those that are unchanged."""
    keys = {mark.partition(" ")[2] for mark in stored}
    again = dataset.subset([number for number, key in enumerate(dataset.keys) if key in keys])
    marks = {key: _mark(digest, key) for key, digest in again.digests().items()}
    return marks, {key: stored[mark] for key, mark in marks.items() if mark in stored}


def _read(path: Path) -> dict[str, npt.NDArray[np.floating]]:
    try:
        _, arrays = read_arrays(path)
        return dict(zip(map(str, arrays["marks"]), arrays["rows"], strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{path}: the features kept here cannot be read ({error}). Remove the file."
        ) from error


def _write(path: Path, rows: dict[str, npt.NDArray[np.floating]]) -> None:
    try:
        write_arrays(path, {"marks": np.array(list(rows)), "rows": np.stack(list(rows.values()))})
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(
            f"{path}: the features cannot be kept ({reason}). Give another folder."
        ) from error
