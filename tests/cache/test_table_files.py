"""Tables of a run: one that is changed or cut is named by `verify` and by whoever reads it, with what to run."""

import math
import random
import shutil

import pandas as pd
import pytest

import cache
from cache import tables
from cache.errors import CacheError, DamagedError
from cache.sealed import read_sealed, write_record
from cache.table_files import read_csv, read_table, unvouched
from cache.upkeep.repair import repair
from cache.upkeep.verify import verify
from pipeline.report import page
from pipeline.run.folder import open_folder
from pipeline.stages import evaluate, prepare, train_base, train_fusion
from tests.cli.test_commands import call, config_file
from tests.helpers.tiny_data import change, make_data, tree

HARMS = {
    "emptied": lambda text: "",
    "without its last line": lambda text: "".join(text.splitlines(True)[:-1]),
    "cut within a line": lambda text: text[: len(text) * 2 // 3],
    "a digit changed": lambda text: text[:-1].translate(str.maketrans("0123456789", "1234567890")) + text[-1],
    "another header": lambda text: text.replace(text.split("\n")[0], "a,b,c", 1),
    "not UTF-8": lambda text: text + "\udcff",
    "deleted": None,
}
TABLES = {  # and what writes it
    **dict.fromkeys(("labels.csv", "videos.csv", "skipped.csv", "classes.txt"), prepare.run),
    "results.csv": evaluate.run,
    "models/base-*/metrics.csv": train_base.run,
    "models/late-*/metrics.csv": train_fusion.run,
}


def harm(path, how):
    if HARMS[how] is None:
        path.unlink()
        return
    text = path.read_text()
    changed = HARMS[how](text)
    path.write_bytes((changed if changed != text else text + "x").encode(errors="surrogateescape"))


def ours(read):
    """The error that is raised on purpose; anything else is a bug."""
    with pytest.raises(CacheError) as error:
        read()
    return str(error.value)


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("table", TABLES)
def test_a_harmed_table_is_named_and_made_anew(table, repaired, tiny_copy):
    """By `verify`; after --repair, and without it, its command writes what was there before."""
    run, before = tiny_copy.path, tree(tiny_copy.path)
    (path,) = run.glob(table)
    for how in HARMS:
        harm(path, how)
        found = list(verify(run))
        assert [str(one.path) for one in found] == [str(path)], how
        if repaired:
            repair(run, found)
            shutil.rmtree(run / "quarantine")
        TABLES[table](tiny_copy.config, run)
        assert tree(run) == before and list(verify(run)) == [], how


@pytest.mark.parametrize("how", HARMS)
def test_readers_refuse_a_harmed_table(how, tiny_copy):
    """In pandas, on the page, in `inspect`, and in the stages: with the file, and what writes it anew."""
    run, config = tiny_copy.path, tiny_copy.config
    for name, read in {
        "labels.csv": lambda: tables.classes(cache.open(run)),
        "classes.txt": lambda: tables.classes(cache.open(run)),
        "videos.csv": lambda: tables.videos(cache.open(run)),
        "skipped.csv": lambda: cache.open(run).skipped,
        "models/*/metrics.csv": lambda: page.run(run),
    }.items():
        path = next(run.glob(name))
        whole = path.read_bytes()
        harm(path, how)
        said = ours(read)
        assert str(path) in said and ("`prepare` writes it anew" in said or "the last checkpoint" in said)
        if name in ("labels.csv", "classes.txt"):
            for stage in (lambda: page.run(run), lambda: evaluate.run(config, run)):
                assert str(path) in ours(stage)
            with pytest.raises(DamagedError, match="edit the annotation files"):
                _ = open_folder(run, config).labels_sha256
        path.write_bytes(whole)


def test_who_edits_labels_on_purpose_is_told_what_to_run(tiny_copy, tmp_path):
    """In the run folder they are a copy; in the annotation files, `prepare` takes them over."""
    data = make_data(tmp_path / "own")
    config = change(tiny_copy.config, data={"annotations": (str(data / "table.csv"),)})
    common = ("--config", config_file(tiny_copy), "--run", tiny_copy.path)
    labels = tiny_copy.path / "labels.csv"
    labels.write_text(labels.read_text().replace("T0002,test,0,0.9,blue thing", "T0002,test,0,0.9,red thing"))
    code, output = call("evaluate", *common)
    assert code == 4 and f"{labels} does not have the SHA-256 that tables.json says" in output
    assert "`prepare` writes it anew; to correct labels, edit the annotation files" in output
    table = data / "table.csv"
    table.write_text(table.read_text().replace("T0002,test,0,0.9,blue thing", "T0002,test,0,0.9,red thing"))
    prepare.run(config, tiny_copy.path)
    assert "T0002,test,0,0.9,red thing" in labels.read_text() and list(verify(tiny_copy.path)) == []
    rows = pd.read_csv(evaluate.run(config, tiny_copy.path).path)
    assert len(rows[rows.experiment == "base"]) == 2


def test_numbers_are_read_to_the_last_bit(tmp_path):
    """Which to_numeric of pandas 2 does not, one in three is off by one bit."""
    table = tmp_path / "videos.csv"
    numbers = [random.Random(0).random() * 10**power for power in range(-5, 6) for _ in range(50)]
    table.write_text("id,a,b\n" + "".join(f"{one},{one!r},{index}\n" for index, one in enumerate(numbers)) + "x,,7\n")
    found = read_csv(table, numbers=("a", "b"))
    assert found.a.tolist()[:-1] == numbers and math.isnan(found.a.iloc[-1])
    assert found.b.tolist() == [*range(len(numbers)), 7] and found.b.dtype.kind == "i" and found.id.iloc[-1] == "x"


def test_a_run_without_records_of_tables_opens_and_verify_says_so(tiny_copy):
    run = tiny_copy.path
    before = tree(run)
    for name in ("tables.json", "skipped.json", "results.json", "models/*/training.json"):
        for path in run.glob(name):
            path.unlink()
    assert len(cache.open(run).labels) and list(verify(run)) == []
    code, output = call("verify", "--run", run)
    assert code == 0 and output.count("not compared: ") == len(unvouched(run)) == 8
    assert f"not compared: {run / 'labels.csv'}; no record vouches for it, tables.json is missing" in output
    prepare.run(tiny_copy.config, run)
    evaluate.run(tiny_copy.config, run)
    assert {path.name for path in unvouched(run)} == {"metrics.csv"}
    assert {name: sha for name, sha in before.items() if "training.json" not in name} == tree(run)


@pytest.mark.parametrize("how", ["emptied", "another header", "not UTF-8", "deleted"])
def test_without_a_record_a_table_is_still_no_traceback(how, tiny_copy):
    """Nothing vouches for it, but what is no such table is refused by name."""
    run = tiny_copy.path
    for record in ("tables.json", "skipped.json"):
        (run / record).unlink()
    for name, read in {
        "labels.csv": lambda: cache.open(run).labels,
        "videos.csv": lambda: tables.videos(cache.open(run)),
        "skipped.csv": lambda: cache.open(run).skipped,
    }.items():
        whole = (run / name).read_bytes()
        harm(run / name, how)
        if (name, how) != ("skipped.csv", "another header"):  # shown as it is
            assert str(run / name) in ours(read)
        prepare.run(tiny_copy.config, run)
        assert (run / name).read_bytes() == whole
        (run / "tables.json").unlink(), (run / "skipped.json").unlink()


def test_a_record_never_names_a_file_that_is_being_replaced(tmp_path, monkeypatch):
    """Killed in the middle, nothing vouches for the tables: neither the old record nor the new one."""
    record = tmp_path / "tables.json"
    write_record(record, {}, {"labels.csv": b"old\n", "videos.csv": b"old\n"})
    write_record(record, {}, {"labels.csv": b"old\n", "videos.csv": b"old\n"})
    seen = []

    def write_file(path, data):
        seen.append(record.exists())
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr("cache.sealed.write_file", write_file)
        with pytest.raises(OSError, match="no"):
            write_record(record, {}, {"labels.csv": b"new\n", "videos.csv": b"old\n"})
    assert seen == [False] and read_table(tmp_path / "labels.csv") == "old\n"
    write_record(record, {}, {"labels.csv": b"new\n", "videos.csv": b"old\n"})
    assert len(read_sealed(record, "files")["files"]) == 2
    with pytest.raises(DamagedError, match="it has no column video_id"):
        read_csv(tmp_path / "labels.csv", ("video_id",))
