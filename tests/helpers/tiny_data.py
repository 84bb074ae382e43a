"""A tiny data set and config for tests of the stages: non-square videos of several sizes, rates and lengths."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache.stores.unit_records import UnitRecords
from cache.upkeep.verify import product_paths
from pipeline.config import Base, Clips, Config, Crops, Data, FusionTraining, Saliency
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from tests.helpers.make_video import write_video

CLASSES = ("red thing", "green thing", "blue thing")
# id -> split, (height, width), fps, source frames, classes; no two alike, "00007" is shorter than a clip at 8 fps
VIDEOS = {
    "07E49": ("train", (48, 80), 8, 9, (0,)),
    "150E6": ("train", (72, 56), 24, 30, (1, 2)),
    "00007": ("train", (64, 100), 12, 4, (2,)),
    "NA": ("train", (56, 64), 10, 14, ()),
    "83654": ("test", (80, 48), 24, 33, (0, 1)),
    "T0002": ("test", (52, 96), 8, 8, (2,)),
    "T0003": ("test", (60, 90), 12, 18, (0,)),
}
COLOURS = ((220, 40, 40), (40, 200, 40), (40, 60, 220))


def picture(video_id: str, number: int) -> np.ndarray:
    """Frame of a video, uint8 (H, W, 3): a slanted gradient, and a bright patch in the colour of each class."""
    _, (height, width), _, _, classes = VIDEOS[video_id]
    rows, columns = np.mgrid[0:height, 0:width]
    frame = np.stack([rows, columns, rows + columns], -1) * (60 / (height + width)) + 30
    for place, index in enumerate(classes):
        top, left = height // 5 + number // 2, width // 4 + place * width // 3
        frame[top : top + height // 4, left : left + width // 5] = COLOURS[index]
    return frame.astype(np.uint8)


def make_video(folder: Path, video_id: str) -> Path:
    """Write one of VIDEOS."""
    _, _, fps, count, _ = VIDEOS[video_id]
    return write_video(folder / f"{video_id}.mp4", [picture(video_id, number) for number in range(count)], fps)


def make_data(folder: Path, video_ids=tuple(VIDEOS)) -> Path:
    """Write videos, table.csv (labels hold for the first 0.9 seconds) and classes.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["video_id,split,start,end,label"]
    for video_id in video_ids:
        split, _, _, _, classes = VIDEOS[video_id]
        make_video(folder, video_id)
        lines += [f"{video_id},{split},0,0.9,{CLASSES[index]}" for index in classes] or [f"{video_id},{split},,,"]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def tiny_config(folder: Path, **sections: dict) -> Config:
    """T_in 4 at 8 fps, resized 32, input 28, box 16; PNG; two epochs. `clips={"fps": 24.0}` changes one setting."""
    config = Config(
        name="tiny",
        data=Data(
            "plain", annotations=(str(folder / "table.csv"),), classes=str(folder / "classes.txt"), videos=str(folder)
        ),
        clips=Clips(
            num_frames=4, resize="shorter_side", resized_side=32, input_side=28, aug_seeds=2, eval_clips=2,
            videos_per_unit=2,
        ),
        base=Base(network="small_i3d", epochs=2, learning_rate=0.05, drop_epochs=(1,), batch_size=2),
        saliency=Saliency(box_side=16, batch_size=3),
        crops=Crops(codec="png"),
        fusion=FusionTraining(epochs=3, learning_rate=0.05, drop_epochs=(2,), batch_size=2),
        device="cpu",
    )  # fmt: skip
    return change(config, **sections)


def change(config: Config, **sections) -> Config:
    """The config with some settings changed: `change(config, seed=1, saliency={"box_side": 12})`."""
    for name, value in sections.items():
        value = replace(getattr(config, name), **value) if isinstance(value, dict) else value
        config = replace(config, **{name: value})
    return config


def run_all(config: Config, run_dir: Path) -> None:
    """Every stage once, both fusions."""
    run_to_crops(config, run_dir)
    train_fusion.run(config, run_dir, "late")
    train_fusion.run(config, run_dir, "concat")
    evaluate.run(config, run_dir)


def run_to_crops(config: Config, run_dir: Path) -> None:
    """prepare, train-base, saliency, crops."""
    prepare.run(config, run_dir)
    train_base.run(config, run_dir)
    saliency.run(config, run_dir)
    crops.run(config, run_dir, ("entropy",))


def fold_all(run_dir: Path) -> int:
    """Gather the commit records of a run in segments, as of a run with many units; return how many."""
    return sum(UnitRecords(path).fold(fewest=1) for path in product_paths(run_dir))


def tree(*folders: Path) -> dict[str, str]:
    """SHA-256 of every file by its path; what a killed writer left under a temporary name does not count."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.endswith((".tmp", ".partial")):
                name = f"{folder.name}/{path.relative_to(folder)}"
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


CACHES = ("plan", "base", "maps", "boxes", "context", "crops")


def caches(run_dir: Path, *products: str) -> dict[str, str]:
    """`tree` of the plan and of every product, or of those named."""
    return tree(*(run_dir / product for product in products or CACHES))
