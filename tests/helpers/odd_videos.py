"""One small video of every kind that phones, cameras, screen recorders, downloaders and editors write.

Each function of KINDS writes one into a folder and returns what a player shows of it.
"""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from tests.helpers.make_video import EXACT, numbered_frame, write_streams

SIZE = (96, 160)
RATE = 10
GROUP = {"g": "10", "bf": "2", "sc_threshold": "0"}  # a key frame every 10
VP9 = {"g": "10", "lag-in-frames": "0"}
QUIET = {"x265-params": "log-level=none:keyint=10:min-keyint=10:open-gop=0:scenecut=0"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
BT709, BT601, SMPTE170M, BT2020 = 1, 5, 6, 9  # colour matrices, ITU-T H.273
PQ, HLG = 16, 18  # transfer functions
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
NO_FFMPEG = "no ffmpeg program (Debian: ffmpeg)"


@dataclass(frozen=True)
class Shown:
    """What a player shows of a file."""

    path: Path
    numbers: list[int]  # of `numbered_frame`, in order
    times: list[float]  # seconds after the first one
    size: tuple[int, int] = SIZE  # before it is turned
    turn: Callable = lambda picture: picture
    pictures: str = ""  # what `VideoInfo.pictures` says
    more: bool = False  # FFmpeg shows more, broken, frames before these
    gap: bool = False  # FFmpeg takes the gap out of the clock, we name it

    @property
    def frames(self) -> list[np.ndarray]:
        """The pictures, uint8 (H, W, 3) RGB."""
        return [self.turn(numbered_frame(number, self.size)) for number in self.numbers]


KINDS: dict[str, Callable[[Path], Shown]] = {}


def kind(make: Callable[[Path], Shown]) -> Callable[[Path], Shown]:
    """Add a function to KINDS."""
    KINDS[make.__name__] = make
    return make


def even(numbers) -> list[float]:
    """Return the times of so many frames at RATE."""
    return [number / RATE for number in range(len(numbers))]


def write(
    path: Path,
    numbers,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    options: dict[str, str] | None = None,
    rate: Fraction = RATE,
    **more,
) -> Shown:
    """Encode numbered frames.

    Args:
        more: `pts`, in 1 / rate or 1 / 1000 seconds as `clock` says; `container`, options of the muxer; `display`, the
            four numbers a b c d of a display matrix; `color_range`, `colorspace`, `color_trc` of the codec.
    """
    numbers, pts, clock = list(numbers), more.pop("pts", None), more.pop("clock", 1 / Fraction(rate))
    full = more.get("color_range") == 2 or pix_fmt.startswith("yuvj")
    default = {"crf": "8"} if codec.startswith("lib") else {"qscale": "1"} if codec in ("mpeg4", "mjpeg") else {}
    with av.open(str(path), "w", container_options=more.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options={**default, **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if display := more.pop("display", None):
            a, b, c, d = (one << 16 for one in display)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        context = stream.codec_context
        context.thread_count, context.time_base = 1, clock
        for name, value in more.items():
            setattr(context, name, value)
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, size), format="rgb24")
            matrix = more.get("colorspace", BT601)
            colours = {"dst_color_range": 1 + full, "dst_colorspace": BT601 if matrix == SMPTE170M else matrix}
            frame = frame.reformat(format=pix_fmt, interpolation=EXACT, **colours)
            frame.pts, frame.time_base = place if pts is None else pts[place], clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    times = [float((one - pts[0]) * clock) for one in pts] if pts else [place / rate for place in range(len(numbers))]
    return Shown(path, numbers, times, size)


def remux(source: Path, path: Path, change: Callable, container: dict[str, str] | None = None) -> Path:
    """Copy the packets of a file, each as `change(packet, number)` returns it; None leaves it out."""
    with av.open(str(source)) as old, av.open(str(path), "w", container_options=container or {}) as new:
        streams = {one.index: new.add_stream_from_template(one) for one in old.streams}
        for number, packet in enumerate(one for one in old.demux() if one.dts is not None):
            stream = streams[packet.stream.index]
            if changed := change(packet, number):
                changed.stream = stream
                new.mux(changed)
    return path


def shifted(seconds: float) -> Callable:
    """Return a change of packets for `remux`: later by so many seconds."""

    def change(packet: av.Packet, _: int) -> av.Packet:
        ticks = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packet

    return change


def ffmpeg(*arguments) -> None:
    """Run the program quietly."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


# --- clocks ---


@kind
def edit_list_that_cuts(folder: Path) -> Shown:
    """As `-ss 0.55 -c copy` writes: packets from the key frame on, shown from frame 6 on."""
    source = write(folder / "source.mp4", range(40), options=GROUP).path
    path = remux(source, folder / "v.mp4", shifted(-0.55), {"avoid_negative_ts": "disabled"})
    return Shown(path, list(range(6, 40)), even(range(34)))


@kind
def edit_list_that_delays(folder: Path) -> Shown:
    source = write(folder / "source.mp4", range(20), options=GROUP).path
    return Shown(remux(source, folder / "v.mp4", shifted(0.8)), list(range(20)), even(range(20)))


@kind
def negative_times_without_edit_list(folder: Path) -> Shown:
    options = {"use_editlist": "0", "movflags": "negative_cts_offsets"}
    return write(folder / "v.mov", range(20), options=GROUP, container=options)


@kind
def sound_first(folder: Path) -> Shown:
    path = write_streams(folder / "v.mp4", [[numbered_frame(number, SIZE) for number in range(12)]], 4, start=1.5)
    return Shown(path, list(range(12)), even(range(12)))


def _without_first(folder: Path, name: str, dropped: int, shown: int, codec: str, rate=RATE, **options) -> Shown:
    """Drop the first packets of 40; the first key frame of the rest is frame `shown`."""
    source = write(folder / f"source-{name}", range(40), codec, rate=rate, **options).path
    path = remux(source, folder / name, lambda packet, number: packet if number >= dropped else None)
    times = [number / rate for number in range(40 - shown)]
    return Shown(path, list(range(shown, 40)), times, more=codec == "libx265")


@kind
def no_first_key_frame_mp4(folder: Path) -> Shown:
    return _without_first(folder, "v.mp4", 3, 10, "libx264", options=GROUP)


@kind
def no_first_key_frame_mkv(folder: Path) -> Shown:
    return _without_first(folder, "v.mkv", 3, 10, "libx264", options=GROUP)


@kind
def no_first_key_frame_hevc(folder: Path) -> Shown:
    return _without_first(folder, "v.mp4", 3, 10, "libx265", options=QUIET)


@kind
def no_first_key_frame_vp9(folder: Path) -> Shown:
    return _without_first(folder, "v.webm", 3, 10, "libvpx-vp9", options=VP9)


@kind
def cut_in_a_group_of_pictures(folder: Path) -> Shown:
    return _without_first(folder, "v.ts", 13, 20, "libx264", options=GROUP)


@kind
def cut_in_an_open_group(folder: Path) -> Shown:
    """The first key frame is followed by frames that come before it in time and refer to those that are gone."""
    params = "open-gop=1:keyint=10:min-keyint=10:b-pyramid=0:scenecut=0"
    return _without_first(folder, "v.ts", 13, 20, "libx264", options={"bf": "3", "x264-params": params})


@kind
def cut_in_an_open_group_of_mpeg2(folder: Path) -> Shown:
    options = {"g": "10", "bf": "2", "qmin": "1", "b": "2M"}
    return _without_first(folder, "v.mpg", 23, 30, "mpeg2video", rate=25, options=options)


@kind
def gap_in_the_clock(folder: Path) -> Shown:
    return write(folder / "v.mkv", range(20), pts=[*range(8), *range(30, 42)])


@kind
def clock_that_jumps_an_hour(folder: Path) -> Shown:
    made = write(folder / "v.ts", range(20), pts=[*range(8), *range(36000, 36012)], options={"bf": "0"})
    return Shown(made.path, made.numbers, made.times, gap=True)


@kind
def clock_that_begins_again(folder: Path) -> Shown:
    """Two transport streams one after the other."""
    parts = [write(folder / f"{first}.ts", range(first, first + 12)).path for first in (0, 12)]
    (folder / "v.ts").write_bytes(b"".join(one.read_bytes() for one in parts))
    return Shown(folder / "v.ts", list(range(24)), even(range(24)))


@kind
def clock_that_overflows(folder: Path) -> Shown:
    """33 bits of 1 / 90,000 second are 26.5 hours."""
    source = write(folder / "source.mp4", range(20), options=GROUP).path
    return Shown(remux(source, folder / "v.ts", shifted(95442.7)), list(range(20)), even(range(20)))


@kind
def variable_rate_of_a_phone(folder: Path) -> Shown:
    pts = [0, 33, 67, 100, 133, 180, 200, 233, 267, 300, 333, 400, 433, 467, 500]
    return write(folder / "v.mp4", range(15), rate=30, pts=pts, clock=Fraction(1, 1000))


@kind
def last_frame_shown_for_long(folder: Path) -> Shown:
    """Of the 0.9 s that nine frames take, and 3 s: see `test_the_last_frame_is_shown_for_long`."""
    source = write(folder / "source.mp4", range(10), options={"bf": "0"}).path

    def change(packet: av.Packet, number: int) -> av.Packet:
        packet.duration *= 30 if number == 9 else 1
        return packet

    return Shown(remux(source, folder / "v.mp4", change), list(range(10)), even(range(10)))


@kind
def still_picture_under_sound(folder: Path) -> Shown:
    path = write_streams(folder / "v.mkv", [[numbered_frame(number, SIZE) for number in range(3)]], 6)
    return Shown(path, [0, 1, 2], even(range(3)))


@kind
def avi_that_counts_half_frames(folder: Path) -> Shown:
    """As FFmpeg up to 5 wrote B-frames: the header says 20 a second, every second place in the file is empty."""
    source = write(folder / "source.ts", range(20), options=GROUP | {"bf": "1"}).path
    with av.open(str(source)) as old, av.open(str(folder / "v.avi"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.time_base = Fraction(1, 2 * RATE)
        for number, packet in enumerate(one for one in old.demux(video=0) if one.dts is not None):
            packet.stream, packet.time_base = stream, stream.time_base
            packet.pts, packet.dts, packet.duration = 2 * number, 2 * number, 1
            new.mux(packet)
    return Shown(folder / "v.avi", list(range(20)), even(range(20)))


@kind
def one_frame(folder: Path) -> Shown:
    return write(folder / "v.mp4", [5])


@kind
def an_hour(folder: Path) -> Shown:
    return write(folder / "v.mp4", range(60), size=(48, 80), rate=Fraction(1, 60))


# --- streams and files ---


@kind
def several_streams(folder: Path) -> Shown:
    small, large = ([numbered_frame(number, size) for number in range(12)] for size in ((48, 80), SIZE))
    return Shown(write_streams(folder / "v.mp4", [small, large]), list(range(12)), even(range(12)))


@kind
def cover_art(folder: Path) -> Shown:
    """A picture that is larger than the video."""
    source = write(folder / "source.mp4", range(12)).path
    Image.new("RGB", (640, 480), "red").save(folder / "cover.png")
    with ExitStack() as stack:
        cover, old = (stack.enter_context(av.open(str(one))) for one in (folder / "cover.png", source))
        new = stack.enter_context(av.open(str(folder / "v.mp4"), "w"))
        picture = new.add_stream_from_template(cover.streams.video[0])
        picture.disposition = Disposition.attached_pic
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in (*cover.demux(), *old.demux()):
            if packet.size:
                packet.dts = packet.pts if packet.dts is None else packet.dts
                packet.stream = stream if packet.stream.container is old else picture
                new.mux(packet)
    return Shown(folder / "v.mp4", list(range(12)), even(range(12)))


@kind
def fragments(folder: Path) -> Shown:
    return write(folder / "v.mp4", range(24), options=GROUP, container=FRAGMENTS)


@kind
def fragments_of_a_frame(folder: Path) -> Shown:
    return write(folder / "v.mp4", range(24), options=GROUP, container={"movflags": "dash+frag_every_frame+empty_moov"})


@kind
def two_files_in_one(folder: Path) -> Shown:
    """Players stop after the first."""
    parts = [write(folder / f"{first}.mp4", range(first, first + 12)).path for first in (0, 12)]
    (folder / "v.mp4").write_bytes(b"".join(one.read_bytes() for one in parts))
    return Shown(folder / "v.mp4", list(range(12)), even(range(12)))


@kind
def joined_by_ffmpeg(folder: Path) -> Shown:
    """Two encodings in one track, by the program's `concat`."""
    write(folder / "0.mp4", range(20), options=GROUP), write(folder / "1.mp4", range(20, 40), options={"bf": "1"})
    (folder / "list.txt").write_text("file 0.mp4\nfile 1.mp4\n")
    ffmpeg("-f", "concat", "-i", folder / "list.txt", "-c", "copy", folder / "v.mp4")
    return Shown(folder / "v.mp4", list(range(40)), even(range(40)))


# --- codecs and formats of pixels ---


def _pixels(name: str, file: str, *arguments, **options) -> None:
    """Add a kind of three frames that `write` makes."""

    def make(folder: Path) -> Shown:
        return write(folder / file, range(3), *arguments, **options)

    KINDS[name] = make


_pixels("mjpeg", "v.avi", "mjpeg", "yuvj420p")
_pixels("mjpeg_of_hd_size", "v.avi", "mjpeg", "yuvj422p", (580, 64))  # JPEG is BT.601, whatever its size
_pixels("prores", "v.mov", "prores_ks", "yuv422p10le")
_pixels("flash", "v.flv", "flv", options={"b": "2M", "qmin": "1"})
_pixels("windows_media", "v.wmv", "wmv2", options={"b": "2M", "qmin": "1"})
_pixels("422", "v.mp4", "libx264", "yuv422p")
_pixels("444", "v.mp4", "libx264", "yuv444p")
_pixels("10_bit", "v.mp4", "libx264", "yuv420p10le")
_pixels("10_bit_full_range", "v.mp4", "libx264", "yuv420p10le", color_range=2)
_pixels("12_bit", "v.mp4", "libx265", "yuv420p12le", options=QUIET)
_pixels("rgb", "v.mkv", "libx264rgb", "rgb24")
_pixels("rgb_of_an_editor", "v.mov", "qtrle", "rgb24")
_pixels("alpha", "v.webm", "libvpx-vp9", "yuva420p")
_pixels("odd_size_444", "v.mp4", "libx264", "yuv444p", (95, 163))
_pixels("odd_size_420", "v.webm", "libvpx-vp9", "yuv420p", (95, 163))
_pixels("full_range_h264", "v.mkv", "libx264", color_range=2)
_pixels("full_range_hevc", "v.mkv", "libx265", color_range=2, options=QUIET)
_pixels("full_range_vp9", "v.mkv", "libvpx-vp9", color_range=2)
for _matrix, _name in ((BT709, "bt709"), (BT601, "bt601"), (SMPTE170M, "smpte170m"), (BT2020, "bt2020")):
    _pixels(f"tagged_{_name}", "v.mp4", colorspace=_matrix)
_pixels("tagged_bt709_of_hd_size", "v.mp4", size=(580, 64), colorspace=BT709)
_pixels("tagged_bt601_of_hd_size", "v.mp4", size=(580, 64), colorspace=BT601)


def _gray(folder: Path, pix_fmt: str) -> Shown:
    made = write(folder / "v.mkv", range(3), "ffv1", pix_fmt)
    return Shown(made.path, made.numbers, made.times, turn=lambda picture: (picture @ LUMA)[..., None].repeat(3, 2))


@kind
def gray(folder: Path) -> Shown:
    return _gray(folder, "gray")


@kind
def gray_10_bit(folder: Path) -> Shown:
    return _gray(folder, "gray10le")


@kind
def untagged(folder: Path) -> Shown:
    return write(folder / "v.mp4", [5], size=(576, 64), colorspace=BT601, options={"x264-params": "colormatrix=undef"})


@kind
def untagged_high(folder: Path) -> Shown:
    return write(folder / "v.mp4", [5], size=(578, 64), colorspace=BT709, options={"x264-params": "colormatrix=undef"})


@kind
def untagged_wide(folder: Path) -> Shown:
    return write(folder / "v.mp4", [5], size=(64, 1280), colorspace=BT709, options={"x264-params": "colormatrix=undef"})


def _hdr(folder: Path, transfer: int, name: str) -> Shown:
    colours = {"colorspace": BT2020, "color_trc": transfer, "color_primaries": BT2020}
    made = write(folder / "v.mp4", range(3), "libx265", "yuv420p10le", options=QUIET, **colours)
    return Shown(made.path, made.numbers, made.times, pictures=name)


@kind
def hdr_pq(folder: Path) -> Shown:
    return _hdr(folder, PQ, "HDR (PQ)")


@kind
def hdr_hlg(folder: Path) -> Shown:
    return _hdr(folder, HLG, "HDR (HLG)")


@kind
def interlaced(folder: Path) -> Shown:
    made = write(folder / "v.mp4", range(6), options={"x264-params": "interlaced=1:tff=1"})
    return Shown(made.path, made.numbers, made.times, pictures="interlaced")


@kind
def gif(folder: Path) -> Shown:
    """Frames of different length, the last one shown for two seconds."""
    first, *rest = (Image.fromarray(numbered_frame(number, SIZE)) for number in range(5))
    first.save(folder / "v.gif", save_all=True, append_images=rest, duration=[100, 500, 30, 1000, 2000], loop=0)
    return Shown(folder / "v.gif", list(range(5)), [0, 0.1, 0.6, 0.63, 1.63])


# --- display matrices: x' = a x + c y, y' = b x + d y ---

ORIENTATIONS = {
    "upright": ((1, 0, 0, 1), lambda picture: picture),
    "turned_90_clockwise": ((0, 1, -1, 0), lambda picture: np.rot90(picture, 3)),
    "turned_180": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "turned_90_counterclockwise": ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
    "mirrored_left_to_right": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
    "mirrored_top_to_bottom": ((1, 0, 0, -1), lambda picture: picture[::-1]),
    "mirrored_at_the_diagonal": ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
    "mirrored_at_the_other_diagonal": ((0, -1, -1, 0), lambda picture: picture[::-1, ::-1].swapaxes(0, 1)),
}


def _oriented(name: str, file: str) -> None:
    matrix, turn = ORIENTATIONS[name]

    def make(folder: Path) -> Shown:
        made = write(folder / file, range(2), display=matrix)
        return Shown(made.path, made.numbers, made.times, turn=turn)

    KINDS[f"{name}_{Path(file).suffix[1:]}"] = make


for _name in ORIENTATIONS:
    _oriented(_name, "v.mp4")
_oriented("mirrored_left_to_right", "v.mkv")

NEEDS_FFMPEG = ("joined_by_ffmpeg",)
HAS_FFMPEG = shutil.which("ffmpeg") is not None
