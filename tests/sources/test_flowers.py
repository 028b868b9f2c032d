from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from flowercnn import ConfigurationError, Dataset, Flower17, Flower102, SourceError
from flowercnn.sources import flowers
from flowercnn.sources.download import Download, ResumingDownloader
from flowercnn.testing import check_source

Png = Callable[[int], bytes]
SPLIT_17 = {"trn": range(1, 681), "val": range(681, 1021), "tst": range(1021, 1361)}


def matlab(**matrices: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(
        buffer, {name: np.array(values, dtype=np.uint16)[None] for name, values in matrices.items()}
    )
    return buffer.getvalue()


def tgz(files: Mapping[str, bytes], *members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return buffer.getvalue()


def datasplits() -> bytes:
    order = np.random.default_rng(0).permutation(1360) + 1
    first = {"trn1": order[:680], "val1": order[680:1020], "tst1": order[1020:]}
    return matlab(**first, **{f"{part}2": list(numbers) for part, numbers in SPLIT_17.items()})


def archive_17(png: Png, numbers: range = range(1, 1361)) -> bytes:
    """The official layout: everything in jpg/, with a list of the files."""
    pictures = {f"jpg/image_{number:04d}.jpg": png(number) for number in numbers}
    return tgz({"jpg/files.txt": b"image_0001.jpg\n", **pictures})


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {
        name.rpartition("/")[2]: f"sha256:{hashlib.sha256(content).hexdigest()}"
        for name, content in files.items()
    }


@pytest.fixture
def mirror(server: Any, png: Png, cache: Path) -> dict[str, Any]:
    """Arguments of Flower17 for a server on this computer with files of the official layout."""
    server.files = {"/17/17flowers.tgz": archive_17(png), "/17/datasplits.mat": datasplits()}
    return {"url": f"{server.url}/17", "checksums": checksums(server.files), "progress": False}


@pytest.fixture
def mirror_102(server: Any, png: Png, cache: Path) -> dict[str, Any]:
    numbers = range(1, 205)
    labels = [(number - 1) % 102 + 1 for number in numbers]
    server.files = {
        "/102/102flowers.tgz": tgz(
            {f"jpg/image_{number:05d}.jpg": png(number) for number in numbers}
        ),
        "/102/imagelabels.mat": matlab(labels=labels),
        "/102/setid.mat": matlab(
            trnid=list(range(1, 103)), valid=[103], tstid=list(range(104, 205))
        ),
    }
    return {"url": f"{server.url}/102/", "checksums": checksums(server.files), "progress": False}


def test_flower17_is_downloaded_with_its_classes_and_its_official_split(
    mirror: dict[str, Any], cache: Path
) -> None:
    dataset = Dataset.from_source(Flower17(**mirror))
    assert len(dataset) == 1360
    assert set(dataset.class_counts().values()) == {80}
    assert dataset.class_names[:2] == ("Daffodil", "Snowdrop")
    assert [len(part) for part in dataset.predefined_split()] == [680, 340, 340]
    assert (cache / "flower17" / "jpg" / "image_1360.jpg").is_file()


def test_the_class_is_told_by_the_number(mirror: dict[str, Any]) -> None:
    labels = {sample.key: sample.label for sample in Flower17(**mirror)}
    assert labels["image_0080.jpg"] == "Daffodil"
    assert labels["image_0081.jpg"] == "Snowdrop"
    assert labels["image_1281.jpg"] == labels["image_1360.jpg"] == "Pansy"


def test_another_official_split_can_be_chosen(mirror: dict[str, Any]) -> None:
    parts = {sample.key: sample.split for sample in Flower17(**mirror, split=2)}
    assert parts["image_0001.jpg"] == "train"
    assert parts["image_1360.jpg"] == "test"
    assert Counter(parts.values()) == {"train": 680, "val": 340, "test": 340}


def test_a_second_time_nothing_is_downloaded(
    mirror: dict[str, Any], server: Any, cache: Path
) -> None:
    list(Flower17(**mirror))
    server.requests.clear()
    list(Flower17(**mirror))
    assert server.requests == []
    assert not list(cache.rglob("*.tgz"))


def test_the_data_sets_keep_the_contract_of_a_source(mirror: dict[str, Any]) -> None:
    check_source(Flower17(**mirror), images=8)


def test_flower102_keeps_the_contract_of_a_source(mirror_102: dict[str, Any]) -> None:
    check_source(Flower102(**mirror_102), images=8)


def test_flower102_is_downloaded_with_its_classes_and_its_official_split(
    mirror_102: dict[str, Any],
) -> None:
    dataset = Dataset.from_source(Flower102(**mirror_102))
    assert set(dataset.class_counts().values()) == {2}
    assert dataset[0].label == "pink primrose"
    assert dataset[101].label == "blackberry lily"
    assert [len(part) for part in dataset.predefined_split()] == [102, 1, 101]


def test_there_are_102_distinct_names() -> None:
    assert len(set(Flower102.class_names)) == 102


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_download_that_is_cut_off_goes_on_where_it_was(
    mirror: dict[str, Any], server: Any, cuts: int
) -> None:
    server.faults = {"/17/17flowers.tgz": ["cut"] * cuts}
    assert len(list(Flower17(**mirror))) == 1360
    ranges = [wanted for _, path, wanted in server.requests if path.endswith("tgz")]
    sent = len(server.files["/17/17flowers.tgz"]) // 2
    assert ranges[0] is None
    assert sent - 2**16 < int(str(ranges[1]).strip("bytes=-")) <= sent


def test_a_later_run_goes_on_where_an_earlier_one_was_cut_off(
    mirror: dict[str, Any], server: Any
) -> None:
    server.faults = {"/17/17flowers.tgz": ["cut", 500]}
    with pytest.raises(SourceError, match="HTTP 500"):
        list(Flower17(**mirror))
    server.requests.clear()
    assert len(list(Flower17(**mirror))) == 1360
    assert [wanted is None for _, path, wanted in server.requests if path.endswith("tgz")] == [
        False
    ]


def test_a_server_that_cannot_go_on_starts_again(mirror: dict[str, Any], server: Any) -> None:
    server.ranges = False
    server.faults = {"/17/17flowers.tgz": ["cut"]}
    assert len(list(Flower17(**mirror))) == 1360


def test_what_was_left_by_another_version_of_the_file_is_thrown_away(
    mirror: dict[str, Any], server: Any, cache: Path
) -> None:
    (cache / "flower17").mkdir(parents=True)
    (cache / "flower17" / "17flowers.tgz.part").write_bytes(
        bytes(len(server.files["/17/17flowers.tgz"]) + 5)
    )
    assert len(list(Flower17(**mirror))) == 1360


def test_what_was_left_of_another_file_is_not_used(
    mirror: dict[str, Any], server: Any, cache: Path
) -> None:
    (cache / "flower17").mkdir(parents=True)
    (cache / "flower17" / "17flowers.tgz.part").write_bytes(b"something else")
    assert len(list(Flower17(**mirror))) == 1360
    assert not list(cache.rglob("*.part"))


def test_two_downloads_into_one_folder_do_not_disturb_each_other(
    mirror: dict[str, Any], cache: Path
) -> None:
    checksums = mirror["checksums"]
    pauses = threading.Barrier(2)

    class Together(ResumingDownloader):
        def _claim(self) -> Path:
            pauses.wait(10)  # both have seen that nothing is there
            return super()._claim()

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr("flowercnn.sources.download.ResumingDownloader", Together)
        download = Download(mirror["url"], checksums, allowed=True, progress=False)
        fetched = list(pool.map(lambda _: download.fetch("17flowers.tgz", cache), range(2)))
    assert fetched == [cache / "17flowers.tgz"] * 2
    assert [path.name for path in cache.iterdir()] == ["17flowers.tgz"]


def test_what_another_process_has_downloaded_meanwhile_is_taken(
    mirror: dict[str, Any], server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ResumingDownloader, *_: Any) -> None:
        (cache / "17flowers.tgz").write_bytes(server.files["/17/17flowers.tgz"])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResumingDownloader, "__call__", fail)
    download = Download(mirror["url"], mirror["checksums"], allowed=True, progress=False)
    cache.mkdir(parents=True)
    assert download.fetch("17flowers.tgz", cache) == cache / "17flowers.tgz"


def test_what_a_killed_process_has_left_is_gone_on_with_once_it_is_old(
    mirror: dict[str, Any], server: Any, cache: Path
) -> None:
    folder, whole = cache / "flower17", server.files["/17/17flowers.tgz"]
    folder.mkdir(parents=True)
    left, in_use = folder / ".12345678.17flowers.tgz.part", folder / ".87654321.17flowers.tgz.part"
    left.write_bytes(whole[:1000])
    in_use.write_bytes(whole[:2000])
    os.utime(left, (1, 1))
    assert len(list(Flower17(**mirror))) == 1360
    assert [each for _, path, each in server.requests if path.endswith(".tgz")] == ["bytes=1000-"]
    assert not left.exists()
    assert in_use.read_bytes() == whole[:2000]


def test_a_download_that_fails_leaves_what_has_come_for_the_next_run(
    mirror: dict[str, Any], server: Any, cache: Path
) -> None:
    server.faults = {"/17/17flowers.tgz": ["cut", "drop", "drop", "drop"]}
    with pytest.raises(SourceError, match="cannot be downloaded"):
        list(Flower17(**mirror))
    assert sorted(path.name for path in (cache / "flower17").iterdir()) == [
        "17flowers.tgz.part",
        "datasplits.mat",
    ]
    assert len(list(Flower17(**mirror))) == 1360


def test_photographs_another_process_has_unpacked_meanwhile_are_taken(
    mirror: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(Flower17(**mirror))
    (cache / "flower17" / "jpg").rename(cache / "made")

    replace = os.replace

    def late(path: Path, target: Path) -> None:
        if Path(target).name == "jpg":
            (cache / "made").rename(target)
            raise OSError(39, "Directory not empty")
        replace(path, target)

    monkeypatch.setattr("flowercnn.sources.download.os.replace", late)
    assert len(list(Flower17(**mirror))) == 1360


def test_progress_is_shown_and_can_be_silenced(
    mirror: dict[str, Any], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    list(Flower17(**mirror))
    assert capfd.readouterr() == ("", "")
    list(Flower17(tmp_path / "elsewhere", **{**mirror, "progress": True}))
    assert "17flowers.tgz" in capfd.readouterr().err


def test_an_unknown_name_among_the_checksums_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="Did you mean '17flowers.tgz'. Received: '17flower.tgz'"
    ):
        Flower17(checksums={"17flower.tgz": "md5:" + "0" * 32})


def test_a_wrong_checksum_is_refused_and_nothing_is_left(
    mirror: dict[str, Any], server: Any, cache: Path
) -> None:
    server.files["/17/17flowers.tgz"] = b"<html>moved</html>"
    with pytest.raises(
        SourceError, match=r"17flowers\.tgz: what the server sends is not the official file"
    ):
        list(Flower17(**mirror))
    assert [path.name for path in (cache / "flower17").iterdir()] == ["datasplits.mat"]


def test_without_checksums_of_its_own_a_mirror_must_have_the_official_files(
    mirror: dict[str, Any],
) -> None:
    with pytest.raises(SourceError, match="not the official file"):
        list(Flower17(url=mirror["url"], progress=False))


def test_without_a_network_it_is_said_where_to_put_the_archive(cache: Path) -> None:
    with pytest.raises(SourceError) as caught:
        list(Flower17(url="http://me:word@127.0.0.1:9", progress=False))
    assert (
        f"put 17flowers.tgz, datasplits.mat from http://127.0.0.1:9 into {cache / 'flower17'}"
        in str(caught.value)
    )
    assert "word" not in str(caught.value) + repr(Flower17(url="http://me:word@127.0.0.1:9"))


def test_a_password_in_the_url_is_in_no_traceback(mirror: dict[str, Any], server: Any) -> None:
    server.files["/17/17flowers.tgz"] = b"<html>moved</html>"
    user = "me:s3cret"
    for port, reason in (
        (9, "cannot be downloaded"),
        (server.url.rpartition(":")[2], "not the official file"),
    ):
        source = Flower17(**{**mirror, "url": f"http://{user}@127.0.0.1:{port}/17"})
        with pytest.raises(SourceError, match=reason) as caught:
            list(source)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_all_files_missing_are_named_and_no_other(tmp_path: Path, cache: Path, png: Png) -> None:
    with pytest.raises(
        SourceError, match="put 102flowers.tgz, imagelabels.mat, setid.mat from .* into .*folder"
    ):
        list(Flower102(tmp_path / "folder", download=False))
    (tmp_path / "image_00001.jpg").write_bytes(png(1))
    with pytest.raises(SourceError, match="put imagelabels.mat, setid.mat from .* into .*cache"):
        list(Flower102(tmp_path, download=False))


def test_without_download_it_is_said_where_to_put_the_archive(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"download=False.*put 17flowers\.tgz, datasplits\.mat from https://www"
    ):
        list(Flower17(tmp_path, download=False))


def test_an_archive_put_there_by_hand_is_used_and_stays(
    mirror: dict[str, Any], server: Any, tmp_path: Path
) -> None:
    for path, content in server.files.items():
        (tmp_path / path.rpartition("/")[2]).write_bytes(content)
    assert len(list(Flower17(tmp_path, download=False, checksums=mirror["checksums"]))) == 1360
    assert server.requests == []
    assert (tmp_path / "17flowers.tgz").is_file()


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("kind", [Flower17, Flower102])
def test_the_archive_itself_is_no_root(
    kind: Any, *, download: bool, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "flowers.tgz").write_bytes(b"an archive")
    with pytest.raises(
        SourceError,
        match=r"root must be the folder the archive is in.*flowers\.tgz, which is a file",
    ):
        list(kind(tmp_path / "flowers.tgz", download=download, progress=False))


def test_an_archive_that_may_not_be_read_is_a_source_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, algorithm: str) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "datasplits.mat").write_bytes(b"something")
    monkeypatch.setattr("hashlib.file_digest", refuse)
    with pytest.raises(
        SourceError, match=r"datasplits\.mat: cannot be read \(PermissionError: Permission denied\)"
    ):
        list(Flower17(tmp_path, download=False))


def test_another_archive_put_there_by_hand_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "datasplits.mat").write_bytes(b"something")
    with pytest.raises(SourceError, match="not the official file.*Remove it"):
        list(Flower17(tmp_path))
    assert (tmp_path / "datasplits.mat").read_bytes() == b"something"


def in_class_folders(root: Path, png: Png, step: int) -> Path:
    for number in range(1, 1361, step):
        name = Flower17.class_names[(number - 1) // 80].replace(" ", "").replace("'", "")
        path = root / name / f"image_{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def test_a_folder_with_a_folder_per_class_and_some_of_the_pictures_is_enough(
    tmp_path: Path, png: Png, unchanged: Callable[[Path], Path]
) -> None:
    root = unchanged(in_class_folders(tmp_path / "photos", png, 5))
    dataset = Dataset.from_source(Flower17(root))
    assert set(dataset.class_counts().values()) == {16}
    assert dataset.class_names == Flower17.class_names
    assert not dataset.has_splits


def test_a_folder_with_the_splits_has_them(tmp_path: Path, png: Png) -> None:
    root = in_class_folders(tmp_path / "photos", png, 5)
    (root / "datasplits.mat").write_bytes(datasplits())
    assert Dataset.from_source(Flower17(root)).has_splits


def test_keys_are_the_same_in_every_layout(
    mirror: dict[str, Any], tmp_path: Path, png: Png
) -> None:
    sorted_out = {
        sample.key: sample.label
        for sample in Flower17(in_class_folders(tmp_path / "photos", png, 5))
    }
    official = {sample.key: sample.label for sample in Flower17(**mirror)}
    assert sorted_out.items() <= official.items()


def test_a_picture_in_the_folder_of_another_species_is_refused(tmp_path: Path, png: Png) -> None:
    root = in_class_folders(tmp_path / "photos", png, 40)
    (root / "Daffodil" / "image_0001.jpg").rename(root / "Tulip" / "image_0001.jpg")
    with pytest.raises(
        SourceError, match="the folder says 'Tulip', but photograph 1 is 'Daffodil'"
    ):
        list(Flower17(root))


def test_spellings_of_other_mirrors_are_known(tmp_path: Path, png: Png) -> None:
    (tmp_path / "Dandelalion").mkdir()
    (tmp_path / "Dandelalion" / "image_0961.jpg").write_bytes(png(1))
    assert [sample.label for sample in Flower17(tmp_path)] == ["Dandelion"]


def test_a_number_that_is_there_twice_is_refused(tmp_path: Path, png: Png) -> None:
    root = in_class_folders(tmp_path / "photos", png, 40)
    (root / "image_0001.jpg").write_bytes(png(1))
    with pytest.raises(SourceError, match="A photograph is there twice"):
        list(Flower17(root))


def test_a_number_beyond_the_last_is_refused(tmp_path: Path, png: Png) -> None:
    (tmp_path / "image_1361.jpg").write_bytes(png(1))
    with pytest.raises(SourceError, match="must be numbered 1 to 1360. Received: 1361"):
        list(Flower17(tmp_path))


def test_the_labels_of_flower102_come_from_the_cache_if_they_are_not_beside_the_pictures(
    mirror_102: dict[str, Any],
    tmp_path: Path,
    png: Png,
    unchanged: Callable[[Path], Path],
    server: Any,
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "image_00102.jpg").write_bytes(png(1))
    root = unchanged(tmp_path / "photos")
    assert [(s.label, s.split) for s in Flower102(root, **mirror_102)] == [
        ("blackberry lily", "train")
    ]
    assert not any(path.endswith("tgz") for _, path, _ in server.requests)


def test_the_archive_can_lead_nowhere(server: Any, png: Png, cache: Path, tmp_path: Path) -> None:
    def special(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        return member

    hostile = tgz(
        {
            "jpg/image_0001.jpg": png(1),
            "../../image_0002.jpg": png(2),
            f"{tmp_path}/outside/image_0003.jpg": png(3),
            "jpg/link/image_0006.jpg": png(6),
            "../escaped.txt": b"x",
        },
        special("jpg/image_0004.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("jpg/image_0005.jpg", tarfile.LNKTYPE, "../../secret"),
        special("jpg/link", tarfile.SYMTYPE, str(tmp_path / "outside")),
    )
    server.files = {"/17flowers.tgz": hostile, "/datasplits.mat": datasplits()}
    source = Flower17(url=server.url, checksums=checksums(server.files), progress=False)
    assert [sample.key for sample in source] == [
        f"image_000{number}.jpg" for number in (1, 2, 3, 6)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
    assert {path.parent for path in cache.rglob("*.jpg")} == {cache / "flower17" / "jpg"}


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_damaged_archive_is_refused_and_leaves_no_half_folder(
    server: Any, png: Png, cache: Path, share: float
) -> None:
    whole = archive_17(png)
    server.files = {
        "/17flowers.tgz": whole[: int(len(whole) * share)],
        "/datasplits.mat": datasplits(),
    }
    with pytest.raises(SourceError, match="cannot be unpacked"):
        list(Flower17(url=server.url, checksums=checksums(server.files), progress=False))
    assert not list(cache.rglob("*.jpg"))


def test_a_photograph_of_unlikely_size_is_refused(
    server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowercnn.sources.download._LARGEST_PHOTOGRAPH", 100)
    server.files = {
        "/17flowers.tgz": tgz({"jpg/image_0001.jpg": bytes(101)}),
        "/datasplits.mat": datasplits(),
    }
    with pytest.raises(SourceError, match="101 bytes are too many for a photograph"):
        list(Flower17(url=server.url, checksums=checksums(server.files), progress=False))


def test_what_is_no_matlab_file_is_refused(tmp_path: Path, png: Png) -> None:
    (tmp_path / "image_0001.jpg").write_bytes(png(1))
    (tmp_path / "datasplits.mat").write_bytes(b"MATLAB no more" * 99)
    with pytest.raises(
        SourceError, match=r"datasplits\.mat: not the official file with trn1, val1, tst1"
    ):
        list(Flower17(tmp_path))


@pytest.mark.parametrize("split", [0, 4, "1", None, True, 1.0])
def test_an_unknown_split_is_refused(split: Any) -> None:
    with pytest.raises(ConfigurationError, match="split must be 1, 2 or 3"):
        Flower17(split=split)


@pytest.mark.parametrize("url", ["ftp://example.org/", "file:///etc", "example.org", 3])
def test_a_mirror_must_be_a_web_server(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="url must begin with https://"):
        Flower17(url=url)


@pytest.mark.parametrize("checksum", ["sha256:abc", "d41d8cd98f00b204e9800998ecf8427e", None])
def test_a_checksum_must_name_its_kind(checksum: Any) -> None:
    with pytest.raises(ConfigurationError, match="checksums must be 'sha256:' or 'md5:'"):
        Flower102(checksums={"102flowers.tgz": checksum})


def test_the_official_checksums_are_of_the_right_form() -> None:
    known = {**flowers._CHECKSUMS_17, **flowers._CHECKSUMS_102}
    assert {name: len(checksum.partition(":")[2]) for name, checksum in known.items()} == {
        **dict.fromkeys(["17flowers.tgz", "102flowers.tgz", "imagelabels.mat", "setid.mat"], 64),
        "datasplits.mat": 32,
    }


def test_nothing_is_downloaded_before_the_first_iteration(
    mirror: dict[str, Any], server: Any
) -> None:
    Flower17(**mirror)
    assert server.requests == []


def test_photographs_where_they_are_on_this_computer(photographs: Path) -> None:
    if not (photographs / "Daffodil").is_dir():
        pytest.skip(reason="the photographs are others")
    dataset = Dataset.from_source(Flower17(photographs))
    assert len(dataset.class_names) == 17
    assert min(dataset.class_counts().values()) > 0


@pytest.mark.parametrize("kind", [Flower17, Flower102])
@pytest.mark.parametrize(
    ("name", "value"), [("root", 5), ("checksums", 5), ("checksums", "sha256:0")]
)
def test_arguments_of_a_wrong_type_are_refused_at_once(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} must be .*Received: {name}="):
        kind(**{name: value})


def test_a_file_without_a_checksum_is_checked_by_opening_it_and_may_have_another_name_here(
    server: Any, tmp_path: Path
) -> None:
    server.files = {"/a.txt": b"rose"}
    here, opens = {"a.txt": "b.txt"}, lambda path: path.read_bytes() == b"rose"
    download = Download(server.url, {"a.txt": ""}, progress=False, renamed=here, opens=opens)
    assert download.fetch("a.txt", tmp_path) == tmp_path / "b.txt"
    server.files = {"/a.txt": b"<html>Log in first</html>"}
    (tmp_path / "b.txt").unlink()
    with pytest.raises(SourceError, match=r"not the official file.*put a.txt as b.txt from"):
        download.fetch("a.txt", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="checksums must be"):
        Download(server.url, {"a.txt": ""})
