"""The command line: help everywhere, exit codes, errors in one line that say what to do."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner

import cache
from cache.errors import DamagedError, StaleCacheError, StorageError
from cache.sealed import read_sealed, seal
from models.checkpoint import WeightsError
from pipeline.cli.main import main
from pipeline.cli.options import Commands, run_option
from pipeline.config_file import load, to_toml
from pipeline.errors import AnnotationError, ConfigError, StageError, VideoTruncated
from pipeline.workers import versions
from tests.helpers.tiny_data import change

ROOT = Path(__file__).parents[2]


def call(*arguments):
    """Exit code and everything printed. Errors that are no refusals come through."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def config_file(run, **sections):
    path = run.path.parent / "tiny.toml"
    path.write_text(to_toml(change(run.config, **sections)))
    return path


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_and_is_in_the_readme(name):
    command, text = main.commands[name], (ROOT / "pipeline/cli/README.md").read_text(encoding="utf-8")
    code, output = call(name, "--help")
    first = " ".join(command.help.split(". ")[0].split())
    assert code == 0 and len(first.split()) >= 4
    assert "".join(first.split()) in "".join(output.split())  # wherever its lines are broken
    for option in command.params:
        said = option.help if isinstance(option, click.Option) else f"<{option.name.upper()}>" in command.help
        assert said, f"{name} {option.opts[0]} has no help"
    assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), f"pipeline/cli/README.md does not name the command {name}"


def test_the_group_says_what_the_exit_codes_mean():
    code, output = call("--help")
    assert code == 0
    codes = ("0 all done", "2 wrong usage", "3 done but", "4 input refused", "5 storage refused", "6 the run was")
    for words in (*codes, "7 verify found"):
        assert words in " ".join(output.split())


def test_help_needs_neither_torch_nor_a_decoder():
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from pipeline.cli.main import main\n"
        "for name in [None, *main.commands]:\n"
        "    assert CliRunner().invoke(main, [name, '--help'] if name else ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'av', 'zarr', 'h5py', 'pandas', 'joblib', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_pipeline():
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Commands:" in done.stdout
    done = subprocess.run([sys.executable, "-m", "pipeline", "salience"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "salience" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((kind("words"), 4) for kind in (StageError, ConfigError, AnnotationError, VideoTruncated, WeightsError)),
        (OSError(errno.ENOSPC, "words"), 5),
        *((DamagedError("words"), 4), (StorageError("words"), 5), (StaleCacheError("words"), 6)),
        *(
            (OSError(number, "words"), 5)
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.ESTALE)
        ),
    ],
)
def test_errors_have_exit_codes(error, code):
    @click.command()
    @run_option
    def fails(run_dir):
        raise error

    result = CliRunner().invoke(Commands(commands=[fails]), ["fails"])
    name = "StorageError" if isinstance(error, OSError) else type(error).__name__
    assert result.exit_code == code and result.output == f"error: {name}: {error}\n"


def test_a_loader_process_that_was_killed():
    """Of trainings and of stage 1; the words are PyTorch's."""
    result = fails_with(RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "))
    start = "error: StageError: DataLoader worker (pid 5) is killed by signal: Killed; fewer of them need less memory"
    assert result.exit_code == 4 and result.output.startswith(start)


@pytest.mark.parametrize("error", [ValueError("words"), FileNotFoundError(errno.ENOENT, "words"), KeyError("words")])
def test_errors_that_are_bugs_come_through(error):
    assert fails_with(error).exception is error


def fails_with(error):
    @click.command()
    @run_option
    def fails(run_dir):
        raise error

    return CliRunner().invoke(Commands(commands=[fails]), ["fails"])


def test_old_libraries_are_named_where_something_breaks(monkeypatch):
    """An older PyAV lacks what is imported, before `doctor` could say so."""
    monkeypatch.setattr(versions, "missing_or_old", lambda: {"av>=18": "av 17.1.0 is older than 18"})
    result = fails_with(AttributeError("ACCURATE_RND"))
    assert result.exit_code == 4
    words = "AttributeError: ACCURATE_RND; av 17.1.0 is older than 18: python -m pip install 'av>=18'"
    assert result.output == f"error: {words}\n"


def test_without_a_temporary_folder(monkeypatch):
    def candidates():
        return ["/nowhere"]

    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", candidates)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(FileNotFoundError) as raised:
        tempfile.gettempdir()
    result = fails_with(raised.value)
    assert result.exit_code == 5 and "'/nowhere'" in result.output
    assert "set TMPDIR to a folder that may be written" in result.output


def test_the_working_directory_shadows_nothing(tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("models/__init__", "cache", "miniature"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "miniature").mkdir()  # the name of a config, too
    command, ours = [sys.executable, "-m", "pipeline", "status"], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ours)
    assert done.returncode == 4 and "runs/miniature holds no plan" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("crops", "--boxes", "middle"), ("saliency", "--nothing"), ("crops", "--pixels", "x")]
)
def test_wrong_usage_is_2(arguments):
    assert call(*arguments)[0] == 2


def test_a_misspelt_setting_is_4_and_named(tiny_run, tmp_path):
    code, output = call("prepare", "--run", tmp_path / "run", "--set", "clips.num_frame=3")
    assert code == 4
    assert (
        "error: ConfigError:" in output
        and "unknown setting clips.num_frame; did you mean clips.num_frames?" in output
        and "Traceback" not in output
    )
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine.toml").write_text("[salience]\n")
    code, output = call("inspect", "--config", tmp_path / "mine.toml")
    assert code == 4 and "mine.toml: unknown setting salience; did you mean saliency?" in output


def test_all_stages_of_a_finished_run_are_0_and_quick(tiny_copy):
    common = ("--config", config_file(tiny_copy), "--run", tiny_copy.path)
    for name in ("prepare", "train-base", "saliency", "crops", "train-fusion", "evaluate"):
        code, output = call(name, *common)
        assert code == 0 and f"wrote {tiny_copy.path}" in output
    assert "base" in output and "max over clips" in output


def test_demo_runs_everything(tiny_copy):
    code, output = call("demo", "--config", config_file(tiny_copy), "--run", tiny_copy.path)
    assert code == 0 and output.count("wrote ") == 7
    assert "late-entropy-source" in output and str(tiny_copy.path / "results.csv") in output


def test_training_on_the_fly(tiny_copy):
    """A model that learned from its own saliency gets the caches of its evaluation clips at once."""
    common = ("train-fusion", "--config", config_file(tiny_copy), "--run", tiny_copy.path, "--fusion", "concat")
    for wrong in (("--online", "--refresh-every", "1"), ("--saliency-from", "current"), ("--online", "--caches", "x")):
        assert call(*common, *wrong)[0] == 2
    for saliency_from in ("base", "current"):
        code, output = call(*common, "--online", "--saliency-from", saliency_from)
        (model,) = tiny_copy.path.glob(f"models/concat-entropy-source-online-{saliency_from}-*")
        assert code == 0 and output.count("wrote ") == 1 and str(model) in output
        assert (model / "generation-eval").exists() == (saliency_from == "current")


def test_inspect_writes_the_index(tiny_copy, tmp_path):
    common = ("inspect", "--config", config_file(tiny_copy), "--run", tiny_copy.path)
    code, output = call(*common)
    assert code == 0 and "7 videos, 0 skipped, 14 rows" in output
    for product in ("base", "maps", "boxes", "context", "crops"):
        assert re.search(rf"^ *{product} ", output, re.MULTILINE)
    for name, read in (("index.csv", lambda path: pd.read_csv(path, dtype={"video_id": str}, keep_default_na=False)),
                       ("index.parquet", pd.read_parquet)):  # fmt: skip
        assert call(*common, "--out", tmp_path / name)[0] == 0
        table = read(tmp_path / name)
        assert len(table) == 14 and {"07E49", "NA", "00007"} <= set(table.video_id)
    assert call(*common, "--out", tmp_path / "index.xls")[0] == 2


def test_left_out_videos_are_3(own_videos):
    """A video that breaks between prepare and saliency; with a missing one prepare itself stays 0 where it may skip."""
    (own_videos.data / "T0002.mp4").write_bytes(b"no video")
    common = ("--config", config_file(own_videos), "--run", own_videos.path)
    code, output = call("saliency", *common)
    assert code == 3 and "1 video(s) left out" in output and "wrote" in output
    assert call("crops", *common)[0] == 3 and call("crops", *common)[0] == 3  # said again

    other = ("--config", config_file(own_videos), "--run", own_videos.path.parent / "other")
    code, output = call("prepare", *other, "--max-skipped", "0.1")
    assert code == 4 and "nothing is planned" in output and not (own_videos.path.parent / "other" / "plan").exists()
    code, output = call("prepare", *other)
    assert code == 3 and "1 VideoUnreadable" in output and (own_videos.path.parent / "other" / "plan").exists()
    (own_videos.data / "T0002.mp4").unlink()
    third = ("--config", config_file(own_videos), "--run", own_videos.path.parent / "third")
    code, output = call("prepare", *third)
    assert code == 4 and "1 annotated videos have no file" in output
    code, output = call("prepare", *third, "--set", "data.missing_videos=skip")
    assert code == 0 and "1 annotated videos without a file, left out" in output


def test_what_comes_too_early_is_4_and_says_what_is_missing(tiny_run, tmp_path):
    run = type(tiny_run)(tiny_run.data, tmp_path / "run", tiny_run.config)
    common = ("--config", config_file(run), "--run", run.path)
    code, output = call("saliency", *common)
    assert code == 4 and "holds no plan" in output and "prepare" in output
    assert call("prepare", *common)[0] == 0
    code, output = call("saliency", *common)
    assert code == 4 and "run train-base first" in output and "Traceback" not in output
    shutil.copytree(tiny_run.path / "models", run.path / "models", ignore=shutil.ignore_patterns("late*", "concat*"))
    code, output = call("crops", *common)
    assert code == 4 and "run saliency first" in output
    code, output = call("train-fusion", *common)
    assert code == 4 and re.search("run (saliency|crops) first", output)


NEED_NO_PLAN = {
    "prepare",
    "demo",
    "plan",
    "doctor",
    "check-network",
    "table1",
    "table2",
    "table-box",
    "table-cache",
    "table-gate",
    "table-policies",
    "worth-it",
    "compare-saliency",
    *("predict", "timeline", "export"),  # need other arguments; see tests/predict
    "convert",  # has no run
}


@pytest.mark.parametrize("name", sorted(main.commands.keys() - NEED_NO_PLAN))
def test_a_run_that_was_not_prepared(name, tiny_run, tmp_path, monkeypatch):
    """Each command says what to run first, and where it looked."""
    monkeypatch.chdir(tmp_path)
    config = config_file(type(tiny_run)(tiny_run.data, tmp_path / "run", tiny_run.config))
    takes_config = any(option.name == "config_name" for option in main.commands[name].params)
    more = (*(("V1",) if name == "show" else ()), *(("--config", config) if takes_config else ()))
    code, output = call(name, *more, "--run", "runs/nothing")
    assert code == 4 and re.search("runs/nothing h(old|a)s no plan", output), output
    assert f"relative to {tmp_path}, where the command was started" in output
    assert "run prepare first" in output or name == "gc"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("prepare", "--config", "gone.toml"),
            "gone.toml: no such config file; those of the project are",
        ),
        (("prepare", "--config", "charades"), "Charades_v1_train.csv, data/charades/Charades_v1_test.csv"),
        (("prepare", "--config", "charades"), "where the command was started); Charades.zip, from https://"),
        (("train-base", "--init", "gone.pth"), "base.init: gone.pth: no such file (relative to "),
    ],
)
def test_a_path_that_is_not_there_is_named_with_its_place(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = call(*arguments)
    assert code == 4 and words in output


def test_a_missing_done_record_is_named(tiny_copy):
    common = ("--config", config_file(tiny_copy), "--run", tiny_copy.path)
    for record in tiny_copy.path.glob("base/*/done/000001.json"):
        record.unlink()
    for path in tiny_copy.path.glob("results/*"):
        path.unlink()
    for folder in tiny_copy.path.glob("models/late-*"):
        shutil.rmtree(folder)
    code, output = call("train-fusion", *common, "--fusion", "late")
    assert code == 4 and "units of base are not done" in output and "run saliency first" in output


def test_another_config_for_the_run_is_6_and_names_the_field(tiny_copy):
    common = ("--config", config_file(tiny_copy), "--run", tiny_copy.path)
    for command in ("prepare", "train-base", "saliency", "crops", "train-fusion", "evaluate"):
        code, output = call(command, *common, "--set", "clips.resized_side=36")
        assert code == 6 and "StaleCacheError" in output and "resized_side: 32 != 36" in output, command


def test_a_changed_run_json_is_6(tiny_copy):
    (tiny_copy.path / "config.toml").unlink()
    path = next(tiny_copy.path.glob("maps/*/run.json"))
    run = read_sealed(path)
    path.write_bytes(seal(run | {"settings": run["settings"] | {"objective": "max_logit"}}))
    code, output = call("saliency", "--config", config_file(tiny_copy), "--run", tiny_copy.path)
    assert code == 6 and "objective" in output


def test_oracle_options(tiny_copy):
    common = ("--config", config_file(tiny_copy), "--run", tiny_copy.path)
    code, output = call("saliency", *common, "--set", 'saliency.objectives=["cross_entropy"]')
    assert code == 4 and "--use-labels" in output
    code, output = call("evaluate", *common, "--boxes-eval", "cross_entropy")
    assert code == 4 and "--use-labels" in output


def test_eval_ids_and_extend_reach_their_stages(own_videos):
    run = own_videos.path.parent / "other"
    common = ("--config", config_file(own_videos), "--run", run)
    code, output = call("prepare", *common, "--eval-ids", "07E49, NA")
    assert code == 0 and "7 videos (2 train, 5 test)" in output
    assert load(str(run / "config.toml")).data.eval_ids == ("07E49", "NA")
    code, output = call("prepare", *common, "--eval-ids", "07E49,NA", "--set", "clips.aug_seeds=3", "--extend")
    assert code == 0 and len(list((run / "plan").glob("*.json"))) == 3
    code, output = call("prepare", *common, "--eval-ids", "nobody")
    assert code == 4 and "nobody not in the annotations" in output


def test_readers_touch_nothing_of_the_run_they_read(tiny_copy, tmp_path):
    """So a run that others made can be read by who must not write into it: not even a lock is missed."""
    for lock in [*tiny_copy.path.rglob("locks"), *tiny_copy.path.rglob(".lock")]:
        shutil.rmtree(lock) if lock.is_dir() else lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in [tiny_copy.path, *tiny_copy.path.rglob("*")]}
    config, out = config_file(tiny_copy, fusion={"epochs": 1, "drop_epochs": ()}), tmp_path / "out"
    theirs = ("--config", config, "--run", tmp_path / "own", "--caches", tiny_copy.path)
    code, output = call("train-fusion", *theirs, "--boxes", "random")
    assert code == 4 and "of crops are not done" in output and "run crops first" in output
    for command in (("train-fusion", *theirs), ("evaluate", *theirs), ("status",), ("verify",), ("gc", "--dry")):
        run = () if "--run" in command else ("--run", tiny_copy.path)
        assert call(*command, *run)[0] == 0, command
    for command in (("report", "--out", out / "a.html"), ("show", "T0002", "--out", out), ("inspect",)):
        assert call(*command, "--config", config, "--run", tiny_copy.path)[0] == 0
    run = cache.open(tiny_copy.path)
    assert run.saliency(0).any() and run.focus(0).any() and run.logits(0).any() and len(run.index)
    new = {path for path in tiny_copy.path.rglob("*") if path not in before}
    assert new <= {tiny_copy.path / ".lock"}  # of `gc`, where the folder may be written
    assert {path: path.stat().st_mtime_ns for path in before if path != tiny_copy.path} == {
        path: time for path, time in before.items() if path != tiny_copy.path
    }
