"""The benchmarks of stages: key frames give the frames of the forward decoder, and the table finds its place."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import result
from benchmarks.key_frame import clip_frames
from benchmarks.result import BEGIN, END, placed
from benchmarks.rows import ROWS
from benchmarks.scene import make
from pipeline.data.video.frames import read_frames
from tests.helpers.make_video import numbered_frame, write_video


def test_there_are_sixteen_rows():
    assert sorted(ROWS) == list(range(1, 17))


@pytest.mark.parametrize("slots", [[0, 1], [9, 10, 11, 14], [3, 17], [23, 24]])
def test_from_a_key_frame_come_the_frames_of_the_forward_decoder(tmp_path, slots):
    frames = [numbered_frame(number) for number in range(63)]
    path = write_video(tmp_path / "a.mp4", frames, 20, options={"g": "10", "bf": "2"})
    found = dict(clip_frames(path, slots, 8.0))
    wanted = dict(read_frames(path, slots, 8.0))
    assert list(found) == slots == list(wanted)
    assert all(np.array_equal(found[slot], wanted[slot]) for slot in slots)


def test_the_table_replaces_what_stood_between_the_markers():
    page = f"before\n{BEGIN}\nold | table\n{END}\nafter {{}}\n"
    assert placed(page, "| new |\n") == f"before\n{BEGIN}\n| new |\n{END}\nafter {{}}\n"
    assert placed(placed(page, "| new |\n"), "| new |\n") == placed(page, "| new |\n")


def test_the_readme_has_a_place_for_the_table():
    page = (Path(result.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert "| new |" in placed(page, "| new |\n")


@pytest.mark.parametrize("page", ["nothing", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", BEGIN])
def test_a_page_without_its_markers_is_refused(page):
    with pytest.raises(ValueError, match="each once"):
        placed(page, "| new |\n")


def test_the_run_that_rows_are_measured_on(tmp_path):
    scene = make(tmp_path, test=1, seconds=2.0, size=(48, 64), network="small_i3d", input_side=56, resized_side=64)
    (part,) = scene.stores.run.parts_of("test")
    assert (part.num_rows, part.num_frames) == (10, 16) and set(part.video_ids) == {"V00"}
    assert scene.stores.run.classes[3] == "c3" and (scene.videos / "V00.mp4").is_file()
