from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import flowercnn as fc
from flowercnn.data.audit import KINDS, AuditReport
from flowercnn.data.duplicates import join, near_pairs
from flowercnn.data.reading import Readings

PER_CLASS = 8


@pytest.fixture
def folder(tmp_path: Path, pictures: Any) -> Path:
    """Two classes of eight pictures with nothing wrong."""
    for number in range(2 * PER_CLASS):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.texture(number).save(path, quality=90)
    return tmp_path / "photos"


def audited(folder: Path) -> AuditReport:
    return fc.Dataset.from_source(fc.ImageFolder(folder)).audit(progress=False)


def plant(  # noqa: C901 - one case per kind of fault
    pictures: Any, folder: Path, kind: str, number: int
) -> None:
    """Put a picture with one fault into class a."""
    path = folder / "a" / f"{kind}{number}.jpg"
    image = pictures.texture(1000 + number)
    data = pictures.encoded(image)
    match kind:
        case "unreadable":
            path.write_bytes([b"", b"not a picture", data[20:], os.urandom(500)][number % 4])
        case "truncated" if number % 2:
            path.with_suffix(".png").write_bytes(pictures.encoded(image, "PNG")[: -2000 - number])
        case "truncated":
            path.write_bytes(data[: len(data) * 2 // 3])
        case "wrong_suffix":
            path.write_bytes(pictures.encoded(image, ["PNG", "WEBP", "GIF"][number % 3]))
        case "tiny":
            pictures.texture(1000 + number, (20 + number, 40)).save(path)
        case "huge":
            Image.effect_noise((5000 + number, 4100), 80).resize((5000 + number, 4100)).save(
                path, quality=5
            )
        case "odd_aspect":
            pictures.texture(1000 + number, (60, 200 + number)).save(path)
        case "blank":
            noise = np.random.default_rng(number).normal(200 - number, number % 3, (80, 90, 3))
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
        case "rotated":
            exif = Image.Exif()
            exif[0x0112] = 2 + number % 7
            image.save(path, exif=exif)
        case "exact_duplicates":
            path.write_bytes((folder / "a" / f"{2 * (number % PER_CLASS)}.jpg").read_bytes())
        case "near_duplicates":
            pictures.copy_of(
                Image.open(folder / "a" / f"{2 * (number % PER_CLASS)}.jpg"), number, number
            ).save(path)
        case "label_conflict":
            path.write_bytes((folder / "b" / f"{2 * (number % PER_CLASS) + 1}.jpg").read_bytes())


PLANTED = [kind for kind in KINDS if kind not in ("imbalance", "small_class")]


def test_pictures_without_fault_are_clean(folder: Path) -> None:
    report = audited(folder)
    assert report.clean, report.summary()
    assert report.summary() == "16 images of 2 classes, 8 to 8 per class\nNothing found."
    assert sum(report.counts().values()) == 0


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("kind", PLANTED)
def test_every_planted_fault_is_found_and_nothing_else(
    pictures: Any, folder: Path, kind: Any, count: int
) -> None:
    count = 1 if kind == "huge" else count
    for number in range(count):
        plant(pictures, folder, kind, number)
    report = audited(folder)
    keys = {key for finding in report.of(kind) for key in finding.keys}
    assert sum(f"a/{kind}" in key for key in keys) == count, report.summary()
    expected = {kind} | ({"exact_duplicates"} if kind == "label_conflict" else set())
    assert {finding.kind for finding in report.findings} == expected, report.summary()
    assert report.clean == (kind == "rotated")


def test_a_picture_that_only_lacks_its_end_mark_is_cut_short(folder: Path) -> None:
    path = folder / "a" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-2])
    assert [finding.keys for finding in audited(folder).of("truncated")] == [("a/0.jpg",)]


@pytest.mark.parametrize("format_", ["WEBP", "AVIF", "JPEG"])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_picture_cut_where_its_format_cannot_be_decoded_at_all_is_cut_short(
    pictures: Any, format_: str, share: float
) -> None:
    if not features.check(format_.lower() if format_ != "JPEG" else "jpg"):
        pytest.skip(reason=f"this Pillow has no {format_}")
    whole = pictures.encoded(pictures.texture(0), format_)
    cut = whole[: 100 if format_ == "JPEG" else int(len(whole) * share)]
    report = fc.Dataset.from_source(fc.InMemory([whole, cut], ["a", "b"])).audit(progress=False)
    assert [len(report.of(kind)) for kind in ("truncated", "unreadable")] == [1, 0]


def test_a_picture_with_zeros_after_its_end_is_whole(folder: Path) -> None:
    path = folder / "a" / "0.jpg"
    path.write_bytes(path.read_bytes() + bytes(3 * path.stat().st_size))
    assert audited(folder).clean


def test_nothing_has_nothing_wrong(coloured: fc.Dataset) -> None:
    report = coloured.split(val=0, progress=False).val.audit(progress=False)
    assert report.clean
    assert report.summary() == "0 images of 3 classes, 0 to 0 per class\nNothing found."


def test_near_duplicates_under_two_labels_are_a_conflict(pictures: Any, folder: Path) -> None:
    pictures.copy_of(Image.open(folder / "b" / "3.jpg"), 2).save(folder / "a" / "copy.jpg")
    assert [f.keys for f in audited(folder).of("label_conflict")] == [("a/copy.jpg", "b/3.jpg")]


def test_imbalance_and_classes_too_small_are_named(pictures: Any, folder: Path) -> None:
    (folder / "lonely").mkdir()
    pictures.texture(77).save(folder / "lonely" / "1.jpg")
    for copy in range(2):
        pictures.copy_of(pictures.texture(77), copy).save(folder / "lonely" / f"copy{copy}.jpg")
    report = audited(folder)
    assert report.too_small == ("lonely",)
    assert "3 images in 1 group" in report.of("small_class")[0].detail
    for copy in range(2):
        (folder / "lonely" / f"copy{copy}.jpg").unlink()
    assert audited(folder).of("imbalance")[0].detail == "a: 8 images, lonely: 1 image"


def test_an_audit_changes_no_file(pictures: Any, folder: Path) -> None:
    for kind in PLANTED:
        plant(pictures, folder, kind, 0)

    def state() -> list[tuple[str, int, str]]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            (str(p), p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
            for p in files
        ]

    before = state()
    audited(folder)
    assert state() == before


def test_a_report_is_a_value_a_table_and_a_part_of_a_page(tmp_path: Path, folder: Path) -> None:
    evil = "<img src=x onerror=alert(1)>.jpg"
    (folder / "a" / evil).write_bytes(b"no picture")
    report = audited(folder)
    assert report.table()[0]["keys"] == f"a/{evil}"
    assert json.loads(report.to_json())["counts"]["unreadable"] == 1
    assert evil not in report.to_html()
    assert "&lt;img src=x" in report.to_html()
    assert report._repr_html_() == report.to_html()
    assert hash(report.findings) == hash(audited(folder).findings)


def test_many_alike_pictures_are_one_group(pictures: Any) -> None:
    base = pictures.texture(5)
    frames = [
        np.asarray(base.point(lambda v, k=number % 7: min(255, v + k))) for number in range(300)
    ]
    dataset = fc.Dataset.from_source(fc.InMemory(frames, ["a"] * 300))
    contents = Readings().contents(dataset.samples)
    assert [len(group) for group in join(300, near_pairs(contents)) if len(group) > 1] == [
        7
    ]  # the others are exact


def test_drawn_flowers_are_not_taken_for_copies() -> None:
    report = fc.Dataset.from_source(fc.SyntheticFlowers(per_class=20)).audit(progress=False)
    assert sum(len(keys) for keys in report.near_duplicates) <= 0.02 * report.samples


def test_handwritten_digits_are_not_taken_for_copies() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    pictures = [
        np.repeat((image * 15.9).astype(np.uint8)[..., None], 3, axis=2) for image in digits.images
    ]
    dataset = fc.Dataset.from_source(
        fc.InMemory(pictures, [f"digit {digit}" for digit in digits.target])
    )
    contents = Readings().contents(dataset.samples)
    assert len(near_pairs(contents)) < 20
    dataset.split(progress=False)


def test_copies_are_found_among_pictures_that_are_all_alike(pictures: Any) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = [
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((64, 64))
        for image in digits.images[:400]
    ]
    saved = [
        pictures.encoded(image.convert("RGB"), quality=quality)
        for quality in (90, 60)
        for image in images
    ]
    samples = [fc.Sample(str(number), "a", content) for number, content in enumerate(saved)]
    pairs = set(near_pairs(Readings().contents(samples)))
    assert len({(number, number + 400) for number in range(400)} & pairs) > 390


def test_pictures_that_are_nearly_alike_must_have_like_colours_unless_one_is_grey(
    pictures: Any,
) -> None:
    red = np.asarray(pictures.texture(3), np.float32) / 2 + np.array([120, 0, 0], np.float32)
    other = red + np.random.default_rng(0).normal(
        0, 20, (*red.shape[:2], 1)
    )  # details correlate to about 0.9
    grey = np.repeat(other.mean(axis=2, keepdims=True), 3, axis=2)

    def are_copies(first: Any, second: Any) -> bool:
        arrays = [np.clip(each, 0, 255).astype(np.uint8) for each in (first, second)]
        samples = [fc.Sample(str(number), "a", array) for number, array in enumerate(arrays)]
        return bool(near_pairs(Readings().contents(samples)))

    assert are_copies(red, other)
    assert are_copies(red, grey)
    assert not are_copies(red, other[..., ::-1])
    assert are_copies(red, red[..., ::-1])  # tinted


def test_clean_photographs_give_no_false_alarms(photographs: Path) -> None:
    dataset = fc.Dataset.from_source(fc.ImageFolder(photographs))
    report = dataset.audit(progress=False)
    # Flower17 has about 60 photographs twice, saved again or cropped, within one class.
    assert {finding.kind for finding in report.findings} == {"near_duplicates"}, report.summary()
    assert all(len({key.split("/")[0] for key in keys}) == 1 for keys in report.near_duplicates)


def test_photographs_that_are_only_alike_are_no_copies(photographs: Path) -> None:
    def are_copies(*names: str) -> bool:
        samples = [fc.Sample(name, "a", photographs / f"{name}.jpg") for name in names]
        return bool(near_pairs(Readings().contents(samples)))

    assert not are_copies(
        "Daisy/image_0801", "Dandelion/image_0967"
    )  # flowers of like shape on dark ground
    assert not are_copies(
        "Daffodil/image_0031", "Daffodil/image_0065"
    )  # one flower, photographed twice
    assert are_copies(
        "Dandelion/image_0990", "Dandelion/image_1010"
    )  # one photograph, cropped by a fifth
    assert are_copies("Daffodil/image_0026", "Daffodil/image_0049")
