"""T9, T10: ids and tables, and videos, as a stranger would send them. Refused by name; nothing outside is touched."""

import os
import random
import stat
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from pipeline.data.charades_csv import read_charades
from pipeline.data.own_boxes import read_own_boxes
from pipeline.data.plain_csv import read_plain
from pipeline.data.video.find import is_plain_id
from pipeline.errors import AnnotationError
from pipeline.stages import prepare
from tests.helpers.make_video import numbered_frame, write_video
from tests.helpers.tiny_data import tiny_config, tree

HEADER = "video_id,split,start,end,label"
LONG = "a" * 129
BAD_IDS = [
    "..", ".", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a..b", ".hidden", "-", "a.", " a", "#", "a\tb", "%",
    "ä" * 40, "\u202ea", "a\u0000b", LONG, "~", "$HOME", "`id`", "a;b", "a|b", "a*", "a?", "con:", "a\u200bb", "%2e..",
    "a\x7fb",    "file:///x", "concat:a", "\ufeffa",
]  # fmt: skip
GOOD_IDS = [
    "NA",
    "null",
    "007",
    "1e400",
    "nan",
    "True",
    "-rf_c.d",
    "_" + "A" * 127,
    "a b",
    "ä",
    "\u0430",
    "%2e%2e",
    "#1",
]
BAD_LINES = {
    "column missing": "v,train,0,1",
    "column too many": "v,train,0,1,wave,extra",
    "no split": "v,,0,1,wave",
    "split with a blank": "v, test,0,1,wave",
    "split in capitals": "v,Train,0,1,wave",
    "unknown label": "v,train,0,1,jump",
    "label in capitals": "v,train,0,1,Wave",
    "label with a blank": "v,train,0,1, wave",
    "label with a no-break space": "v,train,0,1,wave\u00a0",
    "start only": "v,train,0,,wave",
    "end only": "v,train,,1,wave",
    "times without label": "v,train,0,1,",
    "1e400": "v,train,0,1e400,wave",
    "inf": "v,train,0,inf,wave",
    "nan": "v,train,nan,1,wave",
    "negative": "v,train,-1,1,wave",
    "hexadecimal": "v,train,0x1,2,wave",
    "underscore": "v,train,1_0,20,wave",
    "comma": 'v,train,"0,5",1,wave',
    "arabic digits": "v,train,٣,4,wave",
    "formula": "v,train,=1+1,3,wave",
    "two splits": "v,train,0,1,wave\nv,test,0,1,wave",
    "line twice": "v,train,0,1,wave\nv,train,0,1,wave",
    "differs in case": "v,train,0,1,wave\nV,train,0,1,wave",
    "label after none": "v,train,,,\nv,train,0,1,wave",
    "open quote": 'v,train,0,1,"wave',
    "quote inside": 'v,train,0,1,wa"ve"\n"v"x,train,0,1,wave',
    "empty line inside": "v,train,0,1,wave\n\nw,train,0,1,wave",
    "empty id": ",train,0,1,wave",
}
BAD_BYTES = {
    "NUL": f"{HEADER}\nv,train,0,1,wa\0ve\n".encode(),
    "latin-1": f"{HEADER}\nv,train,0,1,wävé\n".encode("latin-1"),
    "UTF-16 without its mark": f"{HEADER}\nv,train,0,1,wave\n".encode("utf-16-le"),
    "UTF-16, cut": f"{HEADER}\nv,train,0,1,wave\n".encode("utf-16")[:-1],
    "UTF-32": f"{HEADER}\nv,train,0,1,wave\n".encode("utf-32"),
    "Cyrillic": f"{HEADER}\nv,train,0,1,волна\n".encode("cp1251"),
    "empty": b"",
    "other header": b"id,split,start,end,label\nv,train,0,1,wave\n",
    "header in capitals": HEADER.upper().encode() + b"\n",
    "a semicolon in the header": HEADER.replace(",", ";", 1).encode() + b"\nv;train,0,1,wave\n",
    "commas below semicolons": HEADER.replace(",", ";").encode() + b"\nv,train,0,1,wave\n",
    "thousands or decimals": HEADER.replace(",", ";").encode() + b"\nv;train;1,234;2,345;wave\n",
    "commas and points": HEADER.replace(",", ";").encode() + b"\nv;train;0,5;1.5;wave\n",
    "bars": HEADER.replace(",", "|").encode() + b"\nv|train|0|1|wave\n",
    "a picture": bytes(range(256)) * 4,
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
    "a field of 200 kB": f"{HEADER}\n{'v' * 200_000},train,0,1,wave\n".encode(),
}
CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
BAD_CHARADES = ["c999 0 1", "c1 0 1", "c000 0", "c000 0 1 2", "c000  0 1", "x", "c000 a b", "C000 0 1", "c000 -1 2"]


def attempt(read) -> str:
    """ "" where the tables are read, or the refusal."""
    try:
        read()
    except AnnotationError as error:
        return str(error)
    return ""


def pandas_takes(path: Path) -> bool:
    try:
        pd.read_csv(path)
    except Exception:
        return False
    return True


def test_hostile_ids_and_tables(tmp_path, count):
    (tmp_path / "data").mkdir()
    table, classes = tmp_path / "data/table.csv", tmp_path / "data/classes.txt"
    classes.write_text("wave\nsit\n")
    (tmp_path / "canary").write_text("untouched")
    before, right, plain, tried = tree(tmp_path), 0, 0, 0
    cases = {f"id {one!r}": f'{HEADER}\n"{one}",train,0,1,wave\n'.encode() for one in BAD_IDS}
    cases |= {name: f"{HEADER}\n{lines}\n".encode() for name, lines in BAD_LINES.items()} | BAD_BYTES
    for name, content in cases.items():
        table.write_bytes(content)
        refusal = attempt(lambda: read_plain(table, classes))
        tried += 1
        right += refusal.startswith(str(table)) and "line " in refusal and "expected" in refusal
        assert refusal, name
        plain += pandas_takes(table)
    for actions in BAD_CHARADES:
        table.write_text(f'{CHARADES}\nv,,,,,,,,,"{actions}",5\n')
        (tmp_path / "data/classes_ch.txt").write_text("c000 wave\nc001 sit\n")
        refusal = attempt(lambda: read_charades(table, table, tmp_path / "data/classes_ch.txt"))
        tried += 1
        right += "column actions" in refusal
        plain += pandas_takes(table)
    table.unlink(), classes.unlink(), (tmp_path / "data/classes_ch.txt").unlink()
    assert {name: tree(tmp_path)[name] for name in before if "data/" not in name}
    what = "hostile ids and tables refused with file, line and column"
    count("T9", what, right, tried, f"pandas defaults: {plain} of {tried} taken without a word")


BOXES = "video_id,start,end,top,left,height,width"
BAD_BOXES = {
    "column missing": "v,0,1,0,0,5",
    "column too many": "v,0,1,0,0,5,5,1",
    "unknown video": "w,0,1,0,0,5,5",
    "end before start": "v,2,1,0,0,5,5",
    "no time": "v,1,1,0,0,5,5",
    "empty time": "v,,,0,0,5,5",
    "negative time": "v,-1,1,0,0,5,5",
    "nan": "v,0,nan,0,0,5,5",
    "1e400": "v,0,1e400,0,0,5,5",
    "negative pixel": "v,0,1,-1,0,5,5",
    "part of a pixel": "v,0,1,0.5,0,5,5",
    "no height": "v,0,1,0,0,0,5",
    "an empty edge": "v,0,1,0,,5,5",
    "below the picture": "v,0,1,36,0,5,5",
    "right of the picture": "v,0,1,0,56,5,5",
    "higher than the picture": "v,0,1,0,0,41,5",
    "a number of 5000 digits": f"v,0,1,0,0,5,{'0' * 9}{'9' * 5000}",
    "other digits": "v,0,1,0,0,5,\u0665",
    "underscore": "v,0,1,0,0,5,1_0",
    "a formula": "v,0,1,0,0,5,=1+1",
}
BAD_SCORES = ["nan", "inf", "-1", "0", "", "1_0", "1e400", "0x1", "\u0661", " 1", "1" * 400]


def test_hostile_tables_of_boxes(tmp_path, count):
    """Of a run with the video "v", 40 x 60 source pixels."""
    path, right, plain, tried = tmp_path / "boxes.csv", 0, 0, 0
    cases = {f"id {one!r}": f'{BOXES}\n"{one}",0,1,0,0,5,5\n'.encode() for one in BAD_IDS}
    cases |= {name: f"{BOXES}\n{line}\n".encode() for name, line in BAD_BOXES.items()}
    cases |= {f"score {one!r}": f"{BOXES},score\nv,0,1,0,0,5,5,{one}\n".encode() for one in BAD_SCORES}
    cases |= {name: content.replace(HEADER.encode(), BOXES.encode()) for name, content in BAD_BYTES.items()}
    for name, content in cases.items():
        path.write_bytes(content)
        refusal = attempt(lambda: read_own_boxes(path).check_videos({"v": (40, 60)}, ()))
        tried += 1
        right += refusal.startswith(str(path)) and "line " in refusal and "expected" in refusal
        assert refusal, name
        plain += pandas_takes(path)
    baseline = f"pandas defaults: {plain} of {tried} taken without a word"
    count("T9", "hostile tables of boxes refused with file, line and column", right, tried, baseline)


def test_odd_ids_that_are_right_are_kept_as_text(tmp_path, count):
    table, classes = tmp_path / "table.csv", tmp_path / "classes.txt"
    classes.write_text("wave\n")
    lines = "\n".join(f"{one},train,0,1,wave" for one in GOOD_IDS)
    right = plain = 0
    for content in (
        f"{HEADER}\n{lines}\n",
        f"\ufeff{HEADER}\n{lines}\n",
        f"{HEADER}\r\n{lines}\r\n".replace("\n\n", "\n"),
    ):
        table.write_bytes(content.replace("\r\r", "\r").encode())
        found = read_plain(table, classes).videos.video_id.tolist()
        right += sum(left == want for left, want in zip(found, GOOD_IDS, strict=True))
        plain += sum(str(left) == want for left, want in zip(pd.read_csv(table).iloc[:, 0], GOOD_IDS, strict=True))
    baseline = f"pandas defaults: {plain} of {3 * len(GOOD_IDS)} kept"
    count("T9", "ids such as NA, null, 007 kept as text, with BOM and CRLF too", right, 3 * len(GOOD_IDS), baseline)
    assert all(map(is_plain_id, GOOD_IDS)) and not any(map(is_plain_id, BAD_IDS))


def bad_videos(root: Path, outside: Path) -> dict[str, tuple[str, ...]]:
    """Write one bad video after another: id to the reasons that are right for it."""
    frames = [numbered_frame(number) for number in range(24)]
    good = write_video(root / "good1.mp4", frames, 8).read_bytes()
    write_video(root / "good2.mkv", frames, 8)
    outside.write_bytes(good)
    broken = ("VideoUnreadable", "VideoTruncated", "VideoEmpty")
    want = {}

    def add(name: str, content: bytes | str, *reasons: str) -> None:
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        want[name.split(".")[0]] = reasons or broken

    for tenth in range(1, 10):
        add(f"cut{tenth}.mp4", good[: len(good) * tenth // 10])
    add("cut10.mp4", good[:-200])
    add("empty.mp4", b"")
    add("text.mp4", "this is no video\n" * 100)
    add("zeros.mp4", bytes(100_000))
    add("noise.mp4", random.Random(0).randbytes(100_000))
    add("head.mp4", good[:32] + random.Random(1).randbytes(50_000))
    add("playlist.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{outside}\n#EXT-X-ENDLIST\n")
    add("playlist2.ts", f"#EXTM3U\n#EXTINF:9,\nfile://{outside}\n")
    add("concat.mp4", f"ffconcat version 1.0\nfile '{outside}'\n")
    add("concat2.mkv", f"ffconcat version 1.0\nfile {outside}\nduration 9\n")
    add("dash.mp4", f"<?xml version='1.0'?><MPD><Period><BaseURL>file://{outside}</BaseURL></Period></MPD>")
    add("sdp.avi", "v=0\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n")
    add("picture.mp4", b"\x89PNG\r\n\x1a\n" + bytes(1000))
    add("gif.mp4", b"GIF89a" + bytes(1000))
    add("script.avi", "#!/bin/sh\ntouch /tmp/owned\n")
    size = good.index(b"tkhd") + 80
    huge = good[:size] + b"\x7f\xff\x00\x00" + good[size + 4 :]
    where = good.index(b"avc1") + 28
    add("huge.mp4", huge[:where] + b"\xff\xff\xff\xff" + huge[where + 4 :], *broken, "VideoTooLarge", "decoded")
    with av.open(str(root / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        for packet in (*stream.encode(sound), *stream.encode(None)):
            container.mux(packet)
    want["sound"] = ("VideoAudioOnly",)
    (root / "link.mp4").symlink_to(outside)
    want["link"] = ("UnsafePath",)
    (root / "dangling.mp4").symlink_to(root / "nothing.mp4")
    want["dangling"] = ("VideoMissing",)
    os.mkfifo(root / "pipe.mp4")
    want["pipe"] = ("VideoMissing",)
    os.mknod(root / "socket.mp4", stat.S_IFSOCK | 0o600)
    want["socket"] = ("VideoMissing",)
    (root / "circle.mp4").symlink_to("circle.mp4")
    want["circle"] = ("VideoUnreadable",)
    (root / "piped").mkdir()
    os.mkfifo(root / "piped/piped-000001.jpg")
    want["piped"] = ("VideoUnreadable",)
    (root / "folder.mp4").mkdir()
    want["folder"] = ("VideoMissing",)
    (root / "nothing").mkdir()
    want["nothing"] = ("VideoEmpty",)
    (root / "frames").mkdir()
    (root / "frames/frames-000001.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    want["frames"] = ("VideoUnreadable",)
    (root / "linked").mkdir()
    (root / "linked/linked-000001.jpg").symlink_to(outside)
    want["linked"] = ("UnsafePath",)
    return want


def test_bad_videos(tmp_path, count):
    """Each is left out with a reason; the good ones are planned; what lies outside is not read; nothing hangs."""
    root, outside = tmp_path / "videos", tmp_path / "outside.mp4"
    root.mkdir()
    want = bad_videos(root, outside)
    ids = ["good1", "good2", *want]
    lines = [f"{one},{'test' if one == 'good2' else 'train'},,,wave" for one in ids]
    (tmp_path / "table.csv").write_text("\n".join([HEADER, *lines, ""]))
    (tmp_path / "classes.txt").write_text("wave\n")
    files = {"annotations": (str(tmp_path / "table.csv"),), "classes": str(tmp_path / "classes.txt")}
    data = {**files, "videos": str(root), "max_skipped": 1.0, "missing_videos": "skip", "source_fps": 24.0}
    config = tiny_config(tmp_path, data=data | {"video_seconds": 60.0, "video_memory": 1.0})
    seen = outside.stat().st_atime_ns
    prepare.run(config, tmp_path / "run")
    skipped = pd.read_csv(tmp_path / "run/skipped.csv", dtype=str, keep_default_na=False)
    reasons = dict(zip(skipped.video_id, skipped.reason, strict=True))
    planned = set(pd.read_csv(tmp_path / "run/videos.csv", dtype=str).video_id)
    assert "VideoTimeout" not in reasons.values()  # nothing had to be given up
    wrong = {one: reasons.get(one, "decoded") for one in want if reasons.get(one, "decoded") not in want[one]}
    assert not wrong
    details = dict(zip(skipped.video_id, skipped.detail, strict=True))
    named = sum(one in planned or one in details[one] for one in want)
    assert {"good1", "good2"} <= planned and outside.stat().st_atime_ns == seen
    count("T10", "bad videos left out by name, the good ones planned, nothing outside read", named, len(want))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_videos_never_crash_prepare(seed, tmp_path, trials, count):
    """Random bytes changed in a good video: decoded, or left out with a reason."""
    root, chance = tmp_path / "videos", random.Random(seed)
    root.mkdir()
    extension = ("mp4", "mkv", "avi", "webm")[seed]
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}.get(extension, "libx264")
    good = bytearray(
        write_video(root / f"good.{extension}", [numbered_frame(one) for one in range(24)], 8, codec).read_bytes()
    )
    number = trials(60, 8)
    for trial in range(number):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (root / f"v{trial}.{extension}").write_bytes(data)
    lines = ["good,train,,,wave", *(f"v{trial},train,,,wave" for trial in range(number))]
    (tmp_path / "table.csv").write_text("\n".join([HEADER, *lines, ""]))
    (tmp_path / "classes.txt").write_text("wave\n")
    config = tiny_config(tmp_path, data={"max_skipped": 1.0, "videos": str(root), "video_seconds": 60.0}, workers=2)
    prepare.run(config, tmp_path / "run")
    planned = len(pd.read_csv(tmp_path / "run/videos.csv", dtype=str))
    skipped = pd.read_csv(tmp_path / "run/skipped.csv", dtype=str, keep_default_na=False)
    assert skipped.reason.str.startswith(("Video", "DecoderCrashed")).all()
    count("T10", f"{extension} with random bytes: decoded or left out by name", planned + len(skipped) - 1, number)
