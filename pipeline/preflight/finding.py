"""What a check found."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was checked, in a word.
        level: "problem" stops a stage or spoils its results, "note" is worth knowing.
        text: what was found, with the numbers.
        fix: what to do about it; "" where all is well.
    """

    check: str
    level: Level
    text: str
    fix: str = ""
