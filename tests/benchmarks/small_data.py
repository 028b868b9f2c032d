"""How well ``fast`` learns from a small folder of pictures, against Keras's own examples of small
networks.

    python tests/benchmarks/small_data.py FOLDER [FOLDS or FOLDER_TO_TEST]

For each fold, ``fast`` is trained on the rest; then each example of Keras, with its own
augmentation and optimizer, for as long as ``fast`` took. With a second folder, that is what all are
tested on. Pictures reach Keras by ``image_dataset_from_directory``, at 180 px as in its examples,
or as large as they are. Accuracies are on pictures no network has learned from, with Wilson
intervals.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

import flowercnn as fc
from flowercnn.evaluation.metrics import wilson_interval
from flowercnn.models.backend import import_keras

LARGEST_SIDE = 180


def plain_network(classes: int, side: int) -> Any:
    """Three convolutions, as in the tutorial on image classification."""
    layers = import_keras().layers
    return import_keras().Sequential(
        [
            import_keras().Input((side, side, 3)),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.RandomZoom(0.1),
            layers.Rescaling(1 / 255),
            *[
                layer
                for filters in (16, 32, 64)
                for layer in (
                    layers.Conv2D(filters, 3, padding="same", activation="relu"),
                    layers.MaxPooling2D(),
                )
            ],
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def separable_network(classes: int, side: int) -> Any:
    """A small Xception, as in the example of image classification from scratch."""
    keras = import_keras()
    layers = keras.layers
    pixels = keras.Input((side, side, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(pixels))
    x = layers.Conv2D(128, 3, strides=2, padding="same")(layers.Rescaling(1 / 255)(x))
    x = before = layers.Activation("relu")(layers.BatchNormalization()(x))
    for filters in (256, 512, 728):
        for _ in range(2):
            x = layers.SeparableConv2D(filters, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = before = layers.Add()([x, layers.Conv2D(filters, 1, strides=2, padding="same")(before)])
    x = layers.BatchNormalization()(layers.SeparableConv2D(1024, 3, padding="same")(x))
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu")(x))
    return keras.Model(pixels, layers.Dense(classes, activation="softmax")(layers.Dropout(0.25)(x)))


def train_for(network: Any, rate: float, pictures: Any, seconds: float) -> None:
    keras = import_keras()
    deadline = time.perf_counter() + seconds

    class Stop(keras.callbacks.Callback):  # type: ignore[name-defined, misc]  # Keras is untyped
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if time.perf_counter() > deadline:
                self.model.stop_training = True

    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    network.fit(pictures, epochs=10_000, callbacks=[Stop()], verbose=0)


def folder_of(dataset: fc.Dataset, root: Path) -> str:
    """Link the pictures into a folder as Keras wants it."""
    for sample in dataset.samples:
        target = root / str(sample.label) / Path(sample.key).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(str(sample.image)).resolve())
    return str(root)


def splits(folder: str, other: str) -> Iterator[tuple[fc.Dataset, fc.Dataset]]:
    """What to learn from and what to test on, once or for some folds."""
    dataset = fc.Dataset.from_source(fc.ImageFolder(folder))
    if not other.isdigit():
        yield dataset, fc.Dataset.from_source(fc.ImageFolder(other))
        return
    for fold in list(dataset.folds(5, 0, progress=False))[: int(other)]:
        yield fold.train, fold.test


def main(folder: str, other: str = "1") -> None:
    keras = import_keras()
    right: dict[str, list[bool]] = {}
    for train, test in splits(folder, other):
        started = time.perf_counter()
        run = fc.Trainer("fast").fit(train, progress=False)
        seconds = time.perf_counter() - started
        right.setdefault("fast", []).extend(
            prediction.label == sample.label
            for prediction, sample in zip(run.predictor.predict(test), test.samples, strict=True)
        )
        print(f"fast took {seconds:.0f} s")
        with Image.open(str(train.samples[0].image)) as first:
            side = min(LARGEST_SIDE, *first.size)
        with tempfile.TemporaryDirectory() as where:
            parts = {
                name: keras.utils.image_dataset_from_directory(
                    folder_of(part, Path(where) / name),
                    image_size=(side, side),
                    batch_size=32,
                    seed=0,
                    shuffle=name == "train",
                    verbose=False,
                )
                for name, part in (("train", train), ("test", test))
            }
            truth = np.concatenate([labels for _, labels in parts["test"]])
            for build, rate in ((plain_network, 1e-3), (separable_network, 3e-4)):
                keras.utils.set_random_seed(0)
                network = build(train.num_classes, side)
                train_for(network, rate, parts["train"].cache().shuffle(1000, seed=0), seconds)
                answers = network.predict(parts["test"], verbose=0).argmax(axis=1)
                right.setdefault(f"Keras, {build.__name__}", []).extend((answers == truth).tolist())
    for name, hits in right.items():
        low, high = wilson_interval(sum(hits), len(hits))
        print(f"{name:26} {np.mean(hits):6.1%} ({low:.1%} to {high:.1%}) of {len(hits)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
