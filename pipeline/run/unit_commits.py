"""A unit of work: locked, computed, committed."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack

from cache.plan import Part
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore
from pipeline.errors import DecoderCrashed
from pipeline.workers import phases

log = logging.getLogger(__name__)


def take(stores: dict, unit: int, locks: ExitStack, wait: bool) -> dict:
    """Lock a unit of every store, always in the same order; those stores whose unit is ours to do."""
    order = sorted(stores, key=lambda name: str(stores[name].product.path))
    with phases.phase("wait"):
        mine = {name for name in order if locks.enter_context(stores[name].product.lock(unit, wait))}
    return {name: store for name, store in stores.items() if name in mine}


def rows_done(stores: dict, mine: dict, unit: int) -> int | None:
    """What a unit's work returns: rows it did; None where another process still works on a store that was asked for."""
    if not all(store.product.is_done(unit) for store in stores.values()):
        return None
    product = next(iter(stores.values())).product
    return len(product.part.unit_rows(unit)) if mine else 0


def retry_skipped(stores: Iterable[ZarrStore | VolumeStore]) -> None:
    """Withdraw the records that name skipped videos, so that their units are done again."""
    for store in stores:
        for unit in store.product.skips():
            if not store.product.withdraw(unit):
                log.warning("%s, unit %d: another process is at work on it", store.product.path, unit)


def skip_all(part: Part, unit: int, reason: str) -> list[dict]:
    """Entries of a commit record for every video of a unit whose worker was killed."""
    ids = dict.fromkeys(part.video_ids[row] for row in part.unit_rows(unit))
    return [skip(video_id, DecoderCrashed(reason)) for video_id in ids]


def skip(video_id: str, error: Exception) -> dict:
    """The entry of a commit record for a video that failed."""
    log.warning("%s left out: %s: %s", video_id, type(error).__name__, error)
    return {"video_id": video_id, "error": type(error).__name__, "detail": str(error)}


def skipped_videos(store: ZarrStore | VolumeStore) -> set[str]:
    """Ids of the videos that the records of a store name as failed."""
    return {entry["video_id"] for entries in store.product.skips().values() for entry in entries}
