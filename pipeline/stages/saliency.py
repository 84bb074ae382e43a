"""Stage 1: Base's logits, saliency maps and boxes of every planned clip, to Zarr."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count
from torch import Tensor, nn

from cache.folder_checks import check_folder, check_locks
from cache.plan import Part
from models.box_search import quantise
from models.i3d import as_input
from models.looker import Looker, block_features
from models.losses import LossTerms
from models.motion import motion_maps
from models.objectives import Labels, MapKind, objectives_of, saliency_maps
from models.saliency import patch_embedding
from pipeline.box_settings import num_looks
from pipeline.config import OBJECTIVES, Config
from pipeline.data.decoding_processes import DecodingProcesses
from pipeline.data.input_batches import InputBatch, VideoFailed, decode_ahead, input_batches
from pipeline.errors import StageError
from pipeline.run.closer_look import frozen_base
from pipeline.run.folder import holds_run
from pipeline.run.looker_weights import load_looker
from pipeline.run.networks import build_base
from pipeline.run.outcome import Outcome, say_left_out
from pipeline.run.precision_check import LOWEST_OVERLAP, sample_agreement
from pipeline.run.unit_commits import Store, Unit, UnitWork, skip, skipped_videos, withdraw_skipped
from pipeline.run.units import EVERYTHING, Share, gather_records, run_units, units_to_do
from pipeline.stages import boxes
from pipeline.workers import phases
from pipeline.workers.device import cpu_threads, pick_device
from pipeline.workers.engines import LOCAL, Engine
from pipeline.workers.prefetch import PrefetchedKeys, prefetch

log = logging.getLogger(__name__)


@holds_run
def run(
    config: Config,
    run_dir: Path,
    use_labels: bool = False,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    retry: bool = False,
    engine: Engine = LOCAL,
) -> Outcome:
    """Fill base, maps and boxes for every part of the plan.

    Reads the plan, the labels (for `cross_entropy` only), Base's weights and the videos. Writes base/, maps/ and
    boxes/. Units that are done are not computed again; a new box size or objective computes only what it changes.

    Args:
        use_labels: allow `cross_entropy` on evaluation clips, whose boxes then know the answer.
        share, retry: only these units; do units with skipped videos again.
    Raises:
        StorageError: the disk has no room for what is to come.
        StageError: Base is not trained, or `cross_entropy` is asked for without use_labels.
        NetworkError: the network lacks what `saliency.method` or `saliency.gradient_at` need.
    """
    work = SaliencyWork(run_dir, config)
    stores, objectives = work.stores, config.saliency.objectives
    parts = stores.run.parts_of(*splits)
    if "cross_entropy" in objectives and not use_labels and any(part.split == "test" for part in parts):
        which = "saliency.objectives has cross_entropy, which looks at the labels of evaluation videos"
        raise StageError(f"{which}: say --use-labels, and its results are marked as oracle")
    if config.saliency.gradient_at == "patches":
        patch_embedding(build_base(stores.base_weights))  # refuses a network without one before a video is read
    check_folder(run_dir)
    check_locks(run_dir, cluster=not engine.is_local)
    if retry:
        withdraw_skipped(work.filled(parts))
    units, workers = units_to_do(work, parts, share, _expected_size), _num_workers(config, engine)
    agreement = None
    with ExitStack() as stack:
        if workers == 1 and engine.is_local and not engine.devices:  # this process does all units
            ahead = decode_ahead([(stores.run.part(one.part), one.number) for one in units], *work.decoders, True)
            work = replace(work, decoded=stack.enter_context(ahead), opened=stores)
        if config.saliency.precision == "bfloat16" and set(objectives) & set(OBJECTIVES) and units and engine.is_local:
            agreement = sample_agreement(stores, units, work.network)
            if agreement and agreement.overlap < LOWEST_OVERLAP:
                log.warning("bfloat16 moves the boxes: %s; saliency.precision=float32 does not", agreement)
        rows = run_units(work, units, workers, "saliency", engine, on_device=True)
    looks = [boxes.run_policy(stores, objective, splits, share, engine) for objective in objectives]
    gather_records(work.filled(parts) if units else ())
    skipped = skipped_videos(work.filled(parts))
    total, names = sum(part.num_rows for part in parts), ", ".join(objectives) or "no maps"
    summary = f"{rows} of {total} rows computed now, {names}; Base {stores.base_weights.sha256[:12]}"
    summary += f"; bfloat16: {agreement}" if agreement else ""
    summary += "".join(f"; {one}" for one in looks if one)
    return Outcome(run_dir / "maps", summary, len(skipped), say_left_out(skipped))


def _expected_size(store: Store, units: list[int]) -> tuple[int, int]:
    """Return the bytes of some units without compression, and the number of their files."""
    num_bytes = sum(array.nbytes for array in store.arrays.values()) * len(units)
    return num_bytes // max(store.part.num_units, 1), 2 * (len(store.arrays) + 2) * len(units)


def _num_workers(config: Config, engine: Engine) -> int:
    """Return the number of processes on this machine: one a device, or `config.workers` where the CPU computes."""
    if not engine.is_local:
        return 1  # not used: a cluster has the workers that it has
    for device in engine.devices:
        pick_device(device)  # refuses one that is not there
    on_cpu = pick_device(config.device).type == "cpu" and not engine.devices
    wanted, threads, cores = config.workers, config.saliency.threads, cpu_count()
    if on_cpu and wanted * threads > cores:
        log.warning("%d workers x saliency.threads = %d on %d cores: fewer would be faster", wanted, threads, cores)
    return len(engine.devices) or (wanted if on_cpu else 1)


@dataclass(frozen=True)
class SaliencyWork(UnitWork):
    """Computes logits, maps and boxes of a unit."""

    # frames that the process decodes ahead, across units, where it does all of them
    decoded: PrefetchedKeys | DecodingProcesses | None = field(default=None, metadata={"travels": False})

    @cached_property
    def device(self) -> torch.device:
        """The device that computes."""
        return pick_device(self.config.device)

    @property
    def decoders(self) -> tuple[Path, int]:
        """The folder of videos, and how many decode them; beside a network on the CPU, one."""
        return self.videos, self.config.workers if self.device.type == "cuda" else 1

    @cached_property
    def network(self) -> nn.Module:
        """Base with its weights on the device."""
        saliency = self.config.saliency  # torch.compile would not see the hooks of the other ways
        pixels = saliency.method == "input_gradient" and saliency.gradient_at == "pixels"
        pixels = pixels and "looker" not in saliency.objectives
        return frozen_base(self.stores.base_weights, self.device, self.config.base.compile and pixels)

    @cached_property
    def looker(self) -> Looker:
        """The head of `train-looker` on the device."""
        return load_looker(self.stores.looker_folder).to(self.device)

    def stores_of(self, part: Part) -> list[Store]:
        """Return Base's store and one of maps per objective."""
        return [self.stores.base(part), *(self.stores.maps(part, name) for name in self.config.saliency.objectives)]

    def filled(self, parts: list[Part]) -> Iterator[Store]:
        """Yield all stores of the stage: those of its units, and the boxes of each objective."""
        for part in parts:
            yield from self.stores_of(part)
            yield from (self.stores.boxes(part, name) for name in self.config.saliency.objectives)

    def blank(self, part: Part, unit: Unit, wanted: list[Store]) -> dict[Store, dict[str, np.ndarray]]:
        """Return all arrays of a unit, by name, as they are where nothing is computed."""
        num_rows = len(part.unit_rows(unit.number))

        def blank(stored):
            return np.full((num_rows, *stored.shape[1:]), stored.fill_value, stored.dtype)

        return {store: {array: blank(one) for array, one in store.arrays.items()} for store in wanted}

    def compute(
        self, part: Part, unit: Unit, wanted: list[Store], skipped: list[dict]
    ) -> dict[Store, dict[str, np.ndarray]]:
        """Run the network over the unit's clips, where maps of it are wanted; rows of videos that fail stay blank."""
        arrays, first = self.blank(part, unit, wanted), part.unit_rows(unit.number).start
        base = arrays.get(self.stores.base(part))  # None where it is done
        every = {name: self.stores.maps(part, name) for name in self.config.saliency.objectives}
        of_maps = {name: arrays[store] for name, store in every.items() if store in arrays}
        entropy = objectives_of(self.config.data.task)["entropy"]
        with ExitStack() as stack:
            stack.enter_context(cpu_threads(self.device, self.config.saliency.threads))
            decoded = self.decoded or stack.enter_context(decode_ahead([(part, unit.number)], *self.decoders))
            size, pin = self.config.saliency.batch_size, self.device.type == "cuda"
            batches = prefetch(input_batches(part, unit.number, decoded, size, pin))
            for batch in stack.enter_context(closing(batches)):
                if isinstance(batch, VideoFailed):
                    skipped.append(skip(batch.video_id, batch.error))
                    continue
                local = [row - first for row in batch.rows]
                names = [name for name in of_maps if name != "motion"]
                logits, maps = self._forward(part, batch, names) if base is not None or names else (None, {})
                if "motion" in of_maps:
                    maps["motion"] = motion_maps(batch.clips, self.config.saliency.time_segments)
                with phases.phase("encode"):
                    if base is not None:
                        base["logits"][local] = logits.cpu().numpy()
                        base["entropy"][local] = entropy(logits).cpu().numpy()
                        base["frame_crc"][local] = batch.crc
                    for name, batch_maps in maps.items():
                        for row, saliency in zip(local, batch_maps.cpu().numpy(), strict=True):
                            of_maps[name]["codes"][row], of_maps[name]["scale"][row] = quantise(saliency)
        failed = {entry["video_id"] for entry in skipped}
        rows = [row - first for row in part.unit_rows(unit.number) if part.video_ids[row] in failed]
        for store in wanted:  # some of these rows may have been filled before their video failed
            for array, stored in store.arrays.items():
                arrays[store][array][rows] = stored.fill_value
        return arrays

    def follow(self, part: Part, unit: Unit, values: dict[Store, object]) -> None:
        """Find the boxes of maps that are in memory; further looks at a clip come later, see `boxes.run_policy`."""
        for policy in self.config.saliency.objectives:
            maps = self.stores.maps(part, policy)
            if maps not in values:
                continue
            self._warn_of_empty_maps(unit, policy, values[maps]["scale"])
            if num_looks(policy, self.config.saliency) == 1:
                codes = values[maps]["codes"]
                boxes.BoxWork(self.run_dir, self.config, policy, opened=self.stores, codes=codes).do(unit)

    def _warn_of_empty_maps(self, unit: Unit, objective: str, scales: np.ndarray) -> None:
        """Warn, once a worker, of maps without a gradient, as of a network that is certain of everything.

        Args:
            scales: of a unit's maps, float32 (rows,); NaN where a video was skipped.
        """
        if objective in self._warned or (scales != 0).all():
            return
        self._warned.add(objective)
        why = "nothing moves" if objective == "motion" else "was Base's rate too high?"
        found = f"{unit.part}, unit {unit.number}: {(scales == 0).sum()} of {len(scales)} {objective} maps"
        log.warning("%s are zero everywhere, so their boxes lie at (0, 0): %s", found, why)

    @cached_property
    def _warned(self) -> set[str]:
        """The objectives of whose empty maps this worker has warned."""
        return set()

    def _forward(self, part: Part, batch: InputBatch, objectives: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute logits and maps of a batch, on the device."""
        saliency, labels, task = self.config.saliency, None, self.config.data.task
        with phases.device_phase("transfer", self.device):
            video = as_input(batch.clips, self.device)
            if "cross_entropy" in objectives:
                targets = self.stores.run.annotations.clip_targets(part, batch.rows)
                targets = (torch.from_numpy(values).to(self.device) for values in targets)
                labels = Labels(*targets, LossTerms.of(self.config.base, task))
        with phases.device_phase("network", self.device):
            how = MapKind.of(saliency), saliency.precision, labels, task
            if "looker" not in objectives:
                return saliency_maps(self.network, video, objectives, *how)
            with block_features(self.network) as features:
                names = [name for name in objectives if name != "looker"]
                logits, maps = saliency_maps(self.network, video, names, *how)
            return logits, maps | {"looker": self.looker.maps(features(), video.shape[2:4])}
