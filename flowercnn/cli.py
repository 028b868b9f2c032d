"""Command line, a thin layer over the public API."""

from __future__ import annotations

import io
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowercnn import __version__
from flowercnn.errors import FlowerCNNError, counted, printable

if TYPE_CHECKING:
    from flowercnn.prediction import Prediction

__all__ = ["main"]


class _Commands(click.Group):
    """Group that shows the library's errors without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlowerCNNError as error:
            lines = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
            raise click.ClickException("\n".join(map(printable, lines))) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@click.pass_context
def main(ctx: click.Context, *, quiet: bool) -> None:
    """Turn folders of images into an image classifier you can trust."""
    ctx.obj = not quiet
    # File names can contain characters that the terminal does not support.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Hides the notices of TensorFlow on stderr, unless the user has set it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _check_report(_ctx: click.Context, _option: click.Parameter, path: str | None) -> str | None:
    """Reject a report that cannot be written, before hours of training."""
    from flowercnn._utils import can_be_written

    if path is not None and Path(path).suffix not in (".html", ".json"):
        raise click.BadParameter(f"it must end in .html or .json. Received: {path}")
    if path is not None and not can_be_written(path):
        raise click.BadParameter(f"it must be in a folder that can be written. Received: {path}")
    return path


_option = partial(click.option, show_default=True)
_RECIPE = "Default: the model's recipe."
_SKIP_HELP = "Leave out images that cannot be decoded."
_REPORT_HELP = "Write the test metrics to this .html or .json file."
_SKIP = click.option(
    "--skip-bad-images",
    "bad_images",
    is_flag=True,
    callback=lambda _ctx, _option, skip: "skip" if skip else "error",
    help=_SKIP_HELP,
)
_REPORT = click.option("--report", type=click.Path(), callback=_check_report, help=_REPORT_HELP)
_WEIGHTS_HELP = "File of pretrained weights for --model backbone:...; any number for --model auto."
_TTA_HELP = "Average over each image and its mirror image; takes twice the time."
_DUPLICATES_HELP = "Keep duplicates and near-duplicates in one split, or do not look for them."
_DUPLICATES = click.Choice(["group", "ignore"])
_RUNTIMES = click.Choice(["auto", "keras", "litert", "onnx"])
_SIZE_OPTIONS: dict[str, Any] = {"type": (int, int), "metavar": "HEIGHT WIDTH", "help": _RECIPE}


@main.command()
@click.argument("source")
@_option("--out", default="model.keras", help="The model file to write (.keras or .h5).")
@_option("--val", default=0.1, help="Share of images for validation during training.")
@_option("--test", default=0.2, help="Share of images held out for the final metrics.")
@_SKIP
@_option("--duplicates", type=_DUPLICATES, default="group", help=_DUPLICATES_HELP)
@_REPORT
@_option("--model", default="fast", help="See 'flowercnn models'; or auto.")
@click.option("--weights", multiple=True, type=click.Path(), help=_WEIGHTS_HELP)
@click.option("--epochs", type=int, help=_RECIPE)
@click.option("--batch-size", type=int, help=_RECIPE)
@click.option("--image-size", **_SIZE_OPTIONS)
@_option("--seed", default=0, help="Of the split and the training.")
@click.pass_obj
def train(progress: bool, /, source: str, out: str, report: str | None, **settings: Any) -> None:  # noqa: FBT001 - click passes it
    """Train a classifier on SOURCE.

    SOURCE is a folder with one sub-folder per class, such a folder in a zip or tar archive, a
    table, a URL, or a name such as tensorbay:Flower17-1; see 'flowercnn sources'.
    """
    from flowercnn.workflow import train as run_training

    weights = settings.pop("weights")
    if weights:
        settings["model_options"] = {"weights": weights[0] if len(weights) == 1 else weights}
    run = run_training(source, out=out, progress=progress, **settings)
    if settings["model"] == "auto":
        click.echo(run.notes[0])
    if run.interrupted:
        click.echo("Stopped early; the weights learned so far are saved.")
    if run.evaluation is not None:
        click.echo(f"Test {run.evaluation.summary()}")
        if report is not None:
            click.echo(f"Report: {run.evaluation.save_report(report)}")
    elif report is not None:
        click.echo("No report: there were no test images.", err=True)
    click.echo(f"Model: {out}")
    click.echo(f"Next: flowercnn predict {out} IMAGE...")


@main.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@_option("--top", default=1, type=click.IntRange(1), help="Number of classes to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--tta", is_flag=True, help=_TTA_HELP)
@_option("--runtime", type=_RUNTIMES, default="auto", help="Auto is LiteRT if available.")
def predict(
    model: str, images: tuple[str, ...], top: int, *, as_json: bool, **options: Any
) -> None:
    """Classify IMAGES (files, folders, archives, URLs, patterns) with a MODEL file or export."""
    from flowercnn.prediction import Predictor

    failed = 0
    predictor = Predictor.load(model, runtime=options["runtime"])
    for prediction in predictor.predict_iter(images, tta=options["tta"]):
        failed += prediction.error is not None
        click.echo(_as_json(prediction, top) if as_json else _as_line(prediction, top))
    if failed:
        click.echo(f"{counted(failed, 'image')} could not be used.", err=True)
        sys.exit(1)


@main.command()
@click.argument("model", type=click.Path())
@click.argument("source")
@_REPORT
@_SKIP
@click.pass_obj
def evaluate(progress: bool, /, model: str, source: str, report: str | None, **kwargs: Any) -> None:  # noqa: FBT001 - click passes it
    """Measure a MODEL file on SOURCE, whose images it was not trained on."""
    from flowercnn.data import Dataset
    from flowercnn.evaluation import evaluate as run_evaluation
    from flowercnn.evaluation import interval_text
    from flowercnn.prediction import Predictor

    dataset = Dataset.from_source(source)
    evaluation = run_evaluation(Predictor.load(model), dataset, progress=progress, **kwargs)
    click.echo(evaluation.summary())
    for name, metric in evaluation.metrics.items():
        interval = f"95 % interval {interval_text(metric.interval, '.3f')}, {metric.method}"
        click.echo(f"  {name:24} {metric.value:.3f} ({interval})")
    for each in evaluation.per_class:
        metrics = f"precision {each.precision:6.1%}  recall {each.recall:6.1%}"
        click.echo(f"  {each.class_name:24} {metrics}  {each.support}")
    if report is not None:
        click.echo(f"Report: {evaluation.save_report(report)}")


@main.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Every finding, as JSON.")
@click.pass_obj
def audit(progress: bool, /, source: str, *, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Check the images and classes of SOURCE. Changes nothing.

    Reports images that cannot be read, are cut short, blank, tiny, huge or of odd proportions,
    wrong suffixes, duplicates and near-duplicates, the same image under two labels, imbalance, and
    classes too small to split. The exit code is 1 if there is a fault.
    """
    from flowercnn.data import Dataset

    report = Dataset.from_source(source).audit(progress=progress)
    click.echo(report.to_json() if as_json else report.summary())
    sys.exit(0 if report.clean else 1)


_EXPORT_FORMATS = ["keras", "h5", "saved_model", "litert", "litert-int8", "onnx"]
_FORMAT_HELP = "Default: from the suffix of OUT (.keras, .h5, .tflite, .onnx)."
_IMAGES_HELP = "Images to verify the export on; required for litert-int8."
_AGREEMENT_HELP = "Smallest share of them that must get the same label."


@main.command()
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--format", type=click.Choice(_EXPORT_FORMATS), help=_FORMAT_HELP)
@click.option("--images", multiple=True, type=click.Path(), help=_IMAGES_HELP)
@click.option("--min-agreement", type=click.FloatRange(0, 1), help=_AGREEMENT_HELP)
def export(model: str, out: str, *, images: tuple[str, ...], **options: Any) -> None:
    """Write a MODEL file in another format to OUT, after proving that its predictions are equal."""
    from flowercnn.prediction import Predictor

    report = Predictor.load(model).export(out, images=images or None, **options)
    click.echo(report.summary())


@main.command()
def models() -> None:
    """List the model names that can be trained."""
    from flowercnn.models import find_weights, is_backbone, list_models, recipe_of

    for name in list_models():
        recipe = recipe_of(name)
        height, width = recipe.image_size
        how = f"{recipe.epochs} epochs, batch {recipe.batch_size}"
        if is_backbone(name):
            how = "pretrained, weights available" if find_weights(name) else "pretrained"
        click.echo(f"{name:26} {height} x {width}, {how}")


@main.command()
def sources() -> None:
    """List the schemes of sources, such as folder:photos, and the packages that provide them."""
    from flowercnn.sources import registered_sources

    for each in registered_sources():
        click.echo(f"{each.scheme:12} {each.problem or each.package}")


@main.command()
@_option("--out", default="flowercnn-demo", type=click.Path(file_okay=False), help="Output folder.")
@_option("--seed", default=0, help="Of the flowers, the split and the training.")
@click.pass_obj
def demo(progress: bool, /, out: str, seed: int) -> None:  # noqa: FBT001 - click passes it
    """Train on drawn flowers: no data, no account, no network, under two minutes."""
    from flowercnn.demo import run_demo

    run_demo(Path(out), seed=seed, progress=progress, say=click.echo)


def _as_line(prediction: Prediction, top: int) -> str:
    key = printable(prediction.key)
    if prediction.error is not None:
        return f"{key}\terror: {printable(prediction.error)}"
    if prediction.reason is not None:
        return f"{key}\tunknown: {prediction.reason}"
    return "\t".join([key, *(f"{name} {share:.1%}" for name, share in prediction.top(top))])


def _as_json(prediction: Prediction, top: int) -> str:
    classes = [{"label": name, "probability": share} for name, share in prediction.top(top)]
    fields = {name: getattr(prediction, name) for name in ("key", "label", "error", "reason")}
    return json.dumps({**fields, "predictions": classes})
