"""prepare: annotations and videos become a table of videos, a snapshot of the labels, and the plan."""

import difflib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd

from cache.commit import in_use, locked, write_file
from cache.errors import CacheError, DamagedError, StaleCacheError
from cache.folder_checks import check_folder, check_locks, check_space
from cache.layout import PRODUCTS
from cache.plan import Part
from cache.plan_files import largest_part, part_names, read_plan, recorded_parts, write_part
from cache.sealed import write_record
from pipeline.config import Config
from pipeline.config_file import to_toml
from pipeline.config_keys import clip_settings
from pipeline.data.annotations import Annotations
from pipeline.data.label_files import read_annotations
from pipeline.data.label_times import PastTheEnd, past_the_end
from pipeline.data.miniature import generate
from pipeline.data.plain_csv import labels_csv
from pipeline.data.strict_csv import csv_bytes
from pipeline.data.video.find import spreadsheet_hint
from pipeline.errors import StageError, VideoMissing
from pipeline.run.folder import FRAME_TIMES, check_classes, open_folder, read_class_names
from pipeline.run.outcome import Outcome
from pipeline.run.plan_rows import check_rate, plan_rows
from pipeline.run.probe_videos import known_videos, oddities, probe_all
from pipeline.workers.engines import LOCAL, Engine

log = logging.getLogger(__name__)

MOST_ROWS = 1_000_000  # of a part; more become several parts, of which a worker holds one in memory
NAMED = 3  # videos that a message names
UNNAMED = ("unlabelled", "past_the_end")  # notes that the summary leaves out, or says in more words
SKIPPED_COLUMNS = ("video_id", "split", "reason", "detail")


def run(config: Config, run_dir: Path, extend: bool = False, engine: Engine = LOCAL) -> Outcome:
    """Probe all annotated videos and fix every row of the run.

    Reads the annotation files and every video, whole; those of the miniature are generated first. Writes config.toml,
    videos.csv, skipped.csv, labels.csv, classes.txt, plan/, and the records of the tables, tables.json and
    skipped.json; frame_times.csv where clips.fps is 0 and a video's rate varies. The same command again changes
    nothing, but that it makes anew what was lost of the plan. With `extend`, new videos and further augmentation seeds
    become new parts of the plan; no earlier part is touched. Where more videos fail than `data.max_skipped` allows,
    that is refused, and only skipped.csv is written.

    Raises:
        AnnotationError, StageError: what is wrong with the annotations, the videos or the folder, in one sentence.
        StaleCacheError: the run holds another plan, or networks for other classes.
    """
    if config.data.format == "miniature":
        generate.generate(config.data, config.workers)
    annotations = read_annotations(config.data)
    check_rate(config, annotations)
    _check_is_ours(run_dir)
    if any((run_dir / "models").glob("base-*")):
        with suppress(DamagedError):  # lost or damaged: each network still knows its own
            check_classes(read_class_names(run_dir), annotations.classes, f"{run_dir} has networks for")
    check_folder(run_dir)  # makes it; from here on `gc` must keep off
    with in_use(run_dir):
        return _prepare(config, run_dir, annotations, extend, engine)


def _prepare(config: Config, run_dir: Path, annotations: Annotations, extend: bool, engine: Engine) -> Outcome:
    """Probe and plan in the run folder, whose lock is held; see `run`."""
    check_locks(run_dir, cluster=not engine.is_local)
    rows = len(annotations.videos) * (config.clips.aug_seeds + config.clips.eval_clips)
    check_space(run_dir, 400 * rows, 20)  # a row of the plan takes less than that
    known, columns = known_videos(run_dir)
    videos, skipped = probe_all(config, run_dir, annotations, known, engine)
    write_record(run_dir / "skipped.json", {}, {"skipped.csv": csv_bytes(SKIPPED_COLUMNS, skipped)})
    _check_found(config, run_dir, annotations, videos, skipped)
    _check_failed(config, len(videos), skipped, run_dir / "skipped.csv")
    outside = past_the_end(annotations, videos)
    if outside.count > config.data.max_past_end * outside.total:
        allowed = f"more than data.max_past_end = {config.data.max_past_end:g} allows"
        raise StageError(f"{', '.join(config.data.annotations)}: {outside.text}; nothing is planned: {allowed}")
    _check_plan(config, run_dir, videos, extend)
    try:
        for part in _new_parts(config, run_dir, videos, extend):
            write_part(run_dir, part)
    except StaleCacheError as error:
        more = "--extend adds videos and augmentation seeds (clips.aug_seeds)"
        other = "another clips.eval_clips or clips.videos_per_unit needs another --run (make: RUN=)"
        raise StaleCacheError(f"{error}; {more}; {other}") from error
    videos["labels"] = [int(n) for n in annotations.video_targets(videos.video_id.tolist()).sum(1)]
    tables = {
        "videos.csv": csv_bytes(columns, videos[list(columns)].to_numpy().tolist()),
        "labels.csv": labels_csv(annotations),
        "classes.txt": "".join(f"{name}\n" for name in annotations.classes).encode(),
    }
    if uneven := [[one.video_id, " ".join(map(str, one.times))] for one in videos.itertuples() if one.times]:
        tables[FRAME_TIMES] = csv_bytes(("video_id", "seconds"), uneven)
    with locked(run_dir / "plan" / ".lock", wait=True):  # the tables and their record belong together
        write_record(run_dir / "tables.json", {"parts": part_names(run_dir)}, tables)
        if not uneven:
            (run_dir / FRAME_TIMES).unlink(missing_ok=True)
    write_file(run_dir / "config.toml", to_toml(config).encode())
    return _outcome(config, run_dir, annotations, videos, skipped, outside)


def _check_is_ours(run_dir: Path) -> None:
    """Refuse a folder that is no run and has files that `prepare` would write over, such as somebody's labels.csv."""
    theirs = [name for name in ("labels.csv", "classes.txt", "videos.csv", "config.toml") if (run_dir / name).exists()]
    if theirs and not any((run_dir / name).exists() for name in ("plan", "models", "tables.json", *PRODUCTS)):
        raise StageError(f"{run_dir} is no run folder, and its {theirs[0]} would be overwritten; use another --run")


def _check_found(config: Config, run_dir: Path, annotations: Annotations, videos: pd.DataFrame, skipped: list) -> None:
    """Refuse, before there is a plan, where files of videos are missing or none can be used."""
    missing = [video_id for video_id, _, reason, _ in skipped if reason == VideoMissing.__name__]
    listed = run_dir / "skipped.csv"
    if missing and config.data.missing_videos == "refuse":
        missing = list(
            dict.fromkeys(annotations.source(one).path or annotations.source(one).video_id for one in missing)
        )
        known = (annotations.source(one).video_id for one in annotations.videos.video_id)
        names = _with_nearest_files(missing, known, config.data.videos)
        raise StageError(
            f"{len(missing)} annotated videos have no file in {config.data.videos}: {names} (listed in {listed}); "
            'data.missing_videos = "skip" leaves them out'
        )
    if not len(videos):
        text = f"none of the {len(annotations.videos)} annotated videos can be used: {_counted(skipped)}"
        raise StageError(f"{text}; the first: {skipped[0][3]}; all are in {listed}")


def _counted(skipped: list) -> str:
    """Count the reasons of rows of skipped.csv, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(row[2] for row in skipped).most_common())


def _with_nearest_files(missing: list[str], annotated: Iterable[str], folder: str) -> str:
    """Name some missing videos, each with the file of the folder whose name is nearest and that is no other video."""
    others = {name.rpartition(".")[0] or name: name for name in sorted(os.listdir(folder))}
    for video_id in annotated:
        others.pop(video_id, None)
    lower = {stem.lower(): name for stem, name in others.items()}
    named = []
    for video_id in missing[:NAMED]:
        near = difflib.get_close_matches(video_id.lower(), lower, n=1)
        name = lower[near[0]] if near else ""
        hint = f"nearest file: {name}" if near else spreadsheet_hint(video_id).removeprefix("; ")
        hint = "an id has no extension" if name == video_id else hint
        named.append(f"{video_id} ({hint})" if hint else video_id)
    return ", ".join(named) + ", ..." * (len(missing) > NAMED)


def _check_plan(config: Config, run_dir: Path, videos: pd.DataFrame, extend: bool) -> None:
    """Refuse a config with other clips than the plan of the run has; with --extend, also where there is no plan."""
    if not extend and not any((run_dir / "plan").glob("part-*.json")):
        return
    try:
        parts = open_folder(run_dir, config).parts
    except StaleCacheError:
        raise
    except CacheError as error:  # a part was lost or damaged; `write_part` makes it anew
        if not part_names(run_dir):
            raise
        first = {part.name for part in _new_parts(config, run_dir, videos, extend=False)}
        if added := sorted({*part_names(run_dir), *recorded_parts(run_dir)} - first):
            lost = f"{error}; it was extended ({', '.join(added)}), so which videos the part had cannot be told"
            raise StageError(f"{lost}: bring {run_dir / 'plan'} back from a copy, or use another --run") from error
        if extend:
            raise StageError(f"{error}; run `prepare` without --extend first, which makes it anew") from error
        return
    splits = dict(videos[["video_id", "split"]].itertuples(index=False, name=None))
    for part in parts if extend else []:
        if part.split == "test" and part.rows_per_video != config.clips.eval_clips:
            raise StageError(
                f"clips.eval_clips: {config.clips.eval_clips}, the plan has {part.rows_per_video}; "
                "another number moves every window, so it needs another --run (make: RUN=)"
            )
        moved = [one for one in part.rows.video_id.unique() if splits.get(one, part.split) != part.split]
        if moved:
            raise StageError(
                f"{', '.join(moved)}: planned for {part.split}; another split needs another --run (make: RUN=)"
            )


def _new_parts(config: Config, run_dir: Path, videos: pd.DataFrame, extend: bool) -> Iterator[Part]:
    """Yield what the plan lacks: for known training videos the further seeds, for new videos everything."""
    old = read_plan(run_dir) if extend else []
    planned_rows = Counter()  # of each video
    for part in old:
        planned_rows.update(part.rows.video_id)
    number, most = len(old), max(MOST_ROWS, largest_part(run_dir))  # a larger one was planned before there was a limit
    for split in ("train", "test"):
        table = videos[videos.split == split]
        wanted = config.clips.aug_seeds if split == "train" else config.clips.eval_clips
        planned = table.video_id.map(planned_rows)
        for first in sorted(set(planned)):
            chosen = table[planned == first]
            if first >= wanted:
                continue
            per_unit, settings = config.clips.videos_per_unit, clip_settings(config)
            videos_per_part = per_unit * max(1, most // ((wanted - first) * per_unit))
            for place in range(0, len(chosen), videos_per_part):
                rows = plan_rows(config, chosen.iloc[place : place + videos_per_part], split, range(first, wanted))
                yield Part(f"part-{number:03d}-{split}", split, rows, wanted - first, per_unit, settings)
                number += 1


def _check_failed(config: Config, num_good: int, skipped: list, listed: Path) -> None:
    """Refuse where more videos fail than may. Missing files are no failures."""
    failed = [row for row in skipped if row[2] != VideoMissing.__name__]
    number = len(failed) + num_good
    if len(failed) > config.data.max_skipped * number:
        raise StageError(
            f"nothing is planned: {len(failed)} of {number} videos fail, more than "
            f"data.max_skipped = {config.data.max_skipped:g} allows ({_counted(failed)}; the first: {failed[0][3]}); "
            f"all are in {listed}; --max-skipped 1 goes on with the rest"
        )


def _outcome(
    config: Config, run_dir: Path, annotations: Annotations, videos: pd.DataFrame, skipped: list, outside: PastTheEnd
) -> Outcome:
    """Count what was found; warn of small and of odd videos, and of labels past the end."""
    reasons = Counter(reason for _, _, reason, _ in skipped)
    missing = reasons.pop(VideoMissing.__name__, 0)
    failed = sum(reasons.values())
    parts = [f"{len(videos)} videos ({(videos.split == 'train').sum()} train, {(videos.split == 'test').sum()} test)"]
    parts += [f"{missing} annotated videos without a file, left out"] * bool(missing)
    parts += [f"{count} {reason}" for reason, count in sorted(reasons.items())]
    parts += [f"{count} actions {name}" for name, count in annotations.notes.items() if count and name not in UNNAMED]
    parts += [outside.text] * bool(outside.count)
    for split, lost in (("train", "nothing can be trained"), ("test", "nothing can be evaluated")):
        if not (videos.split == split).any():
            log.warning("the plan has no %s video: %s; --extend adds videos", split, lost)
    for text in oddities(videos):
        log.warning("%s", text)
    return Outcome(run_dir / "plan", "; ".join(parts), failed)
