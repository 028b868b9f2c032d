from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowercnn as fc
from flowercnn.errors import OutputError
from flowercnn.evaluation.evaluation import pooled
from flowercnn.evaluation.metrics import wilson_interval
from flowercnn.evaluation.plots import confusion_figure, prediction_grid

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(PAIRS)
@settings(deadline=None)
def test_metrics_of_each_class_are_those_counted_one_by_one(pairs: list[tuple[int, int]]) -> None:
    y_true, y_pred = map(list, zip(*pairs, strict=True))
    evaluation = evaluation_of(y_true, y_pred, tuple("abcde"))
    for true in range(5):
        for predicted in range(5):
            assert evaluation.confusion_matrix[true, predicted] == pairs.count((true, predicted))
    recalls = []
    for label, each in enumerate(evaluation.per_class):
        hits, actual, called = pairs.count((label, label)), y_true.count(label), y_pred.count(label)
        assert each.support == actual
        assert each.precision == pytest.approx(hits / called if called else 0, abs=1e-12)
        assert each.recall == pytest.approx(hits / actual if actual else 0, abs=1e-12)
        assert each.f1 == pytest.approx(2 * hits / max(1, actual + called), abs=1e-12)
        recalls += [hits / actual] if actual else []
    assert evaluation.balanced_accuracy == pytest.approx(np.mean(recalls), abs=1e-12)


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_wilson_interval_holds_the_share_and_stays_in_range(hits: int, misses: int) -> None:
    low, high = wilson_interval(hits, hits + misses)
    share = hits / (hits + misses) if hits + misses else 0.5
    assert 0 <= low <= share <= high <= 1


def test_wilson_intervals_are_those_of_the_literature() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_wilson_intervals_cover_as_often_as_they_say() -> None:
    hits = np.random.default_rng(0).binomial(100, 0.85, size=4000)
    covered = [low <= 0.85 <= high for low, high in (wilson_interval(int(h), 100) for h in hits)]
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (1, 2, 0.0), (1, 2, 1.0)])
def test_impossible_shares_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(fc.ConfigurationError):
        wilson_interval(*arguments)


def evaluation_of(
    y_true: list[int], y_pred: list[int], names: tuple[str, ...] = ("a", "b", "c")
) -> fc.Evaluation:
    y_prob = np.eye(len(names), dtype=np.float32)[y_pred]
    return fc.Evaluation(names, tuple(map(str, range(len(y_true)))), np.array(y_true), y_prob)


def test_an_evaluation_computes_every_figure_from_predictions() -> None:
    evaluation = evaluation_of([0, 0, 1, 1, 2], [0, 1, 1, 1, 0])
    assert evaluation.accuracy == 0.6
    assert evaluation.accuracy_interval == wilson_interval(3, 5)
    assert evaluation.confusion_matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    b = evaluation.per_class[1]
    assert (b.class_name, b.recall, b.support) == ("b", 1.0, 2)
    assert b.precision == pytest.approx(2 / 3)
    assert evaluation.summary().startswith(
        "accuracy 60.0% (95 % interval 23.1% to 88.2%) on 5 images"
    )


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(fc.ConfigurationError, match="y_prob"):
        fc.Evaluation(("a", "b"), ("1",), np.array([0]), np.ones((1, 3), np.float32))


def test_lists_of_numbers_are_taken_and_what_are_no_labels_is_refused() -> None:
    evaluation = fc.Evaluation(("a", "b"), ("1", "2"), [0, 1], [[0.9, 0.1], [0.6, 0.4]])  # type: ignore[arg-type]
    assert evaluation.accuracy == 0.5
    rows = np.full((1, 2), 0.5)
    wrong: list[tuple[Any, Any, str]] = [
        (["a"], rows, "y_true must be an array of ints"),
        ([0], [["x", "y"]], "y_prob must be an array of numbers"),
        ([0], [[0.5], [0.5, 0.5]], "y_prob must be an array of numbers"),
        (
            np.array([2]),
            rows,
            "y_true must be labels of the 2 classes, from 0 to 1. Received: 2 to 2",
        ),
        (np.array([0]), np.full((1, 2), np.nan), "y_prob must be probabilities. Received: NaN"),
        (np.array([-1]), rows, "Received: -1 to -1"),
    ]
    for y_true, y_prob, reason in wrong:
        with pytest.raises(fc.ConfigurationError, match=reason):
            fc.Evaluation(("a", "b"), ("1",), y_true, y_prob)


def test_evaluate_agrees_with_the_predictions(run: fc.TrainingRun, coloured: fc.Dataset) -> None:
    evaluation = fc.evaluate(run.predictor, coloured, progress=False)
    predictions = run.predictor.predict(coloured)
    right = [p.label == s.label for p, s in zip(predictions, coloured, strict=True)]
    assert evaluation.accuracy == np.mean(right)
    assert evaluation.keys == coloured.keys


def test_classes_are_matched_by_name(run: fc.TrainingRun, coloured: fc.Dataset) -> None:
    images = fc.InMemory([s.image for s in coloured], [s.label for s in coloured])
    other_order = fc.Dataset.from_source(images, class_names=["red", "blue", "green"])
    assert fc.evaluate(run.predictor, other_order, progress=False).accuracy == pytest.approx(
        fc.evaluate(run.predictor, coloured, progress=False).accuracy
    )
    only_red = fc.Dataset.from_source(fc.InMemory([coloured[29].image], ["red"]))
    assert len(fc.evaluate(run.predictor, only_red, progress=False)) == 1


def test_a_class_the_classifier_does_not_know_is_named(run: fc.TrainingRun) -> None:
    violet = fc.Dataset.from_source(fc.InMemory(np.zeros((1, 8, 8, 3), np.uint8), ["violet"]))
    with pytest.raises(fc.UnknownNameError, match="'violet'"):
        fc.evaluate(run.predictor, violet, progress=False)


def test_bad_pictures_are_an_error_or_left_out_and_said(
    run: fc.TrainingRun, coloured: fc.Dataset
) -> None:
    dataset = fc.Dataset((fc.Sample("bad.jpg", "red", b"bad"), *coloured.samples), coloured.encoder)
    with pytest.raises(fc.ImageError, match="bad.jpg"):
        fc.evaluate(run.predictor, dataset, progress=False)
    evaluation = fc.evaluate(run.predictor, dataset, bad_images="skip", progress=False)
    assert evaluation.skipped == ("bad.jpg",)
    assert evaluation.y_true.tolist() == coloured.labels.tolist()


@pytest.mark.parametrize("model", ["article", "backbone:mobilenet"])
def test_pictures_left_out_do_not_count_as_learned_from(model: str, coloured: fc.Dataset) -> None:
    dataset = fc.Dataset((fc.Sample("bad.jpg", "red", b"bad"), *coloured.samples), coloured.encoder)
    options = {} if model == "article" else {"weights": None, "until": "conv_pw_3_relu"}
    trainer = fc.Trainer(
        model, image_size=(32, 32), model_options=options, epochs=1, bad_images="skip"
    )
    run = trainer.fit(dataset, progress=False)
    assert run.skipped == ("bad.jpg",)
    assert run.predictor.info["train_samples"] == len(coloured)


def test_nothing_to_evaluate_on_is_an_error(run: fc.TrainingRun, coloured: fc.Dataset) -> None:
    with pytest.raises(fc.DataError, match="empty"):
        fc.evaluate(run.predictor, coloured.subset([]))
    with pytest.raises(fc.SourceError, match="no-such-photos"):
        fc.evaluate(run.predictor, "no-such-photos")


def test_a_path_a_source_and_a_uri_are_evaluated_as_their_data_set_is(
    run: fc.TrainingRun, photo_folder: Path
) -> None:
    shutil.rmtree(photo_folder / "green")  # only some of the classes
    by_path = fc.evaluate(run.predictor, photo_folder, progress=False)
    assert by_path.class_names == run.predictor.class_names == ("blue", "green", "red")
    assert [each.support for each in by_path.per_class] == [10, 0, 10]
    dataset = fc.Dataset.from_source(photo_folder)
    for data in (
        str(photo_folder),
        fc.ImageFolder(photo_folder),
        f"folder:{photo_folder}",
        dataset,
    ):
        found = fc.evaluate(run.predictor, dataset=data, progress=False)
        assert found.keys == by_path.keys == dataset.keys
        assert np.array_equal(found.y_prob, by_path.y_prob)
        assert found.y_true.tolist() == [0] * 10 + [2] * 10


def test_wrong_arguments_are_told_before_anything_is_predicted(
    run: fc.TrainingRun, coloured: fc.Dataset
) -> None:
    with pytest.raises(
        fc.ConfigurationError, match="bad_images must be 'error' or 'skip'. Received: .*'ignore'"
    ):
        fc.evaluate("model.keras", coloured, bad_images="ignore")  # type: ignore[arg-type]  # that is the point
    for predictor in (run.predictor.model, "model.keras", run):
        with pytest.raises(
            fc.ConfigurationError,
            match=r"predictor must be a .*load one with Predictor.load\(path\)",
        ):
            fc.evaluate(predictor, coloured)  # type: ignore[arg-type]  # that is the point


def test_an_evaluation_of_no_pictures_is_refused() -> None:
    with pytest.raises(fc.DataError, match="at least one image"):
        fc.Evaluation(("a", "b"), (), np.empty(0, np.int64), np.empty((0, 2), np.float32))


def test_evaluations_are_pooled_with_all_that_is_known_of_their_pictures() -> None:
    a = dataclasses.replace(evaluation_of([0, 1], [0, 1]), skipped=("x",), refused=("1",))
    b = dataclasses.replace(evaluation_of([2], [0]), keys=("2",), skipped=("y",), refused=("2",))
    found = pooled([a, b])
    assert (found.keys, found.hits) == (("0", "1", "2"), 2)
    assert (found.skipped, found.refused) == (("x", "y"), ("1", "2"))


@pytest.mark.parametrize("limit", [-1, True, 2.5])
def test_a_number_to_list_at_most_is_not_negative(limit: Any) -> None:
    evaluation = evaluation_of([0, 1, 2], [1, 2, 0])
    for listed in (evaluation.worst_mistakes, evaluation.most_confused):
        assert len(listed(2)) == 2
        assert listed(0) == []
        with pytest.raises(fc.ConfigurationError, match="limit must be an int of at least 0"):
            listed(limit)


def test_a_report_holds_numbers_of_numpy_and_paths(tmp_path: Path) -> None:
    info: dict[str, Any] = {
        "count": np.int64(3),
        "fine": np.bool_(True),
        "model": tmp_path / "model.keras",
    }
    info |= {"shares": np.array([[0.5, np.nan]], np.float32), "name": np.str_("x")}
    history: Any = {"loss": np.array([2.0, 1.0], np.float32)}
    evaluation = dataclasses.replace(evaluation_of([0, 1], [0, 1]), info=info, history=history)
    figures = json.loads(
        evaluation.save_report(tmp_path / "r.html").with_suffix(".json").read_text(encoding="utf-8")
    )
    plain = {
        "count": 3,
        "fine": True,
        "model": str(tmp_path / "model.keras"),
        "shares": [[0.5, None]],
        "name": "x",
    }
    assert figures["info"] == plain
    assert figures["history"] == {"loss": [2.0, 1.0]}


def test_a_report_leaves_out_a_picture_whose_place_is_gone(tmp_path: Path) -> None:
    def gone() -> bytes:
        raise fc.SourceError("photos.zip: was changed since it was listed.")

    samples = tuple(
        fc.Sample(key=str(number), label="ab"[number], image=gone) for number in range(2)
    )
    evaluation = dataclasses.replace(evaluation_of([0, 1], [0, 1]), samples=samples)
    assert evaluation.save_report(tmp_path / "report.html").is_file()


def test_reports_have_the_figures_and_escape_names(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    evaluation = evaluation_of([0, 1], [0, 1], (evil, "b"))
    page = evaluation.save_report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert evil not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<strong>100.0%</strong>" in page
    figures = json.loads(
        evaluation.save_report(tmp_path / "report.json").read_text(encoding="utf-8")
    )
    assert figures["accuracy"] == 1
    with pytest.raises(fc.ConfigurationError, match=".html or .json"):
        evaluation.save_report(tmp_path / "report.pdf")


def page_of(tmp_path: Path, **info: Any) -> str:
    """A report without what it lists word for word of the model file."""
    evaluation = dataclasses.replace(evaluation_of([0, 1], [0, 1]), info=info)
    page = evaluation.save_report(tmp_path / "report.html").read_text(encoding="utf-8")
    return re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    "info",
    [
        {"train_samples": "many"},
        {"train_samples": True},
        {"epochs": {"a": [1]}, "seed": "</td><b>"},
        {"model": ["<script>"]},
        {"calibration": 7},
        {"preprocessing": 1},
        {"preprocessing": {"image_size": 5}},
        {"preprocessing": {"image_size": [5]}},
    ],
)
def test_a_report_shows_nothing_of_a_wrong_type_that_a_model_file_says(
    tmp_path: Path, info: dict[str, Any]
) -> None:
    assert page_of(tmp_path, **info) == page_of(tmp_path)


def test_a_report_is_written_whatever_a_model_file_says_of_its_calibration_and_name(
    tmp_path: Path,
) -> None:
    for calibration in ({"applied": True, "temperature": "hot"}, {"applied": False, "reason": 7}):
        assert "No temperature is applied: unknown reason" in page_of(
            tmp_path, calibration=calibration
        )
    assert "half \\ud800" in page_of(tmp_path, model="half \ud800", note="\ud800")


def test_a_report_shows_what_training_has_kept(tmp_path: Path) -> None:
    calibration = {"applied": True, "temperature": 0.5, "reason": None}
    info = {
        "model": "fast",
        "train_samples": 1234,
        "preprocessing": {"image_size": [32, 48]},
        "seed": 7,
    }
    evaluation = dataclasses.replace(
        evaluation_of([0, 1], [0, 1]), info={**info, "calibration": calibration}
    )
    page = evaluation.save_report(tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("fast", "Trained on 1,234 images", "resized to 32 x 48 pixels", "divided by 0.50"):
        assert text in page


def test_a_report_says_where_the_accuracy_lies_and_not_what_the_next_test_will_bring(
    tmp_path: Path,
) -> None:
    page = page_of(tmp_path)
    assert (
        "The accuracy on all images of the same kind is between 34.2% and 100.0% (95&nbsp;% "
        "interval" in page
    )
    assert "expect" not in page


def test_only_a_report_on_a_training_claims_that_its_pictures_were_not_learned_from(
    tmp_path: Path,
) -> None:
    claim = "tested on 2 images it was not trained on."
    assert claim not in page_of(tmp_path, train_samples=9)
    assert "Trained on 9 images, tested on 2 images." in page_of(tmp_path, train_samples=9)
    evaluation = dataclasses.replace(evaluation_of([0, 1], [0, 1]), history={"loss": [1.0]})
    assert claim in evaluation.save_report(tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("classes", [2, 17, 102])
def test_confusion_matrices_are_drawn_with_every_name(classes: int, tmp_path: Path) -> None:
    names = [f"$class_{number}$" for number in range(classes)]
    figure = confusion_figure(np.eye(classes, dtype=np.int64) * 3, names)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    figure.savefig(tmp_path / "confusion.png", dpi=30)


def test_a_confusion_matrix_is_saved(tmp_path: Path) -> None:
    assert (
        evaluation_of([0, 1, 2], [0, 1, 1]).plot_confusion_matrix(tmp_path / "c.png").stat().st_size
        > 3000
    )


@pytest.mark.parametrize("name", ["c.xyz", "c", "c.jpg", ".png"])
def test_a_plot_is_saved_as_what_is_documented_only(name: str, tmp_path: Path) -> None:
    evaluation = evaluation_of([0, 1, 2], [0, 1, 1])
    with pytest.raises(fc.ConfigurationError, match=r"must end in \.png, \.svg or \.pdf"):
        evaluation.plot_confusion_matrix(tmp_path / name)
    assert not list(tmp_path.iterdir())
    assert evaluation.plot_per_class(tmp_path / "c.PNG").is_file()
    with pytest.raises(OutputError, match=r"c\.PNG.c\.png: cannot be written"):
        evaluation.plot_confusion_matrix(tmp_path / "c.PNG" / "c.png")


def test_a_grid_shows_truth_where_it_differs(tmp_path: Path) -> None:
    figure = prediction_grid(
        [np.zeros((8, 8, 3), np.uint8)] * 2, ["a", "b"], ["a", "a"], [0.9, 0.6]
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["a 90%", "a 60%\nreally b"]
    figure.savefig(tmp_path / "grid.png")
