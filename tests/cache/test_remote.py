"""Runs read by URL, against an S3 server on loopback that fails in every way: right data or a named error."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

import cache
from cache.errors import CacheError, DamagedError, StorageError
from cache.remote import fetch, file_cache
from cache.remote.mirror import mirror
from pipeline.stages import evaluate, train_fusion
from tests.cli.test_commands import call, config_file
from tests.helpers.tiny_data import fold_all, tree

pytest.importorskip("moto", reason="needs pip install -e '.[dev]'")
pytest.importorskip("s3fs", reason="needs pip install -e '.[s3]'")


@pytest.fixture(scope="module")
def storage(tiny_run):
    from tests.helpers.object_storage import serving

    with serving() as storage:
        storage.url = storage.upload(tiny_run.path, "tiny")
        yield storage


@pytest.fixture
def url(storage, tmp_path, monkeypatch):
    """The tiny run in the storage; local files and mirror are empty, and nothing fails yet."""
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE", str(tmp_path / "local"))
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(file_cache, "_added", {})
    storage.asked.clear()
    storage.spoil = lambda key, number: ""
    return storage.url


def everything(run) -> list:
    """All that a reader can ask for."""
    rows = range(run.num_rows)
    arrays = [[read(row) for row in rows] for read in (run.logits, run.saliency, run.focus, run.context)]
    return [np.stack(values) for values in arrays]


def test_a_run_reads_by_url_as_from_its_folder(url, tiny_run):
    here, there = cache.open(tiny_run.path), cache.open(url)
    for ours, theirs in zip(everything(there), everything(here), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    assert there.index.equals(here.index) and there.stores().equals(here.stores())
    assert there.videos.equals(here.videos) and there.skipped.equals(here.skipped)


def test_status_counts_by_url_as_in_the_folder(url, storage, tiny_run):
    """Without data, and not from a copy that was made before a unit was withdrawn."""
    assert call("status", "--run", url) == call("status", "--run", str(tiny_run.path))
    assert not [key for key in storage.asked if _is_data(key)]
    changing = storage.upload(tiny_run.path, "fewer")
    counts = json.loads(call("status", "--json", "--run", changing)[1])
    assert counts["run"] == changing
    records = [key for key in storage.objects("fewer") if key.endswith("/done/000000.json")]
    gone = next(key for key in records if key.startswith("maps/"))
    storage.client.delete_object(Bucket="runs", Key=f"fewer/{gone}")
    fewer = json.loads(call("status", "--json", "--run", changing)[1])["products"]
    changed = [(old, new) for old, new in zip(counts["products"], fewer, strict=True) if old != new]
    assert [(old["product"], old["todo"], new["ok"] < old["ok"]) for old, new in changed] == [("maps", 0, True)]


def test_only_what_is_needed_is_asked_for_and_only_once(url, storage):
    run = cache.open(url)
    assert storage.asked and not [key for key in storage.asked if _is_data(key)]
    run.stores()
    assert not [key for key in storage.asked if _is_data(key)]
    run.focus(0)
    run.logits(0)
    asked = [key for key in storage.asked if _is_data(key)]
    assert len(asked) == 2 and ["/crops/" in key for key in sorted(asked)] == [False, True]
    before = storage.asked.copy()
    again = pickle.loads(pickle.dumps(cache.open(url)))
    again.focus(1)
    again.logits(1)
    assert storage.asked == before
    assert {key: number for key, number in before.items() if number > 1} == {}


def _is_data(key: str) -> bool:
    return "/volumes/" in key or ("/arrays.zarr/" in key and not key.endswith("zarr.json")) or key.endswith(".pt")


@pytest.mark.parametrize("how", ["500", "short", "cut", "flip"])
def test_what_fails_now_and_then_is_asked_for_again(how, url, storage, tiny_run):
    """The first answer for every object is spoiled, then all is well."""
    storage.spoil = lambda key, number: how if number == 1 else ""
    for ours, theirs in zip(everything(cache.open(url)), everything(cache.open(tiny_run.path)), strict=True):
        assert np.array_equal(ours, theirs)


FINAL = {"500": StorageError, "short": StorageError, "cut": DamagedError, "flip": DamagedError, "missing": DamagedError}


@pytest.mark.parametrize("how", FINAL)
def test_what_keeps_failing_is_named(how, url, storage):
    """A finite number of times, the error names the URL, and nothing of it is kept."""
    storage.spoil = lambda key, number: how if _is_data(key) else ""
    run = cache.open(url)
    for read in (run.logits, run.focus):
        with pytest.raises(FINAL[how], match=r"s3://runs/tiny/(base|crops)/"):
            read(0)
    assert not [path for path in (file_cache.local_folder() / "files").rglob("*") if path.is_file()]
    storage.spoil = lambda key, number: ""
    assert run.logits(0).shape == (2, 3) and run.focus(0).shape == (4, 28, 28, 3)


@pytest.mark.parametrize(
    ("part", "how"),
    [("part-000-train.json", "cut"), ("part-000-train.parquet", "flip"), ("00.json", "flip"), ("run.json", "500")],
)
def test_records_and_plan_that_keep_failing_are_named(part, how, url, storage):
    storage.spoil = lambda key, number: how if key.endswith(part) else ""
    with pytest.raises(FINAL[how], match=f"s3://runs/tiny/.*{part}"):
        cache.open(url)
    storage.spoil = lambda key, number: ""
    assert cache.open(url).num_rows


def test_a_record_that_is_withdrawn_and_one_that_is_new(url, storage, tiny_run, tmp_path):
    """The mirror follows: what is not done any more is not read, what became done is."""
    name = storage.upload(tiny_run.path, "changing")
    run = cache.open(name)
    first = run.focus(0)
    record = f"crops/{run.store('crops').directories[run.parts[0].name].key}/done/000000.json"
    storage.client.delete_object(Bucket="runs", Key=f"changing/{record}")
    with pytest.raises(cache.errors.NotDoneError):
        cache.open(name).focus(0)
    body = (tiny_run.path / record).read_bytes()
    storage.client.put_object(Bucket="runs", Key=f"changing/{record}", Body=body)
    assert np.array_equal(cache.open(name).focus(0), first)


def test_a_run_whose_records_are_gathered_reads_as_before(url, storage, tiny_run, tmp_path):
    """Also by a mirror that was made before; a segment that arrives with another content is refused."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run)
    name = storage.upload(run, "gathered")
    before = cache.open(name)
    folder, truth = mirror(name), before.stores()
    single = sorted(folder.glob("*/*/done/*.json"))
    assert fold_all(run) == len(single) == 20
    for key in [path.relative_to(folder).as_posix() for path in single]:
        storage.client.delete_object(Bucket="runs", Key=f"gathered/{key}")
    storage.upload(run, "gathered")
    storage.spoil = lambda key, number: "flip" if key.endswith(".jsonl") and number == 1 else ""
    after, here = cache.open(name), cache.open(tiny_run.path)
    assert not list(folder.glob("*/*/done/*.json")) and len(list(folder.glob("*/*/done/segments/*.jsonl"))) > 5
    assert after.stores().equals(truth) and after.index.equals(here.index)
    for ours, theirs in zip(everything(after), everything(here), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(before.focus(0), here.focus(0))  # opened when each record had a file of its own
    shutil.rmtree(folder)
    storage.spoil = lambda key, number: "flip" if key.endswith(".jsonl") else ""
    with pytest.raises(DamagedError, match=r"\.jsonl: arrived as something else than was written"):
        cache.open(name)


def test_local_files_stay_within_their_limit(url, storage, monkeypatch):
    """The least recently used ones go, come back when they are read, and those just used stay."""
    run, size = cache.open(url), {}
    for unit, row in enumerate(range(0, run.parts[0].num_rows, run.parts[0].rows_per_unit)):
        run.context(row)
        size[unit] = _kept()
    assert len(size) == 2 and 0 < size[0] < size[1]
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE_GB", str(size[1] * 1.1 / 1e9))
    monkeypatch.setattr(file_cache, "SPARED_SECONDS", 1e9)
    run.focus(0)
    assert _kept() > size[1] * 1.1  # all of them used just now
    monkeypatch.setattr(file_cache, "SPARED_SECONDS", -1)
    cache.open(url).context(0)  # is used now
    cache.open(url).focus(run.parts[0].rows_per_unit)
    assert _kept() <= size[1] * 1.1
    asked = storage.asked.copy()
    cache.open(url).context(0)
    assert storage.asked == asked
    cache.open(url).context(run.parts[0].rows_per_unit)
    assert sum(storage.asked.values()) == sum(asked.values()) + 1


def _kept() -> int:
    return sum(path.stat().st_size for path in (file_cache.local_folder() / "files").rglob("*") if path.is_file())


class Focused(Dataset):
    """Focused volumes of a run."""

    def __init__(self, run):
        self.run = run

    def __len__(self):
        return self.run.num_rows

    def __getitem__(self, row):
        return self.run.focus(row)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loaders_read_in_processes_of_their_own(method, url, storage, tiny_run):
    """The parent has talked to the storage already, which a fork must not inherit."""
    run, here = cache.open(url), cache.open(tiny_run.path)
    run.focus(0)
    loader = DataLoader(Focused(run), batch_size=1, num_workers=2, multiprocessing_context=method, timeout=600)
    for row, volume in enumerate(loader):
        assert np.array_equal(volume[0].numpy(), here.focus(row))
    # one unit was known; both processes may ask for the same one at once
    assert all(number <= 2 for key, number in storage.asked.items() if _is_data(key))


def test_training_and_evaluation_read_caches_by_url(url, storage, tiny_run, tmp_path):
    """Models and results are those of the run itself, and only they are written; no saliency map is brought."""
    run, common = tmp_path / "run", ("--config", config_file(tiny_run), "--run", tmp_path / "run", "--caches", url)
    assert call("train-fusion", *common, "--fusion", "late")[0] == 0
    assert call("evaluate", *common)[0] == 0
    assert sorted(path.name for path in run.iterdir()) == [".lock", "models", "results", "results.csv", "results.json"]
    ours = {name: sha for name, sha in tree(run).items() if "weights.pt" in name or ".scores." in name}
    theirs = tree(tiny_run.path)
    assert len(ours) == 3 and ours.items() <= theirs.items()
    assert not [key for key in storage.asked if "/maps/" in key and _is_data(key)]
    assert not [key for key in storage.asked if "/context/" in key and _is_data(key)]


def test_caches_of_another_folder(tiny_run, tmp_path):
    train_fusion.run(tiny_run.config, tmp_path, "concat", caches=tiny_run.path)
    evaluate.run(tiny_run.config, tmp_path, caches=tiny_run.path)
    assert len(list(tmp_path.glob("results/*.json"))) == 2 and not (tmp_path / "crops").exists()


def test_nothing_is_made_in_a_mirror(url, tiny_run, tmp_path):
    """Caches that are not there are named, not begun."""
    common = ("--config", config_file(tiny_run), "--run", tmp_path / "run", "--caches", url)
    code, output = call("train-fusion", *common, "--boxes", "random")
    assert code == 4 and "s3://runs/tiny has no crops with these settings" in output
    assert tree(mirror(url) / "crops").keys() == {
        name for name in tree(tiny_run.path / "crops") if name.endswith(".json")
    }


def test_places_that_are_no_run(url, tiny_run, tmp_path, monkeypatch):
    for place in ("s3://runs/nothing", "s3://nobody/tiny"):  # a bucket that is not there lists nothing either
        with pytest.raises(CacheError, match=f"{place} holds no plan .*is the URL right.* copy the run folder there"):
            cache.open(place)
    with pytest.raises(CacheError, match="nowhere://"):
        cache.open("nowhere://runs/tiny")
    common = ("--config", config_file(tiny_run), "--run", tmp_path / "run")
    assert call("train-fusion", *common, "--caches", url, "--online")[0] == 2
    assert call("evaluate", *common, "--caches", "s3://runs/nothing")[0] == 4
    shutil.rmtree(os.environ["FOCUSED_ATTENTION_CACHE"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="s3://runs/tiny"):
        cache.open(url)
    s3fs.S3FileSystem.clear_instance_cache()
    assert Path(os.environ["FOCUSED_ATTENTION_CACHE"]).is_dir()
