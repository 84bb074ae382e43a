"""Which files are meant, and what they are called."""

import pytest

from pipeline.errors import StageError
from pipeline.predict.sources import find_sources


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def test_files_folders_frames_and_lists(tmp_path):
    touch(tmp_path / "b.MP4", tmp_path / "deep/er/a.mkv", tmp_path / "notes.txt", tmp_path / ".hidden.mp4")
    touch(tmp_path / "deep/frames/frames-000001.jpg", tmp_path / "deep/frames/inside.mp4", tmp_path / "deep/.x/y.mp4")
    touch(tmp_path / "deep/photo-1.jpg", tmp_path / "odd.xyz")
    found = find_sources([tmp_path])
    assert [(one.video_id, str(one.path.relative_to(tmp_path))) for one in found] == [
        ("b", "b.MP4"), ("a", "deep/er/a.mkv"), ("frames", "deep/frames"), ("inside", "deep/frames/inside.mp4"),
    ]  # fmt: skip
    (tmp_path / "list.txt").write_text("deep/er/a.mkv\n\nodd.xyz\ndeep\n", encoding="utf-8-sig")
    found = find_sources([tmp_path / "odd.xyz", tmp_path / "list.txt", str(tmp_path / "b.MP4")])
    assert [one.video_id for one in found] == ["odd", "a", "frames", "inside", "b"]


def test_names_become_ids_that_differ(tmp_path):
    names = ["my holiday (1).mp4", "A.mp4", "x/a.mp4", "y/a.avi", "Zürich..2.mp4", "-.mp4"]
    places = touch(*(tmp_path / name for name in names))
    found = [one.video_id for one in find_sources(places)]
    assert found == ["my_holiday__1", "A", "a-2", "a-3", "Z_rich.2", "video"]


def test_a_list_without_videos(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(StageError, match="a list without videos"):
        find_sources([tmp_path / "empty.txt"])
    (tmp_path / "loop.txt").write_text("loop.txt\n")
    assert [one.path.name for one in find_sources([tmp_path / "loop.txt"])] == ["loop.txt"]  # a video, as it turns out
