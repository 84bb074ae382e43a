"""Prediction from Python, and its films."""

import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline import focus
from pipeline.data.video.frames import read_frames
from pipeline.data.video.probe import probe
from pipeline.errors import StageError
from pipeline.predict import run as command
from pipeline.predict.film import HEIGHT, lines_below
from pipeline.predict.tables import Report, rewrite
from pipeline.run.predictions import read_video
from pipeline.stages import prepare, train_base
from tests.helpers.tiny_data import CLASSES, change, tiny_config
from tests.predict.test_predict import TEST, WindowRule, evaluated, files_of, predict


@pytest.fixture(scope="module")
def model(tiny_run):
    return focus.load(tiny_run.path, "late-entropy-source", device="cpu")


def test_the_frames_of_the_readme(tiny_run, model, tmp_path):
    (found,) = model.predict([tiny_run.data / "83654.mp4"])
    assert isinstance(found.scores, pd.Series) and list(found.scores.index) == list(CLASSES) == model.classes
    assert list(found.timeline) == ["start", "end", "label", "score"]
    assert list(found.windows) == ["start", "end", "entropy", *CLASSES]
    assert list(found.boxes) == ["start", "end", "top", "left", "height", "width"]
    assert (found.windows[list(CLASSES)].max() == found.scores).all() and found.video_id == "83654"
    sides = found.boxes[["top", "left", "height", "width"]]
    assert ((sides.top + sides.height <= 80) & (sides.left + sides.width <= 48)).all()  # of 80 x 48
    predict(tiny_run, [tiny_run.data / "83654.mp4"], tmp_path, WindowRule(), "late-entropy-source")
    pd.testing.assert_frame_equal(read_video(tmp_path, "83654").table, found.table)


def test_it_equals_evaluation(tiny_run, model):
    wanted = evaluated(tiny_run, "late-entropy-source")
    found = {one.video_id: one.scores for one in model.predict(files_of(tiny_run), WindowRule("as-evaluated"))}
    assert list(found) == TEST
    for video_id in TEST:
        np.testing.assert_array_equal(found[video_id].to_numpy(), wanted[video_id])


def test_failures_are_collected(tiny_run, model, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    failed = {}
    places = [tmp_path / "broken.mp4", tiny_run.data / "T0002.mp4"]
    assert [one.video_id for one in model.predict(places, failed=failed)] == ["T0002"]
    assert list(failed) == [str(tmp_path / "broken.mp4")]


def test_thresholds_of_any_kind(tiny_run, model, tmp_path):
    low = dict.fromkeys(CLASSES, 0.01)
    for threshold in (0.01, "0.01", low):
        (found,) = model.predict(tiny_run.data / "T0002.mp4", threshold=threshold)
        assert found.timeline[["start", "end"]].to_numpy().tolist() == [[0, 1]] * 3
    with pytest.raises(StageError):
        list(model.predict(tiny_run.data / "T0002.mp4", threshold=2))


def test_a_film_shows_video_box_and_focused_view(tiny_run, model, tmp_path):
    """Of 60 x 90 pixels at 12 fps, 18 frames: at 8 fps 12 frames, 288 x (432 + 8 + 288) and four lines of 26."""
    (found,) = model.predict(tiny_run.data / "T0003.mp4")
    found.save_film(tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert (info.num_source_frames, float(info.source_fps)) == (12, 8)
    assert (info.height, info.width) == (HEIGHT + 4 * 26, 432 + 8 + 288)
    film = dict(read_frames(tmp_path / "out.mp4", [0, 11], None))
    source = dict(read_frames(tiny_run.data / "T0003.mp4", [0, 11], 8))
    for number, row in ((0, 0), (11, len(found.boxes) - 1)):
        top, left, height, width = found.boxes.iloc[row, 2:].astype(int)
        middle = source[number][top + height // 2, left + width // 2].astype(int)
        assert np.abs(film[number][HEIGHT // 2, 432 + 8 + HEIGHT // 2] - middle).max() < 25
    assert np.abs(film[0].astype(int) - film[11]).mean() > 1


def test_lines_of_a_moment():
    thresholds = pd.Series({"a": 0.5, "b": 0.6})
    assert lines_below(["a", "b"], np.array([0.5, 0.59]), thresholds, 1.25) == [
        ("1.2 s", False), ("0.59  b", False), ("0.50  a", True)
    ]  # fmt: skip
    nothing = lines_below(["a", "b"], np.full(2, np.nan), thresholds, 1.25)
    assert nothing == [("1.2 s: no window here", False), ("", False), ("", False)]


def test_films_of_the_command_are_made_once(tiny_run, tmp_path):
    experiment = command.Experiment(tiny_run.path, "base", device="cpu")
    arguments = (experiment, files_of(tiny_run), tmp_path, WindowRule(), Report(), command.Workers())
    command.run(*arguments)
    assert "0 windows now" in command.run(*arguments).summary and not (tmp_path / "films").exists()
    assert "0 windows now" not in command.run(*arguments, films=True).summary
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == sorted(f"{one}.mp4" for one in TEST)
    assert "0 windows now" in command.run(*arguments, films=True).summary


def test_one_label_a_moment_where_classes_exclude_each_other(tiny_run, tmp_path):
    """Every moment of every video has one label; in videos.csv only the highest is above."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_run.data, folder)
    lines = (folder / "table.csv").read_text().splitlines()
    first = {line.split(",")[0]: line for line in reversed(lines) if not line.endswith(",,,")}
    (folder / "table.csv").write_text("\n".join(dict.fromkeys([lines[0], *first.values()])) + "\n")
    config = change(tiny_config(folder), data={"task": "single_label"})
    prepare.run(config, tmp_path / "run")
    train_base.run(config, tmp_path / "run")
    found = list(focus.load(tmp_path / "run", device="cpu").predict(tiny_run.data))
    for one in found:
        assert one.scores.sum() == pytest.approx(1)
        spans = one.timeline.sort_values("start")
        assert spans.start.iloc[0] == 0 and spans.end.iloc[-1] == one.windows.end.max()
        assert (spans.start.to_numpy()[1:] == spans.end.to_numpy()[:-1]).all()
    experiment = command.Experiment(tmp_path / "run", device="cpu")
    command.run(experiment, [tiny_run.data], tmp_path / "out", WindowRule(), Report(), command.Workers())
    table = pd.read_csv(tmp_path / "out/videos.csv")
    assert (table[table.above].groupby("video_id").size() == 1).all() and table.above.sum() == len(found)
    before = (tmp_path / "out/timeline.csv").read_bytes()
    rewrite(tmp_path / "out", Report())
    assert (tmp_path / "out/timeline.csv").read_bytes() == before
