"""The evaluation of a classifier on pictures it has not learned from."""

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
    ReliabilityBin,
    balanced_accuracy,
    brier_scores,
    calibration_error,
    confusion_matrix,
    in_top_k,
    log_losses,
    mean_of_known,
    mirrored_interval,
    percentile_interval,
    precision_recall_f1,
    rank_classes,
    reliability,
    wilson_interval,
)
from flowercnn.evaluation.report import notebook_html, report_html
from flowercnn.evaluation.results import ClassMetrics, Confusion, Metric, Mistake
from flowercnn.sources import Sample

if TYPE_CHECKING:
    from flowercnn.data import AuditReport

__all__ = ["Evaluation", "pooled"]

_WIDEST = {"log_loss": (0.0, math.inf), "brier": (0.0, 2.0)}
_TOP = 5


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Truth and predictions side by side, and every figure computed from them in NumPy.

    Args:
        class_names: All classes in the order of the labels.
        keys: The pictures, in order.
        y_true: Shape (n,), int64.
        y_prob: Shape (n, num_classes), floats, rows sum to 1.
        skipped: Keys of pictures that could not be decoded and are in no figure.
        refused: Keys of pictures the classifier would say "unknown" of; they are in every figure all the same.
        samples: Where the pictures are, in order, for reports that show them; or empty.
        info: What is known about the classifier: `Predictor.info` and its preprocessing.
        history: Curves of the training by name, or empty.
        audit: What was found wrong with the data, or ``None``.

    Raises:
        ConfigurationError: If the shapes do not fit together, a label is of no class, or a probability is NaN.
        DataError: If there is no picture.

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
        object.__setattr__(self, "y_prob", _as_array("y_prob", self.y_prob, np.float64, "fui", "numbers"))
        expected = (len(self.keys), len(self.class_names))
        if self.y_true.shape != expected[:1] or self.y_prob.shape != expected:
            raise ConfigurationError(
                f"y_true must have shape {expected[:1]} and y_prob {expected}. "
                f"Received: {self.y_true.shape} and {self.y_prob.shape}"
            )
        if len(self.samples) not in (0, len(self.keys)):
            raise ConfigurationError(
                f"samples must be empty or one per key. Received: {len(self.samples)} for {len(self.keys)} keys"
            )
        if not self.keys:
            raise DataError("There is nothing to evaluate: an evaluation needs at least one picture.")
        if not np.isfinite(self.y_prob).all():
            raise ConfigurationError("y_prob must be probabilities. Received: NaN or infinity among them")
        if self.y_true.min() < 0 or self.y_true.max() >= len(self.class_names):
            raise ConfigurationError(
                f"y_true must be labels of the {len(self.class_names)} classes, from 0 to "
                f"{len(self.class_names) - 1}. Received: {self.y_true.min()} to {self.y_true.max()}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Evaluation({self.summary()})"

    def _repr_html_(self) -> str:
        return notebook_html(self)

    @cached_property
    def y_pred(self) -> npt.NDArray[np.int64]:
        """The most probable label of each picture, shape (n,), int64."""
        best: npt.NDArray[np.int64] = np.argmax(self.y_prob, axis=1).astype(np.int64)
        return best

    @cached_property
    def confidence(self) -> npt.NDArray[np.float64]:
        """The probability of the predicted class, shape (n,), 0-1."""
        highest: npt.NDArray[np.float64] = self.y_prob.max(axis=1).astype(np.float64)
        return highest

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each picture is classified correctly, shape (n,)."""
        return np.asarray(self.y_pred == self.y_true)

    @property
    def hits(self) -> int:
        """How many pictures are classified correctly."""
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        """The share of pictures classified correctly, 0-1."""
        return self.hits / len(self)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The Wilson interval of the accuracy at 95 %: what luck in the choice of test pictures leaves open."""
        return wilson_interval(self.hits, len(self))

    def top_k(self, k: int = 5) -> Metric:
        """Return the share of pictures whose truth is among the ``k`` most probable, with its Wilson interval."""
        hits = int(in_top_k(self.y_true, self.y_prob, check_count("k", k)).sum())
        return Metric(hits / len(self), wilson_interval(hits, len(self)), "wilson")

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Every figure about all classes, by name, each with its interval.

        ``accuracy``, ``top_5_accuracy`` (with more than five classes), ``balanced_accuracy``, ``log_loss`` (0 is
        best), ``brier`` (0 is best), ``calibration_error`` (0 is best), and ``roc_auc`` and ``average_precision``,
        the means over the classes of one against the rest. Where the bootstrap tells nothing, as of the balanced
        accuracy if all pictures are right, or of one picture, an interval is as wide as can be.
        """
        found = {"accuracy": Metric(self.accuracy, self.accuracy_interval, "wilson")}
        if len(self.class_names) > _TOP:
            found[f"top_{_TOP}_accuracy"] = self.top_k(_TOP)
        for name, drawn in self._bootstrap.figures().items():
            value = getattr(self, name)
            if name == "calibration_error":
                interval = mirrored_interval(drawn, value)
            else:
                interval = percentile_interval(drawn, widest=_WIDEST.get(name, (0.0, 1.0)))
            found[name] = Metric(value, interval, "bootstrap")
        return found

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have pictures, 0-1."""
        return balanced_accuracy(self.confusion_matrix)

    @property
    def log_loss(self) -> float:
        """The mean of minus the natural logarithm of the probability given to the truth; 0 is best."""
        return float(log_losses(self.y_true, self.y_prob).mean())

    @property
    def brier(self) -> float:
        """The mean squared distance of probabilities from the truth, 0-2 (of two classes half that); 0 is best."""
        return float(brier_scores(self.y_true, self.y_prob).mean())

    @property
    def calibration_error(self) -> float:
        """How far confidence is from accuracy on average, 0-1, over ten bins of about equally many; 0 is best."""
        return calibration_error(self.confidence, self.right)

    @property
    def roc_auc(self) -> float:
        """The mean area under the ROC curves of each class against the rest, 0-1."""
        return float(mean_of_known(self._ranking[:, 0, 0]))

    @property
    def average_precision(self) -> float:
        """The mean area under the precision-recall curves of each class against the rest, 0-1."""
        return float(mean_of_known(self._ranking[:, 0, 1]))

    @cached_property
    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Counts, shape (num_classes, num_classes), int64: rows are true, columns predicted."""
        return confusion_matrix(self.y_true, self.y_pred, len(self.class_names))

    @cached_property
    def per_class(self) -> tuple[ClassMetrics, ...]:
        """Precision, recall, F1 and ranking of each class, in class order."""
        hits, counts = np.diag(self.confusion_matrix).tolist(), self.confusion_matrix.sum(axis=1).tolist()
        called = self.confusion_matrix.sum(axis=0).tolist()
        rows = precision_recall_f1(self.confusion_matrix).tolist()
        f1_intervals = [percentile_interval(drawn) for drawn in self._bootstrap.f1().T]
        ranking = self._ranking[:, 0].tolist()
        return tuple(
            ClassMetrics(
                name,
                precision=rows[label][0],
                recall=rows[label][1],
                f1=rows[label][2],
                recall_interval=wilson_interval(hits[label], counts[label]),
                support=counts[label],
                precision_interval=wilson_interval(hits[label], called[label]),
                f1_interval=f1_intervals[label],
                roc_auc=ranking[label][0],
                average_precision=ranking[label][1],
            )
            for label, name in enumerate(self.class_names)
        )

    @property
    def reliability(self) -> list[ReliabilityBin]:
        """Confidence and accuracy of ten bins of about equally many pictures, the least confident first."""
        return reliability(self.confidence, self.right)

    def most_confused(self, limit: int = 10) -> list[Confusion]:
        """Return the pairs of classes taken for one another most often, at most ``limit``."""
        limit = check_count("limit", limit, least=0)
        wrong = self.confusion_matrix - np.diag(np.diag(self.confusion_matrix))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        places = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [
            Confusion(
                self.class_names[true],
                self.class_names[predicted],
                int(wrong[true, predicted]),
                float(wrong[true, predicted] / self.confusion_matrix[true].sum()),
                tuple(np.array(self.keys, dtype=object)[(self.y_true == true) & (self.y_pred == predicted)].tolist()),
            )
            for true, predicted in places
            if wrong[true, predicted]
        ]

    def worst_mistakes(self, limit: int = 10) -> list[Mistake]:
        """Return the pictures classified wrongly, those first that got least for their truth, at most ``limit``."""
        limit = check_count("limit", limit, least=0)
        of_truth = self.y_prob[np.arange(len(self)), self.y_true]
        wrong = np.flatnonzero(~self.right)
        order = wrong[np.lexsort((-self.confidence[wrong], of_truth[wrong]))][:limit]
        return [
            Mistake(
                self.keys[index],
                self.class_names[self.y_true[index]],
                self.class_names[self.y_pred[index]],
                float(self.confidence[index]),
                float(of_truth[index]),
                index,
            )
            for index in order.tolist()
        ]

    def summary(self) -> str:
        """Return the headline in one line."""
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on {len(self)} pictures of "
            f"{len(self.class_names)} classes"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every figure, as JSON can hold it; what is not defined is ``None``."""
        figures = {
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
            "history": {name: list(values) for name, values in self.history.items()},
            "audit": None if self.audit is None else self.audit.to_dict(),
            "info": dict(self.info),
        }
        plain: dict[str, Any] = _plain(figures)
        return plain

    def save_report(self, path: str | os.PathLike[str]) -> Path:
        """Write a report: a page to look at (``.html``), or its figures as data (``.json``); return its path.

        The page is one file that needs no network, with thumbnails of the pictures if `samples` are known. The same
        figures are written beside it, to a file of the same name that ends in ``.json``.

        Raises:
            ConfigurationError: If the suffix is another, or the file cannot be written there.
            OutputError: If writing it fails all the same, such as on a full disk.
        """
        target = as_path(path)
        if target.suffix not in (".html", ".json"):
            raise ConfigurationError(f"A report's name must end in .html or .json. Received: path={str(path)!r}")
        if not can_be_written(target):
            raise ConfigurationError(f"A report's folder must be one that can be written. Received: {str(path)!r}")
        figures = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_result(target.with_suffix(".json"), lambda temporary: temporary.write_text(figures, encoding="utf-8"))
        if target.suffix == ".html":
            page = report_html(self)
            write_result(target, lambda temporary: temporary.write_text(page, encoding="utf-8"))
        return target

    def plot_confusion_matrix(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the confusion matrix as a picture (``.png``, ``.svg`` or ``.pdf``) and return its path."""
        return plots.save_figure(plots.confusion_figure(self.confusion_matrix, self.class_names, dark=dark), path)

    def plot_reliability(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the reliability diagram (accuracy over confidence) as a picture and return its path."""
        return plots.save_figure(plots.reliability_figure(self.reliability, dark=dark), path)

    def plot_per_class(self, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
        """Save the recall of each class with its interval as a picture and return its path."""
        return plots.save_figure(plots.per_class_figure(self.per_class, dark=dark), path)

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        return Bootstrap(self.y_true, self.y_prob)

    @cached_property
    def _ranking(self) -> npt.NDArray[np.float64]:
        """ROC-AUC and average precision of each class, shape (num_classes, 1, 2)."""
        return rank_classes(self.y_true, self.y_prob)


def _plain(value: Any) -> Any:
    """Return what JSON can hold: tuples and arrays as lists, paths as text, NaN as ``None``."""
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


def _as_array(name: str, values: Any, kind: type[np.generic], kinds: str, rule: str) -> npt.NDArray[Any]:
    """Return an array of numbers; lists of them are taken too."""
    try:
        array = np.asarray(values) if np.size(values) else np.asarray(values, kind)
    except (TypeError, ValueError):  # rows of several lengths
        array = np.array(None)
    if array.dtype.kind not in kinds:
        raise ConfigurationError(
            f"{name} must be an array of {rule}. Received: {type(values).__name__} of {array.dtype}"
        )
    return array if array.dtype.kind == "f" else array.astype(kind, copy=False)


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluations of different pictures of the same classes as one."""
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
