"""`python -m benchmarks.plan_outcome`: compare what `plan` says of a run with the run itself."""

import json
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks.machine import description
from benchmarks.result import table
from pipeline.cli.preflight import size
from pipeline.workers.peak_memory import run_measured

PLACES = {  # what each stage writes; the lock of the run folder is no stage's own
    "prepare": ("[!r]*.csv", "[!r]*.json", "*.txt", "*.toml", "plan/*"),  # results.* is evaluate's
    "train-base": ("models/base-*/*",),
    "saliency": ("base/**/*", "maps/**/*", "boxes/**/*"),
    "crops": ("context/**/*", "crops/**/*"),
    "train-fusion": ("models/late-*/*", "models/concat-*/*"),
    "evaluate": ("results/*", "results.*"),
}
HEAD = ("stage", "time", "bytes", "files", "memory of the largest process")


def written(run_dir: Path, stage: str) -> tuple[int, int]:
    """(bytes, files) of a stage that has just ended."""
    found = {path for pattern in PLACES[stage] for path in run_dir.glob(pattern) if path.is_file()}
    return sum(path.stat().st_size for path in found), len(found)


def ran(arguments: list[str]) -> tuple[float, int, int]:
    """(seconds, peak bytes of its largest process, exit code) of a stage; what it printed goes to standard error."""
    started = time.monotonic()
    said, memory, code = run_measured(["-m", "pipeline", *arguments])
    click.echo(said, err=True)
    return time.monotonic() - started, memory, code


def line(planned: dict, codec: str, seconds: float, num_bytes: int, files: int, memory: int) -> tuple[str, ...]:
    """One row of the table: what was planned, what came, and how far the plan was off."""
    pairs = [(planned["seconds"], seconds, "{:.1f} s".format), (planned["bytes"][codec], num_bytes, size)]
    pairs += [(planned["files"], files, str), (planned["memory"], memory, size)]
    off = [f"{plan / came - 1:+.0%}" if came else "-" for plan, came, _ in pairs]
    cells = zip(pairs, off, strict=True)
    return planned["stage"], *(f"{said(plan)}; {said(came)} ({share})" for (plan, came, said), share in cells)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--run", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
@click.option("--seconds", type=float, default=60, show_default=True, help="How long `plan` samples.")
@click.option("--eval-ids", default="", metavar="ID,ID", help="Given to `prepare`.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(run: Path, seconds: float, eval_ids: str, options: tuple[str, ...]) -> None:
    """Plan and do all stages. OPTIONS go to every stage, such as --config miniature or --set workers=2."""
    if run.exists():
        raise click.BadParameter(f"{run} is there already; a run that was not begun is needed", param_hint="--run")
    shared = [*options, "--run", str(run)]
    moved = ["--set", f"data.eval_ids={eval_ids.split(',')}"] if eval_ids else []
    command = [sys.executable, "-m", "pipeline", "plan", *shared, *moved, "--seconds", str(seconds), "--json"]
    said = subprocess.run(command, stdout=subprocess.PIPE)
    if said.returncode:
        sys.exit(said.returncode)  # it has said why
    planned = json.loads(said.stdout)
    rows, codes = [], []
    for stage in planned["stages"]:
        own = ["--eval-ids", eval_ids] if stage["stage"] == "prepare" and eval_ids else []
        taken, memory, code = ran([stage["stage"], *shared, *own])
        rows.append(line(stage, planned["codec"], taken, *written(run, stage["stage"]), memory))
        codes.append(code)
    click.echo(f"{table(HEAD, rows)}\n\nPlanned; outcome. {description()}.")
    sys.exit(max(codes))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.plan_outcome")
