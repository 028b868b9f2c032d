"""Evaluation report: one HTML file that needs no network.

Keys and class names are escaped wherever they appear, so they stay text whatever they contain.
"""

from __future__ import annotations

import base64
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from importlib.metadata import version
from string import Template
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowercnn import __version__
from flowercnn._utils import cpu_count, ordered_map
from flowercnn.errors import FlowerCNNError, few
from flowercnn.evaluation.charts import interval_chart, line_chart, reliability_chart
from flowercnn.evaluation.metrics import (
    ClassMetrics,
    Confusion,
    Metric,
    Mistake,
    ReliabilityBin,
    interval_text,
)
from flowercnn.preprocessing import Preprocessing, decode_image, read_content
from flowercnn.sources import Sample

__all__ = ["ReportData", "notebook_html", "report_html"]

T = TypeVar("T")

_THUMBNAIL_SIZE: Final = (112, 112)
_THUMBNAIL_BYTES: Final = 3_400_000  # of base64, in all: keeps a page below 5 MB
_MOST_THUMBNAILS: Final = 1200
_MISTAKES: Final = 24
_LONGEST_TEXT: Final = 300
_DARK_CELL: Final = 0.55
_DEFAULTS: Final = Preprocessing()
_TITLES: Final = {
    "top_5_accuracy": "Truth among the top 5",
    "balanced_accuracy": "Balanced accuracy",
    "log_loss": "Log loss (0 is best)",
    "brier": "Brier score (0 is best)",
    "calibration_error": "Calibration error (0 is best)",
    "roc_auc": "ROC-AUC, one against the rest",
    "average_precision": "Average precision, likewise",
}
_IN_PERCENT: Final = ("top_5_accuracy", "balanced_accuracy", "calibration_error")
_CURVES: Final = (("Accuracy", "accuracy"), ("Loss", "loss"), ("Learning rate", "learning_rate"))
_COLUMNS: Final = (
    *("class", "recall", "its 95 % interval", "precision"),
    *("F1", "ROC-AUC", "average precision", "images"),
)


@dataclass(frozen=True, eq=False)
class ReportData:
    """Content of a report, named as in `flowercnn.Evaluation`; ``audit`` is HTML or empty."""

    keys: tuple[str, ...]
    y_true: npt.NDArray[np.int64]
    y_pred: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...]
    refused: tuple[str, ...]
    metrics: Mapping[str, Metric]
    per_class: Sequence[ClassMetrics]
    confusion_matrix: npt.NDArray[np.int64]
    reliability: Sequence[ReliabilityBin]
    most_confused: Sequence[Confusion]
    mistakes: Sequence[Mistake]
    info: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    audit: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return tuple(each.class_name for each in self.per_class)

    @property
    def hits(self) -> int:
        """Number of images classified correctly."""
        return int(np.trace(self.confusion_matrix))


def report_html(data: ReportData) -> str:
    """Return the report as an HTML page."""
    thumbnails = _thumbnails(data)
    sections = {
        "result": ("Result", _result(data)),
        "data": ("Data and training", _training(data)),
        "confusion": ("Confusion matrix", _confusion(data)),
        "mistakes": ("Worst mistakes", _mistakes(data, thumbnails)),
        "classes": ("Classes", _classes(data)),
        "calibration": ("Calibration", _calibration(data)),
        "audit": ("Data audit", data.audit),
        "configuration": ("Configuration", _configuration(data.info)),
        "card": ("Model card", _card(data)),
    }
    shown = {name: section for name, section in sections.items() if section[1]}
    page = resources.files("flowercnn.evaluation").joinpath("page")
    name = _known(data.info, "model", str) or "classifier"
    html = Template(page.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{name}: {data.metrics['accuracy'].value:.1%} of {len(data.keys)} images"),
        heading=escape(f"{name} on {len(data.class_names)} classes"),
        lead=escape(_lead(data)),
        contents="".join(
            f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in shown.items()
        ),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>\n'
            f"{body}\n</section>"
            for key, (title, body) in shown.items()
        ),
        version=escape(__version__),
        style=page.joinpath("report.css").read_text(encoding="utf-8"),
        script=page.joinpath("report.js").read_text(encoding="utf-8"),
        data=_as_script(_image_data(data, thumbnails)),
    )
    # JSON may contain lone surrogates, which no file can.
    return html.encode("utf-8", "backslashreplace").decode()


def notebook_html(accuracy: Metric, per_class: Sequence[ClassMetrics]) -> str:
    """Return the accuracy and a table of the classes as HTML, for notebooks."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(each.class_name)}</td>"
        f"<td>{each.precision:.0%}</td><td>{each.recall:.0%}</td><td>{each.f1:.0%}</td>"
        f"<td>{each.support}</td></tr>"
        for each in sorted(per_class, key=lambda each: each.f1)
    )
    return (
        f"<p><strong>{accuracy.value:.1%}</strong> correct (95&nbsp;% interval "
        f"{interval_text(accuracy.interval, '.1%')}) on {sum(each.support for each in per_class)} "
        f"images of {len(per_class)} classes</p>"
        "<details><summary>Classes, the hardest first</summary><table><thead><tr><th>class</th>"
        "<th>precision</th><th>recall</th><th>F1</th><th>images</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _lead(data: ReportData) -> str:
    count = _known(data.info, "train_samples", int)
    trained = "A classifier" if count is None else f"Trained on {count:,} images"
    # Only `train`, which adds the history, is known to test on other images than it trains on.
    unseen = " it was not trained on" if data.history else ""
    return f"{trained}, tested on {len(data.keys):,} images{unseen}."


def _known(info: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """Return a value of the metadata if it has its type: a stranger's file may hold anything."""
    value = info.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _result(data: ReportData) -> str:
    accuracy = data.metrics["accuracy"]
    between = " and ".join(f"{end:.1%}" for end in accuracy.interval)
    tiles = "".join(
        _tile(title, data.metrics[name], ".1%" if name in _IN_PERCENT else ".3f")
        for name, title in _TITLES.items()
        if name in data.metrics
    )
    remarks = ""
    if data.skipped:
        remarks += f" {len(data.skipped)} could not be decoded and are not counted."
    if data.refused:
        remarks += f" {len(data.refused)} of the images would be predicted as unknown."
    return (
        f'<p class="headline"><strong>{accuracy.value:.1%}</strong>'
        f"<span>correct: {data.hits} of {len(data.keys)} test images</span></p>"
        + interval_chart(accuracy.value, *accuracy.interval, chance=1 / len(data.class_names))
        + f"<p>The accuracy on all images of the same kind is between {between} (95&nbsp;% "
        f'interval, Wilson).{remarks}</p><dl class="tiles">{tiles}</dl>'
        '<p class="note">Below each value is its 95&nbsp;% interval: Wilson for shares of images, '
        "bootstrap percentiles over the test images for the others. Where these say nothing, as "
        "when every image is classified correctly, it is as wide as possible.</p>"
    )


def _tile(title: str, metric: Metric, form: str) -> str:
    value = "none" if math.isnan(metric.value) else f"{metric.value:{form}}"
    return (
        f"<div><dt>{escape(title)}</dt><dd>{value}"
        f"<small>{interval_text(metric.interval, form)}, {metric.method}</small></dd></div>"
    )


def _training(data: ReportData) -> str:
    facts = {
        "Classes": ", ".join(data.class_names),
        "Training images": _known(data.info, "train_samples", int),
        "Test images": len(data.keys),
        "Network": _known(data.info, "model", str),
        "Epochs": _known(data.info, "epochs", int),
        "Seed": _known(data.info, "seed", int),
    }
    charts = "".join(
        _history_chart(data.history, title, name) for title, name in _CURVES if name in data.history
    )
    return _facts(facts) + (f'<div class="charts">{charts}</div>' if data.history else "")


def _history_chart(history: Mapping[str, Sequence[float]], title: str, name: str) -> str:
    if name == "learning_rate":
        return line_chart(title, {"last": history[name]})
    curves = {"train": history[name]}
    if f"val_{name}" in history:
        curves["val"] = history[f"val_{name}"]
    return line_chart(title, curves, top=1.0 if name == "accuracy" else None)


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _confusion(data: ReportData) -> str:
    names = [escape(name) for name in data.class_names]
    header = "".join(f'<th scope="col" title="{name}"><span>{name}</span></th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row" title="{names[row]}">{names[row]}</th>'
        + "".join(
            _cell(names, row, column, count, sum(counts)) for column, count in enumerate(counts)
        )
        + "</tr>"
        for row, counts in enumerate(data.confusion_matrix.tolist())
    )
    pairs = "".join(
        f"<li>{escape(each.true)} taken for {escape(each.predicted)}: "
        f"{each.count} ({each.share:.0%})</li>"
        for each in data.most_confused
    )
    confused = f'<h3>Most confused</h3><ol class="pairs">{pairs}</ol>' if pairs else ""
    return (
        "<p>Rows are true classes, columns predicted classes. "
        '<span class="hint">Choose a number to see its images; arrow keys move between numbers.'
        '</span></p><div class="matrix"><div class="scroll" role="region" tabindex="0" '
        'aria-label="Confusion matrix"><table><caption class="visually-hidden">'
        "Counts of true classes (rows) by predicted classes (columns)</caption>"
        f"<thead><tr><td></td>{header}</tr></thead>"
        f"<tbody>\n{rows}\n</tbody></table></div></div>"
        '<div class="panel" id="cell" aria-live="polite"><p class="note">No number is chosen yet.'
        f"</p></div>{confused}"
    )


def _cell(names: Sequence[str], row: int, column: int, count: int, total: int) -> str:
    if not count:
        return "<td></td>"
    share = count / total
    prediction = "recognised" if row == column else f"taken for {names[column]}"
    label = f"{names[row]}, {prediction}: {count} of {total}"
    kind = "full" + (" wrong" if row != column else "") + (" strong" if share > _DARK_CELL else "")
    return (
        f'<td class="{kind}"><button type="button" style="--share:{0.15 + 0.85 * share:.2f}" '
        f'data-row="{row}" data-column="{column}" aria-pressed="false" title="{label}" '
        f'aria-label="{label}">{count}</button></td>'
    )


def _mistakes(data: ReportData, thumbnails: Mapping[int, str]) -> str:
    if not data.mistakes:
        return "<p>Every image was classified correctly.</p>"
    items = "".join(
        f"<li>{_image(thumbnails.get(each.index), f'{each.true}, taken for {each.predicted}')}"
        f'<b>{escape(each.true)}</b><br><span class="took">{escape(each.predicted)} '
        f'{each.confidence:.0%}</span><br><span class="name">{escape(each.key)}</span></li>'
        for each in data.mistakes[:_MISTAKES]
    )
    return (
        "<p>The images whose true class got the lowest probability. In bold the true class, below "
        "it the predicted class with its probability. Many wrong labels are found here.</p>"
        f'<ul class="images">{items}</ul>'
    )


def _image(thumbnail: str | None, alternative: str) -> str:
    if thumbnail is None:
        return '<span class="none"></span>'
    return f'<img src="data:image/jpeg;base64,{thumbnail}" alt="{escape(alternative)}">'


def _classes(data: ReportData) -> str:
    head = "".join(
        f'<th scope="col"><button type="button">{title}</button></th>' for title in _COLUMNS
    )
    rows = "\n".join(_class_row(each) for each in data.per_class)
    return (
        '<p class="hint">Choose a heading to sort.</p>'
        '<div class="scroll" role="region" aria-label="Metrics of each class" tabindex="0">'
        '<table class="sortable"><caption class="visually-hidden">Metrics of each class</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
        '<p id="status" class="visually-hidden" aria-live="polite"></p>'
    )


def _class_row(each: ClassMetrics) -> str:
    low, high = each.recall_interval

    def share(value: float) -> str:
        width = f"width:{100 * value:.0f}%"
        meter = f'<span class="meter" aria-hidden="true"><i style="{width}"></i></span>'
        return f'<td data-value="{value:.6f}">{meter}{value:.0%}</td>'

    def number(value: float) -> str:
        if math.isnan(value):
            return f'<td data-value="{-1:.6f}">none</td>'
        return f'<td data-value="{value:.6f}">{value:.3f}</td>'

    return (
        f'<tr><th scope="row">{escape(each.class_name)}</th>{share(each.recall)}'
        f'<td data-value="{low:.6f}">{low:.0%} to {high:.0%}</td>{share(each.precision)}'
        f"{share(each.f1)}{number(each.roc_auc)}{number(each.average_precision)}"
        f'<td data-value="{each.support}">{each.support}</td></tr>'
    )


def _calibration(data: ReportData) -> str:
    error = data.metrics["calibration_error"]
    return (
        "<p>Of the images predicted with 80&nbsp;% confidence, are 80 of 100 correct? On average "
        f"confidence differs from accuracy by <strong>{error.value:.1%}</strong> (95&nbsp;% "
        f"interval {interval_text(error.interval, '.1%')}, {error.method}) over ten bins of about "
        f"equally many images. {escape(_temperature(data.info))}</p>"
        f'<div class="charts">{reliability_chart(data.reliability)}</div>'
    )


def _temperature(info: Mapping[str, Any]) -> str:
    calibration = _known(info, "calibration", dict)
    if calibration is None:
        return "The probabilities are those of the network, without calibration."
    temperature = calibration.get("temperature")
    reason = _known(calibration, "reason", str)
    if calibration.get("applied") and isinstance(temperature, (int, float)):
        applied = f"Its logits were divided by {temperature:.2f}, fitted on the validation images."
        return f"{applied} Beyond that, {reason}" if reason else applied
    return f"No temperature is applied: {reason or 'unknown reason'}"


def _configuration(info: Mapping[str, Any]) -> str:
    versions = {"python": platform.python_version(), "flowercnn": __version__}
    versions |= {name: version(name) for name in ("numpy", "pillow", "keras", "tensorflow")}
    text = json.dumps(_without_long_texts(info), indent=1, default=str, ensure_ascii=False)
    return _facts(versions) + f"<h3>Metadata of the model</h3><pre>{escape(text)}</pre>"


def _without_long_texts(value: Any) -> Any:
    """Return nested values with packed arrays replaced by their length."""
    if isinstance(value, Mapping):
        return {key: _without_long_texts(item) for key, item in value.items()}
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"({len(value)} characters)"
    return value


def _card(data: ReportData) -> str:
    accuracy = data.metrics["accuracy"]
    interval = interval_text(accuracy.interval, ".1%")
    hardest = sorted(
        (each for each in data.per_class if each.support), key=lambda each: each.recall
    )
    resized = ""
    match (_known(data.info, "preprocessing", dict) or {}).get("image_size"):
        case [height, width]:
            resized = f", resized to {height} x {width} pixels"
    facts = {
        "Task": f"Classify images of {len(data.class_names)} classes: {few(data.class_names, 20)}.",
        "Input": f"An image{resized}.",
        "Output": "A probability for each class; they sum to 1.",
        "Accuracy": f"{accuracy.value:.1%} correct ({interval}) of {len(data.keys)}.",
        "Weakest classes": "; ".join(f"{e.class_name}: recall {e.recall:.0%}" for e in hardest[:3]),
        "Limits": "These metrics say nothing about images of other classes, or images taken "
        "elsewhere (other cameras, places, seasons) than the test images. Test on them first.",
        "Calibration": _temperature(data.info),
        "Seed": _known(data.info, "seed", int),
    }
    return _facts(facts)


def _image_data(data: ReportData, thumbnails: Mapping[int, str]) -> dict[str, Any]:
    columns = (
        data.keys,
        data.y_true.tolist(),
        data.y_pred.tolist(),
        data.confidence.round(4).tolist(),
    )
    images = list(zip(*columns, strict=True))
    return {"classes": data.class_names, "images": images, "thumbnails": thumbnails}


def _as_script(data: Mapping[str, Any]) -> str:
    """Return JSON that is safe in a script element: no ``<`` can end it."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _thumbnails(data: ReportData) -> dict[int, str]:
    """Return small JPEGs as base64 by index: mistakes first, as many as a page should hold."""
    if not data.samples:
        return {}
    correct = np.flatnonzero(data.y_true == data.y_pred).tolist()
    order = [*(each.index for each in data.mistakes), *correct][:_MOST_THUMBNAILS]
    samples = [data.samples[index] for index in order]
    encoded = ordered_map(_thumbnail, samples, workers=cpu_count(), window=4 * cpu_count())
    thumbnails: dict[int, str] = {}
    room = _THUMBNAIL_BYTES
    for index, text in zip(order, encoded, strict=True):
        if text is None:
            continue
        room -= len(text)
        if room < 0:
            break
        thumbnails[index] = text
    return thumbnails


def _thumbnail(sample: Sample) -> str | None:
    try:
        image = decode_image(
            read_content(sample.image),
            background=_DEFAULTS.background,
            max_pixels=_DEFAULTS.max_pixels,
            at_least=_THUMBNAIL_SIZE,
        )
    except FlowerCNNError:  # the file too may be missing, or have changed since it was listed
        return None
    image.thumbnail(_THUMBNAIL_SIZE, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
