"""What `doctor` looks at in the data: annotations, weights, some of the videos, what two decoders make of them."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cache.fingerprint import file_sha256
from models.backbones import build, head_names
from models.checkpoint import WeightsError, load_weights, read_state, state_hash
from models.i3d import inflate_2d
from pipeline.config import Config
from pipeline.data.label_files import read_annotations
from pipeline.data.video.container import traits
from pipeline.data.video.sandbox import Prober
from pipeline.errors import AnnotationError, StageError, VideoError
from pipeline.preflight import other_decoders
from pipeline.preflight.counts import Counts, count
from pipeline.preflight.finding import Finding
from pipeline.run.folder import Workspace
from pipeline.run.plan_rows import probe_row

LOW_ZOOM = 1.5
UNEVEN = 1.5  # longest time between frames / shortest
NOT_SQUARE = 0.02
SHOWN = 5  # ids in a finding


def check_data(config: Config, run_dir: Path, videos: int) -> Iterator[Finding]:
    """Annotations first, for all others need them."""
    if config.data.format == "miniature" and not Path(config.data.videos).is_dir():
        yield Finding("data", "note", f"{config.data.videos} is not there yet", "prepare generates the miniature")
        return
    try:
        classes = len(read_annotations(config).classes)
        counts = count(config, run_dir)
    except (AnnotationError, StageError) as error:
        yield Finding(
            "data", "problem", str(error), "see README.md, own videos or Charades; paths are set under [data]"
        )
        return
    yield from check_counts(config, counts)
    yield from check_weights(config, run_dir, classes)
    yield from check_skipped(run_dir)
    rows = yield from check_videos(config, counts, videos)
    yield from check_decoders(config, rows)


def check_counts(config: Config, counts: Counts) -> Iterator[Finding]:
    """Videos of each split, and annotated ones without a file."""
    text = (
        f"{counts.videos('train')} training and {counts.videos('test')} evaluation videos, {counts.num_classes} classes"
    )
    if counts.num_missing and config.data.missing_videos == "refuse":
        fix = f"put them into {config.data.videos}, or --set data.missing_videos=skip leaves them out"
        yield Finding("data", "problem", f"{text}; {counts.num_missing} annotated videos have no file", fix)
    elif not counts.videos("train") or not counts.videos("test"):
        fix = (
            "prepare --eval-ids ID,ID moves videos to the evaluation split; without training videos nothing is trained"
        )
        yield Finding("data", "note", text, fix)
    else:
        missing = f"; {counts.num_missing} annotated videos have no file" if counts.num_missing else ""
        yield Finding("data", "ok", text + missing)


def check_weights(config: Config, run_dir: Path, classes: int) -> Iterator[Finding]:
    """The file that Base starts from: its hash, its head, whether it fits; and a trained Base against its record."""
    if config.base.init:
        yield _init(config, Path(config.base.init), classes)
    else:
        yield Finding("weights", "note", f"base.init is empty: {config.base.network} starts from nothing",
                      "name a file of Kinetics weights with base.init for real data")  # fmt: skip
    try:
        folder = Workspace(run_dir, config).base_folder
    except StageError:
        return  # base.init is not there, which has been said
    if (folder / "base.json").exists():
        wanted = json.loads((folder / "base.json").read_text())["weights"]
        try:
            found = state_hash(read_state(folder / "weights.pt"))
        except (OSError, WeightsError) as error:
            found = str(error)
        if found != wanted:
            text = f"{folder / 'weights.pt'} is not what base.json records: {found[:60]}, expected {wanted[:12]}"
            yield Finding(
                "base", "problem", text, f"verify names what is damaged; or delete {folder} and run train-base"
            )
        else:
            yield Finding("base", "ok", f"trained, weights {wanted[:12]}, as recorded")


def _init(config: Config, path: Path, classes: int) -> Finding:
    if not path.is_file():
        return Finding("weights", "problem", f"base.init = {path}: no such file", "see README.md for where to get it")
    network = build(config.base.network, classes)
    try:
        state = read_state(path)
        text = f"{path}, SHA-256 {file_sha256(path)[:16]}, state {state_hash(state)[:12]}"
        convert = (lambda given: inflate_2d(given, network)) if config.base.inflate else None
        new_head = config.base.new_head or config.base.inflate
        load_weights(network, path, head_names(network), new_head, convert)
    except (OSError, WeightsError) as error:
        lines = str(error).splitlines()
        more = f" and {len(lines) - 3} more lines" if len(lines) > 3 else ""
        fix = (
            "--set base.new_head=true, if only the classifier differs; or the base.network that these weights belong to"
        )
        return Finding("weights", "problem", " ".join(line.strip() for line in lines[:3]) + more, fix)
    heads = ", ".join(f"{name} {tuple(state[name].shape)}" for name in head_names(network) if name in state)
    kept = "a new one is made" if new_head else "kept"
    return Finding("weights", "ok", f"{text}; head {heads or 'none'}, {kept} for {classes} classes")


def check_skipped(run_dir: Path) -> Iterator[Finding]:
    """What `prepare` left out."""
    path = run_dir / "skipped.csv"
    if not path.exists():
        return
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = table[table.reason != "VideoMissing"]
    for reason, group in table.groupby("reason"):
        yield Finding("skipped", "note", f"{len(group)} {reason}: {_names(group.video_id)}",
                      f"{path} has the details; mend or replace the files, then prepare --extend")  # fmt: skip


def check_videos(config: Config, counts: Counts, number: int):
    """Probe some videos, each in its own process, and look for what is odd. Returns rows of videos.csv of the good."""
    columns = counts.candidates.values()  # both splits in turn
    longest = max(map(len, columns))
    jobs = [column[place] for place in range(longest) for column in columns if place < len(column)][:number]
    rows, odd, failed = [], {}, []
    with Prober(config.data.video_seconds, round(config.data.video_memory * 2**30)) as prober:
        for video_id, _ in jobs:
            found = probe_row(config, prober, video_id, None)
            if isinstance(found, tuple):
                failed.append((video_id, found[0]))
                continue
            rows.append({"video_id": video_id, **found})
            for kind in _oddities(Path(config.data.videos) / found["path"], found):
                odd.setdefault(kind, []).append(video_id)
    if failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(reason for _, reason in failed).items())
        names = _names(name for name, _ in failed)
        text = f"{len(failed)} of {len(jobs)} sampled videos cannot be used ({reasons}): {names}"
        yield Finding("videos", "problem", text, "download or re-encode them; prepare leaves such videos out, by name")
    for (text, fix), ids in odd.items():
        yield Finding("videos", "note", f"{len(ids)} of {len(jobs)} sampled videos {text}: {_names(ids)}", fix)
    if not failed and not odd:
        yield Finding("videos", "ok", f"{len(rows)} sampled videos decode whole and have nothing odd")
    return rows


def _oddities(path: Path, row: dict) -> Iterator[tuple[str, str]]:
    """(what is odd, what to do) about a video that can be used."""
    if min(row["zoom_y"], row["zoom_x"]) < LOW_ZOOM:
        yield (f"are less than {LOW_ZOOM} times as large as the resized frame",
               "use the videos in original size: here the focused volume holds hardly more than upscaling")  # fmt: skip
    if path.is_dir():
        return
    try:
        found = traits(path)
    except VideoError:
        return
    if row["timing"] == "rate":
        yield "have no usable timestamps", "frame times come from the rate; remux them (ffmpeg -i IN -c copy OUT.mp4)"
    elif found.shortest > 0 and found.longest > UNEVEN * found.shortest:
        yield "have a variable frame rate", "nothing: frames are chosen by time; check that labels are in seconds, too"
    if found.rotation:
        yield "are turned by their metadata", "nothing: frames are turned before use; boxes are in the turned frame"
    if abs(found.pixel_aspect - 1) > NOT_SQUARE:
        yield (
            "have pixels that are not square",
            "nothing where all are alike: square resizing ignores it; else re-encode",
        )
    if found.interlaced:
        yield "are interlaced", "deinterlace them (ffmpeg -i IN -vf bwdif OUT.mp4), for frames are taken as they come"


def check_decoders(config: Config, rows: list[dict]) -> Iterator[Finding]:
    """The first frames of the sampled videos, through PyAV and through every other decoder that is installed."""
    found, missing = other_decoders.available()
    if not found:
        fix = "python -m pip install -e .[doctor] brings OpenCV"
        yield Finding("decoders", "note", f"no second decoder to compare with: {', '.join(missing)} are missing", fix)
        return
    files = [(row, path) for row in rows if (path := Path(config.data.videos) / row["path"]).is_file()]
    for name, read in found.items():
        wrong = [
            (row["video_id"], difference)
            for row, path in files
            if (difference := other_decoders.compare(path, row["timing"], (row["height"], row["width"]), read))
        ]
        if wrong:
            text = f"{name} and PyAV differ on {len(wrong)} of {len(files)} videos; {wrong[0][0]}: {wrong[0][1]}"
            fix = "trust neither before you have looked (`show VIDEO_ID`); re-encoding such videos settles it"
            yield Finding("decoders", "problem", text, fix)
        else:
            yield Finding("decoders", "ok", f"{name} and PyAV show the same first frames of {len(files)} videos")


def _names(ids) -> str:
    ids = list(ids)
    return ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
