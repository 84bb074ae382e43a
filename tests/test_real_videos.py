"""Real videos and annotations from ../shared/data, through the stages; skipped where they are not."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cache
from cache.geometry import Box
from models.backbones import build
from pipeline import config_file as configs
from pipeline.data.clips import source_frames
from pipeline.data.pixels import resize
from pipeline.errors import StageError
from pipeline.run.folder import open_folder
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from tests.helpers.tiny_data import change

DATA = Path(__file__).parents[2] / "shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def _small(config):
    """The same clips rule at a size that takes seconds."""
    return change(
        config,
        workers=1,
        device="cpu",
        clips={"num_frames": 16, "resized_side": 64, "input_side": 56, "aug_seeds": 1, "eval_clips": 2},
        base={"network": "small_i3d", "init": "", "epochs": 1, "learning_rate": 0.01, "loader_workers": 0},
        saliency={"box_side": 32},
        crops={"codec": "png"},
    )


def test_every_video_goes_through_or_is_left_out_for_the_right_reason(tmp_path):
    (tmp_path / "videos").mkdir()
    lines = ["video_id,split,start,end,label"]
    for number, path in enumerate(sorted((DATA / "videos").iterdir())):
        if not path.stem.startswith("charades_"):
            # two of them share a stem
            name = path.stem + ("-avi" if path.suffix == ".avi" else "")
            shutil.copy(path, tmp_path / f"videos/{name}{path.suffix}")
            lines.append(f"{name},{'train' if number % 3 else 'test'},0,1.5,{'moving' if number % 2 else 'still'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.txt").write_text("moving\nstill\n")
    config = _small(configs.Config(name="real"))
    config = change(
        config,
        data={
            "annotations": (str(tmp_path / "table.csv"),),
            "classes": str(tmp_path / "classes.txt"),
            "videos": str(tmp_path / "videos"),
        },
    )
    assert prepare.run(config, tmp_path / "run").num_skipped == 2
    reasons = pd.read_csv(tmp_path / "run/skipped.csv").set_index("video_id").reason.to_dict()
    assert reasons == {"decord__corrupted": "VideoTruncated", "io__gs-16b-2c-44100hz": "VideoAudioOnly"}
    train_base.run(config, tmp_path / "run")
    assert saliency.run(config, tmp_path / "run").num_skipped == 0
    run = cache.open(tmp_path / "run")
    assert run.index.saliency_done.all()
    assert (run.index.saliency_share > 0.3).all()  # a box of 32 x 32 holds more than its 32.7 % of the area
    videos = run.videos.set_index("video_id")
    assert (videos.height["decord__video_90"], videos.width["decord__video_90"]) == ("568", "320")  # turned
    assert videos.timing["mmaction2__test-avi"] == "rate"
    assert videos.num_source_frames["sample-videos__eat"] == "47"  # its header says 0


def test_a_network_of_transformers_on_real_videos(tmp_path):
    """A tiny random VideoMAE: five of the videos, as a folder that save_pretrained wrote, at patches."""
    folders = pytest.importorskip("tests.helpers.tiny_folders")
    names = ("decord__video_90", "mmaction2__test", "sample-videos__eat", "charades_S6MPZ", "charades_19UA5")
    files = [path for path in sorted((DATA / "videos").iterdir()) if path.stem in names and path.suffix != ".avi"]
    assert len(files) == len(names)
    lines = [f"{path.stem},{'test' if path.stem[-1] == '5' else 'train'},0,1.5,moving" for path in files]
    (tmp_path / "table.csv").write_text("\n".join(["video_id,split,start,end,label", *lines]) + "\n")
    (tmp_path / "classes.txt").write_text("moving\nstill\n")
    (tmp_path / "videos").mkdir()
    for path in files:
        shutil.copy(path, tmp_path / "videos")
    folder = folders.save_folder(
        tmp_path / "mae", image_size=56, num_frames=16, id2label={0: "moving", 1: "still"}, label2id={}
    )
    config = change(
        _small(configs.Config(name="real")),
        data={name: str(tmp_path / file) for name, file in (("classes", "classes.txt"), ("videos", "videos"))},
        base={"network": f"hf:{folder}"},
        saliency={"gradient_at": "patches"},
    )
    config = change(config, data={"annotations": (str(tmp_path / "table.csv"),)}, fusion={"epochs": 1})
    prepare.run(config, tmp_path / "run")
    train_base.run(config, tmp_path / "run")
    assert saliency.run(config, tmp_path / "run").num_skipped == 0
    crops.run(config, tmp_path / "run", ("entropy",))
    train_fusion.run(config, tmp_path / "run", "late")
    results = pd.read_csv(evaluate.run(config, tmp_path / "run").path)
    assert results.experiment.tolist() == ["base", "late-entropy-source"] and results.num_videos.tolist() == [1, 1]
    run = cache.open(tmp_path / "run")
    assert run.index.saliency_done.all() and run.index.crop_done.all() and (run.index.saliency_share > 0.327).all()


@pytest.fixture(scope="module")
def charades(tmp_path_factory):
    """The official annotation files; S6MPZ trains, 19UA5 is moved to the evaluation split."""
    root = tmp_path_factory.mktemp("charades")
    (root / "videos").mkdir()
    for name in ("S6MPZ", "19UA5"):
        shutil.copy(DATA / f"videos/charades_{name}.mp4", root / f"videos/{name}.mp4")
    config = _small(configs.load("charades"))
    files = [str(DATA / f"charades/Charades_v1_{name}") for name in ("train.csv", "test.csv", "classes.txt")]
    config = change(config, data={"annotations": (*files[:2],), "classes": files[2], "videos": str(root / "videos")})
    return root, config


def test_charades_without_evaluation_video_is_refused(charades, tmp_path):
    _, config = charades
    outcome = prepare.run(config, tmp_path / "run")
    assert outcome.num_skipped == 0
    assert "9846 annotated videos without a file" in outcome.summary
    with pytest.raises(StageError, match="no evaluation video"):
        evaluate.run(config, tmp_path / "run")


def test_charades_from_annotations_to_result(charades, tmp_path):
    _, config = charades
    config = change(config, data={"eval_ids": ("19UA5",)})
    prepare.run(config, tmp_path / "run")
    train_base.run(config, tmp_path / "run")
    saliency.run(config, tmp_path / "run")
    crops.run(config, tmp_path / "run", ("entropy",))
    results = pd.read_csv(evaluate.run(config, tmp_path / "run").path)
    assert results.num_videos.tolist() == [1]
    assert results.num_missing.tolist() == [1863]  # the 1,863 of the test file are not here
    run = cache.open(tmp_path / "run")
    skipped = run.skipped
    assert len(skipped) == 9846
    assert set(skipped.reason) == {"VideoMissing"}
    # the focused volume shows the source pixels of the box
    part = open_folder(tmp_path / "run", config).parts_of("train")[0]
    row = run.index.iloc[0]
    assert (row.source_height, row.source_width) == (270, 480)
    box = Box(*(int(row[f"box_source_{edge}"]) for edge in ("top", "left", "height", "width")))
    index, frame, _ = next(source_frames(part, [0], Path(config.data.videos)))
    assert index == part.clip(0).frame_indices[0]
    expected = resize(frame[box.top : box.bottom, box.left : box.right], (56, 56))
    expected = expected[:, ::-1] if row.theta_flip else expected
    assert np.array_equal(run.focus(0)[0], expected)


def test_the_protocol_of_the_published_weights(charades, tmp_path):
    """charades-released as it is, but for the number of clips and epochs, with weights in the layout of the file."""
    root, _ = charades
    config = configs.load("charades-released")
    assert config.base.video_targets == config.fusion.video_targets == "clip"
    torch.manual_seed(0)
    network = build("resnet50_i3d", 157)
    state = {f"module.basenet.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 50, "arch": "resnet50_3d", "state_dict": state}, tmp_path / "i3d12b2.pth.tar")
    files = [str(DATA / f"charades/Charades_v1_{name}") for name in ("train.csv", "test.csv", "classes.txt")]
    config = change(
        config,
        workers=1,
        device="cpu",
        data={
            "annotations": (*files[:2],),
            "classes": files[2],
            "videos": str(root / "videos"),
            "eval_ids": ("19UA5",),
        },
        clips={"aug_seeds": 1, "eval_clips": 2},
        base={"init": str(tmp_path / "i3d12b2.pth.tar")},
        fusion={"epochs": 1, "batch_size": 1, "loader_workers": 0},
    )
    prepare.run(config, tmp_path / "run")
    part = open_folder(tmp_path / "run", config).parts[0]
    assert part.clip(0).theta.resized_size == (256, 455)  # 480 x 270, cut down from 455.1
    assert part.settings["longer_side"] == "truncated" and part.rows.fps.iat[0] == 24
    base = train_base.run(config, tmp_path / "run").path
    assert torch.equal(torch.load(base / "weights.pt", weights_only=True)["fc.weight"], network.fc.weight)
    assert saliency.run(config, tmp_path / "run").num_skipped == 0
    crops.run(config, tmp_path / "run", ("softmax_entropy",))
    train_fusion.run(config, tmp_path / "run", "late", "softmax_entropy")
    results = pd.read_csv(evaluate.run(config, tmp_path / "run").path)
    assert results.experiment.tolist() == ["base", "late-softmax_entropy-source"]
    assert cache.open(tmp_path / "run").logits(0).shape == (7, 157)
