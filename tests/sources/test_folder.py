from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowercnn import ConfigurationError, Dataset, ImageFolder, SourceError
from flowercnn.sources.base import part_of
from flowercnn.sources.folder import IMAGE_SUFFIXES, find_images

Plant = Callable[..., Path]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names or links")


def listed(root: Path | str, **options: object) -> list[tuple[str, str | None]]:
    return [(sample.key, sample.label) for sample in ImageFolder(root, **options)]  # type: ignore[arg-type]


def test_the_name_of_each_sub_folder_is_the_class(plant: Plant) -> None:
    assert listed(plant("rose/1.png", "daisy/1.png")) == [
        ("daisy/1.png", "daisy"),
        ("rose/1.png", "rose"),
    ]


def test_the_image_is_the_path_of_the_file(plant: Plant) -> None:
    root = plant("rose/1.png")
    assert [sample.image for sample in ImageFolder(root)] == [str(root / "rose" / "1.png")]


def test_a_picture_belongs_to_the_first_folder_however_deep_it_is(plant: Plant) -> None:
    assert listed(plant("rose/2019/may/1.png")) == [("rose/2019/may/1.png", "rose")]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_counts_in_upper_and_lower_case(plant: Plant, suffix: str) -> None:
    assert len(listed(plant(f"rose/1{suffix}", f"rose/2{suffix.upper()}"))) == 2


@pytest.mark.parametrize("name", ["notes.txt", "Thumbs.db", "jpg", "1.jpg.part", "x.svg"])
def test_other_files_are_passed_over(plant: Plant, name: str) -> None:
    assert listed(plant("rose/1.png", f"rose/{name}")) == [("rose/1.png", "rose")]


def test_pictures_directly_in_the_root_are_passed_over(plant: Plant) -> None:
    assert listed(plant("0.png", "rose/1.png")) == [("rose/1.png", "rose")]


def test_a_folder_without_a_picture_makes_no_class(plant: Plant) -> None:
    root = plant("rose/1.png", "scripts/run.sh")
    (root / "empty").mkdir()
    assert Dataset.from_source(ImageFolder(root)).class_names == ("rose",)


@pytest.mark.parametrize(
    "name", [".hidden/1.png", "rose/.1.png", "rose/.git/1.png", "__MACOSX/1.png"]
)
def test_hidden_files_and_folders_are_passed_over(plant: Plant, name: str) -> None:
    assert listed(plant("rose/1.png", name)) == [("rose/1.png", "rose")]


@POSIX
def test_a_link_to_a_file_is_read_like_a_file(plant: Plant) -> None:
    root = plant("rose/1.png")
    (root / "rose" / "2.png").symlink_to(root / "rose" / "1.png")
    assert len(listed(root)) == 2


@POSIX
def test_a_broken_link_is_passed_over(plant: Plant) -> None:
    root = plant("rose/1.png")
    (root / "rose" / "2.png").symlink_to(root / "nowhere.png")
    assert len(listed(root)) == 1


@POSIX
def test_a_link_to_itself_is_passed_over(plant: Plant) -> None:
    root = plant("rose/1.png")
    (root / "rose" / "2.png").symlink_to("2.png")
    assert [sample.key for sample in ImageFolder(root)] == ["rose/1.png"]


def test_a_link_to_the_root_is_not_entered(plant: Plant) -> None:
    root = plant("daisy/1.png", "rose/1.png")
    (root / "daisy" / "up").symlink_to(root)
    assert [sample.key for sample in ImageFolder(root, follow_links=True)] == [
        "daisy/1.png",
        "rose/1.png",
    ]


def test_a_pipe_is_passed_over(plant: Plant) -> None:
    root = plant("rose/1.png")
    os.mkfifo(root / "rose" / "2.png")
    assert len(listed(root)) == 1


@POSIX
def test_a_link_to_a_folder_is_passed_over_unless_links_are_followed(plant: Plant) -> None:
    elsewhere = plant("1.png", root="elsewhere")
    root = plant("rose/1.png")
    (root / "daisy").symlink_to(elsewhere)
    assert listed(root) == [("rose/1.png", "rose")]
    assert listed(root, follow_links=True) == [("daisy/1.png", "daisy"), ("rose/1.png", "rose")]


@POSIX
def test_links_in_a_circle_are_entered_once(plant: Plant) -> None:
    root = plant("rose/1.png", "daisy/1.png")
    (root / "rose" / "loop").symlink_to(root / "daisy")
    (root / "daisy" / "loop").symlink_to(root / "rose")
    assert [key for key, _ in listed(root, follow_links=True)] == [
        *("daisy/1.png", "daisy/loop/1.png", "rose/1.png", "rose/loop/1.png")
    ]


@POSIX
def test_names_are_brought_to_unicode_form_nfc(plant: Plant) -> None:
    decomposed = unicodedata.normalize("NFD", "Gänseblümchen")
    root = plant(f"{decomposed}/é.png")
    assert listed(root) == [("Gänseblümchen/é.png", "Gänseblümchen")]
    assert Path(str(next(iter(ImageFolder(root))).image)).is_file()


@POSIX
@pytest.mark.parametrize("pattern", ["{}/1.png", "rose/{}.png", "rose/{}/1.png"])
def test_two_names_that_differ_only_in_unicode_form_are_an_error(
    plant: Plant, pattern: str
) -> None:
    root = plant(*(pattern.format(unicodedata.normalize(form, "é")) for form in ("NFC", "NFD")))
    if len(list(root.rglob("*.png"))) < 2:
        pytest.skip(reason="this file system takes the two for the same")
    with pytest.raises(
        SourceError, match=r"differ only in their Unicode form: .*\\xe9.*Rename one"
    ):
        listed(root)


def test_names_that_differ_in_upper_and_lower_case_are_different(plant: Plant) -> None:
    root = plant("Rose/1.png", "rose/1.png")
    if len(list(root.iterdir())) < 2:
        pytest.skip(reason="this file system takes the two for the same")
    assert listed(root) == [("Rose/1.png", "Rose"), ("rose/1.png", "rose")]


@POSIX
def test_a_name_that_is_no_utf_8_is_readable_and_opens(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / os.fsdecode(b"ros\xe9")
    try:
        folder.mkdir(parents=True)
        (folder / os.fsdecode(b"\xff.png")).touch()
    except OSError:
        pytest.skip(reason="this file system takes only UTF-8")
    samples = list(ImageFolder(tmp_path / "photos"))
    assert [(sample.key, sample.label) for sample in samples] == [
        ("ros\\xe9/\\xff.png", "ros\\xe9")
    ]
    assert Path(str(samples[0].image)).is_file()


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train", "val", "test"), ["test", "train", "val"]),
        (("Training", "Validation", "Testing"), ["test", "train", "val"]),
        (("train", "valid"), ["train", "val"]),
    ],
)
def test_folders_named_train_val_and_test_are_predefined_parts(
    plant: Plant, names: tuple[str, ...], parts: list[str]
) -> None:
    root = plant(*(f"{name}/rose/1.png" for name in names))
    assert sorted(str(sample.split) for sample in ImageFolder(root)) == parts
    assert {sample.label for sample in ImageFolder(root)} == {"rose"}
    assert {sample.key for sample in ImageFolder(root)} == {f"{name}/rose/1.png" for name in names}


def test_one_folder_of_another_name_makes_all_of_them_classes(plant: Plant) -> None:
    samples = list(ImageFolder(plant("train/rose/1.png", "test/rose/1.png", "extra/rose/1.png")))
    assert {(sample.label, sample.split) for sample in samples} == {
        ("train", None),
        ("test", None),
        ("extra", None),
    }


def test_the_layout_can_be_told_to_be_classes(plant: Plant) -> None:
    samples = list(ImageFolder(plant("train/1.png", "test/1.png"), layout="classes"))
    assert {(sample.label, sample.split) for sample in samples} == {("train", None), ("test", None)}


def test_the_layout_told_to_be_splits_must_be_there(plant: Plant) -> None:
    with pytest.raises(SourceError, match=r"layout='splits' wants .*Received: rose"):
        listed(plant("rose/1.png"), layout="splits")


def test_samples_come_in_the_order_of_class_and_key(plant: Plant) -> None:
    root = plant("a b/2.png", "a/10.png", "a/2.png", "a/c/1.png", "a b/1.png")
    keys = [key for key, _ in listed(root)]
    assert keys == ["a/10.png", "a/2.png", "a/c/1.png", "a b/1.png", "a b/2.png"]


def test_the_folder_is_listed_anew_at_each_iteration(plant: Plant) -> None:
    source = ImageFolder(plant("rose/1.png"))
    assert len(list(source)) == 1
    plant("rose/2.png")
    assert len(list(source)) == 2


def test_listing_changes_nothing(plant: Plant, unchanged: Callable[[Path], Path]) -> None:
    root = unchanged(plant("rose/1.png", "daisy/deep/1.png"))
    Dataset.from_source(ImageFolder(root)).audit(progress=False)


def test_the_home_folder_can_be_written_as_a_tilde(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant("rose/1.png")
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("USERPROFILE", str(root.parent))
    assert listed("~/photos") == [("rose/1.png", "rose")]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"nowhere: not a folder that can be listed \(No such file"
    ):
        listed(tmp_path / "nowhere")


def test_a_file_is_no_folder(plant: Plant) -> None:
    with pytest.raises(SourceError, match="not a folder"):
        listed(plant("rose/1.png") / "rose" / "1.png")


def test_a_folder_without_pictures_says_what_was_passed_over(plant: Plant) -> None:
    with pytest.raises(SourceError, match=r"no images found.*Skipped: 2 \.txt, 1 without suffix"):
        listed(plant("rose/1.txt", "rose/2.txt", "daisy/README"))


def test_a_folder_with_pictures_directly_in_it_says_so(plant: Plant) -> None:
    root = plant("1.png", "2.png", "notes.txt", "LICENSE", "empty/more.txt")
    with pytest.raises(
        SourceError,
        match=r"2 images are in no such folder \(1\.png, 2\.png\): "
        r"put each .*: 2 \.txt, 1 without suffix\.",
    ):
        listed(root)


def test_a_part_with_pictures_directly_in_it_says_so(plant: Plant) -> None:
    with pytest.raises(SourceError, match=r"1 image is in no such folder \(train/1\.png\)"):
        listed(plant("train/1.png"))


@pytest.mark.parametrize("root", ["", None, 3])
def test_a_root_that_is_no_path_is_refused(root: object) -> None:
    with pytest.raises(ConfigurationError, match=r"root must be .*Received: root="):
        ImageFolder(root)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [5, "anon"])
def test_options_that_are_no_mapping_are_refused(options: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"storage_options must be a mapping.*Received: (int|str)$"
    ):
        ImageFolder("s3://bucket/photos", storage_options=options)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Received: layout='flat'"):
        ImageFolder("photos", layout="flat")  # type: ignore[arg-type]


def test_pictures_are_found_in_a_folder_and_below_it(plant: Plant) -> None:
    root = plant("2.png", "rose/1.png", "notes.txt")
    assert find_images(str(root)) == [str(root / "2.png"), str(root / "rose" / "1.png")]


def test_a_folder_in_which_no_pictures_are_found_says_so(plant: Plant) -> None:
    with pytest.raises(SourceError, match=r"no images found in it or below.*Skipped: 1 \.heic"):
        find_images(str(plant("rose/1.heic")))


def test_pictures_that_cannot_be_read_are_passed_over_with_one_warning(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    root = plant(
        "rose/1.png",
        "daisy/1.HEIC",
        "daisy/deep/2.heic",
        "tulip/1.cr2",
        "tulip/2.png",
        "lily/notes.txt",
    )
    assert [key for key, _ in listed(root)] == ["rose/1.png", "tulip/2.png"]
    assert len(caplog.messages) == 1
    assert "skipped 2 .heic, 1 .cr2 in daisy, tulip" in caplog.text
    assert "Convert them" in caplog.text


def test_pictures_beside_the_class_folders_of_a_part_are_passed_over_with_one_warning(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    root = plant(
        "train/rose/1.png",
        "train/2.png",
        "train/3.png",
        "test/rose/1.png",
        "test/4.png",
        "test/notes.txt",
    )
    assert len(listed(root)) == 2
    assert len(caplog.messages) == 1
    assert "in no class folder: 1 in test, 2 in train" in caplog.text


def test_folders_as_deep_as_in_archives_are_entered_and_deeper_ones_refused(plant: Plant) -> None:
    assert len(listed(plant("d/" * 63 + "1.png"))) == 1
    with pytest.raises(SourceError, match="nested more than 64 deep"):
        listed(plant("d/" * 64 + "1.png", root="deeper"))


@pytest.mark.parametrize("name", ["daisy", "", "trains"])
def test_other_names_are_no_part(name: str) -> None:
    assert part_of(name) is None
