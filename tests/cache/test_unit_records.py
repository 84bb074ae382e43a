"""Segments of commit records: whoever folds, reads, withdraws or dies meanwhile, each unit has its record."""

import json
import os
import shutil
import threading
import time

import pytest

from cache.commit import write_file
from cache.errors import DamagedError, NotDoneError
from cache.sealed import seal, seal_line
from cache.stores import unit_records
from cache.stores.open_product import open_product
from cache.stores.unit_records import UnitRecords
from tests.helpers.small_plan import part

PLAN = part(num_videos=13, rows_per_video=1, videos_per_unit=1)
SKIP = {"video_id": "00004", "error": "VideoMissing", "detail": "gone"}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """What fsync protects is tested in tests/reliability."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def product(root):
    return open_product(root, "boxes", PLAN, {"policy": "entropy"})


def do(found, unit, text="", skipped=None):
    """Commit a unit with a file of its own, as all processes would; unit 4 has a skipped video."""
    with found.lock(unit) as mine:
        name = {f"{unit:06d}-{unit:016x}.h5": f"unit {unit}{text}".encode() * (unit + 1)}
        skips = ([SKIP] if unit == 4 else []) if skipped is None else skipped
        (found.path / "volumes").mkdir(exist_ok=True)
        return mine and found.commit(unit, found.write("volumes", name), skips)


def filled(root, units=range(12)):
    found = product(root)
    for unit in units:
        assert do(found, unit)
    return found


def facts(found):
    """Everything that a product says of its records."""
    done = found.done_units()
    records = [found.record(unit) for unit in range(13)]
    return done, found.todo(), [found.is_done(unit) for unit in range(13)], records, found.skips(), found.num_bytes()


def names(found):
    return sorted(path.name for path in (found.path / "done").glob("*.json"))


def units_of(found):
    """The units of each segment."""
    lines = [(found.records.folder / name).read_text().splitlines() for name in found.records.segments()]
    assert all(json.loads(header)["units"] == [json.loads(one)["unit"] for one in rest] for header, *rest in lines)
    return sorted(json.loads(header)["units"] for header, *_ in lines)


def test_a_folded_product_says_what_it_said(tmp_path):
    found = filled(tmp_path)
    before, rows = facts(found), found.rows_done().tolist()
    assert before[4] == {4: [SKIP]} and before[5] == sum(6 * (n + 1) for n in range(10)) + 7 * 11 + 7 * 12
    assert found.records.fold() == 0 and not found.records.folder.exists()  # too few
    assert found.records.fold(fewest=12, most=5) == 12
    assert names(found) == [] and units_of(found) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    for one in (found, product(tmp_path)):
        assert facts(one) == before and one.rows_done().tolist() == rows
        one.verify(11)
    with pytest.raises(NotDoneError, match="unit 12 of boxes/"):
        found.checked_record(12)
    assert do(found, 12) and found.todo() == [] and not do(found, 3)  # done is done
    assert names(found) == ["000012.json"]
    assert found.records.fold(fewest=1) == 1 and found.todo() == [] and units_of(found)[-1] == [12]


def test_records_keep_their_bytes(tmp_path):
    found = filled(tmp_path)
    before = {unit: (found.path / f"done/{unit:06d}.json").read_bytes() for unit in range(12)}
    found.records.fold(fewest=1)
    assert {unit: seal(found.record(unit)) for unit in range(12)} == before
    (name,) = found.records.segments()
    found.records.unfold(found.records.folder / name)
    assert {unit: (found.path / f"done/{unit:06d}.json").read_bytes() for unit in range(12)} == before
    assert found.records.segments() == []


def test_many_commits_of_a_process_are_folded_on_the_way_and_the_last_ones_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("cache.stores.product_folder.FEWEST", 5)
    monkeypatch.setattr(unit_records.UnitRecords.fold, "__defaults__", (5, 1024))
    found = filled(tmp_path)
    assert units_of(found) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] and len(names(found)) == 2
    found.gather()
    assert len(names(found)) == 2  # unit 12 is still to do
    do(found, 12)
    found.gather()
    assert names(found) == [] and units_of(found)[-1] == [10, 11, 12]


def test_a_small_product_is_written_as_ever(tmp_path):
    found = filled(tmp_path, range(13))
    found.gather()
    assert len(names(found)) == 13 and not found.records.folder.exists()
    assert not (found.path / "locks/segments").exists()


def test_a_start_opens_a_file_a_segment(tmp_path, monkeypatch):
    found = filled(tmp_path)
    found.records.fold(fewest=1, most=3)
    fresh, size, opened = product(tmp_path), found.num_bytes(), []
    monkeypatch.setattr("builtins.open", lambda path, *how, real=open: opened.append(str(path)) or real(path, *how))
    assert fresh.todo() == [12] and list(fresh.skips()) == [4] and fresh.num_bytes() == size
    assert len(opened) == 4 == len(set(opened)) and all(path.endswith(".jsonl") for path in opened)


def test_a_reader_whose_listing_was_overtaken_misses_no_unit(tmp_path, monkeypatch):
    """At some listing of a reader another process folds, or withdraws, and the reader sees half of both."""
    real = os.scandir
    for number in range(4):
        for action in ("fold", "withdraw"):
            found, reader = filled(tmp_path / f"{number}{action}"), product(tmp_path / f"{number}{action}")
            if action == "withdraw":
                found.records.fold(fewest=1, most=6)
            left = number

            def slowly(path, found=found, action=action):
                nonlocal left
                left -= 1
                if left != -1:
                    return real(path)
                first, changed = _entries(path, real), len(found.records.segments())
                found.records.fold(fewest=1) if action == "fold" else found.records.withdraw(5)
                left = -100
                now = _entries(path, real)
                seen = [one for one in first if one in now]  # deleted names that came late, new ones that came early
                assert changed or action == "fold"
                return _Listing(seen)

            with monkeypatch.context() as patch:
                patch.setattr(os, "scandir", slowly)
                done = reader.done_units()
            assert done in ([*range(12)], [*range(5), *range(6, 12)] if action == "withdraw" else [*range(12)])
            assert reader.record(7) == found.record(7) and reader.is_done(7)


def _entries(path, listed):
    with listed(path) as entries:
        return [entry.name for entry in entries]


class _Listing(list):
    def __init__(self, names):
        super().__init__(type("Entry", (), {"name": name})() for name in names)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def test_a_record_that_moves_while_it_is_read(tmp_path, monkeypatch):
    """Into a segment; and from that into another one, which is without unit 4."""
    found = filled(tmp_path)
    steps = {"read_sealed": lambda: found.records.fold(fewest=1, most=6), "read_bytes": lambda: found.withdraw(4)}
    for name, step in steps.items():
        left, before = [step], (product(tmp_path).record(3), found.records.segments())
        real = getattr(unit_records, name)

        def late(*arguments, real=real, left=left):
            if left:
                left.pop()()
            return real(*arguments)

        reader = product(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(unit_records, name, late)
            assert reader.record(3) == before[0] and before[0]["unit"] == 3
        assert not left and found.records.segments() != before[1]
    real, left = open, [1]

    def gone(path, *how):
        if left and str(path).endswith(".jsonl"):
            left.pop()
            found.withdraw(5)
        return real(path, *how)

    monkeypatch.setattr("builtins.open", gone)
    assert product(tmp_path).todo() == [4, 5, 12]


def test_a_walk_that_is_overtaken_by_a_fold(tmp_path, monkeypatch):
    found, real, left = filled(tmp_path), unit_records.read_sealed, [1]

    def late(*arguments):
        if left and left.pop():
            found.records.fold(fewest=1, most=6)
        return real(*arguments)

    monkeypatch.setattr(unit_records, "read_sealed", late)
    walked = list(product(tmp_path).records.walk())
    assert sorted(record["unit"] for _, record in walked) == list(range(12))  # segments come by their hash
    assert {path.suffix for path, _ in walked} == {".jsonl"}


def read_sealed_record(found, unit):
    return next(record for _, record in found.records.walk() if record["unit"] == unit)


def test_a_folded_unit_is_withdrawn_and_done_anew(tmp_path):
    found, reader = filled(tmp_path), product(tmp_path)
    found.records.fold(fewest=1, most=5)
    size = found.num_bytes()
    assert list(reader.skips()) == [4] and found.withdraw(4)
    assert found.todo() == reader.todo() == [4, 12] and found.record(4) is reader.record(4) is None
    assert not found.skips() and not reader.skips() and found.num_bytes() == size - len(b"unit 4" * 5)
    assert units_of(found) == [[0, 1, 2, 3], [5, 6, 7, 8, 9], [10, 11]]
    assert do(found, 4, " anew", skipped=[])
    assert reader.todo() == [12] and reader.record(4)["skipped"] == []
    assert found.records.fold(fewest=1) == 1
    assert reader.todo() == [12] and reader.record(4)["skipped"] == [] and reader.skips() == {}
    reader.verify(4)
    assert found.num_bytes() == product(tmp_path).num_bytes() == size + 5 * len(" anew")
    for unit in (10, 11):
        assert found.withdraw(unit)
    assert [10, 11] not in units_of(found) and reader.todo() == [10, 11, 12]


def test_a_unit_that_is_withdrawn_while_its_record_is_folded_stays_withdrawn(tmp_path, monkeypatch):
    found, other = filled(tmp_path), product(tmp_path)
    real, threads = unit_records.write_file, []

    def meanwhile(*arguments):
        if not threads:
            threads.append(threading.Thread(target=other.records.withdraw, args=(5,)))
            threads[0].start()
            time.sleep(0.05)
        return real(*arguments)

    monkeypatch.setattr(unit_records, "write_file", meanwhile)
    assert found.records.fold(fewest=1) == 12
    threads[0].join()
    assert product(tmp_path).todo() == [5, 12]


def test_a_listing_is_kept_until_the_folder_changes(tmp_path, monkeypatch):
    """Two changes within one tick of the file system's clock are noticed, too."""
    found, reader = filled(tmp_path), product(tmp_path)
    found.records.fold(fewest=1)
    now = time.time_ns()
    os.utime(found.records.folder, ns=(now, now))  # folding may have taken seconds, waiting for a disk
    assert reader.is_done(4)
    found.records.withdraw(4)
    os.utime(found.records.folder, ns=(now, now))
    assert not reader.is_done(4)
    os.utime(found.records.folder, ns=(now - 10**10, now - 10**10))
    assert reader.is_done(5) and not reader.is_done(4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", None)
        assert reader.is_done(5) and not reader.is_done(4)
    found.records.withdraw(5)
    assert not reader.is_done(5)
    shutil.rmtree(found.records.folder)
    assert not reader.is_done(6) and reader.todo() == list(range(13))


def test_a_file_counts_before_a_segment(tmp_path):
    """As after a machine without shared locks did a unit that another one had done and folded."""
    found = filled(tmp_path)
    old = (found.path / "done/000003.json").read_bytes()
    found.records.fold(fewest=1)
    new = read_sealed_record(found, 3) | {"versions": {}}
    write_file(found.path / "done/000002.json", seal(found.record(2)))
    write_file(found.path / "done/000003.json", seal(new))
    for one in (found, product(tmp_path)):
        assert one.record(3) == new and len(one.done_units()) == 12
        assert [record for _, record in one.records.walk() if record["unit"] == 3] == [new]
    assert found.records.fold(fewest=1) == 1 and names(found) == ["000003.json"]  # 2 was there as it is, 3 was not
    assert product(tmp_path).record(3) == new and old != seal(new)


def test_two_that_share_no_locks_fold_at_once(tmp_path, monkeypatch):
    """Whatever one sees of the other's work: no unit is lost, and a withdrawn one is in neither segment."""
    found, other = filled(tmp_path), product(tmp_path)
    before = facts(found)
    other.records.lock = found.path / "locks" / "elsewhere"
    real, left = unit_records.read_sealed, [1]

    def late(*arguments):
        record = real(*arguments)
        if left and left.pop():
            assert do(other, 12) and other.records.fold(fewest=1, most=4) == 13
        return record

    monkeypatch.setattr(unit_records, "read_sealed", late)
    assert found.records.fold(fewest=1) == 1  # the one that it had read
    assert found.done_units() == list(range(13)) and names(found) == []
    assert [facts(found)[place][:12] for place in (2, 3)] == [before[place][:12] for place in (2, 3)]
    assert sum(0 in units for units in units_of(found)) == 2
    assert found.withdraw(0) and product(tmp_path).todo() == [0]


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "lost line", "swapped lines", "another product"])
def test_a_damaged_segment_is_named_and_the_others_are_read(tmp_path, harm):
    found = filled(tmp_path)
    found.records.fold(fewest=1, most=5)
    path = next(path for path in found.records.folder.iterdir() if json.loads(path.open().readline())["units"][0] == 0)
    lines = path.read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0])
    if harm == "swapped lines":
        lines[2:4] = lines[3], lines[2]
    elif harm == "lost line":
        del lines[2]
    elif harm == "another product":
        header.pop("sha256")
        lines[0] = seal_line(header | {"key": "0" * 16})
    harmed = {"cut": b"".join(lines)[:-9], "flipped": b"".join(lines).replace(b'"unit"', b'"unis"'), "empty": b""}
    path.write_bytes(harmed.get(harm, b"".join(lines)))
    reader = product(tmp_path)
    assert reader.record(7) == found.record(7) and reader.is_done(7)
    for unit in range(5):
        try:
            assert reader.record(unit)["unit"] == unit and harm in ("cut", "swapped lines")
        except DamagedError as error:
            assert path.name in str(error)
    if harm in ("empty", "another product"):  # it is not known which units are done
        for ask in (reader.todo, reader.done_units, reader.skips, reader.num_bytes, lambda: reader.is_done(12)):
            with pytest.raises(DamagedError, match=path.name):
                ask()
    ((place, error),) = [one for one in reader.records.walk() if isinstance(one[1], Exception)]
    assert place == path and path.name in str(error)


def test_a_damaged_segment_is_moved_before_anybody_folds_again(tmp_path):
    found, moved = filled(tmp_path), []
    found.records.fold(fewest=1)
    (path,) = found.records.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-9])

    def move(one):
        assert product(tmp_path).records.fold(fewest=1) == 0 and len(names(found)) == 11
        moved.append(one.rename(tmp_path / "aside"))

    found.records.unfold(path, move)
    assert moved == [tmp_path / "aside"] and product(tmp_path).todo() == [11, 12]


@pytest.mark.parametrize(
    "change",
    [
        {"units": "0-4"},
        {"units": [[0]]},
        {"units": ["0"]},
        {"bytes": [1.5]},
        {"bytes": [1]},
        {"bytes": {}},
        {"skipped": [4]},
        {"key": 5},
    ],
)
def test_a_header_of_a_stranger_is_refused(tmp_path, change):
    found = filled(tmp_path)
    found.records.fold(fewest=1)
    (path,) = found.records.folder.iterdir()
    header, *lines = path.read_bytes().splitlines(keepends=True)
    header = json.loads(header)
    del header["sha256"]
    path.write_bytes(b"".join([seal_line(header | change), *lines]))
    with pytest.raises(DamagedError, match=path.name):
        product(tmp_path).todo()


@pytest.mark.parametrize("work", ["fold", "fold again", "withdraw", "unfold"])
def test_nothing_is_deleted_before_what_replaces_it_is_on_the_disk(tmp_path, monkeypatch, work):
    """A power cut may undo whatever got its name in a folder since that was last fsynced."""
    found = filled(tmp_path)
    records = found.records
    if work != "fold":
        files = {path: path.read_bytes() for path in records.product.glob("done/*.json")}
        records.fold(fewest=1, most=6)
        for path, content in files.items() if work == "fold again" else ():
            path.write_bytes(content)  # as of one that was killed before it deleted them
    done, folder = str(records.folder.parent), str(records.folder)
    unsafe, deleted = {done, folder} if work == "fold again" else set(), []  # folders with names that may be undone
    real = {name: getattr(os, name) for name in ("replace", "link", "mkdir", "unlink")}

    def publish(name, source, target, **named):
        assert str(source) not in unsafe
        real[name](source, target)
        unsafe.add(os.path.dirname(target))

    def make(path, mode=0o777):
        real["mkdir"](path, mode)
        unsafe.update([os.path.dirname(path), str(path)])

    def create(path, flags, mode=0o777, real=os.open):
        if flags & os.O_CREAT and "locks" not in str(path):
            unsafe.add(str(path))
        return real(path, flags, mode)

    def delete(path):
        if str(path).endswith((".json", ".jsonl")):
            assert not unsafe & {done, folder}, (path, unsafe)
            deleted.extend([path] * os.path.exists(path))
        real["unlink"](path)
        assert {*range(12)} - {3} <= {record["unit"] for _, record in UnitRecords(records.product).walk()}

    monkeypatch.setattr(os, "fsync", lambda descriptor: unsafe.discard(os.readlink(f"/proc/self/fd/{descriptor}")))
    for name, one in {"mkdir": make, "open": create, "unlink": delete}.items():
        monkeypatch.setattr(os, name, one)
    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, lambda *both, name=name, **named: publish(name, *both, **named))
    (segment, *_) = records.segments() or [None]
    if work == "withdraw":
        records.withdraw(3)
    elif work == "unfold":
        records.unfold(records.folder / segment)
    else:
        assert records.fold(fewest=1) == 12
    assert len(deleted) == {"withdraw": 1, "unfold": 1}.get(work, 12) and folder not in unsafe
