"""The commands that look after a run folder: status, verify, gc."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.options import run_option, run_or_url_option
from pipeline.cli.printing import echo
from pipeline.errors import EXIT_DAMAGED, EXIT_STORAGE


@click.command()
@run_or_url_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def status(run_dir: Path, as_json: bool) -> None:
    """Count rows that are done, skipped and to do, by the commit records. Reads no data."""
    from cache.remote.fetch import remote_of
    from cache.upkeep.verify import status as count

    counts, remote = [asdict(one) for one in count(run_dir)], remote_of(run_dir)
    if as_json:
        run = remote.url if remote else str(run_dir)
        click.echo(json.dumps({"run": run, "contents_read": False, "products": counts}, indent=1))
        return
    echo(f"{'product':<8} {'key':<16} {'part':<16} {'ok':>9} {'skipped':>8} {'todo':>9} {'rows':>9}")
    for one in counts:
        echo("{product:<8} {key:<16} {part:<16} {ok:>9} {skipped:>8} {todo:>9} {total:>9}".format(**one))
    echo("counted from commit records; contents were not read, `verify` does that")


@click.command()
@run_option
@click.option("--fast", is_flag=True, help="Compare sizes only; read no contents.")
@click.option("--repair", is_flag=True, help="Move damaged files and their records to quarantine/.")
def verify(run_dir: Path, fast: bool, repair: bool) -> None:
    """Check every committed file against its record; exit with 7 where any is damaged, with 5 where any cannot be read.

    After --repair the same stages make exactly the damaged units anew. Nothing is deleted. Tables of runs made before
    there were records of tables are named, not compared; `prepare` and `evaluate` write the records.
    """
    from cache.commit import in_use
    from cache.errors import DamagedError
    from cache.layout import RECORD_OF
    from cache.table_files import unvouched
    from cache.upkeep.repair import repair as move
    from cache.upkeep.verify import verify as check

    with in_use(run_dir):
        findings = []
        try:
            for finding in check(run_dir, fast):
                findings.append(finding)
                echo(f"{finding.kind}: {finding.path}: {finding.reason}")
        except DamagedError as error:  # of the plan, its own or that of a generation
            echo(f"damaged: {error}")
            echo("nothing else can be judged without it; `prepare` makes a part of the plan anew", err=True)
            sys.exit(EXIT_DAMAGED)
        moved = move(run_dir, findings) if repair else []
    kinds = Counter(finding.kind for finding in findings)
    what = "sizes compared" if fast else "all contents read"
    counts = f"{kinds['damaged']} damaged, {kinds['orphan']} orphans, {kinds['temporary']} temporary files"
    echo(f"{run_dir}: {counts}; {what}")
    for path in unvouched(run_dir):
        echo(f"not compared: {path}; no record vouches for it, {RECORD_OF[path.name]} is missing")
    for path in moved:
        echo(f"moved to {path}")
    if kinds["damaged"] and not repair:
        echo("verify --repair moves the damaged ones aside; then run the stages again", err=True)
    if kinds["unknown"]:
        echo(f"{kinds['unknown']} files could not be judged, see above; repeat this when they can be read", err=True)
    if kinds["damaged"] or kinds["unknown"]:
        sys.exit(EXIT_DAMAGED if kinds["damaged"] else EXIT_STORAGE)


@click.command()
@run_option
@click.option("--dry", is_flag=True, help="Only say what would be deleted.")
def gc(run_dir: Path, dry: bool) -> None:
    """Delete what killed processes left behind: temporary files, and files that no commit record names.

    Then gather the commit records of products with hundreds of units in segments, also those of old runs.
    """
    from cache.upkeep.sweep import gather, sweep

    found, size = sweep(run_dir, dry)
    for finding in found:
        echo(f"{finding.kind}: {finding.path}" + (f": {finding.reason}" if finding.kind == "unknown" else ""))
    unknown = sum(finding.kind == "unknown" for finding in found)
    echo(f"{run_dir}: {'would delete' if dry else 'deleted'} {len(found) - unknown} files, {size / 1e6:.1f} MB")
    if gathered := 0 if dry else gather(run_dir):
        echo(f"{run_dir}: {gathered} records of units gathered in segments")
    if unknown:
        echo(f"{unknown} files could not be judged and stay; make the records readable, or run `verify`", err=True)
        sys.exit(EXIT_STORAGE)


COMMANDS = (status, verify, gc)
