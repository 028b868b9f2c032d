from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from fitting import timed_steps
from hypothesis import given, settings
from hypothesis import strategies as st

import flowercnn as fc
from flowercnn.models.recipe import Recipe
from flowercnn.training.budget import fit_epochs, measured, parse_time
from flowercnn.training.loop import Loop
from flowercnn.training.plan import load
from flowercnn.training.run import History


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10min", 600), ("1.5h", 5400), (" 2 m ", 120), (45, 45), (0.5, 0.5)],
)
def test_times_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "budget", ["", "ten minutes", "-1s", "0s", 0, -3, float("nan"), float("inf"), True, None, "1e3"]
)
def test_what_is_no_time_is_refused(budget: Any) -> None:
    with pytest.raises(fc.ConfigurationError, match="time_budget must be"):
        parse_time(budget)


def test_as_many_epochs_are_taken_as_fit() -> None:
    recipe = Recipe(image_size=(100, 100), epochs=7)
    fitted = fit_epochs(recipe, 100, seconds_per_area=2 / 10_000)  # two seconds an epoch
    assert 45 <= fitted.epochs <= 50
    assert fit_epochs(recipe, -5, 1.0).epochs == 1
    assert fit_epochs(recipe, 10, 2 / 10_000, done=3).epochs in (7, 8)


def test_small_pictures_take_less_of_the_budget() -> None:
    recipe = Recipe(image_size=(100, 100), epochs=7, progressive=((0, 0.5),))
    assert fit_epochs(recipe, 100, 2 / 10_000).epochs > 180


def test_the_pace_is_told_from_the_epochs_after_the_first() -> None:
    recipe = Recipe(image_size=(10, 10), epochs=3)
    assert measured(recipe, History(seconds=(60, 2, 4))) == pytest.approx(0.03)


def test_a_training_on_a_budget_plans_its_epochs_and_ends_with_a_low_rate(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = timed_steps(monkeypatch, first=10, others=1)
    started = clock.now
    trainer = fc.Trainer("fast", image_size=(32, 32), batch_size=8, time_budget="60s")
    run = trainer.fit(coloured, progress=False)
    assert 1 < run.recipe.epochs == len(run.history)
    assert 40 < clock.now - started <= 60
    rates = run.history.to_dict()["learning_rate"]
    assert rates[-1] < 0.5 * max(rates)


def test_a_plan_of_one_epoch_is_made_again_within_it(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_steps(monkeypatch, first=1, others=1)
    monkeypatch.setattr(Loop, "seconds_per_epoch", lambda *_: 1e9)
    trainer = fc.Trainer("article", image_size=(32, 32), batch_size=4, time_budget="60s")
    run = trainer.fit(coloured, progress=False)
    assert run.recipe.epochs == len(run.history) > 1


def test_an_epoch_of_one_step_is_not_timed_by_what_it_takes_to_compile(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_steps(monkeypatch, first=60, others=1)
    trainer = fc.Trainer("article", image_size=(32, 32), batch_size=64)
    plan = trainer.plan(coloured)
    data, _ = load(coloured, plan, progress=False)
    loop = Loop(plan.build(), plan.recipe, data, seed=plan.seed, precision=plan.precision)
    assert loop.seconds_per_epoch() == pytest.approx(1)


def test_a_training_that_goes_on_has_what_is_left_of_its_budget(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float] = []
    run = Loop.run

    def watched(self: Loop, **options: Any) -> Any:
        left.append(options["deadline"] - time.perf_counter())
        return run(self, **options)

    monkeypatch.setattr(Loop, "run", watched)
    monkeypatch.setattr(Loop, "seconds_per_epoch", lambda *_: 1e9)
    trainer = fc.Trainer("article", image_size=(32, 32), batch_size=64, time_budget="60s")
    spent = sum(trainer.fit(coloured, checkpoint_dir=tmp_path, progress=False).history.seconds)
    trainer.fit(coloured, checkpoint_dir=tmp_path, progress=False)
    assert left[1] < 60 - spent


def test_a_budget_that_is_over_still_trains_an_epoch(coloured: fc.Dataset) -> None:
    run = fc.Trainer("article", image_size=(32, 32), time_budget=0.01).fit(coloured, progress=False)
    assert len(run.history) == 1


def test_epochs_and_a_budget_exclude_each_other() -> None:
    with pytest.raises(fc.ConfigurationError, match="exclude each other"):
        fc.Trainer(epochs=3, time_budget="1h")


@settings(deadline=None)
@given(
    seconds=st.floats(0, 500),
    done=st.integers(0, 30),
    progressive=st.sampled_from([(), ((0, 0.5),), ((0, 0.4), (0.3, 0.7), (0.85, 1.0))]),
)
def test_one_epoch_more_than_fitted_would_not_fit(
    seconds: float, done: int, progressive: Any
) -> None:
    recipe = Recipe(image_size=(10, 10), progressive=progressive)

    def time_of(epochs: int) -> float:
        planned = recipe.replace(epochs=epochs)
        return sum(math.prod(planned.training_size(epoch)) for epoch in range(done, epochs)) / 100

    fitted = fit_epochs(recipe, seconds, 1 / 100, done=done).epochs
    assert fitted == max(1, done) or time_of(fitted) <= 0.95 * seconds
    assert time_of(fitted + 1) > 0.95 * seconds
