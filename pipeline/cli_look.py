"""The commands that make pictures of a run: report, show."""

from pathlib import Path

import click

from pipeline.cli_options import finish, run_option


@click.command()
@run_option
@click.option("--clips", type=click.IntRange(0), default=48, show_default=True, help="Clips in the gallery, at most.")
@click.option("--experiment", default=None, metavar="NAME", help="Result to compare with Base.  [default: the highest]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File.  [default: <run>/report/index.html]"
)
def report(run_dir: Path, clips: int, experiment: str | None, out: Path | None) -> None:
    """Write one page about the run: results, classes, clips, boxes, learning curves.

    The page needs no network and no other file. It is made from the caches alone: no video, no GPU.
    """
    from pipeline.report import page

    finish(page.run(run_dir, clips, experiment, out))


COMMANDS = (report,)
