"""Label errors, found from probabilities of images the classifier was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError
from flowercnn.evaluation.evaluation import Evaluation
from flowercnn.sources import Sample

__all__ = ["LabelIssue", "label_issues"]


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """Label of an image with its quality and the class suggested instead.

    Args:
        key: Key of the image.
        label: Its label.
        suggested: The most probable other class.
        quality: Probability of the label, 0-1; the lowest are the worst.
        likely: Whether confident learning counts the label as wrong; this includes mistakes of the
            classifier.
        sample: Sample of the image, or ``None`` if unknown.
    """

    key: str
    label: str
    suggested: str
    quality: float
    likely: bool
    sample: Sample | None = None

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.key)}: {escape(self.label)}, rather {escape(self.suggested)}</p>"


def label_issues(evaluation: Evaluation) -> list[LabelIssue]:
    """Return all labels, those of the lowest quality first (Northcutt et al. 2021).

    Quality is the self-confidence. A label is a likely error if another class is at least as
    probable as it is on average for images of that class, and is the most probable such class.

    Args:
        evaluation: Evaluation on images the classifier was not trained on; that of
            `flowercnn.cross_validate` is on all images of a data set.

    Raises:
        ConfigurationError: If there is only one class.
    """
    if len(evaluation.class_names) < 2:  # noqa: PLR2004 - no other label is possible
        raise ConfigurationError(
            "evaluation must have at least two classes to find wrong labels. Received: 1 class"
        )
    rows = np.arange(len(evaluation))
    y_true = evaluation.y_true
    y_prob = np.asarray(evaluation.y_prob, dtype=np.float64)
    others = y_prob.copy()
    others[rows, y_true] = -1
    rival = others.argmax(axis=1)
    quality = y_prob[rows, y_true]
    likely = _confidently_other(y_true, y_prob)
    samples = evaluation.samples or (None,) * len(evaluation)
    return [
        LabelIssue(
            key=evaluation.keys[index],
            label=evaluation.class_names[y_true[index]],
            suggested=evaluation.class_names[rival[index]],
            quality=float(quality[index]),
            likely=bool(likely[index]),
            sample=samples[index],
        )
        for index in np.argsort(quality, kind="stable").tolist()
    ]


def _confidently_other(
    y_true: npt.NDArray[np.int64], y_prob: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return whether each image is off the diagonal of the confident joint."""
    present = np.unique(y_true)
    usual = np.full(y_prob.shape[1], np.inf)  # mean self-confidence of each class
    usual[present] = [y_prob[y_true == label, label].mean() for label in present]
    confident = np.where(y_prob >= usual, y_prob, -1)
    best = confident.argmax(axis=1)
    return np.asarray((confident.max(axis=1) > 0) & (best != y_true))
