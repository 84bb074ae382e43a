"""What a stage did."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a stage did."""

    path: Path  # what it wrote
    summary: str  # one line; of `report` more, where the run lacks something
    num_skipped: int = 0  # videos that it had to leave out
    left_out: str = ""  # which and why, and how they are tried again; "" where another file says it


def say_left_out(reasons: dict[str, str], shown: int = 3) -> str:
    """Name some videos that units were committed without, each with its reason; "" for none."""
    lines = [f"left out: {video_id}: {reason}" for video_id, reason in list(reasons.items())[:shown]]
    more = [f"and {len(reasons) - shown} more, each in the commit record of its unit"] * (len(reasons) > shown)
    again = ["the same command with --retry-skipped tries them again"] * bool(reasons)
    return "\n".join([*lines, *more, *again])
