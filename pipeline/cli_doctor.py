"""`doctor`: findings about machine and data, each with its fix."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli_options import EXIT_REFUSED, stage_options

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command()
@stage_options
@click.option(
    "--videos", type=click.IntRange(0), default=8, show_default=True, help="Probe and compare so many videos."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def doctor(config, run_dir: Path, videos: int, as_json: bool) -> None:
    """Look for what would stop or spoil a run, on this machine and in these data, and say what to do about it.

    Exits with 4 where there is a problem; notes do not count.
    """
    from pipeline.doctor import examine

    findings = []
    for finding in examine(config, run_dir, videos):
        findings.append(finding)
        if not as_json:
            mark = click.style(f"{finding.level:<8}", fg=COLOURS[finding.level])  # no colours where nobody looks
            click.echo(f"{mark} {finding.check:<14} {finding.text}")
            if finding.fix:
                click.echo(f"{'':<8} {'':<14} -> {finding.fix}")
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        notes = sum(finding.level == "note" for finding in findings)
        click.echo(f"{len(findings)} findings: {problems} problem(s), {notes} note(s)")
    if problems:
        sys.exit(EXIT_REFUSED)


COMMANDS = (doctor,)
