from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import SIZE, fit, interrupt_in_epoch, own_model, same
from PIL import Image

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.models.copies import fold_normalization
from flowercnn.models.recipe import Recipe
from flowercnn.preprocessing.augment import Augmentation, Mixing
from flowercnn.training import scratch
from flowercnn.training.checkpoint import Checkpoint, Checkpoints
from flowercnn.training.run import History


def test_ctrl_c_keeps_what_was_learned(coloured: fc.Dataset) -> None:
    run = fit(coloured, epochs=5, callbacks=[interrupt_in_epoch(1)])
    assert run.interrupted
    assert len(run.history) == 1
    assert len(run.predictor.predict(coloured)) == 30
    one_epoch = fit(coloured, epochs=5, callbacks=[interrupt_in_epoch(0)])
    assert not same(run, one_epoch)


def test_a_stopped_training_goes_on_to_the_same_result(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    settings = {"model_options": {"dropout": 0.3}}
    whole = fit(coloured, epochs=4, settings=settings)
    fit(
        coloured,
        epochs=4,
        checkpoint_dir=tmp_path,
        callbacks=[interrupt_in_epoch(2)],
        settings=settings,
    )
    rest = fit(coloured, epochs=4, checkpoint_dir=tmp_path, settings=settings)
    assert same(whole, rest)
    assert rest.history == whole.history


def test_a_checkpoint_of_another_training_is_refused(coloured: fc.Dataset, tmp_path: Path) -> None:
    fit(coloured, epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(fc.TrainingError, match="another training"):
        fit(coloured, epochs=1, checkpoint_dir=tmp_path, settings={"seed": 3})


def recoloured(dataset: fc.Dataset) -> fc.Dataset:
    """The same keys and labels, other pictures."""
    samples = [
        dataclasses.replace(sample, image=np.asarray(sample.image)[..., ::-1]) for sample in dataset
    ]
    return fc.Dataset.from_source(samples)


def test_a_checkpoint_of_other_pictures_under_the_same_keys_is_refused(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    fit(coloured, epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(fc.TrainingError, match="belongs to another training"):
        fit(recoloured(coloured), epochs=1, checkpoint_dir=tmp_path)


def test_each_image_is_read_once_whether_a_training_is_kept_or_not(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    reads: list[str] = []

    def counted(sample: fc.Sample) -> fc.Sample:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(sample.image)).save(buffer, "PNG")

        def content() -> bytes:
            reads.append(sample.key)
            return buffer.getvalue()

        return dataclasses.replace(sample, image=content)

    watched = fc.Dataset.from_source(list(map(counted, coloured)))
    fc.Trainer("article", epochs=1, image_size=SIZE).fit(watched, progress=False)
    assert sorted(reads) == sorted(watched.keys)
    fc.Trainer("article", epochs=1, image_size=SIZE).fit(
        watched, checkpoint_dir=tmp_path, progress=False
    )
    assert sorted(reads) == sorted(watched.keys)


def test_a_model_of_ones_own_goes_on_if_it_is_the_same_whatever_its_name(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    first = fc.Trainer(own_model(), epochs=1).fit(coloured, checkpoint_dir=tmp_path, progress=False)
    assert same(
        first,
        fc.Trainer(own_model(), epochs=1).fit(coloured, checkpoint_dir=tmp_path, progress=False),
    )
    for other in (own_model(filters=5), own_model(activation="tanh")):
        with pytest.raises(fc.TrainingError, match="belongs to another training"):
            fc.Trainer(other, epochs=1).fit(coloured, checkpoint_dir=tmp_path, progress=False)


def test_a_training_that_stopped_early_stays_stopped(coloured: fc.Dataset, tmp_path: Path) -> None:
    settings = {"early_stopping": 1, "learning_rate": 0.05}
    runs = [
        fit(coloured, epochs=30, checkpoint_dir=tmp_path, model="article", settings=settings)
        for _ in range(2)
    ]
    assert len(runs[0].history) == len(runs[1].history) < 30
    assert same(*runs)


def test_a_training_that_goes_on_without_val_has_a_history(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    train, val, _ = coloured.split(val=0.2, test=0)
    trainer = fc.Trainer("article", epochs=2, image_size=SIZE)
    trainer.fit(train, val, checkpoint_dir=tmp_path, callbacks=[stop_after(1)], progress=False)
    history = trainer.fit(train, checkpoint_dir=tmp_path, progress=False).history.to_dict()
    assert np.isnan(history["val_loss"]).tolist() == [False, True]


def stop_after(epochs: int) -> Any:
    def interrupt(epoch: int, _: Any) -> None:
        if epoch == epochs:
            raise KeyboardInterrupt

    return import_keras().callbacks.LambdaCallback(on_epoch_begin=interrupt)


def test_a_late_ctrl_c_does_not_lose_what_was_learned(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fold(model: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return fold_normalization(model)

    monkeypatch.setattr(scratch, "fold_normalization", fold)
    run = fit(coloured, epochs=1)
    assert run.interrupted
    assert len(run.history) == 1


def test_a_damaged_checkpoint_is_refused(coloured: fc.Dataset, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.npz").write_bytes(b"PK half a file")
    with pytest.raises(fc.TrainingError, match="damaged"):
        fit(coloured, epochs=1, checkpoint_dir=tmp_path)


def test_a_training_with_everything_on_goes_on_to_the_same_result(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    recipe = Recipe(
        epochs=4,
        optimizer="muon",
        learning_rate=0.02,
        augmentation=Augmentation(),
        mixing=Mixing(mixup=0.2, cutmix=1.0, until=0.5),
        average=0.9,
        progressive=((0, 0.5), (0.5, 1.0)),
    )
    settings = {"recipe": recipe, "early_stopping": 3}
    whole = fit(coloured, epochs=4, settings=settings)
    fit(
        coloured,
        epochs=4,
        checkpoint_dir=tmp_path,
        callbacks=[interrupt_in_epoch(2)],
        settings=settings,
    )
    rest = fit(coloured, epochs=4, checkpoint_dir=tmp_path, settings=settings)
    assert same(whole, rest)
    assert rest.history == whole.history


def a_checkpoint() -> Checkpoint:
    arrays: dict[str, list[Any]] = {
        "model": [np.arange(50.0), np.ones((3, 4), np.float32)],
        "average": [np.zeros(5)],
        "best": [],
    }
    return Checkpoint(arrays, History(({"loss": 1.0},), (2.0,)), 5)


def test_the_seconds_of_epochs_are_kept_in_a_checkpoint(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").write(a_checkpoint())
    read = Checkpoints(tmp_path, "one").read()
    assert read is not None
    assert read.seconds == 2
    assert read.history.epochs == ({"loss": 1.0},)


def test_a_checkpoint_another_training_has_written_meanwhile_is_not_replaced(
    tmp_path: Path,
) -> None:
    Checkpoints(tmp_path, "one").write(a_checkpoint())
    with pytest.raises(fc.TrainingError, match="belongs to another training"):
        Checkpoints(tmp_path, "another").write(a_checkpoint())
    Checkpoints(tmp_path, "one").write(a_checkpoint())
    assert Checkpoints(tmp_path, "one").read() is not None


def test_a_changed_bit_anywhere_in_a_checkpoint_is_an_error_of_ours_or_does_no_harm(
    tmp_path: Path,
) -> None:
    Checkpoints(tmp_path, "one").write(a_checkpoint())
    path = tmp_path / "checkpoint.npz"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        try:
            read = Checkpoints(tmp_path, "one").read()
        except fc.TrainingError:
            continue
        assert read is not None
        assert {name: len(values) for name, values in read.arrays.items()} == {
            "model": 2,
            "average": 1,
        }


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    about = json.dumps({"fingerprint": "one", "history": [{"loss": 1.0}], "epochs": 5})
    arrays: dict[str, Any] = {"about": np.array(about), "model:0000": np.zeros(3)}
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    read = Checkpoints(tmp_path, "one").read()
    assert read is not None
    assert len(read.arrays["model"]) == 1
