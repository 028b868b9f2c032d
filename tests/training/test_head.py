from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models.registry import recipe_of
from flowercnn.training.transfer.features import Features, fit_on_features
from flowercnn.training.transfer.head import fit_head


def blobs(per_class: int, num_classes: int, size: int) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    centres = random.normal(0, 1, (num_classes, size))
    return (centres[labels] + random.normal(0, 1, (len(labels), size))).astype(np.float32)[
        :, None
    ], labels


def thirds(count: int) -> list[Any]:
    return [np.arange(start, count, 3) for start in range(3)]


def test_the_head_tells_classes_apart_and_is_as_sure_as_it_is_right() -> None:
    features, labels = blobs(60, 4, 20)
    head = fit_head(features, labels, 4, thirds(len(labels)))
    probabilities = head.probabilities(features[:, 0])
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    assert head.accuracy > 0.9
    assert abs(probabilities.max(axis=1).mean() - head.accuracy) < 0.05


@pytest.mark.parametrize("size", [5, 300])
def test_the_head_is_the_linear_discriminant_of_scikit_learn(size: int) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels = blobs(30, 3, size)
    head = fit_head(features, labels, 3)
    rows = features[:, 0].astype(np.float64)
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    # Scikit-learn's own shrinkage scales the rows of each class by themselves.
    centred = (
        scaled - np.stack([scaled[labels == label].mean(axis=0) for label in range(3)])[labels]
    )
    covariance = centred.T @ centred / len(labels)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / size * np.eye(size)
    estimator = type("Fixed", (), {"fit": lambda self, _: self, "covariance_": shrunk})()
    peer = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=estimator).fit(
        scaled, labels
    )
    assert np.allclose(head.probabilities(rows), peer.predict_proba(scaled), atol=1e-3)


def test_a_class_without_a_picture_is_never_predicted() -> None:
    features, labels = blobs(9, 3, 8)
    head = fit_head(features, np.where(labels == 1, 3, labels), 4, thirds(len(labels)))
    assert head.probabilities(features[:, 0])[:, 1].max() < 1e-6


@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_few_pictures_of_a_class_are_enough_to_learn_from(per_class: int) -> None:
    features, labels = blobs(per_class, 5, 16)
    folds = (
        [np.arange(start, len(labels), per_class) for start in range(per_class)]
        if per_class > 1
        else []
    )
    head = fit_head(features, labels, 5, folds)
    assert (head.probabilities(features[:, 0]).argmax(axis=1) == labels).all()


def of_blobs(per_class: int, num_classes: int) -> tuple[Features, fc.Dataset]:
    """Feature vectors of classes far apart, and pictures to go with them."""
    rows, labels = blobs(per_class, num_classes, 16)
    pictures = np.random.default_rng(1).integers(0, 256, (len(labels), 24, 24, 3), dtype=np.uint8)
    names = [f"class {label}" for label in labels]
    dataset = fc.Dataset.from_source(fc.InMemory(list(pictures), names))
    return Features(rows, np.arange(len(labels)), ()), dataset


def test_a_class_with_one_picture_does_not_keep_the_others_from_cross_validation() -> None:
    features, dataset = of_blobs(9, 4)
    one = np.flatnonzero((dataset.labels != 3) | (np.arange(len(dataset)) == 30))
    part = dataset.subset(one)
    found = Features(features.rows[one], np.arange(len(one)), ())
    head = fit_on_features(found, part, recipe_of("backbone:mobilenet"), seed=0)
    assert head.accuracy > 0.8
    assert head.sharpness != 1
    assert head.probabilities(found.rows[:, 0])[-1].argmax() == 3
    alone = dataset.subset(np.arange(4) * 9)
    found = Features(features.rows[::9], np.arange(4), ())
    assert np.isnan(fit_on_features(found, alone, recipe_of("backbone:mobilenet"), seed=0).accuracy)


def test_a_fold_of_one_group_is_not_left_out() -> None:
    features, dataset = of_blobs(8, 3)
    grouped = [dataclasses.replace(sample, group="same") for sample in dataset.samples[:8]]
    dataset = fc.Dataset((*grouped, *dataset.samples[8:]), dataset.encoder)
    head = fit_on_features(features, dataset, recipe_of("backbone:mobilenet"), seed=0)
    assert head.accuracy > 0.8


def test_copies_of_a_picture_that_are_known_are_not_torn_apart_by_cross_validation() -> None:
    random = np.random.default_rng(0)
    pictures = np.repeat(random.integers(0, 256, (40, 24, 24, 3), dtype=np.uint8), 2, axis=0)
    names = [f"class {label}" for label in np.repeat(np.arange(40) % 2, 2)]
    dataset = fc.Dataset.from_source(fc.InMemory(list(pictures), names))
    rows = np.repeat(random.normal(0, 1, (40, 1, 64)), 2, axis=0).astype(
        np.float32
    )  # chance, and no class

    def accuracy(of: fc.Dataset) -> float:
        recipe = recipe_of("backbone:mobilenet")
        return fit_on_features(Features(rows, np.arange(80), ()), of, recipe, seed=0).accuracy

    assert dataset.known_contents() is None
    assert accuracy(dataset) > 0.9
    dataset.contents(progress=False)
    assert dataset.known_contents() == dataset.contents()
    assert accuracy(dataset) < 0.75
