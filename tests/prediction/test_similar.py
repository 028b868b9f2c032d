from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models.backend import import_keras


def test_embed_gives_the_input_of_the_last_dense_layer(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    rows = predictor.embed(coloured)
    assert rows.shape == (30, predictor.model.layers[-1].kernel.shape[0])
    assert rows.dtype == np.float32
    pixels = np.stack([predictor.preprocessing.decode(sample.image) for sample in coloured])
    head = predictor.model.layers[-1]
    probabilities = np.asarray(
        import_keras().ops.softmax(rows @ np.asarray(head.kernel) + np.asarray(head.bias))
    )
    assert np.allclose(probabilities, predictor.predict_proba(pixels), atol=1e-4)
    assert predictor.embed([]).shape == (0, rows.shape[1])


def test_bad_pictures_have_no_vector_and_are_all_named(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    with pytest.raises(fc.ImageError, match=r"2 of 3 images.*1: .*2: .*predict\(\)"):
        predictor.embed([coloured[0].image, b"none", b""])


def test_similar_pictures_are_of_the_same_colour_and_the_picture_itself_comes_first(
    predictor: fc.Predictor, coloured: fc.Dataset
) -> None:
    found = predictor.find_similar(coloured[0].image, coloured, k=5)
    assert found[0].sample.key == coloured[0].key
    assert found[0].similarity == pytest.approx(1)
    similarities = [similar.similarity for similar in found]
    assert similarities == sorted(similarities, reverse=True)
    assert {similar.sample.label for similar in found} == {coloured[0].label}
    assert len(predictor.find_similar(coloured[0].image, coloured, k=99)) == 30
    with pytest.raises(fc.ConfigurationError, match="k must be"):
        predictor.find_similar(coloured[0].image, coloured, k=0)
    two: Any = np.int64(2)
    assert len(predictor.find_similar(coloured[0].image, coloured, k=two)) == 2
    with pytest.raises(fc.ConfigurationError):
        predictor.find_similar(coloured[0].image, 3)  # type: ignore[arg-type]  # that is the point


def test_similar_images_are_found_in_a_folder(predictor: fc.Predictor, photo_folder: Path) -> None:
    (first, *_) = predictor.find_similar(photo_folder / "red" / "3.png", str(photo_folder), k=2)
    assert first.sample.key == "red/3.png"
    assert predictor.find_similar(
        photo_folder / "red" / "3.png", fc.ImageFolder(photo_folder), k=1
    ) == [first]


def test_only_one_picture_has_pictures_like_it(
    predictor: fc.Predictor, coloured: fc.Dataset, photo_folder: Path
) -> None:
    for image in (
        [],
        [coloured[0].image, coloured[1].image],
        coloured.subset(range(2)),
        photo_folder,
    ):
        with pytest.raises(fc.ConfigurationError, match="image must be a single image"):
            predictor.find_similar(image, coloured)  # type: ignore[arg-type]  # that is the point
