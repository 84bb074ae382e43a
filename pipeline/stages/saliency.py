"""Stage 1: Base looks at every planned clip; its logits, its saliency maps and the boxes go to Zarr."""

import logging
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count

from cache.folder_checks import check_folder, check_locks, check_space
from cache.plan import Part
from cache.stores.zarr_store import ZarrStore
from models.box_search import quantise
from models.frozen.fold import fold
from models.i3d import as_input
from models.losses import entropy
from models.objectives import saliency_maps
from pipeline.config import Config
from pipeline.data.input_batches import decode_ahead, input_batches
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, build_base, load_base
from pipeline.run.outcome import Outcome
from pipeline.run.precision_check import LOWEST_OVERLAP, sample_agreement
from pipeline.run.stores import open_base, open_boxes, open_maps
from pipeline.run.unit_commits import retry_skipped, rows_done, skip_all, skipped_videos, take
from pipeline.run.units import EVERYTHING, Share, open_workspace, run_units
from pipeline.stages import boxes
from pipeline.workers import phases
from pipeline.workers.device import _threads, pick_device
from pipeline.workers.engines import HERE, Engine
from pipeline.workers.prefetch import Ahead, buffered

log = logging.getLogger(__name__)


def run(
    config: Config,
    run_dir: Path,
    use_labels: bool = False,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    retry: bool = False,
    engine: Engine = HERE,
) -> Outcome:
    """Fill base, maps and boxes for every part of the plan.

    Reads the plan, the labels (for `cross_entropy` only), Base's weights and the videos. Writes base/, maps/ and
    boxes/. Units that are done are not computed again; a new box size or objective computes only what it changes.

    Args:
        use_labels: allow `cross_entropy` on evaluation clips, whose boxes then know the answer.
        splits: only the parts of these.
        share: only these units.
        retry: do units with skipped videos again.
        engine: who works.
    Raises:
        StorageError: the disk has no room for what is to come.
        StageError: Base is not trained, or `cross_entropy` is asked for without use_labels.
    """
    workspace = Workspace(run_dir, config)
    base = load_base(workspace)
    if (
        "cross_entropy" in config.saliency.objectives
        and not use_labels
        and "test" in splits
        and workspace.parts_of("test")
    ):
        raise StageError(
            "saliency.objectives has cross_entropy, which looks at the labels of evaluation videos: "
            "say --use-labels, and its results are marked as oracle"
        )
    jobs, parts = [], [part for part in workspace.parts if part.split in splits]
    check_folder(run_dir)
    check_locks(run_dir, cluster=not engine.is_here)
    num_bytes = num_files = 0
    for part in parts:
        stores = _stores(workspace, part, base)
        if retry:
            boxes_of = (open_boxes(workspace, part, base.sha256, name) for name in config.saliency.objectives)
            retry_skipped([*stores.values(), *boxes_of])
        for store in stores.values():
            todo = share.units(store.product.todo())
            num_bytes += sum(array.nbytes for array in store.arrays.values()) * len(todo) // max(part.num_units, 1)
            num_files += 2 * (len(store.arrays) + 2) * len(todo)
        todo = share.units(set().union(*(store.product.todo() for store in stores.values())))
        jobs += [(part.name, unit) for unit in todo]
    check_space(run_dir, num_bytes, num_files)
    agreement = None
    if config.saliency.precision == "bfloat16" and config.saliency.objectives and jobs and engine.is_here:
        agreement = sample_agreement(workspace, jobs, *_network(run_dir, config, base.sha256))
        if agreement and agreement.overlap < LOWEST_OVERLAP:
            log.warning("bfloat16 moves the boxes: %s; saliency.precision=float32 does not", agreement)
    workers, work = _num_workers(config, engine), _do_unit
    with ExitStack() as stack:
        if workers == 1 and engine.is_here and not engine.devices:  # all work is done by this very process: it may
            threads = config.workers if pick_device(config).type == "cuda" else 1  # look beyond the unit it is at
            work = partial(_do_unit, decoded=stack.enter_context(decode_ahead(workspace, jobs, threads)))
        rows = run_units(work, workspace, jobs, workers, "saliency", engine, on_device=True)
    skipped = set()
    for objective in config.saliency.objectives:
        boxes.run_policy(workspace, base, objective, splits, share, engine)
    for part in parts:
        stores = _stores(workspace, part, base)
        skipped |= skipped_videos(stores["base"])
        _warn_of_empty_maps(part, stores)
    total = sum(part.num_rows for part in parts)
    names = ", ".join(config.saliency.objectives) or "no maps"
    summary = f"{rows} of {total} rows computed now, {names}; Base {base.sha256[:12]}"
    summary += f"; bfloat16: {agreement}" if agreement else ""
    return Outcome(run_dir / "maps", summary, len(skipped))


def _num_workers(config: Config, engine: Engine) -> int:
    """Processes on this machine: one a device, or as many as the config says where the CPU computes."""
    if not engine.is_here:
        return 1  # nobody asks: the cluster has as many as it has
    for device in engine.devices:
        pick_device(replace(config, device=device))  # refuses one that is not there
    on_cpu = pick_device(config).type == "cpu" and not engine.devices
    wanted, threads, cores = config.workers, config.saliency.threads, cpu_count()
    if on_cpu and wanted * threads > cores:
        log.warning("%d workers x saliency.threads = %d on %d cores: fewer would be faster", wanted, threads, cores)
    return len(engine.devices) or (wanted if on_cpu else 1)


def _warn_of_empty_maps(part: Part, stores: dict[str, ZarrStore]) -> None:
    """A network that is certain of everything has no gradient: its boxes all lie in the corner, so say it."""
    for objective in stores.keys() - {"base"}:
        done = np.flatnonzero(stores[objective].product.rows_done())
        empty = int((stores[objective].read_rows("scale", done) == 0).sum()) if len(done) else 0
        if empty:
            log.warning(
                "%s: %d of %d %s maps are zero everywhere, so their boxes lie at (0, 0): was Base's rate too high?",
                *(part.name, empty, len(done), objective),
            )


def _stores(workspace: Workspace, part: Part, base: BaseWeights) -> dict[str, ZarrStore]:
    """Base's store and one of maps per objective, by name."""
    stores = {"base": open_base(workspace, part, base.sha256, base.out_frames, base.num_classes)}
    for objective in workspace.config.saliency.objectives:
        stores[objective] = open_maps(workspace, part, base.sha256, objective)
    return stores


@lru_cache(maxsize=1)  # a worker may outlive its run
def _network(run_dir: Path, config: Config, weights: str) -> tuple[torch.nn.Module, torch.device]:
    """The network of a worker process with Base's weights of this identity: frozen, batch-norm folded."""
    workspace, device = open_workspace(run_dir, config), pick_device(config)
    return fold(build_base(workspace, load_base(workspace))).to(device), device


def _do_unit(
    run_dir: Path,
    config: Config,
    part_name: str,
    unit: int,
    wait: bool = False,
    crashed: str = "",
    decoded: Ahead | None = None,
) -> int | None:
    """Compute and commit one unit of every store that lacks it; rows computed, None as `run_units` says.

    Args:
        decoded: the process's own, across units; by default one for this unit.
    """
    workspace = open_workspace(run_dir, config)
    base = load_base(workspace)
    part = next(part for part in workspace.parts if part.name == part_name)
    with ExitStack() as locks:
        everything = _stores(workspace, part, base)
        stores = take(everything, unit, locks, wait)
        if stores:
            arrays, skipped = _blank(part, unit, stores), skip_all(part, unit, crashed) if crashed else []
            if not crashed:
                network, device = _network(run_dir, config, base.sha256)
                with ExitStack() as stack:
                    stack.enter_context(_threads(config.saliency.threads if device.type == "cpu" else None))
                    ahead = decoded or stack.enter_context(decode_ahead(workspace, [(part_name, unit)]))
                    _compute(workspace, part, unit, stores, arrays, skipped, network, device, ahead)
            with phases.phase("write"):
                for name, store in stores.items():
                    store.write_unit(unit, arrays[name], skipped)
        return rows_done(everything, stores, unit)


def _blank(part: Part, unit: int, stores: dict[str, ZarrStore]) -> dict[str, dict[str, np.ndarray]]:
    """All arrays of a unit, by store and name, as they are where nothing is computed."""
    num_rows = len(part.unit_rows(unit))
    return {
        name: {
            array: np.full((num_rows, *stored.shape[1:]), stored.fill_value, stored.dtype)
            for array, stored in store.arrays.items()
        }
        for name, store in stores.items()
    }


def _compute(
    workspace: Workspace, part: Part, unit: int, stores, arrays, skipped: list, network, device, decoded: Ahead
) -> None:
    """Fill the arrays of a unit; rows of videos that fail, which are added to `skipped`, end as they were."""
    first = part.unit_rows(unit).start
    with closing(buffered(input_batches(workspace, part, unit, decoded, skipped, device))) as batches:
        for batch in batches:
            local = [row - first for row in batch.rows]
            with phases.settled("transfer", device):
                video = as_input(batch.clips, device)
                targets = None
                if "cross_entropy" in stores:
                    labels = workspace.targets(part, batch.rows)
                    targets = tuple(torch.from_numpy(values).to(device) for values in labels)
            names = [name for name in stores if name != "base"]
            with phases.settled("network", device):
                logits, maps = saliency_maps(network, video, names, workspace.config, targets)
            with phases.phase("encode"):
                if "base" in stores:
                    arrays["base"]["logits"][local] = logits.cpu().numpy()
                    arrays["base"]["entropy"][local] = entropy(logits).cpu().numpy()
                    arrays["base"]["frame_crc"][local] = batch.crc
                for name, batch_maps in maps.items():
                    for row, saliency in zip(local, batch_maps.cpu().numpy(), strict=True):
                        arrays[name]["codes"][row], arrays[name]["scale"][row] = quantise(saliency)
    failed = {entry["video_id"] for entry in skipped}
    blank = [row - first for row in part.unit_rows(unit) if part.video_ids[row] in failed]  # some may be filled
    for name, store in stores.items():
        for array, stored in store.arrays.items():
            arrays[name][array][blank] = stored.fill_value
