"""An untouched folder of real videos: all codecs, rates and sizes, two of them broken."""

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.data.video.probe import probe

DATA = Path(__file__).parents[3] / "shared/data/videos"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def test_a_folder_of_real_videos(tiny_run, tmp_path):
    arguments = ["predict", DATA, "--run", tiny_run.path, "--out", tmp_path, "--stride", "2", "--devices", "cpu"]
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 3, result.output
    failed = pd.read_csv(tmp_path / "failed.csv").set_index("path").reason
    assert {Path(path).name: reason for path, reason in failed.items()} == {
        "decord__corrupted.mp4": "VideoTruncated", "io__gs-16b-2c-44100hz.mp4": "VideoAudioOnly"
    }  # fmt: skip
    boxes = pd.read_csv(tmp_path / "boxes.csv")
    paths = pd.read_csv(tmp_path / "videos.csv").drop_duplicates("video_id").set_index("video_id").path
    assert len(paths) == len([one for one in DATA.iterdir() if one.suffix in (".mp4", ".mov", ".mkv", ".avi")]) - 2
    for video_id, own in boxes.groupby("video_id"):
        info = probe(Path(paths[video_id]))
        assert own.start.iloc[0] == 0 and abs(own.end.iloc[-1] - float(info.duration_seconds)) <= 1 / 8 + 1e-3
        assert (own.top + own.height).max() <= info.height and (own.left + own.width).max() <= info.width
