"""Metrics against scikit-learn or values by hand, and their intervals against what they promise."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as theirs

import flowercnn as fc
from flowercnn.evaluation import metrics as ours
from flowercnn.evaluation.comparison import compare


@st.composite
def cases(draw: Any) -> tuple[Any, Any]:
    """True labels and probabilities, with ties among them; every class is there."""
    classes, count = draw(st.integers(3, 6)), draw(st.integers(8, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    y_true = np.concatenate([np.arange(classes), random.integers(classes, size=count)])
    y_prob = (
        random.dirichlet(np.full(classes, 0.5), size=len(y_true)).round(
            draw(st.sampled_from([1, 2, 12]))
        )
        + 0.01
    )
    return y_true, y_prob / y_prob.sum(axis=1, keepdims=True)


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-12


@given(cases())
@settings(deadline=None)
def test_figures_are_those_of_scikit_learn(case: tuple[Any, Any]) -> None:
    y_true, y_prob = case
    labels = np.arange(y_prob.shape[1])
    y_pred = y_prob.argmax(axis=1)
    evaluation = fc.Evaluation(
        tuple(map(str, labels)), tuple(map(str, range(len(y_true)))), y_true, y_prob
    )
    assert close(evaluation.accuracy, theirs.accuracy_score(y_true, y_pred))
    assert close(evaluation.balanced_accuracy, theirs.balanced_accuracy_score(y_true, y_pred))
    assert close(evaluation.log_loss, theirs.log_loss(y_true, y_prob, labels=labels))
    brier = sum(theirs.brier_score_loss(y_true == label, y_prob[:, label]) for label in labels)
    assert close(evaluation.brier, brier)
    assert close(
        evaluation.roc_auc, theirs.roc_auc_score(y_true, y_prob, multi_class="ovr", labels=labels)
    )
    for k in labels[
        1:
    ]:  # of equal probabilities scikit-learn takes the last, so the classes are turned round for it
        expected = theirs.top_k_accuracy_score(
            labels[-1] - y_true, y_prob[:, ::-1], k=k, labels=labels
        )
        assert close(evaluation.top_k(int(k)).value, expected)
    assert close(evaluation.top_k(np.int64(1)).value, evaluation.accuracy)  # type: ignore[arg-type]  # NumPy's too
    for label, each in enumerate(evaluation.per_class):  # AUC: share of pairs in order, ties half
        inside, outside = (y_prob[part, label] for part in (y_true == label, y_true != label))
        gaps = inside[:, None] - outside
        assert close(each.roc_auc, float(((gaps > 0) + 0.5 * (gaps == 0)).mean()))
        precisions = [
            (inside >= score).sum() / (y_prob[:, label] >= score).sum() for score in inside
        ]
        assert close(each.average_precision, float(np.mean(precisions)))
    mean_precision = np.mean([each.average_precision for each in evaluation.per_class])
    assert close(evaluation.average_precision, float(mean_precision))


def test_ranking_is_that_computed_by_hand() -> None:
    y_true = np.array([0, 1, 0, 1, 1])
    score = np.array(
        [0.9, 0.8, 0.6, 0.6, 0.1]
    )  # of class 0; its images are ranked 1st and tied 3rd
    y_prob = np.stack([score, 1 - score, np.zeros(5)], axis=1)
    ranking = ours.rank_classes(y_true, y_prob)
    assert ranking[0] == pytest.approx([(3 + 1.5) / 6, (1 + 2 / 4) / 2])
    assert ranking[1] == pytest.approx([(3 + 1.5) / 6, (1 + 2 / 3 + 3 / 4) / 3])
    assert np.isnan(ranking[2]).all()  # no image is of it
    only = ours.rank_classes(np.zeros(2, dtype=np.int64), y_prob[:2])
    assert np.isnan(only[0, 0])  # and here no image of the rest
    assert only[0, 1] == 1


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_weighted_ranking_is_that_of_images_repeated(seed: int) -> None:
    random = np.random.default_rng(seed)
    y_true, y_prob = random.integers(3, size=30), random.random((30, 3)).round(1)
    weights = random.integers(0, 3, size=(1, 30)).astype(float)
    times = weights[0].astype(int)
    repeated = ours.rank_classes(np.repeat(y_true, times), np.repeat(y_prob, times, axis=0))
    weighted = ours.weighted_ranking(y_true, y_prob, weights)[:, 0]
    assert np.allclose(weighted, repeated, atol=1e-12, equal_nan=True)
    once = ours.weighted_ranking(y_true, y_prob, np.ones((1, 30)))[:, 0]
    assert np.allclose(once, ours.rank_classes(y_true, y_prob), atol=1e-12, equal_nan=True)


def random_evaluation(
    seed: int, count: int = 200, classes: int = 4, weight: float = 1.0
) -> fc.Evaluation:
    random = np.random.default_rng(seed)
    y_true = random.integers(classes, size=count)
    y_prob = random.dirichlet(np.ones(classes), size=count) + weight * 0.3 * np.eye(classes)[y_true]
    y_prob = (y_prob / y_prob.sum(axis=1, keepdims=True)).astype(np.float32)
    return fc.Evaluation(
        tuple("abcdefghij"[:classes]), tuple(map(str, range(count))), y_true, y_prob
    )


def test_every_figure_has_an_interval_around_it_and_says_which() -> None:
    evaluation = random_evaluation(0, classes=7)
    assert set(evaluation.metrics) == {
        *(
            "accuracy",
            "top_5_accuracy",
            "balanced_accuracy",
            "log_loss",
            "brier",
            "calibration_error",
        ),
        *("roc_auc", "average_precision"),
    }
    for name, metric in evaluation.metrics.items():
        assert metric.method == (
            "wilson" if name in ("accuracy", "top_5_accuracy") else "bootstrap"
        )
        low, high = metric.interval
        assert low < high
        assert low <= metric.value <= high
    for each in evaluation.per_class:
        for name in ("precision", "recall", "f1"):
            low, high = getattr(each, f"{name}_interval")
            assert low <= getattr(each, name) <= high


def test_bootstrap_intervals_cover_about_as_often_as_they_say() -> None:
    truth = np.mean([random_evaluation(seed, 2000).brier for seed in range(1000, 1010)])
    intervals = [random_evaluation(seed, 100).metrics["brier"].interval for seed in range(60)]
    assert np.mean([low <= truth <= high for low, high in intervals]) > 0.85


def test_what_is_not_defined_is_not_a_number_and_null_in_json(tmp_path: Path) -> None:
    evaluation = fc.Evaluation(
        ("a", "b", "c"), ("1", "2"), np.array([0, 1]), np.eye(3, dtype=np.float32)[:2]
    )
    assert math.isnan(evaluation.per_class[2].roc_auc)
    assert evaluation.roc_auc == 1
    figures = json.loads(
        evaluation.save_report(tmp_path / "r.html").with_suffix(".json").read_text()
    )
    assert figures["per_class"][2]["roc_auc"] is None
    assert figures["metrics"]["roc_auc"]["value"] == 1


def test_calibration_error_is_taken_over_bins_of_equally_many() -> None:
    confidence = np.repeat(np.linspace(0.05, 0.95, 10), 20)
    right = np.concatenate([np.arange(20) < round(20 * c) for c in np.linspace(0.05, 0.95, 10)])
    assert ours.calibration_error(confidence, right) == pytest.approx(0, abs=1e-12)
    assert ours.calibration_error(confidence, np.zeros(200, dtype=bool)) == pytest.approx(0.5)
    distinct = np.linspace(0.1, 0.9, 25)
    assert [each.count for each in ours.reliability(distinct, right[:25])] == [3] * 5 + [2] * 5


@given(
    st.lists(st.tuples(st.sampled_from([0.25, 0.3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1),
    st.randoms(),
)
def test_calibration_does_not_depend_on_the_order_of_the_pictures(
    pictures: list[tuple[float, bool]], by: Any
) -> None:
    confidence, right = (np.array(side) for side in zip(*pictures, strict=True))
    shuffled = np.array(by.sample(range(len(pictures)), len(pictures)))
    bins = ours.reliability(confidence, right)
    assert bins == ours.reliability(confidence[shuffled], right[shuffled])
    assert sum(each.count for each in bins) == len(pictures)
    assert len(bins) <= len(np.unique(confidence))
    assert ours.calibration_error(confidence, right) == ours.calibration_error(
        confidence[shuffled], right[shuffled]
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.floats(0, 1))
def test_a_mirrored_interval_holds_its_figure(drawn: list[float], value: float) -> None:
    low, high = ours.mirrored_interval(np.array(drawn), value)
    assert 0 <= low <= value <= high <= 1
    assert low < high


def test_the_interval_of_the_calibration_error_covers_more_often_than_percentiles() -> None:
    """Of a classifier that is too sure of itself; the truth is that of very many pictures."""
    truth = overconfident(0, 200_000).calibration_error
    intervals = [
        overconfident(seed, 200).metrics["calibration_error"].interval for seed in range(1, 41)
    ]
    assert np.mean([low <= truth <= high for low, high in intervals]) > 0.7


def overconfident(seed: int, count: int) -> fc.Evaluation:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (count, 5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y_true = (shares.cumsum(axis=1) < random.random((count, 1))).sum(axis=1).clip(0, 4)
    raised = np.exp(1.3 * logits)
    y_prob = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    return fc.Evaluation(tuple("abcde"), tuple(map(str, range(count))), y_true, y_prob)


@pytest.mark.parametrize("count", [1, 30])
def test_an_interval_that_bootstrap_cannot_tell_is_as_wide_as_can_be(
    count: int, tmp_path: Path
) -> None:
    truth = np.arange(count) % 3
    y_prob = (
        np.full((count, 3), 0.1, np.float32) + np.float32(0.7) * np.eye(3, dtype=np.float32)[truth]
    )
    evaluation = fc.Evaluation(("a", "b", "c"), tuple(map(str, range(count))), truth, y_prob)
    widest = {
        name: metric.interval
        for name, metric in evaluation.metrics.items()
        if metric.method == "bootstrap"
    }
    assert widest.pop("log_loss") == (0, math.inf)
    assert widest.pop("brier") == (0, 2)
    assert {interval for interval in widest.values() if not math.isnan(interval[0])} == {(0, 1)}
    assert all(each.f1_interval == (0, 1) for each in evaluation.per_class)
    page = evaluation.save_report(tmp_path / "r.html")
    assert "0.000 to inf, bootstrap" in page.read_text(encoding="utf-8")
    assert "nan" not in re.sub(
        r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    figures = json.loads(page.with_suffix(".json").read_text())["metrics"]
    assert figures["balanced_accuracy"]["interval"] == [0, 1]
    assert figures["log_loss"]["interval"] == [0, None]


def test_a_figure_that_is_not_defined_is_shown_as_none(tmp_path: Path) -> None:
    y_prob = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    page = fc.Evaluation(("a", "b"), ("1", "2"), np.array([0, 0]), y_prob).save_report(
        tmp_path / "r.html"
    )
    assert "<dt>ROC-AUC, one against the rest</dt><dd>none<small>no interval" in page.read_text(
        encoding="utf-8"
    )


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    count = only_a + only_b + 5
    truth, keys = np.zeros(count, dtype=np.int64), tuple(map(str, range(count)))
    a, b = (np.eye(2)[np.zeros(count, dtype=int)] for _ in range(2))
    b[:only_a] = a[only_a : only_a + only_b] = [0, 1]
    found = compare(
        fc.Evaluation(("x", "y"), keys, truth, a), fc.Evaluation(("x", "y"), keys, truth, b)
    )
    assert (found.only_a, found.only_b) == (only_a, only_b)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert f"only the second on {only_b}" in found.summary()


def test_classifiers_that_differ_on_many_pictures_are_compared_at_once() -> None:
    count = 40_000
    truth, keys = np.zeros(count, dtype=np.int64), tuple(map(str, range(count)))
    a, b = (np.zeros((count, 2), np.float32) for _ in range(2))
    a[:, 0] = b[:, 0] = 1
    a[: count // 2] = b[count // 2 :] = [0, 1]
    started = time.perf_counter()
    found = compare(
        fc.Evaluation(("x", "y"), keys, truth, a), fc.Evaluation(("x", "y"), keys, truth, b)
    )
    assert (found.p_value, found.difference) == (1.0, 0.0)
    assert time.perf_counter() - started < 10


def test_only_evaluations_are_compared() -> None:
    evaluation = random_evaluation(0)
    for pair in ((evaluation, "model.keras"), (evaluation.y_prob, evaluation)):
        with pytest.raises(
            fc.ConfigurationError, match=r"must be a flowercnn.Evaluation; make one with .*evaluate"
        ):
            compare(*pair)


def test_evaluations_of_other_pictures_cannot_be_compared() -> None:
    with pytest.raises(fc.ConfigurationError, match="same images.*100 that differ"):
        compare(random_evaluation(0, 200), random_evaluation(0, 300))


def test_confused_pairs_and_mistakes_are_listed_worst_first() -> None:
    evaluation = random_evaluation(3, weight=2)
    counts = [each.count for each in evaluation.most_confused(20)]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(evaluation) - evaluation.hits
    mistakes = evaluation.worst_mistakes(1000)
    assert len(mistakes) == len(evaluation) - evaluation.hits
    given_to_truth = [each.probability_of_truth for each in mistakes]
    assert given_to_truth == sorted(given_to_truth)
    assert all(each.true != each.predicted for each in mistakes)
    assert evaluation.most_confused(1)[0].keys[0] in {each.key for each in mistakes}


def test_k_must_be_a_number_of_at_least_one() -> None:
    for k in (0, True, 2.5):
        with pytest.raises(fc.ConfigurationError, match="k must be"):
            random_evaluation(0).top_k(k)  # type: ignore[arg-type]  # that is the point


def test_a_report_on_300_photographs_stays_below_5_mb(tmp_path: Path, photographs: Path) -> None:
    samples = list(fc.ImageFolder(photographs))[::3][:300]
    dataset = fc.Dataset.from_source(
        fc.InMemory([s.image for s in samples], [s.label for s in samples])
    )
    y_prob = np.eye(dataset.num_classes, dtype=np.float32)[dataset.labels]
    evaluation = fc.Evaluation(
        dataset.class_names, dataset.keys, dataset.labels, y_prob, samples=dataset.samples
    )
    page = evaluation.save_report(tmp_path / "report.html")
    assert page.stat().st_size < 5_000_000
    assert page.read_text(encoding="utf-8").count('":"/9j/') == 300


def test_loss_and_accuracy_are_those_computed_by_hand() -> None:
    y_prob = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.125, 0.125, 0.75]])
    found = ours.loss_and_accuracy(np.array([0, 1, 2]), y_prob)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx((math.log(2) + 7 * math.log(10) + math.log(4 / 3)) / 3)
