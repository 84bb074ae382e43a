"""The commands before a long run: `plan`, `doctor` and `check-network`."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import click

from pipeline.cli import stages
from pipeline.cli.options import stage_options
from pipeline.cli.printing import echo
from pipeline.config import CODECS
from pipeline.errors import EXIT_REFUSED, EXIT_STORAGE

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}
STAGES = tuple(command.name for command in stages.COMMANDS if command is not stages.train_looker)  # no part of a plan


def finite(context, parameter, number: float) -> float:
    """Refuse NaN, which is in every range of click's."""
    if math.isnan(number):
        raise click.BadParameter("nan is no number of seconds")
    return number


def parse_rates(context, parameter, texts: tuple[str, ...]) -> dict[str, float]:
    """Parse --rows-per-second: "20" for every stage, or "saliency=20" for one."""
    rates = {}
    for text in texts:
        stage, equals, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf") or (equals and stage not in STAGES):
            expected = f"neither a number above 0 nor STAGE=NUMBER, STAGE of {', '.join(STAGES)}"
            raise click.BadParameter(f"{text!r} is {expected}")
        rates |= {stage: rate} if equals else dict.fromkeys(STAGES, rate)
    return rates


@click.command()
@stage_options
@click.option(
    "--seconds", type=click.FloatRange(1, 1e6), callback=finite, default=60, help="How long to rehearse, about."
)
@click.option(
    *("--rows-per-second", "rates"),
    multiple=True,
    callback=parse_rates,
    metavar="[STAGE=]RATE",
    help="Also the hours at this rate, of all stages or of one; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--slurm", is_flag=True, help="Print a script that submits all stages to Slurm, with time and memory.")
@click.option("--tasks", type=click.IntRange(1), default=8, help="With --slurm: size of job arrays.")
@click.option("--gpus", type=click.IntRange(0), default=0, help="With --slurm: GPUs of a training.")
def plan(config, run_dir: Path, seconds: float, rates: dict, as_json: bool, slurm: bool, tasks: int, gpus: int) -> None:
    """Say what each stage will take: rows, files, bytes, hours, memory. Writes nothing.

    Some of the videos go through all stages and are timed. Counts rows by the annotations, after `prepare` by the plan.
    Exits with 5 where the disk has no room.
    """
    from pipeline.preflight.estimate import estimate
    from pipeline.preflight.unit_size import best_unit_size

    if slurm and as_json:
        raise click.UsageError("--slurm prints a script, --json an object; choose one")
    found, codec = estimate(config, run_dir, seconds), config.crops.codec
    now = config.clips.videos_per_unit
    best = best_unit_size(found.counts, found.stages, tasks if slurm else 1, rates, now)
    found = replace(found, notes=[*found.notes, best.sentence(now)])
    if slurm:
        from pipeline.preflight.slurm import submit_script

        common = _same_options(run_dir)
        click.echo(submit_script(found, common, sys.executable, tasks, gpus, config.workers, rates), nl=False)
    elif as_json:
        stages = [asdict(stage) for stage in found.stages]
        for stage in stages:
            if stage["stage"] in rates:
                stage["stated_seconds"] = stage["rows"] / rates[stage["stage"]]
        facts = {"run": str(run_dir), "planned": found.counts.planned, "stages": stages, "notes": found.notes}
        facts |= {"free_bytes": found.free_bytes, "free_inodes": found.free_inodes}
        facts |= {"codec": codec, "fits": found.fits(codec)}
        click.echo(json.dumps(facts, indent=1))
    else:
        _print(codec, run_dir, found, rates)
    if not found.fits(codec):
        sys.exit(EXIT_STORAGE)


def _same_options(run_dir: Path) -> list[str]:
    """--config, --run and --set as they were given to this command."""
    given = click.get_current_context().params
    overrides = [argument for text in given["overrides"] for argument in ("--set", text)]
    return ["--config", given["config_name"], "--run", str(run_dir), *overrides]


def _print(chosen: str, run_dir: Path, found, rates: dict[str, float]) -> None:
    """Print an estimate as a table; `chosen` is the codec of the config."""
    import pandas as pd

    source = "by its plan" if found.counts.planned else "by annotations and files, before prepare"
    parts = ", ".join(f"{part.num_videos} {part.split} videos x {part.rows_per_video}" for part in found.counts.parts)
    echo(f"{run_dir}, {source}: {parts}; {len(found.counts.missing)} annotated videos without a file")
    lines = []
    for stage in found.stages:
        line = {"stage": stage.stage, "rows": f"{stage.rows:,}", "files": f"{stage.files:,}"}
        line |= {codec: size(stage.bytes[codec]) for codec in CODECS} | {"time here": duration(stage.seconds)}
        if rates:
            line["at rate"] = duration(stage.rows / rates[stage.stage]) if stage.stage in rates else "-"
        lines.append(line | {"memory": size(stage.memory), "": f"x {stage.processes}" if stage.processes > 1 else ""})
    total = {"stage": "all", "files": f"{found.files:,}"} | {codec: size(found.total(codec)) for codec in CODECS}
    total["time here"] = duration(sum(stage.seconds for stage in found.stages))
    echo(pd.DataFrame([*lines, total]).to_string(index=False, na_rep=""))
    for note in found.notes:
        echo(f"  {note}")
    inodes = "inodes not counted" if found.free_inodes is None else f"{found.free_inodes:,} inodes"
    echo(f"free: {size(found.free_bytes)}, {inodes}; the run folder holds {size(found.held_bytes)} already")
    for codec in CODECS:
        mark, fits = " (crops.codec of this config)" if codec == chosen else "", found.fits(codec)
        echo(mark=f"{codec}: {'fits' if fits else 'does NOT fit'}{mark}", colour="green" if fits else "red")


def size(num_bytes: float) -> str:
    """Bytes with three digits, and a unit in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def duration(seconds: float) -> str:
    """Seconds with one decimal, in the unit that reads best."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= 60):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


@click.command()
@stage_options
@click.option("--videos", type=click.IntRange(0), default=8, help="Probe and compare so many videos.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def doctor(config, run_dir: Path, videos: int, as_json: bool) -> None:
    """Look for what would stop or spoil a run, on this machine and in these data, and say what to do about it.

    Exits with 4 where there is a problem; notes do not count.
    """
    from pipeline.preflight.doctor import examine

    _print_findings(examine(config, run_dir, videos), as_json)


@click.command("check-network")
@stage_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def check_network(config, run_dir: Path, as_json: bool) -> None:
    """Try the network of the config on random clips: shapes, cost of a pass here, and the contract of models/README.md.

    Exits with 4 where there is a problem.
    """
    from pipeline.preflight.check_network import examine

    _print_findings(examine(config), as_json)


def _print_findings(found, as_json: bool) -> None:
    """Print each finding as soon as it is known, and their number; exit with 4 where there is a problem."""
    findings = []
    for finding in found:
        findings.append(finding)
        if not as_json:
            echo(f" {finding.check:<14} {finding.text}", mark=f"{finding.level:<8}", colour=COLOURS[finding.level])
            if finding.fix:
                echo(f"{'':<8} {'':<14} -> {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        notes = sum(finding.level == "note" for finding in findings)
        echo(f"{len(findings)} findings: {problems} problem(s), {notes} note(s)")
    if problems:
        sys.exit(EXIT_REFUSED)


COMMANDS = (plan, doctor, check_network)
