"""provenance.json beside a network's weights: under what it was trained. For people; no key and no reader uses it."""

import json
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cache.commit import write_file
from cache.fingerprint import file_sha256
from pipeline.config import Config

PROJECT = Path(__file__).parents[2]
LIBRARIES = ("torch", "torchvision", "numpy", "av", "zarr", "h5py", "simplejpeg", "numcodecs", "pandas", "pyarrow")
LIBRARIES += ("transformers", "safetensors")


def write_provenance(folder: Path, config: Config, weights: str, device: torch.device, processes: int) -> None:
    """Write down config, seeds, versions, git state, device, and the identities of initial and trained weights."""
    init = Path(config.base.init) if config.base.init else None
    facts = {
        "weights": weights,
        "init_sha256": file_sha256(init) if init and init.is_file() else None,
        "seeds": {"seed": config.seed, "plan_seed": config.clips.plan_seed, "data_seed": config.data.data_seed},
        "command": sys.argv[1:],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}",
        "processes": processes,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "git": git_state(PROJECT),
        "config": asdict(config),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "provenance.json", (json.dumps(facts, indent=2) + "\n").encode())


def git_state(root: Path) -> dict | None:
    """Return the commit and the changed files of a checkout; None where this is no checkout, or git is missing."""
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel").strip()).resolve() != root.resolve():
            return None  # installed somewhere inside another project
        changed = _git(root, "status", "--porcelain").splitlines()
        return {"commit": _git(root, "rev-parse", "HEAD").strip(), "changed": [line[3:] for line in changed]}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
