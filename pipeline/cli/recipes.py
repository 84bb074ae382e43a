"""The commands that run stages in a row: demo, and the tables of several trainings."""

from collections.abc import Callable
from pathlib import Path

import click

from pipeline.cli.options import split_list, stage_options
from pipeline.cli.printing import echo, exit_if_skipped, finish, print_outcome, print_results, print_truth
from pipeline.config import FUSIONS


@click.command()
@stage_options
def demo(config, run_dir: Path) -> None:
    """All stages in a row, from annotations to the table of results."""
    from pipeline.recipes import demo

    outcomes = []
    for outcome in demo.run(config, run_dir):
        print_outcome(outcome)
        outcomes.append(outcome)
    print_results(outcomes[-1].path)
    if config.data.format == "miniature":
        print_truth(config, run_dir)
    echo(f"Look: {run_dir / 'results.csv'}, and cache.open({str(run_dir)!r}).index in Python; see README.md.")
    exit_if_skipped(*outcomes)


def table_options(command: Callable) -> Callable:
    """Those of `stage_options`, and --seeds."""
    seeds = click.option("--seeds", type=click.IntRange(1, 1000), default=1, help="Each has its own Base.")
    return stage_options(seeds(command))


@click.command()
@table_options
@click.option("--only", multiple=True, metavar="ROW", help="Run this row (and base) only, such as e/e; repeatable.")
@click.option("--share-base", is_flag=True, help="All seeds use the Base of the first one; the table says so.")
def table2(config, run_dir: Path, seeds: int, only: tuple[str, ...], share_base: bool) -> None:
    """The paper's Table 2: run what is missing, write report/table2.csv, .md, .html and contrasts.csv."""
    from pipeline.recipes import table2

    only = tuple(name for text in only for name in split_list(text))
    _finish_table(table2.table2(config, run_dir, seeds, only, share_base))


@click.command()
@table_options
@click.option("--frames", type=int, multiple=True, help="T_in; repeatable.  [default: 16, 32, 64; miniature 4, 8, 16]")
def table1(config, run_dir: Path, seeds: int, frames: tuple[int, ...]) -> None:
    """The paper's Table 1: Base at several clip lengths, each in a run of its own; write report/table1.*."""
    from pipeline.recipes import table1

    _finish_table(table1.table1(config, run_dir, seeds, frames))


@click.command("table-box")
@table_options
@click.option("--side", "sides", type=int, multiple=True, help="Input pixels; repeatable.  [default: 2/7 to 6/7]")
def table_box(config, run_dir: Path, seeds: int, sides: tuple[int, ...]) -> None:
    """Box sizes compared on a part of the training videos; write report/table-box.*."""
    from pipeline.recipes import table_box

    _finish_table(table_box.table_box(config, run_dir, seeds, sides))


@click.command("compare-saliency")
@table_options
def compare_saliency(config, run_dir: Path, seeds: int) -> None:
    """Boxes of all objectives and of Grad-CAM side by side; write report/compare-saliency.*."""
    from pipeline.recipes import compare_saliency

    _finish_table(compare_saliency.compare_saliency(config, run_dir, seeds))


@click.command("table-cache")
@table_options
@click.option("--fusion", type=click.Choice(FUSIONS), default="late", help="To train.")
@click.option("--refresh-every", "every", type=click.IntRange(1), help="Epochs.  [default: a quarter of them]")
def table_cache(config, run_dir: Path, seeds: int, fusion: str, every: int | None) -> None:
    """Training on the fly, from caches of several sizes, and refreshed, side by side; write report/table-cache.*."""
    from pipeline.recipes import table_cache

    _finish_table(table_cache.table_cache(config, run_dir, seeds, fusion, every))


@click.command("table-gate")
@table_options
@click.option("--fusion", type=click.Choice(FUSIONS), default="late", help="That looks twice.")
def table_gate(config, run_dir: Path, seeds: int, fusion: str) -> None:
    """Look twice only where Base is unsure: accuracy against the share of clips; write report/table-gate.*."""
    from pipeline.recipes import table_gate

    _finish_table(table_gate.table_gate(config, run_dir, seeds, fusion))


@click.command("table-policies")
@table_options
@click.option(
    "--side", "sides", type=int, multiple=True, help="Of scale and nested; repeatable.  [default: 3/7 to 5/7]"
)
@click.option("--only", multiple=True, metavar="ROW", help="Run this row (and base) only, such as center; repeatable.")
def table_policies(config, run_dir: Path, seeds: int, sides: tuple[int, ...], only: tuple[str, ...]) -> None:
    """Boxes of several policies and rules side by side, late fusion; write report/table-policies.*."""
    from pipeline.recipes import table_policies

    only = tuple(name for text in only for name in split_list(text))
    _finish_table(table_policies.table_policies(config, run_dir, seeds, sides, only))


@click.command("worth-it")
@stage_options
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, help="Each has its own Base.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Of the training videos.")
@click.option("--epochs", type=click.IntRange(1, 1_000_000), help="Of each training.  [default: half, or 500 steps]")
def worth_it(config, run_dir: Path, seeds: int, share: float, epochs: int | None) -> None:
    """Say whether a second look, and resolution, pay on these videos; short trainings, in <run>-worth."""
    from pipeline.recipes import worth_it

    _finish_table(worth_it.worth_it(config, run_dir, seeds, share, epochs))


def _finish_table(outcome) -> None:
    echo(outcome.path.read_text(encoding="utf-8"))
    finish(outcome)


COMMANDS = (demo, table2, table1, table_box, compare_saliency, table_cache, table_gate, table_policies, worth_it)
