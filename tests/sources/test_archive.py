from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flowercnn import Dataset, ImageError, ImageFolder, Sample, SourceError
from flowercnn.sources.archive import ArchivedImage
from flowercnn.testing import check_source

Png = Callable[[int], bytes]
SUFFIXES = [
    ".zip",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".ZIP",
    ".TAR.GZ",
]
COMPRESSED = [suffix for suffix in SUFFIXES if suffix.lower() not in (".zip", ".tar")]

pytestmark = pytest.mark.usefixtures("cache")


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed(suffix: str, files: Mapping[str, bytes]) -> bytes:
    suffix = suffix.lower()
    if suffix == ".zip":
        return zipped(files)
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "z2": bz2.compress,
        "xz": lzma.compress,
    }
    return compressors.get(suffix[-2:], bytes)(tarred(files))


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write an archive; it lies in a folder of its own."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / "archives" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


Archive = Callable[[str, bytes], Path]


def content(sample: Sample) -> bytes:
    assert isinstance(sample.image, ArchivedImage)
    return sample.image()


def keys(path: Path) -> list[str]:
    return [sample.key for sample in ImageFolder(path)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_is_a_folder(archive: Archive, png: Png, suffix: str) -> None:
    files = {
        f"{name}/{number}.png": png(number) for name in ("daisy", "rose") for number in range(3)
    }
    source = ImageFolder(archive(f"photos{suffix}", packed(suffix, files)))
    assert {sample.key: content(sample) for sample in source} == files
    assert [sample.label for sample in source] == ["daisy"] * 3 + ["rose"] * 3


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_an_archive_keeps_the_contract_of_a_source(archive: Archive, png: Png, suffix: str) -> None:
    files = {
        f"{name}/{number}.png": png(number) for name in ("daisy", "rose") for number in range(8)
    }
    check_source(ImageFolder(archive(f"photos{suffix}", packed(suffix, files))))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_writes_nothing_but_the_cache(
    archive: Archive,
    png: Png,
    cache: Path,
    suffix: str,
    unchanged: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    path = archive(f"photos{suffix}", packed(suffix, {"daisy/1.png": png(1), "rose/1.png": png(2)}))
    unchanged(path.parent)
    Dataset.from_source(ImageFolder(path)).audit(progress=False)
    assert {each.name for each in tmp_path.iterdir()} <= {"archives", "cache"}
    written = [each.suffix for each in cache.rglob("*") if each.is_file()] if cache.exists() else []
    assert written == ([".tar"] if suffix in COMPRESSED else [])


def test_a_plain_folder_with_the_suffix_of_an_archive_is_a_folder(
    plant: Callable[..., Path],
) -> None:
    assert keys(plant("rose/1.png", root="photos.zip")) == ["rose/1.png"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_single_folder_around_everything_is_the_root(
    archive: Archive, png: Png, suffix: str
) -> None:
    files = {"flowers/x/daisy/1.png": png(1), "flowers/x/rose/1.png": png(2)}
    assert keys(archive(f"p{suffix}", packed(suffix, files))) == ["daisy/1.png", "rose/1.png"]


def test_files_beside_the_folders_do_not_hide_a_single_folder_around_everything(
    archive: Archive, png: Png
) -> None:
    files = {
        "flowers/LICENSE.txt": b"x",
        "flowers/daisy/1.png": png(1),
        "flowers/rose/1.png": png(2),
        "README": b"y",
    }
    assert keys(archive("p.zip", zipped(files))) == ["daisy/1.png", "rose/1.png"]


def test_a_picture_beside_a_single_folder_leaves_it_a_class(archive: Archive, png: Png) -> None:
    assert keys(archive("p.zip", zipped({"1.png": png(1), "x/rose/2.png": png(2)}))) == [
        "x/rose/2.png"
    ]


def test_a_single_class_is_no_folder_around_everything(archive: Archive, png: Png) -> None:
    assert keys(archive("p.zip", zipped({"rose/1.png": png(1), "rose/old/2.png": png(2)}))) == [
        *("rose/1.png", "rose/old/2.png")
    ]


def test_predefined_parts_are_recognised(archive: Archive, png: Png) -> None:
    files = {f"data/{part}/rose/1.png": png(1) for part in ("train", "valid", "test")}
    parts = [sample.split for sample in ImageFolder(archive("p.zip", zipped(files)))]
    assert parts == ["test", "train", "val"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize(
    "name", ["__MACOSX/rose/._1.png", "rose/.1.png", ".git/1.png", "rose/notes.txt", "0.png"]
)
def test_what_is_passed_over_in_a_folder_is_passed_over_here(
    archive: Archive, png: Png, suffix: str, name: str
) -> None:
    files = {"rose/1.png": png(1), "daisy/1.png": png(2), name: png(3)}
    assert keys(archive(f"p{suffix}", packed(suffix, files))) == ["daisy/1.png", "rose/1.png"]


def test_folders_separated_by_backslashes_are_folders(archive: Archive, png: Png) -> None:
    assert keys(archive("p.tar", tarred({"daisy\\1.png": png(1), "rose\\1.png": png(2)}))) == [
        *("daisy/1.png", "rose/1.png")
    ]


def test_a_leading_dot_folder_is_no_folder(archive: Archive, png: Png) -> None:
    assert keys(archive("p.tar", tarred({"./rose/1.png": png(1), ".//daisy//1.png": png(2)}))) == [
        *("daisy/1.png", "rose/1.png")
    ]


def test_an_archive_in_an_archive_is_passed_over(archive: Archive, png: Png) -> None:
    inner = zipped({"daisy/1.png": png(1)})
    assert keys(archive("p.zip", zipped({"rose/1.png": png(1), "rose/inner.zip": inner}))) == [
        "rose/1.png"
    ]


@pytest.mark.parametrize(
    "member",
    [
        link("rose/2.png", "/etc/passwd"),
        link("rose/2.png", "../../secret.png"),
        link("rose/2.png", "1.png"),
        link("rose/2.png", "rose/1.png", tarfile.LNKTYPE),
        link("rose/2.png", "", tarfile.FIFOTYPE),
        link("rose/2.png", "", tarfile.CHRTYPE),
    ],
    ids=["absolute", "upwards", "within", "hard", "pipe", "device"],
)
def test_links_and_devices_in_a_tar_are_passed_over(
    archive: Archive, png: Png, member: tarfile.TarInfo
) -> None:
    assert keys(archive("p.tar", tarred({"rose/1.png": png(1), "x": member}))) == ["rose/1.png"]


def test_links_in_a_zip_are_passed_over(archive: Archive, png: Png) -> None:
    entry = zipfile.ZipInfo("rose/2.png")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO(zipped({"rose/1.png": png(1)}))
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(entry, "/etc/passwd")
    assert keys(archive("p.zip", buffer.getvalue())) == ["rose/1.png"]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
@pytest.mark.parametrize(
    "name",
    [
        "../1.png",
        "rose/../../1.png",
        "/home/1.png",
        "C:/1.png",
        "C:1.png",
        "C:\\1.png",
        "..\\..\\1.png",
        "/etc/x.conf",
    ],
)
def test_names_that_lead_out_are_refused_and_named(
    archive: Archive, png: Png, tmp_path: Path, suffix: str, name: str
) -> None:
    path = archive(f"p{suffix}", packed(suffix, {"rose/1.png": png(1), name: png(2)}))
    with pytest.raises(SourceError, match=r"not allowed: .*1\.png.*leads out|x\.conf.*leads out"):
        keys(path)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_folders_a_thousand_deep_are_refused(archive: Archive, png: Png, suffix: str) -> None:
    path = archive(f"p{suffix}", packed(suffix, {"d/" * 1000 + "1.png": png(1)}))
    with pytest.raises(SourceError, match="nested too deeply"):
        keys(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("pattern", ["{}/1.png", "rose/{}.png"])
def test_names_that_differ_only_in_unicode_form_are_refused(
    archive: Archive, png: Png, suffix: str, pattern: str
) -> None:
    names = [pattern.format(unicodedata.normalize(form, "é")) for form in ("NFC", "NFD")]
    path = archive(
        f"p{suffix}", packed(suffix, {"daisy/1.png": png(0), names[0]: png(1), names[1]: png(2)})
    )
    with pytest.raises(SourceError, match="differ only in their Unicode form"):
        keys(path)


def test_names_that_differ_only_by_case_are_different(archive: Archive, png: Png) -> None:
    path = archive(
        "p.zip", zipped({"Rose/1.png": png(1), "rose/1.png": png(2), "rose/1.PNG": png(3)})
    )
    assert keys(path) == ["Rose/1.png", "rose/1.PNG", "rose/1.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_name_that_is_there_twice_is_refused(
    archive: Archive, png: Png, tmp_path: Path, suffix: str
) -> None:
    path = archive(f"p{suffix}", packed(suffix, {"rose/1.png": png(1)}))
    if suffix == ".zip":
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("rose/1.png", png(2))
    else:
        (tmp_path / "2.png").write_bytes(png(2))
        with tarfile.open(path, "a") as tar:
            tar.add(tmp_path / "2.png", "rose/1.png")
    with pytest.raises(SourceError, match="'rose/1.png' is there twice"):
        keys(path)


def test_a_picture_that_unpacks_to_far_more_than_its_size_is_refused(
    archive: Archive, png: Png
) -> None:
    path = archive("p.zip", zipped({"rose/1.png": png(1), "rose/bomb.png": bytes(80 * 2**20)}))
    assert path.stat().st_size < 2**20
    with pytest.raises(
        SourceError, match=r"'rose/bomb\.png' \([\d,]+ bytes unpack to 83,886,080\)"
    ):
        keys(path)


def test_another_file_that_unpacks_to_far_more_is_nobodys_business(
    archive: Archive, png: Png
) -> None:
    assert keys(
        archive("p.zip", zipped({"rose/1.png": png(1), "rose/log.txt": bytes(80 * 2**20)}))
    ) == ["rose/1.png"]


def test_a_compressed_tar_that_unpacks_to_far_more_is_refused(
    archive: Archive, png: Png, cache: Path
) -> None:
    path = archive(
        "p.tgz", gzip.compress(tarred({"rose/1.png": png(1), "rose/zeros.bin": bytes(100 * 2**20)}))
    )
    with pytest.raises(SourceError, match="unpacks to more than"):
        keys(path)
    assert not [each for each in cache.rglob("*") if each.is_file()]


def test_a_cache_that_cannot_be_written_is_named(archive: Archive, png: Png, cache: Path) -> None:
    cache.parent.mkdir()
    cache.touch()
    with pytest.raises(SourceError, match=r"p\.tgz: cannot be unpacked to .*cache.*\.tar \("):
        keys(archive("p.tgz", packed(".tgz", {"rose/1.png": png(1)})))


def test_a_zip_that_lies_about_sizes_gives_no_more_than_it_announced(
    archive: Archive, png: Png
) -> None:
    whole = zipped({"rose/1.png": bytes(2**20)})
    directory = whole.rindex(b"PK\x01\x02")
    lying = whole[: directory + 24] + struct.pack("<I", 100) + whole[directory + 28 :]
    sample = next(iter(ImageFolder(archive("p.zip", lying))))
    with pytest.raises(ImageError, match="damaged here"):
        content(sample)


def test_a_member_that_reaches_beyond_the_end_is_refused(archive: Archive, png: Png) -> None:
    whole = zipped({"rose/1.png": png(1)})
    directory = whole.rindex(b"PK\x01\x02")
    lying = whole[: directory + 20] + struct.pack("<I", 2**31) + whole[directory + 24 :]
    with pytest.raises(SourceError, match="reaches beyond the end"):
        keys(archive("p.zip", lying))


def test_an_encrypted_picture_is_refused(archive: Archive, png: Png) -> None:
    whole = bytearray(zipped({"rose/1.png": png(1)}))
    whole[whole.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(SourceError, match="encrypted"):
        keys(archive("p.zip", bytes(whole)))


def test_a_picture_compressed_with_lzma_is_refused(archive: Archive, png: Png) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("rose/1.png", png(1))
    with pytest.raises(SourceError, match="another way than deflate"):
        keys(archive("p.zip", buffer.getvalue()))


def test_stored_pictures_and_long_extra_fields_are_read(archive: Archive, png: Png) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        entry = zipfile.ZipInfo("rose/1.png")
        entry.extra = struct.pack("<HH", 0x9999, 4000) + bytes(4000)
        file.writestr(entry, png(1))
    assert [content(sample) for sample in ImageFolder(archive("p.zip", buffer.getvalue()))] == [
        png(1)
    ]


@pytest.mark.parametrize("place", [0.2, 0.5])
def test_a_changed_byte_of_a_zip_is_found_when_the_picture_is_read(
    archive: Archive, png: Png, place: float
) -> None:
    whole = bytearray(zipped({"rose/1.png": png(1)}))
    whole[int(len(whole) * place)] ^= 0xFF
    sample = next(iter(ImageFolder(archive("p.zip", bytes(whole)))))
    with pytest.raises(ImageError, match="damaged here"):
        content(sample)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.8])
def test_an_archive_that_is_cut_short_is_refused(
    archive: Archive, png: Png, suffix: str, share: float
) -> None:
    whole = packed(suffix, {f"rose/{number}.png": png(number) for number in range(60)})
    with pytest.raises(SourceError, match=r"p\..*cannot be read"):
        keys(archive(f"p{suffix}", whole[: int(len(whole) * share)]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_archive_is_refused(archive: Archive, suffix: str) -> None:
    with pytest.raises(SourceError, match="the archive cannot be read"):
        keys(archive(f"p{suffix}", b"<html>not found</html>" * 99))


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"nowhere\.zip: the archive cannot be read \(No such file"
    ):
        keys(tmp_path / "nowhere.zip")


def test_a_tar_header_of_a_gigabyte_is_refused_unread(archive: Archive) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    with pytest.raises(SourceError, match=r"a header of 1,073,741,824 bytes"):
        keys(archive("p.tar", header.tobuf() + bytes(10240)))


def test_an_empty_archive_has_no_pictures(archive: Archive) -> None:
    with pytest.raises(SourceError, match="no images found"):
        keys(archive("p.zip", zipped({})))


def test_a_changed_compressed_tar_is_unpacked_anew_and_the_old_one_removed(
    archive: Archive, png: Png, cache: Path
) -> None:
    path = archive("p.tgz", gzip.compress(tarred({"rose/1.png": png(1)})))
    assert keys(path) == ["rose/1.png"]
    path.write_bytes(gzip.compress(tarred({"rose/1.png": png(1), "rose/2.png": png(2)})))
    os.utime(path, (1, 1))
    assert keys(path) == ["rose/1.png", "rose/2.png"]
    assert len(list(cache.rglob("*.tar"))) == 1


def test_pictures_can_be_pickled_and_are_small(archive: Archive, png: Png) -> None:
    sample = next(iter(ImageFolder(archive("p.zip", zipped({"rose/1.png": png(1)})))))
    pickled = pickle.dumps(sample)
    assert len(pickled) < 600
    assert content(pickle.loads(pickled)) == png(1)  # noqa: S301 - made in the line above


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_sixteen_threads_read_the_right_pictures(archive: Archive, png: Png, suffix: str) -> None:
    files = {f"rose/{number:02d}.png": png(number) for number in range(50)}
    samples = list(ImageFolder(archive(f"p{suffix}", packed(suffix, files)))) * 20
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(content, samples)) == list(files.values()) * 20


def test_a_picture_that_is_gone_is_an_image_error(archive: Archive, png: Png) -> None:
    path = archive("p.zip", zipped({"rose/1.png": png(1)}))
    sample = next(iter(ImageFolder(path)))
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        content(sample)


def read_all(path: Path) -> Any:
    return [content(sample) for sample in ImageFolder(path)]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_damage_anywhere_is_an_error_of_ours_or_does_no_harm(
    archive: Archive, png: Png, suffix: str
) -> None:
    whole = packed(suffix, {f"rose/{number}.png": png(number) for number in range(3)})
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        try:
            read_all(archive(f"p{suffix}", bytes(damaged)))
        except (SourceError, ImageError):
            continue


def test_names_in_utf_8_without_the_flag_that_says_so_are_utf_8(archive: Archive, png: Png) -> None:
    flagged = zipped({"Gänseblümchen/1.png": png(1), "rose/1.png": png(2)})
    unflagged = bytearray(flagged)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = unflagged.index(signature)
        unflagged[at + place : at + place + 2] = bytes(2)
    samples = list(ImageFolder(archive("p.zip", bytes(unflagged))))
    assert [sample.label for sample in samples] == ["Gänseblümchen", "rose"]
    assert content(samples[0]) == png(1)


def test_names_in_the_old_encoding_of_zips_stay_what_they_are(archive: Archive, png: Png) -> None:
    whole = zipped({"x/1.png": png(1), "rose/1.png": png(2)}).replace(b"x/1.png", b"\x81/1.png")
    assert [sample.label for sample in ImageFolder(archive("p.zip", whole))] == ["rose", "ü"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_that_was_replaced_since_it_was_listed_is_an_error(
    archive: Archive, png: Png, suffix: str
) -> None:
    path = archive(f"p{suffix}", packed(suffix, {"rose/1.png": png(1), "daisy/1.png": png(2)}))
    sample = next(iter(ImageFolder(path)))
    path.write_bytes(packed(suffix, {"rose/1.png": png(2), "daisy/1.png": png(1)}))
    os.utime(path, (1, 1))
    with pytest.raises(SourceError, match="changed since it was listed"):
        content(sample)
