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


def judged(check: str, wrong: bool, text: str, fix: str) -> Finding:
    """Return a problem with its fix if something is wrong, else that all is well."""
    return Finding(check, "problem", text, fix) if wrong else Finding(check, "ok", text)
