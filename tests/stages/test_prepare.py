"""prepare: videos.csv, skipped.csv, labels.csv and the plan; what is refused, what is left out, and how a run grows."""

import logging
import shutil
from fractions import Fraction
from types import SimpleNamespace
from unittest import mock

import av
import numpy as np
import pandas as pd
import pytest
import simplejpeg

import cache
from cache import plan_files
from cache.errors import CacheError, StaleCacheError
from cache.fingerprint import file_sha256
from cache.plan_files import read_plan
from pipeline.data import clips
from pipeline.data.charades_csv import charades_row, read_charades, write_charades_csv
from pipeline.data.clips import input_clips
from pipeline.data.label_files import read_annotations
from pipeline.data.plain_csv import labels_csv, read_plain
from pipeline.data.sampling import row_generator, train_window
from pipeline.data.video import frames, sandbox
from pipeline.data.video.find import video_folder
from pipeline.data.video.probe import probe
from pipeline.errors import StageError, UnsafePath
from pipeline.predict.windows import read_windows, video_of
from pipeline.run.folder import open_folder, read_labels
from pipeline.run.networks import load_base
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from pipeline.training.base_clips import BaseClips
from pipeline.training.online_clips import OnlineClips
from tests.helpers.make_video import numbered_frame, read_number, write_streams, write_video
from tests.helpers.tiny_data import CLASSES, VIDEOS, caches, change, make_data, make_video, run_all, tiny_config, tree

LATE = {  # three more videos, of both splits
    "N0001": ("train", (66, 50), 8, 10, (1,)),
    "N0002": ("train", (50, 88), 24, 28, (0, 2)),
    "N0003": ("test", (90, 60), 12, 16, (1,)),
}


def table(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.fixture
def more_videos(monkeypatch):
    for video_id, facts in LATE.items():
        monkeypatch.setitem(VIDEOS, video_id, facts)


def test_videos_csv(tiny_run):
    found = table(tiny_run.path / "videos.csv").set_index("video_id")
    assert found.index.tolist() == list(VIDEOS)
    for video_id, (split, (height, width), fps, count, classes) in VIDEOS.items():
        row = found.loc[video_id]
        assert (row.split, row.path, row.timing) == (split, f"{video_id}.mp4", "pts")
        assert (int(row.height), int(row.width), int(row.num_source_frames)) == (height, width, count)
        assert int(row.num_frames) == -(-count * 8 // fps)  # slots k with k / 8 < duration
        assert float(row.source_fps) == fps and float(row.duration_seconds) == pytest.approx(count / fps, abs=1e-5)
        # the shorter side becomes 32, the longer one keeps the aspect ratio, cut down to whole pixels
        longer = max(height, width) * 32 // min(height, width)
        resized = (32, longer) if height < width else (longer, 32)
        assert float(row.zoom_y) == pytest.approx(height / resized[0], abs=1e-4)
        assert float(row.zoom_x) == pytest.approx(width / resized[1], abs=1e-4)
        assert int(row.labels) == len(classes)
        assert int(row.bytes) == (tiny_run.data / row.path).stat().st_size
    assert table(tiny_run.path / "skipped.csv").empty


def test_plan(tiny_run):
    train, test = read_plan(tiny_run.path)
    assert (train.name, test.name) == ("part-000-train", "part-001-test")
    assert train.video_ids == [one for one in VIDEOS if VIDEOS[one][0] == "train" for _ in range(2)]
    assert test.video_ids == [one for one in VIDEOS if VIDEOS[one][0] == "test" for _ in range(2)]
    assert train.rows.aug_index.tolist() == [0, 1] * 4 and not train.rows.clip_index.any()
    assert test.rows.clip_index.tolist() == [0, 1] * 3 and not test.rows.aug_index.any()
    for part in (train, test):
        for row, video_id in enumerate(part.video_ids):
            clip, (_, size, fps, count, _) = part.clip(row), VIDEOS[video_id]
            assert clip.theta.source_size == size and clip.theta.input_size == (28, 28)
            frames = -(-count * 8 // fps)
            assert len(clip.frame_indices) == 4 and max(clip.frame_indices) < frames
    # evaluation: the first and the last window, centre crops, never flipped
    assert test.rows.frame_start.tolist() == [0, 7, 0, 4, 0, 8]
    assert not test.rows.theta_flip.any()
    assert test.clip(0).theta.crop_in_resized.top == (round(80 * 32 / 48) - 28) // 2
    assert train.clip(4).frame_indices == (0, 1, 2, 2)  # "00007" has three frames at 8 fps: the last one is repeated


def test_again_changes_nothing(tiny_copy):
    before = tree(tiny_copy.path)
    for extend in (False, True):
        outcome = prepare.run(tiny_copy.config, tiny_copy.path, extend)
        assert tree(tiny_copy.path) == before
        assert outcome.num_skipped == 0 and "7 videos (4 train, 3 test)" in outcome.summary


def test_workers_and_the_order_of_the_disk_change_nothing(tiny_run, tmp_path):
    prepare.run(change(tiny_run.config, workers=2), tmp_path / "run")
    made = tree(tmp_path / "run")
    del made["run/config.toml"]
    assert made.items() <= tree(tiny_run.path).items()


def test_other_clips_are_refused(tiny_copy):
    with pytest.raises(StaleCacheError, match=r"other clips than tiny asks for: num_frames: 4 != 8"):
        prepare.run(change(tiny_copy.config, clips={"num_frames": 8}), tiny_copy.path)
    with pytest.raises(StaleCacheError, match=r"num_rows: 8 != 12; --extend adds"):
        prepare.run(change(tiny_copy.config, clips={"aug_seeds": 3}), tiny_copy.path)


def test_the_same_seconds_and_labels_at_every_source_rate(tmp_path):
    """One scene at 24 and at 8 frames a second, the plan at 8: equal windows, equal labels, every third frame."""
    plans = {}
    for fps, step in ((24, 1), (8, 3)):
        data = tmp_path / str(fps)
        data.mkdir()
        for name in ("A", "B"):
            write_video(data / f"{name}.mp4", [numbered_frame(n, (48, 80)) for n in range(0, 60, step)], fps)
        lines = ["A,train,0.3,1.1,red thing", "A,train,1.3,2.0,blue thing", "B,test,0.9,1.5,green thing"]
        (data / "table.csv").write_text("video_id,split,start,end,label\n" + "\n".join(lines) + "\n")
        (data / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        config = tiny_config(data, clips={"aug_seeds": 5, "eval_clips": 3})
        prepare.run(config, data / "run")
        run = open_folder(data / "run", config)
        plans[fps] = []
        for part in run.parts:
            for _, rows in _videos(part):
                for row, volume, _ in input_clips(part, rows, data):
                    shown = [read_number(frame) for frame in _whole(data, part, row)]
                    _, frames = run.annotations.clip_targets(part, [row])
                    times = np.array(part.clip(row).frame_indices) / part.fps[row]
                    plans[fps].append((times.tolist(), shown, frames.tolist()))
                    assert volume.shape == (4, 28, 28, 3)
    assert plans[24] == plans[8]
    train, test = plans[8][:5], plans[8][5:]
    for part, wanted in ((train, [(0.3, 1.1), None, (1.3, 2.0)]), (test, [None, (0.9, 1.5), None])):
        for times, shown, targets in part:
            assert shown == [round(time * 24) for time in times]
            expected = [[int(span is not None and span[0] <= time <= span[1]) for span in wanted] for time in times]
            assert targets[0] == expected
    assert len({times[0] for times, *_ in train}) > 2  # augmentations have windows of their own
    assert [times[0] for times, *_ in test] == [0, 1.0, 2.0]  # 20 frames at 8: starts 0, 8, 16


def _videos(part):
    for first in range(0, part.num_rows, part.rows_per_video):
        yield part.video_ids[first], list(range(first, first + part.rows_per_video))


def _whole(data, part, row):
    """The source frames of a clip."""
    clip = part.clip(row)
    path = data / part.rows.video_path.iat[row]
    return [dict(frames.read_frames(path, [index], 8.0))[index] for index in clip.frame_indices]


def test_missing_videos_are_refused_before_there_is_a_plan(tmp_path):
    data = make_data(tmp_path / "data")
    for video_id in ("150E6", "T0002"):
        (data / f"{video_id}.mp4").rename(tmp_path / f"{video_id}.mp4")
    config = tiny_config(data)
    with pytest.raises(StageError, match=r'2 annotated videos have no file in .*missing_videos = "skip"'):
        prepare.run(config, tmp_path / "run")
    assert table(tmp_path / "run" / "skipped.csv").video_id.tolist() == ["150E6", "T0002"]
    with pytest.raises(CacheError, match="no plan"):
        read_plan(tmp_path / "run")
    for video_id in ("150E6", "T0002"):
        (tmp_path / f"{video_id}.mp4").rename(data / f"{video_id}.mp4")
    assert "7 videos" in prepare.run(config, tmp_path / "run").summary
    assert table(tmp_path / "run" / "skipped.csv").empty


def test_missing_videos_are_named_with_the_nearest_file(tmp_path):
    """Three of four; a file of another video is no candidate, and letter case does not matter."""
    data = make_data(tmp_path / "data")
    for video_id, name in {"07E49": "07e49.mp4", "150E6": "150E6_h264.mp4", "83654": "x.mp4", "NA": "y.mp4"}.items():
        (data / f"{video_id}.mp4").rename(data / name)
    words = r"4 .* in .*/data: 07E49 \(nearest file: 07e49.mp4\), 150E6 \(nearest file: 150E6_h264.mp4\), NA, ... \(l"
    with pytest.raises(StageError, match=words):
        prepare.run(tiny_config(data), tmp_path / "run")


def test_missing_videos_are_left_out(tmp_path):
    data = make_data(tmp_path / "data")
    (data / "150E6.mp4").unlink()
    (data / "T0002.mp4").unlink()
    outcome = prepare.run(tiny_config(data, data={"missing_videos": "skip"}), tmp_path / "run")
    assert outcome.num_skipped == 0  # a partial download is no failure
    assert "5 videos (3 train, 2 test)" in outcome.summary and "2 annotated videos without a file" in outcome.summary
    left_out = table(tmp_path / "run" / "skipped.csv")
    assert left_out[["video_id", "split", "reason"]].to_numpy().tolist() == [
        ["150E6", "train", "VideoMissing"],
        ["T0002", "test", "VideoMissing"],
    ]
    assert {"150E6", "T0002"}.isdisjoint(one for part in read_plan(tmp_path / "run") for one in part.video_ids)
    # the labels of absent videos stay: the official rule ranks them last
    labels = read_plain(tmp_path / "run" / "labels.csv", tmp_path / "run" / "classes.txt")
    assert set(labels.videos.video_id) == set(VIDEOS)


def test_broken_videos_are_left_out_with_a_reason(tmp_path):
    data = make_data(tmp_path / "data")
    (data / "07E49.mp4").write_bytes(b"")
    long = write_video(data / "150E6.mp4", [numbered_frame(n, (96, 128)) for n in range(60)], 10, options={"g": "1"})
    long.write_bytes(long.read_bytes()[: long.stat().st_size * 3 // 5])
    (data / "NA.mp4").write_text("not a video")
    _write_sound(data / "83654.mp4")
    (data / "T0002.mp4").unlink()
    (data / "T0002").mkdir()
    (data / "T0002" / "T0002-000001.jpg").write_bytes(
        simplejpeg.encode_jpeg(np.zeros((48, 80, 3), np.uint8), colorspace="RGB")
    )
    failed = (
        r"nothing is planned: 5 of 7 videos fail, more than data.max_skipped = 0.2 .*2 VideoUnreadable.*the first: "
    )
    with pytest.raises(StageError, match=failed + r".*; all are in .*skipped.csv; --max-skipped 1 goes on"):
        prepare.run(tiny_config(data), tmp_path / "flood")
    assert {path.name for path in (tmp_path / "flood").iterdir()} == {".lock", "skipped.csv", "skipped.json"}
    outcome = prepare.run(tiny_config(data, data={"max_skipped": 0.72}), tmp_path / "run")
    found = table(tmp_path / "run" / "skipped.csv").set_index("video_id")
    assert found.reason.to_dict() == {
        "07E49": "VideoEmpty",
        "150E6": "VideoTruncated",
        "NA": "VideoUnreadable",
        "83654": "VideoAudioOnly",
        "T0002": "VideoUnreadable",
    }
    assert "source_fps" in found.detail["T0002"] and all(
        video_id in detail for video_id, detail in found.detail.items()
    )
    assert outcome.num_skipped == 5
    for words in ("2 videos (1 train, 1 test)", "2 VideoUnreadable", "1 VideoAudioOnly"):
        assert words in outcome.summary
    # the rest goes on
    assert {one for part in read_plan(tmp_path / "run") for one in part.video_ids} == {"00007", "T0003"}


def _write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_no_usable_video(tmp_path):
    data = make_data(tmp_path / "data", ("07E49",))
    (data / "07E49.mp4").write_bytes(b"")
    words = "none of the 1 annotated videos can be used: 1 VideoEmpty; the first: .*07E49.mp4 has 0 bytes; all are in"
    with pytest.raises(StageError, match=words):
        prepare.run(tiny_config(data), tmp_path / "run")
    with pytest.raises(StageError, match=r"data.videos: .*nowhere is not a folder"):
        prepare.run(tiny_config(data, data={"videos": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_folders_of_frames(tmp_path):
    """Thirteen frames at 24 a second: five frames at 8."""
    data = make_data(tmp_path / "data", ("07E49",))
    (data / "07E49.mp4").unlink()
    (data / "07E49").mkdir()
    for number in range(13):
        content = simplejpeg.encode_jpeg(numbered_frame(number, (48, 80)), quality=95)
        (data / "07E49" / f"07E49-{number + 1:06d}.jpg").write_bytes(content)
    prepare.run(tiny_config(data, data={"source_fps": 24.0}), tmp_path / "run")
    row = table(tmp_path / "run" / "videos.csv").iloc[0]
    assert (row.path, row.timing, row.num_source_frames, row.num_frames) == ("07E49", "rate", "13", "5")
    assert read_plan(tmp_path / "run")[0].settings["source_fps"] == 24.0


def test_small_sources_are_warned_of(tiny_run, tmp_path, caplog):
    """Sides of 48 to 100: 48, 52 and 56 are less than 1.5 times 40, so five videos are."""
    with caplog.at_level(logging.WARNING):
        prepare.run(change(tiny_run.config, clips={"resized_side": 40}), tmp_path / "run")
    low = [one for one, (_, size, *_) in VIDEOS.items() if min(size) < 60]
    assert f"{len(low)} of 7 videos are less than 1.5 times" in caplog.text
    assert f"upscaling: {', '.join(low[:3])}, ... (zoom_y" in caplog.text


def _table(data, *lines):
    (data / "table.csv").write_text("\n".join(["video_id,split,start,end,label", *lines]) + "\n\n")


def test_labels_past_the_end_are_counted_and_many_are_refused(tmp_path):
    """In milliseconds none labels a clip; one of twenty is told, and all in seconds say nothing."""
    data = make_data(tmp_path / "data", ("07E49", "83654"))  # 1.125 and 1.375 seconds
    _table(data, "07E49,train,300,900,red thing", "83654,test,500,1200,red thing", "83654,test,0,900,blue thing")
    words = (
        r"table.csv: 2 of 3 labels begin after the end of their video \(07E49 ends at 1.125 s, its label 'red thing' "
    )
    words += (
        r"is from 300 to 900\); these look like milliseconds, .* divide them by 1000; nothing is planned: more than "
    )
    with pytest.raises(StageError, match=words + r"data.max_past_end = 0.1 allows$"):
        prepare.run(tiny_config(data), tmp_path / "run")
    assert not (tmp_path / "run" / "plan").exists()
    summary = prepare.run(tiny_config(data, data={"max_past_end": 0.7}), tmp_path / "run").summary
    assert "; 2 of 3 labels begin after the end of their video (07E49 ends" in summary
    inside = [f"07E49,train,0.{number:02d},0.9,red thing" for number in range(1, 20)]
    _table(data, *inside, "83654,test,1.375,2,red thing")
    assert (
        "1 of 20 labels begin after the end of their video (83654"
        in prepare.run(tiny_config(data), tmp_path / "run").summary
    )
    _table(data, *inside, "83654,test,1.3,2,red thing")
    assert "labels begin after" not in prepare.run(tiny_config(data), tmp_path / "run").summary


def test_labels_are_placed_by_the_times_of_frames(tmp_path):
    """At the video's own rate, where that varies: frame 6 is shown at 1.28 s, not at 6 / 25."""
    data = make_data(tmp_path / "data", ("07E49", "83654"))
    (data / "07E49.mp4").unlink()
    milliseconds = [0, 40, 80, 120, 1200, 1240, 1280, 1320, 1360, 1400]
    frames = [numbered_frame(number, (48, 80)) for number in range(10)]
    path = write_video(data / "07E49.mkv", frames, 25, pts=milliseconds, time_base=Fraction(1, 1000))
    _table(data, "07E49,train,1.19,1.3,red thing", "83654,test,0,0.5,red thing")
    config = tiny_config(data, clips={"fps": 0.0})
    prepare.run(config, tmp_path / "run")
    labelled = {4, 5, 6}
    run = open_folder(tmp_path / "run", config)
    (part,) = run.parts_of("train")
    for row in range(part.num_rows):
        wanted = [index in labelled for index in part.clip(row).frame_indices]
        assert run.annotations.clip_targets(part, [row])[1][0, :, 0].tolist() == wanted
    base = BaseClips(run, config)
    for epoch in range(3):
        start = train_window(10, 4, row_generator(config.seed, "07E49 base", 0, epoch))
        found = base.load(epoch, [0]).frame_targets[0, :, 0].tolist()
        assert found == [index in labelled for index in range(start, start + 4)]
    online = SimpleNamespace(annotations=run.annotations, config=config, videos=base.videos)
    online._decode = lambda video, epoch: OnlineClips._decode(online, video, epoch)
    batch = OnlineClips.load(online, 0, [0])
    wanted = [index in labelled for index in batch.source.clips[0].frame_indices]
    assert batch.frame_targets[0, :, 0].tolist() == wanted
    assert read_labels(tmp_path / "run").seconds("07E49", [4, 6], 25.0).tolist() == [1.2, 1.28]
    before = tree(tmp_path / "run")
    prepare.run(config, tmp_path / "run")  # knows the times without decoding
    assert tree(tmp_path / "run") == before and "run/frame_times.csv" in before
    (window,) = read_windows(video_of("07E49", path, probe(path), config.clips, 0.0), [3], config.clips)
    assert (window.start, window.end) == (0.12, 1.32)  # frames 3 to 6
    steady = tiny_config(data)
    prepare.run(steady, tmp_path / "steady")
    assert not (tmp_path / "steady" / "frame_times.csv").exists()


def test_what_is_odd_about_a_video_is_told(tmp_path, caplog):
    """In videos.csv and in a warning: which stream, how late the first picture, a jump of the clock, one file twice."""
    data = make_data(tmp_path / "data", ("07E49", "150E6", "00007", "83654", "T0002"))
    pictures = [numbered_frame(number, (48, 80)) for number in range(20)]
    for video_id in ("150E6", "00007"):
        (data / f"{video_id}.mp4").unlink()
    write_streams(data / "150E6.mkv", [[one[::2, ::2] for one in pictures], pictures], sound=7, start=5)
    write_video(data / "00007.mkv", pictures, 10, pts=[*range(10), *range(600, 610)])
    shutil.copy(data / "07E49.mp4", data / "83654.mp4")
    config = tiny_config(data)
    with caplog.at_level(logging.WARNING):
        prepare.run(config, tmp_path / "run")
    found = table(tmp_path / "run" / "videos.csv").set_index("video_id")
    assert found.video_stream.to_dict() == dict.fromkeys(found.index, "") | {"150E6": "v:1 of 2"}
    assert found.first_frame.astype(float).to_dict() == dict.fromkeys(found.index, 0) | {"150E6": 5}
    assert found.longest_gap.astype(float)["00007"] == pytest.approx(59.1)
    for words in (
        "1 of 5 videos have several video streams, the largest is taken (video_stream in videos.csv); ",
        "1 of 5 videos stand still for long, as where a clock jumps (longest_gap in videos.csv, seconds); ",
        "1 of 5 videos begin with sound, or with pictures before the first key frame (first_frame in videos.csv",
        "2 videos are the same file in training and in evaluation, so that scores are too high: "
        "07E49 (train), 83654 (test)",
    ):
        assert words in caplog.text
    # a run that was prepared before knows none of this, and its table stays as it is
    older = table(tmp_path / "run" / "videos.csv").drop(
        columns=["video_stream", "first_frame", "longest_gap", "pictures"]
    )
    (tmp_path / "run" / "tables.json").unlink()
    older.to_csv(tmp_path / "run" / "videos.csv", index=False)
    before = (tmp_path / "run" / "videos.csv").read_bytes()
    with mock.patch.object(sandbox.Prober, "probe", None):
        prepare.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "videos.csv").read_bytes() == before


def test_a_folder_of_links(tmp_path):
    """To videos on another disk: refused by a message that names the setting; read by every stage with it."""
    data = make_data(tmp_path / "data", ("07E49", "83654"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(data / "83654.mp4", tmp_path / "elsewhere" / "x.mp4")
    (data / "83654.mp4").symlink_to(tmp_path / "elsewhere" / "x.mp4")
    with pytest.raises(StageError, match=r"1 UnsafePath; the first: .* data.follow_links = true"):
        prepare.run(tiny_config(data), tmp_path / "no")
    assert "data.follow_links = true" in table(tmp_path / "no" / "skipped.csv").detail[0]
    config = tiny_config(data, data={"follow_links": True})
    assert "2 videos (1 train, 1 test)" in prepare.run(config, tmp_path / "run").summary
    assert table(tmp_path / "run" / "videos.csv").path.tolist() == ["07E49.mp4", "83654.mp4"]
    (part,) = open_folder(tmp_path / "run", config).parts_of("test")
    assert len(list(input_clips(part, [0, 1], video_folder(config.data)))) == 2
    with pytest.raises(UnsafePath, match=r"83654.mp4 leads out of"):
        list(input_clips(part, [0, 1], video_folder(tiny_config(data).data)))


def test_eval_ids_move_videos(tiny_run, tmp_path):
    prepare.run(change(tiny_run.config, data={"eval_ids": ("07E49",)}), tmp_path / "run")
    train, test = read_plan(tmp_path / "run")
    assert "07E49" not in train.video_ids and test.video_ids.count("07E49") == 2
    found = table(tmp_path / "run" / "labels.csv")
    assert found.split[found.video_id == "07E49"].tolist() == ["test"]
    with pytest.raises(StageError, match=r"--eval-ids: XXXXX not in the annotations"):
        prepare.run(change(tiny_run.config, data={"eval_ids": ("XXXXX",)}), tmp_path / "run")


def test_labels_of_charades_survive_the_snapshot(tmp_path):
    """Reversed, past the end, cut at the end, twice, none: equal targets of videos and of frames."""
    rows = [
        charades_row("07E49", [(0, 1.25, 3.5), (1, 4, 2), (2, 0, 99), (0, 1.25, 3.5)], 6),
        charades_row("150E6", [(1, 9, 12)], 6),
        charades_row("NA", [], 6),
    ]
    write_charades_csv(tmp_path / "train.csv", rows)
    write_charades_csv(tmp_path / "test.csv", [charades_row("null", [(2, 0.1, 0.2)], 6)])
    (tmp_path / "names.txt").write_text("c000 a\nc001 b, with a comma\nc002 c\n")
    official = read_charades(tmp_path / "train.csv", tmp_path / "test.csv", tmp_path / "names.txt")
    (tmp_path / "labels.csv").write_bytes(labels_csv(official))
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in official.classes))
    ours = read_plain(tmp_path / "labels.csv", tmp_path / "classes.txt")
    ids = ["07E49", "150E6", "NA", "null"]
    assert ours.videos.video_id.tolist() == ids and ours.classes == official.classes
    assert ours.video_targets(ids).tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    times = np.arange(0, 8, 0.05)
    for video_id in ids:
        assert np.array_equal(ours.frame_targets(video_id, times), official.frame_targets(video_id, times))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"annotations": ()}, "format plain takes 1 file"),
        ({"annotations": ("gone.csv",)}, "gone.csv: no such annotation file"),
        ({"annotations": ("gone.csv",)}, r"relative to /.*, where the command was started\)$"),
        ({"annotations": ("/gone.csv",)}, "^/gone.csv: no such annotation file$"),
        ({"classes": ""}, "data.classes: no such annotation file$"),
        (
            {"format": "charades", "annotations": ("/a.csv", "/b.csv"), "classes": "/c.txt"},
            r"^/a.csv, /b.csv, /c.txt: .*; Charades.zip, from https://\S*charades .*README.md\), holds them$",
        ),
    ],
)
def test_annotations_that_are_not_there(tiny_run, setting, words):
    with pytest.raises(StageError, match=words):
        read_annotations(change(tiny_run.config, data=setting).data)


def test_a_table_without_videos(tiny_run, tmp_path):
    (tmp_path / "table.csv").write_text("video_id,split,start,end,label\n")
    with pytest.raises(StageError, match=r"table.csv: no video, nothing below the header"):
        prepare.run(change(tiny_run.config, data={"annotations": (str(tmp_path / "table.csv"),)}), tmp_path / "run")


def test_a_split_without_videos_is_warned_of(tmp_path, caplog):
    """Later stages refuse it, but --extend may still add some."""
    prepare.run(tiny_config(make_data(tmp_path / "data", ("07E49",))), tmp_path / "run")
    assert "the plan has no test video: nothing can be evaluated; --extend adds videos" in caplog.text


def test_extend_adds_rows_and_touches_nothing(tiny_copy, tmp_path, more_videos, monkeypatch):
    """Three videos and one augmentation seed more: earlier files keep every byte, only the new rows are computed."""
    data = tmp_path / "data"
    shutil.copytree(tiny_copy.data, data)
    config = change(tiny_copy.config, data=vars(tiny_config(data).data))
    before, finished = caches(tiny_copy.path), read_plan(tiny_copy.path)
    for video_id in LATE:
        make_video(data, video_id)
    text = (data / "table.csv").read_text()
    lines = [f"{one},{LATE[one][0]},,,{CLASSES[index]}" for one in LATE for index in LATE[one][4]]
    (data / "table.csv").write_text(text + "\n".join(lines) + "\n")
    config = change(config, clips={"aug_seeds": 3})

    probed, decoded = [], []
    _spy(monkeypatch, sandbox.Prober, "probe", lambda _, path, *__: probed.append(path.stem))
    _spy(monkeypatch, clips, "read_frames", lambda path, *_: decoded.append(path.stem))
    outcome = prepare.run(config, tiny_copy.path, extend=True)
    assert sorted(probed) == sorted(LATE)
    assert "10 videos (6 train, 4 test)" in outcome.summary

    parts = read_plan(tiny_copy.path)
    assert [part.name[5:] for part in parts] == ["000-train", "001-test", "002-train", "003-train", "004-test"]
    for old, new in zip(finished, parts[:2], strict=True):
        assert old.rows.equals(new.rows) and old.offset == new.offset
    rows = {(one, aug) for part in parts for one, aug in zip(part.video_ids, part.rows.aug_index, strict=True)}
    train = [one for one in VIDEOS if VIDEOS[one][0] == "train"]
    assert rows >= {(one, aug) for one in train for aug in range(3)}
    assert sum(part.num_rows for part in parts) == 4 * 3 + 2 * 3 + (3 + 1) * 2

    assert train_base.run(config, tiny_copy.path).summary.startswith("already trained")
    assert saliency.run(config, tiny_copy.path).summary.startswith("12 of 26 rows computed now")
    assert crops.run(config, tiny_copy.path, ("entropy",)).summary.startswith("12 rows cut now")
    known = [one for one in train if one not in LATE]
    # both stages decode an old training video for its new seed, a new one for all its rows
    assert sorted(decoded) == sorted(2 * (known + list(LATE)))
    after = caches(tiny_copy.path)
    assert before.items() <= after.items()
    assert len(after) > len(before)

    bases = [load_base(open_folder(tiny_copy.path, one), one) for one in (config, tiny_copy.config)]
    assert bases[0].sha256 == bases[1].sha256
    assert "on 6 videos" in train_fusion.run(config, tiny_copy.path, "late").summary
    found = pd.read_csv(evaluate.run(config, tiny_copy.path).path)
    assert set(found.num_videos) == {3, 4}  # results of the smaller plan keep their rows


def _spy(monkeypatch, owner, name, see):
    """Let `see` have the arguments of every call."""
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **named: (see(*args, **named), real(*args, **named))[1])


def test_new_rows_equal_those_of_a_plan_made_at_once(tiny_run, tmp_path):
    """Augmentation 2 is the same whether it was planned first or later."""
    config = change(tiny_run.config, clips={"aug_seeds": 3})
    prepare.run(tiny_run.config, tmp_path / "grown")
    prepare.run(config, tmp_path / "grown", extend=True)
    prepare.run(config, tmp_path / "whole")
    keys = ["video_id", "clip_index", "aug_index"]
    grown, whole = (
        pd.concat([part.rows for part in read_plan(tmp_path / name)]).sort_values(keys, ignore_index=True)
        for name in ("grown", "whole")
    )
    assert grown.equals(whole) and len(grown) == 4 * 3 + 3 * 2


def test_extend_refuses_what_would_move_earlier_rows(tiny_copy):
    before = caches(tiny_copy.path)
    for section, words in (
        ({"clips": {"eval_clips": 3}}, r"clips.eval_clips: 3, the plan has 2"),
        ({"data": {"eval_ids": ("07E49",)}}, "07E49: planned for train"),
    ):
        with pytest.raises(StageError, match=words):
            prepare.run(change(tiny_copy.config, **section), tiny_copy.path, extend=True)
    with pytest.raises(StaleCacheError, match="resized_side: 32 != 40"):
        prepare.run(change(tiny_copy.config, clips={"resized_side": 40}), tiny_copy.path, extend=True)
    with pytest.raises(CacheError, match="no plan"):
        prepare.run(tiny_copy.config, tiny_copy.path / "nothing", extend=True)
    assert caches(tiny_copy.path) == before


def test_stages_refuse_a_config_with_other_clips(tiny_run):
    config = change(tiny_run.config, clips={"fps": 12.0})
    with pytest.raises(StaleCacheError, match=r"fps: 8.0 != 12.0; use another --run"):
        saliency.run(config, tiny_run.path)


@pytest.mark.parametrize("extend", [False, True])
def test_a_video_that_may_not_be_read_any_more_is_left_out_by_name(tiny_copy, monkeypatch, extend):
    """A repeated `prepare` compares its content first, and decodes nothing."""

    def refuse(path):
        if path.stem == "NA":
            raise PermissionError(13, "Permission denied", str(path))
        return file_sha256(path)

    monkeypatch.setattr("pipeline.run.plan_rows.file_sha256", refuse)
    with pytest.raises(StageError, match="1 of 7 videos fail"):
        prepare.run(change(tiny_copy.config, data={"max_skipped": 0.1}), tiny_copy.path, extend)
    line = pd.read_csv(tiny_copy.path / "skipped.csv", keep_default_na=False).iloc[0]
    assert line["reason"] == "VideoUnreadable" and line["detail"].endswith("NA.mp4: Permission denied")


def test_a_large_plan_has_several_parts_and_gives_the_same(tiny_run, tmp_path, monkeypatch):
    """Parts of whole units, each read when its turn comes; rows, maps and scores are those of one part."""
    (one, test) = read_plan(tiny_run.path)
    monkeypatch.setattr(prepare, "MOST_ROWS", max(one.rows_per_unit, test.rows_per_unit))
    monkeypatch.setattr(plan_files, "READ_AT_ONCE", 0)
    run, config = tmp_path / "run", tiny_run.config
    prepare.run(config, run)
    before = tree(run / "plan")
    parts = read_plan(run)
    assert [part.name for part in parts] == [f"part-{number:03d}-{part.split}" for number, part in enumerate(parts)]
    for whole in (one, test):
        portions = [part for part in parts if part.split == whole.split]
        assert [part.num_rows for part in portions] == [len(whole.unit_rows(unit)) for unit in range(whole.num_units)]
        rows = pd.concat([part.rows for part in portions], ignore_index=True)
        pd.testing.assert_frame_equal(rows, whole.rows)
    run_all(config, run)
    for product, name in (("base", "logits"), ("maps", "codes"), ("boxes", "box_source")):
        ours, theirs = cache.open(run), cache.open(tiny_run.path)
        found = [opened.read(product, name, range(opened.num_rows)) for opened in (ours, theirs)]
        np.testing.assert_array_equal(*found)
    scores = [
        next(folder.glob("results/late-entropy-source-*.scores.txt")).read_text() for folder in (run, tiny_run.path)
    ]
    assert scores[0] == scores[1]
    monkeypatch.setattr(prepare, "MOST_ROWS", 1)  # as of a run from before there was a limit
    prepare.run(config, run)
    assert tree(run / "plan") == before
