"""Which labels are probably wrong, told from probabilities of pictures a classifier has not learned from."""

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
    """A picture, its label, and what a classifier that has not learned from it takes it for.

    Args:
        key: Which picture.
        label: The label it has.
        suggested: The class the classifier takes it for.
        quality: The probability the classifier gives to the label, 0-1; the lowest are the worst.
        likely: Whether confident learning counts it as wrong; only as good as the classifier, whose own mistakes are
            counted too.
        sample: Where the picture is, or ``None`` if that is not known.
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
    """Return every picture, those first whose label the classifier believes least (Northcutt et al. 2021).

    The order is that of `LabelIssue.quality` (self-confidence). A picture counts as wrong (`LabelIssue.likely`)
    if it is at least as surely of another class as pictures of that class are on average, and more surely than of its
    own.

    Args:
        evaluation: Of pictures the classifier has not learned from; `flowercnn.workflow.cross_validate` gives one of
            all pictures of a data set.

    Raises:
        ConfigurationError: If there is only one class.
    """
    if len(evaluation.class_names) < 2:  # noqa: PLR2004 - there is nothing else a label could be
        raise ConfigurationError("Wrong labels can only be told from at least two classes.")
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


def _confidently_other(y_true: npt.NDArray[np.int64], y_prob: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether each picture is counted off the diagonal of the confident joint."""
    present = np.unique(y_true)
    usual = np.full(y_prob.shape[1], np.inf)  # what pictures of a class get for it on average
    usual[present] = [y_prob[y_true == label, label].mean() for label in present]
    confident = np.where(y_prob >= usual, y_prob, -1)
    best = confident.argmax(axis=1)
    return np.asarray((confident.max(axis=1) > 0) & (best != y_true))
