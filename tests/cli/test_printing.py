"""Text of any source goes out harmless: to a terminal, to a log, and to the cells of a spreadsheet."""

import csv
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.cli.options import Commands, run_option
from pipeline.cli.printing import LONGEST, EscapedLines, echo, spreadsheet_safe
from pipeline.config_file import to_toml
from pipeline.errors import StageError
from tests.helpers.tiny_data import CLASSES, make_data, tiny_config

ROOT = Path(__file__).parents[2]
HOSTILE = ("=cmd|' /C calc'!A0", "\x1b]0;owned\x07\x1b[31mred\x9b2J", "@SUM(1+1), twice")
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def test_nothing_that_steers_a_terminal_is_printed(capsys):
    echo("a\tb\n\x1b[2J\x07\x7f\x9b1m\r\u202egnp.exe\udc80 é")
    assert capsys.readouterr().out == "a\tb\n\\x1b[2J\\x07\\x7f\\x9b1m\\r\\u202egnp.exe\\udc80 é\n"
    echo("x" * 10**6 + "\nend")
    first, last = capsys.readouterr().out.splitlines()
    assert len(first) < LONGEST + 50 and first.endswith("... (1000000 characters)") and last == "end"


def test_errors_and_log_lines_are_escaped(monkeypatch):
    @click.command()
    @run_option
    def fails(run_dir):
        raise StageError("class \x1b[31mred")

    assert CliRunner().invoke(Commands(commands=[fails]), ["fails"]).output == "error: StageError: class \\x1b[31mred\n"
    monkeypatch.setattr(logging.root, "handlers", [])
    CliRunner().invoke(main, ["status", "--run", "nowhere"])
    (handler,) = logging.root.handlers
    assert isinstance(handler.formatter, EscapedLines)
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s left out", ("\x1b[2J",), None)
    assert handler.formatter.format(record) == "WARNING \\x1b[2J left out"


def test_commands_print_in_one_way():
    """Only JSON and the script for Slurm, which quote by their own rules, go out as they are."""
    lines = [line for path in (ROOT / "pipeline/cli").glob("*.py") for line in path.read_text().splitlines()]
    plain = [line for line in lines if re.search(r"click\.s?echo\(|\bprint\(", line)]
    assert all("json.dumps" in line or "submit_script(" in line or "click.style(mark" in line for line in plain), plain


def test_ctrl_c_says_how_to_go_on():
    @click.command()
    @run_option
    def stopped(run_dir):
        raise KeyboardInterrupt

    result = CliRunner().invoke(Commands(commands=[stopped]), ["stopped"])
    assert result.exit_code == 1 and result.output == "stopped; the same command goes on where it stopped\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A prepared run whose class names are HOSTILE, and the options that name it."""
    root = tmp_path_factory.mktemp("hostile")
    data = make_data(root / "data", ("07E49", "150E6", "T0002"))
    table = (data / "table.csv").read_text()
    for old, new in zip(CLASSES, HOSTILE, strict=True):
        table = table.replace(old, f'"{new}"')
    (data / "table.csv").write_text(table)
    (data / "classes.txt").write_text("".join(f"{name}\n" for name in HOSTILE))
    (root / "tiny.toml").write_text(to_toml(tiny_config(data)))
    common = ("--config", str(root / "tiny.toml"), "--run", str(root / "run"))
    assert CliRunner().invoke(main, ["prepare", *common]).exit_code == 0
    return root, common


def test_class_names_reach_terminal_and_spreadsheet_harmless(hostile):
    root, common = hostile
    result = CliRunner().invoke(main, ["inspect", *common, "--table", "classes", "--out", str(root / "classes.csv")])
    assert result.exit_code == 0 and "\\x1b]0;owned\\x07" in result.output and not STEERS.search(result.output)
    with open(root / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["'=cmd|' /C calc'!A0", "\\x1b]0;owned\\x07\\x1b[31mred\\x9b2J",
                                              "'@SUM(1+1), twice"]  # fmt: skip
    assert [row["train_videos"] for row in rows] == ["1", "1", "1"]


def test_parquet_and_the_tables_of_the_run_hold_the_text_as_it_is(hostile):
    root, common = hostile
    arguments = ["inspect", *common, "--table", "classes", "--out", str(root / "classes.parquet")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert tuple(pd.read_parquet(root / "classes.parquet").label) == HOSTILE
    assert (root / "run/classes.txt").read_text() == "".join(f"{name}\n" for name in HOSTILE)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", " =1", "\t=1", "\N{FULLWIDTH EQUALS SIGN}1"])
def test_no_cell_is_a_formula(text):
    table = pd.DataFrame({"text": [text, "a=1", ""], "number": [-1.5, 2.0, 0.1], "mixed": [text, None, 3]})
    found = spreadsheet_safe(table)
    assert found.text.tolist() == [f"'{text}", "a=1", ""] and found.mixed.tolist() == [f"'{text}", None, 3]
    assert found.number.equals(table.number)


@pytest.mark.parametrize("call", ["list(results(work.call, [(1,), (2,)], 2))", "in_new_process(work.call, (1,))"])
def test_ctrl_c_reaches_no_worker(call, tmp_path):
    """A terminal sends it to every process of a command; a child's traceback would hide what the command says."""
    (tmp_path / "work.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "if os.getpid() != int(os.environ['PARENT']):\n"  # a worker that is still importing
        "    Path(__file__).with_name('begun').touch()\n"
        "    time.sleep(600)\n"
        "def call(job): pass\n"
    )
    script = (
        "import click, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which who runs this may have switched off
        "os.environ['PARENT'] = str(os.getpid())\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "import work\n"
        "from pipeline.cli.options import Commands\n"
        "from pipeline.workers.engines import in_new_process, results\n"
        f"Commands(commands=[click.Command('one', callback=lambda: {call})])(['one'])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 300
    while not (tmp_path / "begun").exists():
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)
    lines = child.communicate(timeout=300)[1].splitlines()
    told = [line for line in lines if "resource_tracker" not in line and "warnings.warn" not in line]  # loky's, rare
    assert child.returncode == 1 and told == ["stopped; the same command goes on where it stopped"], lines


def test_joblib_may_replace_a_process_in_silence():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        CliRunner().invoke(main, ["inspect", "--help"])
        warnings.warn("A worker stopped while some jobs were given to the executor. This can be ...", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(one.message) for one in told] == ["something else"]
