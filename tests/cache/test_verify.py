"""status, verify, repair, gc: what they count, find and move; and that they say what they did not look at."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cache
from cache.commit import locked
from cache.plan_files import read_plan
from cache.sealed import read_sealed, recorded_files, seal
from cache.upkeep.repair import repair
from cache.upkeep.sweep import sweep
from cache.upkeep.verify import status, verify
from pipeline.cli.main import main
from pipeline.run.units import Share
from pipeline.stages import crops, prepare, saliency
from tests.cli.test_commands import call, config_file
from tests.helpers.tiny_data import caches, fold_all, tree


def test_status_counts_every_row_once(own_videos):
    (own_videos.data / "150E6.mp4").unlink()
    saliency.run(own_videos.config, own_videos.path, splits=("train",))
    code, output = call("status", "--run", own_videos.path, "--json")
    answer = json.loads(output)
    assert code == 0 and answer["contents_read"] is False
    counts = {(one["product"], one["part"]): one for one in answer["products"]}
    base = counts["base", "part-000-train"]
    assert (base["ok"], base["skipped"], base["todo"], base["total"]) == (6, 2, 0, 8)
    assert {one["product"] for one in answer["products"]} == {"base", "maps", "boxes"}
    next(own_videos.path.glob("maps/*/done/000001.json")).unlink()
    maps = next(one for one in status(own_videos.path) if one.product == "maps")
    assert (maps.ok + maps.skipped, maps.todo) == (4, 4) and maps.ok + maps.skipped + maps.todo == maps.total
    assert "contents were not read" in call("status", "--run", own_videos.path)[1]


def test_a_sound_run_has_no_findings(tiny_run):
    assert list(verify(tiny_run.path)) == [] and list(verify(tiny_run.path, fast=True)) == []
    code, output = call("verify", "--run", tiny_run.path)
    assert code == 0 and "0 damaged, 0 orphans, 0 temporary files; all contents read" in output


def test_a_folded_run_is_as_it_was(tiny_copy, tiny_run):
    """Its counts, tables and rows; nothing is computed again; a unit that is damaged is made anew, alone."""
    assert fold_all(tiny_copy.path) == 20 and not list(tiny_copy.path.glob("*/*/done/*.json"))
    assert status(tiny_copy.path) == status(tiny_run.path) and list(verify(tiny_copy.path)) == []
    run, same = cache.open(tiny_copy.path), cache.open(tiny_run.path)
    assert run.stores().equals(same.stores()) and run.index.equals(same.index)
    assert all(np.array_equal(run.focus(row), same.focus(row)) for row in range(run.num_rows))
    before = caches(tiny_copy.path)
    done = (saliency.run(tiny_copy.config, tiny_copy.path), crops.run(tiny_copy.config, tiny_copy.path, ("entropy",)))
    assert [one.summary.split()[0] for one in done] == ["0", "0"] and caches(tiny_copy.path) == before
    assert sweep(tiny_copy.path) == ([], 0)
    volume = sorted(tiny_copy.path.glob("crops/*/volumes/*.h5"))[1]
    good = volume.read_bytes()
    part = json.loads((volume.parents[1] / "run.json").read_text())["part"]
    num_rows = len(next(one for one in read_plan(tiny_copy.path) if one.name == part).unit_rows(int(volume.name[:6])))
    volume.write_bytes(good[:-1])
    code, output = call("verify", "--run", tiny_copy.path, "--repair")
    assert code == 7 and output.count("moved to") == 2 and "1 damaged" in output
    assert crops.run(tiny_copy.config, tiny_copy.path, ("entropy",)).summary.startswith(f"{num_rows} rows")
    assert volume.read_bytes() == good and list(verify(tiny_copy.path)) == []
    assert run.index.equals(cache.open(tiny_copy.path).index)


def test_a_damaged_segment_is_moved_aside_and_what_is_whole_in_it_stays_done(tiny_copy, tiny_run):
    fold_all(tiny_copy.path)
    path = next(tiny_copy.path.glob("crops/*/done/segments/*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"unit", b"unis")]))
    code, output = call("verify", "--run", tiny_copy.path)
    assert code == 7 and f"damaged: {path}" in output and "1 damaged" in output
    code, output = call("gc", "--run", tiny_copy.path)  # what the record names is not known: it stays
    assert code == 5 and "unknown: " in output and "deleted 0 files" in output
    assert call("verify", "--run", tiny_copy.path, "--repair")[1].count("moved to") == 1
    assert crops.run(tiny_copy.config, tiny_copy.path, ("entropy",)).summary.startswith("2 rows")
    assert not path.exists() and list((tiny_copy.path / "quarantine").rglob(path.name))
    assert [finding for finding in verify(tiny_copy.path) if finding.kind == "damaged"] == []
    crops_of = [
        {k: v for k, v in tree(one.path / "crops").items() if "/volumes/" in k} for one in (tiny_copy, tiny_run)
    ]
    assert crops_of[0] == crops_of[1]


def test_gc_gathers_the_records_of_a_product_with_many_units(tiny_copy, monkeypatch):
    """Of an old run, too: a file a unit becomes one of all."""
    number = len(list(tiny_copy.path.glob("*/*/done/*.json")))
    before = status(tiny_copy.path)
    assert call("gc", "--run", tiny_copy.path)[0] == 0 and len(list(tiny_copy.path.glob("*/*/done/*.json"))) == number
    monkeypatch.setattr("cache.upkeep.sweep.FEWEST", 2)
    assert call("gc", "--run", tiny_copy.path, "--dry")[0] == 0
    assert len(list(tiny_copy.path.glob("*/*/done/*.json"))) == number
    code, output = call("gc", "--run", tiny_copy.path)
    assert code == 0 and f"{number} records of units gathered" in output
    assert not list(tiny_copy.path.glob("*/*/done/*.json")) and status(tiny_copy.path) == before
    assert list(verify(tiny_copy.path)) == [] and "gathered" not in call("gc", "--run", tiny_copy.path)[1]


def test_a_product_without_its_run_json_whose_records_are_gathered_is_none_that_was_never_begun(tiny_copy):
    fold_all(tiny_copy.path)
    path = next(tiny_copy.path.glob("crops/*/run.json"))
    path.unlink()
    assert {finding.path for finding in verify(tiny_copy.path)} == {path}
    assert sweep(tiny_copy.path) == ([], 0) and next(path.parent.glob("volumes/*.h5")).exists()


def test_damage_is_7_and_repair_makes_just_that_anew(tiny_copy, tiny_run):
    volume = sorted(tiny_copy.path.glob("crops/*/volumes/*.h5"))[1]
    data = bytearray(volume.read_bytes())
    data[len(data) // 2] ^= 1
    volume.write_bytes(data)
    code, output = call("verify", "--run", tiny_copy.path)
    assert code == 7 and f"damaged: {volume}" in output and "1 damaged" in output
    assert call("verify", "--run", tiny_copy.path, "--fast")[0] == 0  # the size is right, and it says what it did
    code, output = call("verify", "--run", tiny_copy.path, "--repair")
    assert code == 7 and output.count("moved to") == 2
    moved = sorted(str(path.relative_to(tiny_copy.path)) for path in (tiny_copy.path / "quarantine").rglob("*.*"))
    assert len(moved) == 2 and moved[0].endswith(".json") and moved[1].endswith(volume.name)
    assert call("verify", "--run", tiny_copy.path)[0] == 0
    whole = {path: path.stat().st_mtime_ns for path in tiny_copy.path.glob("c*/*/volumes/*.h5")}
    crops.run(tiny_copy.config, tiny_copy.path, ("entropy",))
    made = {path for path in tiny_copy.path.glob("c*/*/volumes/*.h5") if path not in whole}
    assert made == {volume} and all(path.stat().st_mtime_ns == when for path, when in whole.items())
    assert caches(tiny_copy.path) == caches(tiny_run.path)


def test_lost_metadata_costs_no_unit(tiny_copy, tiny_run):
    path = next(tiny_copy.path.glob("maps/*/arrays.zarr/codes/zarr.json"))
    path.write_text(path.read_text().replace('"zstd"', '"gzip"'))
    code, output = call("verify", "--run", tiny_copy.path, "--repair")
    assert code == 7 and "moved to" in output
    assert saliency.run(tiny_copy.config, tiny_copy.path).summary.startswith("0 of ")
    assert caches(tiny_copy.path) == caches(tiny_run.path)


def test_gc_deletes_what_nobody_names_and_nothing_else(tiny_copy):
    before = tree(tiny_copy.path)
    product = next(tiny_copy.path.glob("crops/*"))
    litter = [
        product / "volumes" / "000000-0123456789abcdef.h5",
        product / "done" / ".000009.json.abc.tmp",
        next(tiny_copy.path.glob("maps/*/arrays.zarr/codes")) / "c.7.0.0.partial",
        next(tiny_copy.path.glob("models/late*")) / ".checkpoint.tmp",
        tiny_copy.path / "plan" / "part-009-train.parquet",
        tiny_copy.path / "boxes" / "0123456789abcdef" / "locks" / "arrays",
    ]
    for path in litter:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")
    code, output = call("gc", "--run", tiny_copy.path, "--dry")
    assert code == 0 and "would delete 6 files" in output and all(path.exists() for path in litter)
    assert call("gc", "--run", tiny_copy.path)[0] == 0
    assert not any(path.exists() for path in litter)
    assert tree(tiny_copy.path) == before and sweep(tiny_copy.path) == ([], 0)


def test_gc_keeps_off_a_live_run_and_other_folders(tiny_copy, tmp_path):
    with locked(tiny_copy.path / ".lock", shared=True):
        code, output = call("gc", "--run", tiny_copy.path)
    assert code == 4 and "in use" in output
    code, output = call("gc", "--run", tmp_path)
    assert code == 4 and "holds no plan" in output


def test_parts_of_a_plan_add_up(trained, tiny_run):
    """Three machines, no shared locks; each does its share alone."""
    for number in (1, 2, 3):
        for command in ("saliency", "crops"):
            arguments = (command, "--config", config_file(trained), "--run", trained.path, "--part", f"{number}/3")
            assert call(*arguments)[0] == 0
    assert caches(trained.path, "base", "maps", "boxes", "context", "crops") == caches(
        tiny_run.path, "base", "maps", "boxes", "context", "crops"
    )
    assert [Share(i, 3).units(range(5)) for i in range(3)] == [[0, 3], [1, 4], [2]]
    for text in ("0/3", "4/3", "1", "a/b", "-1/2", "1/0"):
        assert CliRunner().invoke(main, ["saliency", "--part", text]).exit_code == 2


def test_skipped_videos_are_tried_again_when_asked(own_videos, tiny_run):
    lost = own_videos.data / "150E6.mp4"
    lost.rename(own_videos.data / "away")
    common = ("--config", config_file(own_videos), "--run", own_videos.path)
    assert call("saliency", *common)[0] == 3 and call("crops", *common)[0] == 3
    (own_videos.data / "away").rename(lost)
    assert call("saliency", *common)[0] == 3  # not by itself
    assert call("saliency", *common, "--retry-skipped")[0] == 0 and call("crops", *common, "--retry-skipped")[0] == 0
    assert call("gc", "--run", own_videos.path)[0] == 0  # the volumes without the video
    assert caches(own_videos.path) == caches(tiny_run.path)


def test_a_copy_elsewhere_is_as_good(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "moved")
    assert list(verify(tmp_path / "moved")) == []


@pytest.mark.parametrize("option", ["--fast", "--repair"])
def test_verify_needs_a_plan(tmp_path, option):
    code, output = call("verify", "--run", tmp_path, option)
    assert code == 4 and "holds no plan" in output
    (tmp_path / "file").touch()
    code, output = call("verify", "--run", tmp_path / "file", option)
    assert code == 4 and "holds no plan" in output and "there is no such folder" in output


@pytest.mark.parametrize("option", ["--fast", "--repair"])
def test_a_damaged_plan_is_damage(tiny_copy, option):
    """The code is that of any damage, and the sentence says which command helps; nothing is moved."""
    part = tiny_copy.path / "plan" / "part-000-train.json"
    part.write_bytes(part.read_bytes()[:-2])
    code, output = call("verify", "--run", tiny_copy.path, option)
    assert code == 7 and f"damaged: {part}" in output and "`prepare` makes" in output and part.exists()
    prepare.run(tiny_copy.config, tiny_copy.path)
    assert call("verify", "--run", tiny_copy.path, option)[0] == 0


def test_gc_leaves_what_it_does_not_make(tiny_copy):
    """Somebody's files and folders in the run folder, whatever they are called: named by `verify`, and left alone."""
    run, product = tiny_copy.path, next(tiny_copy.path.glob("crops/*"))
    theirs = [
        run / "base" / "photographs" / "beach.jpg",  # no product has such a name
        run / "crops" / "notes.txt",
        run / "maps" / "0123456789abcdef" / "thesis.tex",  # a product without run.json
        run / "maps" / "0123456789abcdef" / "done" / "list.txt",
        product / "notes.txt",
        product / "volumes" / "film.h5",
        product / "volumes" / "draft.tmp",
        product / "arrays.zarr" / "a.npy",
        run / "plan" / "holiday.parquet",
        run / "models" / ".cache.tmp" / "deep" / "weights.pt",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")
    code, output = call("verify", "--run", run)
    assert code == 0 and output.count("foreign: ") == 8 and "0 damaged, 0 orphans, 0 temporary" in output
    code, output = call("gc", "--run", run)
    assert code == 0 and "deleted 0 files" in output and all(path.exists() for path in theirs)


def test_repair_moves_nothing_outside_the_run(tiny_copy, tmp_path):
    """A record whose checksum fits, and that names a file outside: the record is moved, the file is not."""
    (tmp_path / "secret").write_text("mine")
    for record in (next(tiny_copy.path.glob("models/late-*/model.json")), next(tiny_copy.path.glob("results/*.json"))):
        content = read_sealed(record)
        content["files"].append({"name": "../../../secret", "bytes": 5, "sha256": "0" * 64})
        record.write_bytes(seal(content))
        findings = list(verify(tiny_copy.path))
        assert [finding.path for finding in findings] == [record] and "outside its directory" in findings[0].reason
        assert repair(tiny_copy.path, findings) == [tiny_copy.path / "quarantine" / record.relative_to(tiny_copy.path)]
    assert (tmp_path / "secret").read_text() == "mine"


@pytest.mark.parametrize("trouble", ["a record", "a listing", "a volume"])
def test_what_cannot_be_read_now_is_nobodys_proof(tiny_copy, monkeypatch, trouble):
    """Another user's umask, a stale handle, a bad sector: gc and repair leave alone what they cannot judge."""
    record = next(tiny_copy.path.glob("crops/*/done/000000.json"))
    product = record.parents[1]
    volume = product / recorded_files(record)[0]["name"]
    stray = product / "volumes" / "000001-0123456789abcdef.h5"
    elsewhere = next(tiny_copy.path.glob("maps/*")) / "done" / ".000009.json.abc.tmp"
    for path in (stray, elsewhere):
        path.write_bytes(b"1234")
    before = tree(tiny_copy.path)
    refused = {"a record": record, "a listing": product / "done", "a volume": volume}[trouble]
    with monkeypatch.context() as patch:
        _refuse(patch, refused)
        code, output = call("verify", "--run", tiny_copy.path, "--repair")
    assert code == 5 and f"unknown: {refused if trouble == 'a volume' else ''}" in output
    assert str(refused) in output and "Stale file handle" in output and "0 damaged" in output
    assert tree(tiny_copy.path) == before
    with monkeypatch.context() as patch:
        _refuse(patch, refused)
        code, output = call("gc", "--run", tiny_copy.path)
    assert volume.exists() and not elsewhere.exists()  # what it can judge is deleted
    if trouble == "a volume":  # gc reads records alone
        assert code == 0 and not stray.exists()
    else:
        assert code == 5 and stray.exists() and str(refused) in output and "could not be judged" in output
    assert call("gc", "--run", tiny_copy.path)[0] == 0 and not stray.exists() and list(verify(tiny_copy.path)) == []


@pytest.mark.parametrize(
    "what", ["models", "crops", "results", "crops/*", "plan/part-000-train.json", "crops/*/volumes/*"]
)
def test_what_cannot_be_listed_or_looked_at_is_named(what, tiny_copy, monkeypatch):
    """By verify and gc, neither as sound nor as lost: some ways to ask for a file answer no where they cannot tell."""
    refused = sorted(tiny_copy.path.glob(what))[0]
    before = tree(tiny_copy.path)
    with monkeypatch.context() as patch:
        _refuse(patch, refused, "stat", "lstat")
        code, output = call("verify", "--fast", "--repair", "--run", tiny_copy.path)
        swept, swept_output = call("gc", "--run", tiny_copy.path)
    assert tree(tiny_copy.path) == before
    assert code == 5 and str(refused) in output
    if not what.startswith("plan"):  # without which nothing else can be judged
        assert f"unknown: {refused}" in output and "0 damaged" in output
    # what gc need not read is listed, and so nobody's loss
    assert swept == (0 if what.startswith("plan") or what.endswith("volumes/*") else 5)
    assert "deleted 0 files" in swept_output


def _refuse(patch, refused, *asked):
    """Make one file or folder unreadable, as where a server is away; permissions do not bind root."""

    def refusing(function):
        def called(path, *args, **kwargs):
            if str(path) == str(refused):
                raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return function(path, *args, **kwargs)

        return called

    patch.setattr(Path, "read_bytes", refusing(Path.read_bytes))
    patch.setattr("builtins.open", refusing(open))
    for name in ("scandir", *asked):
        patch.setattr(os, name, refusing(getattr(os, name)))
