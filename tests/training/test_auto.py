from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.training import auto
from flowercnn.training.auto import choose_trainer, weights_at_hand


def test_weights_at_hand_are_those_in_the_cache_and_those_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert weights_at_hand() == {}
    (tmp_path / "models").mkdir()
    cached = tmp_path / "models" / "mobilenet_1_0_224_tf_no_top.h5"
    cached.touch()
    assert weights_at_hand() == {"backbone:mobilenet": cached}
    assert weights_at_hand(["EfficientNetV2-B0.weights.h5"])[
        "backbone:efficientnetv2b0"
    ].name.startswith("Eff")
    assert weights_at_hand({"vgg16": "mine.h5"})["backbone:vgg16"] == Path("mine.h5")
    with pytest.raises(fc.ConfigurationError, match=r"mine\.h5 does not say"):
        weights_at_hand("mine.h5")


@pytest.mark.parametrize("weights", [{"mobilenet": None}, [None], 3])
def test_weights_that_are_no_files_are_named(coloured: fc.Dataset, weights: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="must be a path.*Received: weights="):
        choose_trainer(coloured, settings={"model_options": {"weights": weights}})


def test_auto_does_not_pass_over_a_network_of_ones_own(coloured: fc.Dataset) -> None:
    net = import_keras().Sequential([import_keras().Input((32, 32, 3))])
    with pytest.raises(fc.ConfigurationError, match='model="backbone:own"'):
        choose_trainer(coloured, settings={"model_options": {"backbone": net}})


@pytest.mark.slow
def test_auto_compares_by_cross_validation_and_says_why(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    net = import_keras().applications.MobileNet(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    part = import_keras().Model(net.input, net.get_layer("conv_pw_3_relu").output)
    part.save_weights(tmp_path / "mobilenet.weights.h5")
    (tmp_path / "vgg16.weights.h5").write_text("damaged")
    settings: dict[str, Any] = {
        "image_size": (32, 32),
        "epochs": 1,
        "model_options": {
            "weights": [tmp_path / "mobilenet.weights.h5", tmp_path / "vgg16.weights.h5"]
        },
    }
    _, reason = choose_trainer(coloured, settings=settings)
    found = re.findall(r"([a-z:]+) ([0-9.]+)%", reason)
    assert {name for name, _ in found} == {"backbone:mobilenet", "fast"}
    assert float(found[0][1]) >= float(found[1][1])
    assert "Not tried: backbone:vgg16" in reason
    run = fc.train(coloured, model="auto", progress=False, **settings)
    assert run.notes[0].startswith(f"auto chose {run.predictor.info['model']}:")
    assert run.evaluation is not None


@pytest.mark.parametrize(
    ("backbone", "scratch", "chosen", "said"),
    [
        (0.9, 0.8, "backbone:mobilenet", "backbone:mobilenet 90.0%, fast 80.0%"),
        (0.8, 0.9, "fast", "fast 90.0%, backbone:mobilenet 80.0%"),
        (0.9, 0.9, "backbone:mobilenet", "backbone:mobilenet 90.0%, fast 90.0%"),
        (np.nan, np.nan, "backbone:mobilenet", "mobilenet, fast could not be cross-validated"),
        (np.nan, 0.0, "fast", "backbone:mobilenet could not be cross-validated"),
    ],
)
def test_auto_takes_the_best_of_equals_the_backbone_and_says_what_it_compared(
    coloured: fc.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone: float,
    scratch: float,
    chosen: str,
    said: str,
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(auto, "_score_backbone", lambda *_, **__: backbone)
    monkeypatch.setattr(auto, "_score_scratch", lambda *_, **__: scratch)
    settings = {"model_options": {"weights": {"mobilenet": "some.weights.h5"}}}
    trainer, reason = choose_trainer(coloured, settings=settings)
    assert trainer.model == chosen
    assert reason.startswith(f"auto chose {chosen}: ")
    assert said in reason
    assert "nan" not in reason


def test_auto_learns_a_class_with_one_picture_and_tests_the_others(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    learned: list[dict[str, int]] = []
    fit = fc.Trainer.fit

    def watched(self: fc.Trainer, train: fc.Dataset, **options: Any) -> fc.TrainingRun:
        learned.append(train.class_counts())
        return fit(self, train, **options)

    monkeypatch.setattr(fc.Trainer, "fit", watched)
    settings = {"epochs": 1, "image_size": (32, 32)}
    _, reason = choose_trainer(coloured.subset(range(21)), settings=settings)
    assert learned == [{"blue": 5, "green": 5, "red": 1}] * 2
    assert re.search(r"on train was fast [0-9.]+%", reason)
    _, reason = choose_trainer(coloured.subset([0, 10, 20]), settings=settings)
    assert "fast could not be cross-validated" in reason


@pytest.mark.slow
def test_auto_without_weights_trains_from_scratch_and_says_so(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    run = fc.train(coloured, model="auto", time_budget="4s", image_size=(32, 32), progress=False)
    assert run.predictor.info["model"] == "fast"
    assert "No pretrained weights were at hand" in run.notes[0]


def test_auto_takes_what_only_a_training_with_val_can_use(coloured: fc.Dataset) -> None:
    settings = {"image_size": (32, 32), "epochs": 1, "early_stopping": 1}
    chosen, _ = choose_trainer(coloured, settings=settings)
    assert chosen.early_stopping == 1


def test_ctrl_c_while_auto_compares_ends_it(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowercnn.training.loop.Loop._learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        choose_trainer(coloured, settings={"image_size": (32, 32), "epochs": 1})
