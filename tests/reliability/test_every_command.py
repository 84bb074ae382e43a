"""T26: every command on a run folder of which a file is cut, empty, a table of another program, or of another type."""

import random
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.errors import EXIT_CODES
from pipeline.recipes import table_box
from pipeline.training import loop
from tests.cli.test_commands import call, config_file

OPTIONS = {  # without which a command has nothing to do, or more than there is time for
    "export": ("--experiment", "late-entropy-source"),
    "inspect": ("--table", "classes"),
    "plan": ("--seconds", "1"),
    "predict": ("--clips", "as-evaluated"),
    "table1": ("--frames", "4"),
    "table2": ("--only", "e/e"),
    "table-box": ("--side", "12"),
    "table-cache": ("--refresh-every", "3"),
    "train-fusion": ("--fusion", "late"),
    "worth-it": ("--share", "1", "--seeds", "1"),
}
TABLES = ("table1", "table2", "table-box", "table-cache", "table-gate", "table-policies", "compare-saliency")
LONG = ("demo", "plan", *TABLES, "worth-it")
WITHOUT_RUN = ("timeline",)  # takes a folder of predictions
NOT_HERE = {"convert"}  # reads no run
COMMANDS = sorted(main.commands.keys() - NOT_HERE)


def kinds(folder: Path) -> list[str]:
    """One file of each kind, by its path: keys and numbers make no difference; nothing is in a lock."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "/locks/" not in name and path.name != ".lock":
            found.setdefault(re.sub(r"[0-9a-f]{16}|\d+", "#", name), name)
    return list(found.values())


def harmed(path: Path) -> dict[str, bytes]:
    """What may have become of a file."""
    good = path.read_bytes()
    found = {"empty": b"", "cut": good[: len(good) // 2]}
    if path.suffix == ".csv":
        found["delimiter"] = good.replace(b",", b";")
        found["UTF-16"] = good.decode().encode("utf-16")
    other = {".json": b"[]\n", ".toml": b"clips = 3\n", ".txt": b"\xff\xfe\x00"}
    return found | {"type": other.get(path.suffix, b"PK\x03\x04 and so on")}


@pytest.fixture(scope="module")
def predicted(tiny_run, tmp_path_factory) -> Path:
    """A folder of predictions."""
    folder, config = tmp_path_factory.mktemp("predicted"), tmp_path_factory.mktemp("config")
    shutil.copytree(tiny_run.path, config / "run")
    video = next(tiny_run.data.glob("T0002.*"))
    common = ("--config", _config(tiny_run, config), "--run", config / "run", "--out", folder / "predictions")
    assert call("predict", video, *common, *OPTIONS["predict"])[0] == 0
    return folder / "predictions"


def _config(run, folder: Path) -> Path:
    return config_file(type(run)(run.data, folder / "run", run.config))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_harmed_file_is_named_or_made_anew(command, tiny_run, predicted, trials, count, tmp_path, monkeypatch):
    """Never a traceback; an exit code of ours; a command that ends with a refusal names the file."""
    monkeypatch.setattr(loop, "_train", lambda *_: None)  # which reads nothing of the run
    monkeypatch.setattr(table_box, "held_out", lambda video_id: video_id in ("150E6", "07E49"))  # two of four
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    source = predicted if command in WITHOUT_RUN else tiny_run.path
    draw = random.Random(command)
    cases = [[(name, harm, data) for harm, data in harmed(source / name).items()] for name in kinds(source)]
    if command in LONG:  # each file in one way
        cases = [[draw.choice(ways)] for ways in cases]
    cases = [case for ways in cases for case in ways]
    chosen = draw.sample(cases, trials(len(cases), 1 if command in LONG else 2))
    config, run, held = _config(tiny_run, tmp_path), tmp_path / "run", 0
    given = {"show": ["T0002"], "predict": [next(tiny_run.data.glob("T0002.*"))], "timeline": [run]}.get(command, [])
    options = () if command in WITHOUT_RUN else ("--config", config, "--run", run, *OPTIONS.get(command, ()))
    for name, harm, data in chosen:
        for folder in [path for path in tmp_path.iterdir() if path.is_dir()]:
            shutil.rmtree(folder)
        shutil.copytree(source, run)
        (run / name).write_bytes(data)
        out = ("--out", tmp_path / "out") if command in ("export", "predict") else ()
        result = CliRunner().invoke(main, [str(one) for one in (command, *given, *options, *out)])
        case = f"{command}, {name} {harm}: code {result.exit_code}, {result.exception!r}\n{result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), case
        assert result.exit_code in EXIT_CODES.keys() - {1, 2}, case
        assert result.exit_code in (0, 3) or Path(name).name in result.output, case
        held += 1
    count("T26", f"{command}: a harmed file is named or made anew", held, len(chosen))
