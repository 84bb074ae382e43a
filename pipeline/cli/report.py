"""The commands that make pictures of a run: report, show."""

from pathlib import Path

import click

from pipeline.cli.options import run_option
from pipeline.cli.printing import finish


@click.command()
@run_option
@click.option("--clips", type=click.IntRange(0), default=48, help="Clips in the gallery, at most.")
@click.option("--experiment", metavar="NAME", help="Result to compare with Base.  [default: the highest]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File.  [default: <run>/report/index.html]"
)
def report(run_dir: Path, clips: int, experiment: str | None, out: Path | None) -> None:
    """Write one page about the run: results, classes, clips, boxes, learning curves.

    Where --run is a folder of predictions: each video's film, boxes, and timeline with a lane a class. The page needs
    no network and, but for these films, no other file. It is made from the caches alone: no video, no GPU.
    """
    from pipeline.report import page, predictions
    from pipeline.run.predictions import is_predictions

    if is_predictions(run_dir):
        finish(predictions.run(run_dir, out=out))
        return
    finish(page.run(run_dir, clips, experiment, out))


@click.command()
@click.argument("video_id")
@run_option
@click.option("--clip", "clips", type=click.IntRange(0), multiple=True, help="Repeatable.  [default: three of them]")
@click.option("--boxes", "policy", default="entropy", metavar="NAME", help="Whose boxes.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: <run>/report/show]")
def show(run_dir: Path, video_id: str, clips: tuple[int, ...], policy: str, out: Path | None) -> None:
    """Write one video as <VIDEO_ID>.png and .mp4: input with saliency and box, the box enlarged, the focused volume.

    Where --run is a folder of predictions, write the video's page, <VIDEO_ID>.html.
    A clip of a training video is a stored augmentation. Made from the caches alone: no video, no GPU.
    """
    from pipeline.data.video.find import file_name
    from pipeline.report import predictions, show
    from pipeline.run.predictions import is_predictions

    if is_predictions(run_dir):
        finish(predictions.run(run_dir, video_id, out and out / f"{file_name(video_id)}.html"))
        return
    finish(show.run(run_dir, video_id, clips, policy, out))


COMMANDS = (report, show)
