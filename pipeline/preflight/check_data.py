"""Check the data of a run: annotations, weights, some of the videos, and what a second decoder makes of them."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pandas as pd

from cache.errors import CacheError, relative_to
from cache.fingerprint import file_sha256
from cache.table_files import read_csv
from models.backbones import build, head_names
from models.checkpoint import WeightsError, load_weights, read_state, state_hash
from models.hf_network import is_folder, load_folder
from models.i3d import inflate_2d
from models.own_network import NetworkError
from pipeline.config import Base, Config
from pipeline.data.label_files import read_annotations
from pipeline.data.label_times import past_the_end
from pipeline.data.own_boxes import read_own_boxes
from pipeline.data.segments import Source, split_path
from pipeline.data.video.clock import traits
from pipeline.data.video.sandbox import Prober
from pipeline.errors import AnnotationError, StageError, VideoError
from pipeline.preflight import other_decoders
from pipeline.preflight.counts import Counts, count, spread
from pipeline.preflight.finding import Finding, judged
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder, read_trained
from pipeline.run.plan_rows import LOW_ZOOM, clock_oddities, probe_row
from pipeline.run.summary import describe

UNEVEN = 1.5  # longest time between frames / shortest
NOT_SQUARE = 0.02  # how far the aspect ratio of pixels may be from 1
SHOWN = 5  # video ids that a finding names


def check_data(config: Config, run_dir: Path, videos: int) -> Iterator[Finding]:
    """Check annotations first, which all other checks need; see `doctor.examine`."""
    if config.data.format == "miniature" and not Path(config.data.videos).is_dir():
        yield Finding("data", "note", f"{config.data.videos} is not there yet", "prepare generates the miniature")
        return
    try:
        classes = len(read_annotations(config.data).classes)
        counts = count(config, run_dir)
    except (AnnotationError, StageError) as error:
        yield Finding("data", "problem", str(error), "see pipeline/data/README.md; paths are set under [data]")
        return
    yield check_counts(config, counts)
    yield from check_weights(config, run_dir, classes)
    yield from check_skipped(run_dir)
    rows = yield from check_videos(config, counts, videos)
    if rows and counts.annotations is not None:
        for name, text in describe(pd.DataFrame(rows), counts.annotations).items():
            yield Finding(name, "ok", text)
    yield from check_labels(config, counts, rows)
    if config.saliency.own_boxes:
        yield check_own_boxes(Path(config.saliency.own_boxes), counts, rows)
    yield from check_decoders(config, rows)


def check_counts(config: Config, counts: Counts) -> Finding:
    """Count the videos of each split, and annotated ones without a file."""
    train, test, missing = counts.videos("train"), counts.videos("test"), len(counts.missing)
    text = f"{train} training and {test} evaluation videos, {len(counts.annotations.classes)} classes"
    text += f"; {missing} annotated videos have no file" if missing else ""
    refused = bool(missing) and config.data.missing_videos == "refuse"
    if not refused and not (train and test):
        fix = "without training videos nothing is trained; prepare --eval-ids ID,ID moves videos to evaluation"
        return Finding("data", "note", text, fix)
    fix = f"put them into {config.data.videos}, or --set data.missing_videos=skip leaves them out"
    return judged("data", refused, text, fix)


def check_weights(config: Config, run_dir: Path, classes: int) -> Iterator[Finding]:
    """Check the weights that Base starts from, for so many classes, and a trained Base against its record."""
    if config.base.init or is_folder(config.base.network):
        yield _check_init(config.base, classes)
    else:
        text = f"base.init is empty: {config.base.network} starts from nothing"
        yield Finding("weights", "note", text, "name a file of Kinetics weights with base.init for real data")
    try:
        folder = base_folder(open_folder(run_dir, config), config)
    except (StageError, NetworkError, WeightsError):
        return  # the weights to start from are not there, which has been said
    if not (folder / "base.json").exists():
        return
    try:
        wanted = read_trained(folder / "base.json")["weights"]
    except CacheError as error:
        yield Finding("base", "problem", str(error), f"verify --repair moves it aside; or delete {folder}")
        return
    try:
        found = state_hash(read_state(folder / "weights.pt"))
    except (OSError, WeightsError) as error:
        found = str(error)
    text = f"trained, weights {wanted[:12]}, as recorded"
    if found != wanted:
        text = f"{folder / 'weights.pt'} is not what base.json records: {found[:60]}, expected {wanted[:12]}"
    fix = f"verify names what is damaged; or delete {folder} and run train-base"
    yield judged("base", found != wanted, text, fix)


def _check_init(base: Base, classes: int) -> Finding:
    """Check that the file `base.init`, or the folder of the network, is there and fits the network."""
    if is_folder(base.network) and not base.init:
        try:
            network = build(base.network, classes, **dict(base.options))
            left = load_folder(network, base.network, base.new_head)
        except (OSError, NetworkError, WeightsError) as error:
            return Finding("weights", "problem", " ".join(str(error).split()), "models/README.md says what is read")
        return Finding("weights", "ok", f"{base.network}, new: {', '.join(left) or 'nothing'}")
    path = Path(base.init)
    if not path.is_file():
        fix = "pipeline/data/README.md says where to get it"
        return Finding("weights", "problem", f"base.init = {path}: no such file{relative_to(path)}", fix)
    network, new_head = build(base.network, classes, **dict(base.options)), base.new_head or base.inflate
    try:
        state = read_state(path)
        convert = (lambda given: inflate_2d(given, network)) if base.inflate else None
        load_weights(network, path, head_names(network), new_head, convert)
    except (OSError, WeightsError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        lines[3:] = [f"and {len(lines) - 3} more lines"] if len(lines) > 3 else []
        fix = "if only the classifier differs, --set base.new_head=true; else the base.network of these weights"
        return Finding("weights", "problem", " ".join(lines), fix)
    heads = ", ".join(f"{name} {tuple(state[name].shape)}" for name in head_names(network) if name in state)
    kept = "a new one is made" if new_head else "kept"
    text = f"{path}, SHA-256 {file_sha256(path)[:16]}, state {state_hash(state)[:12]}"
    return Finding("weights", "ok", f"{text}; head {heads or 'none'}, {kept} for {classes} classes")


def check_skipped(run_dir: Path) -> Iterator[Finding]:
    """Report the videos that `prepare` left out, by reason, other than for want of a file."""
    path = run_dir / "skipped.csv"
    if not path.exists():
        return
    try:
        table = read_csv(path, ("video_id", "reason"))
    except CacheError as error:
        yield Finding("skipped", "problem", str(error), "run prepare again")
        return
    for reason, group in table[table.reason != "VideoMissing"].groupby("reason"):
        fix = f"{path} has the details; mend or replace the files, then prepare --extend"
        yield Finding("skipped", "note", f"{len(group)} {reason}: {_names(group.video_id)}", fix)


def check_videos(config: Config, counts: Counts, number: int) -> Generator[Finding, None, list[dict]]:
    """Probe some videos of both splits in a process apart, and look for what is odd.

    Returns:
        rows of videos.csv of those that can be used.
    """
    train, test = counts.video_ids["train"], counts.video_ids["test"]
    half = spread(test, max(number // 2, number - len(train)))
    ids = spread(train, number - len(half)) + half
    rows, odd, failed = [], {}, {}
    with Prober(config.data.video_seconds, round(config.data.video_memory * 2**30)) as prober:
        for video_id in ids:
            source = counts.annotations.source(video_id) if counts.annotations else Source(video_id)
            found = probe_row(config, prober, source, None)
            if isinstance(found, tuple):
                failed[video_id] = found[0]
                continue
            rows.append({"video_id": video_id, **found})
            for kind in _oddities(Path(config.data.videos) / split_path(found["path"])[0], found):
                odd.setdefault(kind, []).append(video_id)
    if failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(failed.values()).items())
        text = f"{len(failed)} of {len(ids)} sampled videos cannot be used ({reasons}): {_names(failed)}"
        yield Finding("videos", "problem", text, "download or re-encode them; prepare leaves such videos out")
    for (text, fix), some in odd.items():
        yield Finding("videos", "note", f"{len(some)} of {len(ids)} sampled videos {text}: {_names(some)}", fix)
    if not failed and not odd:
        yield Finding("videos", "ok", f"{len(rows)} sampled videos decode whole and have nothing odd")
    return rows


def check_labels(config: Config, counts: Counts, rows: list[dict]) -> Iterator[Finding]:
    """Compare the times of labels with the lengths of the videos that were probed."""
    if rows and counts.annotations is not None:
        found = past_the_end(counts.annotations, pd.DataFrame(rows))
        many = found.count > config.data.max_past_end * found.total
        fix = "times are in seconds from the first frame; correct the table, or see that the videos are those annotated"
        yield Finding(
            "labels", "problem" if many else "note" if found.count else "ok", found.text, fix * bool(found.count)
        )


def check_own_boxes(path: Path, counts: Counts, rows: list[dict]) -> Finding:
    """Read the table of `saliency.own_boxes`; compare it with all video ids, and with the sizes of probed videos."""
    sizes = {row["video_id"]: (row["height"], row["width"]) for row in rows}
    try:
        own = read_own_boxes(path)
        own.check_videos(sizes, counts.annotations.videos.video_id)
    except AnnotationError as error:
        return Finding("own boxes", "problem", str(error), "correct this line, or the program that wrote the table")
    number, videos = sum(map(len, own.rows.values())), len(counts.annotations.videos)
    text = f"{path}: {number} boxes in {len(own.rows)} of {videos} videos"
    return Finding("own boxes", "ok", f"{text}, inside the frames of {len(sizes.keys() & own.rows)} sampled ones")


def _oddities(path: Path, row: dict) -> Iterator[tuple[str, str]]:
    """Yield (what is odd, what to do) about a video and its row of videos.csv."""
    if min(row["zoom_y"], row["zoom_x"]) < LOW_ZOOM:
        text = f"are less than {LOW_ZOOM} times as large as the resized frame"
        yield text, "use the videos in original size: the focused volume of these holds hardly more than upscaling"
    yield from clock_oddities(row)
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
    if found.rotation or found.mirrored:
        fix = "nothing: frames are turned and mirrored before use; boxes are in such frames"
        yield "are turned or mirrored by their metadata", fix
    if abs(found.pixel_aspect - 1) > NOT_SQUARE:
        fix = "nothing where all are alike: square resizing ignores it; else re-encode"
        yield "have pixels that are not square", fix


def check_decoders(config: Config, rows: list[dict]) -> Iterator[Finding]:
    """Compare first frames between PyAV and every other decoder that is installed; `rows` are those of videos.csv."""
    found, missing = other_decoders.available()
    if not found:
        fix = "python -m pip install -e .[doctor] brings OpenCV"
        yield Finding("decoders", "note", f"no second decoder to compare with: {', '.join(missing)} are missing", fix)
        return
    # of several streams, other decoders may take another one
    single = [row for row in rows if not row.get("video_stream")]
    files = [(row, path) for row in single if (path := Path(config.data.videos) / split_path(row["path"])[0]).is_file()]
    for name, read in found.items():
        compared = [
            (row["video_id"], other_decoders.compare(path, row["timing"], (row["height"], row["width"]), read))
            for row, path in files
        ]
        wrong = [f"{video_id}: {difference}" for video_id, difference in compared if difference]
        text = f"{name} and PyAV show the same first frames of {len(files)} videos"
        if wrong:
            text = f"{name} and PyAV differ on {len(wrong)} of {len(files)} videos; {wrong[0]}"
        fix = "trust neither before you have looked (`show VIDEO_ID`); re-encoding such videos settles it"
        yield judged("decoders", bool(wrong), text, fix)


def _names(ids: Iterable[str]) -> str:
    """The first few ids, for a finding."""
    ids = list(ids)
    return ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
