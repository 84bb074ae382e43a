"""The stages as jobs for Slurm: one shell script that submits them all, each waiting for what it reads.

Plain text from plain numbers: whoever has another scheduler reads off what to ask it for.
"""

import math
import shlex

from pipeline.preflight.estimate import Forecast
from pipeline.preflight.stage_costs import StageForecast

MARGIN_TIME, MARGIN_MEMORY = 1.5, 1.3
LEAST_MINUTES, LEAST_MEGABYTES = 10, 1000
ARRAYS, TRAININGS = ("saliency", "crops"), ("train-base", "train-fusion")
AFTER = {"train-base": "prepare", "saliency": "train-base", "crops": "saliency", "train-fusion": "crops"}
AFTER["evaluate"] = "train-fusion"


def submit_script(
    found: Forecast, common: list[str], python: str, tasks: int, gpus: int, workers: int, rates: dict[str, float]
) -> str:
    """A bash script of one sbatch call per stage.

    Stages 1 and 2 are job arrays: task i does `--part i/N`, and crops' task i waits for saliency's task i alone, for a
    share is the same units in both. Trainings start a process per GPU through torchrun, within one node.

    Args:
        found: what the stages will take.
        common: arguments of every command: --config, --run, --set.
        python: the interpreter on the cluster, unless $PYTHON says another.
        tasks: of each array, at most; never more than there are units.
        gpus: of each job that runs a network; 0 for none.
        workers: processes of a task of stages 1 and 2 (on the CPU).
        rates: rows a second by stage, where the user knows better than this machine.
    """
    units = sum(len(part.units) for part in found.counts.parts)
    tasks = max(1, min(tasks, units))
    lines = [
        "#!/bin/bash",
        "# All stages as jobs for Slurm; `bash` this file on a login node, in the folder of the project.",
        f"# Times are the plan's x {MARGIN_TIME}, at least {LEAST_MINUTES} min; memory x {MARGIN_MEMORY}. "
        + (
            "Measured where `plan` ran; --rows-per-second states other rates."
            if not rates
            else f"Stated rates: {rates}."
        ),
        "# Exit code 3, some videos were left out, does not hold up the jobs behind.",
        "set -euo pipefail",
        f'export PYTHON="${{PYTHON:-{python}}}"',
    ]
    for stage in found.stages:
        lines += ["", *_job(stage, common, tasks, units, gpus, workers, rates.get(stage.stage))]
    names = " ".join(f"${_variable(stage.stage)}" for stage in found.stages)
    return "\n".join([*lines, "", f'echo "submitted: {names}"']) + "\n"


def _job(
    stage: StageForecast, common: list[str], tasks: int, units: int, gpus: int, workers: int, rate: float | None
) -> list[str]:
    """The lines that submit one stage and keep its job's number."""
    name, seconds = stage.stage, stage.rows / rate if rate else stage.seconds
    processes, arguments = stage.processes, [name, *common]
    options = [f"--job-name={name}", f"--output={name}-%j.log"]
    if name in ARRAYS:
        # no task has more than its share, rounded up to whole units
        seconds *= math.ceil(units / tasks) / max(units, 1)
        options = [f"--job-name={name}", f"--array=1-{tasks}", f"--output={name}-%A-%a.log"]
        arguments += ["--workers", str(workers)]
        processes = workers
    if gpus and name in ("saliency", *TRAININGS, "evaluate"):
        count = gpus if name in TRAININGS else 1
        options.append(f"--gres=gpu:{count}")
        processes = count
        seconds /= count if name in TRAININGS else 1
    memory = max(LEAST_MEGABYTES, math.ceil(MARGIN_MEMORY * stage.memory * processes / 1e6))
    minutes = max(LEAST_MINUTES, math.ceil(MARGIN_TIME * seconds / 60))
    options += [
        "--ntasks=1",
        f"--cpus-per-task={max(processes, workers)}",
        f"--mem={memory}M",
        f"--time={_clock(minutes)}",
    ]
    if name in AFTER:
        # each task of crops waits for the task of saliency that does the same units
        kind = "aftercorr" if name == "crops" else "afterok"
        options.append(f"--dependency={kind}:${_variable(AFTER[name])}")
    start = '"$PYTHON" -m'
    if name in TRAININGS and gpus > 1:
        start += f" torch.distributed.run --standalone --nproc-per-node={gpus} -m --"
    command = f"srun {start} pipeline {shlex.join(arguments)}"
    command += f" --part $((SLURM_ARRAY_TASK_ID))/{tasks}" if name in ARRAYS else ""
    return [
        f"{_variable(name)}=$(sbatch --parsable {' '.join(options)} <<'JOB'",
        "#!/bin/bash",
        f"{command} || [ $? -eq 3 ]",
        "JOB",
        ")",
    ]


def _variable(stage: str) -> str:
    """The shell variable that holds a stage's job number."""
    return stage.replace("-", "_")


def _clock(minutes: int) -> str:
    """Minutes as Slurm takes them: days-hours:minutes:seconds."""
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:00"
