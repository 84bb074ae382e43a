"""What values settings can have: names, texts, and bounds of numbers."""

from typing import Annotated

from annotated_types import Interval, Predicate


def is_name(text: str) -> bool:
    """Say whether a text is a name for a folder: printable, without / and \\, not hidden, of at most 100 bytes."""
    plain = text.isprintable() and text == text.strip() and not {"/", "\\"} & set(text)
    return plain and text[:1] not in ("", ".") and len(text.encode()) <= 100


def is_text(text: str) -> bool:
    """Say whether a path or an id is one that a file system can have: at most 4,096 characters, none of them NUL."""
    return len(text) <= 4096 and "\0" not in text


# the bounds are far from every sensible value; they keep a slip of the keyboard from filling disk and memory
Count = Annotated[int, Interval(ge=1, le=10_000)]
CountOrNone = Annotated[int, Interval(ge=0, le=1_000_000)]
Processes = Annotated[int, Interval(ge=1, le=1024)]
Helpers = Annotated[int, Interval(ge=0, le=1024)]
Side = Annotated[int, Interval(ge=1, le=8192)]  # pixels
Seconds = Annotated[float, Interval(gt=0, le=1e6)]
GiB = Annotated[float, Interval(ge=0.5, le=1024)]
Rate = Annotated[float, Interval(ge=0, le=1000)]  # frames a second
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]
LearningRate = Annotated[float, Interval(gt=0, le=1000)]
Text = Annotated[str, Predicate(is_text)]
