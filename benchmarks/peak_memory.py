"""Row 13: peak memory of each stage, on 10 times the videos, on a 10 times longer video, on 4 times the source area."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.result import Result
from benchmarks.scene import make
from pipeline.config_file import to_toml

LIMITS = {"10x the videos": 1.1, "a 10x longer video": 1.5, "4x the source area": 1.5}
STAGES = ("prepare", "saliency", "crops", "train-fusion", "evaluate")
CHILD = """
import sys
from pipeline.cli.main import main
from pipeline.workers.peak_memory import peak_bytes
try:
    main(sys.argv[1:])
finally:
    print(peak_bytes())
"""


def measure() -> Result:
    """One process a stage, with a small network; its interpreter and libraries count."""
    with TemporaryDirectory() as folder:
        scenes = {
            "as it is": {"train": 1, "test": 1, "seconds": 8.0},
            "10x the videos": {"train": 10, "test": 10, "seconds": 8.0},
            "a 10x longer video": {"train": 1, "test": 1, "seconds": 80.0},
            "4x the source area": {"train": 1, "test": 1, "seconds": 8.0, "size": (540, 960)},
        }
        peaks = {name: _peaks(Path(folder) / str(n), options) for n, (name, options) in enumerate(scenes.items())}
    plain = peaks["as it is"]
    growth = {name: {stage: peaks[name][stage] / plain[stage] for stage in STAGES} for name in LIMITS}
    worst = {name: max(stages.values()) for name, stages in growth.items()}
    named = ", ".join(f"{stage} {plain[stage] / 1e6:.0f}" for stage in STAGES)
    return Result(
        name="peak memory of each stage's process: 10x the videos; a 10x longer video; 4x the source area",
        ours=max(peaks["10x the videos"].values()) / 1e6,
        theirs=max(plain.values()) / 1e6,
        ratio=worst["10x the videos"],
        goal="≤ 1.1; ≤ 1.5; ≤ 1.5",
        met=all(worst[name] <= limit for name, limit in LIMITS.items()),
        agreement=f"worst stages {', '.join(f'{worst[name]:.2f}' for name in LIMITS)}; whole processes, MB: {named}",
        unit="MB",
        extra={"growth": growth, "bytes": plain},
    )


def _peaks(folder: Path, options: dict) -> dict[str, int]:
    """Peak resident bytes of every stage on a scene; `prepare` is repeated in a run of its own."""
    scene = make(folder, network="small_i3d", eval_clips=3, **options)
    config = folder / "benchmark.toml"
    config.write_text(to_toml(scene.config))
    found = {}
    for stage in STAGES:
        run = folder / "again" if stage == "prepare" else scene.run
        arguments = [stage, "--config", str(config), "--run", str(run)]
        arguments += ["--fusion", "late"] if stage == "train-fusion" else []
        output = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
        found[stage] = int(output.stdout.split()[-1])
    return found
