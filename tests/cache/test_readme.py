"""cache/README.md says what is true: its snippets run, and it describes the arrays that there are."""

import re
import textwrap
from pathlib import Path

import h5py
import zarr

import cache
from cache import reader
from cache.layout import ARRAY_PRODUCTS, ARRAYS

README = (Path(cache.__file__).parent / "README.md").read_text(encoding="utf-8")
OPEN, COLUMN = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_run_is_opened_as_it_says(tiny_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/miniature").symlink_to(tiny_run.path)
    monkeypatch.chdir(tmp_path)
    exec(compile(OPEN, "README.md", "exec"), {})
    assert "(28, 28) (2, 3) (4, 28, 28, 3) (4, 28, 28, 3)" in capsys.readouterr().out


def test_a_column_is_added_as_it_says(tiny_run):
    """Its lines are put where it says, at the end of `_index_of`."""
    source, end = Path(reader.__file__).read_text(), "        return table\n"
    assert source.count(end) == 1
    scope = {"__name__": "reader_with_a_column"}
    exec(compile(source.replace(end, textwrap.indent(COLUMN, " " * 8) + end), "reader.py", "exec"), scope)
    run = scope["Run"](tiny_run.path, {})
    assert (run.index.saliency_scale == run.read("maps", "scale", range(run.num_rows))).all()


def test_the_arrays_it_describes_are_the_arrays_there_are(tiny_run):
    """Name, dtype and number of axes."""
    described = re.findall(r"^\|.*?\| `([a-z_0-9]+)` \| \((.*?)\) \| ([a-z0-9]+) \| ", README, re.MULTILINE)
    found = {("looks", 1, "int32")}  # of boxes with saliency.looks above 1
    for product in ARRAY_PRODUCTS:
        for path in (tiny_run.path / product).glob(f"*/{ARRAYS}"):
            found |= {(name, one.ndim, str(one.dtype)) for name, one in zarr.open_group(path, mode="r").arrays()}
    with h5py.File(next(tiny_run.path.glob("crops/*/volumes/*.h5"))) as file:
        found |= {(name, one.ndim, str(one.dtype)) for name, one in file.items()}
    assert {(name, shape.count(",") + 1, dtype) for name, shape, dtype in described} == found
