"""T6, T7, T8: flipped bits, lost and cut and swapped files, changed settings: found, named, and never read as data."""

import random
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import cache
from cache.errors import CacheError, StaleCacheError
from cache.plan_files import read_plan
from cache.stores.product_folder import ProductDir
from cache.upkeep.repair import repair
from cache.upkeep.verify import strays, verify
from models.backbones import build
from models.checkpoint import WeightsError, read_state
from pipeline.run.folder import open_folder
from pipeline.run.networks import load_base, load_trained, read_trained
from pipeline.stages import crops, evaluate, prepare, saliency
from pipeline.training.checkpoints import newest_checkpoint
from tests.helpers.tiny_data import CLASSES, caches, change, run_all, tree
from tests.reliability.victims import PRODUCTS

KINDS = {
    "HDF5 volume": "c*/*/volumes/*.h5",
    "Zarr shard or chunk": "*/*/arrays.zarr/*/c.*",
    "zarr.json": "*/*/arrays.zarr/**/zarr.json",
    "record": "*/*/done/*.json",
    "run.json": "*/*/run.json",
    "record of a network": "models/*/[bm]*.json",
    "record of a result": "results/*.json",
    "result": "results/*.[tc]*",
    "weights": "models/*/weights.pt",
    "record of a table": "[rst]*.json",
    "table": "*.csv",
    "list of classes": "*.txt",
    "table of a training": "models/*/metrics.csv",
    "record of such a table": "models/*/training.json",
    "plan json": "plan/*.json",
    "plan parquet": "plan/*.parquet",
}


def read_everything(run_dir: Path) -> tuple[dict, int]:
    """Every row of every array and volume, or the error's name in place of what cannot be read; number of errors."""
    found, errors = {}, 0
    try:
        run = cache.open(run_dir)
    except CacheError as error:
        return {"run": type(error).__name__}, 1
    for row in range(run.num_rows):
        for name in ("saliency", "logits", "focus", "context"):
            try:
                found[row, name] = getattr(run, name)(row)
            except CacheError:
                found[row, name] = None
                errors += 1
        for name in ("box_input", "box_source", "saliency_share"):
            try:
                found[row, name] = run.read("boxes", name, [row])
            except CacheError:
                found[row, name] = None
                errors += 1
    return found, errors


def all_right(found: dict, truth: dict) -> bool:
    """Whether nothing was read that differs from the truth: errors are fine, wrong data is not."""
    return "run" in found or all(
        value is None or np.array_equal(value, truth[key], equal_nan=True) for key, value in found.items()
    )


def findings(run_dir: Path) -> list[str]:
    """Places that verify calls damaged; the plan's where it stops there."""
    try:
        return [str(finding.path) for finding in verify(run_dir) if finding.kind == "damaged"]
    except CacheError as error:
        return [str(error)]


def flip(path: Path, chance: random.Random) -> bytes:
    """Flip one bit; the old content."""
    old = path.read_bytes()
    data, bit = bytearray(old), chance.randrange(8 * len(old))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return old


@pytest.fixture(scope="session")
def plain_flips(tmp_path_factory):
    """The baseline: the same volumes, uncompressed in one HDF5 file."""
    path, chance = tmp_path_factory.mktemp("flips") / "plain.h5", random.Random(1)
    frames = np.random.default_rng(0).integers(0, 255, (64, 28, 28, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file["crops"] = frames
    wrong, number = 0, 200
    for _ in range(number):
        old = flip(path, chance)
        try:
            with h5py.File(path) as file:
                wrong += not np.array_equal(file["crops"][:], frames)
        except (OSError, KeyError, RuntimeError, ValueError):
            pass
        path.write_bytes(old)
    return f"plain HDF5: {wrong} of {number} read as data"


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit(kind, tiny_copy, trials, count, plain_flips):
    """Found by verify under the file's name; readers give an error or the right data."""
    chance, number = random.Random(kind), trials(200, 8)
    truth, _ = read_everything(tiny_copy.path)
    files = sorted(path for path in tiny_copy.path.glob(KINDS[kind]) if path.is_file())
    named = right = 0
    for _ in range(number):
        path = chance.choice(files)
        old = flip(path, chance)
        # another path names it where the directory or the record does
        named += any(str(path.with_suffix("")) in place for place in findings(tiny_copy.path))
        right += all_right(read_everything(tiny_copy.path)[0], truth)
        path.write_bytes(old)
    assert findings(tiny_copy.path) == []
    count("T6", f"{kind}: a flipped bit is found and named by verify", named, number, plain_flips)
    count("T6", f"{kind}: no reader returns wrong data", right, number)


def test_one_flipped_bit_in_a_checkpoint(tiny_run, tmp_path, trials, count):
    """The one before is taken."""
    (folder,) = tiny_run.path.glob("models/late-*")
    shutil.copytree(folder, tmp_path / "late")
    checkpoints = sorted((tmp_path / "late").glob("checkpoint-*.pt"))
    chance, number, older = random.Random(2), trials(200, 8), 0
    want = newest_checkpoint(tmp_path / "late")["epoch"]
    for _ in range(number):
        old = flip(checkpoints[-1], chance)
        older += newest_checkpoint(tmp_path / "late")["epoch"] < want
        checkpoints[-1].write_bytes(old)
    assert len(checkpoints) == 2 and newest_checkpoint(tmp_path / "late")["epoch"] == want
    count("T6", "checkpoint: a flipped bit, and the one before is taken", older, number)


def test_one_flipped_bit_in_weights(tiny_copy, trials, count, plain_weights):
    """Base's weights and a fusion model's: refused under the file's name, or the flip is in what nobody reads."""
    chance, number, refused = random.Random(3), trials(200, 8), 0
    for folder in (
        load_base(open_folder(tiny_copy.path, tiny_copy.config), tiny_copy.config).folder,
        *tiny_copy.path.glob("models/late-*"),
    ):
        (record,) = folder.glob("[bm]*.json")
        weights, truth = read_trained(record)["weights"], read_state(folder / "weights.pt")
        network = build("small_i3d", truth["fc.weight"].shape[0])
        for _ in range(number // 2):
            old = flip(folder / "weights.pt", chance)
            try:
                load_trained(network, folder, weights)
                refused += all(torch.equal(value, truth[name]) for name, value in network.state_dict().items())
            except (CacheError, WeightsError) as error:
                refused += str(folder / "weights.pt") in str(error)
            (folder / "weights.pt").write_bytes(old)
        load_trained(network, folder, weights)
    count("T6", "weights: no network is built from others than were trained", refused, number, plain_weights)


@pytest.fixture(scope="session")
def plain_weights(tmp_path_factory):
    """The baseline: torch.load alone."""
    path, chance, wrong, number = tmp_path_factory.mktemp("weights") / "w.pt", random.Random(4), 0, 200
    torch.save({"w": torch.arange(4096.0)}, path)
    for _ in range(number):
        old = flip(path, chance)
        with suppress(Exception):
            wrong += not torch.equal(torch.load(path, weights_only=True)["w"], torch.arange(4096.0))
        path.write_bytes(old)
    return f"torch.load alone: {wrong} of {number} read as weights"


def test_networks_and_results_harmed(tiny_run, tmp_path, trials, count):
    """Named by verify; after --repair the same commands train, from the last checkpoint, and evaluate to the same."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run)
    kinds = ("record of a network", "record of a result", "result", "weights")
    whole = {path: path.read_bytes() for kind in kinds for path in sorted(run.glob(KINDS[kind]))}
    files = list(whole)[:: trials(1, 5)]
    named = same = 0
    for path in files:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        named += any(str(path.with_suffix("")) in place for place in findings(run))
        repair(run, list(verify(run)))
        run_all(tiny_run.config, run)
        same += all(one.read_bytes() == content for one, content in whole.items()) and findings(run) == []
    count("T7", "networks and results harmed: named", named, len(files))
    count("T7", "networks and results harmed: repaired and run again, equal to the byte", same, len(files))


HARMS = {
    "deleted": lambda path, neighbour: path.unlink(),
    "emptied": lambda path, neighbour: path.write_bytes(b""),
    "halved": lambda path, neighbour: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path, neighbour: path.write_bytes(path.read_bytes()[:-1]),
    "swapped": lambda path, neighbour: _swap(path, neighbour),
}


def _swap(path: Path, neighbour: Path) -> None:
    mine, other = path.read_bytes(), neighbour.read_bytes()
    path.write_bytes(other), neighbour.write_bytes(mine)


@pytest.mark.parametrize("harm", HARMS)
def test_every_committed_file_harmed(harm, tiny_run, tmp_path, trials, count):
    """Named by verify; after --repair the stages make just those units, and all is as it was."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run)
    whole = caches(run)
    files = [path for pattern in list(KINDS.values())[:5] for path in sorted(run.glob(pattern)) if path.is_file()]
    step = trials(1, 17)
    named = safe = same = tried = 0
    missed = []
    truth, _ = read_everything(run)
    for number, path in list(enumerate(files))[::step]:
        neighbour = next((one for one in sorted(path.parent.iterdir()) if one != path and one.is_file()), None)
        if harm == "swapped":
            alike = [one for one in files if one.suffix == path.suffix and one.read_bytes() != path.read_bytes()]
            neighbour = neighbour if neighbour in alike else alike[number % len(alike)]
        tried += 1
        HARMS[harm](path, neighbour)
        found = findings(run)
        lost_record = harm == "deleted" and path.parent.name == "done"  # then the unit is simply not done
        harmed = [path, neighbour] if harm == "swapped" else [path]  # without run.json nothing else can be judged
        is_named = any(str(one.with_suffix("")) in place for one in harmed for place in found)
        is_named = is_named or (lost_record and bool(list(strays(run))))
        missed += [] if is_named else [str(path.relative_to(run))]
        named += is_named
        safe += all_right(read_everything(run)[0], truth)
        repair(run, list(verify(run)))
        saliency.run(tiny_run.config, run)
        crops.run(tiny_run.config, run, ("entropy",))
        same += caches(run) == whole and findings(run) == []
    assert not missed
    count("T7", f"every committed file {harm}: named", named, tried)
    count("T7", f"every committed file {harm}: no reader returns wrong data", safe, tried)
    count("T7", f"every committed file {harm}: repaired and run again, equal to the byte", same, tried)


STALE = {
    "clips.num_frames": {"clips": {"num_frames": 5}},
    "clips.fps": {"clips": {"fps": 12.0}},
    "clips.resize": {"clips": {"resize": "square"}},
    "clips.longer_side": {"clips": {"longer_side": "rounded"}},
    "clips.resized_side": {"clips": {"resized_side": 36}},
    "clips.input_side": {"clips": {"input_side": 24}},
    "clips.plan_seed": {"clips": {"plan_seed": 1}},
    "clips.decoding": {"clips": {"decoding": "plain"}},
    "data.source_fps": {"data": {"source_fps": 24.0}},
}
OTHER = {
    "saliency.box_side": ({"saliency": {"box_side": 12}}, saliency.run, "boxes"),
    "saliency.objectives": ({"saliency": {"objectives": ("max_logit",)}}, saliency.run, "maps"),
    "crops.codec": ({"crops": {"codec": "jpeg"}}, lambda *one: crops.run(*one, ("entropy",)), "crops"),
    "crops.quality": (
        {"crops": {"codec": "jpeg", "quality": 80}},
        lambda *one: crops.run(*one, ("entropy",)),
        "crops",
    ),
}


def test_every_setting_changed_alone(tiny_copy, count):
    """Settings of clips are refused by name; others make a directory of their own. No old byte is touched."""
    before, right = caches(tiny_copy.path), 0
    for name, sections in STALE.items():
        with pytest.raises(StaleCacheError, match=rf"{name.split('.')[1]}: .* != "):
            saliency.run(change(tiny_copy.config, **sections), tiny_copy.path)
        right += caches(tiny_copy.path) == before
    for sections, stage, product in OTHER.values():
        places = set((tiny_copy.path / product).iterdir())
        stage(change(tiny_copy.config, **sections), tiny_copy.path)
        now = caches(tiny_copy.path)
        right += {name: now[name] for name in before} == before and set((tiny_copy.path / product).iterdir()) > places
    count(
        "T8", "a setting changed alone: refused by name or kept apart, no old byte touched", right, len(STALE | OTHER)
    )


@pytest.mark.parametrize("kind", ["order", "name", "one more", "one fewer"])
def test_another_class_list(tiny_copy, tmp_path, count, kind):
    """An output of a trained network means the class of its place: refused by name, no byte touched."""
    lines = (tiny_copy.data / "table.csv").read_text().splitlines()
    classes = {"order": (*CLASSES[1:], CLASSES[0]), "one more": (*CLASSES, "more"), "one fewer": CLASSES[:2]}
    classes = classes.get(kind, ("other", *CLASSES[1:]))
    lines = [line.replace(CLASSES[0], "other") if kind == "name" else line for line in lines]
    lines = [line for line in lines if kind != "one fewer" or CLASSES[2] not in line]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.txt").write_text("\n".join(classes) + "\n")
    data = {"annotations": (str(tmp_path / "table.csv"),), "classes": str(tmp_path / "classes.txt")}
    before = tree(tiny_copy.path)
    with pytest.raises(StaleCacheError, match=r"has networks for 3 classes, number [0-3] is"):
        prepare.run(change(tiny_copy.config, data=data), tiny_copy.path)
    evaluate.run(tiny_copy.config, tiny_copy.path)  # the run is as good as it was
    count("T23", "another class list on a run with networks", tree(tiny_copy.path) == before, 1)


def test_the_checks_can_fail(tiny_copy):
    """all_right and the kinds are no formality."""
    truth, errors = read_everything(tiny_copy.path)
    assert errors == 0 and all_right(truth, truth) and set(PRODUCTS) and tree(tiny_copy.path)
    assert not all_right(truth | {(0, "logits"): truth[0, "logits"] + 1}, truth)
    assert all(list(tiny_copy.path.glob(pattern)) for pattern in KINDS.values())
    assert isinstance(read_plan(tiny_copy.path), list) and ProductDir
