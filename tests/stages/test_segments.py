"""Segments of one long recording as samples, through all stages."""

import zlib
from bisect import bisect_right
from collections import Counter
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from pipeline.data import shared_decode
from pipeline.data.label_files import read_annotations
from pipeline.data.video import frames, seek
from pipeline.data.video.sandbox import Prober
from pipeline.errors import StageError
from pipeline.preflight.counts import count
from pipeline.preflight.rehearsal import spare_config
from pipeline.run.folder import open_folder
from pipeline.run.stores import open_stores
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from tests.helpers.make_video import write_video
from tests.helpers.tiny_data import CLASSES, tiny_config, tree

SOURCE_FPS = 10
GROUP = 20  # frames from one key frame to the next


def write_recording(path, seconds):
    """A recording with B-frames across its key frames (open groups of pictures), one every two seconds."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (48, 64, 3), np.uint8)
    shown = [np.roll(picture, (number, 3 * number), (0, 1)) for number in range(seconds * SOURCE_FPS)]
    rule = f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:open-gop=1:bframes=3:b-adapt=0"
    return write_video(path, shown, SOURCE_FPS, options={"preset": "superfast", "x264-params": rule})


def write_table(folder, segments, split_at):
    """segments: (start, end); those that begin before split_at are trained on."""
    folder.joinpath("classes.txt").write_text("\n".join(CLASSES) + "\n")
    lines = ["video_id,segment_id,split,start,end,label"]
    for number, (start, end) in enumerate(segments):
        split = "train" if not isinstance(start, str) and start < split_at else "test"
        lines.append(f"P01,s{number:03d},{split},{start},{end},{CLASSES[number % len(CLASSES)]}")
    (folder / "table.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")


def whole(path):
    """(start in seconds, CRC-32) of every frame of a forward decode."""
    return [(start, zlib.crc32(pixels())) for start, _, pixels in frames.timeline(path, "pts", None)]


class Counted:
    """Counts the frames that Cursors decode, by time, and the videos that `prepare` decodes."""

    def __init__(self, monkeypatch):
        self.frames, self.probed, real, ask = Counter(), [], seek.decoded, Prober._ask

        def decoded(path, container, stream, *chosen):
            for frame in real(path, container, stream, *chosen):
                self.frames[frame.pts] += bool(chosen)  # without: the first frame alone, for its time
                yield frame

        def counted(path, container, stream):
            for frame in real(path, container, stream):
                self.frames[frame.pts] += 1
                yield frame

        monkeypatch.setattr(seek, "decoded", decoded)
        monkeypatch.setattr(frames, "decoded", counted)
        monkeypatch.setattr(Prober, "_ask", lambda *args: self.probed.append(args[1].name) or ask(*args))

    def taken(self) -> Counter:
        shared_decode._kept.clear()
        found, self.frames = self.frames, Counter()
        return found


def check_recording(folder, seconds, segments, split_at, monkeypatch):
    """All stages on one recording: each range of key frames decoded once a stage, frames those of a forward decode."""
    path = write_recording(folder / "P01.mp4", seconds)
    write_table(folder, segments, split_at)
    clips = {"fps": 8.0, "num_frames": 4, "aug_seeds": 2, "eval_clips": 2, "resize": "square"}
    config = tiny_config(
        folder,
        clips=clips,
        base={"epochs": 1, "drop_epochs": (), "in_memory": True},
        fusion={"epochs": 1, "drop_epochs": ()},
    )
    run, counted = folder / "run", Counted(monkeypatch)
    assert prepare.run(config, run).num_skipped == 0
    assert counted.probed == ["P01.mp4"]
    train_base.run(config, run)
    counts = [counted.taken()]
    saliency.run(config, run)
    counts.append(counted.taken())
    crops.run(config, run, ("entropy",))
    counts.append(counted.taken())
    for one in counts:
        assert max(one.values()) == 1
    train_fusion.run(config, run, "late")
    evaluate.run(config, run)
    assert not counted.taken()
    stores, shown = open_stores(open_folder(run, config), config), whole(path)
    starts, sums = zip(*shown, strict=True)
    table = pd.read_csv(run / "videos.csv", dtype={"video_id": str}).set_index("video_id")
    for part in stores.run.parts:
        assert not stores.base(part).product.skips() and not stores.context(part).product.skips()
        crc = stores.base(part).read_rows("frame_crc", np.arange(part.num_rows))
        for row in range(part.num_rows):
            clip = part.clip(row)
            start = Fraction(table.path[clip.video_id].partition("#t=")[2].partition(",")[0])
            moments = [start + Fraction(index, 8) for index in clip.frame_indices]
            assert crc[row].tolist() == [sums[bisect_right(starts, moment) - 1] for moment in moments]
    return config, run, table, counts[1]


SEGMENTS = [(1, 3.5), (3, 6), (3.25, 4), (6, 8), (14.6, 15), (15, 20.4), (21, 24), (30, 39.5)]  # of 40 s: training
SEGMENTS += [(40, 44), (43.5, 46), (51, 52.2), ("00:00:58.00", "00:01:05.5")]


def test_a_recording_with_segments(tmp_path, monkeypatch):
    """What lies between segments is not decoded, what two share is decoded once; the last is cut at the end."""
    config, run, table, decoded = check_recording(tmp_path, 60, SEGMENTS, 40, monkeypatch)
    seconds = {pts // 1024 / SOURCE_FPS for pts in decoded}
    # the last frame before 24 s, the one that shows that it has ended, and what the decoder gives with it
    assert not [one for one in seconds if 24.1 < one < 30 or 8.2 < one < 14 or 46.2 < one < 50]
    assert table.index.tolist() == [f"s{number:03d}" for number in range(12)]  # by their starts
    assert table.duration_seconds.tolist() == [2.5, 3, 0.75, 2, 0.4, 5.4, 3, 9.5, 4, 2.5, 1.2, 2]
    assert table.num_frames.tolist() == [20, 24, 6, 16, 4, 44, 24, 76, 32, 20, 10, 16]
    assert (table.labels == 1).all() and table.path["s011"] == "P01.mp4#t=58,65.5"
    assert (run / "labels.csv").read_text().splitlines()[1] == "s000,train,,,red thing"
    results = pd.read_csv(run / "results.csv").set_index("experiment")
    assert results.num_videos.tolist() == [4, 4] and results.num_missing.tolist() == [0, 0]
    before = tree(run)
    monkeypatch.setattr(Prober, "_ask", None)  # nothing is decoded again
    prepare.run(config, run)
    assert tree(run) == before


def test_plan_and_doctor_know_segments(tmp_path):
    """Before `prepare` by the table, after it by the plan; a rehearsal's table has the same segments."""
    write_recording(tmp_path / "P01.mp4", 12)
    write_table(tmp_path, [(0, 2), (1, 3), (6, 8), (20, 21)], 6)
    config, run = tiny_config(tmp_path, data={"max_skipped": 1.0}), tmp_path / "run"
    before = count(config, run)
    assert before.video_ids == {"train": ["s000", "s001"], "test": ["s002", "s003"]} and not before.missing
    prepare.run(config, run)
    after = count(config, run)
    assert after.video_ids == {"train": ["s000", "s001"], "test": ["s002"]} and after.missing == ["s003"]
    assert (run / "skipped.csv").read_text().splitlines()[1].startswith('s003,test,SegmentOutside,"P01: a segment')
    for number, counts in enumerate((before, after)):
        spare = spare_config(config, counts, {"train": "s001", "test": "s002"}, 3, tmp_path / str(number))
        found = read_annotations(spare.data)
        assert {"s001", "s002"} <= set(found.videos.video_id)
        assert (found.source("s001").start, found.source("s001").end) == (1, 3)
    with pytest.raises(StageError, match=r"clips\.fps: expected a rate with segments"):
        prepare.run(tiny_config(tmp_path, clips={"fps": 0.0}), tmp_path / "other")


@pytest.mark.full
def test_twenty_minutes_with_three_hundred_segments(tmp_path, monkeypatch):
    chance = np.random.default_rng(0)
    starts = np.sort(chance.uniform(0, 1194, 300)).round(2).tolist()
    segments = [(start, round(start + 2 + number % 5, 2)) for number, start in enumerate(starts)]
    # each split decodes what it shows: what one has, the other has not
    ends = {True: 899, False: 1200}
    segments = [(start, min(end, ends[start < 900])) for start, end in segments if not 898 < start < 900]
    _, _, table, decoded = check_recording(tmp_path, 1200, segments, 900, monkeypatch)
    assert len(table) == len(segments) >= 295 and sum(decoded.values()) <= 12_000
