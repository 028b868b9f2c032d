from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

import flowercnn as fc
from flowercnn.models.recipe import Recipe
from flowercnn.preprocessing.augment import Augmentation
from flowercnn.training.hyperparameters import SearchResult, search, usual_space

pytestmark = pytest.mark.versions

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

TRAINER = fc.Trainer("article", image_size=(32, 32), epochs=1, batch_size=8)


def test_a_search_finds_the_rate_that_learns(coloured: fc.Dataset) -> None:
    def space(trial: Any, recipe: Recipe) -> Recipe:
        return recipe.replace(
            learning_rate=trial.suggest_categorical("rate", [1e-9, 3e-3]), epochs=4
        )

    trainer = fc.Trainer("article", image_size=(32, 32), batch_size=8)
    result = search(coloured, trials=4, folds=2, space=space, trainer=trainer, progress=False)
    assert {params["rate"] for params, _ in result.trials} == {1e-9, 3e-3}
    assert result.recipe.learning_rate == 3e-3
    assert result.accuracy == max(accuracy for _, accuracy in result.trials) > 0.5


def test_a_search_goes_on_where_it_was(coloured: fc.Dataset, tmp_path: Path) -> None:
    first = search(
        coloured, trials=1, folds=2, trainer=TRAINER, study=tmp_path / "study.log", progress=False
    )
    more = search(
        coloured, trials=2, folds=2, trainer=TRAINER, study=tmp_path / "study.log", progress=False
    )
    assert more.trials[0] == first.trials[0]
    assert len(more.trials) == 2
    assert more.trials[1][0] != first.trials[0][0]
    again = search(
        coloured, trials=2, folds=2, trainer=TRAINER, study=tmp_path / "study.log", progress=False
    )
    assert again == more


def test_what_is_returned_is_what_was_trained(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    fit = fc.Trainer.fit

    def watched(self: fc.Trainer, *arguments: Any, **options: Any) -> fc.TrainingRun:
        trained.append(self.plan(arguments[0]).recipe)
        return fit(self, *arguments, **options)

    def space(trial: Any, recipe: Recipe) -> Recipe:
        return usual_space(trial, recipe.replace(epochs=2))

    monkeypatch.setattr(fc.Trainer, "fit", watched)
    trainer = dataclasses.replace(TRAINER, learning_rate=0.01)
    result = search(coloured, trials=1, folds=2, space=space, trainer=trainer, progress=False)
    assert trained == [result.recipe] * 2
    assert result.recipe.epochs == 2
    assert result.recipe.learning_rate != 0.01


def test_a_study_is_kept_in_a_path(coloured: fc.Dataset) -> None:
    with pytest.raises(fc.ConfigurationError, match="study must be a path.*Received: study=5"):
        search(coloured, trials=1, study=5, progress=False)  # type: ignore[arg-type]  # that is the point


def test_a_study_of_other_pictures_or_settings_is_refused(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "trials": 1,
        "folds": 2,
        "trainer": TRAINER,
        "study": tmp_path / "s",
        "progress": False,
    }
    search(coloured, **settings)
    changes: dict[str, Any] = {
        "trainer": dataclasses.replace(TRAINER, seed=1),
        "folds": 3,
        "space": lambda _, r: r,
    }
    for name, value in changes.items():
        with pytest.raises(fc.ConfigurationError, match="holds another search"):
            search(coloured, **{**settings, name: value})
    with pytest.raises(fc.ConfigurationError, match="holds another search"):
        search(coloured.subset(range(20)), **settings)


def test_a_trial_that_ctrl_c_ended_does_not_count(coloured: fc.Dataset, tmp_path: Path) -> None:
    seen: list[int] = []

    def space(trial: Any, recipe: Recipe) -> Recipe:
        seen.append(trial.number)
        if len(seen) == 1:
            raise KeyboardInterrupt
        return recipe

    settings: dict[str, Any] = {
        "trials": 1,
        "folds": 2,
        "space": space,
        "trainer": TRAINER,
        "study": tmp_path / "s",
    }
    with pytest.raises(fc.TrainingError, match="No trial was finished"):
        search(coloured, **settings, progress=False)
    assert len(search(coloured, **settings, progress=False).trials) == 1


def test_ctrl_c_keeps_the_trials_that_ended(coloured: fc.Dataset) -> None:
    seen = []

    def space(trial: Any, recipe: Recipe) -> Recipe:
        seen.append(trial.number)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return recipe

    result = search(coloured, trials=5, folds=2, space=space, trainer=TRAINER, progress=False)
    assert len(result.trials) == 1


def test_the_usual_space_keeps_a_recipe_a_recipe() -> None:
    trial = optuna.create_study().ask()
    recipe = usual_space(
        trial, Recipe(augmentation=Augmentation(), optimizer="muon", weight_decay=0.1)
    )
    assert recipe.optimizer == "muon"
    assert set(trial.params) == {
        "learning_rate_factor",
        "label_smoothing",
        "weight_decay_factor",
        "min_area",
        "saturation",
    }


@pytest.mark.parametrize("trials", [0, 1.5, True, "many"])
def test_trials_are_counted(coloured: fc.Dataset, trials: Any) -> None:
    with pytest.raises(
        fc.ConfigurationError, match="trials must be an int of at least 1. Received: trials="
    ):
        search(coloured, trials=trials)


def test_a_search_takes_a_source_and_refuses_what_is_none() -> None:
    flowers = fc.SyntheticFlowers(per_class=3, num_classes=2)
    trainer = fc.Trainer("fast", epochs=1, image_size=(32, 32))
    assert len(search(flowers, trials=1, folds=2, trainer=trainer, progress=False).trials) == 1
    with pytest.raises(fc.SourceError, match="photos-of-nobody"):
        search("photos-of-nobody", trials=1)


def test_without_optuna_the_way_to_it_is_said(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(fc.MissingDependencyError, match=r"flowercnn\[search\]"):
        search(coloured, trials=1)


def searched(dataset: fc.Dataset, study: Path, trials: int = 1) -> SearchResult:
    return search(dataset, trials=trials, folds=2, trainer=TRAINER, study=study, progress=False)


@pytest.mark.parametrize(
    "rest", [b'{"op_code":4,"wor', b'{"op_code":4,"wor\n', b'{"op_code":4{"op_code":4}\n{"op_']
)
def test_a_torn_line_at_the_end_of_a_study_is_cut_off(
    coloured: fc.Dataset, tmp_path: Path, rest: bytes
) -> None:
    study = tmp_path / "new" / "s.log"
    first = searched(coloured, study)
    whole = study.read_bytes()
    study.write_bytes(whole + rest)
    assert searched(coloured, study) == first
    assert study.read_bytes().startswith(whole)
    assert not study.read_bytes().startswith(whole + rest)
    assert len(searched(coloured, study, trials=2).trials) == 2
    assert [path.name for path in study.parent.iterdir()] == ["s.log"]


def test_a_study_whose_first_line_is_torn_begins_anew(coloured: fc.Dataset, tmp_path: Path) -> None:
    (tmp_path / "s.log").write_bytes(b'{"op_co')
    assert len(searched(coloured, tmp_path / "s.log").trials) == 1


def test_a_file_no_search_has_written_is_refused_and_stays(
    coloured: fc.Dataset, tmp_path: Path
) -> None:
    (tmp_path / "s.log").write_bytes(b'{"mine": 1}')
    with pytest.raises(fc.ConfigurationError, match="not a file a search has written"):
        searched(coloured, tmp_path / "s.log")
    assert (tmp_path / "s.log").read_bytes() == b'{"mine": 1}'
    with pytest.raises(fc.ConfigurationError, match="study must be a file. Received a folder"):
        searched(coloured, tmp_path)


@pytest.mark.parametrize("line", [b"half\n", b'{"op_code":99,"worker_id":"x"}\n'])
def test_a_study_that_is_damaged_within_is_named(
    coloured: fc.Dataset, tmp_path: Path, line: bytes
) -> None:
    searched(coloured, tmp_path / "s.log")
    first, rest = (tmp_path / "s.log").read_bytes().split(b"\n", 1)
    (tmp_path / "s.log").write_bytes(first + b"\n" + line + rest)
    with pytest.raises(fc.TrainingError, match=r"s\.log.*cannot be read or written"):
        searched(coloured, tmp_path / "s.log")


def test_a_full_disk_is_named_and_leaves_no_half_line(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "s.log"
    searched(coloured, study)
    whole = study.read_bytes()

    def full(_: Any, __: Any) -> None:
        with study.open("ab") as file:
            file.write(b'{"op_code":4')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", full)
    with pytest.raises(fc.TrainingError, match=r"s\.log.*No space left"):
        searched(coloured, study, trials=2)
    assert study.read_bytes() == whole


def test_a_lock_an_older_version_has_left_is_not_waited_for(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.log.lock").symlink_to("folder/s.log")
    monkeypatch.chdir(tmp_path)
    assert len(searched(coloured, Path("s.log")).trials) == 1
