"""A video as a row of videos.csv, what is odd about it, and the rows of the plan that follow from it."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cache.fingerprint import file_sha256, unchanged_sha256
from pipeline.config import Config
from pipeline.data.annotations import Annotations
from pipeline.data.label_files import CHARADES_PAGE
from pipeline.data.sampling import eval_start, eval_theta, train_clip
from pipeline.data.segments import Source, is_segment
from pipeline.data.video.find import EXTENSIONS, video_folder
from pipeline.data.video.sandbox import Prober
from pipeline.errors import StageError, VideoError, VideoUnreadable

GAP = 10  # average intervals of frames, and a second, above which the time between two frames is called a gap
LATE = 0.5  # seconds from the beginning of a file to its first picture that are worth a word
INTERLACED = "deinterlace them (ffmpeg -i IN -vf bwdif OUT.mp4), for frames are taken as they come"
TONE_MAP = "their colours come out pale; tone-map them (ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,"
TONE_MAP += "zscale=t=bt709:m=bt709:p=bt709:r=tv,format=yuv420p OUT.mp4), unless all videos are alike"
LOW_ZOOM = 1.5  # source pixels for one of the resized frame; below, a focused volume holds hardly more than upscaling


def check_root(config: Config, video_id: str) -> Path:
    """Return the folder of videos; raise a StageError that says where the video was looked for if there is none."""
    root = Path(config.data.videos)
    if not config.data.videos or not root.is_dir():
        hint = f"; the videos in original size are at {CHARADES_PAGE}" if config.data.format == "charades" else ""
        raise StageError(
            f"data.videos: {root.absolute() if config.data.videos else '(empty)'} is not a folder; looked there for "
            f"{video_id}.<{'|'.join(EXTENSIONS)}> or a folder of frames {video_id}/, and so on for every video{hint}"
        )
    return root


def check_rate(config: Config, annotations: Annotations) -> None:
    """Raise a StageError where there are segments and no rate: which frame of a recording is theirs, its time says."""
    if not config.clips.fps and any(one.start is not None for one in annotations.sources.values()):
        expected = "expected a rate with segments (column segment_id), such as that of the recordings, 30 or 29.97"
        raise StageError(f"clips.fps: {expected}, got 0, every frame of a video")


def probe_row(config: Config, prober: Prober, source: Source, known: dict | None) -> dict | tuple[str, str]:
    """Return one row of videos.csv, the `known` one if the file is as it was, or (reason, detail) for skipped.csv."""
    root, clips = video_folder(config.data), config.clips
    try:
        path = source.find(root)
        name = path.relative_to(root.resolve()).as_posix() + source.fragment
        sha256 = file_sha256 if source.start is None else unchanged_sha256  # of a recording only once
        same = known and (known["path"] == name or not (source.path or source.fragment or is_segment(known["path"])))
        if same and path.is_file() and sha256(path) == known["sha256"]:
            return known
        info = prober.probe(path, config.data.source_fps or None)
        num_frames, seconds = info.num_frames(clips.fps or None), round(float(info.duration_seconds), 6)
        if source.start is not None:
            num_frames, seconds = source.extent(info.duration_seconds, clips.fps)
    except VideoError as error:
        return type(error).__name__, str(error)
    except OSError as error:
        return VideoUnreadable.__name__, f"{error.filename or source.video_id}: {error.strerror}"
    resized = eval_theta((info.height, info.width), clips).resized_size
    return {
        "path": name,
        "num_source_frames": info.num_source_frames,  # of a segment, those of its recording
        "num_frames": num_frames,
        "source_fps": round(float(info.source_fps), 6),
        "duration_seconds": seconds,
        "height": info.height,
        "width": info.width,
        "zoom_y": round(info.height / resized[0], 4),
        "zoom_x": round(info.width / resized[1], 4),
        "timing": info.timing,
        "bytes": info.bytes,
        "sha256": info.sha256,
        "video_stream": info.stream,
        "first_frame": info.first_frame,
        "longest_gap": info.longest_gap,
        "pictures": info.pictures,
        "times": () if clips.fps else info.times,
    }


def clock_oddities(row: dict) -> Iterator[tuple[str, str]]:
    """Yield (what is odd, what to do) about streams, clock and pictures of a video, by its row of videos.csv."""
    if row.get("video_stream"):
        fix = "nothing, if the largest is meant; else keep one alone (ffmpeg -i IN -map 0:v:N -c copy OUT)"
        yield "have several video streams, the largest is taken (video_stream in videos.csv)", fix
    gap = row.get("longest_gap", 0)
    if gap > 1 and gap > GAP / row["source_fps"]:
        text = "stand still for long, as where a clock jumps (longest_gap in videos.csv, seconds)"
        yield text, "look at them; where the clock is wrong, write it anew (ffmpeg -i IN -vf setpts=N/FR/TB OUT)"
    if row.get("first_frame", 0) > LATE:
        text = "begin with sound, or with pictures before the first key frame (first_frame in videos.csv, seconds)"
        yield text, "count the times of labels from the first picture that is shown"
    for kind in filter(None, row.get("pictures", "").split(", ")):
        yield f"are {kind} (pictures in videos.csv)", INTERLACED if kind == "interlaced" else TONE_MAP


def plan_rows(config: Config, videos: pd.DataFrame, split: str, numbers: range) -> pd.DataFrame:
    """Return the rows of a plan part, video by video: windows and thetas, each from the row's own generator."""
    clips, rows = config.clips, []
    for video in videos.to_dict("records"):
        size, frames = (video["height"], video["width"]), video["num_frames"]
        for number in numbers:
            if split == "train":
                start, theta = train_clip(clips, video["video_id"], number, frames, size)
            else:
                start = eval_start(number, clips.eval_clips, frames, clips.num_frames)
                theta = eval_theta(size, clips)
            rows.append(
                {
                    "video_id": video["video_id"],
                    "split": split,
                    "clip_index": 0 if split == "train" else number,
                    "aug_index": number if split == "train" else 0,
                    "frame_start": start,
                    "num_frames": frames,
                    "fps": clips.fps or video["source_fps"],
                    "source_height": size[0],
                    "source_width": size[1],
                    "theta_resized_height": theta.resized_size[0],
                    "theta_resized_width": theta.resized_size[1],
                    "theta_crop_top": theta.crop_top,
                    "theta_crop_left": theta.crop_left,
                    "theta_input_height": theta.input_size[0],
                    "theta_input_width": theta.input_size[1],
                    "theta_flip": theta.flip,
                    "video_path": video["path"],
                    "video_bytes": video["bytes"],
                    "video_sha256": video["sha256"],
                    "video_timing": video["timing"],
                }
            )
    return pd.DataFrame(rows)
