"""What the tests of training share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.training import loop, scratch
from flowercnn.training.step import TrainStep
from flowercnn.training.transfer import finetune

SIZE = (32, 32)
BACKBONE_OPTIONS: dict[str, Any] = {
    "weights": None,
    "until": "conv_pw_3_relu",
}  # random layers tell colours apart


def fit(
    dataset: fc.Dataset, *, epochs: int = 2, model: Any = "fast", **options: Any
) -> fc.TrainingRun:
    settings = {"image_size": SIZE, "batch_size": 8} | options.pop("settings", {})
    train, val, _ = dataset.split(val=0.2, test=0)
    return fc.Trainer(model, epochs=epochs, **settings).fit(train, val, progress=False, **options)


def backbone_trainer(**settings: Any) -> fc.Trainer:
    return fc.Trainer(
        "backbone:mobilenet", image_size=SIZE, model_options=BACKBONE_OPTIONS, **settings
    )


def weights(run: fc.TrainingRun) -> list[Any]:
    return list(run.predictor.model.get_weights())


def same(a: fc.TrainingRun, b: fc.TrainingRun) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def interrupt_in_epoch(number: int) -> Any:
    class Interrupt(import_keras().callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if self.epoch == number and batch == 1:
                raise KeyboardInterrupt

    return Interrupt()


def own_model(filters: int = 4, activation: str = "relu") -> Any:
    keras = import_keras()
    convolution = keras.layers.Conv2D(filters, 3, activation=activation, kernel_initializer="ones")
    end = [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, "softmax", kernel_initializer="zeros"),
    ]
    return keras.Sequential(
        [keras.Input((*SIZE, 3)), keras.layers.Rescaling(1 / 255), convolution, *end]
    )


class Clock:
    """A clock that stands still but for what the tests let happen: no test measures the machine.

    Args:
        tick: Seconds by which each look at the clock advances it.
    """

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 1000.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


def timed_steps(monkeypatch: pytest.MonkeyPatch, *, first: float, others: float) -> Clock:
    """Let each training step take so many seconds, the first of each `TrainStep` longer."""
    clock = Clock()
    step = TrainStep.__call__
    stepped: set[int] = set()

    def timed(self: TrainStep, *args: Any) -> tuple[float, int]:
        clock.now += others if id(self) in stepped else first
        stepped.add(id(self))
        return step(self, *args)

    monkeypatch.setattr(TrainStep, "__call__", timed)
    for module in (loop, scratch):
        monkeypatch.setattr(module, "time", clock)
    return clock


def ticking_clock(monkeypatch: pytest.MonkeyPatch, tick: float) -> Clock:
    """Let each step of fine-tuning a convolutional head take ``tick`` seconds."""
    clock = Clock(tick)
    monkeypatch.setattr(finetune, "time", clock)
    return clock
