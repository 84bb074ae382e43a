"""The tables of a run folder on disk, CSV files and the list of classes, compared with the records that vouch for them.

A run that was made before there were such records has none; then nothing vouches for its tables, and they are read as
they are.
"""

import io
import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pandas as pd

from cache.errors import DamagedError
from cache.layout import RECORD_OF
from cache.sealed import read_bytes, read_recorded_file

REMEDIES = {  # of a table that is not what was written, by its record
    "tables.json": "`prepare` writes it anew; to correct labels, edit the annotation files, not this copy of them",
    "skipped.json": "`prepare` writes it anew",
    "results.json": "`evaluate` writes it anew from the results",
    "training.json": "the command that trained it writes it anew from the last checkpoint",
    "cards.json": "delete its folder, and `prepare` generates the miniature anew",
}


def read_table(path: Path) -> str:
    """Read a table of a run, all of its text.

    DamagedError, which says what to run, where it is missing or not what its record says.
    """
    record = path.parent / RECORD_OF[path.name]
    try:
        data = read_recorded_file(record, path.name) if record.exists() else read_bytes(path)
        return data.decode()
    except DamagedError as error:
        raise DamagedError(f"{error}; {REMEDIES[record.name]}") from error
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: {error}; {REMEDIES[record.name]}") from error


def read_csv(path: Path, columns: Iterable[str] = (), numbers: Iterable[str] = ()) -> pd.DataFrame:
    """Read a CSV table of a run: `numbers` as numbers, NaN where a cell is empty, and all else as text, "NA" and "007".

    DamagedError as `read_table`, and where it is no table or lacks one of `columns`.
    """
    try:
        text = io.StringIO(read_table(path), newline="")
        found = pd.read_csv(text, dtype=str, keep_default_na=False, na_filter=False)
        if missing := [name for name in columns if name not in found]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return found.assign(**{name: _numbers(found[name]) for name in numbers})
    except ValueError as error:  # pandas's errors of every kind
        raise DamagedError(f"{path}: {error}; {REMEDIES[RECORD_OF[path.name]]}") from error


def _numbers(cells: pd.Series) -> pd.Series:
    """Return the numbers that the cells name, to the last bit, which `to_numeric` of pandas 2 does not."""
    found = pd.to_numeric(cells)
    if found.dtype.kind == "f":
        found[:] = [float(cell) if cell else math.nan for cell in cells]
    return found


def unvouched(run_dir: Path) -> list[Path]:
    """The tables of a run, and of its trainings, that no record vouches for."""
    found = []
    for pattern in [pattern for name in RECORD_OF for pattern in (name, f"models/*/{name}")]:
        with suppress(OSError):  # a folder that cannot be listed now, which `verify` reports
            found += run_dir.glob(pattern)
    return sorted(path for path in found if not (path.parent / RECORD_OF[path.name]).exists())
