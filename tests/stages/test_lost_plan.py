"""A plan of which a part was lost is made anew by `prepare`; gc keeps off a run that is being prepared."""

import random

import pytest

from cache.errors import CacheError, DamagedError, StaleCacheError
from cache.plan_files import read_plan
from cache.upkeep.sweep import sweep
from pipeline.errors import StageError
from pipeline.stages import crops, prepare, saliency, train_base
from tests.helpers.tiny_data import CLASSES, VIDEOS, change, make_video, tree

LOST = {
    "a table of rows": ("part-000-train.parquet",),
    "what describes it": ("part-000-train.json",),
    "the first part": ("part-000-train.json", "part-000-train.parquet"),
    "the last part": ("part-001-test.json", "part-001-test.parquet"),
    "everything": ("part-000-train.json", "part-000-train.parquet", "part-001-test.json", "part-001-test.parquet"),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_is_lost_of_a_plan_is_made_anew(lost, tiny_copy):
    before = tree(tiny_copy.path)
    for name in LOST[lost]:
        (tiny_copy.path / "plan" / name).unlink()
    with pytest.raises(CacheError):  # nobody takes what is left for the plan
        read_plan(tiny_copy.path)
    if lost != "everything":
        with pytest.raises(StageError, match="without --extend first, which makes it anew"):
            prepare.run(tiny_copy.config, tiny_copy.path, extend=True)
    prepare.run(tiny_copy.config, tiny_copy.path)
    assert tree(tiny_copy.path) == before


@pytest.mark.parametrize("name", LOST["everything"])
def test_what_is_damaged_of_a_plan_is_made_anew(name, tiny_copy):
    before, path, chance = tree(tiny_copy.path), tiny_copy.path / "plan" / name, random.Random(name)
    good = path.read_bytes()
    for _ in range(5):
        data, place = bytearray(good), chance.randrange(len(good))
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(DamagedError):
            read_plan(tiny_copy.path)
        prepare.run(tiny_copy.config, tiny_copy.path)
        assert tree(tiny_copy.path) == before


@pytest.mark.parametrize("lost", ["a table of rows", "the first part"])
def test_other_inputs_do_not_make_another_plan_for_stored_rows(lost, tiny_copy, tmp_path):
    """By what describes the part where it is still there, and by what was made from it."""
    for name in LOST[lost]:
        (tiny_copy.path / "plan" / name).unlink()
    for clips in ({"plan_seed": 1}, {"aug_seeds": 3}):
        with pytest.raises(StaleCacheError, match=r"part-000-train.*lost"):
            prepare.run(change(tiny_copy.config, clips=clips), tiny_copy.path)
    prepare.run(tiny_copy.config, tiny_copy.path)
    assert len(read_plan(tiny_copy.path)) == 2


def test_a_lost_part_of_an_extended_plan_is_not_guessed(tiny_copy, tmp_path):
    """Which videos it had cannot be told: the message says so, and that a copy is needed."""
    late = "N0001"
    table = (tiny_copy.data / "table.csv").read_text() + f"{late},train,0,0.9,{CLASSES[1]}\n"
    (tmp_path / "more.csv").write_text(table)
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in tiny_copy.data.glob("*.mp4"):
        (videos / path.name).write_bytes(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VIDEOS, late, ("train", (66, 50), 8, 10, (1,)))
        make_video(videos, late)
    more = change(tiny_copy.config, data={"annotations": (str(tmp_path / "more.csv"),), "videos": str(videos)})
    prepare.run(more, tiny_copy.path, extend=True)
    assert [part.name for part in read_plan(tiny_copy.path)][2:] == ["part-002-train"]
    path = tiny_copy.path / "plan/part-000-train.parquet"
    content = path.read_bytes()
    path.unlink()
    for extend in (False, True):
        with pytest.raises(StageError, match=r"extended \(part-002-train\).*from a copy"):
            prepare.run(more, tiny_copy.path, extend)
    path.write_bytes(content)
    assert len(read_plan(tiny_copy.path)) == 3


def test_gc_keeps_off_a_first_prepare(tiny_run, tmp_path, monkeypatch):
    """Its folder was not there when it began. Rows of a part without its JSON, which comes last, are litter to gc."""
    run, real, tried = tmp_path / "run", prepare.write_part, []

    def write_part(folder, part):
        (folder / "plan").mkdir(exist_ok=True)
        (folder / "plan" / f"{part.name}.parquet").write_bytes(b"rows, and no JSON yet")
        with pytest.raises(CacheError, match="in use by another process"):
            sweep(folder)
        tried.append((folder / "plan" / f"{part.name}.parquet").exists())
        return real(folder, part)

    monkeypatch.setattr(prepare, "write_part", write_part)
    prepare.run(tiny_run.config, run)
    assert tried == [True, True] and sweep(run) == ([], 0)
    assert tree(run / "plan") == tree(tiny_run.path / "plan")


@pytest.mark.parametrize(
    ("stage", "owner", "name"),
    [
        (train_base.run, train_base, "fit"),
        (saliency.run, saliency, "units_to_do"),
        (lambda config, run: crops.run(config, run, ("entropy",)), crops, "units_to_do"),
    ],
)
def test_every_stage_holds_the_run(stage, owner, name, own_videos, monkeypatch):
    """Also one that is called from Python, as the recipes do."""
    real, refused = getattr(owner, name), []

    def watched(*args, **options):
        with pytest.raises(CacheError, match="in use by another process"):
            sweep(own_videos.path)
        refused.append(name)
        return real(*args, **options)

    if owner is crops:
        saliency.run(own_videos.config, own_videos.path)
    monkeypatch.setattr(owner, name, watched)
    config = change(own_videos.config, seed=1) if owner is train_base else own_videos.config
    stage(config, own_videos.path)
    assert refused == [name]


@pytest.mark.parametrize("name", ["labels.csv", "classes.txt", "videos.csv", "config.toml"])
def test_nothing_is_prepared_over_the_files_of_somebody_else(name, tiny_run, tmp_path):
    """A folder with annotations is easily given as the run folder."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(StageError, match=f"no run folder, and its {name} would be overwritten; use another --run"):
        prepare.run(tiny_run.config, tmp_path)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
