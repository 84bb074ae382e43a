"""Ids of videos: which texts may become the name of a file."""

import re

PLAIN_ID = "[A-Za-z0-9][A-Za-z0-9._-]{0,127} without '..' and without a last '.'"


def is_plain_id(text: str) -> bool:
    """Whether the text is PLAIN_ID: a name on every file system, a part of none of their paths."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text)) and ".." not in text and text[-1] != "."
