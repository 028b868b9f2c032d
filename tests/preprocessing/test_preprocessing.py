from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowercnn import (
    ConfigurationError,
    Dataset,
    ImageError,
    ImageFolder,
    Preprocessing,
    Sample,
    SourceError,
)
from flowercnn.preprocessing import pixels as cache
from flowercnn.preprocessing.pixels import DiskPixels, MemoryPixels, clear_cache


@pytest.mark.parametrize(
    "image_size",
    [
        0,
        128,
        (0, 10),
        (-1, 10),
        (10, 0),
        ("64", "64"),
        (64.0, 64),
        (64,),
        (64, 64, 3),
        "64",
        None,
        (10**6, 10),
        (True, True),
    ],
)
def test_a_wrong_image_size_is_refused(image_size: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"image_size must be \(height, width\).*Received"):
        Preprocessing(image_size=image_size)


@pytest.mark.parametrize(
    "setting",
    [
        {"resize": "squash"},
        {"background": (0, 0)},
        {"background": (0, 0, 256)},
        {"background": "white"},
        {"max_pixels": 0},
        {"memory_limit": -1},
        {"memory_limit": 1.5},
        {"cache_dir": 3},
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(setting))} must be"):
        Preprocessing(**setting)


def test_settings_survive_the_model_file() -> None:
    original = Preprocessing(
        image_size=(30, 40), resize="pad", background=(1, 2, 3), max_pixels=10**6
    )
    assert Preprocessing.from_dict(original.to_dict()) == original


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Unknown preprocessing settings.*sharpen"):
        Preprocessing.from_dict({"image_size": [8, 8], "sharpen": True})


def test_loading_and_decoding_one_by_one_give_the_same_pixels(coloured: Dataset) -> None:
    preprocessing = Preprocessing(image_size=(20, 24))
    pixels, kept = preprocessing.load(coloured.samples, progress=False)
    assert kept.tolist() == list(range(30))
    one_by_one = np.stack([preprocessing.decode(sample.image) for sample in coloured])
    assert np.array_equal(pixels.take(range(30)), one_by_one)


def test_pixels_in_memory_and_on_disk_are_the_same(photo_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset.from_source(ImageFolder(photo_folder))
    memory, _ = Preprocessing(image_size=(20, 24)).load(dataset.samples, progress=False)
    settings = Preprocessing(image_size=(20, 24), memory_limit=100, cache_dir=tmp_path / "cache")
    disk, _ = settings.load(dataset.samples, progress=False)
    assert isinstance(memory, MemoryPixels)
    assert isinstance(disk, DiskPixels)
    order = [7, 3, 3, 29, 0]
    assert np.array_equal(memory.take(order), disk.take(order))
    assert len(memory) == len(disk) == 30


def test_past_the_limit_pixels_go_to_the_users_cache(
    coloured: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "default_cache_dir", lambda: tmp_path)
    limit = 30 * 8 * 8 * 3
    assert isinstance(
        Preprocessing((8, 8), memory_limit=limit).load(coloured.samples, progress=False)[0],
        MemoryPixels,
    )
    assert not any(tmp_path.iterdir())
    pixels, _ = Preprocessing((8, 8), memory_limit=limit - 1).load(coloured.samples, progress=False)
    assert isinstance(pixels, DiskPixels)
    assert len(list(tmp_path.rglob("*.rgb"))) == 30
    clear_cache()
    assert not any(tmp_path.iterdir())


def _count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    original = Preprocessing._pixels_of

    def counting(self: Preprocessing, content: Any) -> Any:
        decoded.append(1)
        return original(self, content)

    monkeypatch.setattr(Preprocessing, "_pixels_of", counting)
    return decoded


def test_a_second_run_decodes_nothing(
    coloured: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = _count_decodes(monkeypatch)
    settings = Preprocessing(image_size=(8, 8), cache_dir=tmp_path)
    for _ in range(2):
        settings.load(coloured.samples, progress=False)
    assert len(decoded) == 30


def test_a_damaged_pillow_image_is_left_out_with_a_cache_as_without(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "PNG")
    damaged = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    samples = [Sample("a", "x", np.zeros((8, 8, 3), np.uint8)), Sample("b", "x", damaged)]
    for cache_dir in (None, tmp_path):
        settings = Preprocessing(image_size=(8, 8), cache_dir=cache_dir)
        assert settings.load(samples, bad_images="skip", progress=False)[1].tolist() == [0]


def test_other_settings_and_changed_pictures_are_other_entries(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Dataset.from_source(ImageFolder(photo_folder)).samples
    settings = Preprocessing(image_size=(8, 8), cache_dir=tmp_path / "cache")
    settings.load(samples, progress=False)
    decoded = _count_decodes(monkeypatch)
    settings.replace(resize="pad").load(samples, progress=False)
    assert len(decoded) == 30
    (photo_folder / "red" / "0.png").write_bytes((photo_folder / "red" / "1.png").read_bytes())
    (photo_folder / "red" / "2.png").write_bytes(
        (photo_folder / "red" / "2.png").read_bytes() + b"more"
    )
    settings.load(samples, progress=False)
    assert len(decoded) == 31  # the copy is known by its content; only the longer file is new


def test_a_cut_cache_entry_is_made_anew(coloured: Dataset, tmp_path: Path) -> None:
    settings = Preprocessing(image_size=(8, 8), cache_dir=tmp_path)
    whole = settings.load(coloured.samples, progress=False)[0].take(range(30))
    entry = next(tmp_path.rglob("*.rgb"))
    entry.write_bytes(entry.read_bytes()[:10])
    assert np.array_equal(settings.load(coloured.samples, progress=False)[0].take(range(30)), whole)


def test_an_entry_lost_while_in_use_is_a_clear_error(coloured: Dataset, tmp_path: Path) -> None:
    pixels, _ = Preprocessing(image_size=(8, 8), cache_dir=tmp_path).load(
        coloured.samples, progress=False
    )
    for entry in tmp_path.rglob("*.rgb"):
        entry.unlink()
    with pytest.raises(SourceError, match="lost while in use"):
        pixels.take([0])


def test_a_full_disk_is_a_clear_error(
    coloured: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "replace_file", full)
    with pytest.raises(SourceError, match=r"No space left.*Free some space"):
        Preprocessing(image_size=(8, 8), cache_dir=tmp_path).load(coloured.samples, progress=False)


@pytest.fixture
def some_bad(coloured: Dataset) -> list[Sample]:
    bad = [
        Sample("empty.jpg", "red", b""),
        Sample("text.jpg", "blue", b"text"),
        Sample("gone.jpg", "red", "gone.jpg"),
    ]
    return [bad[0], *coloured.samples[:3], *bad[1:]]


@pytest.mark.parametrize("on_disk", [False, True])
def test_all_bad_pictures_are_named_at_once(
    some_bad: list[Sample], tmp_path: Path, *, on_disk: bool
) -> None:
    settings = Preprocessing(image_size=(8, 8), cache_dir=tmp_path if on_disk else None)
    with pytest.raises(
        ImageError, match=r"3 of 6 images.*empty.jpg.*text.jpg.*gone.jpg.*bad_images='skip'"
    ):
        settings.load(some_bad, progress=False)


@pytest.mark.parametrize("on_disk", [False, True])
def test_bad_pictures_can_be_left_out(
    some_bad: list[Sample], tmp_path: Path, *, on_disk: bool
) -> None:
    settings = Preprocessing(image_size=(8, 8), cache_dir=tmp_path if on_disk else None)
    pixels, kept = settings.load(some_bad, bad_images="skip", progress=False)
    assert kept.tolist() == [1, 2, 3]
    assert np.array_equal(pixels.take([2])[0], settings.decode(some_bad[3].image))


def test_nothing_but_bad_pictures_is_an_error() -> None:
    with pytest.raises(ImageError, match="1 of 1 image cannot"):
        Preprocessing().load([Sample("a", "a", b"")], bad_images="skip", progress=False)


def test_the_rule_for_bad_pictures_is_one_of_two() -> None:
    with pytest.raises(ConfigurationError, match="bad_images must be"):
        Preprocessing().load([], bad_images="ignore", progress=False)  # type: ignore[arg-type]  # that is the point


def test_a_stream_of_pictures_has_errors_in_their_places(some_bad: list[Sample]) -> None:
    results = list(
        Preprocessing(image_size=(8, 8)).decode_each(sample.image for sample in some_bad)
    )
    assert [isinstance(result, ImageError) for result in results] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def test_no_pictures_are_no_results() -> None:
    assert list(Preprocessing().decode_each([])) == []


def test_the_users_files_are_never_changed(photo_folder: Path, tmp_path: Path) -> None:
    def snapshot() -> dict[Path, tuple[bytes, int]]:
        return {
            p: (p.read_bytes(), p.stat().st_mtime_ns)
            for p in photo_folder.rglob("*")
            if p.is_file()
        }

    before = snapshot()
    samples = Dataset.from_source(ImageFolder(photo_folder)).samples
    Preprocessing(image_size=(8, 8), cache_dir=tmp_path / "cache").load(samples, progress=False)
    assert snapshot() == before


def test_progress_is_shown_and_silenced(
    coloured: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    Preprocessing(image_size=(8, 8)).load(coloured.samples, progress=True)
    assert "Decoding" in capsys.readouterr().err
    Preprocessing(image_size=(8, 8)).load(coloured.samples, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", [0, 100, -1])
def test_an_entry_of_the_cache_with_a_changed_byte_is_made_anew(
    coloured: Dataset, tmp_path: Path, place: int
) -> None:
    settings = Preprocessing(image_size=(8, 8), cache_dir=tmp_path)
    before, _ = settings.load(coloured.samples[:3], progress=False)
    expected = before.take(range(3))
    for path in tmp_path.rglob("*.rgb"):
        entry = bytearray(path.read_bytes())
        entry[place] ^= 1
        path.write_bytes(entry)
    after, _ = settings.load(coloured.samples[:3], progress=False)
    assert np.array_equal(after.take(range(3)), expected)
