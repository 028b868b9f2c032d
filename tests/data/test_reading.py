from __future__ import annotations

import copy
import io
import pickle
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from flowercnn import Dataset, ImageError, Preprocessing, Sample, SourceError
from flowercnn.preprocessing import DiskStore, MemoryStore

SMALL = Preprocessing(image_size=(8, 8))
LARGE = Preprocessing(image_size=(16, 16))


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


class Counting:
    """A source that counts how often each image is fetched; those of ``bad`` are not images."""

    def __init__(
        self, count: int = 12, bad: tuple[int, ...] = (), unreadable: tuple[int, ...] = ()
    ) -> None:
        self.fetched: Counter[str] = Counter()
        self.count, self.bad, self.unreadable = count, bad, unreadable

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self.count):
            yield Sample(f"{number}.png", "ab"[number % 2], self._image(number))

    def _image(self, number: int) -> Callable[[], bytes]:
        def fetch() -> bytes:
            self.fetched[f"{number}.png"] += 1
            if number in self.unreadable:
                raise ImageError("it is gone.")
            return b"text" if number in self.bad else encoded(number)

        return fetch

    @property
    def times(self) -> set[int]:
        return {self.fetched[f"{number}.png"] for number in range(self.count)}


def test_images_read_for_all_purposes_are_fetched_once() -> None:
    source = Counting()
    dataset = Dataset.from_source(source)
    dataset.read_images(SMALL, inspect=True, keep_encoded=True, progress=False)
    train, val, test = dataset.split(0.25, 0.25, progress=False)
    for part in (train, val, test):
        part.load(SMALL, progress=False)
        part.load(LARGE, progress=False)  # decoded again, but not fetched
        assert len(list(part.decode_each(LARGE))) == len(part)
    dataset.audit(progress=False)
    dataset.content_fingerprint()
    assert source.times == {1}


def test_steps_one_after_the_other_share_what_was_read() -> None:
    source = Counting()
    dataset = Dataset.from_source(source)
    train, val, test = dataset.split(0.25, 0.25, progress=False)
    assert source.times == {1}
    dataset.audit(progress=False)
    dataset.content_fingerprint()
    assert source.times == {1}
    for _ in range(2):
        for part in (train, val, test, dataset, dataset.subset([3, 1])):
            part.load(SMALL, progress=False)
    assert source.times == {2}  # once to compare, once at the size of training


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_part_has_the_pixels_of_its_own_images_in_order(
    *, on_disk: bool, tmp_path: object
) -> None:
    settings = SMALL.replace(memory_limit=0, cache_dir=tmp_path) if on_disk else SMALL
    dataset = Dataset.from_source(Counting())
    first = dataset.subset([7, 2])
    first.load(settings, progress=False)
    dataset.load(settings, progress=False)
    mixed = dataset.subset([9, 2, 0, 7])
    loaded = mixed.load(settings, progress=False)
    expected = np.stack([SMALL.decode(encoded(number)) for number in (9, 2, 0, 7)])
    assert np.array_equal(loaded.pixels.take(range(4)), expected)
    assert np.array_equal(loaded.pixels.take([3, 1]), expected[[3, 1]])
    assert loaded.labels.tolist() == mixed.labels.tolist()
    assert loaded.kept.tolist() == [0, 1, 2, 3]
    assert np.array_equal(np.stack(list(mixed.decode_each(settings))), expected)  # type: ignore[arg-type]
    assert loaded.pixels.take([]).shape[0] == 0


def test_memory_is_bounded_over_all_parts() -> None:
    one = 8 * 8 * 3
    dataset = Dataset.from_source(Counting())
    settings = SMALL.replace(memory_limit=7 * one)
    dataset.subset(range(6)).load(settings, progress=False)
    store = settings.open_store(6, used=6 * one)
    assert isinstance(store, DiskStore)
    assert isinstance(settings.open_store(1, used=6 * one), MemoryStore)
    whole = dataset.load(settings, progress=False)
    assert np.array_equal(whole.pixels.take([11])[0], SMALL.decode(encoded(11)))


def test_bad_images_are_named_at_once_or_left_out_and_not_fetched_again() -> None:
    source = Counting(bad=(3,), unreadable=(8,))
    dataset = Dataset.from_source(source)
    with pytest.raises(
        ImageError, match=r"2 of 12 images cannot be used: 3.png: .*, 8.png: it is gone."
    ):
        dataset.read_images(SMALL, inspect=True, keep_encoded=True, progress=False)
    loaded = dataset.load(SMALL, bad_images="skip", progress=False)
    assert loaded.skipped == ("3.png", "8.png")
    assert loaded.kept.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    results = list(dataset.decode_each(LARGE))
    assert [number for number, result in enumerate(results) if isinstance(result, ImageError)] == [
        3,
        8,
    ]
    assert source.times == {1}
    with pytest.raises(ImageError, match="1 of 1 image"):
        dataset.subset([3]).load(SMALL, bad_images="skip", progress=False)


def test_encoded_images_beyond_the_limit_go_to_a_temporary_folder_that_is_removed() -> None:
    dataset = Dataset.from_source(Counting())
    settings = SMALL.replace(memory_limit=2 * len(encoded(0)))
    dataset.read_images(settings, keep_encoded=True, progress=False)
    paths = [image for image in map(dataset.encoded, range(12)) if not isinstance(image, bytes)]
    assert 9 <= len(paths) <= 11
    assert all(path.exists() for path in paths)  # type: ignore[union-attr]
    dataset.release()
    assert not any(path.exists() for path in paths)  # type: ignore[union-attr]


def test_a_place_that_cannot_be_reached_is_an_error_of_the_source() -> None:
    def fail() -> bytes:
        raise SourceError("the server does not answer.")

    dataset = Dataset.from_source([Sample("1", "a", fail), Sample("2", "b", encoded(2))])
    assert dataset.contents(progress=False)[0].error == "the server does not answer."
    with pytest.raises(SourceError, match="does not answer"):
        dataset.load(SMALL, bad_images="skip", progress=False)


def test_what_was_decoded_before_ctrl_c_is_not_decoded_again() -> None:
    source = Counting()

    def fetched_ten() -> bytes:
        if source.fetched["stop"] == 0:
            source.fetched["stop"] += 1
            raise KeyboardInterrupt
        return encoded(10)

    samples = [*source][:10]
    dataset = Dataset.from_source([*samples, Sample("10.png", "a", fetched_ten)])
    with pytest.raises(KeyboardInterrupt):
        dataset.load(SMALL, progress=False)
    loaded = dataset.load(SMALL, progress=False)
    assert np.array_equal(loaded.pixels.take([10])[0], SMALL.decode(encoded(10)))
    assert np.array_equal(loaded.pixels.take([4])[0], SMALL.decode(encoded(4)))


def test_a_data_set_that_travels_takes_no_pixels_along() -> None:
    dataset = Dataset.from_source(
        [Sample(str(number), "ab"[number % 2], encoded(number)) for number in range(4)]
    )
    before = len(pickle.dumps(dataset))
    dataset.load(Preprocessing(image_size=(64, 64)), progress=False)
    assert len(pickle.dumps(dataset)) == before
    assert copy.deepcopy(dataset).load(SMALL, progress=False).kept.tolist() == [0, 1, 2, 3]
