"""Prediction equals evaluation, in any company of files; what is written, refused, left out and taken up again."""

import json
import shutil
import weakref
from functools import cache as once
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cache.sealed import read_sealed
from pipeline.cli.main import main
from pipeline.data.clips import PlannedVideo
from pipeline.errors import StageError
from pipeline.predict import run as command
from pipeline.predict.passes import Job, WindowRule, class_scores
from pipeline.predict.tables import Report, rewrite
from pipeline.predict.windows import read_windows, starts_by_stride
from pipeline.recipes import online
from pipeline.run.folder import open_folder
from pipeline.run.predictions import read_video
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import crops, evaluate
from tests.helpers.make_video import write_video
from tests.helpers.tiny_data import CLASSES, VIDEOS, change, picture, run_all, tiny_config, tree

TEST = [video_id for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]
AS_EVALUATED = WindowRule("as-evaluated")
EXPERIMENTS = ("base", "late-entropy-source", "concat-entropy-source")


def predict(run, places, out, windows=AS_EVALUATED, experiment=None, workers=1, **report):
    return command.run(
        command.Experiment(run.path, experiment, device="cpu"), places, out, windows, Report(**report),
        command.Workers(workers),
    )  # fmt: skip


def evaluated(run, experiment):
    """Scores that `evaluate` wrote, as scores in [0, 1], by video id."""
    (path,) = run.path.glob(f"results/{experiment}-[0-9a-f]*.scores.txt")
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    return {line[0]: class_scores(np.array([float(text) for text in line[1:]])) for line in lines}


def files_of(run, ids=TEST):
    return [run.data / f"{video_id}.mp4" for video_id in ids]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_prediction_equals_evaluation_to_the_bit(tiny_run, tmp_path, experiment):
    predict(tiny_run, files_of(tiny_run), tmp_path / "out", experiment=experiment, top_k=0)
    wanted = evaluated(tiny_run, experiment)
    table = pd.read_csv(tmp_path / "out/videos.csv", float_precision="round_trip")
    for video_id in TEST:
        found = read_video(tmp_path / "out", video_id).scores
        assert list(found.index) == list(CLASSES)
        np.testing.assert_array_equal(found.to_numpy(), wanted[video_id])
        rows = table[table.video_id == video_id].set_index("label").score
        np.testing.assert_array_equal(rows[list(CLASSES)].to_numpy(), wanted[video_id])
    assert len({tuple(scores) for scores in wanted.values()}) == len(TEST)


def test_boxes_and_entropy_are_those_of_the_caches(tiny_run, tmp_path):
    predict(tiny_run, files_of(tiny_run), tmp_path, experiment="late-entropy-source")
    stores = open_run(tiny_run.path, tiny_run.config)
    (part,) = stores.run.parts_of("test")
    found = boxes_of(stores, part, "entropy")
    entropy = -stores.base(part).read_rows("entropy", np.arange(part.num_rows))
    for row in range(part.num_rows):
        clip, video = part.clip(row), read_video(tmp_path, part.video_ids[row])
        seen = video.table.iloc[clip.clip_index]
        box = stores.boxes(part, "entropy").read_rows("box_source", np.array([row]))[0]
        assert tuple(video.boxes.iloc[clip.clip_index][2:]) == tuple(box)
        assert seen.entropy == pytest.approx(float(entropy[row]), rel=1e-6)
        assert seen.start == clip.frame_indices[0] / 8 and seen.end == (clip.frame_indices[-1] + 1) / 8
    assert len(np.unique(found, axis=0)) > 1


@pytest.mark.parametrize("boxes", ["random", "center"])
def test_other_boxes_at_evaluation(tiny_copy, tmp_path, boxes):
    crops.run(tiny_copy.config, tiny_copy.path, (boxes,))
    evaluate.run(tiny_copy.config, tiny_copy.path, boxes_eval=boxes)
    for fusion in ("late", "concat"):
        name = f"{fusion}-entropy-source-eval-{boxes}"
        predict(tiny_copy, files_of(tiny_copy), tmp_path / fusion, experiment=name)
        wanted = evaluated(tiny_copy, name)
        for video_id in TEST:
            np.testing.assert_array_equal(read_video(tmp_path / fusion, video_id).scores, wanted[video_id])


def test_a_model_whose_own_network_chose_the_boxes(tiny_copy, tmp_path):
    """Trained on the fly with the current network's boxes, which are another's than Base's."""
    online.run(tiny_copy.config, tiny_copy.path, ("late", "concat"), "entropy", "source", "current")
    evaluate.run(tiny_copy.config, tiny_copy.path)
    for fusion in ("late", "concat"):
        name = f"{fusion}-entropy-source-online-current"
        predict(tiny_copy, files_of(tiny_copy), tmp_path / fusion, experiment=name)
        wanted = evaluated(tiny_copy, name)
        for video_id in TEST:
            np.testing.assert_array_equal(read_video(tmp_path / fusion, video_id).scores, wanted[video_id])
    predict(tiny_copy, files_of(tiny_copy), tmp_path / "base", experiment="base")
    boxes = [pd.read_csv(tmp_path / name / "boxes.csv").drop(columns="video_id") for name in ("base", "late")]
    assert (boxes[0] != boxes[1]).any(axis=None)


def test_lossy_volumes_move_the_scores_by_what_jpeg_moves(tmp_path, tiny_run):
    """0.02 here: an untrained network of 28 x 28 pixels at quality 90; the decisions at 0.5 are the same."""
    config = change(tiny_config(tiny_run.data), crops={"codec": "jpeg"})
    run_all(config, tmp_path / "run")
    run = type(tiny_run)(tiny_run.data, tmp_path / "run", config)
    for experiment in EXPERIMENTS:
        predict(run, files_of(run), tmp_path / experiment, experiment=experiment)
        wanted = evaluated(run, experiment)
        for video_id in TEST:
            found = read_video(tmp_path / experiment, video_id).scores.to_numpy()
            assert np.abs(found - wanted[video_id]).max() <= (0 if experiment == "base" else 0.02)
            assert ((found >= 0.5) == (wanted[video_id] >= 0.5)).all()


def test_other_files_beside_it_move_the_last_digits_only(tiny_run, tmp_path):
    predict(tiny_run, files_of(tiny_run, TEST[:1]), tmp_path / "alone")
    predict(tiny_run, [tiny_run.data], tmp_path / "all")
    alone, there = (read_video(tmp_path / name, TEST[0]).scores for name in ("alone", "all"))
    np.testing.assert_allclose(alone, there, rtol=0, atol=1e-6)


@once
def long_video(folder: Path) -> Path:
    """Five seconds at 24 frames a second."""
    frames = [picture("83654", number % 33) for number in range(120)]
    return write_video(folder / "my holiday (1).mp4", frames, 24)


def test_windows_by_stride_cover_a_video_to_its_end(tiny_run, tmp_path):
    """T is 4 at 8 fps; 40 frames; a quarter of half a second is one frame; 0.3 s are 2.4 frames, rounded to 2."""
    path = long_video(tmp_path)
    predict(tiny_run, [path], tmp_path / "a", WindowRule())
    predict(tiny_run, [path], tmp_path / "b", WindowRule("stride", 0.3))
    video = read_video(tmp_path / "a", "my_holiday__1")
    assert video.path == str(path)
    assert video.windows.start.tolist() == [number / 8 for number in range(37)]
    assert video.windows.end.iloc[-1] == 5.0
    found = read_video(tmp_path / "b", "my_holiday__1").windows
    assert found.start.tolist() == [number / 4 for number in range(19)]


def test_a_video_shorter_than_a_window_is_one_window(tiny_run, tmp_path):
    """00007 has 4 frames at 12 fps, a third of a second: 3 frames at 8 fps."""
    predict(tiny_run, [tiny_run.data / "00007.mp4"], tmp_path, WindowRule())
    found = read_video(tmp_path, "00007").windows
    assert found[["start", "end"]].to_numpy().tolist() == [[0, 3 / 8]]


def test_the_tables(tiny_run, tmp_path):
    """A timeline is a table to train on: `prepare` reads it, score and all."""
    outcome = predict(tiny_run, [tiny_run.data], tmp_path / "out", WindowRule(), top_k=2, threshold="0.3")
    assert outcome.num_skipped == 0 and "0.3 for every class" in outcome.summary
    out = tmp_path / "out"
    table = pd.read_csv(out / "videos.csv", dtype={"video_id": str}, keep_default_na=False)
    assert list(table) == ["video_id", "path", "label", "score", "threshold", "above"]
    assert (table.groupby("video_id").size() == 2).all() and table.video_id.nunique() == len(VIDEOS)
    assert (table.above == (table.score >= 0.3)).all() and table.above.any()
    assert (out / "timeline.csv").read_text().startswith("video_id,split,start,end,label,score\n")
    from pipeline.data.plain_csv import read_plain

    read = read_plain(out / "timeline.csv", tiny_run.data / "classes.txt")
    assert set(read.videos.video_id) == set(VIDEOS) and len(read.actions)
    windows = pd.read_parquet(out / "windows.parquet")
    assert {"video_id", "start", "end", "entropy", *CLASSES} <= set(windows) and windows.video_id.nunique() == 7
    facts = read_sealed(out / "predictions.json")
    assert facts["experiment"].startswith(("late", "concat", "base")) and len(facts["weights"]) == 64
    assert "input 28" in facts["protocol"] and {one["name"] for one in facts["files"]} == {
        "videos.csv", "timeline.csv", "boxes.csv", "failed.csv"
    }  # fmt: skip


def test_other_thresholds_need_no_network(tiny_run, tmp_path, monkeypatch):
    predict(tiny_run, [tiny_run.data], tmp_path / "out", WindowRule(), threshold="0.9", format="jsonl")
    monkeypatch.setattr(command, "load_model", None)
    assert pd.read_csv(tmp_path / "out/timeline.csv").label.isna().all()
    (tmp_path / "own.csv").write_text(f"label,threshold\n{CLASSES[1]},0.05\n")
    rewrite(tmp_path / "out", Report(threshold=str(tmp_path / "own.csv"), format="activitynet"))
    assert set(pd.read_csv(tmp_path / "out/timeline.csv").label.dropna()) >= {CLASSES[1]}
    content = json.loads((tmp_path / "out/activitynet.json").read_text())
    one = content["results"]["83654"][0]
    assert set(one) == {"label", "score", "segment"} and one["segment"][0] < one["segment"][1]
    assert not (tmp_path / "out/predictions.jsonl").exists()


def test_jsonl_has_a_line_a_video(tiny_run, tmp_path):
    predict(tiny_run, files_of(tiny_run), tmp_path, WindowRule(), format="jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["video_id"] for line in lines] == TEST and len(lines[0]["labels"]) == 3


def test_a_corrupt_file_is_named_and_the_rest_goes_on(tiny_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for video_id in TEST:
        (folder / f"{video_id}.mp4").write_bytes((tiny_run.data / f"{video_id}.mp4").read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "a_cut.mp4").write_bytes((folder / "83654.mp4").read_bytes()[:-4000])
    ghost = write_video(folder / "b_ghost.mkv", [picture("83654", number) for number in range(60)], 8)
    content = bytearray(ghost.read_bytes())  # its index and its beginning are whole
    content[len(content) * 6 // 10 : len(content) * 9 // 10] = bytes(len(content) * 9 // 10 - len(content) * 6 // 10)
    ghost.write_bytes(content)
    arguments = ["predict", folder, "--run", tiny_run.path, "--out", tmp_path / "out", "--devices", "cpu"]
    arguments = [str(one) for one in arguments]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3, result.output
    failed = pd.read_csv(tmp_path / "out/failed.csv").set_index("path").reason
    assert failed[str(folder / "broken.mp4")] == "VideoUnreadable" and failed[str(folder / "empty.mp4")] == "VideoEmpty"
    assert {str(folder / "a_cut.mp4"), str(ghost)} <= set(failed.index) and len(failed) == 4
    assert set(pd.read_csv(tmp_path / "out/videos.csv").video_id) == set(TEST)
    before = tree(tmp_path / "out")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 3 and "failed: " in again.output
    assert tree(tmp_path / "out") == before


def test_a_killed_command_goes_on_with_the_same_bits(tiny_run, tmp_path, monkeypatch):
    predict(tiny_run, [tiny_run.data], tmp_path / "whole", WindowRule())
    written = []

    def dies(out, found, made_from):
        written.append(found.video_id)
        if len(written) > 4:
            raise KeyboardInterrupt
        write(out, found, made_from)

    write = command.write_video
    monkeypatch.setattr(command, "write_video", dies)
    with pytest.raises(KeyboardInterrupt):
        predict(tiny_run, [tiny_run.data], tmp_path / "out", WindowRule())
    assert not (tmp_path / "out/videos.csv").exists() and len(list(tmp_path.glob("out/windows.parquet/*"))) == 4
    monkeypatch.undo()
    halves = (
        f".videos.csv.{'0' * 32}.tmp",
        f"windows.parquet/.a.parquet.{'0' * 32}.tmp",
        "films/.a.mp4.tmp",
        ".mine.tmp",
    )
    for name in halves:  # as a killed process leaves them; the last one is somebody else's
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    predict(tiny_run, [tiny_run.data], tmp_path / "out", WindowRule())
    assert [path.name for path in (tmp_path / "out").rglob(".*.tmp")] == [".mine.tmp"]
    whole, out = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert list(whole.values()) == list(out.values()) and len(whole) > 7


def test_a_file_that_breaks_later_is_taken_out(tiny_run, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes((tiny_run.data / "T0002.mp4").read_bytes())
    places = [path, tiny_run.data / "T0003.mp4"]
    predict(tiny_run, places, tmp_path / "out", WindowRule())
    path.write_bytes(b"broken")
    assert predict(tiny_run, places, tmp_path / "out", WindowRule()).num_skipped == 1
    assert set(pd.read_parquet(tmp_path / "out/windows.parquet").video_id) == {"T0003"}


def test_memory_does_not_grow_with_the_video(tiny_run, monkeypatch):
    """Of source frames, those of a window live, and the one that comes; however long the video is."""
    living, most = [], []

    def frames(video, indices):
        for index in sorted(set(indices)):
            frame = np.zeros((*video.source_size, 3), np.uint8)
            living.append(weakref.ref(frame))
            living[:] = [one for one in living if one() is not None]
            most.append(len(living))
            yield index, frame
            del frame

    monkeypatch.setattr("pipeline.predict.windows.decode_frames", frames)
    clips = tiny_config(tiny_run.data).clips
    for count in (40, 400):
        most.clear()
        video = PlannedVideo("v", Path("v"), Path(), count, 8.0, (60, 90), 8.0, "pts", None, 0, "")
        for window in read_windows(video, starts_by_stride(count, 4, 2), clips):
            assert set(window.frames) == set(window.clip.frame_indices)
            del window
        assert len(most) == count and max(most) <= 4 + 1


def test_large_frames_make_small_batches():
    """Windows of 4 frames, one every 2 or every 9 frames, of 10 x 20 pixels: 1,200 or 2,400 bytes more for each."""
    video = PlannedVideo("v", Path("v"), Path(), 40, 8.0, (10, 20), 8.0, "pts", None, 0, "")
    for step, wanted in ((2, [1, 2, 9]), (9, [1, 1, 5])):
        job = Job(video, "v", tuple(range(0, 36, step)), "", as_evaluated=False)
        assert [job.most_windows(4, num_bytes) for num_bytes in (1199, 1200, 9600)] == wanted
    assert Job(video, "v", (0, 2), "").most_windows(4, 1) > 1000  # as evaluated: the batches of the stages


def test_two_processes_write_the_same(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.predict.passes.GROUP", 8)
    for workers in (1, 2):
        predict(tiny_run, [tiny_run.data], tmp_path / str(workers), WindowRule(), workers=workers)
    assert list(tree(tmp_path / "1").values()) == list(tree(tmp_path / "2").values())


@pytest.mark.parametrize(
    "experiment, words",
    [
        ("late-entropy-sorce", "it has base, concat-entropy-source, late-entropy-source; did you mean late-"),
        ("late-entropy-source-eval-middle", "boxes 'middle' are none of"),
        ("late-entropy-source-eval-cross_entropy", "its boxes know the labels"),
    ],
)  # fmt: skip
def test_experiments_that_cannot_be_used(tiny_run, tmp_path, experiment, words):
    with pytest.raises(StageError) as error:
        predict(tiny_run, files_of(tiny_run), tmp_path / "out", experiment=experiment)
    assert words in str(error.value) and not (tmp_path / "out").exists()


def test_what_is_no_video_and_no_run_is_refused(tiny_run, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "list.txt").write_text("gone.mp4\n")
    for place, words in (
        (tmp_path / "nothing", "a folder without videos"),
        (tmp_path / "gone.mp4", "no such file"),
        (tmp_path / "list.txt", f"gone.mp4: no such file or folder, named in {tmp_path / 'list.txt'}"),
    ):
        with pytest.raises(StageError) as error:
            predict(tiny_run, [place], tmp_path / "out")
        assert words in str(error.value)
    run = type(tiny_run)(tiny_run.data, tmp_path / "nothing", tiny_run.config)
    with pytest.raises(StageError, match="no run and no exported model"):
        predict(run, files_of(tiny_run), tmp_path / "out")
    with pytest.raises(StageError, match="threshold 3: expected"):
        predict(tiny_run, files_of(tiny_run), tmp_path / "out", threshold="3")


@pytest.mark.parametrize("name", ["videos.csv", "failed.csv", "predictions.jsonl"])
def test_a_table_that_predict_did_not_write_is_left_alone(tiny_run, tmp_path, name):
    """Such as videos.csv of a run folder that is given as --out."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(StageError, match=f"{name} is there already, and predict did not write it; use another --out"):
        predict(tiny_run, files_of(tiny_run), tmp_path, experiment="base")
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "windows.parquet").exists()


def test_a_video_is_not_replaced_by_its_film(tiny_run, tmp_path):
    shutil.copytree(tiny_run.data, tmp_path / "films", ignore=lambda _, names: {*names} - {"T0002.mp4"})
    before = (tmp_path / "films/T0002.mp4").read_bytes()
    with pytest.raises(StageError, match=r"films/T0002.mp4 would be replaced by its film; use another --out"):
        experiment = command.Experiment(tiny_run.path, "base", device="cpu")
        command.run(experiment, [tmp_path / "films"], tmp_path, AS_EVALUATED, Report(), command.Workers(), films=True)
    assert (tmp_path / "films/T0002.mp4").read_bytes() == before


def test_other_predictions_are_not_mixed(tiny_run, tmp_path):
    predict(tiny_run, files_of(tiny_run), tmp_path / "out", experiment="base")
    with pytest.raises(StageError, match=r"holds other predictions: .*experiment: base != late.*another --out"):
        predict(tiny_run, files_of(tiny_run), tmp_path / "out", experiment="late-entropy-source")
    with pytest.raises(StageError, match="not asked for now: T0002, T0003"):
        predict(tiny_run, files_of(tiny_run, TEST[:1]), tmp_path / "out", experiment="base")
    assert open_folder(tiny_run.path, tiny_run.config).parts  # the run is as it was
