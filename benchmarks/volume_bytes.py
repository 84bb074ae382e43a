"""Row 10: bytes of a stored focused volume, default codec, against raw uint8, and what the codec costs in quality."""

from benchmarks.result import Result
from benchmarks.stored_volumes import decibels, stored

SHARE, DECIBELS = 0.12, 37.0


def measure() -> Result:
    with stored() as volumes:
        product = volumes.store.product
        records = [product.checked_record(unit) for unit in range(volumes.part.num_units)]
        size = sum(file["bytes"] for record in records for file in record["files"])
        exact = volumes.cut()
        quality = decibels(volumes.read(), exact)
        source = volumes.source()
    raw = sum(volume.nbytes for volume in exact)
    ratio = size / raw
    return Result(
        name=f"bytes of focused volumes of {source}, JPEG, against raw uint8",
        ours=size / 1e6,
        theirs=raw / 1e6,
        ratio=ratio,
        goal=f"≤ {SHARE} at ≥ {DECIBELS:g} dB",
        met=ratio <= SHARE and quality >= DECIBELS,
        agreement=f"{quality:.1f} dB",
        unit="MB",
    )
