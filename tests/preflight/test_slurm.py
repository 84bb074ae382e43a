"""plan --slurm: bash runs the script with a sbatch and a srun of our own; our commands take what they are given."""

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.config_file import to_toml
from pipeline.preflight import slurm
from pipeline.preflight.counts import Counts, PartSize
from pipeline.preflight.estimate import Estimate
from pipeline.preflight.stage_costs import StageEstimate

STAGES = ("prepare", "train-base", "saliency", "crops", "train-fusion", "evaluate")
COUNTS = Counts([PartSize("train", 9, 4, 2), PartSize("test", 3, 5, 2)], {}, [], None, False)  # 7 units


def _estimate(seconds=36000.0, memory=2_000_000_000) -> Estimate:
    stages = [StageEstimate(name, 1200, 1, {"jpeg": 1, "png": 1}, seconds, memory, 2) for name in STAGES]
    return Estimate(stages, COUNTS, 1 << 40, None, 0, 0, [])


def _submitted(script: str, folder, task: int) -> list[dict]:
    """Run the script: what sbatch was asked for, and the arguments that srun got in each job's own script."""
    python = f"#!{sys.executable}\nimport json, os, subprocess, sys\n"
    (folder / "srun").write_text(python + "print(json.dumps(sys.argv[1:]))\nsys.exit(3)\n")
    (folder / "sbatch").write_text(
        python + "env = os.environ | {'SLURM_ARRAY_TASK_ID': os.environ['TASK']}\n"
        "done = subprocess.run(['bash', '-e'], input=sys.stdin.read(), text=True, capture_output=True, env=env)\n"
        "log = open(os.environ['LOG'], 'a')\n"
        "number = 100 + len(open(os.environ['LOG']).readlines())\n"
        "job = {'options': sys.argv[1:], 'srun': json.loads(done.stdout), 'code': done.returncode}\n"
        "print(json.dumps(job), file=log)\nprint(number)\n"
    )
    for name in ("srun", "sbatch"):
        (folder / name).chmod(0o755)
    (folder / "jobs.sh").write_text(script)
    assert subprocess.run(["bash", "-n", folder / "jobs.sh"], capture_output=True).stderr == b""
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log"), "TASK": str(task)}
    done = subprocess.run(["bash", folder / "jobs.sh"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "submitted: 100 101 102 103 104 105\n"
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def _parsed(arguments: list[str]):
    """(name, options) of a command line of ours, parsed by click without running it."""
    name, *rest = arguments[arguments.index("pipeline") + 1 :]
    with main.commands[name].make_context(name, rest) as context:
        return name, dict(context.params)


COMMON = ["--config", "my file.toml", "--run", "runs/a b", "--set", 'data.annotations=["x y.csv"]']


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_the_script_submits_every_stage_with_arguments_that_our_commands_take(tmp_path, gpus):
    script = slurm.submit_script(_estimate(), COMMON, "python3", 5, gpus, 2, {})
    jobs = _submitted(script, tmp_path, task=3)
    names = []
    for job in jobs:
        assert job["code"] == 0  # srun ended with 3: some videos left out
        name, options = _parsed(job["srun"])
        names.append(name)
        assert options["config_name"] == "my file.toml" and options["run_name"] == "runs/a b"
        assert options["overrides"] == ('data.annotations=["x y.csv"]',)
        assert f"--job-name={name}" in job["options"]
        if name in ("saliency", "crops"):
            assert (options["share"].index, options["share"].of) == (2, 5) and options["workers"] == 2
            assert "--array=1-5" in job["options"]
        torchrun = gpus > 1 and name.startswith("train")
        assert ("torch.distributed.run" in job["srun"]) == torchrun
        assert (f"--nproc-per-node={gpus}" in job["srun"]) == torchrun
        wanted = {0: None, 1: "--gres=gpu:1"}.get(gpus, f"--gres=gpu:{gpus}" if torchrun else "--gres=gpu:1")
        found = [one for one in job["options"] if one.startswith("--gres")]
        assert found == ([wanted] if wanted and name not in ("prepare", "crops") else [])
    assert names == list(STAGES)
    waits = [re.findall("--dependency=(.*)", " ".join(job["options"])) for job in jobs]
    assert waits == [[], ["afterok:100"], ["afterok:101"], ["aftercorr:102"], ["afterok:103"], ["afterok:104"]]


def test_time_and_memory_are_the_plans_with_a_margin(tmp_path):
    jobs = dict(
        zip(STAGES, _submitted(slurm.submit_script(_estimate(), COMMON, "p", 5, 0, 3, {}), tmp_path, 1), strict=True)
    )
    assert "--time=0-15:00:00" in jobs["prepare"]["options"]  # 10 h x 1.5
    assert "--time=0-04:18:00" in jobs["saliency"]["options"]  # 2 of 7 units at most: 10 h x 2/7 x 1.5, rounded up
    assert "--mem=5200M" in jobs["prepare"]["options"]  # 2 processes x 2 GB x 1.3
    assert "--mem=7800M" in jobs["crops"]["options"]  # 3 workers
    assert "--cpus-per-task=3" in jobs["crops"]["options"]


def test_a_stated_rate_and_gpus_shorten_it_and_arrays_never_have_more_tasks_than_units():
    script = slurm.submit_script(_estimate(), [], "p", 50, 4, 2, {"saliency": 1 / 60})
    assert "--array=1-7 " in script and "--part $((SLURM_ARRAY_TASK_ID))/7" in script
    (line,) = (line for line in script.splitlines() if line.startswith("saliency="))
    assert "--time=0-04:18:00" in line  # 1200 rows at one a minute are 20 h: a seventh of it x 1.5, rounded up
    (line,) = (line for line in script.splitlines() if line.startswith("train_base="))
    assert "--time=0-03:45:00" in line and "--mem=10400M" in line  # 10 h over 4 GPUs x 1.5; 4 x 2 GB x 1.3


def test_short_jobs_get_ten_minutes():
    script = slurm.submit_script(_estimate(1.0, 1000), [], "p", 2, 0, 1, {})
    assert script.count("--time=0-00:10:00") == 6 and script.count("--mem=1000M") == 6


def test_the_command_prints_it(tiny_run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("pipeline.preflight.estimate.estimate", lambda *given: asked.append(given) or _estimate())
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_run.config))
    options = ["--config", str(path), "--run", str(tmp_path / "run"), "--set", "seed=7"]
    result = CliRunner().invoke(main, ["plan", *options, "--slurm", "--tasks", "2"])
    assert result.exit_code == 0 and "\n# clips.videos_per_unit = 1 suits, not 2: 3 units a worker" in result.output
    for job in _submitted(result.output, tmp_path, task=1):
        _, given = _parsed(job["srun"])
        assert given["config_name"] == str(path) and given["overrides"] == ("seed=7",)
        assert job["srun"][0] == sys.executable
    assert len(asked) == 1 and asked[0][0].seed == 7
    result = CliRunner().invoke(main, ["plan", *options, "--slurm", "--json"])
    assert result.exit_code == 2 and "choose one" in result.output
