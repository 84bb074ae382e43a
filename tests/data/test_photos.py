"""Photographs on the cards, moving pictures behind them; the pictures are made here."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.config_file import load
from pipeline.data.label_files import read_annotations
from pipeline.data.miniature import generate
from pipeline.data.miniature.photos import moving, put_photo, read_gallery
from pipeline.data.miniature.truth import read_cards
from pipeline.data.video.frames import read_frames
from pipeline.errors import ConfigError, StageError
from tests.helpers.make_video import write_video


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Nine black and nine white pictures, twice as wide as high, with a clear rim; and what is none of them."""
    root = tmp_path_factory.mktemp("pictures")
    for name, value in (("black", 0), ("white", 255)):
        folder = root / name / "deeper"
        folder.mkdir(parents=True)
        for number in range(9):
            pixels = np.zeros((30, 50, 4), np.uint8)
            pixels[5:25, 5:45] = (value, value, value, 255)
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
    (root / "white" / "cartoon").mkdir()
    Image.fromarray(pixels).save(root / "white" / "cartoon" / "drawn.png")
    Image.fromarray(pixels[..., :3]).save(root / "white" / "opaque.png")
    (root / "few").mkdir()
    Image.fromarray(pixels).save(root / "few" / "one.png")
    (root / "white" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ninety frames, the brighter the later."""
    frames = [np.full((48, 64, 3), 2 * number + 30, np.uint8) for number in range(90)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, 10)


def test_photographs_of_evaluation_are_not_those_of_training(pictures):
    gallery = read_gallery(pictures, ())
    assert gallery.classes == ("black", "white")
    for own in range(2):
        train, test = ({path.name for path in gallery.photos[split][own]} for split in ("train", "test"))
        assert (len(train), len(test)) == (6, 3) and not train & test
    with pytest.raises(StageError, match=r"expected at least two sub-folders .* found deeper"):
        read_gallery(pictures / "white", ())
    with pytest.raises(StageError, match=r"data\.clutter: nowhere\.mp4: no such file"):
        read_gallery(pictures, (pictures.__class__("nowhere.mp4"),))


def test_a_photograph_lies_on_its_card(pictures):
    """40 x 20 pixels on a card of 100 x 60: as wide as it goes, half as high as wide in cards' units."""
    patch = np.full((60, 100, 4), 0.5, np.float32)
    put_photo(patch, read_gallery(pictures, ()).photos["train"][1][0])
    rows, columns = np.nonzero(patch[..., 0] > 0.9)
    assert (columns.min(), columns.max()) == (6, 93) and (rows.min(), rows.max()) == (17, 42)


def test_backgrounds_move_and_are_split(pictures, clip):
    gallery = read_gallery(pictures, (clip,))
    for split, low, high in (("train", 30, 30 + 2 * 60), ("test", 30 + 2 * 60, 30 + 2 * 90)):
        for seed in range(4):
            frames = list(moving(gallery, split, 12, (20, 30), np.random.default_rng(seed)))
            values = np.array([255 * frame.mean() for frame in frames])
            assert frames[0].shape == (20, 30, 3) and low - 3 <= values.min() and values.max() <= high + 3
            np.testing.assert_allclose(np.diff(values), 2, atol=1.6)  # one by one, forwards


def test_the_card_of_a_video_shows_its_class(pictures, clip, tmp_path):
    base = load("miniature").data
    files = {"annotations": (f"{tmp_path}/train.csv", f"{tmp_path}/test.csv"), "classes": f"{tmp_path}/classes.txt"}
    data = replace(base, videos=str(tmp_path), train_videos=3, eval_videos=3, world="photos", photos=str(pictures))
    data = replace(data, **files, clutter=(str(clip),), data_seed=1)
    assert generate.generate(data)
    annotations, cards = read_annotations(data), read_cards(tmp_path)
    assert annotations.classes == ["black", "white"] and annotations.actions.class_index.nunique() == 2
    for action in annotations.actions.itertuples():
        number, _, box = cards[action.video_id][0][0]
        ((_, frame),) = read_frames(tmp_path / f"{action.video_id}.mp4", [number], None)
        middle = frame[box.top : box.bottom, box.left : box.right][box.height // 2 - 3 :][:6]
        assert (middle[:, box.width // 4 : -box.width // 4].mean() > 127) == action.class_index, action.video_id
    assert not generate.generate(data)
    with pytest.raises(StageError, match="other settings"):
        generate.generate(replace(data, clutter=()))


def test_photographs_belong_to_their_world():
    for settings in (("data.world=photos",), ("data.photos=here",)):
        with pytest.raises(ConfigError, match=r"data\.photos: expected a folder with data\.world photos"):
            load("miniature", settings)
