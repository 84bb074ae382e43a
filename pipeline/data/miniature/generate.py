"""The miniature: a small data set with planted truth, in the Charades format, as real H.264 files.

A figure moves over clutter and carries one to three cards. A card's colour tells its pair of classes and survives
the resize to 64 x 64; its print, a fine grating along rows or columns, tells the class and does not: only the source
pixels carry it, and a coarse decoy drowns what the resize leaves of it. Where every card is, is written down.
Lengths below are pixels of the resized frame, times are seconds, colours are RGB in [0, 1].
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from cache.commit import write_file
from pipeline.config import Data
from pipeline.data.charades_csv import charades_row, write_charades_csv
from pipeline.data.miniature.draw import draw_video
from pipeline.data.miniature.script import CLASSES, Script, write_script
from pipeline.data.video.write import write_video
from pipeline.errors import StageError
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import in_directory

VERSION = 1  # raised when the same settings would give other videos
CARD_COLUMNS = ("video_id", "card", "frame", "fps", "top", "left", "height", "width")  # source pixels, source frames


def generate(data: Data, workers: int = 1) -> bool:
    """Write the data set into `data.videos`: train.csv, test.csv, classes.txt, cards.csv and one MP4 a video.

    The same settings give the same files. What is complete is left alone.

    Returns:
        whether it was made now.
    Raises:
        StageError: the folder holds a data set made with other settings.
    """
    root = Path(data.videos)
    settings = {"train_videos": data.train_videos, "eval_videos": data.eval_videos, "data_seed": data.data_seed}
    about = (json.dumps(settings | {"version": VERSION}, indent=2) + "\n").encode()
    if (root / "miniature.json").exists():
        if (root / "miniature.json").read_bytes() != about:
            raise StageError(
                f"{root} holds a miniature made with other settings; delete it, or name another data.videos"
            )
        return False
    root.mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, n) for split, count in (("train", data.train_videos), ("test", data.eval_videos)) for n in range(count)
    ]
    calls = (delayed(in_directory(_make_video))(root, data.data_seed, split, number) for split, number in jobs)
    made = Parallel(n_jobs=workers, return_as="generator")(calls)
    made = list(progress(made, len(jobs), "miniature", "videos"))
    for split in ("train", "test"):
        rows = [
            charades_row(s.video_id, [(c.class_index, c.start, c.end) for c in s.cards], s.seconds)
            for s, _ in made
            if s.split == split
        ]
        write_charades_csv(root / f"{split}.csv", rows)
    write_file(root / "classes.txt", "".join(f"c{i:03d} {name}\n" for i, name in enumerate(CLASSES)).encode())
    cards = pd.DataFrame([row for _, rows in made for row in rows], columns=CARD_COLUMNS)
    write_file(root / "cards.csv", cards.to_csv(index=False).encode())
    write_file(root / "miniature.json", about)
    return True


def _make_video(root: Path, data_seed: int, split: str, number: int) -> tuple[Script, list[tuple]]:
    """Draw and encode one video; its script and the places of its cards."""
    video_id = f"{split.upper()}{number:05d}"
    rng = np.random.default_rng([data_seed, split == "test", number])
    script, places = write_script(video_id, split, rng), []

    def frames():
        for index, (frame, visible) in enumerate(draw_video(script, rng)):
            places.extend((video_id, card, index, script.fps, *box) for card, *box in visible)
            yield frame

    write_video(root / f"{video_id}.mp4", frames(), script.fps)
    return script, places
