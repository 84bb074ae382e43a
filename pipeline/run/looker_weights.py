"""The trained looker of a run: models/looker-<key>/, weights and the record looker.json, which is written last."""

import json
from pathlib import Path

from cache.fingerprint import fingerprint
from cache.remote.fetch import fetch_recorded_files
from models.looker import BATCH_SIZE, EPOCHS, FINER, HIDDEN, LEARNING_RATE, Looker
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder
from pipeline.run.networks import load_trained, read_trained

TEACHER = "entropy"  # whose maps it predicts


def looker_facts(run: RunFolder, base: str, seed: int, maps: dict[str, dict]) -> dict:
    """Return what a looker is made from: plain JSON, the source of its key.

    Args:
        base: identity of Base's weights. maps: by name of a training part, the settings of the maps that it learns;
            segments of time do not count, for it learns the maximum over them, which is the map of the whole clip.
    """
    maps = {name: {key: one for key, one in of.items() if key != "time_segments"} for name, of in maps.items()}
    recipe = {"hidden": HIDDEN, "finer": FINER, "epochs": EPOCHS, "batch_size": BATCH_SIZE, "rate": LEARNING_RATE}
    plan = {part.name: part.rows_sha256 for part in run.parts_of("train")}
    return {"base": base, "maps": maps, "recipe": recipe, "seed": seed, "plan": plan}


def looker_folder(run: RunFolder, facts: dict) -> Path:
    """Return the folder of a looker with these facts."""
    return run.source / "models" / f"looker-{fingerprint(json.loads(json.dumps(facts)))}"


def looker_sha256(folder: Path) -> str:
    """Return the identity of a looker's weights; StageError where it is not trained."""
    if not (folder / "looker.json").exists():
        raise StageError(f"{folder}: no trained looker for this config; run train-looker first, after saliency")
    return read_trained(folder / "looker.json")["weights"]


def load_looker(folder: Path) -> Looker:
    """Load a trained looker, in eval mode, on the CPU; raises as `looker_sha256` and `load_trained`."""
    weights = looker_sha256(folder)
    fetch_recorded_files(folder / "looker.json")
    looker = Looker(read_trained(folder / "looker.json")["channels"])
    load_trained(looker, folder, weights)
    return looker.eval()
