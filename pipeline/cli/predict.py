"""The commands about new videos: `predict`; `timeline`, the tables anew without a network; `export`."""

import functools
from pathlib import Path

import click

from pipeline.cli.options import parse_devices, run_option
from pipeline.cli.printing import finish

FORMATS = ("csv", "activitynet", "jsonl")


def table_options(command):
    """The options that change tables only, not what the networks compute."""
    for option in (
        click.option("--format", type=click.Choice(FORMATS), default="csv", help="A JSON file beside the CSV tables."),
        click.option("--min-seconds", type=click.FloatRange(0), default=0.0, help="Leave shorter segments out."),
        click.option("--merge-seconds", type=click.FloatRange(0), default=0.5, help="Join segments over shorter gaps."),
        click.option("--top-k", type=click.IntRange(0), default=5, help="Labels of a video in videos.csv; 0 for all."),
        click.option("--threshold", default="stored", metavar="stored|0.3|FILE.csv", help="From which score on."),
    ):
        command = option(command)
    return command


def window_options(command):
    """--clips and --stride, which become `windows`."""

    @click.option("--clips", type=click.Choice(("stride", "as-evaluated")), default="stride", help="Which windows.")
    @click.option(
        *("--stride", "stride"),
        type=click.FloatRange(0.01, 1e6),
        help="Seconds from window to window.  [default: 1, or a quarter of a shorter window]",
    )
    @functools.wraps(command)
    def wrapped(clips: str, stride: float | None, **options) -> None:
        from pipeline.predict.passes import WindowRule

        if stride and clips != "stride":
            raise click.UsageError("--stride is for --clips stride; as-evaluated takes the clips of `evaluate`")
        command(windows=WindowRule(clips, stride), **options)

    return wrapped


def worker_options(command):
    """--workers and --devices, which become `work`: the device of each process, and who works."""

    @click.option("--workers", type=click.IntRange(1, 1024), default=1, help="Processes, where the CPU computes.")
    @click.option("--devices", callback=parse_devices, metavar="0,1|cpu", help="GPUs, one process each; or the CPU.")
    @functools.wraps(command)
    def wrapped(workers: int, devices: tuple[str, ...], **options) -> None:
        from pipeline.predict.run import Workers

        on_cpu = devices == ("cpu",)
        work = ("cpu" if on_cpu else "auto"), Workers(workers, () if on_cpu else devices)
        command(work=work, **options)

    return wrapped


def _report(threshold: str, top_k: int, merge_seconds: float, min_seconds: float, format: str):
    from pipeline.predict.tables import Report
    from pipeline.run.timeline import Rule

    return Report(threshold, Rule(merge_seconds, min_seconds), top_k, format)


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="VIDEO|FOLDER|LIST.txt...")
@run_option
@click.option("--experiment", metavar="NAME", help="As in results.csv, or a folder of models/.  [default: the highest]")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting of the run's.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("predictions"), help="Folder.")
@window_options
@worker_options
@click.option(
    *("--boxes", "own_boxes"),
    type=click.Path(path_type=Path, dir_okay=False),
    help="A table of boxes of your own, where the second network looks.",
)
@click.option(
    *("--gate", "share"),
    type=click.FloatRange(0, 1, min_open=True),
    help="Look twice only at about this share of windows, where Base is unsure; learnt on the run's training clips.",
)
@click.option("--look-if-entropy-above", "look_above", type=float, help="As --gate, with the entropy itself, in nats.")
@click.option("--films", is_flag=True, help="A film of each video: saliency, box, focused view, scores.")
@table_options
def predict(places, run_dir: Path, experiment, overrides, out: Path, windows, work, **tables) -> None:
    """Say what happens in videos, when, and where the network looked, with a trained run (--run).

    <PLACES> are videos, folders of videos, and .txt files with a path a line. Writes videos.csv, timeline.csv,
    boxes.csv, windows.parquet and failed.csv into --out. The same command again goes on where it stopped.
    """
    from pipeline.predict import run
    from pipeline.predict.gate import look_above

    device, workers = work
    own_boxes, films, *gate = (tables.pop(name) for name in ("own_boxes", "films", "share", "look_above"))
    entropy = look_above(run_dir, experiment, overrides, *gate)
    experiment = run.Experiment(run_dir, experiment, overrides, device, own_boxes, entropy)
    finish(run.run(experiment, list(places), out, windows, _report(**tables), workers, films))


@click.command()
@click.argument("predictions", type=click.Path(path_type=Path, file_okay=False))
@table_options
def timeline(predictions: Path, **tables) -> None:
    """Make the tables of a folder of predictions anew, with other thresholds or rules; no network runs.

    <PREDICTIONS> is what `predict` wrote.
    """
    from pipeline.predict.tables import rewrite

    finish(rewrite(predictions, _report(**tables)))


@click.command()
@run_option
@click.option("--experiment", metavar="NAME", help="As in results.csv, or a folder of models/.  [default: the highest]")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting of the run's.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder.")
@click.option("--onnx", is_flag=True, help="Also the forward passes, as base.onnx and second.onnx.")
def export(run_dir: Path, experiment: str | None, overrides: tuple[str, ...], out: Path, onnx: bool) -> None:
    """Write a trained experiment into one folder that `predict --run` takes, without the run and its data."""
    from pipeline.predict import export as made

    finish(made.run(run_dir, out, experiment, overrides, onnx))


COMMANDS = (predict, timeline, export)
