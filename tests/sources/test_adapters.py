from __future__ import annotations

import gc
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowercnn import ConfigurationError, Dataset, ImageError, Sample, SourceError
from flowercnn.preprocessing.decode import decode_image, read_content
from flowercnn.sources import from_arrays, from_huggingface, from_tensorflow
from flowercnn.sources.base import declared_class_names
from flowercnn.sources.memory import Spool, _remove
from flowercnn.testing import check_source

pytestmark = pytest.mark.versions

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 0, 2, 1]
NAMES = ["daisy", "rose", "tulip"]
Png = Callable[[int], bytes]


def pixels(sample: Sample) -> np.ndarray:
    content = read_content(sample.image)
    return np.asarray(decode_image(content, background=(0, 0, 0), max_pixels=10**6))


def labels(source: Any) -> list[str | None]:
    return [sample.label for sample in source]


@pytest.mark.parametrize(
    "numbers", [LABELS, np.array(LABELS), np.array(LABELS)[:, None], np.eye(3)[LABELS]]
)
def test_numbers_of_classes_become_names(numbers: Any) -> None:
    source = from_arrays(PICTURES, numbers, class_names=NAMES)
    assert labels(source) == ["tulip", "daisy", "rose", "daisy", "tulip", "rose"]
    assert declared_class_names(source) == ("daisy", "rose", "tulip")


def test_without_names_the_numbers_are_the_names_in_their_order() -> None:
    source = from_arrays(np.repeat(PICTURES, 2, axis=0), np.arange(12))
    assert Dataset.from_source(source).class_names == tuple(map(str, range(12)))


def test_names_may_be_given_as_labels() -> None:
    assert labels(from_arrays(PICTURES[:2], np.array(["rose", "daisy"]))) == ["rose", "daisy"]


def test_minus_one_is_no_label() -> None:
    assert labels(from_arrays(PICTURES[:2], [-1, 1], class_names=NAMES)) == [None, "rose"]


def test_arrays_of_bytes_are_taken_as_they_are() -> None:
    source = from_arrays(PICTURES, LABELS)
    assert all(np.shares_memory(sample.image, PICTURES) for sample in source)
    check_source(source)


@pytest.mark.parametrize(("high", "value_range"), [(255, (0, 255)), (1, (0, 1)), (1, (-1, 1))])
def test_floats_become_bytes_by_their_range(high: float, value_range: tuple[float, float]) -> None:
    low = value_range[0]
    floats = PICTURES.astype(np.float32) / 255 * (high - low) + low
    source = from_arrays(floats, LABELS, value_range=value_range)
    assert all(np.array_equal(pixels(s), p) for s, p in zip(source, PICTURES, strict=True))


@pytest.mark.parametrize("shape", [(6, 8, 9), (6, 8, 9, 1)])
def test_greys_are_pictures(shape: tuple[int, ...]) -> None:
    greys = PICTURES[..., 0].reshape(shape)
    assert np.array_equal(
        pixels(next(iter(from_arrays(greys, LABELS))))[..., 1], PICTURES[0, ..., 0]
    )


@pytest.mark.parametrize(
    ("images", "numbers", "message"),
    [
        (PICTURES / 255, LABELS, r"are black.*Give value_range=\(0, 1\)"),
        (PICTURES.astype(float) + 1, LABELS, "Pixels must be from 0 to 255.*to 256"),
        (np.full((6, 8, 8, 3), np.nan), LABELS, "Received: nan"),
        (PICTURES.astype(np.int64), LABELS, "Received: dtype int64"),
        (PICTURES, LABELS[:5], "equally many"),
        (PICTURES, [3, 0, 0, 0, 0, 0], "3 names, label 3"),
        (PICTURES, [0.5, 0, 0, 0, 0, 0], "Received: 0.5"),
        (PICTURES, [-2, 0, 0, 0, 0, 0], "Received: -2"),
    ],
)
def test_values_that_do_not_fit_are_refused(images: Any, numbers: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        from_arrays(images, numbers, class_names=NAMES)


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_tensorflow_dataset_is_a_source(tf: Any, batch: int | None, dtype: Any) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((PICTURES.astype(dtype), LABELS))
    source = from_tensorflow(dataset.batch(batch) if batch else dataset, class_names=NAMES)
    assert labels(source) == [NAMES[number] for number in LABELS]
    assert all(np.array_equal(pixels(s), p) for s, p in zip(source, PICTURES, strict=True))
    check_source(source)


@pytest.mark.parametrize(
    "numbers",
    [
        np.eye(3)[LABELS].astype(np.float32),
        np.array(LABELS, np.float32)[:, None],
        np.array(NAMES)[LABELS],
    ],
    ids=["one-hot", "a column of floats", "names"],
)
def test_labels_of_a_tensorflow_dataset_may_have_any_form(tf: Any, numbers: Any) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((PICTURES, numbers)).batch(4)
    assert labels(from_tensorflow(dataset, class_names=NAMES)) == [
        NAMES[number] for number in LABELS
    ]


@pytest.mark.parametrize("row", [[1, 1, 0], [0, 0, 0], [0.4, 0.3, 0.3], [2, 0, 0]])
def test_a_label_of_a_tensorflow_dataset_that_is_not_one_hot_is_refused(
    tf: Any, row: list[float]
) -> None:
    rows = np.array([[0, 1, 0], row], np.float32)
    source = from_tensorflow(tf.data.Dataset.from_tensor_slices((PICTURES[:2], rows)).batch(2))
    with pytest.raises(ConfigurationError, match=r"must be one-hot.* for image 1$"):
        list(source)


def test_numbers_of_a_tensorflow_dataset_are_classes_in_their_order(tf: Any) -> None:
    source = from_tensorflow(tf.data.Dataset.from_tensor_slices((PICTURES[:4], [10, 2, 0, 1])))
    assert Dataset.from_source(source).class_names == ("0", "1", "2", "10")


def test_a_tensorflow_dataset_without_an_end_is_refused(tf: Any) -> None:
    with pytest.raises(ConfigurationError, match="must end"):
        from_tensorflow(tf.data.Dataset.from_tensor_slices((PICTURES, LABELS)).repeat())


def test_a_tensorflow_dataset_of_pictures_without_channels_is_refused(tf: Any) -> None:
    source = from_tensorflow(tf.data.Dataset.from_tensor_slices((PICTURES[..., 0], LABELS)))
    with pytest.raises(ConfigurationError, match="must be of shape"):
        list(source)


@pytest.mark.parametrize("batch", [None, 2])
def test_encoded_pictures_in_a_tensorflow_dataset_stay_encoded(
    tf: Any, png: Png, batch: int | None
) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(([png(1), png(2), png(3)], [0, 1, 2]))
    source = from_tensorflow(dataset.batch(batch) if batch else dataset)
    assert [read_content(sample.image) for sample in source] == [png(1), png(2), png(3)]


@pytest.mark.parametrize("channels", [1, 4])
def test_greys_and_transparency_of_a_tensorflow_dataset_are_pictures(
    tf: Any, channels: int
) -> None:
    images = np.full((2, 8, 9, channels), 255, np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((images, [0, 1]))
    assert all(np.array_equal(pixels(s), np.full((8, 9, 3), 255)) for s in from_tensorflow(dataset))


def test_a_tensorflow_dataset_that_shuffles_keeps_its_order(tf: Any) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((PICTURES, LABELS)).shuffle(
        6, reshuffle_each_iteration=True
    )
    check_source(from_tensorflow(dataset.batch(2)))


def test_what_keras_makes_of_a_folder_is_a_source(tf: Any, photo_folder: Path) -> None:
    made = tf.keras.utils.image_dataset_from_directory(
        photo_folder, image_size=(16, 16), verbose=False
    )
    dataset = Dataset.from_source(from_tensorflow(made))
    assert dataset.class_counts() == {"blue": 10, "green": 10, "red": 10}


def test_the_temporary_file_is_removed_with_the_last_sample(
    tf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples = list(from_tensorflow(tf.data.Dataset.from_tensor_slices((PICTURES, LABELS))))
    gc.collect()
    assert len(list(tmp_path.glob("*/*"))) == 1
    assert np.array_equal(pixels(samples[3]), PICTURES[3])
    copy = pickle.loads(pickle.dumps(samples[3]))  # noqa: S301 - made here
    assert np.array_equal(pixels(copy), PICTURES[3])
    del samples, copy
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_tensorflow_dataset_of_values_up_to_one_is_refused(tf: Any) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(((PICTURES / 255).astype(np.float32), LABELS))
    with pytest.raises(ConfigurationError, match="are black"):
        list(from_tensorflow(dataset))
    assert np.array_equal(
        pixels(next(iter(from_tensorflow(dataset, value_range=(0, 1))))), PICTURES[0]
    )


def test_a_tensorflow_dataset_that_fails_is_a_source_error(tf: Any) -> None:
    def fail(number: int) -> Any:
        raise RuntimeError("the disk is on fire")

    dataset = tf.data.Dataset.range(2).map(lambda n: (tf.numpy_function(fail, [n], tf.uint8), n))
    with pytest.raises(SourceError, match="tf.data.Dataset failed .*the disk is on fire"):
        list(from_tensorflow(dataset))


@pytest.mark.parametrize("value", [None, [(PICTURES, LABELS)], "photos"])
def test_what_is_no_tensorflow_dataset_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="dataset must be a tf.data.Dataset"):
        from_tensorflow(value)


def test_a_tensorflow_dataset_without_labels_is_refused(tf: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"elements \(image, label\)"):
        from_tensorflow(tf.data.Dataset.from_tensor_slices(PICTURES))


@pytest.fixture(scope="module")
def hf() -> Any:
    return pytest.importorskip("datasets", reason="the package datasets is not installed")


@pytest.fixture
def flowers(hf: Any, png: Png) -> Any:
    rows = {
        "image": [{"bytes": png(number), "path": None} for number in range(6)],
        "label": LABELS,
        "plant": [1, 1, 2, None, 3, 3],
    }
    features = {
        "image": hf.Image(),
        "label": hf.ClassLabel(names=NAMES),
        "plant": hf.Value("int64"),
    }
    return hf.Dataset.from_dict(rows, features=hf.Features(features))


def test_a_hugging_face_dataset_is_a_source(flowers: Any, png: Png) -> None:
    source = from_huggingface(flowers)
    assert labels(source) == [NAMES[number] for number in LABELS]
    assert declared_class_names(source) == tuple(NAMES)
    assert [read_content(sample.image) for sample in source] == [png(number) for number in range(6)]
    check_source(source)


@pytest.mark.parametrize("kind", ["int64", "uint8", "float32"])
def test_numbers_of_a_hugging_face_dataset_are_classes_in_their_order(
    hf: Any, png: Png, kind: str
) -> None:
    rows = {
        "image": [{"bytes": png(number), "path": None} for number in range(4)],
        "label": [10, 2, 0, 1],
    }
    features = hf.Features({"image": hf.Image(), "label": hf.Value(kind)})
    dataset = Dataset.from_source(from_huggingface(hf.Dataset.from_dict(rows, features=features)))
    assert dataset.class_names == ("0", "1", "2", "10")


def test_groups_come_from_their_column(flowers: Any) -> None:
    groups = [sample.group for sample in from_huggingface(flowers, group="plant")]
    assert groups == ["1", "1", "2", None, "3", "3"]


def test_the_splits_of_a_hugging_face_dataset_are_predefined_parts(hf: Any, flowers: Any) -> None:
    source = from_huggingface(
        hf.DatasetDict({"train": flowers, "validation": flowers, "test": flowers})
    )
    assert [sample.split for sample in source] == ["train"] * 6 + ["val"] * 6 + ["test"] * 6
    assert len({sample.key for sample in source}) == 18
    check_source(source)


def test_splits_of_other_names_are_no_parts(hf: Any, flowers: Any) -> None:
    source = from_huggingface(hf.DatasetDict({"spring": flowers, "test": flowers}))
    assert {sample.split for sample in source} == {None}


def test_pictures_by_path_are_read_from_there(hf: Any, png: Png, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    rows = {"image": [str(tmp_path / "1.png")], "label": ["rose"]}
    for dataset in (
        hf.Dataset.from_dict(rows),
        hf.Dataset.from_dict(rows).cast_column("image", hf.Image()),
    ):
        assert [read_content(sample.image) for sample in from_huggingface(dataset)] == [png(1)]


def test_a_row_without_a_picture_is_an_image_error(hf: Any) -> None:
    rows = {"image": [None], "label": ["rose"]}
    dataset = hf.Dataset.from_dict(
        rows, features=hf.Features({"image": hf.Image(), "label": hf.Value("string")})
    )
    with pytest.raises(ImageError, match="row 0 has no image"):
        [read_content(sample.image) for sample in from_huggingface(dataset)]


def test_a_dataset_on_disk_is_read_from_there_and_can_be_pickled(
    hf: Any, flowers: Any, png: Png, tmp_path: Path
) -> None:
    flowers.save_to_disk(tmp_path / "flowers")
    sample = list(from_huggingface(hf.load_from_disk(tmp_path / "flowers")))[4]
    pickled = pickle.dumps(sample)
    assert png(4) not in pickled
    assert read_content(pickle.loads(pickled).image) == png(4)  # noqa: S301 - made here


def test_the_format_a_dataset_is_set_to_does_not_matter(flowers: Any, png: Png) -> None:
    sample = next(iter(from_huggingface(flowers.with_format("numpy"))))
    assert read_content(sample.image) == png(0)
    assert sample.label == "tulip"


def test_an_unknown_column_is_named_with_the_nearest(flowers: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"has the columns image, label, plant\. Did you mean 'label'"
    ):
        from_huggingface(flowers, label="labels")


def test_a_streaming_dataset_is_refused(flowers: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="without streaming=True. Received: datasets.*IterableDataset"
    ):
        from_huggingface(flowers.to_iterable_dataset())


def test_what_is_no_dataset_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(ConfigurationError, match="must be a datasets.Dataset or DatasetDict"):
        from_huggingface([{"image": buffer.getvalue(), "label": 0}])


def test_classes_given_as_floats_are_in_the_order_of_numbers() -> None:
    source = from_arrays(PICTURES[:3], np.array([10.0, 2.0, 1.0]))
    assert declared_class_names(source) == tuple(map(str, range(11)))


def test_a_class_without_a_picture_is_a_class_if_labels_are_one_hot() -> None:
    assert declared_class_names(from_arrays(PICTURES[:2], np.eye(3)[:2])) == ("0", "1", "2")


def test_names_may_be_bytes() -> None:
    assert labels(from_arrays(PICTURES[:2], np.array([b"rose", b"daisy"]))) == ["rose", "daisy"]


def test_several_labels_for_one_picture_are_refused() -> None:
    several = np.empty(1, dtype=object)
    several[0] = [1, 2]
    with pytest.raises(ConfigurationError, match="a name or a number"):
        from_arrays(PICTURES[:1], several)


@pytest.mark.parametrize(
    "rows", [[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [1, 0, 0]], [[0.6, 0.4], [0, 1]], [[0, 2], [2, 0]]]
)
def test_rows_without_a_single_one_are_no_labels(rows: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"a single 1 and otherwise zeros.*labels\[0\]"):
        from_arrays(PICTURES[:2], np.array(rows))


@pytest.mark.parametrize("given", [3, [[1], [1, 2]], np.zeros((2, 2, 2)), np.zeros((2, 0))])
def test_labels_of_another_shape_are_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="labels must be of shape"):
        from_arrays(PICTURES[:2], given)


@pytest.mark.parametrize(
    "value_range", [(0, 0), (1, 0), 1, (0, 1, 2), (0, np.nan), (0, np.inf), ("a", "b"), None]
)
def test_a_range_that_is_none_is_refused(value_range: Any) -> None:
    with pytest.raises(ConfigurationError, match="value_range must be"):
        from_arrays(PICTURES / 255, LABELS, value_range=value_range)


@pytest.mark.parametrize(
    "images", [[PICTURES[0], PICTURES[1, :5]], PICTURES[0, 0], PICTURES[0, 0, 0, 0]]
)
def test_what_is_not_one_array_of_pictures_is_refused(images: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"images must be one array.*InMemory"):
        from_arrays(images, [0, 1])


def test_a_range_of_a_tensorflow_dataset_is_checked_at_once(tf: Any) -> None:
    with pytest.raises(ConfigurationError, match="value_range must be"):
        from_tensorflow(tf.data.Dataset.from_tensor_slices((PICTURES, LABELS)), value_range=(1, 1))


def test_a_child_that_was_forked_leaves_the_pictures_to_its_parent() -> None:
    spool = Spool()
    with spool:
        image = spool.add(b"picture")
    folder = Path(spool.path).parent
    _remove(str(folder), os.getpid() + 1)
    assert read_content(image) == b"picture"
    del image, spool
    gc.collect()
    assert not folder.exists()
