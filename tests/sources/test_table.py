from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowercnn import (
    ConfigurationError,
    ImageTable,
    MissingDependencyError,
    SourceError,
    UnknownNameError,
)
from flowercnn.sources import as_source, open_source
from flowercnn.sources.table import open_table
from flowercnn.testing import check_source

Plant = Callable[..., Path]
ROWS = {"file": ["rose/1.png", "daisy/2.png"], "species": ["rose", "daisy"]}


@pytest.fixture
def folder(plant: Plant) -> Path:
    return plant("rose/1.png", "daisy/2.png", 'with space/é, "x".png')


@pytest.fixture
def table(folder: Path) -> Callable[..., ImageTable]:
    """Write a table beside the pictures and open it."""

    def write(text: str | bytes, name: str = "photos.csv", **columns: Any) -> ImageTable:
        content = text.encode() if isinstance(text, str) else text
        (folder / name).write_bytes(content)
        named: dict[str, Any] = {"image": "file", "label": "species", **columns}
        return ImageTable(folder / name, **named)

    return write


Write = Callable[..., ImageTable]


def listed(source: ImageTable) -> list[tuple[str, str | None]]:
    return [(sample.key, sample.label) for sample in source]


PLAIN = "file,species\nrose/1.png,rose\ndaisy/2.png,daisy\n"
EXPECTED = [("rose/1.png", "rose"), ("daisy/2.png", "daisy")]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("\n"),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        '"file","species"\n"rose/1.png","rose"\n"daisy/2.png","daisy"\n',
        "id;species;note;file\n1;rose;a, b;rose/1.png\n2;daisy;;daisy/2.png\n",
        "file,species\n\nrose/1.png,rose\n\n\ndaisy/2.png,daisy\n\n",
        "file,species\n  \nrose/1.png,rose\ndaisy/2.png,daisy\n \t\n",
        "\n \n\nfile,species\nrose/1.png,rose\ndaisy/2.png,daisy\n",
        " file , species \n rose/1.png ,  rose\ndaisy/2.png\t,\tdaisy\n",
        "file,species\nrose\\1.png,rose\ndaisy\\2.png,daisy\n",
        "file,species\n./rose/1.png,rose\nrose/../daisy//2.png,daisy\n",
        'file,species,note\nrose/1.png,rose,"two\nlines"\ndaisy/2.png,daisy,"say ""hi"""\n',
    ],
    ids=[
        *(
            "plain",
            "no last line end",
            "byte order mark",
            "Windows lines",
            "old Mac lines",
            "semicolons",
            "tabs",
        ),
        *(
            "quoted",
            "other columns",
            "empty lines",
            "lines of spaces",
            "empty lines first",
            "spaces",
            "backslashes",
            "roundabout paths",
            "quoted line ends",
        ),
    ],
)
def test_a_text_table_is_read_as_it_is_found_in_the_wild(table: Write, text: str) -> None:
    assert listed(table(text)) == EXPECTED


def test_quoted_fields_may_hold_anything(table: Write) -> None:
    assert listed(table('file,species\n"with space/é, ""x"".png","a, b"\n')) == [
        ('with space/é, "x".png', "a, b")
    ]


def test_a_table_keeps_the_contract_of_a_source(table: Write) -> None:
    check_source(table(PLAIN))


def test_reading_changes_nothing(
    table: Write, folder: Path, unchanged: Callable[[Path], Path]
) -> None:
    source = table(PLAIN)
    unchanged(folder)
    list(source)


def test_labels_that_differ_only_in_unicode_form_are_one(table: Write) -> None:
    text = "file,species\nrose/1.png,ros\u00e9\ndaisy/2.png,rose\u0301\n"
    assert [label for _, label in listed(table(text))] == ["ros\u00e9"] * 2


def test_a_table_shows_no_more_of_a_frame_than_its_kind() -> None:
    assert repr(ImageTable({"a": ["x" * 999], "b": [""]}, image="a", label="b")) == (
        "ImageTable(<dict>, image='a', label='b')"
    )


def test_a_frame_that_is_not_computed_yet_is_refused() -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    with pytest.raises(ConfigurationError, match="Received: LazyFrame"):
        ImageTable(polars.DataFrame({"a": ["1.png"]}).lazy(), image="a", label="a")


def test_an_empty_label_is_no_label(table: Write) -> None:
    assert listed(table("file,species\nrose/1.png,\ndaisy/2.png,  \n")) == [
        ("rose/1.png", None),
        ("daisy/2.png", None),
    ]


def test_paths_are_relative_to_the_root_if_there_is_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(PLAIN)
    with pytest.raises(SourceError, match="2 of 2 images are not in"):
        listed(ImageTable(tmp_path / "t.csv", image="file", label="species"))
    assert (
        listed(ImageTable(tmp_path / "t.csv", image="file", label="species", root=folder))
        == EXPECTED
    )


def test_a_table_in_the_current_folder_has_its_pictures_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "t.csv").write_text(PLAIN)
    monkeypatch.chdir(folder)
    source = ImageTable("t.csv", image="file", label="species")
    assert [sample.image for sample in source] == ["rose/1.png", "daisy/2.png"]


def test_the_home_folder_can_be_written_as_a_tilde(
    table: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(PLAIN)
    monkeypatch.setenv("HOME", str(folder))
    assert listed(ImageTable("~/photos.csv", image="file", label="species")) == EXPECTED


def test_absolute_paths_stay_what_they_are(table: Write, folder: Path) -> None:
    path = (folder / "rose" / "1.png").as_posix()
    samples = list(table(f"file,species\n{path},rose\n"))
    assert [(sample.key, sample.image) for sample in samples] == [(path, path)]


def test_urls_are_not_looked_up(table: Write) -> None:
    assert listed(table("file,species\nhttps://example.org/1.jpg,rose\n")) == [
        ("https://example.org/1.jpg", "rose")
    ]


@pytest.mark.parametrize("count", [3, 70, 1100])
def test_missing_files_are_all_named_at_once(table: Write, count: int) -> None:
    lines = "".join(f"gone/{number}.png,rose\n" for number in range(count))
    with pytest.raises(
        SourceError, match=rf"{count} of {count + 2} images are not in .*gone/0\.png"
    ) as caught:
        listed(table(PLAIN + lines))
    told = "".join(traceback.format_exception(caught.value))
    assert all(f"gone/{number}.png" in told for number in range(count))
    assert f"gone/{min(count, 1000) - 1}.png" in str(caught.value)


def test_a_missing_file_beside_many_that_are_there_is_found(plant: Plant) -> None:
    root = plant(*(f"rose/{number}.png" for number in range(30)))
    rows = {"file": [f"rose/{number}.png" for number in range(31)], "species": ["rose"] * 31}
    with pytest.raises(SourceError, match=r"1 of 31 images are not in .*: rose/30\.png\."):
        list(ImageTable(rows, image="file", label="species", root=root))


def test_a_folder_is_no_picture(table: Write) -> None:
    with pytest.raises(SourceError, match="1 of 1 images are not in"):
        listed(table("file,species\nrose,rose\n"))


def test_rows_without_a_picture_are_named(table: Write) -> None:
    with pytest.raises(SourceError, match="2 rows have no file: row 2, row 3"):
        listed(table("file,species\nrose/1.png,rose\n,rose\n  ,rose\n"))


def test_lines_with_other_numbers_of_fields_are_named(table: Write) -> None:
    text = "file,species\nrose/1.png,rose\nrose/1.png\nrose/1.png;rose\na,b,c\n"
    with pytest.raises(
        SourceError, match="3 lines do not have 2 fields .*: line 3: 1, line 4: 1, line 5: 3"
    ):
        listed(table(text))


@pytest.mark.parametrize("text", ['file,species\n"rose/1.png,rose\n', 'file,species\n"a"b,rose\n'])
def test_quotes_that_do_not_match_are_an_error_with_the_line(table: Write, text: str) -> None:
    with pytest.raises(SourceError, match=r"line \d is not CSV"):
        listed(table(text))


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-16"),
        "file,species\nrosé,r\n".encode("latin-1"),
        b"PK\x03\x04\0\0\0",
        PLAIN.encode("utf-16-le"),
    ],
    ids=["UTF-16", "Latin-1", "a spreadsheet", "UTF-16 without mark"],
)
def test_a_file_that_is_no_utf_8_is_refused(table: Write, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"photos\.csv: the table is not UTF-8"):
        listed(table(content))


def test_an_unknown_column_is_named_with_the_nearest(table: Write) -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"has the columns file, species\. Did you mean 'species'\? .*'specie'",
    ):
        listed(table(PLAIN, label="specie"))


def test_a_column_that_is_there_twice_is_refused(table: Write) -> None:
    with pytest.raises(SourceError, match="several columns named 'file'"):
        listed(table("file,file,species\nrose/1.png,x,rose\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused(table: Write, text: str) -> None:
    with pytest.raises(SourceError, match="the table is empty"):
        listed(table(text))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.csv: the table cannot be read \(No such file"):
        listed(ImageTable(tmp_path / "nowhere.csv", image="file", label="species"))


def test_groups_and_parts_come_from_their_columns(table: Write) -> None:
    text = "file,species,plant,part\nrose/1.png,rose,7,Training\ndaisy/2.png,daisy,,valid\n"
    samples = list(table(text, group="plant", split="part"))
    assert [(sample.group, sample.split) for sample in samples] == [("7", "train"), (None, "val")]


def test_a_row_without_a_part_has_none(table: Write) -> None:
    assert [
        sample.split for sample in table("file,species,part\nrose/1.png,rose,\n", split="part")
    ] == [None]


def test_unknown_parts_are_named(table: Write) -> None:
    with pytest.raises(
        SourceError,
        match="'part' may have train, val, test and nothing. Received: 'dev', 'holdout'",
    ):
        listed(
            table(
                "file,species,part\nrose/1.png,rose,holdout\ndaisy/2.png,daisy,dev\n", split="part"
            )
        )


def frames() -> list[Any]:
    return [
        pytest.param("dict"),
        pytest.param("pandas"),
        pytest.param("polars"),
        pytest.param("pyarrow"),
    ]


def frame(kind: str, columns: Mapping[str, list[Any]]) -> Any:
    if kind == "dict":
        return dict(columns)
    package = pytest.importorskip(kind, reason=f"{kind} is not installed")
    return package.table(columns) if kind == "pyarrow" else package.DataFrame(columns)


@pytest.mark.versions
@pytest.mark.parametrize("kind", frames())
def test_a_frame_is_a_table(kind: str, folder: Path) -> None:
    source = ImageTable(frame(kind, ROWS), image="file", label="species", root=folder)
    assert listed(source) == EXPECTED
    check_source(source)


@pytest.mark.parametrize("kind", frames())
def test_numbers_are_text_and_nothing_is_none(kind: str, folder: Path) -> None:
    columns: dict[str, list[Any]] = {**ROWS, "species": [3.0, None], "plant": [7, 12]}
    source = ImageTable(
        frame(kind, columns), image="file", label="species", group="plant", root=folder
    )
    assert [(sample.label, sample.group) for sample in source] == [("3", "7"), (None, "12")]


@pytest.mark.versions
def test_what_pandas_has_for_nothing_is_nothing(folder: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    columns = {
        "file": ["rose/1.png", "daisy/2.png"],
        "species": pandas.array([1, None], dtype="Int64"),
        "plant": pandas.to_datetime(["2020-01-01", None]),
    }
    source = ImageTable(
        pandas.DataFrame(columns), image="file", label="species", group="plant", root=folder
    )
    assert [sample.label for sample in source] == ["1", None]
    assert [sample.group is None for sample in source] == [False, True]


@pytest.mark.versions
def test_categories_are_labels(folder: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rows = pandas.DataFrame(ROWS).astype({"species": "category"})
    assert listed(ImageTable(rows, image="file", label="species", root=folder)) == EXPECTED


def test_a_frame_may_hold_pictures(png: Callable[[int], bytes]) -> None:
    pictures = [png(1), Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), dtype=np.uint8)]
    samples = list(ImageTable({"x": pictures, "y": list("aba")}, image="x", label="y"))
    assert [sample.image is picture for sample, picture in zip(samples, pictures, strict=True)] == [
        True
    ] * 3
    assert [sample.key for sample in samples] == ["000000", "000001", "000002"]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="equally many rows. Received: {'x': 1, 'y': 2}"):
        list(ImageTable({"x": [b""], "y": ["a", "b"]}, image="x", label="y"))


@pytest.mark.versions
def test_a_parquet_file_is_a_table(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(frame("pyarrow", {**ROWS, "other": [1, 2]}), folder / "photos.parquet")
    source = ImageTable(folder / "photos.parquet", image="file", label="species")
    assert listed(source) == EXPECTED
    check_source(source)


def test_a_damaged_parquet_file_is_refused(folder: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (folder / "photos.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(SourceError, match=r"photos\.parquet: the table cannot be read"):
        listed(ImageTable(folder / "photos.parquet", image="file", label="species"))


def test_pictures_within_a_parquet_file_are_referred_to_hugging_face(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = frame("pyarrow", {"file": [{"bytes": b"x", "path": "1.png"}], "species": ["rose"]})
    parquet.write_table(rows, folder / "photos.parquet")
    with pytest.raises(SourceError, match="'file' holds struct, not text.*from_huggingface"):
        listed(ImageTable(folder / "photos.parquet", image="file", label="species"))


def test_without_pyarrow_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flowercnn\[parquet\]'"):
        listed(ImageTable(tmp_path / "photos.parquet", image="file", label="species"))


def test_the_usual_names_of_columns_are_known(folder: Path) -> None:
    (folder / "t.csv").write_text("Filename,Class,Split,group\nrose/1.png,rose,train,7\n")
    for source in (
        open_table(str(folder / "t.csv")),
        open_source(f"table:{folder}/t.csv"),
        as_source(folder / "t.csv"),
    ):
        assert [(sample.label, sample.split, sample.group) for sample in source] == [
            ("rose", "train", "7")
        ]


def test_a_table_without_usual_names_says_how_to_name_them(folder: Path) -> None:
    (folder / "t.csv").write_text(PLAIN)
    with pytest.raises(
        UnknownNameError, match=r"columns file, species has a usual name for labels.*ImageTable\("
    ):
        open_table(str(folder / "t.csv"))


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_what_is_no_table_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="table must be"):
        ImageTable(value, image="a", label="b")


@pytest.mark.parametrize("columns", [{"image": ""}, {"label": None}, {"group": 3}, {"split": ""}])
def test_what_is_no_name_of_a_column_is_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be the name of a column"):
        ImageTable(ROWS, **{"image": "file", "label": "species", **columns})


def test_labels_may_be_bytes_or_numbers_of_numpy(folder: Path) -> None:
    for values, expected in (
        ([b"rose", b"daisy"], ["rose", "daisy"]),
        (np.array([1, np.nan], np.float32), ["1", None]),
    ):
        table = ImageTable(
            {"file": ["rose/1.png", "daisy/2.png"], "n": values},
            image="file",
            label="n",
            root=folder,
        )
        assert [sample.label for sample in table] == expected


@pytest.mark.parametrize(
    "numbers", [[10, 2, None, 1], [10.0, 2.0, float("nan"), 1.0], ["10", "2", "", "1"]]
)
def test_classes_that_are_whole_numbers_are_in_their_order(numbers: list[Any]) -> None:
    table = {"file": [f"{number}.png" for number in range(4)], "species": numbers}
    for iterated in (False, True):
        source = ImageTable(table, image="file", label="species", root="memory://x")
        assert [sample.label for sample in source if iterated] in ([], ["10", "2", None, "1"])
        assert source.class_names == ("1", "2", "10")


def test_the_order_of_classes_costs_no_second_reading(
    table: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = table("file,species\nrose/1.png,10\ndaisy/2.png,9\n")
    assert len(list(source)) == 2
    monkeypatch.setattr("flowercnn.sources.table.read_table_file", None)
    assert source.class_names == ("9", "10")


@pytest.mark.parametrize("labels", [["10", "rose"], ["1.5", "2"], [None, None]])
def test_classes_that_are_no_whole_numbers_are_not_declared(labels: list[Any]) -> None:
    assert (
        ImageTable(
            {"file": ["1", "2"], "species": labels}, image="file", label="species"
        ).class_names
        is None
    )


@pytest.mark.parametrize("root", [5, b"photos", ["photos"]])
def test_a_root_that_is_no_path_is_refused_at_once(root: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"root must be the path or URL of a folder.*Received: root="
    ):
        ImageTable({"f": ["1.png"], "c": ["a"]}, image="f", label="c", root=root)


@pytest.mark.parametrize("options", [5, "secret", [("anon", True)], {1: 2}])
def test_options_that_are_no_mapping_of_names_are_refused_at_once(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="storage_options must be a mapping") as caught:
        ImageTable({"f": ["1.png"], "c": ["a"]}, image="f", label="c", storage_options=options)
    assert "secret" not in str(caught.value)
