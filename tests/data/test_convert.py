"""Converters: the examples of the README, to the letter; and each rule with a small table of its own."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.data.convert.found import Told
from pipeline.data.convert.tables import READERS, convert, link_videos, read_names, write
from pipeline.data.plain_csv import read_plain
from pipeline.data.segments import Source
from pipeline.data.video.find import PLAIN_ID
from pipeline.errors import AnnotationError, StageError
from tests.helpers.readme import blocks, make_calls, text_of

# folder of the example: id, split, and (class, start, end) of each label; None: the whole video
EXAMPLES = {
    "activitynet": {"v_QOlSCBRmfWY": ("train", ("Ballet", 3.5, 41)), "v_x2aBcDeFgH0": ("val", ("Archery", 1, 2.5))},
    "charades-json": {
        "001YG": ("train", ("Sitting", 0, 12.9), ("Holding some clothes", 9.5, 31.2)),
        "005BU": ("test",),
        "00607": ("test", ("Sitting", 2, 4)),
    },
    "smarthome": {"P02T01C06": ("train", ("1", 2, 5)), "P03T02C06": ("test", ("0", 0, 3))},
    "path-label": {"a_1": ("train", ("0",)), "b2": ("train", ("1",)), "c3": ("val", ("1",))},
    "ucf101": {
        "v_ApplyEyeMakeup_g08_c01": ("train", ("ApplyEyeMakeup",)),
        "v_YoYo_g08_c02": ("train", ("YoYo",)),
        "v_YoYo_g01_c01": ("test", ("YoYo",)),
    },
    "epic": {
        "P01_01": ("train", ("open", 0.14, 3.37), ("turn-on", 4.37, 3606.17)),
        "P01_11": ("val", ("take", 0, 1.89)),
    },
    "epic-segments": {
        "P01_01_0": ("train", ("open door",)),
        "P01_01_1": ("train", ("turn-on light",)),
        "P01_11_0": ("val", ("take plate",)),
    },
    "ava": {
        "1j20qq1JyX4": ("train", ("stand", 1.5, 3.5), ("stand", 4.5, 5.5)),
        "5BDj0ow5hnA": ("val", ("talk to (e.g., self, a person)", 1.5, 2.5)),
    },
    "assembly101": {
        "nusar-2021_9011-a01_C10095_rgb": ("train", ("inspect wheel", 1, 2.5)),
        "nusar-2021_9012-b02_C10095_rgb": ("train", ("pick up chassis", 0, 1.5)),
    },
    "assembly101-segments": {
        "nusar-2021_9011-a01_C10095_rgb_0001": ("train", ("inspect wheel",)),
        "nusar-2021_9012-b02_C10095_rgb_0001": ("train", ("pick up chassis",)),
    },
    "kinetics": {
        "3-3vp_OpAY8_000059_000069": ("val", ("abseiling",)),
        "zzH8g2Qxx_A_000040_000050": ("val", ("zumba",)),
    },
    "wlasl": {"69241": ("train", ("book",)), "07068": ("val", ("book", 1, 3))},
}  # fmt: skip


EPIC = "video_id,start_timestamp,stop_timestamp,verb,verb_class\n"


def section() -> str:
    text = text_of("pipeline/data/README.md")
    start = text.index("## Convert other data sets")
    return text[start : text.index("\n## ", start)]


def example_files() -> dict[str, str]:
    """The files of the page by name."""
    _, *parts = re.split("^== (.+)\n", blocks(section(), "text")[0], flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def read_back(labels: Path) -> dict:
    """What `prepare` reads: by id the split and the labels, as EXAMPLES has them."""
    table = read_plain(labels, labels.with_name("classes.txt"))
    found = {row.video_id: (row.split,) for row in table.videos.itertuples()}
    for row in table.actions.itertuples():
        times = () if np.isinf(row.end) else (row.start, row.end)
        found[row.video_id] += ((table.classes[row.class_index], *times),)
    return found


def test_the_examples_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in example_files().items():
        Path(name).write_text(content)
    for folder, name in (("clips/abseiling", "a 1.mp4"), ("UCF-101/YoYo", "v_YoYo_g01_c01.avi")):
        Path(folder).mkdir(parents=True)
        Path(folder, name).write_text(name)
    kinds = set()
    for arguments in make_calls(blocks(section(), "sh")[0]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        kinds.add(arguments[arguments.index("--from") + 1])
    assert kinds == set(READERS)
    assert {path.parent.name: read_back(path) for path in tmp_path.glob("*/labels.csv")} == EXAMPLES
    assert Path("epic/classes.txt").read_text().split() == ["take", "open", "turn-on"]  # by number: 0, 3, 6
    lines = Path("epic-segments/labels.csv").read_text().splitlines()
    assert lines[:2] == ["video_id,split,start,end,label,segment_id", "P01_01,train,0.14,3.37,open door,P01_01_0"]
    sources = read_plain(Path("assembly101-segments/labels.csv"), Path("assembly101-segments/classes.txt")).sources
    assert sources["nusar-2021_9011-a01_C10095_rgb_0001"] == Source(
        "nusar-2021_9011-a01_C10095_rgb", "nusar-2021_9011-a01/C10095_rgb.mp4", 1.0, 2.5
    )
    assert Path("path-label/videos/a_1.mp4").read_text() == "a 1.mp4"
    assert Path("ucf101/videos/v_YoYo_g01_c01.avi").read_text() == "v_YoYo_g01_c01.avi"


def test_a_folder_a_class(tmp_path):
    """Ids are names of files, with their folder where two are alike; a fifth of each class is test, at least one."""
    for name in (
        "pour/1.mp4",
        "pour/2.MP4",
        "stir/1.mp4",
        "stir/ä b..c.mov",
        "stir/.x.mp4",
        "stir/notes.txt",
        "one/z.avi",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    tables = convert("folders", [str(tmp_path / "in")], Told())
    assert tables.files == {
        **{"pour_1": "pour/1.mp4", "2": "pour/2.MP4", "stir_1": "stir/1.mp4", "z": "one/z.avi"},
        "ä_b_.c": "stir/ä b..c.mov",
    }
    write(tables, tmp_path / "labels.csv")
    found = read_back(tmp_path / "labels.csv")
    assert {name: labels for name, (_, *labels) in found.items()} == {
        **{"pour_1": [("pour",)], "2": [("pour",)], "stir_1": [("stir",)], "ä_b_.c": [("stir",)], "z": [("one",)]}
    }
    splits = {name: split for name, (split, *_) in found.items()}
    assert [sorted((splits[a], splits[b])) for a, b in (("pour_1", "2"), ("stir_1", "ä_b_.c"))] == [
        ["test", "train"]
    ] * 2
    assert splits["z"] == "train" and convert("folders", [str(tmp_path / "in")], Told()) == tables
    assert link_videos(tables, tmp_path / "in", tmp_path / "videos") == (5, False)
    assert link_videos(tables, tmp_path / "in", tmp_path / "videos") == (5, False)  # again: they are there
    assert sorted(os.listdir(tmp_path / "videos")) == ["2.mp4", "pour_1.mp4", "stir_1.mp4", "z.avi", "ä_b_.c.mov"]
    assert os.path.samefile(tmp_path / "in/stir/1.mp4", tmp_path / "videos/stir_1.mp4")
    with pytest.raises(StageError, match=r"labels\.csv is there already; move it away"):
        write(tables, tmp_path / "labels.csv")
    (tmp_path / "videos/2.mp4").unlink()
    (tmp_path / "videos/2.mp4").write_text("another")
    with pytest.raises(StageError, match=r"2\.mp4 is there and is not .*2\.MP4; use another --videos"):
        link_videos(tables, tmp_path / "in", tmp_path / "videos")
    assert (tmp_path / "videos/2.mp4").read_text() == "another"


def test_a_folder_a_split(tmp_path):
    for name in ("train/wave/a.mp4", "val/wave/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert convert("folders", [str(tmp_path)], Told()).labels == [
        ("a", "train", "", "", "wave"),
        ("b", "val", "", "", "wave"),
    ]
    (tmp_path / "c.mp4").touch()
    with pytest.raises(AnnotationError, match=r"c\.mp4; expected CLASS/VIDEO or SPLIT/CLASS/VIDEO"):
        convert("folders", [str(tmp_path)], Told())


def test_ids_of_files(tmp_path):
    """Letters of any language stay, so that names in them differ; all folders stand before where one is too few."""
    paths = ["a/два.mp4", "a/три.mp4", "a/कि.mp4", "a/की.mp4", f"a/{'長' * 60}.mp4", "a/(%).mp4"]
    paths += ["train/pour/1.mp4", "test/pour/1.mp4", "train/stir/2.mp4", "train/pour/2.mp4"]
    (tmp_path / "list").write_text("".join(f"{path} 0\n" for path in paths), encoding="utf-8")
    assert list(convert("path-label", [str(tmp_path / "list")], Told()).files) == [
        *("два", "три", "कि", "की", f"v{'_' * 60}", "v___"),
        *("train_pour_1", "test_pour_1", "stir_2", "pour_2"),
    ]


def net(tmp_path, **videos) -> str:
    """An ActivityNet file of split and (label, start, end) by id."""
    entries = {
        name: {"subset": split, "annotations": [{"label": one[0], "segment": one[1:]} for one in labels]}
        for name, (split, *labels) in videos.items()
    }
    (tmp_path / "net.json").write_text(json.dumps({"database": entries}))
    return str(tmp_path / "net.json")


def test_what_is_left_out_is_said(tmp_path):
    source = net(
        tmp_path,
        a=("training", ("wave", 1, 2), ("wave", 1, 2), ("sit", 5, 4)),
        b=("training", ("wave", -1, 2), ("wave", 3, 3)),
        c=("training",),
        d=("testing",),
        e=("testing",),
        **{"f/g": ("training", ("wave", 1, 2))},
        h=("training", ("wave", 9, 3)),
    )
    tables = convert("activitynet", [source], Told())
    assert tables.labels == [
        ("a", "train", "1", "2", "wave"),
        ("b", "train", "0", "2", "wave"),
        ("b", "train", "3", "3", "wave"),
        ("c", "train", "", "", ""),
    ]
    assert tables.classes == ["wave"] and tables.num_left_out == 4
    assert [note.split(" (")[0] for note in tables.notes] == [
        f"left out 1 labels: their video's id is not {PLAIN_ID}",
        "left out 2 videos of test: none of them has a label",
        "left out 2 labels: they end before their start",
        "1 labels start before 0: they start at 0",
        "left out 1 labels: the same as another",
    ]
    assert f"(the first: {source}, f/g)" in tables.notes[0]
    result = CliRunner().invoke(
        main, ["convert", "--from", "activitynet", source, "--out", str(tmp_path / "labels.csv")]
    )
    assert result.exit_code == 3 and "left out 2 videos of test" in result.output
    assert "3 videos (3 train), 3 labels of 1 classes" in result.output


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("activitynet", '{"database": {"a": {}, "a": {}}}', r"source, 'a': comes twice in one object"),
        ("activitynet", '{"database": [1]}', r"source, database: \[1\]; expected otherwise: .* an object"),
        ("activitynet", '{"database": {\n"a": }}', r"source, line 2, column all: 'Expecting value'; expected JSON"),
        ("activitynet", '{"database": {"a": {"annotations": [{"label": "x", "segment": [1, NaN]}]}}}', r"segment\.1"),
        ("activitynet", '{"database": {"a": {"annotations": [{"label": "x", "segment": [1]}]}}}', r"segment\.1"),
        ("activitynet", '{"database": {"A": {"subset": "x"}, "a": {"subset": "x"}}}', "a and A .* are both a"),
        ("activitynet", '{"database": {"a": {"annotations": [{"label": "\\u0000", "segment": [1, 2]}]}}}', "printable"),
        ("activitynet", "{}", "source, database: {}; expected otherwise: Field required"),
        ("activitynet", '{"database": {}}', "source: no video in it"),
        ("charades-json", '{"a": {"subset": "training", "actions": [["x", 1, 2]]}}', r"a\.actions\.0\.0: 'x'"),
        ("charades-json", '{"a": {"actions": []}}', r"source, a\.subset: "),
        ("path-label", "a.mp4 0\nframes/b 163 1\n", r"line 2, .*'frames/b 163 1'; expected the path of a video"),
        ("path-label", "a.mp4\n", "source, line 1, .*a blank and its class"),
        ("path-label", "x/a.mp4 0\nx/a.mov 1", r"line 2: x/a\.mov and x/a\.mp4 .*are both x_a"),
        ("folders", "YoYo/a.avi 1\nb.avi\n", r"line 2: b\.avi; expected CLASS/VIDEO"),
        ("epic", "video_id,verb\na,b\n", "line 1, column header: 'video_id,verb'; expected video_id,start_timestamp"),
        ("epic", f"{EPIC}P01,1:30,00:02:00,open,3", "line 2, column start"),
        ("epic", f"{EPIC}P01,00:00:01,00:02:00,open,x", "column verb_class"),
        ("assembly101", "video,start_frame,end_frame,verb_cls\na/b.mp4,x,2,w", "line 2, column start_frame: 'x'"),
        ("ava", "a,0902,0,0,1,1\n", "line 1, .*got 6"),
        ("ava", "a,0902,0,0,1,1,x,0\n", "line 1, column action_id: 'x'"),
        ("ava", "a,-1,0,0,1,1,1,0\n", "line 1, column second: '-1'"),
        ("kinetics", "label,youtube_id,time_start,time_end,split\nx,a,0,z,train", "line 2, column time_end: 'z'"),
        ("wlasl", '[{"gloss": "a", "instances": [{"video_id": "1"}]}]', r"0\.instances\.0\.split"),
        ("wlasl", '[{"gloss": "a", "instances": [{"video_id": 1, "split": "train"}]}]', r"video_id: 1; expected"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_named(tmp_path, kind, content, words):
    (tmp_path / "source").write_text(content)
    with pytest.raises((AnnotationError, StageError), match=words) as error:
        convert(kind, [str(tmp_path / "source")], Told(unit="seconds", label="verb"))
    assert "\n" not in str(error.value)


def test_what_must_be_told(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"subset": "training", "actions": [[0, 1, 2]]}}')
    for told in (Told(), Told(unit="frames")):
        with pytest.raises(StageError, match=r"a\.json does not say what its times are: --unit seconds .* --fps N"):
            convert("charades-json", [str(tmp_path / "a.json")], told)
    for source in ("gone.txt", "train=gone.txt", str(tmp_path)):
        with pytest.raises(StageError, match="expected a file, or SPLIT=FILE; there is none"):
            convert("path-label", [source], Told())
    (tmp_path / "list").write_text("x/a.mp4 0\n")
    with pytest.raises(AnnotationError, match=r"a\.mp4 is in 'val'; expected 'train', as .*list, line 1"):
        convert("path-label", [f"train={tmp_path}/list", f"val={tmp_path}/list"], Told())
    result = CliRunner().invoke(main, ["convert", "--from", "wlasl", "x", "--out", "l.csv", "--videos", "v"])
    assert result.exit_code == 2 and "only path-label, folders, assembly101 say where videos are" in result.output


def test_segments_of_a_video_are_numbered_by_their_times(tmp_path):
    """Labels of the same times are one segment; those without length are left out."""
    annotations = [("b", 5, 6), ("a", 1.5, 2), ("c", 5, 6), ("a", 3, 3)]
    found = [{"label": label, "segment": [start, end]} for label, start, end in annotations]
    database = {"database": {"v": {"subset": "training", "annotations": found}, "w": {"subset": "training"}}}
    (tmp_path / "a.json").write_text(json.dumps(database))
    tables = convert("activitynet", [str(tmp_path / "a.json")], Told(), segments=True)
    assert tables.labels == [
        ("v", "train", "5", "6", "b", "v_0002"),
        ("v", "train", "1.5", "2", "a", "v_0001"),
        ("v", "train", "5", "6", "c", "v_0002"),
    ]
    assert (
        tables.notes[0].startswith("left out 2 labels: they have no times, or no length") and tables.num_left_out == 1
    )


def test_links_stay_below_the_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "root/list").write_text("../a.mp4 0\n")
    tables = convert("path-label", [str(tmp_path / "root/list")], Told())
    with pytest.raises(StageError, match=r"a\.mp4 is not in .*root; --root says"):
        link_videos(tables, tmp_path / "root", tmp_path / "videos")


def test_folders_of_several_splits(tmp_path):
    """Paths start where all folders are: files of one name stay two, and each is linked."""
    for name in ("train/wave/a.mp4", "val/wave/a.mp4", "val/wave/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    sources = [f"train={tmp_path}/train", f"val={tmp_path}/val/"]
    arguments = ["convert", "--from", "folders", *sources, "--videos", str(tmp_path / "videos")]
    assert CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "labels.csv")]).exit_code == 0
    found = {path.stem: path.read_text() for path in (tmp_path / "videos").iterdir()}
    assert found == {"train_wave_a": "train/wave/a.mp4", "val_wave_a": "val/wave/a.mp4", "b": "val/wave/b.mp4"}
    assert read_back(tmp_path / "labels.csv").keys() == found.keys()


def test_paths_of_a_list_start_in_its_root(tmp_path):
    """Absolute ones, and those of Windows, become what `prepare` takes; one that leads out of the root is refused."""
    (tmp_path / "list").write_text(f"x\\a.mp4 0\n{tmp_path}/videos/x/b.mp4 0\n./c.mp4 0\n")
    arguments = ["convert", "--from", "path-label", str(tmp_path / "list"), "--out", str(tmp_path / "out/labels.csv")]
    result = CliRunner().invoke(main, [*arguments, "--root", str(tmp_path / "other")])
    assert result.exit_code == 4 and "x/b.mp4 is not in" in result.output and not (tmp_path / "out").exists()
    assert CliRunner().invoke(main, [*arguments, "--root", str(tmp_path / "videos")]).exit_code == 0
    sources = read_plain(tmp_path / "out/labels.csv", tmp_path / "out/classes.txt").sources
    assert [source.path for source in sources.values()] == ["x/a.mp4", "x/b.mp4", "c.mp4"]
    (tmp_path / "list").write_text("wave\\a.mp4\n")
    assert convert("folders", [str(tmp_path / "list")], Told()).labels[0][4] == "wave"


def test_links_to_another_disk_are_symbolic(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "clips/wave").mkdir(parents=True)
    (tmp_path / "clips/wave/a.mp4").touch()
    monkeypatch.setattr(os, "link", refuse)
    arguments = ["--from", "folders", str(tmp_path / "clips"), "--out", str(tmp_path / "labels.csv")]
    result = CliRunner().invoke(main, ["convert", *arguments, "--videos", str(tmp_path / "videos")])
    assert result.exit_code == 0 and "the links are symbolic: set data.follow_links = true" in result.output
    assert (tmp_path / "videos/a.mp4").readlink() == tmp_path.resolve() / "clips/wave/a.mp4"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "wave\nsit down\n\n", {"0": "wave", "1": "sit down"}),
        ("a.txt", "1 wave\n2 sit down\n", {"1": "wave", "2": "sit down"}),
        ("a.txt", "c000 wave\nc001 3 point shot\n", {"0": "wave", "1": "3 point shot"}),
        ("a.txt", "wave\n3 point shot\n", {"0": "wave", "1": "3 point shot"}),
        ("a.csv", "id,key,instances\n0,take,\"['a']\"\n2,put,\n", {"0": "take", "2": "put"}),
        ("a.pbtxt", 'label {\n  name: "bend"\n  label_id: 1\n  label_type: X\n}\n', {"1": "bend"}),
    ],
)
def test_names_of_classes(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert read_names(tmp_path / name) == expected


def test_classes_by_number(tmp_path):
    """In the order of numbers, not of text; the most frequent name; a name that two share has its number behind."""
    lines = EPIC
    for verb, number in (("take", 10), ("grab", 2), ("grab", 2), ("fetch", 2), ("take", 3)):
        lines += f"v{number},0,1,{verb},{number}\n"
    (tmp_path / "epic.csv").write_text(lines)
    told = Told(label="verb")
    tables = convert("epic", [str(tmp_path / "epic.csv")], told)
    assert tables.classes == ["grab", "take (3)", "take (10)"]
    assert [row[4] for row in tables.labels] == ["take (10)", "grab", "take (3)"]
    (tmp_path / "names.csv").write_text("id,key\n2,get\n3,put\n10,cut\n11,never\n")
    tables = convert("epic", [str(tmp_path / "epic.csv")], told, tmp_path / "names.csv")
    assert tables.classes == ["get", "put", "cut", "never"] and tables.labels[0][4] == "cut"
    (tmp_path / "names.csv").write_text("id,key\n2,get\n")
    with pytest.raises(AnnotationError, match=r"line 2: class '10'; expected one of the 1 of --names"):
        convert("epic", [str(tmp_path / "epic.csv")], told, tmp_path / "names.csv")
