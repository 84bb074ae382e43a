"""The command line: options become a frozen config, the config goes to one stage, and what it wrote is said."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

# Threads that wait for each other give their core away: with other jobs on the machine an epoch takes a sixth of the
# time. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Stages are imported inside their commands, so that --help needs neither torch nor a video decoder.

EXIT_SKIPPED, EXIT_REFUSED, EXIT_STORAGE, EXIT_STALE = 3, 4, 5, 6
FUSIONS, FOCI, PIXELS = (
    ("late", "concat"),
    ("entropy", "cross_entropy", "max_logit", "softmax_entropy", "random", "center", "repeat"),
    ("source", "input"),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Focused attention for video: saliency to Zarr, crops to HDF5, fusion models trained from both.

    Every command takes --config (a TOML file, or `miniature`, `charades`, `charades-small`) and --run (the folder it
    reads and writes). Repeating a command goes on where it stopped.

    Exit codes: 0 all done, 2 wrong usage, 3 done but some videos were left out, 4 input refused, 5 storage refused,
    6 the run was made with other settings.
    """
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)


def stage_options(command: Callable) -> Callable:
    """--config, --run, --set, and the errors that every stage can end with."""

    @click.option("--config", "config_name", default="miniature", show_default=True, help="TOML file or its name.")
    @click.option("--run", "run_name", default=None, help="Run folder.  [default: runs/<name of the config>]")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting.")
    @functools.wraps(command)
    def wrapped(config_name: str, run_name: str | None, overrides: tuple[str, ...], **options) -> None:
        with _named_errors():
            from pipeline.config import load

            config = load(config_name, overrides)
            command(config, Path(run_name or f"runs/{config.name}"), **options)

    return wrapped


class _named_errors:
    """Turn the errors we raise on purpose into one line and an exit code; others stay tracebacks, they are bugs."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if not isinstance(error, Exception) or isinstance(
            error, click.exceptions.ClickException | click.exceptions.Exit
        ):
            return
        from cache.errors import CacheError, StaleCacheError, StorageError
        from pipeline.annotations import AnnotationError
        from pipeline.config import ConfigError
        from pipeline.video_errors import VideoError
        from pipeline.workspace import StageError

        codes = {StaleCacheError: EXIT_STALE, StorageError: EXIT_STORAGE, CacheError: EXIT_REFUSED}
        codes |= dict.fromkeys((AnnotationError, ConfigError, StageError, VideoError), EXIT_REFUSED)
        if "models.checkpoint" in sys.modules:
            codes[sys.modules["models.checkpoint"].WeightsError] = EXIT_REFUSED
        for known, code in codes.items():
            if isinstance(error, known):
                click.echo(f"error: {type(error).__name__}: {error}", err=True)
                sys.exit(code)


def finish(*outcomes) -> None:
    """Say what was written, once where torchrun starts many; exit with 3 where videos were left out."""
    skipped = 0
    for outcome in outcomes:
        if os.environ.get("RANK", "0") == "0":
            click.echo(f"wrote {outcome.path}: {outcome.summary}")
        skipped = max(skipped, outcome.num_skipped)
    if skipped:
        click.echo(f"{skipped} video(s) left out; see skipped.csv and the messages above", err=True)
        sys.exit(EXIT_SKIPPED)


@main.command()
@stage_options
@click.option("--extend", is_flag=True, help="Add new videos and augmentation seeds; what is there stays as it is.")
@click.option("--eval-ids", default="", metavar="ID,ID", help="Move these videos to the evaluation split.")
@click.option("--max-skipped", type=float, default=None, help="Share of the videos that may fail (data.max_skipped).")
def prepare(config, run_dir: Path, extend: bool, eval_ids: str, max_skipped: float | None) -> None:
    """Probe all videos, fix every row of the run.

    Writes videos.csv, skipped.csv, labels.csv and plan/. With the miniature config the videos are generated first.
    """
    finish(_prepare(config, run_dir, extend, eval_ids, max_skipped))


def _prepare(config, run_dir: Path, extend: bool = False, eval_ids: str = "", max_skipped: float | None = None):
    from pipeline import miniature
    from pipeline import prepare as stage

    data = config.data
    if eval_ids:
        data = replace(data, eval_ids=tuple(_ids(eval_ids)))
    if max_skipped is not None:
        data = replace(data, max_skipped=max_skipped)
    config = replace(config, data=data)
    if data.format == "miniature":
        miniature.generate(config)
    return stage.run(config, run_dir, extend)


def _ids(text: str) -> list[str]:
    return [video_id.strip() for video_id in text.split(",") if video_id.strip()]


@main.command("train-base")
@stage_options
@click.option("--init", default=None, metavar="FILE", help="Weights to start from (base.init).")
@click.option("--new-head", is_flag=True, help="Leave the classifier of these weights out (base.new_head).")
def train_base(config, run_dir: Path, init: str | None, new_head: bool) -> None:
    """Fine-tune the network that says where to look (Charades-Base)."""
    from pipeline import train_base as stage

    base = replace(config.base, init=init or config.base.init, new_head=new_head or config.base.new_head)
    finish(stage.run(replace(config, base=base), run_dir))


@main.command()
@stage_options
@click.option("--workers", type=int, default=None, help="Processes on the CPU (workers).")
@click.option("--use-labels", is_flag=True, help="Allow cross_entropy, which looks at labels, on evaluation videos.")
def saliency(config, run_dir: Path, workers: int | None, use_labels: bool) -> None:
    """Stage 1: Base's logits, saliency maps and boxes, to Zarr."""
    from pipeline import saliency as stage

    finish(stage.run(replace(config, workers=workers or config.workers), run_dir, use_labels))


@main.command()
@stage_options
@click.option("--workers", type=int, default=None, help="Processes (workers).")
@click.option(
    *("--boxes", "policies"),
    type=click.Choice(FOCI[:-1]),
    multiple=True,
    default=("entropy",),
    show_default=True,
    help="Where to cut; repeatable.",
)
@click.option("--pixels", type=click.Choice(PIXELS), default="source", show_default=True, help="Cut, or enlarge V_in.")
def crops(config, run_dir: Path, workers: int | None, policies: tuple[str, ...], pixels: str) -> None:
    """Stage 2: context and focused volumes, to HDF5."""
    from pipeline import crops as stage

    finish(stage.run(replace(config, workers=workers or config.workers), run_dir, policies, pixels))


@main.command("train-fusion")
@stage_options
@click.option(
    *("--fusion", "fusions"),
    type=click.Choice(FUSIONS),
    multiple=True,
    default=FUSIONS,
    show_default=True,
    help="What to train; repeatable.",
)
@click.option("--boxes", type=click.Choice(FOCI), default="entropy", show_default=True, help="repeat = V_in again.")
@click.option("--pixels", type=click.Choice(PIXELS), default="source", show_default=True, help="As given to crops.")
def train_fusion(config, run_dir: Path, fusions: tuple[str, ...], boxes: str, pixels: str) -> None:
    """Stage 3: late fusion and temporal concatenation, trained from the caches."""
    from pipeline import train_fusion as stage

    finish(*(stage.run(config, run_dir, fusion, boxes, pixels) for fusion in fusions))


@main.command()
@stage_options
@click.option("--boxes-eval", type=click.Choice(FOCI[:-1]), default=None, help="Boxes at evaluation.  [as at training]")
@click.option("--eval-ids", default="", metavar="ID,ID", help="Only these evaluation videos.")
@click.option("--use-labels", is_flag=True, help="Allow boxes that come from labels; results are marked as oracle.")
def evaluate(config, run_dir: Path, boxes_eval: str | None, eval_ids: str, use_labels: bool) -> None:
    """Score Base and all fusion models of the run."""
    from pipeline import evaluate as stage

    outcome = stage.run(config, run_dir, boxes_eval, tuple(_ids(eval_ids)), use_labels)
    _print_results(outcome.path)
    finish(outcome)


def _print_results(path: Path) -> None:
    import pandas as pd

    table = pd.read_csv(path)
    shown = [
        "experiment",
        "seed",
        "map",
        "map_official",
        "map_windowed",
        "num_videos",
        "num_missing",
        "boxes_on_target",
    ]
    percent = {"map", "map_official", "map_windowed", "boxes_on_target"}
    for column in percent:
        table[column] *= 100
    click.echo(table[shown].to_string(index=False, float_format=lambda value: f"{value:.1f}", na_rep="-"))
    for text in table.protocol.unique():
        click.echo(f"mAP in per cent; {text}")


@main.command()
@stage_options
@click.option("--out", default=None, metavar="FILE", help="Write the index as .csv or .parquet.")
def inspect(config, run_dir: Path, out: str | None) -> None:
    """Print what a run holds; write its index as CSV or Parquet."""
    import cache

    run = cache.open(run_dir)
    click.echo(f"{run_dir}: {len(run.videos)} videos, {len(run.skipped)} skipped, {run.num_rows} rows")
    columns = ["product", "name", "part", "units_done", "units", "rows_done", "bytes"]
    click.echo(run.stores()[columns].to_string(index=False))
    if out:
        path = Path(out)
        if path.suffix not in (".csv", ".parquet"):
            raise click.BadParameter(f"{out}: the index is written as .csv or .parquet", param_hint="--out")
        run.index.to_csv(path, index=False) if path.suffix == ".csv" else run.index.to_parquet(path, index=False)
        click.echo(f"wrote {path}: {run.num_rows} rows")


def _print_truth(config, run_dir: Path) -> None:
    from pipeline import boxes
    from pipeline.base import load_base
    from pipeline.evaluate import boxes_on_target
    from pipeline.miniature_proof import best_without_print, prove
    from pipeline.workspace import Workspace

    workspace = Workspace(run_dir, config)
    found = prove(workspace)
    read = ", ".join(
        f"{found[view]:.0%} {where}"
        for view, where in (
            ("input", "on the input"),
            ("enlarged", "on the enlarged input"),
            ("focused", "on the focused volume"),
        )
    )
    click.echo(f"Truth: told where the cards are, a fixed reader reads {read} of {found['cards']} prints right.")
    for policy in ("entropy", "random", "center"):
        boxes.run_policy(workspace, load_base(workspace), policy)
        share = boxes_on_target(workspace, load_base(workspace), policy)
        click.echo(f"{share:.0%} of the {policy} boxes of evaluation clips hold all cards.")
    best = best_without_print(workspace)
    click.echo(f"Who knows the cards' colours and cannot read their print reaches {100 * best:.1f} mAP at most.")


def table_options(command: Callable) -> Callable:
    """--seeds, of every command that runs several trainings, on top of stage_options."""
    seeds = click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Each has its own Base.")
    return stage_options(seeds(command))


@main.command()
@table_options
@click.option("--only", multiple=True, metavar="ROW", help="Run this row (and base) only, such as e/e; repeatable.")
@click.option("--share-base", is_flag=True, help="All seeds use the Base of the first one; the table says so.")
def table2(config, run_dir: Path, seeds: int, only: tuple[str, ...], share_base: bool) -> None:
    """The paper's Table 2: run what is missing, write report/table2.csv, .md, .html and contrasts.csv."""
    from pipeline import tables

    only = tuple(name for text in only for name in _ids(text))
    _finish_table(tables.table2(config, run_dir, seeds, only, share_base))


@main.command()
@table_options
@click.option("--frames", type=int, multiple=True, help="T_in; repeatable.  [default: 16, 32, 64; miniature 4, 8, 16]")
def table1(config, run_dir: Path, seeds: int, frames: tuple[int, ...]) -> None:
    """The paper's Table 1: Base at several clip lengths, each in a run of its own; write report/table1.*."""
    from pipeline import studies

    _finish_table(studies.table1(config, run_dir, seeds, frames))


@main.command("table-box")
@table_options
@click.option("--side", "sides", type=int, multiple=True, help="Input pixels; repeatable.  [default: 2/7 to 6/7]")
def table_box(config, run_dir: Path, seeds: int, sides: tuple[int, ...]) -> None:
    """Box sizes compared on a part of the training videos; write report/table-box.*."""
    from pipeline import studies

    _finish_table(studies.table_box(config, run_dir, seeds, sides))


@main.command("compare-saliency")
@table_options
def compare_saliency(config, run_dir: Path, seeds: int) -> None:
    """Boxes of all objectives and of Grad-CAM side by side; write report/compare-saliency.*."""
    from pipeline import studies

    _finish_table(studies.compare_saliency(config, run_dir, seeds))


def _finish_table(outcome) -> None:
    click.echo(outcome.path.read_text(encoding="utf-8"))
    finish(outcome)


@main.command()
@stage_options
def demo(config, run_dir: Path) -> None:
    """All stages in a row, from annotations to the table of results."""
    from pipeline import crops, evaluate, saliency, train_base, train_fusion

    outcomes = []
    for stage in (
        lambda: _prepare(config, run_dir),
        lambda: train_base.run(config, run_dir),
        lambda: saliency.run(config, run_dir),
        lambda: crops.run(config, run_dir, ("entropy",)),
        lambda: train_fusion.run(config, run_dir, "late"),
        lambda: train_fusion.run(config, run_dir, "concat"),
        lambda: evaluate.run(config, run_dir),
    ):
        outcomes.append(stage())
        click.echo(f"wrote {outcomes[-1].path}: {outcomes[-1].summary}")
    _print_results(outcomes[-1].path)
    if config.data.format == "miniature":
        _print_truth(config, run_dir)
    click.echo(f"Look: {run_dir / 'results.csv'}, and cache.open({str(run_dir)!r}).index in Python; see README.md.")
    finish(*(outcome for outcome in outcomes if outcome.num_skipped))
