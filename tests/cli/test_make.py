"""The Makefile: the run folder of the command line, and exit codes that are printed with their meaning."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.errors import EXIT_CODES, explain_exit

ROOT = Path(__file__).parents[2]
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture
def make(tmp_path):
    """Run make with a Python that writes down the arguments of each command and ends with the code of its name."""
    python = tmp_path / "python"
    target = f"import sys; sys.executable = {str(python)!r}; sys.path[0] = {str(ROOT)!r}; "
    target += "from pipeline.cli.make_target import run; sys.exit(run(*sys.argv[1:]))"
    python.write_text(
        "#!/bin/sh\n"
        f'[ "$2" != pipeline.cli.make_target ] || {{ shift 2; exec {sys.executable} -c "{target}" "$@"; }}\n'
        f'echo "$@" >> {tmp_path}/calls; printf "%s|" "$@" > {tmp_path}/words\n'
        f"[ ! -f {tmp_path}/$3 ] || exit $(cat {tmp_path}/$3)\n"
    )
    python.chmod(0o755)

    def run(*words: str, **codes: int):
        for command, code in codes.items():
            (tmp_path / command).write_text(str(code))
        (tmp_path / "calls").write_text("")
        command = ["make", "-f", str(ROOT / "Makefile"), f"BIN={tmp_path}", "-o", "setup", *words]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean)
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


@needs_make
def test_make_leaves_the_run_folder_to_the_command_line(make):
    done, calls = make("prepare", "status", "CONFIG=a/mine.toml", "ARGS=--fast")
    assert done.returncode == 0
    assert calls == [f"-m pipeline {name} --config a/mine.toml --fast" for name in ("prepare", "status")]
    _, calls = make("report", "CONFIG=mine.toml", "RUN=there")
    assert calls == ["-m pipeline report --config mine.toml --run there"]


@needs_make
@pytest.mark.parametrize("code", [1, 2, 4, 5, 6, 7, 137])
def test_make_prints_the_code_and_its_meaning(make, code):
    done, calls = make("prepare", "saliency", prepare=code)
    assert done.returncode == 2 and len(calls) == 1  # make's own code, whatever that of the command was
    assert f"{explain_exit(code)}\n" in done.stderr and (code > 7 or EXIT_CODES[code] in done.stderr)


@needs_make
def test_a_row_goes_on_after_videos_were_left_out(make, tmp_path):
    done, calls = make("prepare", "saliency", "crops", prepare=3, crops=3)
    assert done.returncode == 2 and len(calls) == 3
    assert done.stderr.count("exit code 3: done, but some videos were left out") == 2
    assert "videos were left out by: crops prepare (what each of them printed says which and why)" in done.stderr
    assert not list(Path(sys.prefix).glob("**/.left-out*"))
    assert make("prepare", prepare=0)[0].returncode == 0


@needs_make
@pytest.mark.parametrize("name", ["my run", "Bob's", 'a "b" c', "$(touch x)", "; touch x", "*", "-x"])
def test_any_character_may_be_in_a_path(make, tmp_path, name):
    """What the first word of a path names is somebody's file: nothing but the command line touches it."""
    (tmp_path / "my").write_text("precious")
    given = name.replace("$", "$$")  # in make's own language
    done, _ = make("status", f"RUN={given}", f"CONFIG={given}.toml", "ARGS=--rows '1 2'", status=3)
    words = (tmp_path / "words").read_text().split("|")
    assert words == ["-m", "pipeline", "status", "--config", f"{name}.toml", "--run", name, "--rows", "1 2", ""]
    assert done.returncode == 2 and "videos were left out by: status" in done.stderr
    assert shlex.split(done.stdout) == ["python", *words[:-1]]
    assert (tmp_path / "my").read_text() == "precious" and not (tmp_path / "x").exists()


def test_the_codes_are_those_of_help_and_readme():
    said = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    table = dict(re.findall(r"^\| (\d) \| (.*) \|$", (ROOT / "pipeline/cli/README.md").read_text(), re.MULTILINE))
    for code, meaning in EXIT_CODES.items():
        if code != 1:
            assert f"{code} {meaning.replace(',', '')}" in said.replace(",", "")
            assert table[str(code)].replace("`", "").startswith(meaning)
    assert explain_exit(137) == "exit code 137: ended by signal 9"


def status_of(*arguments: str):
    result = CliRunner().invoke(main, ["status", *arguments])
    return result.exit_code, result.output


def test_the_run_folder_is_that_of_the_name(tmp_path, monkeypatch):
    """One rule for commands with and without a config: runs/<name>, by default the name of the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("seed = 1\n")
    (tmp_path / "other.toml").write_text('name = "third"\n')
    assert "runs/mine" in status_of("--config", "mine.toml")[1]
    assert "runs/third" in status_of("--config", "other.toml")[1]
    assert "runs/miniature" in status_of()[1]
    assert "elsewhere" in status_of("--config", "nowhere.toml", "--run", "elsewhere")[1]
    for command in ("status", "inspect"):
        output = CliRunner().invoke(main, [command, "--config", "other.toml"]).output
        assert "runs/third" in output


def test_an_older_run_by_the_name_of_the_file_is_not_passed_over(tmp_path, monkeypatch):
    """Make used to choose it; a new run must not begin beside it unasked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.toml").write_text('name = "third"\n')
    (tmp_path / "runs/other").mkdir(parents=True)
    code, output = status_of("--config", "other.toml")
    assert (
        code == 2 and "runs/other is there, runs/third" in output and "--run (make: RUN=)" in " ".join(output.split())
    )
    (tmp_path / "runs/third").mkdir()
    assert "runs/third" in status_of("--config", "other.toml")[1]
