"""Annotations: strict reading by hand, refusals by name, targets, the real files' counts, and the writer."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.charades_csv import charades_row, read_charades, write_charades_csv
from pipeline.data.plain_csv import labels_csv, read_plain
from pipeline.data.strict_csv import read_classes
from pipeline.errors import AnnotationError

SHARED = Path(__file__).parents[3] / "shared/data/charades"
HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"c000 Holding some clothes\r\nc001 Sitting\r\nc002 Eating\r\n")
    return path


def charades(tmp_path, classes, train, test="T,,,,,,,,,c002 0.00 1.00,5.00"):
    for name, lines in (("train.csv", train), ("test.csv", test)):
        content = lines if isinstance(lines, bytes) else f"{HEADER}\r\n{lines}\r\n".encode()
        (tmp_path / name).write_bytes(content)
    return read_charades(tmp_path / "train.csv", tmp_path / "test.csv", classes)


def plain(tmp_path, lines, header="video_id,split,start,end,label"):
    (tmp_path / "labels.txt").write_text("wave\nsit down\nNA\n")
    (tmp_path / "plain.csv").write_text(f"{header}\n{lines}\n")
    return read_plain(tmp_path / "plain.csv", tmp_path / "labels.txt")


def test_charades_by_hand(tmp_path, classes):
    lines = [
        '07E49,S,Kitchen,6,7,Yes,"One, ""two""",a;b,"x\r\ny",c001 2.50 9.00;c000 0.00 4.00;c001 0.50 1.00,8.00',
        "150E6,,,,,,,,,,3.5",
        "NA,,,,,,,,,c002 3.00 1.00;c001 6.00 9.00;c000 1 1,6.00",
    ]
    table = charades(tmp_path, classes, "\r\n".join(lines))
    assert table.classes == ["Holding some clothes", "Sitting", "Eating"]
    assert table.videos.to_dict("list") == {
        "video_id": ["07E49", "150E6", "NA", "T"],
        "split": ["train", "train", "train", "test"],
        "length_seconds": [8.0, 3.5, 6.0, 5.0],
    }
    assert table.actions["video_id"].tolist() == ["07E49"] * 3 + ["NA"] * 3 + ["T"]
    assert table.actions["class_index"].tolist() == [1, 0, 1, 2, 1, 0, 2]
    nan = np.nan
    np.testing.assert_array_equal(table.actions["start"], [2.5, 0, 0.5, nan, nan, 1, 0])
    np.testing.assert_array_equal(table.actions["end"], [8, 4, 1, nan, nan, 1, 1])
    assert table.notes == {"unlabelled": 1, "reversed": 1, "past_the_end": 1, "cut_at_end": 1}


def test_targets_by_hand(tmp_path, classes):
    lines = "A,,,,,,,,,c001 2.50 9.00;c000 0.00 4.00;c001 0.50 1.00,8.00\nB,,,,,,,,,c002 3.00 1.00,6.00\nC,,,,,,,,,,6"
    table = charades(tmp_path, classes, lines)
    # a reversed action labels its video and none of its frames
    assert table.video_targets(["T", "B", "C", "A"]).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]
    times = [0.0, 0.5, 1.0, 1.01, 2.5, 4.0, 4.01, 8.0, 8.01]
    targets = table.frame_targets("A", np.array(times))
    assert targets.dtype == np.uint8 and table.video_targets(["A"]).dtype == np.uint8
    assert targets[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert targets[:, 1].tolist() == [0, 1, 1, 0, 1, 1, 1, 1, 0]
    assert not targets[:, 2].any()
    assert table.frame_targets("B", [1, 2, 3]).tolist() == [[0, 0, 0]] * 3
    assert table.frame_targets("C", [1.0]).tolist() == [[0, 0, 0]]
    for call in (lambda: table.video_targets(["A", "X"]), lambda: table.frame_targets("X", [0.0])):
        with pytest.raises(KeyError, match="X"):
            call()


def test_a_moment_labels_the_frame_on_screen(tmp_path):
    """Of frames at 0, 0.5, 1 and 1.5 s that at 0.5, of a moment at 0.74 s; of none where the clip does not show it."""
    table = plain(tmp_path, "a,train,0.74,0.74,wave\na,train,1.5,1.5,NA\na,train,2,2,sit down")
    assert table.notes["reversed"] == 0 and table.video_targets(["a"]).tolist() == [[1, 1, 1]]
    wanted = [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert table.frame_targets("a", [0, 0.5, 1, 1.5]).tolist() == wanted
    assert table.frame_targets("a", [0.5, 1, 1.5, 1.5]).tolist() == [*wanted[1:], wanted[3]]  # its last frame again
    assert table.frame_targets("a", [0, 0.25]).tolist() == [[0, 0, 0]] * 2
    assert table.frame_targets("a", [1.5, 1.75]).tolist() == [[0, 0, 1], [0, 0, 0]]


def test_ordinary_tables_are_read(tmp_path):
    """Numbers as pandas writes them, ids of YouTube, blank last lines, accents in either form."""
    (tmp_path / "labels.txt").write_text("caf\u00e9\nwave\n\n\n")
    lines = f"-1vQ_x,train,{37 / 24},{1e-05 + 2!r},cafe\u0301\n_a,test,1e-05,2.5E0,wave\n\n\r\n"
    (tmp_path / "plain.csv").write_text(f"video_id,split,start,end,label\n{lines}", newline="")
    table = read_plain(tmp_path / "plain.csv", tmp_path / "labels.txt")
    assert table.classes == ["caf\u00e9", "wave"] and table.videos.video_id.tolist() == ["-1vQ_x", "_a"]
    assert table.actions.class_index.tolist() == [0, 1]
    assert table.actions.start.tolist() == [37 / 24, 1e-05] and table.actions.end.tolist() == [2.00001, 2.5]
    (tmp_path / "again.csv").write_bytes(labels_csv(table))
    again = read_plain(tmp_path / "again.csv", tmp_path / "labels.txt")
    assert again.actions.equals(table.actions)  # to the last bit
    (tmp_path / "labels.txt").write_text("caf\u00e9\ncafe\u0301\n")
    with pytest.raises(AnnotationError, match=r"line 2, .*expected no name twice; line 1 has it, too"):
        read_classes(tmp_path / "labels.txt")


def test_16_000_actions_of_one_video(tmp_path):
    lines = [f"a,train,{number / 2},{number / 2 + 3},wave" for number in range(16_000)]
    table = plain(tmp_path, "\n".join(lines))
    assert labels_csv(table).count(b"\n") == 16_001 and len(table.actions) == 16_000


@pytest.mark.parametrize("change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\r\n", b"\n"), bytes.strip])
def test_byte_order_mark_and_line_ends(tmp_path, classes, change):
    content = f"{HEADER}\r\nA,,,,,,,,,c001 0 1,8\r\nnull,,,,,,,,,,00607\r\n".encode()
    table = charades(tmp_path, classes, change(content))
    assert table.videos["video_id"].tolist() == ["A", "null", "T"]
    assert table.videos["length_seconds"].tolist() == [8, 607, 5]


BAD_CHARADES = [
    ("A,,,,,,,,,,8\nA,,,,,,,,,,8", "line 3, column video id: 'A'; expected no id twice"),
    ("A,,,,,,,,,,8\na,,,,,,,,,,8", "line 3, column video id: 'a'; expected no id twice"),
    ("T,,,,,,,,,,8", "test.csv, line 2, column video id: 'T'"),
    ("A,,,,,,,,,8", "line 2, column all: .*expected 11 columns, got 10"),
    ("A,,,,,,,,,,8,", "expected 11 columns, got 12"),
    ("A,,,,,,,,,,8\n\nB,,,,,,,,,,8", "line 3, .*expected 11 columns, got 0"),
    ("../A,,,,,,,,,,8", r"column id: '\.\./A'"),
    (",,,,,,,,,,8", "column id: ''"),
    (" A,,,,,,,,,,8", "column id: ' A'"),
    ("A,,,,,,,,,,1e400", "column length: '1e400'"),
    ("A,,,,,,,,,,nan", "column length: 'nan'"),
    ("A,,,,,,,,,,-1", "column length: '-1'"),
    ("A,,,,,,,,,,\u0661", "column length"),
    ("A,,,,,,,,,c003 0 1,8", "column actions: 'c003 0 1'; expected .* below c003"),
    ("A,,,,,,,,,c01 0 1,8", "column actions: 'c01 0 1'"),
    ("A,,,,,,,,,c001 0,8", "column actions: 'c001 0'"),
    ("A,,,,,,,,,c001 0 1 2,8", "column actions: 'c001 0 1 2'"),
    ("A,,,,,,,,,c001  0 1,8", "column actions: 'c001  0 1'"),
    ("A,,,,,,,,,c001 x 1,8", "column actions: 'x'"),
    ('A,,,,,,"open,,,,8', "column all"),
    ('A,,,,,,"a"b,,,,8', "column all"),
    ("A,,,,,,\0,,,,8", "line 2, column all: 'a NUL byte'"),
    (f"{HEADER}\nA,,,,,,\xff,,,,8".encode("latin-1"), r"line 2, column all: b'\\xff'; expected UTF-8"),
    (b"", "line 1, column header"),
    (HEADER.replace("id,subject", "subject,id").encode(), "line 1, column header: 'subject,id"),
]


@pytest.mark.parametrize(("lines", "message"), BAD_CHARADES)
def test_charades_refusals(tmp_path, classes, lines, message):
    with pytest.raises(AnnotationError, match=message):
        charades(tmp_path, classes, lines)


@pytest.mark.parametrize(
    ("content", "line"),
    [("c000 a\nc002 b\n", 2), ("c001 a\n", 1), ("c000 a\n\nc001 b\n", 2), ("c000a\n", 1), ("c000 \n", 1), ("", 1)],
)
def test_class_files_are_refused(tmp_path, classes, content, line):
    classes.write_text(content)
    with pytest.raises(AnnotationError, match=rf"classes\.txt, line {line}, column class"):
        charades(tmp_path, classes, "A,,,,,,,,,,8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("c000 wave\nc001 jump\nc002 wave\n", "line 3, .*'c002 wave'; expected no name twice; line 1 has it, too"),
        ("c000  wave\nc001 jump\n", "line 1, .*expected 'c000 ' and a name without blanks around it"),
        ("c000 wave\nc001 \tjump\n", "line 2, .*expected 'c001 ' and a name"),
        ("c000 wave\nc001 \ufeffjump\n", "line 2, .*expected 'c001 ' and a name"),
    ],
)
def test_charades_names_that_the_snapshot_could_not_hold(tmp_path, classes, content, words):
    """What `prepare` copies to classes.txt must read back: later stages read that."""
    classes.write_text(content, encoding="utf-8")
    with pytest.raises(AnnotationError, match=words):
        charades(tmp_path, classes, "A,,,,,,,,,,8", test="T,,,,,,,,,,5.00")


def test_odd_names_read_back(tmp_path, classes):
    """From Charades to labels.csv and classes.txt and back."""
    names = ["a, b", 'says "x"', "NA", "=1+1", "c001 x", "ü\u00a0ü", "0.5", "a'b;c", "{}"]
    classes.write_text("".join(f"c{number:03d} {name}\n" for number, name in enumerate(names)), encoding="utf-8")
    lines = "\n".join(f"V{number},,,,,,,,,c{number:03d} 0 1,8" for number in range(len(names)))
    table = charades(tmp_path, classes, lines, test="T,,,,,,,,,,5.00")
    assert table.classes == names
    (tmp_path / "labels.csv").write_bytes(labels_csv(table))
    classes.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    again = read_plain(tmp_path / "labels.csv", classes)
    ids = table.videos.video_id.tolist()
    assert again.classes == names and (again.video_targets(ids) == table.video_targets(ids)).all()


def test_plain_by_hand(tmp_path):
    lines = "b,test,1.5,2,wave\na,train,,,NA\nb,test,0,9.25,sit down\nc,train,,,\nb,test,3,4,wave\nd,train,5,4,wave"
    table = plain(tmp_path, lines)
    assert table.classes == ["wave", "sit down", "NA"]
    assert table.videos["video_id"].tolist() == ["b", "a", "c", "d"]
    assert table.videos["split"].tolist() == ["test", "train", "train", "train"]
    assert table.videos["length_seconds"].isna().all()
    assert table.notes == {"unlabelled": 1, "reversed": 1, "past_the_end": 0, "cut_at_end": 0}
    assert table.video_targets(["a", "b", "c", "d"]).tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert table.frame_targets("b", [0, 1.5, 2.5, 3, 9.25, 9.5]).tolist() == [
        *([0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0])
    ]
    assert table.frame_targets("a", [0, 1e6]).tolist() == [[0, 0, 1]] * 2  # the whole video


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a,,1,2,wave", "line 2, column split: ''; expected a name, such as train, test"),
        ("a,Train,1,2,wave", "line 2, column split: 'Train'; expected a name, such as train, test"),
        ("a, val,1,2,wave", "line 2, column split: ' val'; expected a name, such as train, test"),
        ("a,train,1,2,wave\na,test,3,4,wave", "line 3, column split: 'test'; expected train"),
        ("a,train,1,2,wave\na,train,1,2,wave", "line 3, column video_id: 'a'; expected no line twice"),
        ("a,train,1,2,wave\na,train,,,", "line 3, column label: ''"),
        ("a,train,,,\na,train,1,2,wave", "line 3, column label: 'wave'"),
        ("a,train,,,\na,train,,,", "line 3, column video_id: 'a'"),
        ("a,train,1,2,", "line 2, column label: ''"),
        ("a,train,1,2,jump", "line 2, column label: 'jump'; expected one of the 3 lines of .*labels.txt"),
        ("a,train,1,,wave", "line 2, column end: ''"),
        ("a,train,,2,wave", "line 2, column start: ''"),
        ("a,train,-1,2,wave", "line 2, column start: '-1'"),
        ("a,train,1,inf,wave", "line 2, column end: 'inf'"),
        ("a,train,1,2,wave,", "expected 5 columns, got 6"),
        ("a,train,1,2,sit, down", 'got 6; put double quotes around a text that holds a comma: "a, b"'),
        ("a/b,train,1,2,wave", "line 2, column video_id: 'a/b'"),
        ("a,train,1,2,wave\nA,train,1,2,wave", "line 3, column video id: 'A'"),
    ],
)
def test_plain_refusals(tmp_path, lines, message):
    with pytest.raises(AnnotationError, match=message):
        plain(tmp_path, lines)


def test_plain_header_is_exact(tmp_path):
    with pytest.raises(AnnotationError, match="column header: 'video_id,split,end,start,label'"):
        plain(tmp_path, "a,train,1,2,wave", header="video_id,split,end,start,label")


def test_what_is_written_reads_back(tmp_path, classes):
    rows = [
        charades_row("150E6", [(2, 0.25, 1.5), (0, 0, 2)], 2.5, script='says "a, b"', scene="Kitchen"),
        charades_row("null", [], 3),
    ]
    write_charades_csv(tmp_path / "out.csv", rows)
    assert (tmp_path / "out.csv").read_bytes() == (
        HEADER.encode() + b'\r\n150E6,,Kitchen,,,,"says ""a, b""",,,c002 0.25 1.50;c000 0.00 2.00,2.50\r\n'
        b"null,,,,,,,,,,3.00\r\n"
    )
    write_charades_csv(tmp_path / "test.csv", [])
    table = read_charades(tmp_path / "out.csv", tmp_path / "test.csv", classes)
    assert table.actions.to_numpy().tolist() == [["150E6", 2, 0.25, 1.5], ["150E6", 0, 0, 2]]
    with pytest.raises(ValueError, match="weather"):
        write_charades_csv(tmp_path / "out.csv", [charades_row("a", [], 3, weather="rain")])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared Charades annotations")
def test_real_files():
    paths = [SHARED / f"Charades_v1_{name}" for name in ("train.csv", "test.csv", "classes.txt")]
    table = read_charades(*paths)
    assert len(table.classes) == 157 and table.classes[0] == "Holding some clothes"
    split = table.videos.set_index("video_id")["split"]
    assert split.value_counts().to_dict() == {"train": 7985, "test": 1863}
    assert split[["07E49", "150E6", "00607", "83654"]].notna().all()
    assert table.actions["video_id"].map(split).value_counts().to_dict() == {"train": 49809, "test": 16691}
    # 14596 + 5027 actions end after the video; the 5 that start after it are among the 7 reversed ones
    assert table.notes == {"unlabelled": 174 + 49, "reversed": 7, "past_the_end": 0, "cut_at_end": 14596 + 5027 - 5}
    targets = {name: table.video_targets(split.index[split == name]) for name in ("train", "test")}
    assert [round(float(targets[name].sum(1).mean()), 2) for name in ("train", "test")] == [6.10, 8.74]
    assert (targets["train"].sum(0).argmin(), targets["train"].sum(0).min()) == (101, 25)
    assert (targets["test"].sum(0).argmin(), targets["test"].sum(0).min()) == (45, 6)


def test_only_line_feeds_end_a_class(tmp_path):
    """Other characters that Unicode counts as breaks belong to the name, or are refused in it, but make no class."""
    (tmp_path / "classes.txt").write_bytes("new\u2028name\r\nother\n".encode())
    assert read_classes(tmp_path / "classes.txt") == ["new\u2028name", "other"]
