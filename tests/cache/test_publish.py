"""Runs written by URL, against an S3 server on loopback that fails in every way: whole units, or named errors."""

import hashlib
import time
import zlib

import numpy as np
import pytest

import cache
from cache.errors import CacheError, DamagedError, StaleCacheError, StorageError, UnitTakenError
from cache.plan_files import write_part
from cache.remote import fetch, file_cache, publish
from cache.remote.publish import PROBE, Publisher, put_once, working_folder
from cache.sealed import parse_sealed, seal
from cache.stores.open_product import open_product
from cache.stores.zarr_store import ArraySpec, ZarrStore
from models.checkpoint import state_hash
from models.looker import Looker
from pipeline.run.looker_weights import load_looker, looker_sha256
from pipeline.run.networks import write_trained
from tests.cli.test_commands import call, config_file
from tests.helpers.small_plan import part
from tests.helpers.tiny_data import caches

pytest.importorskip("moto", reason="needs pip install -e '.[dev]'")
pytest.importorskip("s3fs", reason="needs pip install -e '.[s3]'")

PRODUCTS = ("base", "maps", "boxes", "context", "crops")
SETTINGS = {"objective": "entropy"}
DATA, RECORD = "arrays.zarr/scale/c.0", "done/000000.json"


@pytest.fixture(scope="module")
def storage():
    from tests.helpers.object_storage import serving

    with serving() as storage:
        yield storage


@pytest.fixture(autouse=True)
def quiet(storage, tmp_path, monkeypatch):
    """Nothing fails yet, and this machine has no file of any run."""
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.001)
    storage.spoil, storage.spoil_put = (lambda key, number: ""), (lambda key, number: "")
    on_machine("first", tmp_path, monkeypatch)


def on_machine(name, tmp_path, monkeypatch):
    """Go on as on another machine, which has other local files."""
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE", str(tmp_path / name))
    monkeypatch.setattr(file_cache, "_added", {})


@pytest.fixture
def url(storage, tmp_path):
    """A run that has a plan, 10 rows in units of 4, 4 and 2, and nothing else."""
    write_part(tmp_path / "run", part())
    return storage.upload(tmp_path / "run", tmp_path.name)


def product_of(url):
    return open_product(working_folder(url), "maps", part(), SETTINGS)


def store_of(url):
    """As a worker that begins now opens it: one number a row."""
    return ZarrStore.create(product_of(url), [ArraySpec("scale", (), "f4", "unit")])


def do(store, unit=0, values=0.5, **how):
    """Do a unit as a stage does: rows are numbered from `values`; False where there is nothing to do."""
    with store.product.lock(unit) as mine:
        numbers = {"scale": np.float32(values) + np.arange(len(part().unit_rows(unit)), dtype=np.float32)}
        return mine and store.write_unit(unit, numbers, **how)


def objects(storage, url):
    """What lies in the product's folder."""
    found = storage.objects(url.removeprefix("s3://runs/"))
    return {key.split("/", 2)[2]: data for key, data in found.items() if key.startswith("maps/")}


def read(url):
    """Unit 0 as a reader on another machine sees it."""
    (store,) = (one for one in cache.open(url).stores().itertuples() if one.product == "maps")
    return store.units_done, cache.open(url).read("maps", "scale", range(4)).tolist() if store.units_done else None


def test_stages_write_by_url_what_they_write_in_a_folder(storage, tiny_run, trained, monkeypatch):
    """Though some puts fail once, half of them after they took effect, and a dead worker left a file."""
    url, some = storage.upload(trained.path, "stages"), {0: "500", 1: "lost"}
    common = ("--config", config_file(trained), "--run", url)
    local = {name: sha for name, sha in caches(tiny_run.path, *PRODUCTS).items() if "/locks/" not in name}
    left = next(name for name in sorted(local) if name.startswith("base/") and name.endswith("logits/c.0.0.0"))
    storage.client.put_object(Bucket="runs", Key=f"stages/{left}", Body=b"other bytes")
    storage.spoil_put = lambda key, number: some.get(zlib.crc32(key.encode()) % 9, "") if number == 1 else ""

    code, output = call("saliency", *common)
    assert code == 5 and f"{url}/{left}: another worker has put other bytes" in output
    done = [name for name in storage.objects("stages") if name.startswith(("base/", "maps/")) and "/done/" in name]
    assert len(done) == 2 * 4 - 2  # all units but one have both records

    monkeypatch.setattr(publish, "ABANDONED_SECONDS", -1)
    for stage in ("saliency", "crops"):
        code, output = call(stage, *common)
        assert code == 0 and f"wrote {url}/{'maps' if stage == 'saliency' else 'crops'}: " in output
    found = {name: hashlib.sha256(data).hexdigest() for name, data in storage.objects("stages").items()}
    assert {name: sha for name, sha in found.items() if name.startswith(PRODUCTS)} == local
    (folder,) = (file_cache.local_folder() / "written").iterdir()
    assert not [path for path in folder.glob("**/volumes/*") if not path.is_symlink()]

    storage.put.clear()
    storage.asked.clear()
    assert "0 rows cut now" in call("crops", *common)[1]
    assert set(storage.put) == {f"stages/{PROBE}"} and not [key for key in storage.asked if "/volumes/" in key]
    here, there = cache.open(tiny_run.path), cache.open(url)
    assert there.index.equals(here.index)
    assert np.array_equal(there.focus(3), here.focus(3)) and np.array_equal(there.logits(5), here.logits(5))


def test_two_machines_do_their_shares(storage, url, tmp_path, monkeypatch):
    """And neither does what the other one has done since."""
    first = store_of(url)
    assert do(first, 0) and do(first, 2)
    on_machine("second", tmp_path, monkeypatch)
    second = store_of(url)
    assert second.product.todo() == [1] and do(second, 1)
    assert first.product.todo() == [1] and not do(first, 1) and first.product.todo() == []
    assert read(url) == (3, [0.5, 1.5, 2.5, 3.5])
    assert first.read("scale", 4) == second.read("scale", 4) == 0.5  # downloaded by the first machine


@pytest.mark.parametrize(("what", "how"), [(DATA, "500"), (RECORD, "403")])
def test_a_put_that_is_refused_every_time_is_named(how, what, storage, url):
    store = store_of(url)
    storage.spoil_put = lambda key, number: how if key.endswith(what) else ""
    with pytest.raises(StorageError, match=f"{url}/maps/.*{what}.*7 times"):
        do(store)
    assert storage.put[f"{store.product.path.relative_to(store.product.remote.folder)}"] == 0
    assert RECORD not in objects(storage, url) and store.product.todo() == [0, 1, 2]
    assert read(url) == (0, None)
    storage.spoil_put = lambda key, number: ""
    assert do(store) and read(url) == (1, [0.5, 1.5, 2.5, 3.5])


@pytest.mark.parametrize("how", ["500", "lost"])
def test_a_put_that_fails_once_is_tried_again(how, storage, url):
    """Also where it took effect, and only its answer was lost."""
    storage.spoil_put = lambda key, number: how if number == 1 else ""
    assert do(store_of(url))
    twice = {key for key, number in storage.put.items() if number >= 2}
    names = ("run.json", "arrays.zarr/zarr.json", "scale/zarr.json", DATA, RECORD)
    assert all(any(key.endswith(name) for key in twice) for name in names)
    assert read(url) == (1, [0.5, 1.5, 2.5, 3.5])


class Killed(BaseException):
    """As the end of a process: nothing handles it."""


def test_a_worker_that_dies_between_data_and_record(storage, url, tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "write_once", killed)
        with pytest.raises(Killed):
            do(store_of(url))
    assert DATA in objects(storage, url) and read(url) == (0, None)
    storage.put.clear()
    for machine in ("first", "second"):
        on_machine(machine, tmp_path, monkeypatch)
        store = store_of(url)
        assert (store.product.todo(), do(store)) == (([0, 1, 2], True) if machine == "first" else ([1, 2], False))
    assert read(url) == (1, [0.5, 1.5, 2.5, 3.5])
    assert [number for key, number in storage.put.items() if key.endswith(DATA)] == [2]  # refused, then put to be new


def test_what_another_worker_published_meanwhile_counts(storage, url, tmp_path, monkeypatch, caplog):
    """The same bytes are its own; another record, of a worker that left a video out, is kept and named."""
    late, later = store_of(url), store_of(url)
    with late.product.lock(0) as mine, later.product.lock(1) as others:
        assert mine and others
        on_machine("second", tmp_path, monkeypatch)
        fast = store_of(url)
        assert do(fast) and do(fast, 1, skipped=[{"video_id": "00002", "error": "VideoMissing", "detail": "gone"}])
        before = objects(storage, url)
        on_machine("first", tmp_path, monkeypatch)
        assert late.write_unit(0, {"scale": np.arange(4, dtype=np.float32) + np.float32(0.5)}) and not caplog.text
        later.product.publisher.begin(later.product.path / "done/000009.json")  # it looked before that was there
        assert not later.write_unit(1, {"scale": np.arange(4, dtype=np.float32) + np.float32(0.5)})
    assert "another worker published it first, with skipped: [{'detail': 'gone'" in caplog.text
    assert objects(storage, url) == before and later.product.skips().keys() == {1}


def test_other_bytes_of_another_worker_stay(storage, url, tmp_path, monkeypatch):
    """Until they are old and have no record: then the worker is dead."""
    store = store_of(url)
    key = f"{tmp_path.name}/maps/{store.product.key}/{DATA}"
    storage.client.put_object(Bucket="runs", Key=key, Body=b"other bytes")
    with pytest.raises(UnitTakenError, match=f"{DATA}: another worker has put other bytes .* 60 minutes later"):
        do(store)
    assert objects(storage, url)[DATA] == b"other bytes" and RECORD not in objects(storage, url)
    monkeypatch.setattr(publish, "ABANDONED_SECONDS", -1)
    with store.product.lock(1):  # a worker that has looked for no record of unit 0, and replaces its file
        store.product.publisher.begin(store.product.path / RECORD)
        storage.client.put_object(Bucket="runs", Key=key.replace(DATA, RECORD), Body=seal({"unit": 0}))
        with pytest.raises(UnitTakenError):
            store.product.publisher.write_files(store.product.path, {DATA: b"ours"})
        storage.client.delete_object(Bucket="runs", Key=key.replace(DATA, RECORD))
    assert objects(storage, url)[DATA] == b"other bytes"
    assert do(store) and read(url) == (1, [0.5, 1.5, 2.5, 3.5])


def test_a_worker_that_was_too_slow_publishes_nothing(storage, url, monkeypatch):
    """Another one may have replaced its files by then."""
    store, started = store_of(url), time.time()
    with store.product.lock(0):
        store.product.publisher.write_files(store.product.path, {DATA: b"ours"})
        monkeypatch.setattr(publish.time, "time", lambda: started + publish.SLOWEST_SECONDS + 60)
        with pytest.raises(UnitTakenError, match="took more than 900 s"):
            store.product.commit(0, [])
    assert RECORD not in objects(storage, url)


def test_settings_that_differ_under_one_name_are_refused(storage, url, tmp_path, monkeypatch):
    for name in ("run.json", "arrays.zarr/zarr.json"):
        on_machine(name.partition(".")[0], tmp_path, monkeypatch)
        folder = working_folder(url)
        product = open_product(folder, "boxes", part(), {"policy": name})
        key = f"{tmp_path.name}/boxes/{product.key}/{name}"
        if name == "run.json":
            storage.client.put_object(Bucket="runs", Key=key, Body=seal({"product": "other"}))
            (product.path / name).unlink()
            with pytest.raises(StaleCacheError, match=r"boxes/.*/run\.json is there with other content"):
                open_product(folder, "boxes", part(), {"policy": name})
        else:
            storage.client.put_object(Bucket="runs", Key=key, Body=b"{}")
            with pytest.raises(StaleCacheError, match=r"zarr\.json is there with other content"):
                ZarrStore.create(product, [ArraySpec("scale", (), "f4", "unit")])


def test_a_trained_looker_comes_with_its_run(storage, tmp_path):
    """Its record at once, as that of Base, for it is in the key of its maps; its weights when they are used."""
    write_part(tmp_path / "run", part())
    name, looker = f"models/looker-{'0a' * 8}", Looker(3)
    write_trained(tmp_path / "run" / name / "looker.json", looker.state_dict(), {"channels": 3})
    folder = working_folder(storage.upload(tmp_path / "run", tmp_path.name)) / name
    assert not (folder / "weights.pt").exists()
    assert state_hash(load_looker(folder).state_dict()) == state_hash(looker.state_dict()) == looker_sha256(folder)


def test_what_is_gone_there_is_not_done_here(storage, url):
    """A bucket that was emptied, and holds a plan again, does not count as done what this machine once put there."""
    assert do(store_of(url))
    name = url.removeprefix("s3://runs/")
    for key in [key for key in storage.objects(name) if key.startswith("maps/")]:
        storage.client.delete_object(Bucket="runs", Key=f"{name}/{key}")
    assert store_of(url).product.todo() == [0, 1, 2]


def test_places_that_cannot_refuse_to_replace(storage, url):
    """Named in one sentence, before anything is written."""
    for place in ("http://127.0.0.1:9/run", "ftp://127.0.0.1/run", "memory://run"):
        with pytest.raises(CacheError, match=f"{place}: only s3:// is known to put an object without replacing"):
            working_folder(place)
    storage.spoil_put = lambda key, number: "replaces"
    with pytest.raises(StorageError, match=r"its server, or s3fs before 2024\.12, ignores If-None-Match"):
        working_folder(url)
    assert objects(storage, url) == {}
    with pytest.raises(CacheError, match="s3://runs/nothing holds no plan"):
        working_folder("s3://runs/nothing")
    assert storage.objects("nothing") == {}


def test_a_server_that_does_not_say_which_condition_failed():
    error = OSError(22, "At least one of the pre-conditions you specified did not hold")
    error.__cause__ = type("ClientError", (Exception,), {"response": {"Error": {"Code": "PreconditionFailed"}}})()

    class System:
        def pipe_file(self, path, data, mode):
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "storage", lambda url: (System(), url))
        assert not put_once("s3://runs/x", b"data")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train-base",), "only saliency and crops write to a URL"),
        (("verify",), "only saliency and crops write to a URL"),
        (("crops", "--retry-skipped"), "no record is withdrawn at s3://runs/x"),
        (("crops", "--backend", "ray"), "with --part I/N, in place of --backend ray"),
    ],
)
def test_commands_that_do_not_write_by_url_say_so(arguments, words):
    code, output = call(*arguments, "--run", "s3://runs/x")
    assert code == 2 and words in output


def test_a_record_that_is_damaged_on_its_way_is_not_taken(storage, url):
    assert do(store_of(url))
    record = parse_sealed(objects(storage, url)[RECORD], RECORD)
    store = store_of(url)
    (store.product.path / RECORD).unlink()  # as where unit 0 was done since this worker listed the run
    storage.spoil = lambda key, number: "flip" if key.endswith(RECORD) else ""
    with pytest.raises(DamagedError, match=r"000000\.json"):
        do(store)
    storage.spoil = lambda key, number: ""
    assert not do(store) and store.product.record(0) == record
