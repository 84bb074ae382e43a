"""The miniature: a small data set whose truth is known, in the Charades format, as real H.264 files.

A figure carries one to three cards over clutter, or exactly one where each video has a single label. A card's colour
tells its pair of classes and survives the resize to 64 x 64; its print, a fine grating along rows or columns, tells the
class and is gone after it; `worlds` has other kinds of cards. Lengths in this package are pixels of the resized frame,
times seconds, colours RGB in [0, 1].
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from cache.commit import write_file
from cache.sealed import write_record
from pipeline.config import Data
from pipeline.data.charades_csv import charades_row, write_charades_csv
from pipeline.data.miniature.draw import draw_video
from pipeline.data.miniature.photos import Gallery, read_gallery
from pipeline.data.miniature.script import CLASSES, Script, write_script
from pipeline.data.miniature.truth import CARD_COLUMNS
from pipeline.data.miniature.worlds import WORLDS, World
from pipeline.data.video.write import write_video
from pipeline.errors import StageError
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import in_directory

VERSION = 1  # raised when the same settings would give other videos
BEGUN = ".miniature"  # in a folder that this program fills with videos
_VIDEO = re.compile(r"(TRAIN|TEST)[0-9]{5}\.mp4.*")


def generate(data: Data, workers: int = 1) -> bool:
    """Write the data set into `data.videos`: train.csv, test.csv, classes.txt, cards.csv and one MP4 a video.

    Returns:
        whether it was made now; a complete one with the same settings is left alone.
    Raises:
        StageError: the folder holds a data set made with other settings, or files of somebody else; or there are no
            photographs, see `read_gallery`.
    """
    root, sizes = Path(data.videos), {"train": data.train_videos, "test": data.eval_videos}
    settings = {"train_videos": data.train_videos, "eval_videos": data.eval_videos, "data_seed": data.data_seed}
    settings |= {} if data.task == "multi_label" else {"task": data.task}
    settings |= {} if data.world == "cards" else {"world": data.world}
    world, gallery, classes = WORLDS[data.world], None, CLASSES
    if world.photos:
        gallery = read_gallery(Path(data.photos), tuple(map(Path, data.clutter)))
        settings |= {"gallery": gallery.sha256}
        world, classes = replace(world, num_classes=len(gallery.classes)), gallery.classes
    if data.task == "single_label":
        world = replace(world, most_cards=1)
    about = (json.dumps(settings | {"version": VERSION}, indent=2) + "\n").encode()
    if (root / "miniature.json").exists():
        if (root / "miniature.json").read_bytes() != about:
            raise StageError(f"{root} holds a miniature made with other settings; delete it or change data.videos")
        return False
    root.mkdir(parents=True, exist_ok=True)
    foreign = [path.name for path in sorted(root.iterdir()) if not _VIDEO.fullmatch(path.name)]
    if foreign and not (root / BEGUN).exists():
        hint = "another data.videos; or is --config missing?"
        raise StageError(f"{root} holds {foreign[0]}; the miniature is generated into an empty folder: {hint}")
    (root / BEGUN).touch()
    make, jobs = delayed(in_directory(_make_video)), [(split, n) for split in sizes for n in range(sizes[split])]
    calls = (make(root, data.data_seed, *job, world, gallery) for job in jobs)
    made = Parallel(n_jobs=workers, return_as="generator")(calls)
    made = list(progress(made, len(jobs), "miniature", "videos"))
    rows = {split: [] for split in sizes}
    for script, _ in made:
        cards = [(card.class_index, card.start, card.end) for card in script.cards]
        rows[script.split].append(charades_row(script.video_id, cards, script.num_frames / script.fps))
    for split in sizes:
        write_charades_csv(root / f"{split}.csv", rows[split])
    write_file(root / "classes.txt", "".join(f"c{i:03d} {name}\n" for i, name in enumerate(classes)).encode())
    cards = pd.DataFrame([row for _, rows in made for row in rows], columns=CARD_COLUMNS)
    write_record(root / "cards.json", {}, {"cards.csv": cards.to_csv(index=False).encode()})
    write_file(root / "miniature.json", about)
    return True


def _make_video(
    root: Path, data_seed: int, split: str, number: int, world: World, gallery: Gallery | None
) -> tuple[Script, list[tuple]]:
    """Draw and encode one video; return its script and a row of cards.csv for each card and frame."""
    video_id = f"{split.upper()}{number:05d}"
    rng = np.random.default_rng([data_seed, split == "test", number])
    script, places = write_script(video_id, split, rng, world), []

    def frames():
        for index, (frame, visible) in enumerate(draw_video(script, rng, gallery)):
            places.extend((video_id, card, index, script.fps, *box) for card, *box in visible)
            yield frame

    write_video(root / f"{video_id}.mp4", frames(), script.fps)
    return script, places
