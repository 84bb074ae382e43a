"""Tables as people have them: Charades-Ego, any splits, clock times, and what spreadsheets do to tables."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Config, Data, check_together
from pipeline.config_file import load
from pipeline.data.charades_csv import CHARADES_COLUMNS, read_charades
from pipeline.data.label_files import read_annotations
from pipeline.data.plain_csv import read_plain
from pipeline.data.strict_csv import read_classes
from pipeline.data.video.find import find_video, spreadsheet_hint
from pipeline.errors import AnnotationError, ConfigError, StageError, VideoMissing
from pipeline.stages import prepare

HEADER = "video_id,split,start,end,label"
SEMICOLONS = HEADER.replace(",", ";")


def plain(folder: Path, content: bytes | str, classes: bytes | str = "wave\nGrüßen\n"):
    for name, data in (("labels.csv", content), ("classes.txt", classes)):
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_plain(folder / "labels.csv", folder / "classes.txt")


def rows(table) -> list:
    """Each label as read: video, class, start, end."""
    return [(row.video_id, table.classes[row.class_index], row.start, row.end) for row in table.actions.itertuples()]


@pytest.mark.parametrize("more", [(), ("egocentric", "charades_video"), ("charades_video", "egocentric")])
@pytest.mark.parametrize("place", [10, 11])
def test_charades_ego(tmp_path, more, place):
    """Version 0 has Charades' columns; version 1 two more, before or after the length. Lengths may be empty."""
    header = [*CHARADES_COLUMNS[:place], *more, *CHARADES_COLUMNS[place:]]
    values = {"egocentric": "Yes", "charades_video": "07E49", "subject": "S"}
    videos = [
        ("07E49EGO", "c001 2.3333333333333335 9.12345678901;c000 0.0 40", ""),
        ("07E49", "c000 1.5416666666666667 5", "3.25"),
    ]
    lines = [
        ",".join(({**values, "id": name, "actions": actions, "length": length}).get(one, "") for one in header)
        for name, actions, length in videos
    ]
    (tmp_path / "classes.txt").write_text("c000 Sitting\nc001 Eating\n")
    (tmp_path / "train.csv").write_text("\r\n".join([",".join(header), *lines, ""]))
    (tmp_path / "test.csv").write_text(",".join(header) + "\n")
    table = read_charades(*(tmp_path / name for name in ("train.csv", "test.csv", "classes.txt")))
    assert table.videos.video_id.tolist() == ["07E49EGO", "07E49"]
    np.testing.assert_array_equal(table.videos.length_seconds, [np.nan, 3.25])
    assert rows(table) == [
        ("07E49EGO", "Eating", 2.3333333333333335, 9.12345678901),
        ("07E49EGO", "Sitting", 0, 40),
        ("07E49", "Sitting", 1.5416666666666667, 3.25),
    ]
    assert table.notes["cut_at_end"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:01.89", 1.89),
        ("01:02:03", 3723),
        ("0:59:59.999", 3599.999),
        ("100:00:00", 360_000),
        ("1.5416666666666667", 37 / 24),
        ("8.5e-05", 8.5e-05),
    ],
)
def test_times(tmp_path, text, seconds):
    assert rows(plain(tmp_path, f"{HEADER}\na,train,{text},500000,wave\n")) == [("a", "wave", seconds, 500_000)]


@pytest.mark.parametrize("text", ["1:30", "00:60:00", "00:00:60", "0:1:2", "00:00:01,5", "-00:00:01", "1:00:00:00"])
def test_times_with_two_readings_or_none(tmp_path, text):
    with pytest.raises(AnnotationError, match=r"labels\.csv, line 2, column start: .*hh:mm:ss such as 00:01:30\.5"):
        plain(tmp_path, f'{HEADER}\na,train,"{text}",500000,wave\n')


LINES = [HEADER, "a,train,0.5,1.25,Grüßen", "b,test,10,20.125,wave", "c,test,,,", ""]
RIGHT = [("a", "Grüßen", 0.5, 1.25), ("b", "wave", 10, 20.125)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")])
def test_what_has_one_reading_is_read(tmp_path, encoding, end, delimiter, decimal):
    lines = [line.replace(",", delimiter).replace(".", decimal) for line in LINES]
    table = plain(tmp_path, end.join(lines).encode(encoding))
    assert rows(table) == RIGHT and table.videos.split.tolist() == ["train", "test", "test"]


def test_big_endian_and_a_class_list_with_other_ends(tmp_path):
    assert rows(plain(tmp_path, "\ufeff".encode("utf-16-be") + "\n".join(LINES).encode("utf-16-be"))) == RIGHT
    for classes in ("wave\rGrüßen\r", "wave\r\nGrüßen", "wave\nGrüßen\n".encode("utf-16")):
        assert rows(plain(tmp_path, "\n".join(LINES), classes)) == RIGHT
    (tmp_path / "classes.txt").write_bytes("wave\nGrüßen\n".encode("cp1252"))
    with pytest.raises(AnnotationError, match=r"classes\.txt, line 2, column all: .*expected UTF-8"):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\r\nvideo_id;split;start;end;label\r\na;train;0,5;1,25;Grüßen\r\nb;test;10;20,125;wave\r\n;;;;\r\n;;;;\r\n",
        "video_id ,split,start,end,label  \na ,train ,0.5 ,1.25 ,Grüßen  \nb,test,10,20.125,wave\n",
        '"video_id","split","start","end","label"\n"a","train","0.5","1.25","Grüßen"\nb,test,10,20.125,wave\n\n\n',
        "video_id\tsplit\tstart\tend\tlabel\na\ttrain\t00:00:00,5\t00:00:01,250\tGrüßen\nb\ttest\t10\t20,125\twave\n",
    ],
)
def test_quirks_of_spreadsheets(tmp_path, content):
    assert rows(plain(tmp_path, content)) == RIGHT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{SEMICOLONS}\na;train;1,234;2;wave\n", "line 2, column start: '1,234'; .*also be a thousand"),
        (f"{SEMICOLONS}\na;train;1;2,5;wave\nb;test;1.5;2;wave\n", "line 2, column end: .*as in line 3"),
        (f"{SEMICOLONS}\na;train;0,5;1.234,5;wave\n", "line 2, column start: .*as in line 2"),
        (f"{HEADER}\na,train,\"0,5\",1,wave\n", "line 2, column start: '0,5'; expected seconds"),
        (f"{HEADER}\na,train,0,5,1,wave\n", "line 2, .*got 6"),
        ("video_id|split|start|end|label\n", r"line 1, column header: 'video_id\|split"),
        (f"{HEADER}\n,,,,\na,train,0,1,wave\n", "line 2, .*5 columns, got 5 empty ones"),
        (f"sep=;\n{SEMICOLONS}\na;train;0;x;wave\n", "line 3, column end: 'x'"),
        (f"{HEADER}\na,train,0,1,Größen\n".encode("cp1252"), "line 2, column label: .*other than UTF-8"),
        (f"{HEADER}\na,train,0,1,Гру\n".encode("cp1251"), "line 2, column label: 'Ãðó'"),
        (f"{HEADER}\na,train,0,1,wave\n".encode("utf-16-le"), "line 1, .*'a NUL byte'"),
        (f"{HEADER}\n1.50E+08,train,0,1,wave\n", "line 2, .*makes such a number of an id"),
        (f"{SEMICOLONS}\n1,50E+08;train;0;1;wave\n", "line 2, .*makes such a number of an id"),
        (f"{HEADER}\n#NAME?,train,0,1,wave\n", "line 2, .*makes such a number of an id"),
        (f"{HEADER}\n07/03/2026,train,0,1,wave\n", "line 2, .*makes such a date of an id"),
    ],
)  # fmt: skip
def test_what_has_two_readings_is_refused(tmp_path, content, words):
    with pytest.raises(AnnotationError, match=rf"labels\.csv, {words}"):
        plain(tmp_path, content)


def test_ids_that_a_spreadsheet_made(tmp_path):
    """They are pointed out where no file has the name; an id of the kind with a file is an id."""
    for text in ("07.Mrz", "7-Mar", "Mar-07", "07. Mär", "1-juil", "2011-03-07"):
        assert "date" in spreadsheet_hint(text), text
    for text in ("1.50E+08", "1,5E+10", "150E6", "#NAME?", "#REF!"):
        assert "number" in spreadsheet_hint(text), text
    for text in ("07E49EGO", "00607", "kitchen01", "a-b_c.d", "march-past", "12-cats", "1-2"):
        assert spreadsheet_hint(text) == "", text
    with pytest.raises(VideoMissing, match=r"no 07\.Mrz\.<mp4.*; a spreadsheet makes such a date of an id"):
        find_video(tmp_path, "07.Mrz")
    (tmp_path / "07.Mrz.mp4").touch()
    assert find_video(tmp_path, "07.Mrz") == tmp_path.resolve() / "07.Mrz.mp4"


def test_prepare_points_them_out(tmp_path):
    plain(tmp_path, f"{HEADER}\n07.Mrz,train,,,wave\nx,test,,,wave\n")
    files = {"annotations": (str(tmp_path / "labels.csv"),), "classes": str(tmp_path / "classes.txt")}
    (tmp_path / "videos").mkdir()
    words = r"2 annotated videos have no file in .*: 07\.Mrz \(a spreadsheet makes such a date of an id, .*\), x \("
    with pytest.raises(StageError, match=words):
        prepare.run(Config("quirks", Data(**files, videos=str(tmp_path / "videos"))), tmp_path / "run")


def splits(tmp_path, lines: str, **settings) -> dict:
    plain(tmp_path, f"{HEADER}\n{lines}\n")
    files = {"annotations": (str(tmp_path / "labels.csv"),), "classes": str(tmp_path / "classes.txt")}
    table = read_annotations(Data(**files, **settings))
    assert set(table.actions.video_id) <= set(table.videos.video_id)
    assert table.video_targets(table.videos.video_id.tolist()).sum() == len(table.videos)
    return dict(zip(table.videos.video_id, table.videos.split, strict=True))


THREE = "a,train,,,wave\nb,val,,,wave\nc,test,,,wave\nd,val,0,1,wave"


def test_splits_are_chosen(tmp_path, caplog):
    assert splits(tmp_path, THREE) == {"a": "train", "c": "test"}
    assert (
        "2 videos are of splits that are neither trained on nor evaluated: val (2), train (1), test (1)" in caplog.text
    )
    caplog.clear()
    assert splits(tmp_path, THREE, eval_splits=("val",)) == {"a": "train", "b": "test", "d": "test"}
    both = splits(tmp_path, THREE, train_splits=("train", "val"))
    assert both == {"a": "train", "b": "train", "c": "test", "d": "train"}
    assert splits(tmp_path, THREE, train_splits=("test",), eval_splits=("train",)) == {"a": "test", "c": "train"}
    assert splits(tmp_path, THREE, eval_ids=("b",)) == {"a": "train", "b": "test", "c": "test"}
    named = splits(tmp_path, "a,fold 1,,,wave\nb,fold 2,,,wave", train_splits=("fold 1",), eval_splits=("fold 2",))
    assert named == {"a": "train", "b": "test"}
    assert splits(tmp_path, "a,train,,,wave") == {
        "a": "train"
    }  # as before: nothing can be evaluated, which prepare says


@pytest.mark.parametrize(
    ("lines", "settings", "words"),
    [
        (THREE, {"eval_splits": ("valid",)}, r"data\.eval_splits: 'valid' is no split .* have val \(2\)"),
        ("a,train,,,wave\nb,val,,,wave", {}, r"data\.eval_splits: 'test' is no split .* have train \(1\), val \(1\)"),
        ("a,training,,,wave", {}, r"data\.train_splits: 'train' is no split .* have training \(1\)"),
    ],
)  # fmt: skip
def test_a_split_that_is_not_there(tmp_path, lines, settings, words):
    with pytest.raises(StageError, match=words):
        splits(tmp_path, lines, **settings)


def test_no_split_is_both():
    config = load("miniature", ('data.train_splits=["train", "val"]',))
    assert config.data.train_splits == ("train", "val") and check_together(config)
    with pytest.raises(ConfigError, match=r"data\.eval_splits: expected other splits .* got 'train'"):
        load("miniature", ('data.eval_splits=["test", "train"]',))
