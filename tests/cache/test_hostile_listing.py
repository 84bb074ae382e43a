"""Listings of a store that somebody else writes: names that lead out of the mirror, or that no run has, are refused."""

import json

import fsspec
import pytest
from fsspec import AbstractFileSystem

from cache.commit import write_file
from cache.errors import DamagedError
from cache.plan_files import read_plan, write_part
from cache.remote import fetch, file_cache
from cache.remote.mirror import VERSIONS, mirror
from cache.sealed import read_sealed, seal, write_record
from cache.stores.open_product import open_product
from tests.helpers.small_plan import part
from tests.helpers.tiny_data import tree

URL = "listed://bucket/run"


class Listed(AbstractFileSystem):
    """A store whose listings are the entries in `folders`, by path, and whose objects are `content`."""

    protocol, cachable = "listed", False
    folders, content = {}, {}

    def ls(self, path, detail=True, **options):
        if path not in self.folders:
            raise FileNotFoundError(path)
        return self.folders[path]

    def cat_file(self, path, start=None, end=None, **options):
        return self.content[path]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A run with tables and a product in the store, nothing of it here; and files of others near the mirror."""
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE", str(tmp_path / "local/cache"))
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(file_cache, "_added", {})
    fsspec.register_implementation("listed", Listed, clobber=True)
    run, plan = tmp_path / "run", part()
    write_part(run, plan)
    product = open_product(run, "boxes", plan, {"policy": "entropy"})
    (product.path / "volumes").mkdir()
    (product.path / "volumes/0.h5").write_bytes(b"data")
    product.commit(0, [product.path / "volumes/0.h5"])
    write_record(run / "tables.json", {"parts": [plan.name]}, {"labels.csv": b"video_id\n", "classes.txt": b"a\n"})
    Listed.folders, Listed.content = {}, {}
    for path in [run, *sorted(run.rglob("*"))]:
        name = "bucket/run" if path == run else f"bucket/run/{path.relative_to(run).as_posix()}"
        if path.is_file():
            Listed.content[name] = path.read_bytes()
        else:
            Listed.folders.setdefault(name, [])
        if path != run:
            kind = "file" if path.is_file() else "directory"
            entry = {"name": name, "size": path.stat().st_size, "type": kind, "mtime": 1}
            Listed.folders.setdefault(name.rpartition("/")[0], []).append(entry)
    for folder in ("local", "local/cache", "local/cache/runs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "authorized.txt").write_text("mine")
    return tmp_path / "local"


def entry(name, size=4, kind="file"):
    return {"name": name, "size": size, "type": kind, "mtime": 2}


def mirrored():
    """What the mirror of the honest listing holds, by path in the store."""
    return {name for name in Listed.content if not any(part in name for part in ("/volumes/", "/locks/", "/."))}


def test_an_honest_listing_is_mirrored_and_what_no_run_has_is_left_there(store):
    Listed.folders["bucket/run"] += [entry("bucket/run/notes.txt"), entry("bucket/run/my thesis (2).csv")]
    itself = [entry("bucket/run/plan/", 0), entry("bucket/run/plan", 0)]  # objects that stand for the folder
    Listed.folders["bucket/run/plan"] += itself
    folder = mirror(URL)
    found = {f"bucket/run/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert {name for name in found if "/." not in name} == mirrored()
    assert len(read_plan(folder)) == 1


NAMES = {
    "parent": "bucket/run/plan/../../authorized.txt",
    "parents of the bucket": "../../authorized.txt",
    "the parent itself": "bucket/run/plan/..",
    "this folder": "bucket/run/plan/.",
    "absolute": "/authorized.txt",
    "empty": "",
    "empty part": "bucket/run/plan//part-001-test.json",
    "NUL": "bucket/run/plan/part-001\0-test.json",
    "newline": "bucket/run/plan/part-001-test.json\n",
    "escape sequence": "bucket/run/plan/\x1b]0;title\x07.json",
    "half a surrogate": "bucket/run/plan/\ud800.json",
    "backslash": "bucket/run/plan/..\\authorized.txt",
    "of another folder": "bucket/run/labels.csv",
    "of a folder below": "bucket/run/plan/deeper/part-001-test.json",
    "of another run": "bucket/other/plan/part-001-test.json",
    "twice": "bucket/run/plan/part-000-train.json",
}


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_is_not_one_in_the_folder_is_refused(what, kind, store):
    """By the folder and the name, before anything is asked for or written."""
    Listed.folders["bucket/run/plan"].append(entry(NAMES[what], kind=kind))
    Listed.content[NAMES[what]] = b"evil"
    before = tree(store)
    with pytest.raises(DamagedError) as error:
        mirror(URL)
    assert f"{URL}/plan: its listing has {NAMES[what]!r}" in str(error.value)
    assert {name: sha for name, sha in tree(store).items() if not name.endswith(".sync")} == before


def test_a_mirror_that_was_misled_before_deletes_nothing_outside(store):
    """The older code has written the name down; it leaves the listing."""
    folder = mirror(URL)
    files = read_sealed(folder / VERSIONS)["files"]
    gone = {"../authorized.txt": [4, "1"], "../../authorized.txt": [4, "1"], "/authorized.txt": [4, "1"]}
    write_file(folder / VERSIONS, seal({"files": files | gone}))
    mirror(URL)
    assert [path.read_text() for path in sorted(store.rglob("authorized.txt"))] == ["mine"] * 3


@pytest.mark.parametrize("size", [-1, None, "4", 4.0, True, [4], "missing"])
def test_a_size_that_is_no_number_of_bytes_is_refused(size, store):
    listed = Listed.folders["bucket/run"][-1]
    listed["size"] = size
    if size == "missing":
        del listed["size"]
    with pytest.raises(DamagedError, match=f"{listed['name'].rpartition('/')[2]}: its listing says"):
        mirror(URL)


@pytest.mark.parametrize("change", [-1, 1, 10**15])
@pytest.mark.parametrize("name", ["labels.csv", "tables.json", "plan/part-000-train.parquet"])
def test_a_size_that_lies_is_found_when_the_file_arrives(change, name, store):
    (listed,) = [one for found in Listed.folders.values() for one in found if one["name"] == f"bucket/run/{name}"]
    listed["size"] += change
    with pytest.raises(DamagedError, match=f"{URL}/{name}: arrived as something else"):
        mirror(URL)
    assert not list(store.rglob(name))


def test_a_table_that_is_not_what_its_record_says(store):
    """A mirror compares tables as it does the plan, though the store vouches for what it sends."""
    Listed.content["bucket/run/labels.csv"] = b"video_iD\n"
    with pytest.raises(DamagedError, match=f"{URL}/labels.csv: arrived as something else"):
        mirror(URL)


def test_more_names_than_a_run_can_have(store):
    names, asked = (entry(f"bucket/run/plan/{number}") for number in range(10**6)), []
    Listed.folders["bucket/run/plan"] = names
    Listed.cat_file, before = lambda *path, **_: asked.append(path), Listed.cat_file
    try:
        with pytest.raises(DamagedError, match="more than 500,000 names"):
            mirror(URL)
    finally:
        Listed.cat_file = before
    assert not asked and next(names)  # it did not even look at all of them


def test_a_file_where_a_folder_was_and_back(store):
    """What was mirrored below it goes; when the folder is there again, so is all in it."""
    folder = mirror(URL)
    before = tree(folder)
    key = next(path for path in Listed.folders if path.startswith("bucket/run/boxes/") and path.count("/") == 3)
    (listed,) = Listed.folders["bucket/run/boxes"]
    listed["type"] = "file"
    below = {path: Listed.folders.pop(path) for path in list(Listed.folders) if path.startswith(key)}
    assert mirror(URL) == folder and not list(folder.glob("boxes/*/*.json"))
    listed["type"] = "directory"
    Listed.folders |= below
    mirror(URL)
    assert tree(folder) == before


def test_a_record_cannot_name_a_file_outside_the_file_cache(store):
    """Its SHA-256 becomes a path, too."""
    (store / "secret").write_text("mine")
    for sha256 in ("../../secret", "/etc/hostname", "", "A" * 64, "g" * 64):
        with pytest.raises(DamagedError, match="no SHA-256"):
            file_cache.find(sha256, 4)
        with pytest.raises(DamagedError, match="no SHA-256"):
            file_cache.keep(sha256, b"mine")


RECORDED = {
    "parent": {"name": "../../authorized.txt"},
    "absolute": {"name": "/etc/hostname"},
    "empty": {"name": ""},
    "hidden": {"name": ".remote.json"},
    "a number": {"name": 3},
    "NUL": {"name": "a\0b"},
    "backslash": {"name": "..\\a"},
    "bytes are text": {"bytes": "4"},
    "SHA-256 is a path": {"sha256": "../../authorized.txt"},
}


def misrecord(what):
    """Write such an entry into the record of the store's product, and mirror it: the product."""
    (name,) = [name for name in Listed.content if name.endswith("done/000000.json")]
    record = json.loads(Listed.content[name])
    del record["sha256"]
    record["files"] = [{"name": "volumes/0.h5", "bytes": 4, "sha256": "0" * 64} | RECORDED[what]]
    Listed.content[name] = seal(record)
    (listed,) = Listed.folders[name.rpartition("/")[0]]
    listed |= {"size": len(Listed.content[name]), "mtime": what}
    return open_product(mirror(URL), "boxes", part(), {"policy": "entropy"})


def test_segments_are_mirrored_by_the_names_that_they_have(store):
    product = open_product(store.parent / "run", "boxes", part(), {"policy": "entropy"})
    assert product.records.fold(fewest=1) == 1
    (path,) = product.records.folder.iterdir()
    place = f"bucket/run/{product.path.relative_to(store.parent / 'run')}/done"
    (single,) = Listed.folders[place]
    Listed.folders[place] = [entry(f"{place}/segments", 0, "directory")]
    listed = entry(f"{place}/segments/{path.name}", path.stat().st_size)
    Listed.content[listed["name"]] = path.read_bytes()
    others = [
        entry(f"{place}/segments/{name}") for name in ("a.jsonl", "0123456789abcdef.json", "0123456789abcdeg.jsonl")
    ]
    Listed.folders[f"{place}/segments"] = [listed, *others, entry(f"{place}/segments/x", kind="directory")]
    found = open_product(mirror(URL), "boxes", part(), {"policy": "entropy"})
    assert found.done_units() == [0] and found.record(0) == product.record(0)
    assert [one.name for one in found.records.folder.iterdir()] == [path.name]
    listed["name"] = listed["name"].replace(path.name, f"{'0' * 16}.jsonl")
    Listed.content[listed["name"]] = path.read_bytes()
    with pytest.raises(DamagedError, match=r"0{16}\.jsonl: arrived as something else"):
        mirror(URL)
    listed["name"] = f"{place}/segments/../../x.jsonl"
    with pytest.raises(DamagedError, match="its listing has"):
        mirror(URL)
    assert single["name"].endswith("done/000000.json")


@pytest.mark.parametrize("what", RECORDED)
def test_the_same_rule_for_records(what, store):
    """Of a product, as the store sends it: refused before the file is asked for."""
    product = misrecord(what)
    with pytest.raises(DamagedError, match=r"done/000000\.json"):
        product.fetch(0)
