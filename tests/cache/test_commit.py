"""Commits: atomic files, locks, records that come last, and what a reader is told about everything else."""

import errno
import logging
import multiprocessing
import os

import pytest

from cache import commit, fingerprint
from cache.commit import in_use, locked, write_file, write_once
from cache.errors import DamagedError, NotDoneError, StaleCacheError, StorageError
from cache.fingerprint import file_sha256, unchanged_sha256
from cache.sealed import read_sealed, seal
from cache.stores.open_product import open_product, read_product
from tests.helpers.small_plan import part

FORK = multiprocessing.get_context("fork")
SETTINGS = {"policy": "entropy", "size": [3, 5], "maps": {"objective": "entropy"}}


def _product(root, plan=None):
    return open_product(root, "boxes", plan or part(), SETTINGS)


def _do(product, unit, **extra):
    """What a stage does with one unit, with a text file for data."""
    with product.lock(unit) as mine:
        if not mine:
            return False
        path = product.path / f"{unit}.txt"
        write_file(path, f"unit {unit}".encode() * 9)
        return product.commit(unit, [path], **extra)


def _tree(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.parent.name != "locks"}


def _in_child(function, *arguments):
    child = FORK.Process(target=function, args=arguments)
    child.start()
    child.join(300)
    return child.exitcode


def test_write_file_replaces_and_write_once_does_not(tmp_path):
    path = tmp_path / "a.json"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert not write_once(path, b"three")
    assert path.read_bytes() == b"two"
    assert write_once(tmp_path / "b.json", b"four")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_file_that_is_there_is_replaced_whole_and_a_new_one_never_stays_in_part(tmp_path, monkeypatch):
    """By `write_files`; a part of a file, which a kill has left, is one that is there."""
    commit.write_files(tmp_path, {"a/1": b"first", "2": b"second"})
    with open(tmp_path / "a/1", "rb") as reader:
        commit.write_files(tmp_path, {"a/1": b"other"})
        assert reader.read() == b"first" and (tmp_path / "a/1").read_bytes() == b"other"
    real, written = os.write, []

    def full(descriptor, data):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(descriptor, data[:2]))
        return written[0]

    monkeypatch.setattr(os, "write", full)
    for name, left in (("a/1", b"other"), ("a/3", b"")):
        written.clear()
        with pytest.raises(StorageError, match="No space left"):
            commit.write_files(tmp_path, {name: b"third"})
        assert (tmp_path / name).read_bytes() == left
    monkeypatch.undo()
    commit.write_files(tmp_path, {"a/3": b"third"})
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"a/1": b"other", "a/3": b"third", "2": b"second"}


def test_folders_stay_open_to_be_fsynced_until_they_are_closed_or_made_again(tmp_path, monkeypatch):
    def is_open(folder):
        return str(folder) in {os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")}

    folder, synced, fsync = tmp_path / "folder", [], os.fsync
    folder.mkdir()
    commit.write_files(folder, {"1": b"one"})
    assert is_open(folder)
    (folder / "1").unlink()
    folder.rmdir()
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", lambda one: synced.append(os.fstat(one).st_ino) or fsync(one))
    write_once(folder / "2", b"two")
    assert synced[-1] == folder.stat().st_ino
    for number in range(commit.OPEN_DIRECTORIES + 3):
        commit.write_files(tmp_path, {f"{number}/1": b""})
    assert not is_open(folder) and is_open(tmp_path)
    commit.close_directories()
    assert not is_open(tmp_path) and not is_open(tmp_path / "9")


def test_of_several_processes_exactly_one_creates(tmp_path):
    def race(number):
        start.wait()
        for i in range(20):
            if write_once(tmp_path / f"{i}", f"{number}".encode()):
                write_once(tmp_path / f"{i}.won-by-{number}", b"")

    start = FORK.Barrier(3)
    children = [FORK.Process(target=race, args=(number,)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    for i in range(20):
        winner = (tmp_path / f"{i}").read_text()
        assert [p.name for p in tmp_path.glob(f"{i}.won-by-*")] == [f"{i}.won-by-{winner}"]


def test_a_lock_is_held_once_and_freed_by_a_kill(tmp_path):
    def hold_and_die():
        with locked(tmp_path / "lock") as mine:
            os._exit(10 if mine else 11)

    with locked(tmp_path / "lock") as mine:
        assert mine
        assert _in_child(hold_and_die) == 11
        with locked(tmp_path / "lock") as again:
            assert not again
    assert _in_child(hold_and_die) == 10
    with locked(tmp_path / "lock") as mine:
        assert mine


def test_a_thread_locks_a_run_once(tmp_path, monkeypatch):
    """What it does inside needs no second lock, and does not give up the first."""
    locks, flock = [], commit.fcntl.flock
    with in_use(tmp_path):
        monkeypatch.setattr(commit.fcntl, "flock", lambda *how: locks.append(how) or flock(*how))
        with in_use(tmp_path):
            assert not locks
        with locked(tmp_path / ".lock") as gc:
            assert not gc
    with locked(tmp_path / ".lock") as gc:
        assert gc


def test_a_product_directory_per_part_and_settings(tmp_path):
    first = _product(tmp_path)
    assert read_sealed(first.path / "run.json") == {
        "product": "boxes",
        "format": 2,
        "part": "part-000-train",
        "rows_sha256": part().rows_sha256,
        "settings": SETTINGS,
    }
    assert first.path == tmp_path / "boxes" / first.key and len(first.key) == 16
    _do(first, 0)
    before = _tree(tmp_path)
    other = _product(tmp_path, part(1, first_video=5))
    smaller = open_product(tmp_path, "boxes", part(), SETTINGS | {"size": [3, 4]})
    assert len({first.key, other.key, smaller.key}) == 3
    assert before.items() <= _tree(tmp_path).items()
    assert _product(tmp_path).key == first.key and _product(tmp_path).todo() == [1, 2]
    with pytest.raises(ValueError, match="'box', allowed: base, maps, boxes"):
        open_product(tmp_path, "box", part(), SETTINGS)


def test_stale_run_json_is_refused_with_the_field(tmp_path):
    product = _product(tmp_path)
    path, parts = product.path / "run.json", {"part-000-train": part()}
    run = read_sealed(path)
    assert read_product(product.path, parts).key == product.key
    for change, writer, reader in [
        ({"settings": SETTINGS | {"size": [5, 3]}}, r"settings.size: \[5, 3\] != \[3, 5\]", "its fingerprint is"),
        ({"format": 0}, "format: 0 != 2", "format: 0 != 2"),
        ({"part": "part-001-eval"}, "part: part-001-eval != part-000", "part: part-001-eval, the plan has part-000"),
        ({"rows_sha256": "0"}, "rows_sha256: 0 != ", "rows_sha256: 0 != "),
    ]:
        path.write_bytes(seal(run | change))
        with pytest.raises(StaleCacheError, match=writer):
            _product(tmp_path)
        with pytest.raises(StaleCacheError, match=reader):
            read_product(product.path, parts)
    path.write_text("{")
    with pytest.raises(DamagedError, match=r"run\.json"):
        read_product(product.path, parts)


def test_units_become_done_one_by_one(tmp_path):
    product = _product(tmp_path)
    assert product.todo() == [0, 1, 2] and product.record(2) is None
    with pytest.raises(NotDoneError, match="unit 2 of boxes/"):
        product.checked_record(2)
    assert _do(product, 2, objective="entropy")
    assert product.todo() == [0, 1]
    record = product.checked_record(2)
    assert record == product.record(2)
    assert (record["unit"], record["rows"], record["status"], record["objective"]) == (2, [8, 10], "ok", "entropy")
    assert [(file["name"], file["bytes"]) for file in record["files"]] == [("2.txt", 54)]
    assert product.rows_done().tolist() == [False] * 8 + [True] * 2
    with product.lock(2) as mine:
        assert not mine  # done is done
    product.verify(2)


def test_rows_of_skipped_videos_are_not_done(tmp_path):
    product = _product(tmp_path)
    skip = {"video_id": "00002", "error": "VideoTruncated", "detail": "3 of 8 frames"}
    _do(product, 1, skipped=[skip])
    assert product.todo() == [0, 2]
    assert product.rows_done().tolist() == [False] * 6 + [True] * 2 + [False] * 2  # unit 1 is videos 2 and 3
    product.check_row(6)
    with pytest.raises(NotDoneError, match="00002 was skipped, VideoTruncated"):
        product.check_row(5)
    with pytest.raises(ValueError, match="'00002'"):
        _do(product, 0, skipped=[skip])


def test_the_second_to_publish_a_unit_loses(tmp_path, caplog):
    product = _product(tmp_path)
    assert _do(product, 0)
    path = product.path / "0.txt"
    with caplog.at_level(logging.WARNING):
        assert not product.commit(0, [path], objective="other")
    assert "objective" not in product.record(0) and "published by another process" in caplog.text


def test_everything_is_durable_before_the_record_appears(tmp_path, monkeypatch):
    product, events = _product(tmp_path), []
    fsync, link = os.fsync, os.link

    def watched_fsync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_link(source, target):
        events.append("PUBLISHED")
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    folder = product.path / "data" / "deep"
    folder.mkdir(parents=True)
    (folder / "0.txt").write_text("by somebody who never syncs")
    product.commit(0, [folder / "0.txt"])
    before, after = events[: events.index("PUBLISHED")], events[events.index("PUBLISHED") + 1 :]
    assert {str(p) for p in (folder / "0.txt", folder, folder.parent, product.path)} <= set(before)
    assert ".000000.json." in before[-1]  # the record's own bytes
    assert str(product.path / "done") in after


def test_damage_is_found_and_named(tmp_path):
    product = _product(tmp_path)
    for unit in range(3):
        _do(product, unit)
    data, record = product.path, product.path / "done"
    (data / "0.txt").unlink()
    (data / "1.txt").write_bytes((data / "1.txt").read_bytes()[:-1])
    for unit in (0, 1):
        with pytest.raises(DamagedError, match=f"{unit}.txt is missing or not 54 bytes"):
            product.checked_record(unit)
    product.checked_record(2)
    (data / "2.txt").write_bytes(b"X" * 54)
    with pytest.raises(DamagedError, match=r"2\.txt does not have the SHA-256"):
        product.verify(2)
    (record / "000001.json").write_bytes((record / "000002.json").read_bytes())
    with pytest.raises(DamagedError, match="is the record of unit 2"):
        product.record(1)
    for text in ("{", "[]", "{}"):
        (record / "000001.json").write_text(text)
        with pytest.raises(DamagedError, match=r"000001\.json"):
            product.record(1)
    good = read_sealed(record / "000002.json")
    good["files"][0]["name"] = "../../secret"
    (record / "000002.json").write_bytes(seal(good))
    with pytest.raises(DamagedError, match="outside its directory"):
        product.record(2)


@pytest.mark.parametrize("call", ["fsync", "replace", "link", "open", "mkdir"])
def test_the_nth_call_to_the_system_fails(tmp_path, monkeypatch, call):
    """n = 1, 2, ... until a run gets through: always a StorageError, never a false record, and a clean resume."""
    plan = part(num_videos=1)
    _do(_product(tmp_path / "whole", plan), 0)
    real = getattr(os, call)
    for n in range(1, 99):
        root, left = tmp_path / f"{n}", n
        root.mkdir()

        def failing(*arguments, **keywords):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **keywords)

        failed = False
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                _do(_product(root, plan), 0)
            except StorageError as error:
                assert "No space left" in str(error)
                failed = True
        product = _product(root, plan)
        if not product.todo():
            product.verify(0)
        _do(product, 0)
        assert _tree(root) == _tree(tmp_path / "whole")
        if not failed:
            break
    assert n > 1 and not failed


def test_killed_before_the_record_and_run_again(tmp_path):
    def killed(root, step):
        product = _product(root)
        _do(product, 0)
        original = getattr(commit, step)

        def die_at(what, *rest):
            if any(
                "000001" in path.name or path.name == "1.txt" for path in (what if step == "make_durable" else [what])
            ):
                os._exit(9)
            return original(what, *rest)

        setattr(commit, step, die_at)
        _do(product, 1)

    for unit in range(3):
        _do(_product(tmp_path / "whole"), unit)
    for step in ("write_once", "make_durable"):
        root = tmp_path / step
        assert _in_child(killed, root, step) == 9
        product = _product(root)
        assert product.todo() == [1, 2]
        assert (product.path / "1.txt").exists()
        with pytest.raises(NotDoneError):
            product.checked_record(1)
        for unit in product.todo():
            assert _do(product, unit)
        assert _tree(root) == _tree(tmp_path / "whole")


def test_two_processes_share_a_plan(tmp_path):
    plan = part(num_videos=30, videos_per_unit=1)

    def work(number):
        product = _product(tmp_path, plan)
        start.wait()
        for unit in product.todo():
            if _do(product, unit):
                (tmp_path / f"{unit}-by-{number}").touch()

    start = FORK.Barrier(2)
    children = [FORK.Process(target=work, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    product = _product(tmp_path, plan)
    assert product.todo() == [] and product.rows_done().all()
    assert sorted(int(p.name.split("-")[0]) for p in tmp_path.glob("*-by-*")) == list(range(30))
    for unit in range(30):
        product.verify(unit)


def test_todo_of_many_units_lists_one_folder(tmp_path, monkeypatch):
    """And asks for no file by itself: what a million units cost is one listing."""
    product = _product(tmp_path, part(num_videos=20_000, rows_per_video=1, videos_per_unit=1))
    for unit in range(0, 20_000, 5):
        (product.path / "done" / f"{unit:06d}.json").touch()
    asked, listed = [], os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: asked.append(path) or listed(path))
        patch.setattr(os, "stat", None)
        todo = product.todo()
    assert len(todo) == 16_000 and asked == [product.path / "done"]


def test_a_part_without_rows(tmp_path):
    product = _product(tmp_path, part(num_videos=0))
    assert product.todo() == [] and product.rows_done().shape == (0,)


def test_a_file_that_stays_the_same_is_hashed_once(tmp_path, monkeypatch):
    path, hashed = tmp_path / "init.pth", []
    monkeypatch.setattr(fingerprint, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    path.write_bytes(b"one")
    assert unchanged_sha256(path) == unchanged_sha256(path) == file_sha256(path) and hashed == [path]
    write_file(path, b"two")  # of the same size
    os.utime(path, (0, 0))
    assert unchanged_sha256(path) == file_sha256(path) and len(hashed) == 2
    path.write_bytes(b"six")  # in place: the time of change tells
    os.utime(path, (1, 1))
    assert unchanged_sha256(path) == file_sha256(path) and len(hashed) == 3
