"""Stage 2, and the geometry of all three: a moving square found, boxed and cut from source pixels, to the pixel."""

import json
import shutil

import numpy as np
import pytest
import torch

import cache
from cache.sealed import write_record
from cache.stores.product_folder import ProductDir
from pipeline.data import clips
from pipeline.data.pixels import resize
from pipeline.data.video.frames import read_frames
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.stores import open_run
from pipeline.stages import crops, prepare, saliency
from tests.helpers.killed import killed_at
from tests.helpers.make_video import replace_video, write_video
from tests.helpers.tiny_data import CLASSES, VIDEOS, caches, change, picture, tiny_config

SQUARE = (10, 8)  # source pixels
SOURCES = {"shorter_side": (80, 120), "square": (80, 160)}  # both become 40 high; 60 and 40 wide


def scene(size, number):
    """A dim gradient, a red square that moves down, and a larger blue one that stands still. uint8 (H, W, 3)."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    frame = np.stack([0.3 * columns, 0.6 * rows, 40 + 0 * rows], -1).astype(np.uint8)
    top, left = square_at(size, number)
    frame[top : top + SQUARE[0], left : left + SQUARE[1]] = (230, 30, 30)
    frame[62:78, width - 18 : width - 4] = (30, 30, 230)
    return frame


def square_at(size, number):
    """Top and left of the square in source pixels. Every 32 x 32 crop of the resized frame shows it."""
    return 16 + 2 * number, 56 if size[1] == 120 else 44


class RedSeeker(torch.nn.Module):
    """Logits (B, T, 3) that grow with every pixel redder than blue by 0.3: each such pixel is equally salient."""

    def forward(self, video):
        return (video[..., 0] - video[..., 2] - 0.3).relu().mean((2, 3))[..., None].expand(-1, -1, 3)


@pytest.fixture(scope="module", params=["shorter_side", "square"])
def moving(request, tmp_path_factory):
    """prepare, saliency and crops on three videos of the scene, with RedSeeker for Base."""
    root, size = tmp_path_factory.mktemp("moving"), SOURCES[request.param]
    lines = ["video_id,split,start,end,label"]
    for video_id, split in (("A", "train"), ("B", "train"), ("C", "test")):
        write_video(root / f"{video_id}.mp4", [scene(size, number) for number in range(8)], 8)
        lines.append(f"{video_id},{split},,,{CLASSES[0]}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    geometry = {"resize": request.param, "resized_side": 40, "input_side": 32, "aug_seeds": 4, "plan_seed": 1}
    config = tiny_config(root, clips=geometry)
    prepare.run(config, root / "run")
    folder = base_folder(open_folder(root / "run", config), config)
    folder.mkdir(parents=True)
    write_record(folder / "base.json", {"weights": "0" * 64, "num_classes": 3, "out_frames": 4}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saliency.SaliencyWork, "network", RedSeeker())
        saliency.run(config, root / "run")
        crops.run(config, root / "run", ("entropy",))
        crops.run(config, root / "run", ("entropy",), "input")
    return root, config, size


def source_part(size, theta, box):
    """Where a box of the input lies in the source, by hand: rows are twice, columns 2 or 4 times the resized ones."""
    scale = size[1] // theta.resized_size[1]
    top, left = theta.crop_top + box[0], theta.crop_left + (32 - 16 - box[1] if theta.flip else box[1])
    return slice(2 * top, 2 * top + 32), slice(scale * left, scale * (left + 16))


def rows_of(moving):
    """(global row, clip, box_input, focused volume) of the run."""
    root, _, _ = moving
    run = cache.open(root / "run", crops="entropy/source")
    for part in run.parts:
        for local in range(part.num_rows):
            row = part.offset + local
            box = run.index.loc[row, [f"box_input_{edge}" for edge in ("top", "left", "height", "width")]]
            yield row, part.clip(local), [int(value) for value in box], run.focus(row)


def test_both_flips_are_there(moving):
    flips = [clip.theta.flip for _, clip, _, _ in rows_of(moving)]
    assert flips.count(True) >= 2 and flips.count(False) >= 4


def test_the_box_is_where_the_square_is(moving):
    """Of all boxes that hold the square's whole path the first one, to a pixel that the codec may blur."""
    _, _, size = moving
    for _, clip, box, _ in rows_of(moving):
        path = [square_at(size, index) for index in clip.frame_indices]
        scale = size[1] // clip.theta.resized_size[1]
        bottom = max(top for top, _ in path) / 2 + SQUARE[0] / 2 - clip.theta.crop_top
        left = path[0][1] / scale - clip.theta.crop_left
        right = left + SQUARE[1] / scale
        if clip.theta.flip:
            right = 32 - left
        assert box[2:] == [16, 16]
        assert abs(box[0] - max(0, bottom - 16)) <= 1
        assert abs(box[1] - max(0, right - 16)) <= 1


def test_the_focused_volume_is_the_source_inside_the_box(moving):
    """Same scale on both axes: the very pixels of the decoder. Otherwise columns shrink by two, rows stay."""
    root, _, size = moving
    for _, clip, box, focus in rows_of(moving):
        decoded = dict(read_frames(root / f"{clip.video_id}.mp4", range(8), 8.0))
        rows, columns = source_part(size, clip.theta, box)
        for place, index in enumerate(clip.frame_indices):
            expected = decoded[index][rows, columns]
            drawn = scene(size, index)[rows, columns]
            if size == SOURCES["square"]:
                expected, drawn = _shrink(expected, 2), _shrink(drawn, 2)
            if clip.theta.flip:
                expected, drawn = expected[:, ::-1], drawn[:, ::-1]
            assert np.abs(focus[place].astype(float) - expected).max() <= (1.001 if size == SOURCES["square"] else 0)
            assert np.abs(focus[place].astype(float) - drawn).mean() < 6  # what was drawn, in its colours
            red = (focus[place][..., 0] > 130) & (focus[place][..., 2] < 100)
            area = SQUARE[0] * SQUARE[1] * 32 // (columns.stop - columns.start)
            assert abs(red.sum() - area) <= 0.35 * area  # the whole square


def _shrink(pixels, factor):
    """Columns by a whole factor: a triangle as wide as two new pixels, cut off at the borders."""
    columns = np.arange(pixels.shape[1])
    centres = (np.arange(pixels.shape[1] // factor)[:, None] + 0.5) * factor - 0.5
    weights = np.maximum(0, 1 - np.abs(columns - centres) / factor)
    return np.einsum("oc,rcx->rox", weights / weights.sum(1, keepdims=True), pixels.astype(float))


def test_enlarged_volumes_are_cut_from_the_input(moving):
    """pixels="input": V_in inside the box, enlarged; no second flip, no source pixel."""
    root, _, _ = moving
    run = cache.open(root / "run", crops="entropy/input")
    for row, _, (top, left, _, _), focus in rows_of(moving):
        context = run.context(row)
        for frame, found in zip(context, run.focus(row), strict=True):
            assert np.array_equal(found, resize(frame[top : top + 16, left : left + 16], (32, 32)))
        assert not np.array_equal(run.focus(row), focus)


def test_context_is_the_input_by_hand(moving):
    """Rows halved, columns halved or quartered with the triangle, then crop, then flip."""
    root, _, size = moving
    run = cache.open(root / "run", crops="entropy/source")
    for row, clip, _, _ in rows_of(moving):
        decoded = dict(read_frames(root / f"{clip.video_id}.mp4", range(8), 8.0))
        for place, index in enumerate(clip.frame_indices):
            narrow = _shrink(decoded[index], size[1] // clip.theta.resized_size[1])
            small = _shrink(narrow.swapaxes(0, 1), 2).swapaxes(0, 1)
            crop = clip.theta.crop_in_resized
            expected = small[crop.top : crop.top + 32, crop.left : crop.left + 32]
            expected = expected[:, ::-1] if clip.theta.flip else expected
            assert np.abs(run.context(row)[place].astype(float) - expected).max() <= 1.6


def test_context_volumes_are_what_stage_1_gave_the_network(trained, monkeypatch):
    seen, real = [], saliency.as_input

    def record(video, device):
        seen.extend(video.numpy())
        return real(video, device)

    monkeypatch.setattr(saliency, "as_input", record)
    saliency.run(trained.config, trained.path)
    crops.run(trained.config, trained.path, ("entropy",))
    run = cache.open(trained.path)
    assert len(seen) == run.num_rows == 14
    for row, volume in enumerate(seen):
        assert np.array_equal(run.context(row), volume)


def test_a_short_clip_repeats_its_last_frame(tiny_run):
    run = cache.open(tiny_run.path)
    row = run.index[run.index.video_id == "00007"].index[0]
    for volume in (run.focus(row), run.context(row)):
        assert np.array_equal(volume[2], volume[3]) and not np.array_equal(volume[1], volume[2])


def count_decoding(monkeypatch):
    """(file, frames converted) of every call of the decoder."""
    calls, real = [], clips.read_frames

    def counted(path, slots, *args):
        calls.append([path.stem, 0])
        for slot, frame in real(path, slots, *args):
            calls[-1][1] += 1
            yield slot, frame

    monkeypatch.setattr(clips, "read_frames", counted)
    return calls


def test_every_stage_decodes_a_video_once(trained, monkeypatch):
    """Two augmentations or clips of a video share one pass, and a frame that both need is converted once."""
    calls = count_decoding(monkeypatch)
    saliency.run(trained.config, trained.path)
    needed = {}
    for part in open_folder(trained.path, trained.config).parts:
        for row in range(part.num_rows):
            needed.setdefault(part.video_ids[row], set()).update(part.clip(row).frame_indices)
    once = sorted([video_id, len(frames)] for video_id, frames in needed.items())
    assert sorted(calls) == once and any(count < 8 for _, count in once)
    calls.clear()
    crops.run(trained.config, trained.path, ("entropy", "random", "center"))
    assert sorted(calls) == once
    calls.clear()
    before = caches(trained.path)
    assert crops.run(trained.config, trained.path, ("entropy", "center")).summary.startswith("0 rows cut now")
    assert not calls and caches(trained.path) == before
    # another kind of pixels: decoded again, context volumes and earlier crops untouched
    crops.run(trained.config, trained.path, ("entropy",), "input")
    after = caches(trained.path)
    assert sorted(calls) == once and before.items() < after.items()
    assert all(name.startswith("crops/") for name in after.keys() - before.keys())


def test_volumes_follow_the_boxes_of_their_policy(looked):
    crops.run(looked.config, looked.path, ("random", "center"))
    for policy in ("random", "center"):
        run = cache.open(looked.path, crops=policy)
        boxes = run.index[["box_source_top", "box_source_left", "box_source_height", "box_source_width"]]
        for row in (0, 5, 9):
            clip = run.parts[row >= 8].clip(row - 8 * (row >= 8))
            top, left, height, width = (int(value) for value in boxes.loc[row])
            frames = dict(read_frames(looked.data / f"{clip.video_id}.mp4", sorted(set(clip.frame_indices)), 8.0))
            expected = resize(frames[clip.frame_indices[1]][top : top + height, left : left + width], (28, 28))
            assert np.array_equal(run.focus(row)[1], expected[:, ::-1] if clip.theta.flip else expected)


def test_two_workers_give_the_same_bytes(looked, tiny_run):
    crops.run(change(looked.config, workers=2), looked.path, ("entropy",))
    assert caches(looked.path) == caches(tiny_run.path)


KILLS = [
    ("pipeline.stages.crops", "encode_volume", 20, lambda *_: True),  # in the middle of a unit
    ("cache.commit", "write_once", 1, lambda path, _: path.parent.name == "done"),  # data, no record
    ("cache.commit", "write_once", 6, lambda path, _: path.parent.name == "done"),
    ("os", "fsync", 40, lambda *_: True),
]


@pytest.mark.parametrize(("owner", "name", "count", "when"), KILLS, ids=[f"{kill[1]}-{kill[2]}" for kill in KILLS])
def test_killed_and_run_again_gives_the_same_bytes(looked, tiny_run, owner, name, count, when):
    assert killed_at(owner, name, count, lambda: crops.run(looked.config, looked.path, ("entropy",)), when)
    crops.run(looked.config, looked.path, ("entropy",))
    assert caches(looked.path) == caches(tiny_run.path)


@pytest.mark.parametrize("decoder", [False, True])
def test_frames_that_are_not_those_of_stage_1_are_refused(own_videos, tiny_run, caplog, monkeypatch, decoder):
    """Other pixels in a file of the same size, and a file that is no video any more; the rest goes on.

    With `decoder` the file's checksum says nothing, as when another FFmpeg gives other pixels.
    """
    if decoder:
        monkeypatch.setattr(clips, "check_unchanged", lambda *_: None)
    saliency.run(own_videos.config, own_videos.path)
    _, _, fps, count, _ = VIDEOS["150E6"]
    replace_video(own_videos.data / "150E6.mp4", [picture("150E6", number) for number in range(count)], fps)
    broken = own_videos.data / "T0002.mp4"
    broken.write_bytes(bytes(broken.stat().st_size))
    outcome = crops.run(own_videos.config, own_videos.path, ("entropy", "random"))
    assert outcome.num_skipped == 2
    reasons = ("FramesDiffer: 150E6, frame", "VideoUnreadable") if decoder else ("VideoChanged: ", "VideoChanged: ")
    assert f"150E6 left out: {reasons[0]}" in caplog.text and f"T0002 left out: {reasons[1]}" in caplog.text
    whole = cache.open(tiny_run.path)
    run = cache.open(own_videos.path, crops="entropy")
    lost = run.index.video_id.isin(["150E6", "T0002"])
    assert (run.index.crop_done == ~lost).all() and run.index.saliency_done.all()
    for row in run.index.index[~lost]:
        assert np.array_equal(run.focus(row), whole.focus(row))
        assert np.array_equal(run.context(row), whole.context(row))
    records = [json.loads(path.read_text()) for path in own_videos.path.glob("crops/*/done/*.json")]
    assert {skip["error"] for record in records for skip in record["skipped"]} == {
        reason.split(":")[0] for reason in reasons
    }


def test_a_shrunken_file_is_refused_before_it_is_decoded(own_videos):
    saliency.run(own_videos.config, own_videos.path)
    shutil.copy(own_videos.data / "T0003.mp4", own_videos.data / "T0002.mp4")
    assert crops.run(own_videos.config, own_videos.path, ("entropy",)).num_skipped == 1
    records = [json.loads(path.read_text()) for path in own_videos.path.glob("context/*/done/*.json")]
    (skip,) = [skip for record in records for skip in record["skipped"]]
    assert (skip["video_id"], skip["error"]) == ("T0002", "VideoChanged") and "prepared" in skip["detail"]


def test_jpeg_is_another_store_with_nearly_the_same_pixels(looked, tiny_run):
    exact = cache.open(tiny_run.path)
    errors = []
    for quality in (95, 40):
        config = change(looked.config, crops={"codec": "jpeg", "quality": quality})
        crops.run(config, looked.path, ("entropy",))
        stores = open_run(looked.path, config)
        store = stores.context(stores.run.parts[0])
        differences = [store.volume(row).astype(int) - exact.context(row) for row in range(8)]
        errors.append(np.abs(differences).mean())
    assert 0 < errors[0] < errors[1] < 12
    assert len(list(looked.path.glob("crops/*"))) == 4  # two qualities, two parts


def test_stages_gather_the_records_of_what_they_filled(trained, monkeypatch):
    """At their end, and only where they have done a unit."""
    gathered = []
    monkeypatch.setattr(ProductDir, "gather", lambda product: gathered.append(product.product))
    saliency.run(trained.config, trained.path)
    assert set(gathered) == {"base", "maps", "boxes"}
    gathered.clear()
    crops.run(trained.config, trained.path, ("entropy",))
    assert set(gathered) == {"context", "crops"}
    gathered.clear()
    saliency.run(trained.config, trained.path)
    crops.run(trained.config, trained.path, ("entropy",))
    assert gathered == []
