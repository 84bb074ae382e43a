"""A run folder with real-size videos, for the rows about stages: generated H.264, or a file that is there."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from joblib import cpu_count

from models.backbones import build
from models.checkpoint import to_bytes
from pipeline.config import Base, Clips, Config, Crops, Data, FusionTraining, Saliency
from pipeline.data.video.write import write_video
from pipeline.run.stores import Stores, open_run
from pipeline.stages import prepare, train_base

CLASSES = 157
FPS = 30
REAL = Path(__file__).parents[2] / "shared/data/videos/charades_S6MPZ.mp4"  # Charades at 480 x 270, 38.5 s, 30 fps


@dataclass(frozen=True)
class Scene:
    """A prepared run folder with a Base, and the config it was made with."""

    config: Config
    run: Path

    @property
    def stores(self) -> Stores:
        """The stores of the run, opened now."""
        return open_run(self.run, self.config)

    @property
    def videos(self) -> Path:
        """The folder of its videos."""
        return Path(self.config.data.videos)


def write_pictures(path: Path, seconds: float, size: tuple[int, int], seed: int) -> None:
    """Write a video of (height, width): a texture that drifts, two patches that move over it, and a grain."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.rand(1, 3, height // n + 3, width // n + 3, generator=generator) for n in (64, 16, 4)]
    large = (height + 96, width + 96)
    smooth = [F.interpolate(layer, large, mode="bilinear")[0] for layer in layers]
    texture = (255 * (0.5 * smooth[0] + 0.3 * smooth[1] + 0.15 * smooth[2])).permute(1, 2, 0).numpy()
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 2, (4, *size, 1))

    def frames():
        for number in range(round(seconds * FPS)):
            top, left = (round(47 + 47 * np.sin(number / period)) for period in (53, 37))
            frame = texture[top : top + height, left : left + width] + grain[number % 4]
            for place, colour in ((number * 2, (230, 60, 50)), (300 + number * 3, (40, 90, 220))):
                row, column = place % (height - height // 4), place % (width - width // 6)
                frame[row : row + height // 4, column : column + width // 6] = colour
            yield frame.clip(0, 255).astype(np.uint8)

    write_video(path, frames(), FPS, crf=23)


def make(
    folder: Path,
    train: int = 0,
    test: int = 0,
    seconds: float = 30.0,
    size: tuple[int, int] = (270, 480),
    network: str = "resnet50_i3d",
    video: Path | None = None,
    state: dict | None = None,
    **clips: int,
) -> Scene:
    """Make videos, annotations, plan and Base of a run in an empty folder.

    Args:
        train, test: number of videos of each split.
        seconds, size: of generated videos; (height, width).
        video: a file to use for every video instead.
        state: Base's weights; by default as initialised from seed 0.
        clips: settings of `Clips`; T_in is 16 unless they say so.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    lines = ["video_id,split,start,end,label"]
    for number in range(train + test):
        name, split = f"V{number:02d}", "train" if number < train else "test"
        if video:
            shutil.copyfile(video, data / f"{name}.mp4")
        else:
            write_pictures(data / f"{name}.mp4", seconds, size, number)
        first, second = (label % CLASSES for label in (3 * number, 3 * number + 1))
        lines += [f"{name},{split},0,9,c{first}", f"{name},{split},5,20,c{second}"]
    (data / "table.csv").write_text("\n".join(lines) + "\n")
    (data / "classes.txt").write_text("".join(f"c{number}\n" for number in range(CLASSES)))
    if state is None:
        torch.manual_seed(0)
        state = build(network, CLASSES).state_dict()
    (data / "base.pth").write_bytes(to_bytes(state))
    config = Config(
        name="benchmark",
        data=Data(
            format="plain",
            annotations=(str(data / "table.csv"),),
            classes=str(data / "classes.txt"),
            videos=str(data),
            max_past_end=1.0,  # of short videos
        ),
        clips=replace(Clips(num_frames=16, aug_seeds=1, videos_per_unit=1), **clips),
        base=Base(epochs=0, network=network, init=str(data / "base.pth")),
        saliency=Saliency(batch_size=1, threads=torch.get_num_threads()),
        crops=Crops(),
        fusion=FusionTraining(epochs=1, batch_size=1),
        device="cpu",
    )
    prepare.run(replace(config, workers=min(cpu_count(), train + test)), folder / "run")
    train_base.run(config, folder / "run")
    return Scene(config, folder / "run")
