"""CSV files from outside, read strictly: every refusal names file, line and column."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from pipeline.data.video.find import PLAIN_ID, is_plain_id
from pipeline.errors import AnnotationError

SPLITS = ("train", "test")
SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")  # 1e-05, as programs write it, too
MOST_SECONDS = 1e9
MAX_BYTES = 2**28


def read_rows(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield (line number, column -> text) of every line below the header: `columns`, and perhaps the `optional`."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        columns = (*columns, *optional) if tuple(header) == (*columns, *optional) else columns
        if tuple(header) != columns:
            refuse(path, 1, "header", ",".join(header), ",".join(columns))
        blank = 0  # line number
        for row in reader:
            if not row:
                blank = blank or reader.line_num
                continue
            if blank:
                refuse(path, blank, "all", "", f"{len(columns)} columns, got 0; only the last lines may be blank")
            if len(row) != len(columns):
                hint = '; put double quotes around a text that holds a comma: "a, b"' if len(row) > len(columns) else ""
                refuse(path, reader.line_num, "all", ",".join(row), f"{len(columns)} columns, got {len(row)}{hint}")
            yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        refuse(path, reader.line_num, "all", str(error), "well-formed CSV")


def read_classes(path: Path, code: str = "") -> list[str]:
    """Read a class a line: a name, after `code`, in which "{}" stands for the number of the class, from 0."""
    names, seen = [], {}
    text = _text(path).replace("\r\n", "\n").rstrip("\n")  # other breaks, such as U+2028, belong to a name
    for index, line in enumerate(text.split("\n") if text else []):
        start = code.format(index)
        name = line.removeprefix(start)
        if not line.startswith(start) or not name or name != name.strip().strip("\ufeff"):  # a byte order mark
            refuse(path, index + 1, "class", line, f"{start and f'{start!r} and '}a name without blanks around it")
        if (same := composed(name)) in seen:
            refuse(path, index + 1, "class", line, f"no name twice; line {seen[same]} has it, too")
        seen[same] = index + 1
        names.append(name)
    if not names:
        refuse(path, 1, "class", "", "one class a line")
    return names


def _text(path: Path) -> str:
    try:
        if (size := Path(path).stat().st_size) > MAX_BYTES or not Path(path).is_file():
            raise AnnotationError(f"{path}: {size} bytes; expected a regular file of at most {MAX_BYTES}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: {error.strerror}") from error
    if b"\0" in content:
        refuse(path, 1 + content[: content.index(b"\0")].count(b"\n"), "all", "a NUL byte", "text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(path, 1 + content[: error.start].count(b"\n"), "all", content[error.start : error.end], "UTF-8")


def parse_video_id(path: Path, line: int, column: str, text: str) -> str:
    if not is_plain_id(text):
        refuse(path, line, column, text, PLAIN_ID)
    return text


def parse_seconds(path: Path, line: int, column: str, text: str) -> float:
    if not SECONDS.fullmatch(text) or float(text) >= MOST_SECONDS:
        refuse(path, line, column, text, f"seconds such as 12 or 12.34, below {MOST_SECONDS:g}")
    return float(text)


def composed(text: str) -> str:
    """Return a name with its accents as one character each (NFC), so that names are the same however they are typed."""
    return unicodedata.normalize("NFC", text)


def refuse(path: Path, line: int, column: str, value: object, expected: str) -> NoReturn:
    raise AnnotationError(f"{path}, line {line}, column {column}: {value!r}; expected {expected}")


def csv_bytes(columns: tuple[str, ...], rows: list[list]) -> bytes:
    """Write a table as CSV."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue().encode()
