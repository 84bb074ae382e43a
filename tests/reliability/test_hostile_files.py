"""T11, T12, T15: weights, stores and random mutations from a stranger: refused by name, no code run, little memory."""

import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import cache
from cache.errors import CacheError, DamagedError
from cache.plan_files import read_plan
from cache.sealed import read_sealed, seal
from cache.stores.open_product import read_product
from cache.stores.product_folder import ProductDir
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore
from models.checkpoint import WeightsError, read_state
from pipeline.data.charades_csv import read_charades
from pipeline.data.plain_csv import read_plain
from pipeline.errors import AnnotationError
from tests.cli.test_commands import call, config_file
from tests.helpers.tiny_data import fold_all
from tests.reliability.victims import end_of, fork

MEMORY = 500 << 20


def in_little_memory(work: Callable) -> bool:
    """Run in a child that grows by no more than MEMORY."""

    def watched():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 > MEMORY:
            os._exit(7)

    return end_of(fork(watched)) == 0


class Evil:
    """Unpickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def bad_weights(folder: Path, marker: Path) -> dict[str, Path]:
    """Files that would touch marker, fill the memory, or simply do not fit."""
    touch = f"open({str(marker)!r}, 'w')"
    tensor = torch.zeros(3)
    made = {}

    def place(name: str) -> Path:
        made[name] = folder / f"{len(made)}.pt"
        return made[name]

    torch.save({"w": Evil(os.system, f"touch {marker}")}, place("os.system"))
    torch.save({"w": Evil(eval, touch)}, place("eval"))
    torch.save({"state_dict": {"w": tensor, "deep": [{"x": Evil(exec, touch)}]}}, place("nested exec"))
    torch.save(Evil(open, str(marker), "w"), place("builtins.open"))
    torch.save({"w": Evil(os.mkdir, str(marker))}, place("legacy, os.mkdir"), _use_new_zipfile_serialization=False)
    place("plain pickle").write_bytes(pickle.dumps({"w": Evil(os.system, f"touch {marker}")}))
    with zipfile.ZipFile(place("zip with a pickle"), "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(os.system, f"touch {marker}"), protocol=2))
        archive.writestr("archive/version", "3\n")
    with tarfile.open(place("tar"), "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Evil(os.system, f"touch {marker}"), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(place("zip bomb"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2 << 30))
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(9)}, buffer, _use_new_zipfile_serialization=False)
    header = buffer.getvalue().replace(
        b"K\x09", b"\x8a\x05\x00\x00\x00\x00\x0a", 1
    )  # 9 elements become 40 thousand million
    place("header of 160 GB").write_bytes(header)
    torch.save({"module.conv1.weight": torch.zeros(1, 1)}, place("wrong shapes and names"))
    torch.save({"w": 3, "x": "text"}, place("no tensors"))
    torch.save([tensor], place("a list"))
    place("empty").write_bytes(b"")
    place("text").write_bytes(b"weights")
    torch.save({"w": tensor}, place("cut"))
    made["cut"].write_bytes(made["cut"].read_bytes()[:-100])
    with open(place("12 GB, sparse"), "wb") as file:
        file.truncate(12 << 30)
    return made


def test_malicious_weights(trained, tmp_path, count):
    """Through the command that takes weights from outside."""
    folder, marker = tmp_path / "weights", tmp_path / "owned"
    folder.mkdir()
    shutil.rmtree(next(trained.path.glob("models/base-*")))
    right, made = 0, bad_weights(folder, marker)
    for name, path in made.items():

        def refused(path=path):
            if path.stat().st_size < 1 << 30:  # hashing 12 GB is not what is tested
                arguments = ("train-base", "--config", config_file(trained), "--run", trained.path, "--init", path)
                code, output = call(*arguments)
                assert code == 4 and "WeightsError" in output and str(path) in output, output
            try:
                state = read_state(path)
                assert "wrong" in name and list(state) == ["module.conv1.weight"]  # noqa: B023
            except WeightsError as error:
                assert str(path) in str(error)

        right += in_little_memory(refused) and not marker.exists()
    plain = 0
    for name in ("os.system", "eval", "nested exec", "builtins.open"):
        marker.unlink(missing_ok=True)
        end_of(fork(lambda: torch.load(made[name], weights_only=False)))  # noqa: B023
        plain += marker.exists()
    baseline = f"torch.load(weights_only=False): {plain} of 4 run their code"
    count("T11", "malicious weights: exit 4 by name, no code run, below 500 MB", right, len(made), baseline)


def swap_zarr(change: dict) -> Callable:
    def harm(run: Path) -> ZarrStore:
        path = next(run.glob("maps/*/arrays.zarr/codes/zarr.json"))
        path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
        _reseal(path)
        return path

    return harm


def _reseal(path: Path) -> None:
    """A stranger who can write the records, too."""
    product = next(one for one in path.parents if (one / "run.json").exists())
    for file in (product / "done").glob("*.json"):
        record = read_sealed(file)
        for entry in record["files"]:
            target = product / entry["name"]
            data = target.read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        file.write_bytes(seal(record))


def swap_volume(make: Callable) -> Callable:
    def harm(run: Path) -> Path:
        path = sorted(run.glob("crops/*/volumes/*.h5"))[0]
        with h5py.File(path, "r+") as file:
            old = file["data"][:]
            make(file, old)
        _reseal(path)
        return path

    return harm


def _external_storage(file, old):
    del file["data"]
    Path(file.filename).with_suffix(".raw").write_bytes(old.tobytes())
    size = len(old)
    file.create_dataset("data", (size,), "u1", external=[(str(Path(file.filename).with_suffix(".raw")), 0, size)])


def _external_link(file, old):
    del file["data"]
    with h5py.File(Path(file.filename).with_suffix(".other"), "w") as other:
        other["data"] = old
    file["data"] = h5py.ExternalLink(str(Path(file.filename).with_suffix(".other")), "data")


def _soft_link(file, old):
    del file["data"]
    file["data"] = h5py.SoftLink("/crc32")


def _virtual(file, old):
    del file["data"]
    layout = h5py.VirtualLayout((len(old),), "u1")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (len(old),))
    file.create_virtual_dataset("data", layout)


def _tebibyte(file, old):
    del file["data"]
    file.create_dataset("data", (1 << 40,), "u1", chunks=(1 << 20,))


def _objects(file, old):
    del file["data"]
    file.create_dataset("data", data=["a", "b"], dtype=h5py.string_dtype())


def link_shard(run: Path) -> Path:
    """A committed file becomes a link to the outside."""
    path = min(run.glob("maps/*/arrays.zarr/scale/c.*"))
    path.rename(run.parent / "moved")
    path.symlink_to("/etc/hostname")
    return path


def leave_the_folder(run: Path) -> Path:
    path = next(run.glob("maps/*/done/000000.json"))
    record = read_sealed(path)
    record["files"][0]["name"] = "../../../../etc/passwd"
    path.write_bytes(seal(record))
    return path


HOSTILE = {
    "pickle codec": swap_zarr({"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}),
    "unknown codec": swap_zarr({"codecs": [{"name": "evil", "configuration": {}}]}),
    "codec without a name": swap_zarr({"codecs": [{}]}),
    "Zarr v2": swap_zarr({"zarr_format": 2}),
    "rows of 1 TiB": swap_zarr({"shape": [8, 1 << 40]}),
    "1 TiB of rows": swap_zarr({"shape": [1 << 40, 28, 28]}),
    "chunks of 1 TiB": swap_zarr(
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 30, 28, 28]}}}
    ),
    "objects": swap_zarr({"data_type": "O"}),
    "storage transformers": swap_zarr({"storage_transformers": [{"name": "evil"}]}),
    "external storage": swap_volume(_external_storage),
    "external link": swap_volume(_external_link),
    "soft link": swap_volume(_soft_link),
    "virtual dataset": swap_volume(_virtual),
    "1 TiB dataset": swap_volume(_tebibyte),
    "object dataset": swap_volume(_objects),
    "shard is a link": link_shard,
    "record leaves the folder": leave_the_folder,
}


def test_hostile_stores(tiny_run, tmp_path, count):
    """The records fit the hostile files: it is not a checksum that finds them."""
    right = 0
    for name, harm in HOSTILE.items():
        run = tmp_path / "case/run"
        shutil.rmtree(tmp_path / "case", ignore_errors=True)
        shutil.copytree(tiny_run.path, run)
        path = harm(run)

        def refused(run=run, path=path):
            try:
                opened = cache.open(run)
                for row in range(opened.num_rows):
                    opened.saliency(row), opened.focus(row)
            except DamagedError as error:
                assert path.name in str(error) or str(path.parent.name) in str(error), error
            else:
                raise AssertionError("was read")

        right += in_little_memory(refused)
        assert right, name
    count("T12", "hostile stores: refused by name, below 500 MB", right, len(HOSTILE))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to four random changes: bits, bytes, cuts, repeats, and things that JSON and CSV parsers meet seldom."""
    odd = [
        b"\0",
        b'"',
        b"{",
        b"[" * 2000,
        b"1e999",
        b"NaN",
        b"-0",
        b"\xff",
        b"\\u0000",
        b",",
        b"\r",
        b"9" * 5000,
        b"null",
    ]
    data = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        place, length = chance.randrange(len(data) + 1), chance.randrange(1, 20)
        kind = chance.randrange(4)
        if kind == 0:
            data[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[: place % 200]
        else:
            data[place:place] = chance.choice(odd)
    return bytes(data)


def _read_run(run: Path, product: str) -> list[bytes]:
    """The first row of every array or volume."""
    found = []
    parts = {part.name: part for part in read_plan(run)}
    for path in (run / product).glob("*/run.json"):
        directory = read_product(path.parent, parts)
        directory.rows_done()
        store = VolumeStore(directory) if product == "crops" else ZarrStore.open(directory)
        rows = [store.volume(0)] if product == "crops" else [store.read(name, 0) for name in store.arrays]
        found += [row.tobytes() for row in rows]
    return found


FUZZED = {
    "record": ("maps/*/done/000000.json", "maps"),
    "segment": ("maps/*/done/segments/*.jsonl", "maps"),
    "run.json": ("maps/*/run.json", "maps"),
    "zarr.json": ("maps/*/arrays.zarr/codes/zarr.json", "maps"),
    "plan json": ("plan/part-000-train.json", "maps"),
    "HDF5": ("crops/*/volumes/000000-*.h5", "crops"),
}


@pytest.mark.parametrize("name", FUZZED)
@pytest.mark.parametrize("resealed", [False, True])
def test_random_mutations_of_stored_files(name, resealed, tiny_copy, trials, count):
    """Only our own errors, or the right data; with `resealed` the record fits the mutation."""
    if name == "segment":
        fold_all(tiny_copy.path)
    if resealed and name in ("record", "segment", "run.json", "plan json"):
        pytest.skip("sealed by themselves: nothing to reseal")
    pattern, product = FUZZED[name]
    path = sorted(tiny_copy.path.glob(pattern))[0]
    good, chance, number, named = path.read_bytes(), random.Random(name), trials(1000, 40), 0
    truth = _read_run(tiny_copy.path, product)
    records = {file: file.read_bytes() for file in tiny_copy.path.glob(f"{product}/*/done/*.json")}
    for _ in range(number):
        path.write_bytes(mutate(good, chance))
        if resealed:
            _reseal(path)
        try:
            named += _read_run(tiny_copy.path, product) == truth or resealed
        except CacheError:
            named += 1
        for file, content in records.items():
            file.write_bytes(content)
        path.write_bytes(good)
    which = "random mutations that the record fits" if resealed else "random mutations"
    what = f"{name}: {which} end in our own errors or the right data"
    count("T15", what, named, number)


def test_random_mutations_of_tables(tmp_path, trials, count):
    plain = b"video_id,split,start,end,label\nv,train,0,1.5,wave\nw,test,,,sit\nx,train,,,\n"
    charades = b"id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\r\n"
    charades += b'A,S,Kitchen,6,7,Yes,"One, ""two""",a;b,x,c000 0.00 4.00;c001 0.50 1.00,8.00\r\n'
    (tmp_path / "classes.txt").write_text("wave\nsit\n")
    (tmp_path / "codes.txt").write_text("c000 wave\nc001 sit\n")
    (tmp_path / "test.csv").write_bytes(charades.replace(b"A,S", b"T,S"))
    chance, number, named = random.Random(5), trials(1000, 100), 0
    table = tmp_path / "table.csv"
    for trial in range(2 * number):
        table.write_bytes(mutate((plain, charades)[trial % 2], chance))
        try:
            if trial % 2:
                read_charades(table, tmp_path / "test.csv", tmp_path / "codes.txt")
            else:
                read_plain(table, tmp_path / "classes.txt")
            named += 1
        except AnnotationError:
            named += 1
    count("T15", "tables: random mutations are read or refused by name", named, 2 * number)


def test_the_checks_can_fail(tmp_path):
    """A child that takes too much, or fails, is noticed."""
    assert not in_little_memory(lambda: np.ones(MEMORY // 4, "f8").sum())
    assert not in_little_memory(lambda: 1 / 0)
    assert in_little_memory(lambda: None) and ProductDir
