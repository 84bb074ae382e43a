"""Single labels: a video with two classes or none is refused by file and line, in every format and at every door."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Data
from pipeline.data.charades_csv import charades_row, write_charades_csv
from pipeline.data.label_files import read_annotations
from pipeline.data.plain_csv import labels_csv, read_plain
from pipeline.errors import AnnotationError


def plain(folder, *lines):
    """Data of a plain table with these lines below its header."""
    (folder / "table.csv").write_text("\n".join(["video_id,split,start,end,label", *lines]) + "\n")
    (folder / "classes.txt").write_text("red\ngreen\n")
    return Data("plain", "single_label", (str(folder / "table.csv"),), str(folder / "classes.txt"))


GOOD = ("a,train,0.5,1.5,red", "a,train,2,3,red", "b,test,,,green")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((*GOOD, "a,train,,,green"), r"table\.csv, line 5: a is 'red' and 'green'; expected one class a video"),
        ((*GOOD, "c,test,0,1,red", "c,test,1,2,green"), r"table\.csv, line 6: c is 'red' and 'green'"),
        ((*GOOD, "c,train,,,"), r"table\.csv, line 5: c has no label"),
        ((*GOOD, "c,test,,,", "d,train,,,red"), r"table\.csv, line 5: c has no label"),
    ],
)
def test_plain_tables(lines, message, tmp_path):
    data = plain(tmp_path, *lines)
    with pytest.raises(AnnotationError, match=message):
        read_annotations(data)
    assert read_annotations(replace(data, task="multi_label")).not_single
    assert len(read_annotations(plain(tmp_path, *GOOD)).videos) == 2


def test_videos_of_splits_that_are_not_chosen_may_have_any_labels(tmp_path):
    data = plain(tmp_path, *GOOD, "c,challenge,,,", "d,challenge,0,1,red", "d,challenge,0,1,green")
    assert read_annotations(data).videos.video_id.tolist() == ["a", "b"]
    with pytest.raises(AnnotationError, match=r"line 7: d is 'red' and 'green'"):
        read_annotations(replace(data, eval_splits=("challenge",)))
    with pytest.raises(AnnotationError, match=r"line 5: c has no label"):
        read_annotations(replace(data, eval_ids=("c",)))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("actions", "message"),
    [([(0, 0, 1), (1, 1, 2)], "b is 'red' and 'green'"), ([], "b has no label"), ([(1, 0, 1), (1, 2, 3)], None)],
)
def test_charades_tables(split, actions, message, tmp_path):
    for name in ("train", "test"):
        rows = [charades_row(f"a{name}", [(0, 0, 1)], 4)]
        rows += [charades_row("b", actions, 4)] if name == split else []
        write_charades_csv(tmp_path / f"{name}.csv", rows)
    (tmp_path / "classes.txt").write_text("c000 red\nc001 green\n")
    files = tuple(str(tmp_path / f"{name}.csv") for name in ("train", "test"))
    data = Data("charades", "single_label", files, str(tmp_path / "classes.txt"))
    if message is None:
        assert read_annotations(data).task == "single_label"
    else:
        with pytest.raises(AnnotationError, match=rf"{split}\.csv, line 3: {message}"):
            read_annotations(data)


def test_frames_have_a_label_where_the_annotation_gives_times(tmp_path):
    """b has none: its label says nothing about frames, but holds for all of them where labels may be many."""
    times = [np.array([0.0, 1.0, 1.75, 2.0])] * 2
    single = read_annotations(plain(tmp_path, *GOOD))
    video, frames = single.targets(["a", "b"], times)
    assert video.tolist() == [[1, 0], [0, 1]]
    assert frames[0].tolist() == [[0, 0], [1, 0], [0, 0], [1, 0]] and not frames[1].any()
    assert single.for_task("multi_label").targets(["b"], times[:1])[1][0].tolist() == [[0, 1]] * 4


def test_the_copy_in_a_run_folder_says_the_same(tmp_path):
    annotations = read_annotations(plain(tmp_path, *GOOD))
    (tmp_path / "labels.csv").write_bytes(labels_csv(annotations))
    again = read_plain(tmp_path / "labels.csv", tmp_path / "classes.txt").for_task("single_label")
    times = [np.array([0.0, 1.0, 1.75, 2.0])] * 2
    for ours, theirs in zip(again.targets(["a", "b"], times), annotations.targets(["a", "b"], times), strict=True):
        assert (ours == theirs).all()
