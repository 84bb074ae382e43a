"""The file cache deletes what it has made, and nothing else that lies in its folder."""

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cache.errors import CacheError
from cache.remote import file_cache

OLD = time.time() - 10 * file_cache.STALE_SECONDS


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder of files, not there yet; nothing may be kept, so that each new file deletes all old ones."""
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE", str(tmp_path))
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE_GB", "0")
    monkeypatch.setattr(file_cache, "_added", {})
    return tmp_path / "files"


def keep(data):
    return file_cache.keep(hashlib.sha256(data).hexdigest(), data)


def put(path, old=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"data")
    os.utime(path, (old, old))
    return path


def test_what_others_put_into_its_folder_stays(files):
    first = keep(b"first")
    os.utime(first, (OLD, OLD))
    sha = first.name
    left = put(files / sha[:2] / f".{sha}.{'0' * 32}.tmp")  # by a killed writer
    theirs = [
        put(files / "holiday" / "beach.jpg"),
        put(files / sha[:2] / "notes.tmp"),
        put(files / sha[:2] / ".draft.tmp"),
        put(files / sha[:2] / sha[:-1]),
        put(files / sha[:2] / f"{sha}.txt"),
        put(files / "zz" / ("z" * 64)),
        put(files / "00" / ("f" * 64)),  # not where a file of this name is kept
        put(files / "deep" / "er" / sha),
    ]
    (files / "ab").mkdir(exist_ok=True)
    (files / "ab" / ("ab" + "0" * 62)).symlink_to(theirs[0])
    second = keep(b"second")
    assert not first.exists() and not left.exists() and second.exists()
    assert all(path.exists() for path in theirs) and (files / "ab" / ("ab" + "0" * 62)).is_symlink()


def test_the_first_of_several_who_keep_a_file_stays(files, monkeypatch):
    """The others downloaded it meanwhile; one that is cut is replaced."""
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE_GB", "1")
    first = keep(b"data").stat().st_ino
    with open(keep(b"data"), "r+b") as file:
        assert os.fstat(file.fileno()).st_ino == first
        file.truncate(2)
    assert keep(b"data").read_bytes() == b"data"


def test_several_processes_keep_a_file(files, monkeypatch):
    """It is written once, whoever comes first."""
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE_GB", "1")
    written, real, together = [], file_cache.write_file, threading.Barrier(4)
    monkeypatch.setattr(file_cache, "write_file", lambda *file: written.append(file) or real(*file))
    monkeypatch.setattr(file_cache, "_make_room", lambda *_: together.wait())  # all have found that it is missing
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(keep, [b"data"] * 4))) == 1
    assert len(written) == 1


def test_a_folder_that_holds_something_else_is_not_taken(files):
    photograph = put(files / "2019" / "beach.jpg")
    with pytest.raises(CacheError, match="holds 2019, which is not a downloaded file; name an empty folder"):
        keep(b"first")
    assert photograph.exists() and not (files / file_cache.MARK).exists()


def test_a_folder_of_an_older_version_is_taken(files):
    """It has no mark, but nothing that was not made here."""
    sha = hashlib.sha256(b"old").hexdigest()
    old = [put(files / sha[:2] / sha), put(files / sha[:2] / f".{sha}.{'0' * 32}.tmp"), put(files / ".lock")]
    keep(b"new")
    assert (files / file_cache.MARK).exists() and [path.exists() for path in old] == [False, False, True]


@pytest.mark.parametrize("text", ["x", "nan", "-1", "inf"])
def test_a_limit_that_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE_GB", text)
    with pytest.raises(CacheError, match=f"FOCUSED_ATTENTION_CACHE_GB: expected a number of gigabytes, got '{text}'"):
        file_cache.limit()


def test_the_folder_is_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE", "here")
    assert file_cache.local_folder() == tmp_path / "here"
