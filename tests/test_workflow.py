from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.training.trainer import TrainerSettings

FAST: dict[str, Any] = {"model": "article", "image_size": (24, 24), "epochs": 1, "progress": False}


def test_one_call_goes_from_a_folder_to_a_saved_tested_model(
    photo_folder: Path, tmp_path: Path
) -> None:
    run = fc.train(photo_folder, out=tmp_path / "model.keras", **FAST)
    assert run.splits is not None
    assert [len(part) for part in run.splits] == [21, 3, 6]
    assert run.evaluation is not None
    assert run.evaluation.keys == run.splits.test.keys
    loaded = fc.Predictor.load(tmp_path / "model.keras")
    assert loaded.info["test"]["accuracy"] == run.evaluation.accuracy
    assert run.predictor.info["test"] == loaded.info["test"]
    assert loaded.info["fingerprints"] == {
        name: part.fingerprint() for name, part in run.splits._asdict().items()
    }


def test_a_test_on_the_pictures_learned_from_is_warned_of(
    photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = fc.train(photo_folder, **FAST)
    assert run.splits is not None
    assert "was trained on these images" not in caplog.text
    fc.evaluate(run.predictor, run.splits.train, progress=False)
    assert "was trained on these images" in caplog.text


def test_the_same_seed_gives_the_same_evaluation(photo_folder: Path) -> None:
    a, b = (fc.train(photo_folder, seed=3, **FAST).evaluation for _ in range(2))
    assert a is not None
    assert b is not None
    assert np.array_equal(a.y_prob, b.y_prob)


def test_where_pictures_come_from_does_not_change_the_weights(photo_folder: Path) -> None:
    dataset = fc.Dataset.from_source(fc.ImageFolder(photo_folder))
    in_memory = fc.InMemory(
        [Path(str(s.image)).read_bytes() for s in dataset],
        [s.label for s in dataset],
        keys=dataset.keys,
    )
    a, b = (
        fc.train(source, **FAST).predictor.model.get_weights()
        for source in (photo_folder, in_memory)
    )
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_predefined_parts_are_used(photo_folder: Path) -> None:
    class Parted:
        def __iter__(self) -> Any:
            for sample in fc.ImageFolder(photo_folder):
                part: Any = "test" if sample.key.endswith(("7.png", "8.png")) else "train"
                yield fc.Sample(sample.key, sample.label, sample.image, split=part)

    run = fc.train(Parted(), **FAST)
    assert run.splits is not None
    assert {key[-5] for key in run.splits.test.keys} == {"7", "8"}


def test_parts_of_some_samples_only_are_an_error_and_not_drawn_anew(coloured: fc.Dataset) -> None:
    samples = [
        dataclasses.replace(sample, split="test" if number % 2 else "train")
        for number, sample in enumerate(coloured)
    ]
    samples[4] = dataclasses.replace(samples[4], split=None)
    with pytest.raises(
        fc.SplitError, match=f"1 of 30 samples without one: {samples[4].key}. Give each a part"
    ):
        fc.train(samples, **FAST)


def test_no_test_part_is_no_evaluation(photo_folder: Path) -> None:
    assert fc.train(photo_folder, test=0, **FAST).evaluation is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"out": "model.pt"}, ".keras or .h5"),
        ({"out": "."}, ".keras or .h5"),
        ({"out": 5}, "out must be a path: .*Received: out=5"),
        ({"checkpoint_dir": 5}, "checkpoint_dir must be a path"),
        ({"out": f"{__file__}/model.keras"}, "folder that can be written"),
        ({"val": 0.5, "test": 0.5}, "below 1"),
        ({"epoch": 3}, "train has no argument 'epoch'. Did you mean 'epochs'"),
        ({"test_size": 0.2}, "no argument 'test_size'. Did you mean 'image_size'|Known: .* test, "),
        ({"model": "fst"}, "Did you mean 'fast'"),
        ({"image_size": (0, 10)}, "image_size"),
    ],
)
def test_wrong_arguments_are_found_before_anything_is_read(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(fc.ConfigurationError, match=reason):
        fc.train("a folder that does not exist", **settings)


def test_type_checkers_know_every_argument_of_the_trainer() -> None:
    fields = {field.name for field in dataclasses.fields(fc.Trainer)}
    assert set(TrainerSettings.__annotations__) == fields - {"model", "seed"}


def test_a_network_that_cannot_be_saved_is_found_before_training(
    photo_folder: Path, tmp_path: Path
) -> None:
    from flowercnn.models.backend import import_keras

    keras = import_keras()

    class Half(keras.layers.Layer):  # type: ignore[misc, name-defined]  # Keras has no types
        def call(self, inputs: Any) -> Any:
            return inputs / 2

    end = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    own = keras.Sequential([keras.Input((24, 24, 3)), Half(), *end])
    settings: dict[str, Any] = {"model": own, "epochs": 10**6, "progress": False}
    with pytest.raises(fc.ModelFileError, match="Half"):
        fc.train(photo_folder, out=tmp_path / "model.keras", **settings)
    settings = settings | {
        "model": "backbone:own",
        "model_options": {"backbone": own, "scaling": "tf"},
    }
    with pytest.raises(fc.ModelFileError, match="Half"):
        fc.train(photo_folder, out=tmp_path / "model.keras", image_size=(24, 24), **settings)


def test_a_model_within_a_model_is_trained_calibrated_and_saved(
    photo_folder: Path, tmp_path: Path
) -> None:
    from flowercnn.models.backend import import_keras

    keras = import_keras()
    layers = keras.layers
    base = keras.Sequential(
        [keras.Input((24, 24, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3)]
    )
    own = keras.Sequential(
        [base, layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    )
    run = fc.train(
        photo_folder, model=own, epochs=1, out=tmp_path / "m.keras", val=0.3, progress=False
    )
    assert run.predictor.calibration is not None
    assert fc.Predictor.load(tmp_path / "m.keras").class_names == run.predictor.class_names


def test_whatever_fails_after_training_the_model_is_saved(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowercnn.workflow.calibrate", fail)
    with pytest.raises(KeyboardInterrupt):
        fc.train(photo_folder, out=tmp_path / "m.keras", **FAST)
    assert fc.Predictor.load(tmp_path / "m.keras").calibration is None


def test_what_was_learned_is_saved_where_there_is_room(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    save = fc.Predictor.save

    def full(self: fc.Predictor, path: Any, **options: Any) -> Path:
        if "full" in str(path):
            raise fc.ModelFileError(f"{path}: No space left on device.")
        return save(self, path, **options)

    monkeypatch.setattr(fc.Predictor, "save", full)
    with pytest.raises(fc.ModelFileError, match="No space left") as caught:
        fc.train(photo_folder, out=tmp_path / "full.keras", **FAST)
    where = caught.value.__notes__[0].removeprefix("What was learned is in ")
    assert fc.Predictor.load(where).class_names == ("blue", "green", "red")


def test_images_that_vanish_during_training_do_no_harm(photo_folder: Path) -> None:
    from flowercnn.models.backend import import_keras

    def remove(_: Any) -> None:
        for path in photo_folder.rglob("*.png"):
            path.unlink()

    callback = import_keras().callbacks.LambdaCallback(on_train_end=remove)
    run = fc.train(photo_folder, callbacks=[callback], **FAST)  # they were read before
    assert run.evaluation is not None
    assert run.predictor.calibration is not None
    assert not list(photo_folder.rglob("*.png"))


def test_all_bad_pictures_are_named_at_once(photo_folder: Path) -> None:
    bad = [f"{colour}/{number}.png" for colour in ("red", "green", "blue") for number in (1, 4, 7)]
    for name in bad:
        (photo_folder / name).write_bytes(b"no picture")
    with pytest.raises(fc.ImageError) as caught:
        fc.train(photo_folder, **FAST)
    assert all(name in str(caught.value) for name in bad)
    assert str(caught.value).startswith("9 of 30 images cannot be used: ")


@pytest.mark.parametrize("source", [3, None, object()])
def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="source must be"):
        fc.train(source)


def test_a_folder_that_is_not_there_is_a_source_error() -> None:
    with pytest.raises(fc.SourceError, match="one\nsub-folder|one sub-folder per class"):
        fc.train("a folder that does not exist")


def test_a_class_with_one_picture_is_named(photo_folder: Path) -> None:
    for picture in sorted((photo_folder / "red").iterdir())[1:]:
        picture.unlink()
    with pytest.raises(fc.SplitError, match=r"'red' \(1\)"):
        fc.train(photo_folder)


def test_one_class_only_is_an_error(photo_folder: Path) -> None:
    with pytest.raises(fc.DataError, match="at least two classes"):
        fc.train(fc.InMemory([np.zeros((8, 8, 3), np.uint8)] * 9, ["only"] * 9))


def test_a_damaged_file_is_named_or_left_out(photo_folder: Path) -> None:
    (photo_folder / "red" / "0.png").write_bytes(b"")
    with pytest.raises(fc.ImageError, match="red/0.png.*empty"):
        fc.train(photo_folder, **FAST)
    run = fc.train(photo_folder, bad_images="skip", **FAST)
    assert run.evaluation is not None
    assert (*run.skipped, *run.evaluation.skipped) == ("red/0.png",)


def test_a_damaged_test_picture_is_found_before_training(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("the training began")

    monkeypatch.setattr(fc.Trainer, "fit", trained)
    for path in sorted(photo_folder.glob("*/*.png")):  # until the damaged picture is one of test
        content = path.read_bytes()
        path.write_bytes(b"")
        splits = fc.Dataset.from_source(fc.ImageFolder(photo_folder)).split(
            val=0.1, test=0.2, progress=False
        )
        key = f"{path.parent.name}/{path.name}"
        if key in splits.test.keys:
            break
        path.write_bytes(content)
    with pytest.raises(fc.ImageError, match=key):
        fc.train(photo_folder, **FAST)


@pytest.mark.slow
def test_fast_learns_real_flowers(photographs: Path) -> None:
    run = fc.train(photographs, image_size=(64, 64), epochs=6, progress=False)
    assert run.evaluation is not None
    assert run.evaluation.accuracy_interval[0] > 0.25  # chance is 0.06
