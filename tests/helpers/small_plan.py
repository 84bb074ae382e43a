"""A small plan for tests of the cache: non-square everywhere, and a last unit that is shorter than the others."""

import pandas as pd

from cache.plan import Part

NUM_FRAMES, INPUT = 3, (6, 10)


def rows(num_videos=5, rows_per_video=2, split="train", first_video=0) -> pd.DataFrame:
    """Rows of a plan, video by video. Every column differs from every other."""
    return pd.DataFrame(
        [
            {
                "video_id": f"{v:05d}",
                "split": split,
                "clip_index": 0 if split == "train" else i,
                "aug_index": i if split == "train" else 0,
                "frame_start": 2 * v + i,
                "num_frames": 2 * v + 4,
                "fps": 8.0,
                "source_height": 24 + v,
                "source_width": 36 + v,
                "theta_resized_height": 8,
                "theta_resized_width": 12,
                "theta_crop_top": i % 3,
                "theta_crop_left": (i + 1) % 3,
                "theta_input_height": INPUT[0],
                "theta_input_width": INPUT[1],
                "theta_flip": v % 2 == 1,
                "video_path": f"videos/{v:05d}.mp4",
                "video_bytes": 5_000_000_000 + v,
                "video_sha256": f"{v:064x}",
                "video_timing": "pts",
            }
            for v in range(first_video, first_video + num_videos)
            for i in range(rows_per_video)
        ]
    )


def part(number=0, split="train", num_videos=5, rows_per_video=2, videos_per_unit=2, first_video=0, **settings) -> Part:
    """By default 10 rows in units of 4, 4 and 2."""
    return Part(
        name=f"part-{number:03d}-{split}",
        split=split,
        rows=rows(num_videos, rows_per_video, split, first_video) if num_videos else rows(1, 1, split).iloc[:0],
        rows_per_video=rows_per_video,
        videos_per_unit=videos_per_unit,
        settings={"num_frames": NUM_FRAMES, "fps": 8.0, "resized": [8, 12], "input": list(INPUT)} | settings,
    )
