"""One decode door: every command that decodes compares a video with the one that `prepare` saw."""

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from pipeline.data import clips
from pipeline.errors import VideoChanged
from pipeline.run.folder import open_folder
from pipeline.stages import prepare, train_base
from pipeline.training.base_clips import BaseClips
from tests.cli.test_commands import call, config_file
from tests.conftest import TinyRun
from tests.helpers.make_video import replace_video, write_video
from tests.helpers.tiny_data import VIDEOS, change, make_data, picture, tiny_config

ROOT = Path(__file__).parents[2]
CHANGED = "150E6"  # a training video
SAME_SIZE, OTHER_SIZE = "has other content than when it was prepared", r"has \d+ bytes, \d+ when it was prepared"


def change_video(run, same_size):
    """Put a video with other pixels, and as many of them, in place of CHANGED; returns its path.

    A decoder takes it like the first one: only a comparison can refuse it.
    """
    path, (_, _, fps, count, _) = run.data / f"{CHANGED}.mp4", VIDEOS[CHANGED]
    frames, size = [picture(CHANGED, number) for number in range(count)], path.stat().st_size
    if same_size:
        replace_video(path, frames, fps)
    else:
        write_video(path, frames, fps, options={"crf": "30"})
    assert (path.stat().st_size == size) is same_size
    return path


same_size_or_not = pytest.mark.parametrize("same_size", [True, False], ids=["same-size", "other-size"])


@pytest.mark.parametrize(
    ("command", "sections"),
    [
        (("train-base",), {"seed": 1}),  # another seed than that of the Base which is there
        (("train-base",), {"seed": 1, "base": {"loader_workers": 1}}),
        (("train-base",), {"seed": 1, "base": {"in_memory": True}}),
        (("train-base",), {"seed": 1, "base": {"in_memory": True}, "workers": 2}),
        (("train-fusion", "--online", "--fusion", "late"), {}),
        (("train-fusion", "--online", "--fusion", "concat", "--saliency-from", "current"), {}),
        (("train-fusion", "--online", "--fusion", "late"), {"fusion": {"loader_workers": 1}}),
    ],
    ids=["base", "base-loader", "base-in-memory", "base-in-memory-2", "online-base", "online-current", "online-loader"],
)
@same_size_or_not
def test_training_refuses_a_changed_video(own_videos, command, sections, same_size):
    """Exit code 4, the file named, and no network trained."""
    path = change_video(own_videos, same_size)
    before = sorted(own_videos.path.glob("models/*/*.json"))
    common = ("--config", config_file(own_videos, **sections), "--run", own_videos.path)
    code, output = call(*command, *common)
    assert code == 4, output
    assert_names(output, path, same_size)
    assert sorted(own_videos.path.glob("models/*/*.json")) == before


def assert_names(output, path, same_size):
    """The error's class, the file, and what is wrong with it, in one line."""
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(f"error: VideoChanged: {path} {SAME_SIZE if same_size else OTHER_SIZE}", line)


@same_size_or_not
def test_stages_leave_a_changed_video_out(own_videos, caplog, same_size):
    """Exit code 3; saliency and crops name the video and go on with the others."""
    common = ("--config", config_file(own_videos), "--run", own_videos.path)
    prepared = (own_videos.data / f"{CHANGED}.mp4").read_bytes()

    def leaves_it_out(command):
        path = change_video(own_videos, same_size)
        code, output = call(command, *common)
        assert code == 3 and "1 video(s) left out" in output
        (line,) = [line for line in caplog.messages if " left out: " in line]
        wrong = SAME_SIZE if same_size else OTHER_SIZE
        assert re.fullmatch(f"{CHANGED} left out: VideoChanged: {path} {wrong}", line)
        caplog.clear()
        path.write_bytes(prepared)

    leaves_it_out("saliency")
    assert call("saliency", *common, "--retry-skipped")[0] == 0
    leaves_it_out("crops")
    assert call("crops", *common, "--retry-skipped")[0] == 0


@same_size_or_not
def test_a_video_that_changes_while_it_is_trained_on(own_videos, same_size):
    """The comparison is no matter of the start alone."""
    training = BaseClips(open_folder(own_videos.path, own_videos.config), own_videos.config)
    number = [video.video_id for video in training.videos].index(CHANGED)
    training.load(0, [number])
    path = change_video(own_videos, same_size)
    with pytest.raises(VideoChanged, match=f"^{path} {SAME_SIZE if same_size else OTHER_SIZE}$"):
        training.load(1, [number])


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """A run as it is after train-base, with a training video that is a folder of frames."""
    root = tmp_path_factory.mktemp("framed")
    data = make_data(root / "data", ("07E49", CHANGED, "T0002"))
    (data / f"{CHANGED}.mp4").unlink()
    write_frames(data / CHANGED, [picture(CHANGED, number) for number in range(30)])
    config = tiny_config(data, data={"source_fps": 24.0})
    prepare.run(config, root / "run")
    train_base.run(config, root / "run")
    return TinyRun(data, root / "run", config)


def write_frames(folder, pictures):
    folder.mkdir(exist_ok=True)
    for number, pixels in enumerate(pictures, start=1):
        (folder / f"{folder.name}-{number:06d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels.copy()))


def black_out(folder):
    """As many bytes, names and pixels as before, all of them black."""
    for file in folder.iterdir():
        size, shape = file.stat().st_size, simplejpeg.decode_jpeg(file.read_bytes()).shape
        black = simplejpeg.encode_jpeg(np.zeros(shape, np.uint8))
        file.write_bytes(black + bytes(size - len(black)))


def first_frame(folder):
    return folder / f"{CHANGED}-000001.jpg"


FRAME_CHANGES = {  # what happens to the folder of frames, and what is said of it
    "black": (black_out, "has other content than when it was prepared"),
    "smaller frames": (
        lambda folder: write_frames(folder, [picture(CHANGED, number)[:50, :40] for number in range(30)]),
        r"has \d+ bytes, \d+ when it was prepared",
    ),
    "one frame more": (
        lambda folder: shutil.copy(first_frame(folder), folder / f"{CHANGED}-000031.jpg"),
        r"has \d+ bytes, \d+ when it was prepared",
    ),
    "one frame less": (lambda folder: (folder / f"{CHANGED}-000007.jpg").unlink(), "frame 7 of 1 .. 30 is missing"),
    "two frames swapped": (
        lambda folder: (
            first_frame(folder).rename(folder / "spare"),
            (folder / f"{CHANGED}-000020.jpg").rename(first_frame(folder)),
            (folder / "spare").rename(folder / f"{CHANGED}-000020.jpg"),
        ),
        "has other content than when it was prepared",
    ),
    "a frame that is a pipe": (
        lambda folder: (first_frame(folder).unlink(), os.mkfifo(first_frame(folder))),
        "is not a regular file",
    ),
}


@pytest.mark.parametrize("name", FRAME_CHANGES)
def test_a_folder_of_frames_that_changed(name, framed, tmp_path, caplog):
    """Stages leave it out by name and go on; trainings refuse it; nothing is decoded of it."""
    change_folder, words = FRAME_CHANGES[name]
    shutil.copytree(framed.path, tmp_path / "run")
    shutil.copytree(framed.data, tmp_path / "data")
    run = TinyRun(tmp_path / "data", tmp_path / "run", change(framed.config, data={"videos": str(tmp_path / "data")}))
    whole = ("--config", config_file(run), "--run", run.path)
    assert call("saliency", *whole)[0] == 0  # this process has compared the folder by now
    change_folder(run.data / CHANGED)
    code, output = call("crops", *whole)
    (line,) = [line for line in caplog.messages if " left out: " in line]
    assert code == 3 and "1 video(s) left out" in output
    assert line.startswith(f"{CHANGED} left out: Video") and str(run.data / CHANGED) in line and re.search(words, line)
    for command in (("train-fusion", "--online", "--fusion", "late"), ("train-base", "--set", "seed=1")):
        code, output = call(*command, *whole)
        assert code == 4 and re.search(f"error: Video.*{words}", output), output
    caplog.clear()
    shutil.rmtree(run.path / "base"), shutil.rmtree(run.path / "maps"), shutil.rmtree(run.path / "boxes")
    code, output = call("saliency", *whole)
    assert code == 3 and [one.split()[0] for one in caplog.messages if " left out: " in one] == [CHANGED]


def test_an_unchanged_folder_is_read_once(framed, monkeypatch):
    """Later comparisons read names, sizes, times and inodes only."""
    run = open_folder(framed.path, framed.config)
    (video,) = [one for one in clips.training_videos(run.parts, framed.data) if one.video_id == CHANGED]
    clips.check_unchanged(video)
    monkeypatch.setattr(Path, "read_bytes", None)
    clips.check_unchanged(video)


@pytest.mark.parametrize("reader", ["decode_frames", "input_clips"])
def test_a_video_that_changes_while_it_is_decoded(reader, framed, tmp_path, monkeypatch):
    """The last frames may be of another video by then."""
    shutil.copytree(framed.data, tmp_path / "data")
    part, real = open_folder(framed.path, framed.config).parts[0], clips.read_frames
    row = part.video_ids.index(CHANGED)

    def read_and_change(path, *how):
        yield from real(path, *how)
        black_out(path)

    monkeypatch.setattr(clips, "read_frames", read_and_change)
    video = clips.planned_video(part, row, tmp_path / "data")
    given = (video, [0, 3]) if reader == "decode_frames" else (part, [row], tmp_path / "data")
    with pytest.raises(VideoChanged, match="has other content"):
        list(getattr(clips, reader)(*given))


def test_frames_of_another_size_are_refused_whatever_the_bytes_are(framed, monkeypatch):
    """As of a decoder of another version."""
    run = open_folder(framed.path, framed.config)
    video = clips.training_videos(run.parts, framed.data)[0]
    monkeypatch.setattr(clips, "read_frames", lambda *_: iter([(0, picture(CHANGED, 0)[:9])]))
    with pytest.raises(VideoChanged, match=r"frame 0 is \(9, .*when it was prepared \(height, width\)"):
        list(clips.decode_frames(video, [0]))


def test_what_is_neither_a_file_nor_a_folder(own_videos):
    """A pipe, a socket, an empty folder, links in a circle and to a device, nothing: left out, nothing hangs."""
    places = {one: own_videos.data / f"{one}.mp4" for one in VIDEOS}
    for video_id in VIDEOS.keys() - {"T0003"}:
        places[video_id].unlink()
    os.mkfifo(places["07E49"])
    os.mknod(places["150E6"], stat.S_IFSOCK | 0o600)
    places["00007"].mkdir()
    places["NA"].symlink_to(places["NA"].name)
    places["83654"].symlink_to("/dev/zero")
    command = [sys.executable, "-m", "pipeline", "saliency", "--config", config_file(own_videos)]
    done = subprocess.run(
        [*command, "--run", own_videos.path], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    neither = "VideoMissing: .* is neither a regular file nor a folder of frames"
    reasons = {
        "07E49": neither,
        "150E6": neither,
        "83654": "UnsafePath: .* leads out of",
        "00007": "VideoEmpty: .* holds no frame",
    }
    reasons |= {"NA": "VideoUnreadable: .* levels of symbolic links", "T0002": "VideoMissing: .* does not exist"}
    assert done.returncode == 3 and "6 video(s) left out" in done.stdout + done.stderr, done.stderr
    for video_id, words in reasons.items():
        assert re.search(f"{video_id} left out: {words}", done.stderr), done.stderr


def names_of(source):
    """Every name that some source imports, uses, or looks up in something else."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.name.split(".")[-1] for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_nobody_decodes_beside_the_door():
    """`read_frames` compares nothing: only `decode_frames` may call it, and on files that no plan knows `doctor`, which
    compares decoders, and the miniature, behind whose cards are videos of others."""
    for source in (
        "from a.frames import read_frames as f",
        "import a.frames\na.frames.read_frames(p)",
        "read_frames(p)",
    ):
        assert "read_frames" in names_of(source)
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "pipeline").rglob("*.py")}
    found = {name for name, source in sources.items() if "read_frames" in names_of(source)}
    others = {"pipeline/preflight/other_decoders.py", "pipeline/data/miniature/photos.py"}
    assert found == {"pipeline/data/clips.py", *others}
