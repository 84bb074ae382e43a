"""CSV files from outside, read strictly: every refusal names file, line and column."""

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipeline.data.video.find import PLAIN_ID, is_plain_id, spreadsheet_hint
from pipeline.errors import AnnotationError

SPLITS = ("train", "test")
SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")  # 1e-05, as programs write it, too
MOST_SECONDS = 1e9
CLOCK = re.compile(r"([0-9]{1,4}):([0-5][0-9]):([0-5][0-9](\.[0-9]{1,40})?)")
MAX_BYTES = 2**28
DELIMITERS = (",", ";", "\t")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_rows(
    path: Path,
    columns: tuple[str, ...],
    optional: tuple[str, ...] | None = (),
    times: tuple[str, ...] = (),
    ansi: bool = False,
) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield (line number, column -> text without trailing blanks) of every line below the header.

    The delimiter is a comma, or the semicolon or tab with which the header is right; then `times` may have decimal
    commas. Empty lines, or lines of empty cells, may stand at the end.

    Args:
        columns: the header's, in this order.
        optional: columns that may stand anywhere in it, besides. None: any others, and `columns` in any order.
        ansi: read what is no UTF-8 as Windows-1252; only where the caller compares its words with a list.
    """
    rows, delimiter = _open(path, read_text(path, ansi), columns, optional)
    yield from rows if delimiter == "," else _with_points(path, list(rows), times)


def _open(path: Path, text: str, columns: tuple, optional: tuple | None) -> tuple[Iterable[tuple[int, dict]], str]:
    """Find the delimiter of a table; return its rows and the delimiter."""
    told = re.match(r"sep=[,;\t](\r\n|\r|\n)", text)  # a line for Excel, which hides it
    file, skipped = io.StringIO(text[told.end() :] if told else text, newline=""), 1 if told else 0
    for delimiter in DELIMITERS:
        file.seek(0)
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        with suppress(csv.Error):
            header = [name.rstrip(" ") for name in next(reader, [])]
            own = [name for name in header if name in columns or name not in (optional or ())]
            fits = set(columns) <= set(header) if optional is None else tuple(own) == columns
            if fits and len(set(header)) == len(header):
                return _rows(path, reader, header, skipped), delimiter
    file.seek(0)
    refuse(path, 1 + skipped, "header", file.readline().rstrip("\r\n"), ",".join(columns))


def _rows(path: Path, reader, header: list[str], skipped: int) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield the rows of a reader; an empty one is refused where another comes after it."""
    empty = None
    try:
        for row in reader:
            line = reader.line_num + skipped
            if not any(row):
                empty = empty or (line, row)
                continue
            if empty:
                refuse(
                    path,
                    empty[0],
                    "all",
                    "",
                    f"{len(header)} columns, got {len(empty[1])} empty ones; only the last lines may be blank",
                )
            if len(row) != len(header):
                more = len(row) > len(header)
                hint = '; put double quotes around a text that holds a comma: "a, b"' if more else ""
                refuse(path, line, "all", ",".join(row), f"{len(header)} columns, got {len(row)}{hint}")
            yield line, {name: cell.rstrip(" ") for name, cell in zip(header, row, strict=True)}
    except csv.Error as error:
        refuse(path, reader.line_num + skipped, "all", str(error), "well-formed CSV")


def _with_points(path: Path, rows: list[tuple[int, dict]], times: tuple[str, ...]) -> list[tuple[int, dict]]:
    """Make decimal points of decimal commas in some columns.

    A number such as 1,234 may be a thousand. It is refused, unless another of the table, such as 0,5, can be no
    thousand; so is a comma where other numbers have points.
    """
    numbers = [(line, name, row[name]) for line, row in rows for name in times]
    point = next((line for line, _, text in numbers if "." in text), None)
    commas = [(line, name, text) for line, name, text in numbers if "," in text]
    proven = any(not re.fullmatch("[1-9][0-9]{0,2}(,[0-9]{3})+", text) for _, _, text in commas)
    for line, name, text in commas:
        if point:
            refuse(path, line, name, text, f"a decimal point, as in line {point}")
        if not proven:
            refuse(path, line, name, text, "a decimal point, for this may also be a thousand")
    for _, row in rows:
        row.update({name: row[name].replace(",", ".") for name in times})
    return rows


def read_classes(path: Path, code: str = "") -> list[str]:
    """Read a class a line: a name, after `code`, in which "{}" stands for the number of the class, from 0."""
    names, seen = [], {}
    text = read_text(path).replace("\r\n", "\n")
    text = text if "\n" in text.strip("\r\n") else text.replace("\r", "\n")
    text = text.rstrip("\n")  # other breaks, such as U+2028, belong to a name
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


def read_text(path: Path, ansi: bool = False) -> str:
    """Read a file that is UTF-8, or UTF-16 with its mark, or perhaps Windows-1252, see `read_rows`."""
    try:
        if (size := Path(path).stat().st_size) > MAX_BYTES or not Path(path).is_file():
            raise AnnotationError(f"{path}: {size} bytes; expected a regular file of at most {MAX_BYTES}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: {error.strerror}") from error
    try:
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            text = content.decode("cp1252" if ansi else "ascii")
        except UnicodeDecodeError:
            line = 1 + content[: error.start].count(b"\n")
            refuse(path, line, "all", content[error.start : error.end], "UTF-8")
    if "\0" in text:
        refuse(path, 1 + text[: text.index("\0")].count("\n"), "all", "a NUL byte", "text")
    return text


def parse_split(path: Path, line: int, text: str) -> str:
    """Read the name of a split: any, but not train or test with capitals, which would be another."""
    plain = text and text.strip() == text and text.isprintable()
    if not plain or (text.lower() in SPLITS and text not in SPLITS):
        refuse(path, line, "split", text, f"a name, such as {', '.join(SPLITS)}")
    return text


def parse_video_id(path: Path, line: int, column: str, text: str) -> str:
    if not is_plain_id(text):
        refuse(path, line, column, text, f"{PLAIN_ID}{spreadsheet_hint(text)}")
    return text


def parse_seconds(path: Path, line: int, column: str, text: str) -> float:
    """Read seconds, or hours, minutes and seconds; 1:30 is refused, for it may be minutes or hours."""
    if clock := CLOCK.fullmatch(text):
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if not SECONDS.fullmatch(text) or float(text) >= MOST_SECONDS:
        expected = f"seconds such as 12 or 12.34, below {MOST_SECONDS:g}, or hh:mm:ss such as 00:01:30.5"
        refuse(path, line, column, text, expected)
    return float(text)


def composed(text: str) -> str:
    """Return a name with its accents as one character each (NFC), so that names are the same however they are typed."""
    return unicodedata.normalize("NFC", text)


def refuse(path: Path, line: int, column: str, value: object, expected: str) -> NoReturn:
    raise AnnotationError(f"{path}, line {line}, column {column}: {value!r}; expected {expected}")


def seconds_text(seconds: float) -> str:
    """Write seconds so that they read back the same: with at most nine decimals where these are enough."""
    short = f"{seconds:.9f}".rstrip("0").rstrip(".")
    return short if float(short) == seconds else repr(float(seconds))


def csv_bytes(columns: tuple[str, ...], rows: list[list]) -> bytes:
    """Write a table as CSV."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue().encode()
