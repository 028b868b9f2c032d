"""The evaluation of a classifier on pictures it has not learned from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowercnn.atomic import replace_file
from flowercnn.dataset import Dataset
from flowercnn.errors import ConfigurationError, DataError, ImageError, few
from flowercnn.evaluation import plots
from flowercnn.evaluation.metrics import confusion_matrix, precision_recall_f1, wilson_interval
from flowercnn.evaluation.report import report_html
from flowercnn.labels import LabelEncoder
from flowercnn.preprocessing.preprocessing import BadImages
from flowercnn.progress import tracked

if TYPE_CHECKING:
    from flowercnn.prediction.predictor import Predictor

__all__ = ["ClassMetrics", "Evaluation", "evaluate"]


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How well one class is told from the others.

    Args:
        class_name: The class.
        precision: Share of the pictures called so that are it, 0-1; 0 if none was called so.
        recall: Share of its pictures called so, 0-1; 0 if it has none.
        f1: Harmonic mean of both, 0-1.
        recall_interval: Wilson interval of the recall at 95 %.
        support: How many pictures it has.
    """

    class_name: str
    precision: float
    recall: float
    f1: float
    recall_interval: tuple[float, float]
    support: int


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Truth and predictions side by side, and every figure computed from them in NumPy.

    Args:
        class_names: All classes in the order of the labels.
        keys: The pictures, in order.
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes), float32, rows sum to 1.
        skipped: Keys of pictures that could not be decoded and are in no figure.

    Raises:
        ConfigurationError: If the shapes do not fit together.
    """

    class_names: tuple[str, ...]
    keys: tuple[str, ...]
    y_true: npt.NDArray[np.int64]
    y_prob: npt.NDArray[np.float32]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.keys), len(self.class_names))
        if self.y_true.shape != expected[:1] or self.y_prob.shape != expected:
            raise ConfigurationError(
                f"y_true must have shape {expected[:1]} and y_prob {expected}. "
                f"Received: {self.y_true.shape} and {self.y_prob.shape}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Evaluation({self.summary()})"

    @cached_property
    def y_pred(self) -> npt.NDArray[np.int64]:
        """The most probable label of each picture, shape (n,), int64."""
        best: npt.NDArray[np.int64] = np.argmax(self.y_prob, axis=1).astype(np.int64)
        return best

    @property
    def hits(self) -> int:
        """How many pictures are classified correctly."""
        return int((self.y_pred == self.y_true).sum())

    @property
    def accuracy(self) -> float:
        """The share of pictures classified correctly, 0-1."""
        return self.hits / len(self)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The Wilson interval of the accuracy at 95 %: what luck in the choice of test pictures leaves open."""
        return wilson_interval(self.hits, len(self))

    @cached_property
    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Counts, shape (num_classes, num_classes), int64: rows are true, columns predicted."""
        return confusion_matrix(self.y_true, self.y_pred, len(self.class_names))

    @cached_property
    def per_class(self) -> tuple[ClassMetrics, ...]:
        """Precision, recall and F1 of each class, in class order."""
        hits, counts = np.diag(self.confusion_matrix).tolist(), self.confusion_matrix.sum(axis=1).tolist()
        rows = precision_recall_f1(self.confusion_matrix).tolist()
        return tuple(
            ClassMetrics(name, precision, recall, f1, wilson_interval(hit, count), count)
            for name, (precision, recall, f1), hit, count in zip(self.class_names, rows, hits, counts, strict=True)
        )

    def summary(self) -> str:
        """Return the headline in one line."""
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on {len(self)} pictures of "
            f"{len(self.class_names)} classes"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every figure, as JSON can hold it."""
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "samples": len(self),
            "skipped": list(self.skipped),
            "class_names": list(self.class_names),
            "per_class": [
                {
                    "class_name": each.class_name,
                    "precision": each.precision,
                    "recall": each.recall,
                    "recall_interval": list(each.recall_interval),
                    "f1": each.f1,
                    "support": each.support,
                }
                for each in self.per_class
            ],
            "confusion_matrix": self.confusion_matrix.tolist(),
        }

    def save_report(self, path: str | os.PathLike[str]) -> Path:
        """Write the figures to one file: a page to look at (``.html``) or data (``.json``); return its path.

        Raises:
            ConfigurationError: If the suffix is another.
        """
        target = Path(path)
        if target.suffix not in (".html", ".json"):
            raise ConfigurationError(f"A report's name must end in .html or .json. Received: path={str(path)!r}")
        figures = self.to_dict()
        text = report_html(figures) if target.suffix == ".html" else json.dumps(figures, indent=1)
        return replace_file(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def plot_confusion_matrix(self, path: str | os.PathLike[str]) -> Path:
        """Save the confusion matrix as a picture (``.png``, ``.svg`` or ``.pdf``) and return its path."""
        figure = plots.confusion_figure(self.confusion_matrix, self.class_names)
        return replace_file(path, lambda temporary: figure.savefig(temporary, dpi=120))


def evaluate(
    predictor: Predictor, dataset: Dataset, *, bad_images: BadImages = "error", progress: bool = True
) -> Evaluation:
    """Predict every picture of a data set and compare with the truth.

    Classes are matched by name, so the data set may have them in another order or only some of them.

    Args:
        predictor: The classifier.
        dataset: Pictures it has not learned from.
        bad_images: ``"error"`` or ``"skip"``: what to do about pictures that cannot be decoded.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If the data set is empty.
        UnknownNameError: If it has pictures of a class the classifier does not know.
        ImageError: If pictures cannot be decoded (all are named), or all were to be skipped.
    """
    if not isinstance(dataset, Dataset):
        raise ConfigurationError(
            "dataset must be a flowercnn.Dataset; make one with Dataset.from_source(source). "
            f"Received: {type(dataset).__name__}"
        )
    if not len(dataset):
        raise DataError("There is nothing to evaluate on: the data set is empty.")
    encoder = LabelEncoder(predictor.class_names)
    truth = encoder.encode([sample.label or "" for sample in dataset.samples])
    stream = predictor.predict_iter(dataset)
    predictions = list(tracked(stream, total=len(dataset), description="Predicting", unit="img", enabled=progress))
    failed = [prediction for prediction in predictions if prediction.error is not None]
    if failed and (bad_images == "error" or len(failed) == len(predictions)):
        raise ImageError(
            f"{len(failed)} of {len(dataset)} pictures cannot be used: "
            f"{few([f'{prediction.key}: {prediction.error}' for prediction in failed])} "
            "Replace or remove them, or leave them out with bad_images='skip'."
        )
    rows = [(index, each.probabilities) for index, each in enumerate(predictions) if each.probabilities is not None]
    return Evaluation(
        class_names=predictor.class_names,
        keys=tuple(predictions[index].key for index, _ in rows),
        y_true=truth[[index for index, _ in rows]],
        y_prob=np.stack([probabilities for _, probabilities in rows]),
        skipped=tuple(prediction.key for prediction in failed),
    )
