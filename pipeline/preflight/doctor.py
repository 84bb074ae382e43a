"""doctor: what stands in the way of a run, on this machine and in these data, each with what to do about it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.config import Config
from pipeline.preflight.finding import Finding


def examine(config: Config, run_dir: Path, videos: int = 8) -> Iterator[Finding]:
    """All checks in turn; each finding as soon as it is known. Writes nothing that stays.

    Args:
        videos: so many of them are probed and compared between decoders.
    """
    from pipeline.preflight import check_data as data
    from pipeline.preflight import check_machine as machine

    checks: list[Callable[[], Iterator[Finding]]] = [
        machine.check_python,
        machine.check_libraries,
        lambda: machine.check_device(config),
        machine.check_decoder,
        lambda: machine.check_folder_of(run_dir),
        lambda: machine.check_shared_memory(config),
        lambda: machine.check_open_files(config),
        lambda: data.check_data(config, run_dir, videos),
    ]
    for check in checks:
        yield from check()
