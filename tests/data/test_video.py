"""Videos: the time rule, rotation, colours, named errors; on videos made here and on the shared real ones."""

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from pipeline.config import Data
from pipeline.data.video import clock, frames
from pipeline.data.video.find import find_video, look_at, video_folder
from pipeline.data.video.frames import read_frames
from pipeline.data.video.probe import VideoInfo, probe, scan
from pipeline.data.video.sandbox import Prober
from pipeline.errors import (
    UnsafePath,
    VideoAmbiguous,
    VideoAudioOnly,
    VideoEmpty,
    VideoMissing,
    VideoTruncated,
    VideoUnreadable,
)
from tests.helpers.make_video import numbered_frame, read_number, write_streams, write_video

SHARED = Path(__file__).parents[3] / "shared/data/videos"
SIZE = (48, 80)


def numbers(path, slots, fps, **options):
    return [(slot, read_number(frame)) for slot, frame in read_frames(path, slots, fps, **options)]


def on_screen(times, slots, fps):
    """The time rule by brute force: number of the last frame at or before slot / fps."""
    return [(k, max(i for i, time in enumerate(times) if time - times[0] <= Fraction(k) / fps)) for k in slots]


def write_folder(folder, count, first=1, size=SIZE):
    folder.mkdir()
    for number in range(count):
        content = simplejpeg.encode_jpeg(numbered_frame(number, size), quality=95)
        (folder / f"{folder.name}-{first + number:06d}.jpg").write_bytes(content)
    return folder


def exif(orientation: int) -> bytes:
    """The APP1 segment of a JPEG that says how it is held: a TIFF with one entry, 0x0112, in big-endian order."""
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0]) + b"\0" * 4
    return b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff


def write_turned(folder, orientation, count=4):
    """Frames as `write_folder` makes them, whose EXIF data say that they are held in some way."""
    for path in sorted(write_folder(folder, count).iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:2] + exif(orientation) + content[2:])
    return folder


@pytest.mark.parametrize("orientation", range(10))
def test_frames_are_turned_as_their_exif_data_say(tmp_path, orientation):
    """Top left comes where EXIF says that the first row and column are seen; 0 and 9 are no orientations."""
    folder = write_turned(tmp_path / "v", orientation)
    known = ImageOps.exif_transpose(Image.open(folder / "v-000003.jpg"))
    sideways = orientation in (5, 6, 7, 8)
    info = probe(folder, 10)
    assert (info.height, info.width) == known.size[::-1] == ((80, 48) if sideways else (48, 80))
    stored = simplejpeg.decode_jpeg((folder / "v-000003.jpg").read_bytes())
    corner = {2: (0, -1), 3: (-1, -1), 4: (-1, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}.get(orientation, (0, 0))
    for slot, frame in read_frames(folder, [2], None, source_fps=10):
        assert slot == 2 and frame.shape == (info.height, info.width, 3) and frame.flags.c_contiguous
        assert (frame[corner] == stored[0, 0]).all()
        assert np.abs(frame.astype(int) - np.asarray(known)).max() <= 2  # two decoders of the same JPEG
    assert scan(folder, 10) == info
    same_bytes = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        same_bytes.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    assert (info.sha256 == same_bytes.hexdigest()) == (orientation not in range(2, 9))  # as before, where not turned


def test_broken_exif_data_turn_nothing(tmp_path):
    """Every cut and 300 mutations of them: read as they are stored, or turned; never an error of another kind."""
    (path,) = write_turned(tmp_path / "v", 6, 1).iterdir()
    content, random = path.read_bytes(), np.random.default_rng(0)
    begin = content.index(b"Exif")
    for place, byte in [*((None, end) for end in range(6, 32)), *random.integers((0, 0), (32, 256), (300, 2)).tolist()]:
        changed = bytearray(content)
        if place is None:
            changed[begin + byte : begin + 32] = b""
            changed[begin - 2 : begin] = (byte + 2).to_bytes(2, "big")
        else:
            changed[begin + place] = byte
        path.write_bytes(changed)
        ((_, frame),) = read_frames(path.parent, [0], None, source_fps=10)
        assert frame.shape in ((48, 80, 3), (80, 48, 3))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """25 frames at 10 a second, with B-frames, so that order of decoding and of presentation differ."""
    frames = [numbered_frame(number, SIZE) for number in range(25)]
    return write_video(tmp_path_factory.mktemp("plain") / "v.mp4", frames, 10, options={"bf": "3"})


def test_probe_and_every_frame(plain):
    info = probe(plain)
    assert (info.kind, info.timing, info.num_source_frames) == ("file", "pts", 25)
    assert (info.duration_seconds, info.source_fps) == (Fraction(5, 2), 10)
    assert (info.height, info.width, info.bytes) == (48, 80, plain.stat().st_size)
    assert info.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest()
    # 2.5 s: 20 slots at 8 a second (the last at 2.375), 25 at 10, none at 2.5 itself
    assert [info.num_frames(fps) for fps in (None, 8, 10, 4, 1)] == [25, 20, 25, 10, 3]
    assert numbers(plain, range(25), None) == [(number, number) for number in range(25)]


def test_time_rule_by_hand(plain):
    # at 8 a second the slots are at 0, .125, .25, .375, .5, .625 s; frames at .1 each
    assert numbers(plain, [0, 1, 2, 3, 4, 5], 8) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (5, 6)]
    assert numbers(plain, [19], 8) == [(19, 23)]
    # at 20 a second every frame is on screen twice
    assert numbers(plain, [46, 47, 48, 49], 20) == [(46, 23), (47, 23), (48, 24), (49, 24)]
    assert numbers(plain, [], 8) == []


def test_out_of_range_is_named(plain):
    with pytest.raises(frames.ClipOutOfRange, match="slot 20"):
        numbers(plain, [3, 20], 8)
    with pytest.raises(frames.ClipOutOfRange, match="slot 25"):
        numbers(plain, [25], None)
    for slots in ([3, 3], [4, 3], [-1, 3]):
        with pytest.raises(ValueError, match="sorted"):
            numbers(plain, slots, 8)


def test_stops_after_the_last_slot(plain, monkeypatch):
    converted = []
    monkeypatch.setattr(frames, "to_rgb", lambda path, frame, decoding: converted.append(frame.pts))
    list(read_frames(plain, [2, 4], None))
    assert len(converted) == 2
    assert len(list(read_frames(plain, [0, 1], 20))) == 2 and len(converted) == 3  # one frame on screen twice
    seen, decoded = [], frames.decoded
    monkeypatch.setattr(frames, "decoded", lambda *args: (seen.append(frame) or frame for frame in decoded(*args)))
    list(read_frames(plain, [2, 4], None))
    assert len(seen) == 6  # one more than wanted, which says that frame 4 is over


@pytest.mark.parametrize("fps", [3, 8, 7.5, 30, Fraction(24000, 1001)])
def test_variable_rate_and_late_start(tmp_path, fps):
    # milliseconds, first frame not at 0, one long pause
    pts = [40, 90, 100, 300, 310, 1300, 1333, 1366]
    frames = [numbered_frame(number, SIZE) for number in range(len(pts))]
    path = write_video(tmp_path / "v.mkv", frames, 30, pts=pts, time_base=Fraction(1, 1000), options={"bf": "2"})
    info = probe(path)
    times = [Fraction(time, 1000) for time in pts]
    assert info.timing == "pts"
    assert Fraction("1.326") < info.duration_seconds < Fraction("1.4")
    slots = range(info.num_frames(fps))
    rate = Fraction(str(fps))
    assert (len(slots) - 1) / rate < info.duration_seconds <= len(slots) / rate
    assert numbers(path, slots, fps) == on_screen(times, slots, rate)


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt"),
    [
        ("libx264", "v.mp4", "yuv420p"),
        ("libx264", "v.mkv", "yuvj420p"),
        ("libx264", "v.mp4", "yuv420p10le"),
        ("libx264", "v.mp4", "yuv444p"),
        ("libx265", "v.mp4", "yuv420p"),
        ("libvpx-vp9", "v.webm", "yuv420p"),
        ("libsvtav1", "v.mp4", "yuv420p"),
        ("mpeg4", "v.avi", "yuv420p"),
    ],
)
def test_codecs_and_colours(tmp_path, codec, name, pix_fmt):
    size = (96, 128)
    frames = [numbered_frame(number, size) for number in range(6)]
    options = {"libx265": {"x265-params": "log-level=none"}, "mpeg4": {"b": "2000k"}}.get(codec)
    path = write_video(tmp_path / name, frames, 10, codec, pix_fmt, options=options)
    assert probe(path).num_source_frames == 6
    for slot, frame in read_frames(path, range(6), None):
        assert frame.dtype == np.uint8 and frame.shape == (*size, 3) and frame.flags.c_contiguous
        assert read_number(frame) == slot
        # away from edges: a swapped channel or a mistaken range is off by more than 10
        for row, column in ((24, 10), (72, 32), (72, 96)):
            assert np.abs(frame[row, column].astype(int) - frames[slot][row, column]).max() <= 6


def test_rates_are_decimal_and_exact():
    info = VideoInfo("file", 300, Fraction(10), Fraction(30), *SIZE, "pts", 1, "")
    # 1 / 10 and 2997 / 100, though the binary number 0.1 is a little more
    assert [info.num_frames(fps) for fps in (0.1, 29.97, "30000/1001", Fraction(1, 3))] == [1, 300, 300, 4]
    for fps in (0, -8):
        with pytest.raises(ValueError, match=f"fps must be above 0, got {fps}"):
            info.num_frames(fps)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv420p10le"])
def test_white_is_white(tmp_path, pix_fmt):
    path = write_video(tmp_path / "v.mkv", [np.full((*SIZE, 3), 255, np.uint8)] * 2, pix_fmt=pix_fmt)
    assert min(frame.min() for _, frame in read_frames(path, [0, 1], None)) >= 254


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_rotation(tmp_path, degrees, turns):
    path = write_video(tmp_path / "v.mp4", [numbered_frame(5, SIZE)] * 2, rotation=degrees)
    info = probe(path)
    expected = np.rot90(numbered_frame(5, SIZE), turns)  # counterclockwise
    assert (info.height, info.width) == expected.shape[:2]
    for _, frame in read_frames(path, [0, 1], None):
        assert frame.shape == expected.shape and frame.flags.c_contiguous
        assert np.abs(frame.astype(int) - expected).mean() < 8


def test_odd_size(tmp_path):
    path = write_video(tmp_path / "v.mp4", [numbered_frame(9, (45, 83))] * 2, pix_fmt="yuv444p")
    assert (probe(path).height, probe(path).width) == (45, 83)
    assert numbers(path, [1], None) == [(1, 9)]


def test_bad_files_are_named(tmp_path, plain):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:2.5,\n{plain}\n")
    shutil.copy(plain, tmp_path / "canary.mp4")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile canary.mp4\n")
    expected = {"empty": VideoEmpty, "text": VideoUnreadable, "gone": VideoMissing}
    expected |= {"list": VideoUnreadable, "concat": VideoUnreadable}
    for name, error in expected.items():
        with pytest.raises(error, match=f"{name}.mp4"):
            probe(tmp_path / f"{name}.mp4")


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_cut_files_are_truncated(tmp_path, name):
    frames = [numbered_frame(number, (96, 128)) for number in range(60)]
    path = write_video(tmp_path / name, frames, 10, options={"g": "1"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])
    with pytest.raises(VideoTruncated, match=rf"{name}: deco.*\b60\b" if name != "v.avi" else name):
        probe(path)


def test_sound_that_outlasts_the_pictures_or_begins_before_them(tmp_path):
    """The pictures' own length counts; where the file does not say it, whether any stream goes on to the end."""
    pictures = [[numbered_frame(number, SIZE) for number in range(40)]]
    longer = write_streams(tmp_path / "longer.mkv", pictures, sound=12)
    later = write_streams(tmp_path / "later.mkv", pictures, sound=9, start=5)
    for path, begins in ((longer, 0), (later, 5)):
        content = path.read_bytes()
        assert content.count(b"DURATION") == 2  # of both tracks
        untold = tmp_path / f"untold-{path.name}"
        untold.write_bytes(content.replace(b"DURATION", b"DURATIOX"))
        for one in (path, untold):
            info = probe(one)
            assert (info.num_source_frames, info.duration_seconds, info.first_frame) == (40, 4, begins)
            assert scan(one) == info
        for whole in (path, untold):
            (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: len(content) // 2])
            for look in (probe, scan):
                with pytest.raises(VideoTruncated, match=r"cut.mkv: decoded \d+ of about"):
                    look(tmp_path / "cut.mkv")


def test_a_piece_of_a_transport_stream(tmp_path):
    """Whole from its first key frame on; what comes before cannot be shown, and is not missed."""
    path = write_streams(tmp_path / "v.ts", [[numbered_frame(number, SIZE) for number in range(60)]])
    content = path.read_bytes()
    piece = tmp_path / "piece.ts"
    piece.write_bytes(content[len(content) // 188 // 4 * 188 :])
    info = probe(piece)
    assert scan(piece) == info and (info.num_source_frames, info.duration_seconds) == (40, 4)
    assert 0.1 <= info.first_frame <= 1.9
    assert numbers(piece, [0, 39], None) == [(0, 20), (39, 59)]
    piece.write_bytes(content[-len(content) // 188 // 6 * 188 :])
    with pytest.raises(
        VideoUnreadable, match=r"piece.ts: its packets have no key frame.*cut it again from a key frame"
    ):
        probe(piece)


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.ts"])
def test_the_largest_stream_is_taken(tmp_path, name):
    small, large = ([numbered_frame(number + shift, size) for number in range(12)] for shift, size in SIZES)
    path = write_streams(tmp_path / name, [small, large, large])
    info = probe(path)
    assert scan(path) == info and (info.height, info.width, info.stream) == (*SIZE, "v:1 of 3")
    assert numbers(path, [0, 11], None) == [(0, 0), (11, 11)]
    assert probe(write_streams(path, [large])).stream == ""


SIZES = ((20, (24, 40)), (0, SIZE))  # of a preview, whose numbers are others, and of the video


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
def test_a_jump_of_the_clock_is_told(tmp_path, name):
    frames, pts = [numbered_frame(number, SIZE) for number in range(20)], [*range(10), *range(36010, 36020)]
    info = probe(write_video(tmp_path / name, frames, 10, pts=pts))
    assert info.longest_gap == pytest.approx(3600.1) and scan(tmp_path / name) == info
    assert info.times == pytest.approx([one / 10 for one in pts])
    even = probe(write_video(tmp_path / name, frames, 10))
    assert (even.longest_gap, even.times, even.first_frame) == (pytest.approx(0.1), (), 0)


def test_dropped_frames_are_truncated(tmp_path, monkeypatch):
    class Packet:
        size, is_discard, is_keyframe, pts = 9, False, True, None

        def __init__(self, frames):
            self.decode = lambda: frames

    class Frame:
        interlaced_frame = False

    def decoded(good, bad):
        packets = [Packet([Frame()])] * good + [Packet([])] * bad
        container = type("Container", (), {"demux": lambda self, stream: packets})()
        return list(frames.decoded(Path("v.mp4"), container, None))

    assert len(decoded(18, 2)) == 18
    with pytest.raises(VideoTruncated, match="17 frames from 20 packets"):
        decoded(17, 3)


def test_find_video(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.mp4"
    root.mkdir()
    outside.touch()
    for name in ("46GP8.mp4", "150E6.MKV", "both.mp4", "both.avi", "a.b.mp4"):
        (root / name).touch()
    (root / "07E49").mkdir()
    (root / "out.mp4").symlink_to(outside)
    (root / "dead.mp4").symlink_to(root / "nothing.mp4")
    assert find_video(root, "46GP8") == root / "46GP8.mp4"
    assert find_video(root, "150E6") == root / "150E6.MKV"
    assert find_video(root, "07E49") == root / "07E49"
    assert find_video(root, "a.b") == root / "a.b.mp4"
    for video_id in ("a", "46GP8.mp4", "07E4"):
        with pytest.raises(VideoMissing, match=re.escape(video_id)):
            find_video(root, video_id)
    with pytest.raises(VideoAmbiguous, match=r"both\.mp4, both\.avi"):
        find_video(root, "both")
    with pytest.raises(VideoMissing, match="does not exist"):
        find_video(root, "dead")
    os.mkfifo(root / "pipe.mp4")
    with pytest.raises(VideoMissing, match=r"pipe\.mp4 is neither a regular file nor a folder of frames"):
        find_video(root, "pipe")
    (root / "circle.mp4").symlink_to("circle.mp4")
    with pytest.raises(VideoUnreadable, match=r"circle\.mp4: Too many levels"):
        find_video(root, "circle")
    for video_id in ("out", "../outside", "..", "", ".hidden", "a/b", "/abs", "a\0b", "a\n", "a..b", "a.", "-", "a;b"):
        with pytest.raises(UnsafePath):
            find_video(root, video_id)


def test_any_spelling_of_an_extension(tmp_path):
    """And one file with two names is one; on a disk that ignores case, what it lists is what there is."""
    for name in ("a.Mp4", "b.MTS", "c.m2ts", "d.mp4", "-e.mp4", "_f.mkv"):
        (tmp_path / name).touch()
    os.link(tmp_path / "d.mp4", tmp_path / "d.MP4")
    found = {video_id: find_video(tmp_path, video_id).name for video_id in ("a", "b", "c", "-e", "_f")}
    assert found == {"a": "a.Mp4", "b": "b.MTS", "c": "c.m2ts", "-e": "-e.mp4", "_f": "_f.mkv"}
    assert find_video(tmp_path, "d").name in ("d.mp4", "d.MP4")
    (tmp_path / "a.mp4").touch()
    os.utime(tmp_path, (0, 0))  # another time of change, also where the file system's clock has not ticked meanwhile
    with pytest.raises(VideoAmbiguous, match=r"a is a\.\w+, a\.\w+; keep one"):
        find_video(tmp_path, "a")


def test_a_disk_that_ignores_case(tmp_path, monkeypatch):
    (tmp_path / "x.mp4").touch()
    ask, look = os.path.lexists, os.stat
    lowered = lambda path: tmp_path / Path(path).name.lower() if Path(path).parent == tmp_path else path  # noqa: E731
    monkeypatch.setattr(os.path, "lexists", lambda path: ask(lowered(path)))
    monkeypatch.setattr(os, "stat", lambda path, **options: look(lowered(path), **options))
    assert find_video(tmp_path, "x") == tmp_path / "x.mp4"
    assert find_video(tmp_path, "X").name.lower() == "x.mp4"


def test_links_that_lead_out_are_followed_where_asked_for(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    write_folder(elsewhere, 1)
    (elsewhere / "a.mp4").touch()
    (root / "v.mp4").symlink_to(elsewhere / "a.mp4")
    (root / "elsewhere").symlink_to(elsewhere)
    with pytest.raises(UnsafePath, match=r"v\.mp4 leads out of .*a\.mp4; data\.follow_links = true follows"):
        find_video(root, "v")
    folder = video_folder(Data(videos=str(root), follow_links=True))
    assert find_video(folder, "v") == root / "v.mp4"
    assert probe(find_video(folder, "elsewhere"), 24).num_source_frames == 1
    assert pickle.loads(pickle.dumps(folder)) == folder and type(folder / "x") is type(folder)
    with pytest.raises(UnsafePath):
        find_video(video_folder(Data(videos=str(root))), "v")


def test_folder_of_frames(tmp_path):
    folder = write_folder(tmp_path / "07E49", 13, first=3)
    (folder / "Thumbs.db").touch()
    info = probe(folder, source_fps=24)
    assert (info.kind, info.timing, info.num_source_frames) == ("frames", "rate", 13)
    assert (info.height, info.width, info.duration_seconds, info.source_fps) == (*SIZE, Fraction(13, 24), 24)
    assert info.bytes == sum(file.stat().st_size for file in folder.glob("*.jpg"))
    # 8 of 24 a second: every third frame, the first file is time 0
    assert info.num_frames(8) == 5
    assert numbers(folder, range(5), 8, source_fps=24) == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]
    with pytest.raises(frames.ClipOutOfRange):
        numbers(folder, [5], 8, source_fps=24)
    ((_, frame),) = read_frames(folder, [1], None, source_fps=24)
    assert np.abs(frame.astype(int) - numbered_frame(1, SIZE))[36, [20, 60]].max() <= 6
    (folder / "07E49-000015.jpg").rename(folder / "07E49-15.jpg")
    assert probe(folder, source_fps=24).sha256 != info.sha256  # names count
    (folder / "07E49-15.jpg").rename(folder / "07E49-000015.jpg")
    assert probe(folder, source_fps=24).sha256 == info.sha256
    (folder / "07E49-000003.jpg").write_bytes((folder / "07E49-000004.jpg").read_bytes())
    assert probe(folder, source_fps=24).sha256 != info.sha256


def test_bad_folders_are_named(tmp_path):
    folder = write_folder(tmp_path / "v", 4)
    for call in (probe, lambda path: numbers(path, [0], 8)):
        with pytest.raises(ValueError, match="source_fps"):
            call(folder)
    frame = folder / "v-000003.jpg"
    content = frame.read_bytes()
    frame.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoUnreadable, match=r"v-000003\.jpg"):
        probe(folder, 24)
    frame.write_bytes(simplejpeg.encode_jpeg(numbered_frame(2, (40, 80))))
    with pytest.raises(VideoUnreadable, match="size changes"):
        probe(folder, 24)
    frame.unlink()
    with pytest.raises(VideoTruncated, match=r"frame 3 of 1 \.\. 4"):
        probe(folder, 24)
    frame.symlink_to(folder / "v-000002.jpg")
    with pytest.raises(UnsafePath):
        probe(folder, 24)
    frame.unlink()
    frame.write_bytes(content)
    (folder / "v-3.jpg").write_bytes(content)
    with pytest.raises(VideoAmbiguous):
        probe(folder, 24)
    (tmp_path / "w").mkdir()
    with pytest.raises(VideoEmpty):
        probe(tmp_path / "w", 24)


def test_transient_errors_are_tried_again(plain, monkeypatch):
    decoded, failures = frames.decoded, [OSError(5, "Input/output error")] * 2

    def flaky(path, container, stream):
        for number, frame in enumerate(decoded(path, container, stream)):
            if number == 7 and failures:
                raise failures.pop()
            yield frame

    monkeypatch.setattr(frames, "decoded", flaky)
    monkeypatch.setattr("pipeline.data.video.probe.decoded", flaky)
    assert numbers(plain, range(25), None) == [(number, number) for number in range(25)]
    assert not failures
    failures += [OSError(5, "Input/output error")] * 3
    with pytest.raises(VideoUnreadable, match="attempt 3 of 3"):
        probe(plain)
    failures[:] = [OSError(13, "Permission denied")]
    with pytest.raises(VideoUnreadable, match="attempt 1 of 3"):
        probe(plain)


REAL = {  # decoded frames as the manifest counts them, size after rotation, timing, frames at 8 a second
    "charades_19UA5.mp4": (54, (272, 480), "pts", 26),
    "decord__flipping_a_pancake.mkv": (310, (240, 426), "pts", 83),
    "decord__video_90.mov": (3, (568, 320), "pts", 1),
    "mmaction2__part_0.mp4": (32, (256, 340), "pts", 9),
    "mmaction2__test.avi": (164, (240, 320), "rate", 53),
    "sample-videos__book.mkv": (109, (480, 640), "pts", 30),
    "torchcodec__h264_10bits.mp4": (30, (200, 200), "pts", 8),
    "torchcodec__h265_video.mp4": (10, (128, 128), "pts", 8),
}
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared real videos")


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_videos(name):
    info = probe(SHARED / name)
    assert (info.num_source_frames, (info.height, info.width), info.timing, info.num_frames(8)) == REAL[name]
    last = info.num_frames(8) - 1
    ((slot, frame),) = read_frames(SHARED / name, [last], 8, info.timing)
    assert slot == last and frame.shape == (info.height, info.width, 3)


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_packets_say_of_real_videos_what_decoding_says(name):
    assert scan(SHARED / name) == probe(SHARED / name)


@pytest.mark.parametrize("degrees, options", [(0, {"bf": "3"}), (90, {})])
def test_packets_say_what_decoding_says(tmp_path, degrees, options, monkeypatch):
    """Times at an odd pace, frames out of order in the file, turned frames; without decoding more than one of them."""
    pts = [0, 3, 4, 9, 12, 13, 20, 21]
    frames = [numbered_frame(number) for number in range(len(pts))]
    time_base = {"pts": pts, "time_base": Fraction(1, 30), "rotation": degrees, "options": options}
    path = write_video(tmp_path / "a.mp4", frames, 30, **time_base)
    wanted = probe(path)
    decoded, real = [], clock.decoded
    monkeypatch.setattr(clock, "decoded", lambda *all: (decoded.append(one) or one for one in real(*all)))
    assert scan(path) == wanted and wanted.duration_seconds > Fraction(20, 30) and len(decoded) == 1


def test_packets_of_broken_files(tmp_path, plain):
    (tmp_path / "cut.mp4").write_bytes(plain.read_bytes()[: plain.stat().st_size * 3 // 4])
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(VideoTruncated):
        scan(tmp_path / "cut.mp4")
    with pytest.raises(VideoEmpty):
        scan(tmp_path / "empty.mp4")


def test_a_fork_decodes_after_somebody_converted_with_threads(plain):
    """From PyAV 19 on a thread has one converter; its helpers are gone in the child, which would wait for them."""
    script = (
        "import os, sys, av, numpy as np\n"
        "from pipeline.data.video.frames import read_frames\n"
        "av.VideoFrame.from_ndarray(np.zeros((720, 1280, 3), np.uint8)).reformat(format='yuv420p', threads=4)\n"
        "if child := os.fork():\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "os._exit(len(list(read_frames(sys.argv[1], [0, 1], None, 'pts'))))\n"
    )
    command, root = [sys.executable, "-c", script, plain], Path(__file__).parents[2]
    done = subprocess.run(command, timeout=600, cwd=root, check=False)
    assert done.returncode == 2


@needs_shared
def test_real_bad_videos():
    with pytest.raises(VideoTruncated, match="28 of 50"):
        probe(SHARED / "decord__corrupted.mp4")
    with pytest.raises(VideoAudioOnly, match="gs-16b"):
        probe(SHARED / "io__gs-16b-2c-44100hz.mp4")


def test_ctrl_c_is_for_the_command_and_not_for_its_decoding_process(tmp_path):
    """A terminal sends it to the whole group; the process would print a traceback before the command's own words."""
    path = write_video(tmp_path / "a.mp4", [numbered_frame(number, SIZE) for number in range(4)], fps=8)
    with Prober(60.0, 4 << 30) as prober:
        assert prober.probe(path, None).num_source_frames == 4
        groups = [os.getpgid(pid) for pid in _decoding_children()]
        assert groups and os.getpgrp() not in groups


def _decoding_children() -> list[int]:
    """Process ids; in /proc/<id>/stat the parent comes second after the name, which stands in brackets."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"sandbox_worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_plain_file_is_looked_at_once_and_links_are_followed(tmp_path, monkeypatch):
    root, out = tmp_path / "videos", tmp_path / "out.mp4"
    (root / "deep").mkdir(parents=True)
    for path in (root / "a.mp4", root / "deep" / "b.mp4", out):
        path.write_bytes(b"1234")
    (root / "inside.mp4").symlink_to(root / "deep" / "b.mp4")
    (root / "outside.mp4").symlink_to(out)
    (root / "gone.mp4").symlink_to(root / "nowhere.mp4")
    for name in ("a.mp4", "deep/b.mp4", "inside.mp4"):
        assert look_at(root / name, root).st_size == 4
    for path in (root / "outside.mp4", root / ".." / "out.mp4", out):
        with pytest.raises(UnsafePath, match="leads out of"):
            look_at(path, root)
        assert look_at(path).st_size == 4
    assert look_at(root / "outside.mp4", video_folder(Data(videos=str(root), follow_links=True))).st_size == 4
    for name in ("gone.mp4", "never.mp4"):
        with pytest.raises(VideoMissing, match="does not exist"):
            look_at(root / name, root)
    monkeypatch.setattr(os.path, "realpath", None)
    monkeypatch.setattr(os, "stat", None)
    assert look_at(root / "a.mp4", root).st_size == 4
