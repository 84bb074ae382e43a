"""Boxes on a tiny run: the stored map gives the stored box, theta undone pixel by pixel, and the other policies."""

import numpy as np
import pytest
import torch

import cache
from models import objectives
from pipeline.config import Saliency
from pipeline.data import box_policies
from pipeline.errors import StageError
from pipeline.run.folder import open_folder
from pipeline.run.networks import load_base
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import crops, saliency, train_base
from pipeline.stages.boxes import run_policy
from tests.helpers.tiny_data import caches, change

EDGES = ("top", "left", "height", "width")


def stored(run, policy):
    """(part, row, box_input, box_source, share) of every row of the plan."""
    stores = open_run(run.path, run.config)
    for part in stores.run.parts:
        store = stores.boxes(part, policy)
        arrays = [store.read_all(name) for name in ("box_input", "box_source", "saliency_share")]
        for row, values in enumerate(zip(*arrays, strict=True)):
            yield part, row, *values


def source_box(clip, box):
    """Undo theta pixel by pixel: the smallest box of whole source pixels that touches all of box_input."""
    top, left, height, width = map(int, box)
    rows, columns = set(), set()
    (source_h, source_w), (resized_h, resized_w) = clip.theta.source_size, clip.theta.resized_size
    for y in range(top, top + height):
        low, high = clip.theta.crop_top + y, clip.theta.crop_top + y + 1  # edges of the resized pixel
        rows |= {r for r in range(source_h) if r * resized_h < high * source_h and (r + 1) * resized_h > low * source_h}
    for x in range(left, left + width):
        x = clip.theta.input_size[1] - 1 - x if clip.theta.flip else x
        low, high = clip.theta.crop_left + x, clip.theta.crop_left + x + 1
        columns |= {
            c for c in range(source_w) if c * resized_w < high * source_w and (c + 1) * resized_w > low * source_w
        }
    return [min(rows), min(columns), len(rows), len(columns)]


def test_stored_map_gives_stored_box_for_every_row(tiny_run):
    """Brute force over all positions of the stored codes; among equals the first, row by row."""
    stores, rows = open_run(tiny_run.path, tiny_run.config), 0
    for part, row, box_input, box_source, share in stored(tiny_run, "entropy"):
        codes = stores.maps(part, "entropy").read("codes", row).astype(int)
        sums = {(y, x): codes[y : y + 16, x : x + 16].sum() for y in range(13) for x in range(13)}
        best = max(sums, key=lambda place: (sums[place], -place[0], -place[1]))
        assert box_input.tolist() == [*best, 16, 16]
        assert box_source.tolist() == source_box(part.clip(row), box_input)
        assert share == pytest.approx(sums[best] / codes.sum(), rel=1e-6) and 0 < share <= 1
        rows += 1
    assert rows == 14
    found = cache.open(tiny_run.path).index
    assert len({tuple(box) for box in found[[f"box_input_{edge}" for edge in EDGES]].to_numpy()}) > 5
    flips = [part.clip(row).theta.flip for part, row, *_ in stored(tiny_run, "entropy")]
    assert any(flips) and not all(flips)


def test_constant_map_means_the_first_place(trained, monkeypatch):
    """Equal everywhere: (0, 0), and the share is that of the areas. Zero everywhere: (0, 0), no share."""
    for value, share in ((0.25, 16 * 16 / (28 * 28)), (0.0, np.nan)):
        real = objectives.input_saliency

        def constant(*args, value=value, real=real):
            logits, maps = real(*args)
            return logits, {name: torch.full_like(found, value) for name, found in maps.items()}

        run = trained
        config = change(run.config, saliency={"batch_size": 3 if value else 2})  # a key of its own
        with monkeypatch.context() as patch:
            patch.setattr(objectives, "input_saliency", constant)
            saliency.run(config, run.path)
        for *_, box_input, _, found in stored(type(run)(run.data, run.path, config), "entropy"):
            assert box_input.tolist() == [0, 0, 16, 16]
            assert found == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize("side", [15, 28, 1])
def test_centre_boxes(looked, side):
    """In the middle of 28 pixels, rounded to the top and left: 6 for 15, 0 for 28, 13 for 1."""
    run = type(looked)(looked.data, looked.path, change(looked.config, saliency={"box_side": side}))
    run_policy(open_run(run.path, run.config), "center")
    edge = {15: 6, 28: 0, 1: 13}[side]
    for part, row, box_input, box_source, share in stored(run, "center"):
        assert box_input.tolist() == [edge, edge, side, side]
        assert box_source.tolist() == source_box(part.clip(row), box_input)
        assert np.isnan(share)


def random_box(clip, plan_seed=0, seed=0):
    """Of 16 x 16 pixels."""
    return box_policies.find_boxes(clip, "random", Saliency(box_side=16), (plan_seed, seed))[0][0]


def test_random_boxes_cover_all_places_evenly_and_always_come_out_the_same(looked):
    part = open_folder(looked.path, looked.config).parts[0]
    places = [random_box(part.clip(row)) for row in range(part.num_rows)]
    assert places == [random_box(part.clip(row)) for row in range(part.num_rows)]
    assert len(set(places)) > 4  # rows of one video differ, and so do videos
    assert all(box.inside((28, 28)) and (box.height, box.width) == (16, 16) for box in places)
    found = [random_box(part.clip(3), seed) for seed in range(600)]
    tops, lefts = ([getattr(box, edge) for box in found] for edge in ("top", "left"))
    for edges in (tops, lefts):
        assert set(edges) == set(range(13))  # both ends of 28 - 16
        assert max(np.bincount(edges)) < 90  # 46 expected
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.15


def test_every_training_seed_draws_its_own_random_boxes(looked):
    """In stores of their own; seed 0 draws those that all seeds had before."""
    seeds = [open_run(looked.path, looked.config), *(_of_seed(looked, seed) for seed in (1, 2))]
    for stores in seeds:
        run_policy(stores, "random")
    part = seeds[0].run.parts[0]
    found = [boxes_of(stores, part, "random").tolist() for stores in seeds]
    rows = range(part.num_rows)
    for seed, boxes in enumerate(found):
        drawn = [random_box(part.clip(row), 0, seed) for row in rows]
        assert boxes == [[box.top, box.left, box.height, box.width] for box in drawn]
    assert all(found[a][row] != found[b][row] for a, b in ((0, 1), (0, 2), (1, 2)) for row in rows[:2])
    assert seeds[0].boxes_settings(part, "random") == {"policy": "random", "size": [16, 16], "seed": 0}


def _of_seed(run, seed):
    """The stores of another training seed with the same Base."""
    weights = load_base(open_folder(run.path, run.config), run.config).folder / "weights.pt"
    config = change(run.config, seed=seed, base={"init": str(weights), "epochs": 0})
    train_base.run(config, run.path)
    return open_run(run.path, config)


def test_random_boxes_are_stored_with_their_source_boxes(looked):
    run_policy(open_run(looked.path, looked.config), "random")
    for part, row, box_input, box_source, share in stored(looked, "random"):
        assert box_input.tolist()[:2] == [getattr(random_box(part.clip(row)), edge) for edge in ("top", "left")]
        assert box_source.tolist() == source_box(part.clip(row), box_input) and np.isnan(share)


def test_boxes_without_maps_are_refused(trained):
    """Also through crops, which would make them."""
    stores = open_run(trained.path, trained.config)
    with pytest.raises(StageError, match=r"part-000-train: 2 units have no entropy maps; run saliency first"):
        run_policy(stores, "entropy")
    with pytest.raises(StageError, match=r"run saliency first$"):
        crops.run(trained.config, trained.path, ("random", "entropy"))
    with pytest.raises(StageError, match=r"run saliency first, with --set 'saliency.objectives=\[\"entropy\", \"max_"):
        run_policy(stores, "max_logit")
    with pytest.raises(StageError, match=r"'middle' is none of entropy, .*random, center"):
        run_policy(stores, "middle")


def test_again_changes_nothing(tiny_copy):
    before = caches(tiny_copy.path)
    run_policy(open_run(tiny_copy.path, tiny_copy.config), "entropy")
    assert caches(tiny_copy.path) == before
