"""HDF5 files that mean harm to the library that reads them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import flowercnn as fc
from flowercnn.saving.guards.archive import PLACEHOLDER, append_checksum
from flowercnn.saving.guards.hdf5 import check_structure

GOOD = Path(__file__).parents[1] / "files" / "0.1.0.keras"


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
@pytest.mark.parametrize("change", ["Lambda", "external"])
def test_hdf5_model_files_are_checked_as_well(tmp_path: Path, change: str) -> None:
    path = fc.Predictor.load(GOOD).save(tmp_path / "model.h5")
    path.write_bytes(path.read_bytes()[: -len(PLACEHOLDER)])
    with h5py.File(path, "a") as file:
        if change == "Lambda":
            file.attrs["model_config"] = file.attrs["model_config"].replace('"ReLU"', '"Lambda"')
        else:
            file["x"] = h5py.ExternalLink("/etc/passwd", "/")
    append_checksum(path)
    with pytest.raises(fc.ModelFileError, match="rejected.*(Lambda|message of kind)"):
        fc.Predictor.load(path)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"])
def test_a_text_that_claims_to_be_gigabytes_is_refused_before_it_is_read(
    tmp_path: Path, size: bytes
) -> None:
    path = fc.Predictor.load(GOOD).save(tmp_path / "model.h5")
    content = bytearray(path.read_bytes()[: -len(PLACEHOLDER)])
    with h5py.File(io.BytesIO(bytes(content)), "r") as file:
        length = len(file.attrs["keras_version"]).to_bytes(4, "little")
    # the text's length in the attribute
    place = content.index(length, content.index(b"keras_version"))
    content[place : place + 4] = size
    path.write_bytes(content)
    append_checksum(path)
    with pytest.raises(fc.ModelFileError, match="rejected.*text that claims"):
        fc.Predictor.load(path)


def h5_with(write: Callable[[h5py.File], object]) -> bytearray:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return bytearray(buffer.getvalue())


def small_h5() -> bytearray:
    """A group, an array and two texts; few enough to know where each of its bytes is."""

    def write(file: h5py.File) -> None:
        file["group/array"] = np.arange(3, dtype=np.float32)
        file.attrs["x"] = ["one", "two"]

    return h5_with(write)


def put(mark: bytes, offset: int, form: str, value: int) -> Callable[[bytearray], object]:
    return lambda content: struct.pack_into(form, content, content.index(mark) + offset, value)


def let_texts_be_one(content: bytearray) -> None:
    first = content.index(TEXT_TYPE) + 24 + 24
    content[first + 16 : first + 32] = content[first : first + 16]


def let_free_blocks_run_in_a_circle(content: bytearray) -> None:
    free, names = struct.unpack_from("<QQ", content, content.index(b"HEAP") + 16)
    struct.pack_into("<Q", content, names + free, free)


def let_the_array_lie_on_the_root(content: bytearray) -> None:
    with h5py.File(io.BytesIO(bytes(content)), "r") as file:
        place = file["group/array"].id.get_offset()
    struct.pack_into(
        "<Q", content, content.index(struct.pack("<BBQQ", 3, 1, place, 12)) + 2, ROOT + 4
    )


TEXT_TYPE = bytes.fromhex("1901010010000000")
ROOT = 96  # where the header of the first object is
FIRST_TEXT = 16  # in a collection of texts
FREE_SPACE = 16 + 24 + 24  # after two texts, each of them padded


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(TEXT_TYPE, 1, "B", 5), "no numbers or text"),
        (put(TEXT_TYPE, 2, "B", 2), "no numbers or text"),
        (put(TEXT_TYPE, 8, "B", 0x11), "no numbers or text"),
        (put(TEXT_TYPE, 12, "B", 8), "no numbers or text"),
        (put(TEXT_TYPE, 24 + 24, "<I", 2), "another length"),
        (put(TEXT_TYPE, 24 + 24 + 12, "<I", 9), "another length"),
        (put(b"GCOL", FREE_SPACE + 8, "<Q", 0), "free space"),
        (put(b"GCOL", FREE_SPACE + 8, "<Q", 16), "free space"),
        (put(b"GCOL", FIRST_TEXT, "<H", 2), "collection"),
        (put(b"GCOL", FIRST_TEXT + 8, "<Q", 2**63), "collection"),
        (put(b"GCOL", 8, "<Q", 16), "collection"),
        (let_texts_be_one, "used twice"),
        (put(b"", ROOT + 2, "<H", 1), "number of messages"),
        (put(b"", ROOT + 2, "<H", 9), "number of messages"),
        (put(b"", ROOT + 16 + 4, "B", 0x40), "message"),
        (put(b"", 48, "<Q", ROOT), "superblock"),  # the driver that shall read the file
        (put(b"", 80, "<Q", 0), "two places"),
        (put(b"SNOD", 8 + 24, "<Q", 0), "two places"),
        (put(b"TREE", 8, "<Q", ROOT), "neighbours"),
        (put(b"TREE", 5, "B", 1), "tree"),
        (put(b"TREE", 24, "<Q", 10**6), "name"),
        (put(bytes.fromhex("11201f00"), 10, "B", 0), "no numbers"),
        (put(bytes.fromhex("0202020100000000"), 4, "<I", 2**31), "fill value"),
        (let_free_blocks_run_in_a_circle, "number of parts"),
        (let_the_array_lie_on_the_root, "overlap"),
    ],
)
def test_hdf5_files_that_could_hurt_their_library_are_refused(change: Any, reason: str) -> None:
    content = small_h5()
    check_structure(bytes(content), "good")
    change(content)
    with pytest.raises(fc.ModelFileError, match=f"rejected.*{reason}"):
        check_structure(bytes(content), "evil")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda f: f.attrs.update({"x": "x" * 2**25 + "x"}), "more than any network needs"),
        (lambda f: f.attrs.update({f"x{number}": 0 for number in range(1_000)}), "object header"),
    ],
)
def test_attributes_that_keep_the_library_busy_are_refused(write: Any, reason: str) -> None:
    with pytest.raises(fc.ModelFileError, match=f"rejected.*{reason}"):
        check_structure(bytes(h5_with(write)), "evil")


def test_all_that_h5py_writes_for_keras_is_accepted() -> None:
    def write(file: h5py.File) -> None:
        for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"):
            file[f"numbers/{kind}"] = np.zeros((2, 3), kind)
        file["numbers/one"] = np.float32(1)
        file["none"] = np.zeros((0, 3), np.float32)
        for number in range(200):
            file[f"many/{number}"] = [number]
        file.attrs["none"] = []
        file.attrs["texts"] = ["", "a", "花"]
        file.attrs["bytes"] = b"tensorflow"
        # as Keras does if there are many
        file.attrs["layer_names0"] = np.array([b"dense", b"dense_1"])

    check_structure(bytes(h5_with(write)), "good")
