"""A user's program with every public name in it; mypy --strict reads it, nobody runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

import flowercnn as fc
from flowercnn import sources as fcs
from flowercnn.testing import check_source


class MySource:
    """A source of one's own."""

    def __iter__(self) -> Iterator[fc.Sample]:
        yield fc.Sample(key="1", label="rose", image=Path("1.jpg"))


def sources(table: object, dataset: object) -> list[fc.DataSource]:
    images: npt.NDArray[np.uint8] = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    return [
        MySource(),
        fc.ImageFolder("photos"),
        fc.InMemory(images, ["a", "b"]),
        fc.SyntheticFlowers(per_class=3),
        fc.TensorBay("Flower17-1", "Accesskey-0", segments=["train", 1]),
        fc.TensorBay(dataset),
        fc.Flower17(),
        fc.Flower102("flowers", download=False),
        fc.ImageTable(table, image="file", label="kind"),
        fc.open_source("folder:photos"),
        fc.Dataset.from_source(MySource()),
    ]


def composed(source: fc.DataSource, frame: object) -> fc.DataSource:
    both = fcs.concat(source, field=fc.ImageFolder("s3://bucket", storage_options={"anon": True}))
    kept = fcs.filter(both, lambda sample: sample.label != "weed")
    renamed = fcs.map_labels(kept, {"daisy (young)": "daisy", "unknown": None})
    arrays = fcs.from_arrays(
        np.zeros((2, 8, 8)), [0, 1], class_names=["a", "b"], value_range=(0, 1)
    )
    other = fcs.concat(
        arrays, fcs.from_huggingface(frame), fcs.from_tensorflow(frame), fcs.as_source("photos.csv")
    )
    check_source(other)
    names: list[str] = fcs.list_sources()
    return fcs.limit(renamed, per_class=len(names), seed=0)


def workflow(source: fc.DataSource) -> str:
    dataset = fc.Dataset.from_source(source)
    splits: fc.Splits = dataset.split(val=0.2, test=0.2, seed=0)
    train, val, test = splits
    fc.Splits.load(splits.save("splits.json"), dataset)
    preprocessing = fc.Preprocessing(image_size=(64, 64), resize="pad")
    trainer = fc.Trainer("fast", epochs=1, seed=0, preprocessing=preprocessing)
    run: fc.TrainingRun = trainer.fit(train, val, progress=False)
    path: Path = run.history.plot("history.png")
    evaluation: fc.Evaluation = fc.evaluate(run.predictor, test)
    low, high = evaluation.accuracy_interval
    matrix: npt.NDArray[np.int64] = evaluation.confusion_matrix
    prediction: fc.Prediction = fc.Predictor.load(run.predictor.save("m.keras")).predict_one(
        "1.jpg"
    )
    label: str | None = prediction.label
    top: list[tuple[str, float]] = prediction.top(3)
    return f"{path} {low} {high} {matrix.sum()} {label} {top} {fc.__version__}"


def models() -> list[str]:
    fc.register_model(
        "mine",
        lambda image_size, num_classes: fc.build_model(
            "fast", image_size=image_size, num_classes=num_classes
        ),
    )
    return fc.list_models()


def errors() -> list[type[fc.FlowerCNNError]]:
    with suppress(fc.FlowerCNNError):
        fc.train("photos", model="fast", out="model.keras")
    return [
        fc.ConfigurationError,
        fc.UnknownNameError,
        fc.DataError,
        fc.SplitError,
        fc.ImageError,
        fc.SourceError,
        fc.ModelFileError,
        fc.TrainingError,
        fc.MissingDependencyError,
    ]
