"""Segments: any moment of a recording is the frame of a forward decode; tables that name segments and paths."""

import random
import zlib
from fractions import Fraction

import numpy as np
import pytest
import simplejpeg

from pipeline.data import shared_decode
from pipeline.data.plain_csv import labels_csv, read_plain, sources_csv
from pipeline.data.segments import Source, planned_sources, split_path
from pipeline.data.shared_decode import Recording, segment_frames
from pipeline.data.video import seek
from pipeline.data.video.frames import timeline
from pipeline.data.video.probe import probe
from pipeline.data.video.seek import Cursor
from pipeline.errors import AnnotationError, ClipOutOfRange, SegmentOutside
from tests.helpers.make_video import write_video

RULE = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop={}"
UNEVEN = [100 * number + 13 * (number % 7) for number in range(60)]  # milliseconds
# name: options of write_video, and how many key frames can be decoded from (None: not counted)
RECORDINGS = {
    "closed.mp4": ({"options": {"x264-params": RULE.format(0)}}, 4),
    "open.mp4": ({"options": {"x264-params": RULE.format(1)}}, 4),
    "open.mkv": ({"options": {"x264-params": RULE.format(1)}}, 4),
    "open.ts": ({"options": {"x264-params": RULE.format(1)}}, 4),
    "uneven.mp4": ({"options": {"x264-params": RULE.format(1)}, "pts": UNEVEN, "time_base": Fraction(1, 1000)}, 4),
    # a column of each frame is new, and no frame is whole by itself: what is marked as key frames are none
    "refresh.mp4": ({"options": {"x264-params": "keyint=12:scenecut=0:intra-refresh=1:bframes=0"}}, 0),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": RULE.format(1) + ":log-level=none"}}, 4),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime"}}, 4),
    "order.avi": ({"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}, None),
}


def moving(count, seed=0, size=(32, 48)):
    picture = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    return [np.roll(picture, (number, 2 * number), (0, 1)) for number in range(count)]


@pytest.mark.parametrize("name", RECORDINGS)
def test_any_moment_is_the_frame_of_a_forward_decode(tmp_path, name):
    options, keys = RECORDINGS[name]
    size = (64, 96) if name == "hevc.mp4" else (32, 48)  # x265 writes past its memory where a frame is 32 high
    path = write_video(tmp_path / name, moving(60, size=size), 10, **options)
    timing = probe(path).timing
    shown = [(start, stop, zlib.crc32(pixels())) for start, stop, pixels in timeline(path, timing, None)]
    cursor = Cursor(path, timing, None)
    for place in random.Random(0).sample(range(60), 60):  # forwards and backwards
        start, stop, checksum = shown[place]
        last = (shown[place + 1][0] if place < 59 else stop) - Fraction(1, 10**6)
        for moment in (start, start + Fraction(1, 10**6), last):
            assert zlib.crc32(cursor.at(moment)) == checksum, (place, moment)
    assert keys is None or len(cursor.keys) == keys
    with pytest.raises(ClipOutOfRange, match="the video ends at"):
        cursor.at(shown[-1][1])
    assert zlib.crc32(cursor.at(Fraction(0))) == shown[0][2]


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", moving(80), 10, options={"x264-params": RULE.format(0)})
    seen, decoded = [], seek.decoded

    def counted(path, container, stream, *chosen):
        for frame in decoded(path, container, stream, *chosen):
            seen.append(round(10 * float(frame.pts * stream.time_base)))
            yield frame

    cursor = Cursor(path, "pts", None)
    monkeypatch.setattr(seek, "decoded", counted)
    cursor.at(Fraction(50, 10))  # the key frame before is number 48; one more says that number 50 has ended
    assert seen == [48, 49, 50, 51]
    cursor.at(Fraction(66, 10))  # 60 is less than a second away
    assert seen == list(range(48, 68))
    cursor.at(Fraction(65, 10))  # back
    assert seen[20:] == list(range(60, 67))
    cursor.at(Fraction(14, 10))
    cursor.at(Fraction(79, 10))
    assert seen[27:] == [12, 13, 14, 15, 72, 73, 74, 75, 76, 77, 78, 79]


def test_folders_and_files_without_times(tmp_path):
    """There is no seeking: frames of a folder are read alone, a file is decoded from its beginning."""
    folder = tmp_path / "f"
    folder.mkdir()
    frames = moving(20)
    for number, frame in enumerate(frames):
        folder.joinpath(f"f-{number:06d}.jpg").write_bytes(simplejpeg.encode_jpeg(frame, quality=95))
    cursor = Cursor(folder, "rate", 10)
    for number in (3, 17, 4):
        content = folder.joinpath(f"f-{number:06d}.jpg").read_bytes()
        assert (cursor.at(Fraction(number, 10)) == simplejpeg.decode_jpeg(content)).all()
    path = write_video(tmp_path / "v.mp4", frames, 10)
    cursor = Cursor(path, "rate", None)
    shown = [zlib.crc32(pixels()) for _, _, pixels in timeline(path, "rate", None)]
    assert [zlib.crc32(cursor.at(Fraction(number, 10))) for number in (3, 17, 4)] == [shown[n] for n in (3, 17, 4)]


def test_what_segments_share_is_decoded_once(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", moving(80), 10, options={"x264-params": RULE.format(0)})
    shown = [zlib.crc32(pixels()) for _, _, pixels in timeline(path, "pts", None)]
    asked, at = [], Cursor.at
    monkeypatch.setattr(Cursor, "at", lambda self, moment: asked.append(moment) or at(self, moment))
    recording = Recording(path, "pts", None, "sha")

    def wanted(first, count):
        return [(Fraction(first + number, 10), number) for number in range(count)]

    # the third one lies in the second, and the fourth begins after the third and before the end of the second
    segments = [wanted(10, 20), wanted(15, 30), wanted(20, 5), wanted(30, 20), wanted(50, 5)]
    for place, own in enumerate(segments):
        later = [one for one in segments[place + 1 :] if one[0] <= own[-1]]
        found = [(number, zlib.crc32(frame)) for number, frame in segment_frames(recording, own, later)]
        first = int(10 * own[0][0])
        assert found == [(number, shown[first + number]) for number in range(len(own))]
    assert asked == sorted(asked)  # it never goes back
    assert len(shared_decode._kept) <= shared_decode.KEPT
    asked.clear()  # where there is no room for frames that wait, it does
    monkeypatch.setattr(shared_decode, "MOST_AHEAD", 0)
    for place, own in enumerate(segments[:2]):
        found = [zlib.crc32(frame) for _, frame in segment_frames(recording, own, segments[place + 1 : 2])]
        first = int(10 * own[0][0])
        assert found == shown[first : first + len(own)]
    assert asked != sorted(asked)


def table(tmp_path, *lines, header="video_id,segment_id,split,start,end,label"):
    (tmp_path / "classes.txt").write_text("open\nclose\n")
    (tmp_path / "table.csv").write_text("\n".join([header, *lines]) + "\n")
    return read_plain(tmp_path / "table.csv", tmp_path / "classes.txt")


def test_a_table_of_segments(tmp_path):
    """Samples of a recording come together, by their starts; a segment may have several labels, or none."""
    found = table(
        tmp_path,
        "P02,b2,test,00:00:07.5,00:01:09.25,close",
        "P01,a2,train,5,6.5,open",
        "P01,a2,train,5,6.5,close",
        "P02,b1,test,7,8,",
        "P01,a1,train,1.5,2,close",
        "P03,,train,1,2,open",
    )
    assert found.videos.video_id.tolist() == ["b1", "b2", "a1", "a2", "P03"]
    assert found.videos.split.tolist() == ["test", "test", "train", "train", "train"]
    assert found.sources == {
        "b1": Source("P02", "", 7, 8), "b2": Source("P02", "", 7.5, 69.25),
        "a1": Source("P01", "", 1.5, 2), "a2": Source("P01", "", 5, 6.5),
    }  # fmt: skip
    assert found.actions.values.tolist() == [
        ["b2", 1, 0, np.inf], ["a2", 0, 0, np.inf], ["a2", 1, 0, np.inf], ["a1", 1, 0, np.inf], ["P03", 0, 1, 2]
    ]  # fmt: skip
    assert found.source("P03") == Source("P03") and found.source("a1").fragment == "#t=1.5,2"
    assert labels_csv(found).decode().splitlines()[1:4] == ["b1,test,,,", "b2,test,,,close", "a1,train,,,close"]
    (tmp_path / "again.csv").write_bytes(sources_csv(found))
    again = read_plain(tmp_path / "again.csv", tmp_path / "classes.txt")
    assert again.sources == found.sources and again.videos.equals(found.videos)
    assert sorted(again.actions.values.tolist()) == sorted(found.actions.values.tolist())


def test_frames_of_a_stated_rate(tmp_path):
    """Frame 31 at 30 a second is on screen at its own time in seconds, which is rounded upwards."""
    header = "video_id,segment_id,split,start,end,fps,label"
    found = table(tmp_path, "P01,a,train,31,60,30,open", "P01,b,train,3,5,30000/1001,open", header=header)
    assert found.sources == {"b": Source("P01", "", 0.1001, 0.166834), "a": Source("P01", "", 1.033334, 2.0)}
    labels = table(tmp_path, "P01,train,25,50,25,open", header="video_id,split,start,end,fps,label")
    assert labels.actions.values.tolist() == [["P01", 0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["P01,a,train,2,2,open"], "line 2, column start: '2'; expected less than the end of the segment, 2"),
        (["P01,a,train,,,open"], "line 2, column start: ''; expected seconds"),
        (
            ["P01,a,train,1,2,open", "P01,a,train,1,3,close"],
            "line 3, column segment_id: 'a'; expected video, start and",
        ),
        (
            ["P01,a,train,1,2,open", "P02,a,train,1,2,close"],
            "line 3, column segment_id: 'a'; expected video, start and",
        ),
        (["P01,a,train,1,2,open", "P01,a,test,1,2,close"], "line 3, column split: 'test'; expected train"),
        (["P01,a,train,1,2,open", "P01,a,train,1,2,open"], "line 3, column video_id: 'a'; expected no line twice"),
        (["P01,a,train,1,2,open", "a,,train,1,2,close"], "line 3, column segment_id: ''; expected video, start and"),
        (["P01,a/b,train,1,2,open"], "line 2, column segment_id: 'a/b'; expected"),
        (["P01,a,train,1,2,"] * 2, "line 3, column video_id: 'a'; expected no line twice"),
    ],
)
def test_wrong_segments_are_refused_by_line(tmp_path, lines, words):
    with pytest.raises(AnnotationError, match="table.csv, " + words.replace("(", r"\(")):
        table(tmp_path, *lines)


@pytest.mark.parametrize("path", ["/data/v.mp4", "../v.mp4", "a/../../v.mp4", "C:/v.mp4", "a\\v.mp4"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path):
    header = "video_id,path,split,start,end,label"
    with pytest.raises(AnnotationError, match=r"line 2, column path: .*expected a path from data\.videos"):
        table(tmp_path, f"P01,{path},train,,,open", header=header)
    with pytest.raises(AnnotationError, match=r"line 3, column path: 'b.mp4'; expected a.mp4, as in line 2 of P01"):
        table(tmp_path, "P01,a.mp4,train,1,2,open", "P01,b.mp4,train,2,3,open", header=header)


@pytest.mark.parametrize(
    ("line", "column"),
    [("1.5,3,30", "start"), ("1,x,30", "end"), ("1,3,0", "fps"), ("1,3,1/0", "fps"), ("1,3,-1", "fps")],
)
def test_wrong_frames_are_refused(tmp_path, line, column):
    with pytest.raises(AnnotationError, match=f"line 2, column {column}: "):
        table(tmp_path, f"P01,train,{line},open", header="video_id,split,start,end,fps,label")


def test_extent_by_hand():
    """From 1.5 s, at 8 a second: frames at 1.5, 1.625, ... below the end, which is that of the recording at most."""
    segment = Source("P01", "", 1.5, 2.0)
    assert segment.extent(Fraction(10), 8.0) == (4, 0.5)
    assert Source("P01", "", 1.5, 2.01).extent(Fraction(10), 8.0) == (5, 0.51)
    assert segment.extent(Fraction(17, 10), 8.0) == (2, 0.2)
    with pytest.raises(SegmentOutside, match=r"a segment begins at 1.5 s, its recording ends at 1.5 s"):
        segment.extent(Fraction(3, 2), 8.0)


def test_paths_in_a_plan():
    assert split_path("a/b.mp4#t=1.5,1e-05") == ("a/b.mp4", Fraction(3, 2))
    assert split_path("a#t.mp4") == ("a#t.mp4", None)
    paths = {"s1": "a/b.mp4#t=1.5,2", "s2": "a/b.mp4#t=3,4", "v": "v.mp4", "f": "f", "w": "x/w.mp4"}
    assert planned_sources(paths) == {
        "s1": Source("recording-0", "a/b.mp4", 1.5, 2),
        "s2": Source("recording-0", "a/b.mp4", 3, 4),
        "w": Source("w", "x/w.mp4"),
    }
