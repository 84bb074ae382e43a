"""When a second look is worth it: where the entropy of Base's scores is above a threshold found on training clips."""

import numpy as np

from pipeline.errors import StageError
from pipeline.run.stores import Stores


def entropies(stores: Stores, split: str) -> dict[str, np.ndarray]:
    """Read Base's entropy, nats, of every stored clip of a split: by video id, float32 (clips,) in the plan's order.

    Raises:
        StageError: there is none.
    """
    found: dict[str, list[np.ndarray]] = {}
    for part in stores.run.parts_of(split):
        store = stores.base(part)
        rows = np.flatnonzero(store.product.rows_done())
        for video_id, value in zip(part.rows.video_id.iloc[rows], store.read_rows("entropy", rows), strict=True):
            found.setdefault(video_id, []).append(-value)  # stored is L_E, the sum of p log p
    if not found:
        raise StageError(f"no {split} clip has its entropy stored, from which the gate is found; run saliency first")
    return {video_id: np.array(values) for video_id, values in found.items()}


def threshold_of(training: np.ndarray, share: float) -> float:
    """Return the entropy that a share, in [0, 1], of the training clips exceeds: infinity for none, its minus for all.

    Args:
        training: entropies of training clips, (N,).
    Raises:
        ValueError: the share is out of its range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of clips lies in [0, 1], got {share}")
    above = round(share * len(training))
    return float(np.concatenate([[-np.inf], np.sort(training)[:-1], [np.inf]])[len(training) - above])
