"""The claims of the README's first numbers hold, there and here: order and margins, not digits; and of predictions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data.video.frames import read_frames
from pipeline.data.video.probe import probe
from pipeline.data.video.write import write_video
from tests.helpers.readme import ROOT, text_of

ROW = re.compile(r"^ *(base|concat-entropy-source|late-entropy-source) +0 +([0-9.]+) .* ([0-9.]+|-)$", re.MULTILINE)
CEILING = re.compile(r"cannot read their print reaches ([0-9.]+) mAP at most")
MARGIN, ON_TARGET = 25, 85  # points of mAP, per cent


def check_claim(base: float, fused: list[float], ceiling: float, on_target: list[float]) -> None:
    """Looking once is worth what colours tell; looking twice reads the prints, for the boxes hold the cards."""
    assert base <= ceiling + 3, "the network that looks once reads prints"
    assert min(fused) >= base + MARGIN and min(on_target) >= ON_TARGET
    assert len(fused) == len(on_target) == 2


def check_output(text: str) -> None:
    rows = {name: (float(score), hits) for name, score, hits in ROW.findall(text)}
    base, _ = rows.pop("base")
    fused, hits = zip(*rows.values(), strict=True)
    check_claim(base, list(fused), float(CEILING.search(text)[1]), [float(one) for one in hits])


def test_the_readme_prints_what_it_claims():
    """Its table keeps the margins that it says hold on every machine."""
    text = text_of("README.md")
    check_output(text)
    assert f"{MARGIN} points between `base` and the others, {ON_TARGET} % on target" in " ".join(text.split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which `make demo` has run, from nothing, and what it printed; in the tests below, which train:
    make test ARGS="-n 0 --full tests/recipes/test_demo.py"."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, command("demo", cwd=folder)


def command(*words: object, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "pipeline", *map(str, words)]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
def test_the_demo_keeps_the_claim(demo):
    check_output(demo[1])


def join(first: Path, second: Path, path: Path) -> tuple[float, float]:
    """Write one video after the other at the size and rate of the first; return when each ends, seconds."""
    info, frames, ends = probe(first), [], []
    for place in (first, second):
        slots = range(int(probe(place).duration_seconds * info.source_fps))
        shown = (frame for _, frame in read_frames(place, slots, info.source_fps))
        frames += [np.asarray(Image.fromarray(frame).resize((info.width, info.height))) for frame in shown]
        ends.append(len(frames) / float(info.source_fps))
    write_video(path, frames, int(info.source_fps))
    return tuple(ends)


def overlap(segments: pd.DataFrame, start: float, end: float) -> float:
    """Intersection over union of segments, which do not overlap each other, and a stretch of time."""
    length = (segments.end - segments.start).sum()
    common = (segments.end.clip(upper=end) - segments.start.clip(lower=start)).clip(lower=0).sum()
    return common / (length + end - start - common)


@pytest.mark.full
def test_labels_of_joined_videos_are_found_where_they_are(demo, tmp_path):
    """Of 50 files of two videos each: how much of its truth the timeline covers, for each of the 100 labels."""
    run = demo[0] / "runs/miniature"
    videos = pd.read_csv(run / "videos.csv").set_index("video_id")
    labels = pd.read_csv(run / "labels.csv").query("split == 'test'").drop_duplicates("video_id", keep=False)
    lasts = labels.end >= labels.video_id.map(videos.duration_seconds) - 0.01  # from begin to end
    labels, truth = labels[lasts & (labels.start == 0)], []
    for number in range(50):
        first = labels.iloc[number]
        second = labels[labels.label != first.label].iloc[-1 - number]
        paths = [demo[0] / "runs/miniature-data" / f"{one.video_id}.mp4" for one in (first, second)]
        middle, end = join(*paths, tmp_path / f"joined{number:02d}.mp4")
        truth += [(number, first.label, 0.0, middle), (number, second.label, middle, end)]
    command("evaluate", "--thresholds", cwd=demo[0])
    command("predict", tmp_path, "--run", run, "--out", tmp_path / "found", cwd=demo[0])
    timeline = pd.read_csv(tmp_path / "found/timeline.csv")
    found = dict(iter(timeline.groupby(["video_id", "label"])))
    none = pd.DataFrame({"start": [], "end": []})
    covered = [overlap(found.get((f"joined{n:02d}", label), none), *times) for n, label, *times in truth]
    print(f"mean overlap {np.mean(covered):.3f}, {np.mean(np.array(covered) > 0):.0%} of the labels found")
    assert np.mean(covered) >= 0.7
