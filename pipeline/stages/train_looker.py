"""train-looker: teach a small head on Base's features to predict the stored maps; then a box takes no gradient."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cache.plan import Part
from models.frozen.fold import fold
from models.i3d import as_input
from models.looker import FINER, block_features, cell_shares, train_looker
from pipeline.config import Config
from pipeline.data.input_batches import VideoFailed, decode_ahead, input_batches
from pipeline.data.video.find import video_folder
from pipeline.errors import StageError
from pipeline.run.folder import holds_run
from pipeline.run.looker_weights import TEACHER, looker_facts
from pipeline.run.networks import build_base, write_network
from pipeline.run.outcome import Outcome, say_left_out
from pipeline.run.stores import Stores, open_run
from pipeline.workers.device import cpu_threads, pick_device
from pipeline.workers.progress import progress

MOST_BYTES = 1 << 31  # of features that are held in memory; of more clips, an even share of the units is taken


@holds_run
def run(config: Config, run_dir: Path) -> Outcome:
    """Pass the clips of the training videos through Base once, and train the looker on their stored entropy maps.

    Reads the plan, Base's weights, maps of training clips and the videos. Writes models/looker-<key>/: weights.pt and
    looker.json.

    Raises:
        StageError: Base is not trained, or no training clip has a map.
        NetworkError: the network names no last block.
    """
    stores, device = open_run(run_dir, config), pick_device(config.device)
    folder = stores.looker_folder
    if (folder / "looker.json").exists():
        return Outcome(folder, "already trained")
    with cpu_threads(device, config.saliency.threads):
        features, shares, failed = _examples(stores, device)
    with cpu_threads(torch.device("cpu"), config.workers):
        looker, divergence = train_looker(features, shares, config.seed)
    maps = {part.name: stores.maps_settings(part, TEACHER) for part in stores.run.parts_of("train")}
    facts = looker_facts(stores.run, stores.base_weights.sha256, config.seed, maps)
    facts |= {"channels": features.shape[1], "num_clips": len(features), "divergence": divergence}
    write_network(folder / "looker.json", looker, facts, config)
    summary = f"{len(features)} clips, {divergence:.3f} nats from their maps"
    return Outcome(folder, summary, len(failed), say_left_out(failed))


def _examples(stores: Stores, device: torch.device) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Return features float16 (N, C, h, w), the shares of their maps' cells, and the videos that failed, with why."""
    config, videos, failed = stores.config, video_folder(stores.config.data), {}
    network = fold(build_base(stores.base_weights)).to(device)
    units = _units(stores, _bytes_a_clip(config, network, device))
    features, shares = [], []
    with decode_ahead(units, videos, config.workers) as decoded:
        for part, unit in progress(units, len(units), "train-looker", "units"):
            store = stores.maps(part, TEACHER)
            for batch in input_batches(part, unit, decoded, config.saliency.batch_size, device.type == "cuda"):
                if isinstance(batch, VideoFailed):
                    failed[batch.video_id] = f"{type(batch.error).__name__}: {batch.error}"
                    continue
                block = _features(network, as_input(batch.clips, device))
                features.append(block.half().cpu())
                codes = store.read_rows("codes", np.array(batch.rows)).astype(np.float32)
                codes = codes.reshape(len(codes), -1, *codes.shape[-2:]).max(1)  # over segments of time
                cells = FINER * block.shape[2], FINER * block.shape[3]
                shares.append(cell_shares(torch.from_numpy(codes), cells))
    if not features:
        raise StageError("no training clip can be read")
    return torch.cat(features), torch.cat(shares), failed


def _units(stores: Stores, bytes_a_clip: int) -> list[tuple[Part, int]]:
    """Return the units of training clips that are done and hold no skipped video, evenly spaced where they are many."""
    units, rows = [], 0
    for part in stores.run.parts_of("train"):
        product = stores.maps(part, TEACHER).product
        done = set(product.done_units()) - set(product.skips())
        units += [(part, unit) for unit in sorted(done)]
        rows += sum(len(part.unit_rows(unit)) for unit in done)
    if not units:
        raise StageError(f"{stores.run.path}: no training clip has an {TEACHER} map; run saliency first")
    return units[:: math.ceil(rows * bytes_a_clip / MOST_BYTES)]


def _bytes_a_clip(config: Config, network: torch.nn.Module, device: torch.device) -> int:
    clips = config.clips
    blank = torch.zeros(1, clips.num_frames, clips.input_side, clips.input_side, 3, device=device)
    return 2 * _features(network, blank)[0].numel()


def _features(network: torch.nn.Module, video: Tensor) -> Tensor:
    with torch.no_grad(), block_features(network) as features:
        network(video)
        return features()
