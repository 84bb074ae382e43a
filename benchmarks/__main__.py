"""`python -m benchmarks`: run rows of the table. Prints a JSON line for each; progress goes to standard error."""

import sys
import traceback
from datetime import date
from pathlib import Path

import click

from benchmarks.machine import description
from benchmarks.result import TABLE, check_out, placed, to_json, to_markdown
from benchmarks.rows import ROWS


def _chosen(context, parameter, value: str | None) -> list[int]:
    try:
        rows = list(ROWS) if value is None else [int(row) for row in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers such as 1,3") from None
    if unknown := sorted(set(rows) - set(ROWS)):
        raise click.BadParameter(f"there is no row {unknown[0]}; the rows are {', '.join(map(str, sorted(ROWS)))}")
    return sorted(set(rows))


@click.command()
@click.option("--rows", callback=_chosen, help="Numbers of rows, as in 1,3; all of them by default.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a Markdown table to this file.")
@click.option(
    *("--readme", "page"),
    is_flag=False,
    flag_value=str(Path(__file__).with_name("README.md")),
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the table in place of the one in FILE, between its markers; without FILE in that of this folder.",
)
def main(rows: list[int], out: Path | None, page: Path | None):
    """Measure speed against the machine and against the usual way to do it; ratios of medians."""
    if out is not None:
        check_out(out, "benchmarks", TABLE)
    click.echo(description(), err=True)
    results, skipped = [], 0
    for row in rows:
        click.echo(f"row {row}: {ROWS[row].__module__}.{ROWS[row].__name__}", err=True)
        try:
            results.append((row, ROWS[row]()))
        except ModuleNotFoundError as error:
            click.echo(f"row {row} skipped: {error}; pip install -e '.[bench]'", err=True)
            skipped += 1
            continue
        except Exception:  # go on with the other rows; the exit code is 1
            traceback.print_exc()
            continue
        click.echo(to_json(*results[-1]))
        sys.stdout.flush()
    if out is not None:
        out.write_text(f"{to_markdown(results)}\n{description()}.\n", encoding="utf-8")
    if page is not None:
        table = f"{to_markdown(results)}\n{description()}; {date.today()}.\n"
        page.write_text(placed(page.read_text(encoding="utf-8"), table), encoding="utf-8")
    sys.exit(0 if len(results) + skipped == len(rows) else 1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
