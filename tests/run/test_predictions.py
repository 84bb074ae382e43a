"""The files of a folder of predictions, one a video."""

import pandas as pd
import pytest

from cache.errors import DamagedError
from pipeline.run.predictions import VideoTable, read_video, write_video


@pytest.mark.parametrize("harm", ["cut", "flipped", "of another program", "empty"])
def test_a_file_of_windows_that_is_damaged_is_named(tmp_path, harm):
    """Whatever PyArrow raises; one that is missing is a missing file."""
    table = pd.DataFrame({"video_id": ["a"] * 99, "start": range(99), "end": range(1, 100), "stirring": 0.5})
    write_video(tmp_path, VideoTable("a.mp4", (48, 64), table, "max"), "key")
    path = tmp_path / "windows.parquet/a.parquet"
    assert read_video(tmp_path, "a").size == (48, 64)
    whole = path.read_bytes()
    if harm == "of another program":
        table.to_parquet(path)
    else:
        flipped = whole[:4] + bytes(byte ^ 255 for byte in whole[4:60]) + whole[60:]
        path.write_bytes({"cut": whole[: len(whole) // 2], "flipped": flipped, "empty": b""}[harm])
    with pytest.raises(DamagedError, match=rf"^{path} is damaged .*; delete it and repeat predict"):
        read_video(tmp_path, "a")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path, "a")
