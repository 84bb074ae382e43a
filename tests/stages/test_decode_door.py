"""One decode door: every command that decodes compares a video with the one that `prepare` saw."""

import ast
import re
from pathlib import Path

import pytest

from pipeline.errors import VideoChanged
from pipeline.run.folder import open_folder
from pipeline.training.base_clips import BaseClips
from tests.cli.test_commands import call, config_file
from tests.helpers.make_video import replace_video, write_video
from tests.helpers.tiny_data import VIDEOS, picture

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
    """`read_frames` compares nothing: only `decode_frames` may call it, and `doctor`, which compares decoders on files
    that no plan knows yet."""
    for source in (
        "from a.frames import read_frames as f",
        "import a.frames\na.frames.read_frames(p)",
        "read_frames(p)",
    ):
        assert "read_frames" in names_of(source)
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "pipeline").rglob("*.py")}
    found = {name for name, source in sources.items() if "read_frames" in names_of(source)}
    assert found == {"pipeline/data/clips.py", "pipeline/preflight/other_decoders.py"}
