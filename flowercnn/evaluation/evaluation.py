"""Evaluation of a classifier on images it was not trained on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowercnn._utils import as_path, can_be_written, check_count, write_result
from flowercnn.errors import ConfigurationError, DataError
from flowercnn.evaluation import plots
from flowercnn.evaluation.metrics import (
    Bootstrap,
    ClassMetrics,
    Confusion,
    Metric,
    Mistake,
    ReliabilityBin,
    brier_scores,
    calibration_error,
    in_top_k,
    log_losses,
    mean_of_known,
    mirrored_interval,
    percentile_interval,
    rank_classes,
    reliability,
    wilson_interval,
)
from flowercnn.evaluation.report import ReportData, notebook_html, report_html
from flowercnn.sources import Sample

if TYPE_CHECKING:
    from flowercnn.data import AuditReport

__all__ = ["Evaluation", "pooled"]

_WIDEST = {"log_loss": (0.0, math.inf), "brier": (0.0, 2.0)}
_TOP = 5


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Evaluation: true labels and predicted probabilities, and every metric computed from them.

    Args:
        class_names: All classes in the order of the labels.
        keys: Keys of the images, in order.
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes), floats, rows sum to 1.
        skipped: Keys of images that could not be decoded and are not counted.
        refused: Keys of images that would be predicted as unknown; they are counted all the same.
        samples: Samples of the images in order, for reports that show them; or empty.
        info: Metadata of the classifier: `Predictor.info` and its preprocessing.
        history: Curves of the training by name, or empty.
        audit: Audit of the data, or ``None``.

    Raises:
        ConfigurationError: If the shapes do not match, a label is out of range, or a probability is
            not finite.
        DataError: If there is no image.

    Example:
        >>> import numpy as np
        >>> y_prob = np.array([[0.9, 0.1], [0.6, 0.4]], dtype=np.float32)
        >>> evaluation = Evaluation(("daisy", "rose"), ("1", "2"), np.array([0, 1]), y_prob)
        >>> evaluation.accuracy, evaluation.worst_mistakes()[0].key
        (0.5, '2')
    """

    class_names: tuple[str, ...]
    keys: tuple[str, ...]
    y_true: npt.NDArray[np.int64]
    y_prob: npt.NDArray[np.floating[Any]]
    skipped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    audit: AuditReport | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "y_true", _as_array("y_true", self.y_true, np.int64, "ui", "ints"))
        object.__setattr__(
            self, "y_prob", _as_array("y_prob", self.y_prob, np.float64, "fui", "numbers")
        )
        count, classes = len(self.keys), len(self.class_names)
        if self.y_true.shape != (count,) or self.y_prob.shape != (count, classes):
            raise ConfigurationError(
                f"y_true must have shape {(count,)} and y_prob {(count, classes)}. "
                f"Received: {self.y_true.shape} and {self.y_prob.shape}"
            )
        if len(self.samples) not in (0, count):
            raise ConfigurationError(
                "samples must be empty or one per key. "
                f"Received: {len(self.samples)} for {count} keys"
            )
        if not count:
            raise DataError("There is nothing to evaluate: an evaluation needs at least one image.")
        if not np.isfinite(self.y_prob).all():
            raise ConfigurationError(
                "y_prob must be probabilities. Received: NaN or infinity among them"
            )
        if self.y_true.min() < 0 or self.y_true.max() >= classes:
            raise ConfigurationError(
                f"y_true must be labels of the {classes} classes, from 0 to {classes - 1}. "
                f"Received: {self.y_true.min()} to {self.y_true.max()}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Evaluation({self.summary()})"

    def _repr_html_(self) -> str:
        return notebook_html(self._accuracy, self.per_class)

    @cached_property
    def y_pred(self) -> npt.NDArray[np.int64]:
        """Most probable label of each image, shape (n,), int64."""
        best: npt.NDArray[np.int64] = np.argmax(self.y_prob, axis=1).astype(np.int64)
        return best

    @cached_property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of the predicted class, shape (n,), 0-1."""
        highest: npt.NDArray[np.float64] = self.y_prob.max(axis=1).astype(np.float64)
        return highest

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each image is classified correctly, shape (n,)."""
        return np.asarray(self.y_pred == self.y_true)

    @property
    def hits(self) -> int:
        """Number of images classified correctly."""
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        """Share of the images classified correctly, 0-1."""
        return self.hits / len(self)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson interval of the accuracy at 95 %, for the chance in the choice of test images."""
        return wilson_interval(self.hits, len(self))

    @property
    def _accuracy(self) -> Metric:
        return Metric(self.accuracy, self.accuracy_interval, "wilson")

    def top_k(self, k: int = 5) -> Metric:
        """Return the top-k accuracy with its Wilson interval."""
        hits = int(in_top_k(self.y_true, self.y_prob, check_count("k", k)).sum())
        return Metric(hits / len(self), wilson_interval(hits, len(self)), "wilson")

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Metrics over all classes by name, each with its interval.

        ``accuracy``, ``top_5_accuracy`` (with more than five classes), ``balanced_accuracy``,
        ``log_loss`` (0 is best), ``brier`` (0 is best), ``calibration_error`` (0 is best), and
        ``roc_auc`` and ``average_precision``, the means over the classes of one against the rest.
        Where the bootstrap says nothing, as for the balanced accuracy if all images are correct, or
        for a single image, an interval is as wide as possible.
        """
        metrics = {"accuracy": self._accuracy}
        if len(self.class_names) > _TOP:
            metrics[f"top_{_TOP}_accuracy"] = self.top_k(_TOP)
        for name, drawn in self._bootstrap.metrics().items():
            value = getattr(self, name)
            if name == "calibration_error":
                interval = mirrored_interval(drawn, value)
            else:
                interval = percentile_interval(drawn, widest=_WIDEST.get(name, (0.0, 1.0)))
            metrics[name] = Metric(value, interval, "bootstrap")
        return metrics

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images, 0-1."""
        _, recall, _, support = self._scores
        return float(recall[support > 0].mean())

    @property
    def log_loss(self) -> float:
        """Mean log loss (natural logarithm); 0 is best."""
        return float(log_losses(self.y_true, self.y_prob).mean())

    @property
    def brier(self) -> float:
        """Mean Brier score, 0-2 (0-1 with two classes); 0 is best."""
        return float(brier_scores(self.y_true, self.y_prob).mean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over ten bins of about equally many images, 0-1; 0 is best."""
        return calibration_error(self.confidence, self.right)

    @property
    def roc_auc(self) -> float:
        """Mean area under the ROC curve of each class against the rest, 0-1."""
        return float(mean_of_known(self._ranking[:, 0]))

    @property
    def average_precision(self) -> float:
        """Mean area under the precision-recall curve of each class against the rest, 0-1."""
        return float(mean_of_known(self._ranking[:, 1]))

    @cached_property
    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Confusion matrix, rows are true classes, shape (num_classes, num_classes), int64."""
        from sklearn.metrics import confusion_matrix

        return np.asarray(confusion_matrix(self.y_true, self.y_pred, labels=self._labels), np.int64)

    @cached_property
    def per_class(self) -> tuple[ClassMetrics, ...]:
        """Precision, recall, F1, ROC-AUC and average precision of each class, in class order."""
        hits = np.diag(self.confusion_matrix).tolist()
        predicted = self.confusion_matrix.sum(axis=0).tolist()
        precision, recall, f1, support = (scores.tolist() for scores in self._scores)
        f1_drawn = self._bootstrap.f1().T
        return tuple(
            ClassMetrics(
                name,
                precision=precision[label],
                recall=recall[label],
                f1=f1[label],
                recall_interval=wilson_interval(hits[label], support[label]),
                support=support[label],
                precision_interval=wilson_interval(hits[label], predicted[label]),
                f1_interval=percentile_interval(f1_drawn[label]),
                roc_auc=float(self._ranking[label, 0]),
                average_precision=float(self._ranking[label, 1]),
            )
            for label, name in enumerate(self.class_names)
        )

    @property
    def reliability(self) -> list[ReliabilityBin]:
        """Ten bins of about equally many images, the least confident first."""
        return reliability(self.confidence, self.right)

    def most_confused(self, limit: int = 10) -> list[Confusion]:
        """Return the pairs of classes confused most often, at most ``limit``."""
        limit = check_count("limit", limit, least=0)
        wrong = self.confusion_matrix - np.diag(np.diag(self.confusion_matrix))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        places = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [self._confusion(*place) for place in places if wrong[place]]

    def _confusion(self, true: int, predicted: int) -> Confusion:
        images = np.flatnonzero((self.y_true == true) & (self.y_pred == predicted)).tolist()
        return Confusion(
            true=self.class_names[true],
            predicted=self.class_names[predicted],
            count=len(images),
            share=float(len(images) / self.confusion_matrix[true].sum()),
            keys=tuple(self.keys[index] for index in images),
        )

    def worst_mistakes(self, limit: int = 10) -> list[Mistake]:
        """Return at most ``limit`` mistakes, the least probability of the truth first."""
        limit = check_count("limit", limit, least=0)
        of_truth = self.y_prob[np.arange(len(self)), self.y_true]
        wrong = np.flatnonzero(~self.right)
        order = wrong[np.lexsort((-self.confidence[wrong], of_truth[wrong]))][:limit]
        return [
            Mistake(
                key=self.keys[index],
                true=self.class_names[self.y_true[index]],
                predicted=self.class_names[self.y_pred[index]],
                confidence=float(self.confidence[index]),
                probability_of_truth=float(of_truth[index]),
                index=index,
            )
            for index in order.tolist()
        ]

    def summary(self) -> str:
        """Return the accuracy in one line."""
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) "
            f"on {len(self)} images of {len(self.class_names)} classes"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every metric as values that JSON can hold; undefined ones are ``None``."""
        values = {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "samples": len(self),
            "skipped": list(self.skipped),
            "refused": list(self.refused),
            "class_names": list(self.class_names),
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "per_class": [asdict(each) for each in self.per_class],
            "confusion_matrix": self.confusion_matrix.tolist(),
            "reliability": [asdict(each) for each in self.reliability],
            "most_confused": [asdict(each) for each in self.most_confused()],
            "worst_mistakes": [asdict(each) for each in self.worst_mistakes()],
            "history": {name: list(curve) for name, curve in self.history.items()},
            "audit": None if self.audit is None else self.audit.to_dict(),
            "info": dict(self.info),
        }
        plain: dict[str, Any] = _plain(values)
        return plain

    def save_report(self, path: str | os.PathLike[str]) -> Path:
        """Write a report as a page (``.html``) or as data (``.json``) and return its path.

        The page is one file that needs no network, with thumbnails of the images if `samples` are
        known. The same values are written beside it, to a ``.json`` file of the same name.

        Raises:
            ConfigurationError: If the suffix is another, or the file cannot be written there.
            OutputError: If writing fails nevertheless, such as on a full disk.
        """
        target = as_path(path)
        if target.suffix not in (".html", ".json"):
            raise ConfigurationError(
                f"A report's name must end in .html or .json. Received: path={str(path)!r}"
            )
        if not can_be_written(target):
            raise ConfigurationError(
                f"A report's folder must be writable. Received: path={str(path)!r}"
            )
        values = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_result(target.with_suffix(".json"), lambda file: file.write_text(values, "utf-8"))
        if target.suffix == ".html":
            page = report_html(self._report_data())
            write_result(target, lambda file: file.write_text(page, "utf-8"))
        return target

    def _report_data(self) -> ReportData:
        return ReportData(
            keys=self.keys,
            y_true=self.y_true,
            y_pred=self.y_pred,
            confidence=self.confidence,
            samples=self.samples,
            skipped=self.skipped,
            refused=self.refused,
            metrics=self.metrics,
            per_class=self.per_class,
            confusion_matrix=self.confusion_matrix,
            reliability=self.reliability,
            most_confused=self.most_confused(),
            mistakes=self.worst_mistakes(len(self)),
            info=self.info,
            history=self.history,
            audit="" if self.audit is None else self.audit.to_html(),
        )

    def plot_confusion_matrix(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the confusion matrix (``.png``, ``.svg`` or ``.pdf``) and return its path."""
        figure = plots.confusion_figure(self.confusion_matrix, self.class_names, dark=dark)
        return plots.save_figure(figure, path)

    def plot_reliability(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the reliability diagram (accuracy over confidence) and return its path."""
        return plots.save_figure(plots.reliability_figure(self.reliability, dark=dark), path)

    def plot_per_class(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the recall of each class with its interval and return the path."""
        return plots.save_figure(plots.per_class_figure(self.per_class, dark=dark), path)

    @property
    def _labels(self) -> range:
        return range(len(self.class_names))

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        return Bootstrap(self.y_true, self.y_prob)

    @cached_property
    def _ranking(self) -> npt.NDArray[np.float64]:
        """ROC-AUC and average precision of each class, shape (num_classes, 2)."""
        return rank_classes(self.y_true, self.y_prob)

    @cached_property
    def _scores(self) -> tuple[npt.NDArray[Any], ...]:
        """Precision, recall, F1 and support, each of shape (num_classes,)."""
        from sklearn.metrics import precision_recall_fscore_support

        scores: tuple[npt.NDArray[Any], ...] = precision_recall_fscore_support(
            self.y_true, self.y_pred, labels=self._labels, zero_division=0
        )
        return scores


def _plain(value: Any) -> Any:
    """Return what JSON can hold: arrays as lists, paths as text, NaN as ``None``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return value.item() if isinstance(value, np.generic) else value


def _as_array(
    name: str, values: Any, kind: type[np.generic], kinds: str, rule: str
) -> npt.NDArray[Any]:
    """Return an array of numbers; lists are accepted too."""
    try:
        array = np.asarray(values) if np.size(values) else np.asarray(values, kind)
    except (TypeError, ValueError):  # rows of several lengths
        array = np.array(None)
    if array.dtype.kind not in kinds:
        received = f"{type(values).__name__} of {array.dtype}"
        raise ConfigurationError(f"{name} must be an array of {rule}. Received: {received}")
    return array if array.dtype.kind == "f" else array.astype(kind, copy=False)


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluations of different images of the same classes as one."""
    first = evaluations[0]
    return Evaluation(
        class_names=first.class_names,
        keys=tuple(key for each in evaluations for key in each.keys),
        y_true=np.concatenate([each.y_true for each in evaluations]),
        y_prob=np.concatenate([each.y_prob for each in evaluations]),
        skipped=tuple(key for each in evaluations for key in each.skipped),
        refused=tuple(key for each in evaluations for key in each.refused),
        samples=tuple(sample for each in evaluations for sample in each.samples),
        info=first.info,
    )
