"""What a stage did."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a stage did."""

    path: Path  # what it wrote
    summary: str  # one line; of `report` more, where the run lacks something
    num_skipped: int = 0  # videos that it had to leave out
