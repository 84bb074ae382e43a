"""Processes that decode give what threads give, in the same order, and errors in their place."""

import errno
import multiprocessing
import os
import signal
import time
from collections import namedtuple
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.data import decoding_processes
from pipeline.data import input_batches as input_batches_module
from pipeline.data.decoding_processes import DecodingProcesses
from pipeline.data.input_batches import VideoFailed, decode_ahead, input_batches
from pipeline.errors import StageError
from pipeline.run.folder import open_folder
from pipeline.workers import phases
from pipeline.workers.prefetch import PrefetchedKeys, prefetch


def clips(key, deadly=0, told=None):
    """Of a made-up video: as many clips as its number, filled with it; the deadly one kills once a file is there."""
    if key == deadly:
        while not told.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    for row in range(key):
        yield 10 * key + row, np.full((2, 3, 4, 3), key, np.uint8), np.array([key, row], np.uint32)


def found(items):
    return [(row, int(volume.sum()), volume.shape, checksums.tolist()) for row, volume, checksums in items]


def test_order_and_keys_that_nobody_asks_for():
    """Keys before the one that is asked for are dropped, one that was never announced is worked on here."""
    with DecodingProcesses(clips, [1, 2, 3, 4], 2) as ahead:
        for key in (1, 3, 7, 4):
            assert found(ahead.get(key)) == found(clips(key))


def in_a_thread(ahead):
    """As stage 1 asks."""
    with closing(prefetch(clip for key in (2, 3) for clip in ahead.get(key))) as items:
        list(items)


@pytest.mark.parametrize("meanwhile", [lambda ahead: ahead.get(2), lambda ahead: time.sleep(300), in_a_thread])
def test_a_process_that_is_killed(tmp_path, meanwhile):
    """Is an error, not a wait for ever, whatever is done meanwhile; no process stays behind."""
    work = partial(clips, deadly=2, told=tmp_path / "told")
    with (
        pytest.raises(RuntimeError, match=r"^DataLoader worker "),  # what `cli.options` looks for
        DecodingProcesses(work, [1, 2, 3], 2) as ahead,
    ):
        assert found(ahead.get(1)) == found(clips(1))  # before the other process dies, for that ends all
        (tmp_path / "told").touch()
        meanwhile(ahead)
    assert not multiprocessing.active_children()


def test_keys_that_are_dropped_are_not_worked_on(tmp_path):
    """But for those that were begun, one a process: another command has done their unit."""

    def work(key):
        (tmp_path / str(key)).touch()
        return clips(key)

    with DecodingProcesses(work, list(range(1, 40)), 2) as ahead:
        for key in (1, 30, 38, 39):
            assert found(ahead.get(key)) == found(clips(key))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [1, 2, 3, 30, 31, 32, 38, 39]


@pytest.mark.parametrize("error", [StageError("of this kind"), OSError(errno.EMFILE, "Too many", "a.mp4"), KeyError(7)])
def test_other_errors(error):
    """Come as they are; of faults of the program PyTorch says where they happened. An error keeps no process."""

    def work(key):
        raise error

    with pytest.raises(type(error)) as raised, DecodingProcesses(work, [1, 2], 2) as ahead:
        ahead.get(1)
    assert isinstance(error, KeyError) or (raised.value.args, str(raised.value)) == (error.args, str(error))
    assert not multiprocessing.active_children()


def test_an_end_while_processes_are_at_work(tmp_path, monkeypatch):
    """As after an error of the network: soon, whatever PyTorch would wait for each, and none stays behind."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 600)

    def work(key):
        (tmp_path / str(key)).touch()
        time.sleep(600)

    with DecodingProcesses(work, [1, 2, 3, 4], 3):
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.01)
        start = time.monotonic()
    assert time.monotonic() - start < 300 and not multiprocessing.active_children()


def test_a_fault_of_the_program_is_no_killed_process():
    def work(key):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"), DecodingProcesses(work, [1, 2], 2) as ahead:
        ahead.get(1)


def test_shared_memory_that_is_full(monkeypatch):
    """Others may fill it after the start; PyTorch would print a traceback, and wait for ever."""

    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    wanted = "^/dev/shm: unable to allocate .* No space left on device .28.; fewer workers need less$"
    with pytest.raises(StageError, match=wanted), DecodingProcesses(clips, [1, 2], 2) as ahead:
        ahead.get(1)


@pytest.fixture
def batches(own_videos):
    """Called with the number of workers and whether they are processes: all batches of all units, and who decoded."""
    (own_videos.data / "T0002.mp4").write_bytes(b"no video")
    run = open_folder(own_videos.path, own_videos.config)

    def batches(workers, processes):
        units = [(part, unit) for part in run.parts for unit in range(part.num_units)]
        with decode_ahead(units, own_videos.data, workers, processes) as decoded:
            who = type(decoded)
            return who, [one for unit in units for one in input_batches(*unit, decoded, 2, False)]

    return batches


def test_the_same_batches_as_by_threads(batches):
    """The same rows, bytes and checksums, also after a video that cannot be read."""
    (_, wanted), (who, processed) = batches(1, False), batches(3, True)
    assert who is DecodingProcesses and len(processed) == len(wanted)
    failed = [one.video_id for one in processed if isinstance(one, VideoFailed)]
    assert failed == ["T0002"]
    for one, other in zip(processed, wanted, strict=True):
        if isinstance(other, VideoFailed):
            assert (one.video_id, type(one.error), str(one.error)) == (
                other.video_id, type(other.error), str(other.error)
            )  # fmt: skip
        else:
            assert one.rows == other.rows and torch.equal(one.clips, other.clips)
            assert one.crc.dtype == np.uint32 and (one.crc == other.crc).all()


def test_threads_where_shared_memory_is_small(batches, monkeypatch, caplog):
    """As in a container, whose default is 64 MB; one worker needs none."""
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(decoding_processes.shutil, "disk_usage", lambda path: usage(10_000))
    assert batches(3, True)[0] is PrefetchedKeys
    assert "3 processes that decode need" in caplog.text and "threads decode instead" in caplog.text
    caplog.clear()
    assert batches(1, True)[0] is PrefetchedKeys and not caplog.text


def test_fewer_processes_where_shared_memory_is_for_fewer(monkeypatch, caplog):
    monkeypatch.setattr(decoding_processes.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(4 * 10**9))
    assert decoding_processes.num_processes(16, 10**8) == 16 and not caplog.text
    assert decoding_processes.num_processes(16, 4 * 10**8) == 5
    assert "16 processes that decode need 12.8 GB" in caplog.text and ": 5 decode instead" in caplog.text
    assert decoding_processes.num_processes(16, 2 * 10**9) == 0  # one alone is no faster than a thread
    monkeypatch.setattr(decoding_processes, "SHARED_MEMORY", Path("/no/such/folder"))
    assert decoding_processes.num_processes(16, 10**8) == 0 and "/no/such/folder, 0.0 GB are free" in caplog.text


def test_the_largest_clips_count(monkeypatch):
    """Of all parts, those of a video of the part that has most."""
    monkeypatch.setattr(input_batches_module, "num_processes", lambda *asked: found.append(asked))
    monkeypatch.setattr(input_batches_module, "video_rows", lambda part, unit: [("a", [0])])
    paths, found = pd.DataFrame({"video_path": ["a.mp4"]}), []
    parts = [SimpleNamespace(name=n, rows=paths, rows_per_video=int(n), num_frames=2, input_size=(5, 7)) for n in "194"]
    with decode_ahead([(part, 0) for part in parts], Path(), 3, True):
        assert found == [(3, 9 * 2 * 5 * 7 * 3)]


def test_threads_for_segments(batches, monkeypatch):
    """Neighbours share what a process has decoded."""
    monkeypatch.setattr(input_batches_module, "is_segment", lambda path: True)
    assert batches(3, True)[0] is PrefetchedKeys


def test_what_processes_did_is_in_the_profile(batches):
    with phases.profile(lambda table: None, "test") as seconds:
        batches(2, True)
    assert seconds["decode", True] > 0 and seconds["resize", True] > 0
