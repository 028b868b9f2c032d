"""What a training brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from flowercnn.evaluation.charts import line_chart
from flowercnn.evaluation.evaluation import Evaluation
from flowercnn.models.recipe import Recipe
from flowercnn.prediction.predictor import Predictor
from flowercnn.splits import Splits
from flowercnn.training.history import History

__all__ = ["TrainingRun"]

_NOTEBOOK_STYLE = """
.flowercnn svg { max-width: 22rem }
.flowercnn .a { stroke: #0072b2; fill: none; stroke-width: 2 }
.flowercnn .b { stroke: #d55e00; fill: none; stroke-width: 2; stroke-dasharray: 6 4 }
.flowercnn .axis { stroke: #8886 }
.flowercnn text { fill: currentColor; font-size: 11px }
.flowercnn figure { display: inline-block; margin: 0 1em 0 0 }
"""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The result of `Trainer.fit`.

    Args:
        predictor: The trained classifier.
        history: What happened in each epoch; `History.plot` draws it.
        recipe: How it was trained.
        seed: The seed of weights, order and augmentation.
        precision: ``"float32"`` or ``"bfloat16"``: how activations were held.
        seconds: Wall-clock seconds by step: ``"decode"``, ``"train"``, ``"total"``.
        interrupted: Whether Ctrl-C ended the training early. What was learned until then is in ``predictor``.
        skipped: Keys of training and validation pictures that could not be decoded and were left out.
        notes: What a user should know about how the training went, in sentences; usually nothing.
        splits: Who learned from what, if `train` split the data.
        evaluation: The figures on ``test``, if `train` measured them.
    """

    predictor: Predictor
    history: History
    recipe: Recipe
    seed: int
    precision: str
    seconds: Mapping[str, float]
    interrupted: bool = False
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    splits: Splits | None = None
    evaluation: Evaluation | None = None

    def _repr_html_(self) -> str:
        curves = self.history.to_dict()
        last = ", ".join(f"{name} {values[-1]:.3f}" for name, values in curves.items())
        charts = "".join(
            line_chart(title, {key: curves[key] for key in (name, f"val_{name}") if key in curves})
            for title, name in (("Accuracy", "accuracy"), ("Loss", "loss"))
            if name in curves
        )
        ended = ", stopped early" if self.interrupted else ""
        tested = self.evaluation._repr_html_() if self.evaluation is not None else ""
        return (
            f"<div><style>{_NOTEBOOK_STYLE}</style><div class='flowercnn'><p>Trained {len(self.history)} epochs in "
            f"{self.seconds.get('total', 0):.0f} s{ended}: {escape(last)}</p>{charts}{tested}</div></div>"
        )
