"""Stage 1 on a tiny run: what is stored, that it does not depend on how it was computed, and what a kill leaves."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

import cache
from cache.errors import NotDoneError
from cache.stores.zarr_store import ZarrStore
from models import objectives
from models.box_search import quantise
from models.i3d import as_input
from models.losses import charades_loss
from pipeline.data.clips import input_clips, video_rows
from pipeline.data.video.frames import read_frames
from pipeline.errors import StageError, VideoTruncated
from pipeline.run.networks import build_base
from pipeline.run.stores import open_run
from pipeline.stages import crops, evaluate, prepare, saliency, train_fusion
from pipeline.stages.boxes import run_policy
from tests.helpers.killed import killed_at
from tests.helpers.make_video import write_video
from tests.helpers.tiny_data import CLASSES, VIDEOS, caches, change, picture, tree

STAGE_1 = ("base", "maps", "boxes")


def all_clips(stores):
    """(part, row, V_in, crc) of every row of the plan."""
    for part in stores.run.parts:
        for unit in range(part.num_units):
            for _, rows in video_rows(part, unit):
                for row, volume, crc in input_clips(part, rows, Path(stores.config.data.videos)):
                    yield part, row, volume, crc


def base_and_maps(stores, objective="entropy"):
    """Both stores of every part, by its name."""
    return {part.name: (stores.base(part), stores.maps(part, objective)) for part in stores.run.parts}


def gradient_length(network, volume, objective):
    """Eq. 5 for one clip, written anew: logits (T_out, C), map (H, W)."""
    video = (torch.from_numpy(volume)[None].float() / 255).requires_grad_()
    logits = network(video)
    objective(logits).backward()
    return logits[0].detach().numpy(), video.grad[0].norm(dim=-1).amax(0).numpy()


def test_every_row_is_what_the_network_says_of_that_clip(tiny_run):
    """One clip at a time, batch-norm not folded: logits within 1e-5, maps within a step of the code and 1e-3."""
    stores = open_run(tiny_run.path, tiny_run.config)
    network = build_base(stores.base_weights).eval()
    stored, rows = base_and_maps(stores), 0
    for part, row, volume, crc in all_clips(stores):
        base, maps = stored[part.name]
        logits, saliency_map = gradient_length(
            network, volume, lambda z: (z.sigmoid() * torch.nn.functional.logsigmoid(z)).sum()
        )
        assert logits.shape == (2, 3)
        np.testing.assert_allclose(base.read("logits", row), logits, rtol=1e-4, atol=1e-5)
        score = 1 / (1 + np.exp(-logits.astype(float)))
        assert base.read("entropy", row) == pytest.approx((score * np.log(score)).sum(), rel=1e-5)
        assert np.array_equal(base.read("frame_crc", row), crc)
        values = maps.read("codes", row) * float(maps.read("scale", row))
        np.testing.assert_allclose(values, saliency_map, rtol=1e-3, atol=saliency_map.max() / 65535 + 1e-9)
        assert values.max() > 0
        rows += 1
    assert rows == 4 * 2 + 3 * 2


def test_frame_checksums_are_those_of_the_decoded_source(tiny_run):
    import zlib

    stores = open_run(tiny_run.path, tiny_run.config)
    part = stores.run.parts[1]
    base, row = stores.base(part), 1
    frames = dict(read_frames(tiny_run.data / "83654.mp4", range(11), 8.0))
    wanted = [zlib.crc32(frames[index].tobytes()) for index in part.clip(row).frame_indices]
    assert base.read("frame_crc", row).tolist() == wanted and len(set(wanted)) == 4


def test_a_batch_gives_what_one_clip_at_a_time_gives(trained, tiny_run):
    """In other batches sums are taken in another order: equal to 1e-5 of the largest, and boxes equal."""
    config = change(trained.config, saliency={"batch_size": 1})
    saliency.run(config, trained.path)
    one, three = (base_and_maps(open_run(run.path, of)) for run, of in ((trained, config), (tiny_run, tiny_run.config)))
    for name in one:
        (base, maps), (other_base, other_maps) = one[name], three[name]
        assert base.product.key != other_base.product.key
        np.testing.assert_allclose(base.read_all("logits"), other_base.read_all("logits"), atol=1e-5)
        codes, others = (store.read_all("codes").astype(int) for store in (maps, other_maps))
        assert np.abs(codes - others).max() <= 2
        np.testing.assert_allclose(maps.read_all("scale"), other_maps.read_all("scale"), rtol=1e-5)


def test_two_workers_and_a_second_run_give_the_same_bytes(trained, tiny_run):
    saliency.run(change(trained.config, workers=2), trained.path)
    assert caches(trained.path, *STAGE_1) == caches(tiny_run.path, *STAGE_1)
    assert saliency.run(trained.config, trained.path).summary.startswith("0 of 14 rows computed now")
    assert caches(trained.path, *STAGE_1) == caches(tiny_run.path, *STAGE_1)


def test_boxes_are_found_in_the_maps_that_are_in_memory(trained, tiny_run, monkeypatch, caplog):
    """No map is read again, also not to warn, once, of those that are zero everywhere."""
    monkeypatch.setattr(ZarrStore, "read_unit", None)
    monkeypatch.setattr(saliency, "quantise", lambda saliency: quantise(saliency * 0))
    saliency.run(trained.config, trained.path)
    assert caplog.text.count("entropy maps are zero everywhere") == 1
    assert "part-000-train, unit 0: 4 of 4 entropy maps" in caplog.text
    index = cache.open(trained.path).index
    assert (index.box_input_top == 0).all() and (index.box_input_left == 0).all()
    assert not (cache.open(tiny_run.path).index.box_input_top == 0).all()


KILLS = [
    # in the middle of a unit: after 1 and 3 batches
    *(("models.objectives", "input_saliency", count, lambda *_: True) for count in (2, 4)),
    # all data written, no record: of the first unit, of a later one, of the last boxes
    *(("cache.commit", "write_once", count, lambda path, _: path.parent.name == "done") for count in (1, 6, 12)),
    # wherever the disk is asked to keep something
    *(("os", "fsync", count, lambda *_: True) for count in (3, 75, 200)),
]


@pytest.mark.parametrize(("owner", "name", "count", "when"), KILLS, ids=[f"{kill[1]}-{kill[2]}" for kill in KILLS])
def test_killed_and_run_again_gives_the_same_bytes(trained, tiny_run, owner, name, count, when):
    assert killed_at(owner, name, count, lambda: saliency.run(trained.config, trained.path), when)
    saliency.run(trained.config, trained.path)
    assert caches(trained.path, *STAGE_1) == caches(tiny_run.path, *STAGE_1)


def test_what_a_kill_left_without_a_record_is_not_read(trained):
    """All bytes of the first unit are there; readers still refuse it."""
    when = KILLS[2][3]
    assert killed_at("cache.commit", "write_once", 2, lambda: saliency.run(trained.config, trained.path), when)
    assert list(trained.path.glob("maps/*/arrays.zarr/codes/c.0.0.0"))  # data, and no record
    run = cache.open(trained.path)
    assert run.logits(0).shape == (2, 3)
    with pytest.raises(NotDoneError, match="unit 0 of maps/"):
        run.saliency(0)
    with pytest.raises(StageError, match="units have no entropy maps; run saliency first"):
        run_policy(open_run(trained.path, trained.config), "entropy")
    with pytest.raises(StageError, match="run saliency first"):
        evaluate.run(trained.config, trained.path)


def test_a_lost_record_is_made_again(tiny_copy, tiny_run):
    for record in tiny_copy.path.glob("maps/*/done/000001.json"):
        record.unlink()
    assert saliency.run(tiny_copy.config, tiny_copy.path).summary.startswith("6 of 14 rows")
    assert caches(tiny_copy.path) == caches(tiny_run.path)


def test_another_box_size_runs_no_network(tiny_copy, monkeypatch):
    """No network, no decoder: new boxes from the stored maps, and everything else as it was."""

    def never(*_, **__):
        raise AssertionError("nothing may be computed again")

    before = caches(tiny_copy.path)
    monkeypatch.setattr(objectives, "input_saliency", never)
    monkeypatch.setattr(saliency.SaliencyWork, "network", property(never))
    monkeypatch.setattr("pipeline.data.clips.read_frames", never)
    config = change(tiny_copy.config, saliency={"box_side": 11})
    assert saliency.run(config, tiny_copy.path).summary.startswith("0 of 14 rows computed now")
    after = caches(tiny_copy.path)
    assert before.items() < after.items()
    assert all(name.startswith("boxes/") for name in after.keys() - before.keys())
    found = tiny_copy.path.glob("boxes/*/arrays.zarr/box_input")
    assert sorted(int(zarr.open_array(path)[0, 2]) for path in found) == [11, 11, 16, 16]


def relabel(run):
    """Another label for one training and one evaluation video, as a corrected annotation file would have it."""
    lines = (run.data / "table.csv").read_text().replace(f"0,0.9,{CLASSES[0]}", f"0,0.4,{CLASSES[1]}", 1)
    (run.path.parent / "corrected.csv").write_text(lines)
    return change(run.config, data={"annotations": (str(run.path.parent / "corrected.csv"),)})


def test_corrected_labels_leave_entropy_alone_and_give_cross_entropy_a_new_key(tiny_copy, monkeypatch):
    config = change(tiny_copy.config, saliency={"objectives": ("entropy", "cross_entropy")})
    saliency.run(config, tiny_copy.path, use_labels=True)
    before = caches(tiny_copy.path)
    old = {path.name for path in tiny_copy.path.glob("maps/*")}
    assert len(old) == 4  # two parts, two objectives

    corrected = relabel(tiny_copy)
    prepare.run(corrected, tiny_copy.path)
    calls = []
    real = objectives.input_saliency
    monkeypatch.setattr(objectives, "input_saliency", lambda *args: calls.append(args[2].keys()) or real(*args))
    entropy_only = change(corrected, saliency={"objectives": ("entropy",)})
    assert saliency.run(entropy_only, tiny_copy.path).summary.startswith("0 of 14 rows")
    assert crops.run(entropy_only, tiny_copy.path, ("entropy",)).summary.startswith("0 rows cut now")
    assert caches(tiny_copy.path) == before and not calls

    both = change(corrected, saliency={"objectives": ("entropy", "cross_entropy")})
    assert saliency.run(both, tiny_copy.path, use_labels=True).summary.startswith("14 of 14 rows")
    assert calls and all(list(names) == ["cross_entropy"] for names in calls)  # and entropy not again
    new = {path.name for path in tiny_copy.path.glob("maps/*")} - old
    assert len(new) == 2
    after = caches(tiny_copy.path)
    assert before.items() <= after.items()


def test_cross_entropy_looks_at_the_labels_of_the_clip(trained):
    """Maps equal the gradient of the training loss of that one clip, with its own frame labels."""
    config = change(trained.config, saliency={"objectives": ("entropy", "cross_entropy")})
    saliency.run(config, trained.path, use_labels=True)
    stores = open_run(trained.path, config)
    network = build_base(stores.base_weights).eval()
    stored, seen = base_and_maps(stores, "cross_entropy"), set()
    for part, row, volume, _ in all_clips(stores):
        times = np.array(part.clip(row).frame_indices) / 8
        frames = np.zeros((1, 4, 3), np.float32)
        classes = list(VIDEOS[part.video_ids[row]][4])
        frames[0][np.ix_(times <= 0.9, classes)] = 1
        video = np.zeros((1, 3), np.float32)
        video[0, classes] = 1
        targets = (torch.from_numpy(video), torch.from_numpy(frames))
        _, expected = gradient_length(network, volume, lambda z, t=targets: charades_loss(z, *t))
        _, maps = stored[part.name]
        values = maps.read("codes", row) * float(maps.read("scale", row))
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=expected.max() / 65535 + 1e-9)
        seen.add((len(classes), int(frames.any(-1).sum())))
    assert len(seen) > 3  # clips with all, some and none of their frames labelled


def test_cross_entropy_on_evaluation_videos_must_be_asked_for(trained):
    config = change(trained.config, saliency={"objectives": ("cross_entropy",)})
    with pytest.raises(StageError, match="--use-labels"):
        saliency.run(config, trained.path)
    assert not list(trained.path.glob("maps/*"))


def test_base_must_be_trained_first(tiny_run, tmp_path):
    prepare.run(tiny_run.config, tmp_path / "run")
    for stage in (saliency.run, lambda *args: crops.run(*args, ("entropy",)), train_fusion.run, evaluate.run):
        with pytest.raises(StageError, match=r"run train-base first$"):
            stage(tiny_run.config, tmp_path / "run")
    with pytest.raises(StageError, match=r"run train-base first; this run has Base of other .*: small_i3d in base-"):
        saliency.run(change(tiny_run.config, base={"epochs": 1}), tiny_run.path)


def test_a_video_that_breaks_later_is_left_out_and_the_rest_goes_on(own_videos, tiny_run, caplog):
    """150E6 shrinks after prepare, 83654 vanishes: two videos skipped by all stages, others as ever."""
    (own_videos.data / "150E6.mp4").write_bytes((own_videos.data / "150E6.mp4").read_bytes()[:-100])
    (own_videos.data / "83654.mp4").unlink()
    outcome = saliency.run(own_videos.config, own_videos.path)
    assert outcome.num_skipped == 2 and outcome.summary.startswith("10 of 14 rows computed now")  # two rows a video
    assert "150E6 left out: VideoChanged" in caplog.text and "when it was prepared" in caplog.text
    assert "83654 left out" in caplog.text
    assert crops.run(own_videos.config, own_videos.path, ("entropy", "random")).num_skipped == 2
    run, whole = cache.open(own_videos.path, boxes="entropy"), cache.open(tiny_run.path)
    index = run.index
    lost = index.video_id.isin(["150E6", "83654"])
    assert (index.saliency_done == ~lost).all() and (index.crop_done == ~lost).all()
    assert index.box_input_top.isna().equals(lost) and index.entropy.isna().equals(lost)
    for row in index.index[~lost]:
        np.testing.assert_allclose(run.logits(row), whole.logits(row), atol=1e-5)
        assert np.array_equal(run.context(row), whole.context(row))
    for row in index.index[lost]:
        for read in (run.logits, run.saliency, run.focus, run.context):
            with pytest.raises(NotDoneError, match="skipped"):
                read(row)
    for fusion in ("late", "concat"):
        assert "on 3 videos" in train_fusion.run(own_videos.config, own_videos.path, fusion).summary
    found = pd.read_csv(evaluate.run(own_videos.config, own_videos.path).path)
    assert found.num_videos.tolist() == [2, 2, 2] and found.num_missing.tolist() == [1, 1, 1]
    # again: nothing is computed, and it is said again, with the reasons and what tries them again
    again = saliency.run(own_videos.config, own_videos.path)
    assert again.num_skipped == 2 and again.summary.startswith("0 of 14 rows")
    assert {line.split(": ")[1] for line in again.left_out.splitlines()[:2]} == {"150E6", "83654"}
    assert "150E6: VideoChanged: " in again.left_out and "--retry-skipped" in again.left_out.splitlines()[2]


def test_a_video_that_only_new_maps_lack_is_named(own_videos):
    """Base has it from before; the maps of another objective, made after 83654 vanished, do not."""
    assert saliency.run(own_videos.config, own_videos.path).num_skipped == 0
    (own_videos.data / "83654.mp4").unlink()
    assert saliency.run(own_videos.config, own_videos.path).num_skipped == 0  # nothing is missing
    for _ in range(2):
        other = saliency.run(change(own_videos.config, saliency={"objectives": ("max_logit",)}), own_videos.path)
        assert other.num_skipped == 1 and other.left_out.startswith("left out: 83654: VideoMissing: ")


def test_a_video_that_breaks_while_it_is_looked_at(trained, monkeypatch):
    """The last frame of 83654 fails, after its first clip has gone through the network: nothing of it is kept."""
    config, seen = change(trained.config, saliency={"batch_size": 1}), []

    def breaking(path, slots, *rest):
        for slot, frame in read_frames(path, slots, *rest):
            if path.stem == "83654" and slot == slots[-1]:
                raise VideoTruncated(f"{path}: broken")
            yield slot, frame

    monkeypatch.setattr("pipeline.data.clips.read_frames", breaking)
    monkeypatch.setattr(saliency, "as_input", lambda clips, device: seen.append(1) or as_input(clips, device))
    assert saliency.run(config, trained.path).num_skipped == 1
    stores = open_run(trained.path, config)
    assert len(seen) == sum(part.num_rows for part in stores.run.parts) - 1
    for part in stores.run.parts:
        base, maps = base_and_maps(stores)[part.name]
        lost = np.array([video_id == "83654" for video_id in part.video_ids])
        assert np.array_equal(base.product.rows_done(), ~lost) and np.array_equal(maps.product.rows_done(), ~lost)
        logits, codes = base.arrays["logits"][:], maps.arrays["codes"][:]
        assert np.isnan(logits[lost]).all() and np.isfinite(logits[~lost]).all()
        assert not codes[lost].any() and codes[~lost].any(axis=(1, 2)).all()


def test_the_network_sees_rgb(trained, monkeypatch):
    """as_input gets V_in as the decoder gave it: the red patch of 07E49 is red."""
    seen = []
    monkeypatch.setattr(
        saliency, "as_input", lambda video, device: seen.append(video.numpy()) or as_input(video, device)
    )
    saliency.run(trained.config, trained.path)
    pixels = seen[0][:2].reshape(-1, 3)  # both clips of 07E49
    assert ((pixels[:, 0] > 170) & (pixels[:, 2] < 110)).sum() > 50
    assert not ((pixels[:, 2] > 170) & (pixels[:, 0] < 110)).any()


def test_boxes_follow_a_changed_plan_in_the_same_process(own_videos, tmp_path):
    """A worker keeps the plan it has read, but not for longer than the plan stays as it is."""
    saliency.run(own_videos.config, own_videos.path)
    shutil.copy(own_videos.data / "table.csv", tmp_path / "more.csv")
    write_video(own_videos.data / "MORE1.mp4", [picture("07E49", number) for number in range(9)], 8)
    with open(tmp_path / "more.csv", "a") as file:
        file.write(f"MORE1,train,0,0.5,{CLASSES[2]}\n")
    original = (own_videos.data / "table.csv").read_text()
    grown = change(own_videos.config, data={"annotations": (str(tmp_path / "more.csv"),)})
    prepare.run(grown, own_videos.path, extend=True)
    before = tree(own_videos.path / "base")
    # the config of the first run: equal in everything but the path of the annotations
    assert saliency.run(own_videos.config, own_videos.path).summary.startswith("2 of 16 rows")
    assert before.items() <= tree(own_videos.path / "base").items()
    assert (own_videos.data / "table.csv").read_text() == original
