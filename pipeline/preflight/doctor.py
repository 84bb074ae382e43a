"""doctor: find what stands in the way of a run, on this machine and in its data, and say what to do about it."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Config
from pipeline.preflight import check_data, check_machine
from pipeline.preflight.finding import Finding


def examine(config: Config, run_dir: Path, videos: int = 8) -> Iterator[Finding]:
    """Yield the findings of all checks, each as soon as it is known; leave nothing on the disk.

    Args:
        videos: number of videos to probe and to compare between decoders.
    """
    yield from check_machine.check_python()
    yield from check_machine.check_libraries()
    yield from check_machine.check_device(config)
    yield from check_machine.check_decoder()
    yield from check_machine.check_folder_of(run_dir)
    yield from check_machine.check_shared_memory(config)
    yield from check_machine.check_open_files(config)
    yield from check_data.check_data(config, run_dir, videos)
