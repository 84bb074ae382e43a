"""Boxes of one's own: the place by hand, the scores that follow, and lines that are refused."""

import numpy as np
import pytest

from cache.geometry import Box, Clip, Theta
from pipeline import focus
from pipeline.config import Saliency
from pipeline.data.box_policies import find_boxes
from pipeline.data.own_boxes import COLUMNS, read_own_boxes
from pipeline.errors import AnnotationError, StageError
from pipeline.predict import run as command
from pipeline.predict.tables import Report
from pipeline.run.predictions import read_video
from tests.predict.test_predict import WindowRule

HEADER = ",".join(COLUMNS)


def table(path, *lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def box_input(own, clip, start, end, side):
    rows = own.at(clip, start, end)
    return find_boxes(clip, "own", Saliency(box_side=side), (0, 0), rows)[0][0] if rows else None


def test_the_box_of_a_window_by_hand(tmp_path):
    """Source 40 x 80, resized to 20 x 40, crop at (2, 10) of 16 x 24: input = source / 2 - (2, 10)."""
    theta = Theta((40, 80), (20, 40), 2, 10, (16, 24), False)
    clip = Clip("v", 0, 0, (0, 1), theta)
    own = read_own_boxes(table(tmp_path / "a.csv", "v,0,1,10,30,8,20", "v,1,4,20,40,4,8", "w,0,9,0,0,1,1"))
    # centres in the source (14, 40) and (22, 44): (5, 10) and (9, 12) of the input
    assert box_input(own, clip, 0, 1, 4) == Box(3, 8, 4, 4)
    assert box_input(own, clip, 1, 2, 4) == Box(7, 10, 4, 4)
    assert box_input(own, clip, 0.5, 2, 4) == Box(6, 9, 4, 4)  # 1 : 2, (7.67, 11.33), less 2, rounded
    assert box_input(own, clip, 1, 2, 14) == Box(2, 5, 14, 14)  # as far down as it goes
    assert box_input(own, clip, 4, 5, 4) is None
    assert box_input(own, Clip("x", 0, 0, (0, 1), theta), 0, 1, 4) is None
    flipped = Clip("v", 0, 0, (0, 1), Theta((40, 80), (20, 40), 2, 10, (16, 24), True))
    assert box_input(own, flipped, 0, 1, 4) == Box(3, 12, 4, 4)


def test_a_tables_own_boxes_give_its_scores_again(tiny_run, tmp_path):
    """Boxes that are whole pixels of the input come back; 32 x 32 of 64 x 100 source pixels are 16 x 16."""
    experiment = command.Experiment(tiny_run.path, "late-entropy-source", device="cpu")
    places = [tiny_run.data / "00007.mp4", tiny_run.data / "T0002.mp4"]
    arguments = (WindowRule("as-evaluated"), Report(), command.Workers())
    command.run(experiment, places, tmp_path / "a", *arguments)
    corner = table(tmp_path / "corner.csv", "00007,0,9,0,18,2,2")
    own = command.Experiment(tiny_run.path, "late-entropy-source", device="cpu", own_boxes=corner)
    command.run(own, places, tmp_path / "b", *arguments)
    boxes = read_video(tmp_path / "b", "00007").boxes
    assert boxes[["top", "left", "height", "width"]].to_numpy().tolist() == [[4, 22, 32, 32]] * 2  # the crop's corner
    assert (read_video(tmp_path / "b", "T0002").boxes == read_video(tmp_path / "a", "T0002").boxes).all(axis=None)
    again = command.Experiment(tiny_run.path, experiment.experiment, (), "cpu", tmp_path / "b/boxes.csv")
    command.run(again, places, tmp_path / "c", *arguments)
    for video_id in ("00007", "T0002"):
        b, c = (read_video(tmp_path / name, video_id) for name in "bc")
        assert (b.boxes == c.boxes).all(axis=None)
        np.testing.assert_array_equal(b.scores, c.scores)
    with pytest.raises(StageError, match="holds other predictions: own_boxes"):
        command.run(own, places, tmp_path / "a", *arguments)
    model = focus.load(tiny_run.path, "late-entropy-source", "cpu")
    found = list(model.predict(places, WindowRule("as-evaluated"), boxes=corner))
    np.testing.assert_array_equal(found[0].scores, read_video(tmp_path / "b", "00007").scores)


@pytest.mark.parametrize(
    "line, words",
    [
        ("00007,1,1,0,0,5,5", "line 2, column end: '1'; expected seconds after the start, 1"),
        ("00007,-1,1,0,0,5,5", "line 2, column start: '-1'"),
        ("00007,0,nan,0,0,5,5", "line 2, column end: 'nan'"),
        ("00007,0,1,0.5,0,5,5", "line 2, column top: '0.5'; expected a whole number of source pixels, at least 0"),
        ("00007,0,1,0,0,0,5", "line 2, column height: '0'; expected a whole number of source pixels, at least 1"),
        ("00007,0,1,0,0,5,99999999999999999999", "line 2, column width"),
        ("00007,0,1,0,0,5", "expected 7 columns"),
        ("00007,0,1,60,0,5,5", "line 2, column top to width: '60, 0, 5, 5'; expected a box inside 64 x 100 pixels"),
    ],
)
def test_wrong_lines_are_refused_by_number(tiny_run, tmp_path, line, words):
    path = table(tmp_path / "own.csv", line)
    experiment = command.Experiment(tiny_run.path, "base", device="cpu", own_boxes=path)
    with pytest.raises(AnnotationError) as error:
        command.run(experiment, [tiny_run.data / "00007.mp4"], tmp_path, WindowRule(), Report(), command.Workers())
    assert words in str(error.value) and str(path) in str(error.value)


def test_boxes_of_other_videos_only(tiny_run, tmp_path):
    path = table(tmp_path / "own.csv", "somebody,0,1,0,0,5,5")
    experiment = command.Experiment(tiny_run.path, "base", device="cpu", own_boxes=path)
    with pytest.raises(StageError, match="no line is of these videos, whose ids are such as 00007"):
        command.run(experiment, [tiny_run.data / "00007.mp4"], tmp_path, WindowRule(), Report(), command.Workers())
