"""A shell script that submits all stages to Slurm, each waiting for what it reads; its text is slurm.sh.jinja."""

import math
import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.preflight.estimate import Estimate
from pipeline.preflight.stage_costs import StageEstimate

MARGIN_TIME, MARGIN_MEMORY = 1.5, 1.3
LEAST_MINUTES, LEAST_MEGABYTES = 10, 1000
ARRAYS, TRAININGS = ("saliency", "crops"), ("train-base", "train-fusion")
WITH_NETWORK = ("saliency", *TRAININGS, "evaluate")


def submit_script(
    found: Estimate, common: list[str], python: str, tasks: int, gpus: int, workers: int, rates: dict[str, float]
) -> str:
    """A bash script of one sbatch call per stage.

    Stages 1 and 2 are job arrays: task i does `--part i/N`, and task i of crops waits only for task i of saliency, as
    both do the same units. A training has a process per GPU of one node, started by torchrun.

    Args:
        common: arguments of every command: --config, --run, --set.
        python: the interpreter on the cluster, unless $PYTHON says another.
        tasks: of each array, at most; never more than there are units.
        gpus: of each training; other jobs that run a network get one; 0 for none.
        workers: processes of a task of stages 1 and 2 (on the CPU).
        rates: rows a second by stage, in place of those measured here.
    """
    units = found.counts.units
    tasks = max(1, min(tasks, units))
    share = math.ceil(units / tasks) / max(units, 1)  # of all units, that one task has at most
    jobs = [_job(stage, common, share, gpus, workers, rates.get(stage.stage)) for stage in found.stages]
    environment = Environment(
        loader=PackageLoader("pipeline.preflight", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # a shell script; arguments are quoted by shlex
    )
    environment.filters |= {"variable": lambda stage: stage.replace("-", "_"), "clock": clock}
    margins = {"margin_time": MARGIN_TIME, "margin_memory": MARGIN_MEMORY, "least_minutes": LEAST_MINUTES}
    template = environment.get_template("slurm.sh.jinja")
    return template.render(jobs=jobs, tasks=tasks, python=python, rates=rates, notes=found.notes, **margins)


def _job(
    stage: StageEstimate, common: list[str], share: float, gpus: int, workers: int, rate: float | None
) -> dict[str, object]:
    """What the template needs to submit a stage."""
    name, seconds, processes = stage.stage, stage.rows / rate if rate else stage.seconds, stage.processes
    arguments = [name, *common]
    if name in ARRAYS:
        seconds, processes = seconds * share, workers
        arguments += ["--workers", str(workers)]
    gpus = gpus if name in TRAININGS else min(gpus, 1) if name in WITH_NETWORK else 0
    processes = gpus or processes
    if name in TRAININGS:
        seconds /= max(gpus, 1)
    return {
        "name": name,
        "arguments": shlex.join(arguments),
        "is_array": name in ARRAYS,
        "is_distributed": name in TRAININGS and gpus > 1,
        "gpus": gpus,
        "cpus": max(processes, workers),
        "megabytes": max(LEAST_MEGABYTES, math.ceil(MARGIN_MEMORY * stage.memory * processes / 1e6)),
        "minutes": max(LEAST_MINUTES, math.ceil(MARGIN_TIME * seconds / 60)),
        "dependency": "aftercorr" if name == "crops" else "afterok",  # a task of crops waits for that of saliency
    }


def clock(minutes: int) -> str:
    """Minutes as Slurm takes them: days-hours:minutes:seconds."""
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:00"
