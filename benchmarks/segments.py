"""Row 17: 300 segments of a recording of 20 minutes, decoded as a stage does, against decoding the recording once."""

import zlib
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np

from benchmarks.result import Result, of_times
from benchmarks.timing import both_sides
from pipeline.data.shared_decode import Recording, segment_frames
from pipeline.data.video import seek
from pipeline.data.video.frames import read_frames
from pipeline.data.video.write import write_video

SECONDS, FPS, RATE, SEGMENTS, SIZE = 1200, 10, 8, 300, (96, 128)


def measure(seconds: int = SECONDS, segments: int = SEGMENTS) -> Result:
    chance, count = np.random.default_rng(0), {}
    starts = np.sort(chance.integers(0, 100 * (seconds - 6), segments)).tolist()
    wanted = [
        [(Fraction(start, 100) + Fraction(k, RATE), k) for k in range((2 + n % 5) * RATE)]
        for n, start in enumerate(starts)
    ]
    with TemporaryDirectory() as folder:
        path, picture = Path(folder) / "recording.mp4", chance.integers(0, 255, (*SIZE, 3), np.uint8)
        write_video(path, (np.roll(picture, number, 1) for number in range(seconds * FPS)), FPS)
        recording, decoded = Recording(path, "pts", None, ""), seek.decoded

        def ours() -> int:
            found = 0
            for number, own in enumerate(wanted):
                later = [one for one in wanted[number + 1 :] if one[0] <= own[-1]]
                found += sum(zlib.crc32(frame) > 0 for _, frame in segment_frames(recording, own, later))
            return found

        def theirs() -> int:
            return sum(zlib.crc32(frame) > 0 for _, frame in read_frames(path, range(seconds * RATE), RATE))

        def counted(*arguments):
            for frame in decoded(*arguments):
                count[frame.pts] = count.get(frame.pts, 0) + (len(arguments) > 3)  # without packets: its time alone
                yield frame

        with mock.patch.object(seek, "decoded", counted):
            ours()
        times = both_sides(ours, theirs, 3)
    name = f"{segments} segments of a recording of {seconds // 60} minutes decoded, against decoding it once"
    agreement = f"{sum(count.values())} of {seconds * FPS} frames decoded, each {max(count.values())} time"
    return of_times(times, name, "≥ 0.77, at most 1.3 times as long", times.ratio >= 1 / 1.3, agreement)
