"""The command line: a thin skin over the public API, for people rather than programs."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowercnn import __version__
from flowercnn.errors import FlowerCNNError, printable

if TYPE_CHECKING:
    from flowercnn.prediction import Prediction
    from flowercnn.preprocessing import BadImages

__all__ = ["main"]


class _Commands(click.Group):
    """Shows the library's own errors as a sentence instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlowerCNNError as error:
            lines = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
            message = "\n".join(printable(line) for line in lines)
            raise click.ClickException(message) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@click.pass_context
def main(ctx: click.Context, *, quiet: bool) -> None:
    """Turn folders of pictures into an image classifier you can trust."""
    ctx.obj = not quiet
    for stream in (sys.stdout, sys.stderr):  # names of files may have characters that the terminal has not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # TensorFlow greets with a page of notices on stderr; those who want them can set this themselves.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _check_report(_context: click.Context, _option: click.Parameter, path: str | None) -> str | None:
    """Find out before hours of training that the report could not be written."""
    from flowercnn._utils import can_be_written

    if path is not None and Path(path).suffix not in (".html", ".json"):
        raise click.BadParameter(f"it must end in .html or .json. Received: {path}")
    if path is not None and not can_be_written(path):
        raise click.BadParameter(f"it must be in a folder that can be written. Received: {path}")
    return path


_REPORT = click.option(
    "--report", type=click.Path(), callback=_check_report, help="Write the test figures to this .html or .json file."
)


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", default=0, show_default=True, help="Of the split and the training."),
        click.option("--image-size", type=(int, int), metavar="HEIGHT WIDTH", help="Default: the model's recipe."),
        click.option("--batch-size", type=int, help="Default: the model's recipe."),
        click.option("--epochs", type=int, help="Default: the model's recipe."),
        click.option(
            "--weights",
            multiple=True,
            type=click.Path(),
            help="File of pretrained weights for --model backbone:...; for --model auto any number.",
        ),
        click.option("--model", default="fast", show_default=True, help="See 'flowercnn models'; or auto."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("source")
@click.option("--out", default="model.keras", show_default=True, help="The model file to write (.keras or .h5).")
@click.option("--val", default=0.1, show_default=True, help="Share of pictures to watch while training.")
@click.option("--test", default=0.2, show_default=True, help="Share of pictures kept for the final figure.")
@click.option("--skip-bad-images", is_flag=True, help="Leave out pictures that cannot be decoded.")
@click.option(
    "--duplicates",
    type=click.Choice(["group", "ignore"]),
    default="group",
    show_default=True,
    help="Keep copies and near-copies of a picture in one part, or look for none.",
)
@_REPORT
@_training_options
@click.pass_obj
def train(
    progress: bool,  # noqa: FBT001 - click passes it
    /,
    source: str,
    out: str,
    report: str | None,
    *,
    skip_bad_images: bool,
    weights: tuple[str, ...],
    **settings: Any,
) -> None:
    """Train a classifier on SOURCE.

    SOURCE is a folder with one sub-folder per class, such a folder in a zip or tar archive, a table, a URL, or a name
    such as tensorbay:Flower17-1; see 'flowercnn sources'.
    """
    from flowercnn.workflow import train as run_training

    bad_images: BadImages = "skip" if skip_bad_images else "error"
    if weights:
        settings["model_options"] = {"weights": weights[0] if len(weights) == 1 else weights}
    run = run_training(source, out=out, progress=progress, bad_images=bad_images, **settings)
    if settings["model"] == "auto":
        click.echo(run.notes[0])
    if run.interrupted:
        click.echo("Stopped early; what was learned is kept.")
    if run.evaluation is not None:
        click.echo(f"Test {run.evaluation.summary()}")
        if report is not None:
            click.echo(f"Report: {run.evaluation.save_report(report)}")
    elif report is not None:
        click.echo("No report: there were no test pictures.", err=True)
    click.echo(f"Model: {out}")
    click.echo(f"Next: flowercnn predict {out} PICTURE...")


@main.command()
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, type=click.Path())
@click.option("--top", default=1, show_default=True, type=click.IntRange(1), help="How many classes to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--tta", is_flag=True, help="Average over each picture and its mirror image; takes twice the time.")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "keras", "litert", "onnx"]),
    default="auto",
    show_default=True,
    help="What computes; auto is LiteRT where it can be had.",
)
def predict(model: str, pictures: tuple[str, ...], top: int, *, as_json: bool, tta: bool, runtime: str) -> None:
    """Say what is on PICTURES (files, folders, archives, URLs, patterns) with a MODEL file or export."""
    from flowercnn.prediction import Predictor

    failed = 0
    predictor = Predictor.load(model, runtime=runtime)  # type: ignore[arg-type]  # click has checked it
    for prediction in predictor.predict_iter(pictures, tta=tta):
        failed += prediction.error is not None
        click.echo(_as_json(prediction, top) if as_json else _as_line(prediction, top))
    if failed:
        click.echo(f"{failed} pictures could not be used.", err=True)
        sys.exit(1)


@main.command()
@click.argument("model", type=click.Path())
@click.argument("source")
@_REPORT
@click.option("--skip-bad-images", is_flag=True, help="Leave out pictures that cannot be decoded.")
@click.pass_obj
def evaluate(
    progress: bool,  # noqa: FBT001 - click passes it
    /,
    model: str,
    source: str,
    report: str | None,
    *,
    skip_bad_images: bool,
) -> None:
    """Measure a MODEL file on SOURCE, pictures it has not learned from."""
    from flowercnn.data import Dataset
    from flowercnn.evaluation import evaluate as run_evaluation
    from flowercnn.evaluation import interval_text
    from flowercnn.prediction import Predictor
    from flowercnn.sources import as_source

    dataset = Dataset.from_source(as_source(source))
    bad_images: BadImages = "skip" if skip_bad_images else "error"
    evaluation = run_evaluation(Predictor.load(model), dataset, bad_images=bad_images, progress=progress)
    click.echo(evaluation.summary())
    for name, metric in evaluation.metrics.items():
        interval = interval_text(metric.interval, ".3f")
        click.echo(f"  {name:24} {metric.value:.3f} (95 % interval {interval}, {metric.method})")
    for each in evaluation.per_class:
        click.echo(
            f"  {each.class_name:24} precision {each.precision:6.1%}  recall {each.recall:6.1%}  {each.support}"
        )
    if report is not None:
        click.echo(f"Report: {evaluation.save_report(report)}")


@main.command()
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Every finding, as JSON.")
@click.pass_obj
def audit(progress: bool, /, source: str, *, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Look for what is wrong with the pictures and classes of SOURCE. Changes nothing.

    Found are pictures that cannot be read, are cut short, blank, tiny, huge or of odd proportions, suffixes that
    lie, copies and near-copies, the same picture under two labels, imbalance, and classes too small to split. The
    exit code is 1 if there is a fault.
    """
    from flowercnn.data import Dataset
    from flowercnn.sources import as_source

    report = Dataset.from_source(as_source(source)).audit(progress=progress)
    click.echo(report.to_json() if as_json else report.summary())
    sys.exit(0 if report.clean else 1)


@main.command()
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option(
    "--format",
    "chosen",
    type=click.Choice(["keras", "h5", "saved_model", "litert", "litert-int8", "onnx"]),
    help="Default: told by the suffix of OUT (.keras, .h5, .tflite, .onnx).",
)
@click.option("--images", multiple=True, type=click.Path(), help="Pictures to prove it on; litert-int8 needs some.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of them that must get the same label.")
def export(model: str, out: str, *, chosen: str | None, images: tuple[str, ...], min_agreement: float | None) -> None:
    """Write a MODEL file in another format to OUT, after proving that it answers the same."""
    from flowercnn.prediction import Predictor

    predictor = Predictor.load(model)
    report = predictor.export(out, chosen, images=images or None, min_agreement=min_agreement)  # type: ignore[arg-type]  # click has checked it
    click.echo(report.summary())


@main.command()
def models() -> None:
    """List the networks that can be trained by name."""
    from flowercnn.models import find_weights, is_backbone, list_models, recipe_of

    for name in list_models():
        recipe = recipe_of(name)
        height, width = recipe.image_size
        how = f"{recipe.epochs} epochs, batch {recipe.batch_size}"
        if is_backbone(name):
            how = "pretrained" + (", weights at hand" if find_weights(name) else "")
        click.echo(f"{name:26} {height} x {width}, {how}")


@main.command()
def sources() -> None:
    """List the schemes that name a source, such as folder:photos, and the packages that add them."""
    from flowercnn.sources import registered_sources

    for each in registered_sources():
        click.echo(f"{each.scheme:12} {each.problem or each.package}")


@main.command()
@click.option(
    "--out",
    default="flowercnn-demo",
    type=click.Path(file_okay=False),
    show_default=True,
    help="The folder to write into.",
)
@click.option("--seed", default=0, show_default=True, help="Of the flowers, the split and the training.")
@click.pass_obj
def demo(progress: bool, /, out: str, seed: int) -> None:  # noqa: FBT001 - click passes it
    """Train on flowers the library draws itself: no data, no account, no network, under two minutes."""
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
    about = {"key": prediction.key, "label": prediction.label, "error": prediction.error, "reason": prediction.reason}
    return json.dumps({**about, "predictions": classes})
