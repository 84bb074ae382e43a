"""`convert`: annotations of other data sets become the plain table."""

from pathlib import Path

import click

from pipeline.cli.printing import echo, finish

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
FORMATS = ("activitynet", "charades-json", "path-label", "folders", "epic", "ava", "assembly101", "kinetics", "wlasl")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="[SPLIT=]FILE|FOLDER...")
@click.option("--from", "kind", type=click.Choice(FORMATS), required=True, help="Whose format the sources have.")
@click.option(
    "--out", type=FILE, required=True, help="The table, such as mine/labels.csv; classes.txt comes beside it."
)
@click.option("--names", type=FILE, help="Names of the classes: a list, EPIC's CSV, AVA's .pbtxt.")
@click.option("--prefix", default="", help="Put before every id, such as v_ for ActivityNet's files.")
@click.option("--unit", type=click.Choice(["seconds", "frames"]), help="charades-json: what its times are.")
@click.option("--fps", type=click.FloatRange(0.001, 1000), help="Frames a second, where times are frames.")
@click.option(
    "--label", type=click.Choice(["verb", "noun", "action"]), default="action", help="epic, assembly101: which."
)
@click.option("--offset", type=float, default=0.0, help="ava: the second at which the video files begin.")
@click.option("--segments", is_flag=True, help="Make a sample of each label with times, with a segment_id.")
@click.option("--videos", type=FOLDER, help="Link the videos into this folder, as data.videos of a config needs them.")
@click.option("--root", type=FOLDER, help="Where paths in lists start.  [default: the folder of the first list]")
def convert(sources, kind: str, out: Path, names: Path | None, prefix: str, videos, root, segments, **told) -> None:
    """Make the plain table and its class list from annotations of another data set.

    <SOURCES> are files, or folders of a folder a class; train=FILE says the split of all that is in it. Says what was
    left out, and why. Nothing is written over. Where sources name files and there is no --videos, the table has their
    paths.
    """
    from pipeline.data.convert import tables as made
    from pipeline.data.convert.found import Told
    from pipeline.run.outcome import Outcome

    if videos and kind not in made.PATHS:
        raise click.UsageError(f"--videos: only {', '.join(made.PATHS)} say where videos are")
    tables = made.convert(kind, list(sources), Told(**told), names, prefix, segments)
    root = root or made.root_of(sources)
    made.write(tables, out, root if kind in made.PATHS and not videos else None)
    for note in tables.notes:
        echo(note)
    if videos:
        linked, symbolic = made.link_videos(tables, root, videos)
        echo(f"{linked} of {len(tables.files)} videos linked into {videos}")
        if symbolic:
            echo("the links are symbolic: set data.follow_links = true")
    ids = {row[5] if segments else row[0]: row[1] for row in tables.labels}
    counts = ", ".join(f"{list(ids.values()).count(split)} {split}" for split in dict.fromkeys(ids.values()))
    labels = sum(bool(row[4]) for row in tables.labels)
    noun = "segments" if segments else "videos"
    summary = f"{len(ids)} {noun} ({counts}), {labels} labels of {len(tables.classes)} classes"
    finish(Outcome(out, summary, tables.num_left_out, "the lines above say why" if tables.num_left_out else ""))


COMMANDS = (convert,)
