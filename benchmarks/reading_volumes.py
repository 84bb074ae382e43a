"""Row 9: one worker reads focused volumes of T = 64 from the cache, against decoding and cutting the same clips."""

from benchmarks.result import Result
from benchmarks.stored_volumes import decibels, stored
from benchmarks.timing import interleaved, medians

GOAL = 8.0


def measure() -> Result:
    with stored() as volumes:
        difference = decibels(volumes.read(), volumes.cut())
        times = medians(interleaved({"ours": volumes.read, "theirs": volumes.cut}, repeats=5))
        count, source = volumes.part.num_rows, volumes.source()
    ratio = times["theirs"] / times["ours"]
    return Result(
        name=f"{count} focused volumes of 64 frames from the cache, against decoding and cutting {source}",
        **times,
        ratio=ratio,
        goal=f"≥ {GOAL:g}",
        met=ratio >= GOAL and difference >= 30,
        agreement=f"equal but for JPEG, {difference:.1f} dB",
    )
