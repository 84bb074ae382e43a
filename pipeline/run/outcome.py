"""What a stage did."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a stage did: the place it wrote, one line about it, and how many videos it had to leave out."""

    path: Path
    summary: str
    num_skipped: int = 0
