from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import flowercnn as fc
from flowercnn.evaluation.evaluation import pooled
from flowercnn.evaluation.label_errors import label_issues
from flowercnn.evaluation.metrics import wilson_interval
from flowercnn.training import CrossValidation, cross_validate


def mislabelled(seed: int, count: int = 1000, classes: int = 10) -> tuple[fc.Evaluation, Any]:
    """Probabilities of a classifier that is right in about three of four cases, and which labels
    were flipped."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=count)
    logits = random.normal(0, 1, (count, classes)) + 2.4 * np.eye(classes)[truth]
    y_prob = np.exp(1.5 * logits) / np.exp(1.5 * logits).sum(axis=1, keepdims=True)
    flipped = np.zeros(count, dtype=bool)
    flipped[random.choice(count, count // 20, replace=False)] = True
    labels = np.where(flipped, (truth + random.integers(1, classes, size=count)) % classes, truth)
    keys = tuple(map(str, range(count)))
    return fc.Evaluation(tuple("abcdefghij"[:classes]), keys, labels, y_prob), flipped


def test_most_flipped_labels_are_in_the_first_tenth() -> None:
    for seed in range(5):
        evaluation, flipped = mislabelled(seed)
        issues = label_issues(evaluation)
        assert len(issues) == len(evaluation)
        first = [int(issue.key) for issue in issues[: len(issues) // 10]]
        assert flipped[first].sum() / flipped.sum() >= 0.7


def test_a_picture_surely_of_another_class_is_the_first() -> None:
    y_prob = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9], [0.05, 0.95]])
    evaluation = fc.Evaluation(("a", "b"), tuple("12345"), np.array([0, 0, 1, 1, 0]), y_prob)
    first, *others = label_issues(evaluation)
    assert (first.key, first.label, first.suggested, first.likely) == ("5", "a", "b", True)
    assert not any(issue.likely for issue in others)


def test_one_class_cannot_be_wrong() -> None:
    with pytest.raises(fc.ConfigurationError, match="at least two classes"):
        label_issues(fc.Evaluation(("a",), ("1",), np.array([0]), np.ones((1, 1))))


def test_cross_validation_predicts_every_picture_once(coloured: fc.Dataset) -> None:
    found = cross_validate(
        coloured, k=3, model="article", image_size=(24, 24), epochs=8, progress=False
    )
    assert sorted(found.evaluation.keys) == sorted(coloured.keys)
    assert [len(fold) for fold in found.folds] == [10, 10, 10] or sum(map(len, found.folds)) == 30
    low, high = found.interval
    assert low <= found.mean_accuracy <= high
    assert found.mean_accuracy == pytest.approx(np.mean(found.accuracies))
    assert "mean of 3 folds on 30 images" in found.summary()
    assert len(found.label_issues()) == 30
    assert found.label_issues()[0].sample is not None


def folds_with(hits: list[int], count: int) -> CrossValidation:
    """Folds of so many pictures each, so many of them right."""
    folds = []
    for number, right in enumerate(hits):
        y_prob = np.eye(2, dtype=np.float32)[[0] * right + [1] * (count - right)]
        keys = tuple(f"{number}/{place}" for place in range(count))
        folds.append(fc.Evaluation(("a", "b"), keys, np.zeros(count, np.int64), y_prob))
    return CrossValidation(tuple(folds), pooled(folds))


def test_folds_that_are_alike_do_not_make_the_interval_narrower_than_their_pictures_allow() -> None:
    assert folds_with([10] * 5, 10).interval == wilson_interval(50, 50)
    assert folds_with([9] * 5, 10).interval == wilson_interval(45, 50)
    assert folds_with([10], 10).interval == (0, 1)
    unlike = folds_with([10, 5, 8], 10)
    by_student = stats.t.interval(0.95, 2, np.mean(unlike.accuracies), stats.sem(unlike.accuracies))
    assert unlike.interval == pytest.approx((by_student[0], 1.0))


def test_a_stopped_cross_validation_keeps_its_folds_and_goes_on(
    coloured: fc.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "k": 3,
        "model": "article",
        "image_size": (24, 24),
        "epochs": 1,
        "progress": False,
    }
    whole = cross_validate(coloured, **settings)
    fit, begun = fc.Trainer.fit, list[int]()

    def stopped_in_the_third(trainer: fc.Trainer, *data: Any, **options: Any) -> fc.TrainingRun:
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return fit(trainer, *data, **options)

    monkeypatch.setattr(fc.Trainer, "fit", stopped_in_the_third)
    stopped = cross_validate(coloured, checkpoint_dir=tmp_path, **settings)
    assert stopped.interrupted
    assert "2 folds on 20 images, stopped early" in stopped.summary()
    assert np.array_equal(stopped.evaluation.y_prob, whole.evaluation.y_prob[:20])
    continued = cross_validate(coloured, checkpoint_dir=tmp_path, **settings)
    assert len(begun) == 4
    assert not continued.interrupted
    assert continued.evaluation.keys == whole.evaluation.keys
    assert np.array_equal(continued.evaluation.y_prob, whole.evaluation.y_prob)
    assert [issue.sample for issue in continued.label_issues()] == [
        issue.sample for issue in whole.label_issues()
    ]
    with pytest.raises(fc.TrainingError, match="of other data, settings or seed"):
        cross_validate(coloured, checkpoint_dir=tmp_path, **{**settings, "epochs": 2})
    (tmp_path / "fold-2.npz").write_bytes(b"PK damaged")
    with pytest.raises(fc.TrainingError, match=r"fold-2.npz: damaged"):
        cross_validate(coloured, checkpoint_dir=tmp_path, **settings)


def test_stopped_before_the_first_fold_is_an_error(
    coloured: fc.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fc.Trainer, "fit", stopped)
    with pytest.raises(fc.TrainingError, match="before the first of 2 folds"):
        cross_validate(coloured, k=2, model="article", image_size=(24, 24), progress=False)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(fc.ConfigurationError, match="no argument 'epoch'"):
        cross_validate("no such folder", epoch=3)  # type: ignore[call-arg]  # that is the point
