"""Choose the stores that pictures are made from: maps, boxes and volumes that belong together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cache
from cache.catalog import Store, find_stores
from cache.errors import relative_to
from cache.fingerprint import fingerprint
from cache.plan_files import read_plan
from cache.reader import Run
from pipeline.errors import StageError


@dataclass(frozen=True)
class Sources:
    """A run, opened with one store of each product that it has; no maps where the boxes were found without any."""

    run: Run
    stores: dict[str, Store]

    @property
    def segments(self) -> int:
        """How many segments of time have a box of their own."""
        return self.stores["boxes"].lineage["boxes"].get("time_segments", 1) if "boxes" in self.stores else 1

    def rows_done(self, *products: str, split: str | None = None) -> np.ndarray:
        """Global rows of a split (None: of both) for which all these products are stored: int64, ascending."""
        found = [np.empty(0, np.int64)]
        for part in self.run.parts:
            if split not in (None, part.split):
                continue
            done = np.ones(part.num_rows, bool)
            for product in products:
                directory = self.stores[product].directories.get(part.name) if product in self.stores else None
                done &= directory.rows_done() if directory else False
            found.append(part.offset + np.flatnonzero(done))
        return np.concatenate(found)


@dataclass(frozen=True)
class Boxes:
    """Boxes of one store.

    Attributes:
        rows: global, int64 (N,).
        box_input, box_source: int32 (N, 4), top, left, height, width in the input frame and in the source frame; of k
            boxes a clip (N, k, 4).
        share: saliency inside as a share of the map, float32 (N,) or (N, k), NaN without maps.
        looks: the look that found the box, from 1, int32 (N,); None where `saliency.looks` was 1.
    """

    name: str
    rows: np.ndarray
    box_input: np.ndarray
    box_source: np.ndarray
    share: np.ndarray
    looks: np.ndarray | None = None


def require_plan(run_dir: Path) -> None:
    """Refuse a folder that `prepare` has not made."""
    if not list((run_dir / "plan").glob("part-*.json")):
        raise StageError(f"{run_dir} has no plan{relative_to(run_dir)}; run prepare first, with the same --run")


def open_sources(run_dir: Path, policy: str = "entropy", pixels: str = "source", base_weights: str = "") -> Sources:
    """Open a run with the crops of this policy and these pixels, or with other crops where it lacks them.

    Args:
        base_weights: SHA-256 of the Base whose maps are wanted; "" for any.
    """
    stores = find_stores(run_dir, {part.name: part for part in read_plan(run_dir)})

    def distance(one: Store) -> tuple[bool, bool]:
        weights = one.lineage.get("base", {}).get("weights", base_weights)
        return one.name not in (f"{policy}/{pixels}", policy, "base"), base_weights not in ("", weights)

    chosen: dict[str, Store] = {}
    for product in ("crops", "boxes", "maps", "base", "context"):
        fitting = [one for one in stores if one.product == product and all(map(one.agrees, chosen.values()))]
        without_maps = product == "maps" and "boxes" in chosen and "maps" not in chosen["boxes"].lineage
        if fitting and not without_maps:
            chosen[product] = min(fitting, key=distance)
    keys = {product: fingerprint(store.lineage[product]) for product, store in chosen.items()}
    return Sources(cache.open(run_dir, **keys), chosen)


def all_boxes(run_dir: Path, split: str) -> list[Boxes]:
    """The boxes of every store of the run in one split, by name.

    A name is the policy, then the saliency method unless it is the input gradient, then the first digits of the key
    where several stores have the same policy.
    """
    parts = {part.name: part for part in read_plan(run_dir)}
    stores = [one for one in find_stores(run_dir, parts) if one.product == "boxes"]
    found = []
    for store in stores:
        key = fingerprint(store.lineage["boxes"])
        sources = Sources(cache.open(run_dir, boxes=key), {"boxes": store})
        rows = sources.rows_done("boxes", split=split)
        if len(rows):
            arrays = ["box_input", "box_source", "saliency_share"]
            arrays += ["looks"] if store.lineage["boxes"].get("looks", 1) > 1 else []
            values = [sources.run.read("boxes", name, rows) for name in arrays]
            method = store.lineage.get("maps", {}).get("method", "input_gradient")
            name = store.name if method == "input_gradient" else f"{store.name}, {method}"
            twins = sum(other.name == store.name for other in stores) > 1
            found.append(Boxes(f"{name} {key[:6]}" if twins else name, rows, *values))
    return found
