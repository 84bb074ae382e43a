"""Fusion from the caches equals fusion with everything run anew; Base is never run and never moves."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cache
from models.fusion import late_fusion
from models.i3d import I3D
from models.losses import charades_loss
from pipeline.data.clips import input_clips, video_rows
from pipeline.errors import StageError
from pipeline.run.folder import open_folder
from pipeline.run.fusion_models import Variant, model_folder
from pipeline.run.networks import base_folder, build_base, load_base
from pipeline.run.stores import open_run
from pipeline.stages import evaluate, train_fusion
from pipeline.training.cached_volumes import CachedVolumes, Place
from pipeline.training.fusion_step import fusion_logits, fusion_loss
from tests.helpers.tiny_data import VIDEOS, change, tree


def volumes_of(run, fusion, focus="entropy", split="train", pixels="source"):
    return CachedVolumes(open_run(run.path, run.config), split, Variant(fusion, focus, pixels))


def input_volumes(run):
    """V_in of every training row, decoded anew: uint8 (rows, T, H, W, 3)."""
    part, found = open_folder(run.path, run.config).parts_of("train")[0], {}
    for unit in range(part.num_units):
        for _, rows in video_rows(part, unit):
            found |= {row: volume for row, volume, _ in input_clips(part, rows, Path(run.config.data.videos))}
    return np.stack([found[row] for row in range(part.num_rows)])


@pytest.mark.parametrize("fuse", ["logits", "scores"])
def test_stored_logits_equal_the_frozen_branch(tiny_run, fuse):
    """Base run on V_in in eval mode: equal logits, loss and gradients (1e-5: there batch-norm is not folded)."""
    config = change(tiny_run.config, fusion={"fuse": fuse})
    base = load_base(open_folder(tiny_run.path, config), config)
    frozen = build_base(base).eval()
    batch = volumes_of(tiny_run, "late").load([Place(0, row) for row in (6, 1, 4, 3)])
    seen = input_volumes(tiny_run)[[6, 1, 4, 3]]
    results = []
    for cached in (True, False):
        torch.manual_seed(0)
        branch = build_base(base).train()
        if cached:
            logits, loss = fusion_logits(branch, batch, "late", fuse), None
            branch.load_state_dict(build_base(base).state_dict())  # batch-norm moved
            loss = fusion_loss(branch, batch, "late", config.fusion)
        else:
            with torch.no_grad():
                base_logits = frozen(torch.from_numpy(seen).float() / 255)
            logits = late_fusion(base_logits, branch(batch[0].float() / 255), fuse)
            loss = charades_loss(logits, batch[2], batch[3])
        loss.backward()
        results.append((logits.detach(), loss.detach(), [value.grad for value in branch.parameters()]))
    (logits, loss, gradients), (logits_2, loss_2, gradients_2) = results
    torch.testing.assert_close(logits, logits_2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, loss_2, rtol=1e-5, atol=1e-6)
    for left, right in zip(gradients, gradients_2, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5 * right.abs().max().item() + 1e-7)
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_training_and_evaluation_run_one_branch_and_leave_base_alone(looked, tiny_run, monkeypatch):
    """Forward passes counted: those of the trainable branch, on focused volumes; no video is opened."""
    from pipeline.stages import crops

    crops.run(looked.config, looked.path, ("entropy",))
    folder = base_folder(open_folder(looked.path, looked.config), looked.config)
    before = tree(folder), tree(looked.path / "base"), tree(looked.path / "crops")
    seen, real = [], I3D.forward
    monkeypatch.setattr(
        I3D, "forward", lambda self, video: seen.append((video.shape, video.clone())) or real(self, video)
    )
    for decoder in (
        "pipeline.data.clips.read_frames",
        "pipeline.training.base_clips.resize_frames",
        "pipeline.data.video.frames.read_frames",
    ):
        monkeypatch.setattr(decoder, lambda *_: pytest.fail("a video was opened"))
    train_fusion.run(looked.config, looked.path, "late")
    assert [shape for shape, _ in seen] == [(2, 4, 28, 28, 3)] * 3 * 2  # epochs x batches
    run = cache.open(looked.path)
    focused = {run.focus(row).tobytes() for row in range(8)}
    for _, video in seen:
        assert {(clip * 255).round().byte().numpy().tobytes() for clip in video} <= focused
    seen.clear()
    evaluate.run(looked.config, looked.path)
    assert [shape for shape, _ in seen] == [(2, 4, 28, 28, 3)] * 3  # six clips of the fusion model, none of Base
    assert before == (tree(folder), tree(looked.path / "base"), tree(looked.path / "crops"))
    # and the trained branch is not Base any more
    (model,) = looked.path.glob("models/late-*/model.json")
    facts = json.loads(model.read_text())
    base = load_base(open_folder(looked.path, looked.config), looked.config)
    assert facts["base"] == base.sha256 != facts["weights"]


def test_concatenation_reads_context_then_focus(tiny_run):
    """Eight frames, V_in first; frame labels repeated for the second half."""
    batch = volumes_of(tiny_run, "concat").load([Place(0, row) for row in (5, 2)])
    run, seen = cache.open(tiny_run.path), []

    def network(video):
        seen.append(video)
        return torch.linspace(-2, 3, 2 * 4 * 3).reshape(2, 4, 3)

    loss = fusion_loss(network, batch, "concat", tiny_run.config.fusion)
    assert seen[0].shape == (2, 8, 28, 28, 3)
    for clip, row in zip(seen[0], (5, 2), strict=True):
        frames = (clip * 255).round().byte().numpy()
        assert np.array_equal(frames[:4], run.context(row)) and np.array_equal(frames[4:], run.focus(row))
    _, frames = open_folder(tiny_run.path, tiny_run.config).annotations.clip_targets(run.parts[0], [5, 2])
    twice = torch.from_numpy(np.concatenate([frames, frames], axis=1))
    assert len({tuple(row) for row in frames[1].tolist()} | {tuple(row) for row in frames[0].tolist()}) > 1
    expected = charades_loss(torch.linspace(-2, 3, 24).reshape(2, 4, 3), batch[2], twice)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_epoch_e_uses_augmentation_e_mod_s(tiny_copy, monkeypatch, fusion):
    caught = {}

    def stop(network, data, training, folder, seed):
        caught.update(load=data.load, num_clips=data.num_clips)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_fusion, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        train_fusion.run(change(tiny_copy.config, fusion={"epochs": 7}), tiny_copy.path, fusion)
    run = cache.open(tiny_copy.path)
    index = run.index[run.index.split == "train"]
    ids = list(dict.fromkeys(index.video_id))
    assert caught["num_clips"] == len(ids) == 4
    for epoch in range(5):
        focus, other, video, frames = caught["load"](epoch, [3, 0])
        for place, number in enumerate((3, 0)):
            chosen = index[(index.video_id == ids[number]) & (index.aug_index == epoch % 2)]
            (row,) = chosen.row
            assert np.array_equal(focus[place], run.focus(row))
            expected = run.logits(row) if fusion == "late" else run.context(row)
            assert np.array_equal(other[place], expected)
            assert np.flatnonzero(video[place]).tolist() == list(VIDEOS[ids[number]][4])
            times = (chosen.frame_start.item() + np.arange(4)).clip(max=chosen.num_frames.item() - 1) / 8
            assert frames[place].any(-1).tolist() == [bool(VIDEOS[ids[number]][4]) and t <= 0.9 for t in times]


def test_repeat_sees_the_input_twice(tiny_run):
    run = cache.open(tiny_run.path)
    focus, context, *_ = volumes_of(tiny_run, "concat", "repeat").load([Place(0, 3)])
    assert np.array_equal(focus[0], run.context(3)) and np.array_equal(context[0], run.context(3))
    focus, logits, *_ = volumes_of(tiny_run, "late", "repeat").load([Place(0, 3)])
    assert np.array_equal(focus[0], run.context(3)) and np.array_equal(logits[0], run.logits(3))


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_crops_must_be_complete(looked, fusion):
    with pytest.raises(StageError, match=r"part-000-train: 2 of 2 units of crops are not done .*; run crops first"):
        train_fusion.run(looked.config, looked.path, fusion)


def test_logits_must_be_complete(tiny_copy):
    for path in (*tiny_copy.path.glob("base/*/done/000001.json"), *tiny_copy.path.glob("models/late-*/model.json")):
        path.unlink()
    with pytest.raises(StageError, match=r"1 of 2 units of base are not done .*; run saliency first"):
        train_fusion.run(tiny_copy.config, tiny_copy.path, "late")


def test_the_key_holds_what_changes_the_model(tiny_run):
    def key(kind="late", focus="entropy", pixels="source", **sections):
        stores = open_run(tiny_run.path, change(tiny_run.config, **sections))
        return model_folder(stores.run, train_fusion.model_facts(stores, Variant(kind, focus, pixels))).name

    keys = [
        *(key(), key("concat"), key(focus="repeat"), key("concat", "repeat"), key(pixels="input"), key(focus="random")),
        *(key(fusion={"fuse": "scores"}), key(fusion={"epochs": 9}), key(crops={"codec": "jpeg"})),
        key(saliency={"box_side": 12}),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(fusion={"checkpoint_minutes": 3.0}) == key(workers=2) == key(focus="entropy")
    assert key(focus="repeat") == key(focus="repeat", saliency={"box_side": 12})
    assert (tiny_run.path / "models" / key() / "model.json").exists()


def test_what_a_model_leaves_behind(tiny_copy):
    for name in ("late", "concat"):
        (folder,) = tiny_copy.path.glob(f"models/{name}-entropy-source-*")
        facts = json.loads((folder / "model.json").read_text())
        assert (facts["fusion"], facts["boxes_train"], facts["pixels"], facts["num_videos"]) == (
            name,
            "entropy",
            "source",
            4,
        )
        metrics = pd.read_csv(folder / "metrics.csv")
        assert metrics.epoch.tolist() == [0, 1, 2] and metrics.learning_rate.tolist() == pytest.approx(
            [0.05, 0.05, 0.005]
        )
        assert train_fusion.run(tiny_copy.config, tiny_copy.path, name).summary == "already trained"
