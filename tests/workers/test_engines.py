"""Who works does not show in the caches: Dask, Ray and loky against a plain run, also with a worker killed."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from cache.upkeep.sweep import sweep
from cache.upkeep.verify import verify
from pipeline.errors import StageError
from pipeline.run.unit_commits import Unit
from pipeline.run.units import Share, run_units
from pipeline.stages import crops, prepare, saliency
from pipeline.workers.device_claims import claim_device
from pipeline.workers.engines import LOCAL, Engine, parse_devices
from pipeline.workers.shared_paths import SharedDirectory
from tests.cli.test_commands import call, config_file
from tests.helpers.strange_work import AlwaysDies, DyingCrops, DyingSaliency, Refuses, TellsDevice
from tests.helpers.tiny_data import caches, change, tree

ROOT = Path(__file__).parents[2]
PATHS = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def dask_engine(tmp_path_factory):
    """A scheduler and two workers, as a user would start them, in another folder than the stages' own."""
    distributed = pytest.importorskip("distributed", reason="needs pip install -e '.[dask]'")
    folder, processes = tmp_path_factory.mktemp("dask"), []
    file = folder / "scheduler.json"
    place = ("--scheduler-file", str(file), "--no-dashboard")
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show")
    worker = ("worker", "--nthreads", "1", "--nworkers", "2", "--local-directory", str(folder))
    environment = os.environ | PATHS | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    for program, *arguments in (scheduler, worker):
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, *place]
        with open(folder / f"{program}.log", "wb") as log:
            processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment))
    while not file.exists():
        assert processes[0].poll() is None, (folder / "scheduler.log").read_text()
        time.sleep(0.05)
    with distributed.Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(2, 300)  # which a loaded machine may take longer to start than a stage waits for one
    yield Engine("dask", str(file))
    for process in reversed(processes):
        process.terminate()
        process.wait(300)


@pytest.fixture(scope="module")
def ray_engine():
    ray = pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (PATHS | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
            patch.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
        yield Engine("ray")
        ray.shutdown()


@pytest.fixture(params=["loky", "dask", "ray"])
def engine(request):
    return LOCAL if request.param == "loky" else request.getfixturevalue(f"{request.param}_engine")


def test_a_worker_killed_changes_no_byte(engine, trained, tiny_run, tmp_path, monkeypatch):
    """In both stages, in the middle of a unit. What the plain run has written is what everybody must write."""
    config = change(trained.config, workers=2)
    engine = Engine(devices=("cpu:0", "cpu:1")) if engine.is_local else engine
    monkeypatch.setattr(saliency, "SaliencyWork", partial(DyingSaliency, marks=tmp_path))
    monkeypatch.setattr(crops, "CropWork", partial(DyingCrops, marks=tmp_path))
    monkeypatch.chdir(trained.path.parent)  # workers of clusters are elsewhere
    saliency.run(config, Path(trained.path.name), engine=engine)
    crops.run(config, Path(trained.path.name), ("entropy",), engine=engine)
    victims = {int(path.read_text()) for path in tmp_path.glob("Dying*")}
    assert len(victims) == 2 and os.getpid() not in victims
    sweep(trained.path)  # what the killed ones had written, and no record names
    assert caches(trained.path) == caches(tiny_run.path)
    assert list(verify(trained.path)) == []


def units(numbers):
    """Of a part that nobody opens."""
    return [Unit("part", number) for number in numbers]


def test_a_unit_that_always_kills_is_given_up(engine, tiny_run, tmp_path):
    """By the process that asked for it, after the engine's retries and one more alone; all others are done."""
    done = run_units(AlwaysDies(tmp_path, tiny_run.config), units(range(8)), 2, "test", engine)
    assert done == 7
    assert [path.name for path in tmp_path.glob("*-skipped-*")] == [f"3-skipped-{os.getpid()}"]
    victims = (tmp_path / "3-begun").read_text().split()
    assert len(victims) == len(set(victims)) >= 2 and str(os.getpid()) not in victims


def test_errors_of_workers_arrive(engine, tiny_run, tmp_path):
    """As themselves, so that the command ends with their exit code; and nothing is taken for a dead worker."""
    with pytest.raises(StageError, match=r"^unit \d refuses$"):
        run_units(Refuses(tmp_path, tiny_run.config), units([1, 2]), 2, "test", engine)


def test_a_scheduler_that_dies_is_named():
    """What joblib hears then, of tasks that Dask cancels; the units that are done are done."""
    distributed = pytest.importorskip("distributed", reason="needs pip install -e '.[dask]'")
    from pipeline.workers.dask_backend import DaskUnits

    error = distributed.client.FutureCancelledError("key", "scheduler-connection-lost", "gone")
    with pytest.raises(StageError, match=r"scheduler-connection-lost.*the same command goes on"):
        DaskUnits.retrieve_result_callback(None, error)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\xff"])
def test_a_scheduler_file_that_is_none_is_refused(tmp_path, content, monkeypatch):
    """Dask waits for ever for a file that is missing; an address without tcp:// would be taken for one."""
    pytest.importorskip("distributed", reason="needs pip install -e '.[dask]'")
    from pipeline.workers import dask_backend

    monkeypatch.setattr(dask_backend, "Client", None)  # nothing is asked of Dask
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_bytes(content)
    for place in (str(file), "head:8786"):
        with pytest.raises(StageError, match=f"--scheduler {place}: neither an address"):
            dask_backend.connected(place, 1, False).__enter__()


def test_prepare_makes_the_same_plan(engine, tiny_run, own_videos, tmp_path):
    """Also with a video that fails, and when it is asked again."""
    (own_videos.data / "T0002.mp4").write_bytes(b"no video")
    config = change(own_videos.config, workers=2, data={"max_skipped": 0.5})
    names = ("videos.csv", "skipped.csv", "labels.csv", "classes.txt", "config.toml")
    found = []
    for run, who in ((tmp_path / "here", LOCAL), (tmp_path / "there", engine), (tmp_path / "there", engine)):
        prepare.run(config, run, engine=who)
        found.append(tree(run / "plan") | {name: (run / name).read_bytes() for name in names})
    assert found[0] == found[1] == found[2]
    assert b"VideoUnreadable" in found[1]["skipped.csv"] and not list((tmp_path / "there").glob("*.tmp"))


def test_every_worker_has_a_device_of_its_own(tiny_run, tmp_path):
    """The same one for all its units."""
    engine = Engine(devices=("cpu:0", "cpu:1", "cpu:2"))
    run_units(TellsDevice(tmp_path, tiny_run.config), units(range(18)), 3, "test", engine, on_device=True)
    used = {path.name: set(path.read_text().split()) for path in tmp_path.iterdir() if path.name.isdecimal()}
    assert len(used) == 3 and sorted(map(tuple, used.values())) == [("cpu:0",), ("cpu:1",), ("cpu:2",)]


def test_a_device_in_use_is_waited_for():
    """Also by a process too many, so that no unit waits for ever."""
    code = (
        "from pipeline.workers.device_claims import claim_device as claim\n"
        "print('started', flush=True)\n"
        "with claim(('cpu:0',), 'test-claims') as it: print(it)"
    )
    with claim_device(("cpu:0",), "test-claims"):
        other = subprocess.Popen([sys.executable, "-c", code], env=os.environ | PATHS, stdout=subprocess.PIPE)
        assert other.stdout.readline() == b"started\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
    assert other.communicate(timeout=300)[0] == b"cpu:0\n"


@pytest.mark.parametrize("text", ["0,0", "gpu", "0,", "-1", "cuda", "cpu:"])
def test_devices_that_are_none(text):
    with pytest.raises(ValueError, match="each once"):
        parse_devices(text)


def test_devices_are_parsed():
    assert parse_devices("") == () and parse_devices("cpu") == ("cpu",)
    assert parse_devices("0,1") == ("cuda:0", "cuda:1") and parse_devices("cpu:0,cpu:1") == ("cpu:0", "cpu:1")


def test_threads_are_those_of_the_key(trained, monkeypatch):
    """In every batch in this process, also where the network is there already; afterwards they are as before."""
    seen, real = [], saliency.saliency_maps
    monkeypatch.setattr(saliency, "saliency_maps", lambda *args: seen.append(torch.get_num_threads()) or real(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for index in range(2):
            saliency.run(change(trained.config, saliency={"threads": 2}), trained.path, share=Share(index, 2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [2] * 7  # batches of 3: units of 4, 4, 4 and 2 rows


def test_workers_that_see_another_folder_refuse(tmp_path):
    """Before anything is written, rather than to fill other caches or to miss every video."""
    (tmp_path / "there").touch()
    with SharedDirectory(tmp_path, (Path("there"),)).enter():
        assert Path.cwd() == tmp_path
    assert Path.cwd() != tmp_path
    for site in (SharedDirectory(tmp_path, (Path("there"), Path("mark"))), SharedDirectory(tmp_path / "nowhere", ())):
        with pytest.raises(StageError, match="workers need the same file system"), site.enter():
            raise AssertionError


def test_engines_that_cannot_work_say_so(trained, tmp_path, monkeypatch):
    common = ("saliency", "--config", config_file(trained), "--run", trained.path)
    assert call(*common, "--backend", "dask") == (2, call(*common, "--backend", "dask")[1])
    assert "needs --scheduler" in call(*common, "--backend", "dask")[1]
    assert call(*common, "--scheduler", "tcp://127.0.0.1:1")[0] == 2
    assert call(*common, "--devices", "0,0")[0] == call(*common, "--backend", "ray", "--devices", "0")[0] == 2
    code, output = call(*common, "--devices", str(torch.cuda.device_count()))
    assert code == 4 and "CUDA devices" in output
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name, place in (("dask", ("--scheduler", "tcp://127.0.0.1:1")), ("ray", ())):
        monkeypatch.delitem(sys.modules, f"pipeline.workers.{name}_backend", raising=False)
        code, output = call(*common, "--backend", name, *place)
        assert code == 4 and f"pip install -e '.[{name}]'" in output
    assert caches(trained.path, "base", "maps") and not list(trained.path.glob("*/*/done/*"))
