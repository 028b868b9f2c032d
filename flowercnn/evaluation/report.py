"""A page with everything an evaluation found, in one file that needs no network.

Names of files and classes are escaped wherever they are put, so they are text whatever they hold.
"""

from __future__ import annotations

import base64
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from importlib.metadata import version
from string import Template
from typing import TYPE_CHECKING, Any, Final, TypeVar

from PIL import Image

from flowercnn import __version__
from flowercnn._utils import cpu_count, ordered_map
from flowercnn.errors import FlowerCNNError, few
from flowercnn.evaluation.charts import interval_chart, line_chart, reliability_chart
from flowercnn.evaluation.results import interval_text
from flowercnn.preprocessing import Preprocessing, decode_image, read_content
from flowercnn.sources import Sample

if TYPE_CHECKING:
    from flowercnn.evaluation.evaluation import Evaluation
    from flowercnn.evaluation.results import ClassMetrics, Metric

__all__ = ["notebook_html", "report_html"]

T = TypeVar("T")

_THUMBNAIL_SIDE: Final = 112
_THUMBNAIL_BYTES: Final = 3_400_000  # of base64, in all: keeps a page below 5 MB
_MOST_THUMBNAILS: Final = 1200
_MISTAKES: Final = 24
_PAIRS: Final = 10
_LONGEST_TEXT: Final = 300
_SIDES: Final = 2
_DEFAULTS: Final = Preprocessing()
_NAMES: Final = {
    "top_5_accuracy": "Truth among the top 5",
    "balanced_accuracy": "Balanced accuracy",
    "log_loss": "Log loss (0 is best)",
    "brier": "Brier score (0 is best)",
    "calibration_error": "Calibration error (0 is best)",
    "roc_auc": "ROC-AUC, one against the rest",
    "average_precision": "Average precision, likewise",
}
_IN_PERCENT: Final = ("top_5_accuracy", "balanced_accuracy", "calibration_error")


def report_html(evaluation: Evaluation) -> str:
    """Return the page."""
    sections = {
        "result": ("Result", _result(evaluation)),
        "data": ("Data and training", _training(evaluation)),
        "confusion": ("Confusion matrix", _confusion(evaluation)),
        "mistakes": ("Worst mistakes", _mistakes(evaluation)),
        "classes": ("Classes", _classes(evaluation)),
        "calibration": ("Calibration", _calibration(evaluation)),
        "audit": ("Data audit", _audit(evaluation)),
        "configuration": ("Configuration", _configuration(evaluation)),
        "card": ("Model card", _card(evaluation)),
    }
    shown = {name: section for name, section in sections.items() if section[1]}
    page = resources.files("flowercnn.evaluation").joinpath("page")
    name = _told(evaluation.info, "model", str) or "classifier"
    html = Template(page.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{name}: {evaluation.accuracy:.1%} of {len(evaluation)} pictures"),
        heading=escape(f"What {name} makes of {len(evaluation.class_names)} classes"),
        lead=escape(_lead(evaluation)),
        contents="".join(f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in shown.items()),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>\n{body}\n</section>'
            for key, (title, body) in shown.items()
        ),
        version=escape(__version__),
        beside="The figures are in the .json file beside it.",
        style=page.joinpath("report.css").read_text(encoding="utf-8"),
        script=page.joinpath("report.js").read_text(encoding="utf-8"),
        data=_as_script(_picture_data(evaluation)),
    )
    return html.encode("utf-8", "backslashreplace").decode()  # JSON may hold halves of characters, which no file can


def notebook_html(evaluation: Evaluation) -> str:
    """Return the headline and the classes as a part of a page, for notebooks."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(each.class_name)}</td><td>{each.precision:.0%}</td>"
        f"<td>{each.recall:.0%}</td><td>{each.f1:.0%}</td><td>{each.support}</td></tr>"
        for each in sorted(evaluation.per_class, key=lambda each: each.f1)
    )
    low, high = evaluation.accuracy_interval
    return (
        f"<p><strong>{evaluation.accuracy:.1%}</strong> correct (95&nbsp;% interval {low:.1%} to {high:.1%}) on "
        f"{len(evaluation)} pictures of {len(evaluation.class_names)} classes</p><details><summary>Classes, the "
        "hardest first</summary><table><thead><tr><th>class</th><th>precision</th><th>recall</th><th>F1</th>"
        f"<th>pictures</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _lead(evaluation: Evaluation) -> str:
    count = _told(evaluation.info, "train_samples", int)
    learned = "A classifier" if count is None else f"Trained on {count:,} pictures"
    # Only `train`, which adds the history, is known to have tested on other pictures than it learned from.
    unseen = " it has not learned from" if evaluation.history else ""
    return f"{learned}, tested on {len(evaluation):,} pictures{unseen}."


def _told(info: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """Return a value that is kept with the model if it is of its kind: strangers' files may hold anything there."""
    value = info.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _result(evaluation: Evaluation) -> str:
    low, high = evaluation.accuracy_interval
    tiles = "".join(
        _tile(label, evaluation.metrics[name], percent=name in _IN_PERCENT)
        for name, label in _NAMES.items()
        if name in evaluation.metrics
    )
    skipped = len(evaluation.skipped)
    left_out = f" {skipped} could not be decoded and are in no figure." if skipped else ""
    if evaluation.refused:
        left_out += f" Of {len(evaluation.refused)} it would rather have said that it does not know them."
    return (
        f'<p class="headline"><strong>{evaluation.accuracy:.1%}</strong>'
        f"<span>correct: {evaluation.hits} of {len(evaluation)} test pictures</span></p>"
        + interval_chart(evaluation.accuracy, low, high, chance=1 / len(evaluation.class_names))
        + f"<p>The accuracy on all pictures of the same kind lies between {low:.1%} and {high:.1%} (95&nbsp;% "
        f"interval, Wilson).{left_out}</p>"
        f'<dl class="tiles">{tiles}</dl>'
        '<p class="note">Below each figure is its 95&nbsp;% interval: Wilson for shares of pictures, else bootstrap '
        "percentiles over the test pictures. Where these tell nothing, as when every picture is right, it is as wide "
        "as can be.</p>"
    )


def _tile(label: str, metric: Metric, *, percent: bool) -> str:
    form = ".1%" if percent else ".3f"
    value = "none" if math.isnan(metric.value) else f"{metric.value:{form}}"
    return (
        f"<div><dt>{escape(label)}</dt><dd>{value}"
        f"<small>{interval_text(metric.interval, form)}, {metric.method}</small></dd></div>"
    )


def _training(evaluation: Evaluation) -> str:
    info, history = evaluation.info, evaluation.history
    facts = {
        "Classes": ", ".join(evaluation.class_names),
        "Training pictures": _told(info, "train_samples", int),
        "Test pictures": len(evaluation),
        "Network": _told(info, "model", str),
        "Epochs": _told(info, "epochs", int),
        "Seed": _told(info, "seed", int),
    }
    charts = ""
    if history:
        charts = '<div class="charts">' + "".join(
            line_chart(
                title,
                {name: history[of] for name, of in (("train", key), ("val", f"val_{key}")) if of in history}
                if key != "learning_rate"
                else {"last": history[key]},
                top=1.0 if key == "accuracy" else None,
            )
            for title, key in (("Accuracy", "accuracy"), ("Loss", "loss"), ("Learning rate", "learning_rate"))
            if key in history
        )
        charts += "</div>"
    return _facts(facts) + charts


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _confusion(evaluation: Evaluation) -> str:
    names, matrix = evaluation.class_names, evaluation.confusion_matrix
    header = "".join(f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row" title="{escape(names[row])}">{escape(names[row])}</th>'
        + "".join(_cell(names, row, column, int(count), int(counts.sum())) for column, count in enumerate(counts))
        + "</tr>"
        for row, counts in enumerate(matrix)
    )
    pairs = "".join(
        f"<li>{escape(each.true)} taken for {escape(each.predicted)}: {each.count} ({each.share:.0%})</li>"
        for each in evaluation.most_confused(_PAIRS)
    )
    confused = f'<h3>Most confused</h3><ol class="pairs">{pairs}</ol>' if pairs else ""
    return (
        "<p>Rows are what the pictures are, columns what they were taken for. "
        '<span class="hint">Choose a number to see its pictures; arrow keys move between numbers.</span></p>'
        '<div class="matrix"><div class="scroll" role="region" aria-label="Confusion matrix" tabindex="0"><table>'
        '<caption class="visually-hidden">Counts of true classes (rows) by predicted classes (columns)</caption>'
        f"<thead><tr><td></td>{header}</tr></thead><tbody>\n{rows}\n</tbody></table></div></div>"
        '<div class="panel" id="cell" aria-live="polite"><p class="note">No number is chosen yet.</p></div>'
        + confused
    )


_DARK_CELL: Final = 0.55


def _cell(names: Sequence[str], row: int, column: int, count: int, of: int) -> str:
    if not count:
        return "<td></td>"
    share = count / of
    told = f"{names[row]}, {'recognised' if row == column else f'taken for {names[column]}'}: {count} of {of}"
    kind = "full" + (" wrong" if row != column else "") + (" strong" if share > _DARK_CELL else "")
    return (
        f'<td class="{kind}"><button type="button" style="--share:{0.15 + 0.85 * share:.2f}" '
        f'data-row="{row}" data-column="{column}" aria-pressed="false" title="{escape(told)}" '
        f'aria-label="{escape(told)}">{count}</button></td>'
    )


def _mistakes(evaluation: Evaluation) -> str:
    mistakes = evaluation.worst_mistakes(_MISTAKES)
    if not mistakes:
        return "<p>Every picture was classified correctly.</p>"
    thumbnails = _thumbnails(evaluation)
    items = "".join(
        f"<li>{_image(thumbnails.get(each.index), f'{each.true}, taken for {each.predicted}')}"
        f'<b>{escape(each.true)}</b><br><span class="took">{escape(each.predicted)} {each.confidence:.0%}</span><br>'
        f'<span class="name">{escape(each.key)}</span></li>'
        for each in mistakes
    )
    return (
        "<p>The pictures whose true class got the least probability. In bold what each is, below it what it was "
        "taken for and how surely. A wrong label in the data is often among them.</p>"
        f'<ul class="pictures">{items}</ul>'
    )


def _image(thumbnail: str | None, alternative: str) -> str:
    if thumbnail is None:
        return '<span class="none"></span>'
    return f'<img src="data:image/jpeg;base64,{thumbnail}" alt="{escape(alternative)}">'


def _classes(evaluation: Evaluation) -> str:
    titles = ("class", "recall", "its 95 % interval", "precision", "F1", "ROC-AUC", "average precision", "pictures")
    head = "".join(f'<th scope="col"><button type="button">{title}</button></th>' for title in titles)
    rows = "\n".join(_class_row(each) for each in evaluation.per_class)
    return (
        '<p class="hint">Choose a heading to sort.</p>'
        '<div class="scroll" role="region" aria-label="Figures of each class" tabindex="0"><table class="sortable">'
        '<caption class="visually-hidden">Figures of each class</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
        '<p id="status" class="visually-hidden" aria-live="polite"></p>'
    )


def _class_row(each: ClassMetrics) -> str:
    low, high = each.recall_interval

    def share(value: float) -> str:
        meter = f'<span class="meter" aria-hidden="true"><i style="width:{100 * value:.0f}%"></i></span>'
        return f'<td data-value="{value:.6f}">{meter}{value:.0%}</td>'

    def number(value: float) -> str:
        defined = value == value  # noqa: PLR0124 - NaN is not itself
        return f'<td data-value="{value if defined else -1:.6f}">{f"{value:.3f}" if defined else "none"}</td>'

    return (
        f'<tr><th scope="row">{escape(each.class_name)}</th>{share(each.recall)}'
        f'<td data-value="{low:.6f}">{low:.0%} to {high:.0%}</td>{share(each.precision)}{share(each.f1)}'
        f"{number(each.roc_auc)}{number(each.average_precision)}"
        f'<td data-value="{each.support}">{each.support}</td></tr>'
    )


def _calibration(evaluation: Evaluation) -> str:
    error = evaluation.metrics["calibration_error"]
    return (
        f"<p>When the classifier says 80&nbsp;%, is it right in 80 of 100 cases? On average it is off by "
        f"<strong>{error.value:.1%}</strong> (95&nbsp;% interval {interval_text(error.interval, '.1%')}, "
        f"{error.method}) over ten bins of about equally many pictures. "
        f"{escape(_calibration_told(evaluation.info))}</p>"
        f'<div class="charts">{reliability_chart(evaluation.reliability)}</div>'
    )


def _calibration_told(info: Mapping[str, Any]) -> str:
    calibration = _told(info, "calibration", dict)
    if calibration is None:
        return "The probabilities are as the network was trained to give them."
    temperature = calibration.get("temperature")
    if calibration.get("applied") and isinstance(temperature, (int, float)):
        told = f"Its logits were divided by {temperature:.2f}, fitted on the validation pictures."
        missing = _told(calibration, "reason", str)
        return f"{told} Beyond that, {missing}" if missing else told
    return f"No temperature is applied: {_told(calibration, 'reason', str) or 'unknown reason'}"


def _audit(evaluation: Evaluation) -> str:
    return "" if evaluation.audit is None else evaluation.audit.to_html()


def _configuration(evaluation: Evaluation) -> str:
    packages = ("numpy", "pillow", "keras", "tensorflow")
    versions = {"python": platform.python_version(), "flowercnn": __version__}
    versions |= {name: version(name) for name in packages}
    text = json.dumps(_without_long_texts(evaluation.info), indent=1, default=str, ensure_ascii=False)
    return _facts(versions) + f"<h3>As kept with the model</h3><pre>{escape(text)}</pre>"


def _without_long_texts(value: Any) -> Any:
    """Return nested values with packed arrays told by their length only."""
    if isinstance(value, Mapping):
        return {key: _without_long_texts(item) for key, item in value.items()}
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"({len(value)} characters)"
    return value


def _card(evaluation: Evaluation) -> str:
    info = evaluation.info
    low, high = evaluation.accuracy_interval
    hardest = sorted((each for each in evaluation.per_class if each.support), key=lambda each: each.recall)[:3]
    size = (_told(info, "preprocessing", dict) or {}).get("image_size")
    brought = f", brought to {size[0]} x {size[1]} pixels" if isinstance(size, list) and len(size) == _SIDES else ""
    facts = {
        "What it does": f"Tells {len(evaluation.class_names)} classes apart: {few(evaluation.class_names, 20)}.",
        "What goes in": f"A picture{brought}.",
        "What comes out": "A probability for each class; they sum to 1.",
        "How good it is": f"{evaluation.accuracy:.1%} correct ({low:.1%} to {high:.1%}) of {len(evaluation)}.",
        "Where it is weakest": "; ".join(f"{each.class_name}: recall {each.recall:.0%}" for each in hardest),
        "What it is not for": "Pictures of anything but these classes, and pictures from elsewhere (other cameras, "
        "places, seasons) than those it was tested on: for those, these figures say nothing. Test it on them first.",
        "Calibration": _calibration_told(info),
        "Random seed": _told(info, "seed", int),
    }
    return _facts(facts)


def _picture_data(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "classes": list(evaluation.class_names),
        "pictures": [
            [key, int(truth), int(predicted), round(float(confidence), 4)]
            for key, truth, predicted, confidence in zip(
                evaluation.keys, evaluation.y_true, evaluation.y_pred, evaluation.confidence, strict=True
            )
        ],
        "thumbnails": {str(index): text for index, text in _thumbnails(evaluation).items()},
    }


def _as_script(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element: no ``<`` could end it."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _thumbnails(evaluation: Evaluation) -> dict[int, str]:
    """Return small JPEGs as base64 by place: of mistakes first, then of the others, as many as a page should hold."""
    if not evaluation.samples:
        return {}
    mistakes = [each.index for each in evaluation.worst_mistakes(len(evaluation))]
    right = [index for index, hit in enumerate(evaluation.right) if hit]
    order = [*mistakes, *right][:_MOST_THUMBNAILS]
    made = ordered_map(
        _thumbnail, [evaluation.samples[index] for index in order], workers=cpu_count(), window=4 * cpu_count()
    )
    thumbnails: dict[int, str] = {}
    room = _THUMBNAIL_BYTES
    for index, text in zip(order, made, strict=True):
        if text is None:
            continue
        room -= len(text)
        if room < 0:
            break
        thumbnails[index] = text
    return thumbnails


def _thumbnail(sample: Sample) -> str | None:
    try:
        picture = decode_image(
            read_content(sample.image),
            background=_DEFAULTS.background,
            max_pixels=_DEFAULTS.max_pixels,
            at_least=(_THUMBNAIL_SIDE, _THUMBNAIL_SIDE),
        )
    except FlowerCNNError:  # its place too may be gone, or be another than when it was listed
        return None
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=72)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
