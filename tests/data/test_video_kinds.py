"""Every kind of video that people have: the frames, the colours and the times that a player shows, or a named reason.

The kinds are in tests/helpers/odd_videos.py. Each is checked against what was written into it and against FFmpeg's own
program, whose scaler takes untagged colours for BT.601 at any size: where players take BT.709, it is told to.
"""

import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.config import Clips, Config
from pipeline.config_keys import clip_settings
from pipeline.data.clips import planned_video
from pipeline.data.video.container import opened, to_rgb
from pipeline.data.video.find import find_video
from pipeline.data.video.frames import read_frames
from pipeline.data.video.probe import VideoInfo, probe, scan
from pipeline.errors import VideoMissing, VideoUnreadable
from tests.helpers import odd_videos
from tests.helpers.make_video import read_number
from tests.helpers.odd_videos import HAS_FFMPEG, KINDS, NEEDS_FFMPEG, NO_FFMPEG, SIZE, write

COLOURS = 2  # levels of 255 by which frames may differ in the mean
CLOCK = 0.001  # seconds
LUMA = np.array([0.299, 0.587, 0.114])  # BT.601
SHARED = Path(__file__).parents[3] / "shared/data/videos"
UNREADABLE = ("decord__corrupted.mp4", "io__gs-16b-2c-44100hz.mp4")
REAL = [path for path in sorted(SHARED.glob("*")) if path.name not in UNREADABLE]
SATURATED = "torchcodec__h264_10bits.mp4"  # a test pattern: bars of pure colours
needs_ffmpeg = pytest.mark.skipif(not HAS_FFMPEG, reason=NO_FFMPEG)


@dataclass(frozen=True)
class Made:
    """A file as it was made and as it is read."""

    shown: odd_videos.Shown
    info: VideoInfo
    frames: np.ndarray  # uint8 (N, H, W, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that makes a kind and reads it, once."""
    found = {}

    def make(name):
        if name in NEEDS_FFMPEG and not HAS_FFMPEG:
            pytest.skip(NO_FFMPEG)
        if name not in found:
            shown = KINDS[name](tmp_path_factory.mktemp("kind"))
            info = probe(shown.path)
            found[name] = Made(shown, info, frames_of(shown.path, info))
        return found[name]

    return make


def times_of(info):
    """Return the seconds of every frame after the first, as all stages reckon them."""
    return info.times or [float(number / info.source_fps) for number in range(info.num_source_frames)]


def frames_of(path, info, **options):
    slots = range(info.num_source_frames)
    return np.stack([frame for _, frame in read_frames(path, slots, None, info.timing, **options)])


def difference(ours, theirs):
    """Return by how many levels the frames differ in the mean, at most."""
    assert ours.shape == theirs.shape
    return np.abs(ours.astype(float) - theirs).mean((1, 2, 3)).max()


def is_hd(path):
    with opened(path) as (_, stream):
        return stream.width >= 1280 or stream.height > 576


def shown_by_ffmpeg(path, shape, matrix="", most=()):
    """Return FFmpeg's frames, uint8 (N, H, W, 3), and their seconds; `most` are options that end it early."""
    with opened(path) as (_, stream):
        number = stream.index
    scale = f"showinfo,scale=flags=bilinear+accurate_rnd+full_chroma_int{matrix}"
    command = ["ffmpeg", "-i", path, "-map", f"0:{number}", "-fps_mode", "passthrough", *most, "-vf", scale]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True)
    times = [float(found) for found in re.findall(rb"pts_time:\s*(-?[0-9.]+)", done.stderr)]
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *shape), times


@pytest.mark.parametrize("name", KINDS)
def test_what_was_written_is_shown(made, name):
    one = made(name)
    shown, info = one.shown, one.info
    assert scan(shown.path) == info and info.pictures == shown.pictures
    assert info.num_source_frames == len(shown.numbers)
    assert times_of(info) == pytest.approx(shown.times, abs=CLOCK)
    assert one.frames.shape[1:3] == (info.height, info.width)
    assert difference(one.frames, np.stack(shown.frames)) <= 2 * COLOURS  # with the loss of the codec
    upright = not name.startswith(("turned", "mirrored"))
    assert not upright or [read_number(frame) for frame in one.frames] == shown.numbers


@needs_ffmpeg
@pytest.mark.parametrize("name", KINDS)
def test_as_ffmpeg_shows_it(made, name):
    one = made(name)
    matrix = ":in_color_matrix=bt709" if name.startswith("untagged") and is_hd(one.shown.path) else ""
    theirs, times = shown_by_ffmpeg(one.shown.path, one.frames.shape[1:], matrix)
    more = len(times) - len(one.frames)
    assert more == 0 or (one.shown.more and more > 0)
    assert difference(one.frames, theirs[more:]) <= COLOURS
    if not one.shown.gap:
        clock = 0.06 if one.info.timing == "rate" else 0.01  # the program guesses where times are missing
        assert [late - times[more] for late in times[more:]] == pytest.approx(times_of(one.info), abs=clock)


@needs_ffmpeg
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_videos_as_ffmpeg_shows_them(path):
    """The first frames of each; a cut file and a sound are not among them."""
    info = probe(path)
    number = min(60, info.num_source_frames)
    ours = np.stack([frame for _, frame in read_frames(path, range(number), None, info.timing)])
    theirs, times = shown_by_ffmpeg(path, ours.shape[1:], most=("-frames:v", str(number)))
    assert [late - times[0] for late in times[:number]] == pytest.approx(times_of(info)[:number], abs=CLOCK)
    if path.name == SATURATED:  # FFmpeg 5.1 takes its chroma for centred, we for left, as H.264 says
        ours, theirs = ours @ LUMA, theirs @ LUMA
        ours, theirs = ours[..., None], theirs[..., None]
    assert difference(ours, theirs) <= COLOURS


def test_the_last_frame_is_shown_for_long(made):
    assert made("last_frame_shown_for_long").info.duration_seconds == Fraction("3.9")
    assert made("gif").info.duration_seconds == Fraction("3.63")


def test_streams_and_clocks_are_told(made):
    assert made("several_streams").info.stream == "v:1 of 2" and made("cover_art").info.stream == ""
    assert made("sound_first").info.first_frame == pytest.approx(1.5, abs=0.1)
    assert made("no_first_key_frame_mp4").info.first_frame >= 0.5
    assert made("clock_that_jumps_an_hour").info.longest_gap == pytest.approx(3599.3)
    assert made("clock_that_begins_again").info.timing == "rate"
    assert made("an_hour").info.duration_seconds == 3600


def test_as_it_was_decoded_before(made):
    """A run of before keeps its pixels: untagged HD in BT.601, and no mirroring."""

    def plain(name):
        one = made(name)
        return frames_of(one.shown.path, one.info, decoding="plain")

    for name in ("untagged_high", "untagged_wide"):
        assert difference(plain(name), np.stack(made(name).shown.frames)) > 2 * COLOURS
    for name in ("untagged", "tagged_bt709_of_hd_size", "turned_90_clockwise_mp4", "rgb_of_an_editor", "gray"):
        assert np.array_equal(plain(name), made(name).frames)
    for name, axis in (("mirrored_top_to_bottom_mp4", 1), ("mirrored_at_the_diagonal_mp4", 2)):
        assert np.array_equal(np.flip(plain(name), axis), made(name).frames)


def test_a_plan_says_how_its_videos_are_decoded():
    """One of before says nothing, and its videos are decoded as then."""
    row = {"video_id": "v", "video_path": "v.mp4", "num_frames": 1, "fps": 8.0, "source_height": 48, "source_width": 80}
    rows = pd.DataFrame([row | {"video_timing": "pts", "video_bytes": 1, "video_sha256": ""}])
    for config in (Config("new"), Config("before", clips=Clips(decoding="plain"))):
        settings = clip_settings(config)
        assert ("decoding" in settings) == (config.name == "new")
        part = SimpleNamespace(rows=rows, settings=settings)
        assert planned_video(part, 0, Path("videos")).decoding == config.clips.decoding


def test_untagged_hd_is_exactly_what_the_tag_would_give(tmp_path):
    untagged = odd_videos.untagged_high(tmp_path).path
    with opened(untagged) as (container, _):
        frame = next(container.decode(video=0))
        ours = to_rgb(untagged, frame)
        frame.colorspace = odd_videos.BT709
        assert np.array_equal(to_rgb(untagged, frame, "plain"), ours)


def test_what_cannot_be_shown_is_named(tmp_path):
    constant_luminance = write(tmp_path / "a.mkv", [5], colorspace=10).path
    turned = write(tmp_path / "b.mp4", [5], display=(1, 1, -1, 1)).path
    for path, words in (
        (constant_luminance, "matrix 10 .*re-encode it in BT.709"),
        (turned, "rotation by -45 degrees"),
    ):
        for look in (probe, scan):
            with pytest.raises(VideoUnreadable, match=f"{path.name}: .*{words}"):
                look(path)


def test_gif_and_webp_by_their_ids(tmp_path):
    """A GIF counts where it is alone; it is a preview beside a video. An animated WebP is named."""
    for name in ("a.gif", "b.gif", "b.mp4", "c.webp"):
        (tmp_path / name).touch()
    assert find_video(tmp_path, "a").name == "a.gif" and find_video(tmp_path, "b").name == "b.mp4"
    with pytest.raises(VideoMissing, match=r"c.webp is not read: make a GIF or a video of it"):
        find_video(tmp_path, "c")
    assert SIZE[0] < SIZE[1]  # so that a swapped axis shows
