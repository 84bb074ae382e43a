"""One unit of a stage, a few whole videos of a plan part: lock it, see what is missing, compute, write, record."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cache.errors import UnitTakenError
from cache.plan import Part
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore
from pipeline.config import Config
from pipeline.data.video.find import video_folder
from pipeline.errors import DecoderCrashed
from pipeline.run.folder import open_folder
from pipeline.run.stores import Stores, open_stores
from pipeline.workers import phases

log = logging.getLogger(__name__)

Store = ZarrStore | VolumeStore


class Unit(NamedTuple):
    """A unit of the plan by the name of its part and its number there."""

    part: str
    number: int


@dataclass(frozen=True)
class UnitWork:
    """What a stage does with a unit. A subclass says which stores it fills and how.

    It travels to the workers as its fields alone; each worker opens run folder, stores and network once.
    """

    run_dir: Path
    config: Config
    opened: Stores | None = field(default=None, kw_only=True, metadata={"travels": False})  # to write, in this process

    def stores_of(self, part: Part) -> list[Store]:
        """Return the stores of a part that this work fills."""
        raise NotImplementedError

    def compute(self, part: Part, unit: Unit, wanted: list[Store], skipped: list[dict]) -> dict[Store, object]:
        """Compute a unit for the stores that lack it, as `write_unit` of each takes it.

        `skipped` gets an entry, see `skip`, for each video that cannot be read.
        """
        raise NotImplementedError

    def blank(self, part: Part, unit: Unit, wanted: list[Store]) -> dict[Store, object]:
        """Return what `compute` would where every video of the unit is skipped."""
        raise NotImplementedError

    def follow(self, part: Part, unit: Unit, values: dict[Store, object]) -> None:
        """Do what needs the values that were just committed, while they are in memory."""

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        """Do and commit a unit of every store that lacks it.

        Args:
            wait: for another process that works on the unit.
            crashed: how its workers died; then its videos are recorded as skipped.
        Returns:
            rows done, without those of skipped videos; None where another process is at work on a store that was asked
            for, and `wait` is False.
        """
        part = self.stores.run.part(unit.part)
        stores = self.stores_of(part)
        with ExitStack() as locks:
            wanted, skipped = _take(stores, unit.number, locks, wait), []
            if wanted:
                if crashed:
                    ids = dict.fromkeys(part.video_ids[row] for row in part.unit_rows(unit.number))
                    skipped = [skip(video_id, DecoderCrashed(crashed)) for video_id in ids]
                    values = self.blank(part, unit, wanted)
                else:
                    values = self.compute(part, unit, wanted, skipped)
                try:
                    with phases.phase("write"):
                        first = [store for store in wanted if store.write_unit(unit.number, values[store], skipped)]
                    self.follow(part, unit, {store: values[store] for store in first})
                except UnitTakenError:
                    if wait:
                        raise
                    return None
            if not all(store in wanted or store.product.is_done(unit.number) for store in stores):
                return None
            failed = {entry["video_id"] for entry in skipped}
            return sum(part.video_ids[row] not in failed for row in part.unit_rows(unit.number)) if wanted else 0

    @cached_property
    def stores(self) -> Stores:
        """The run's stores, opened once, to write them."""
        return self.opened or open_stores(open_folder(self.run_dir, self.config), self.config, to_write=True)

    @property
    def videos(self) -> Path:
        """The folder that the plan's paths of videos are relative to."""
        return video_folder(self.config.data)

    def __getstate__(self) -> dict:
        """Travel as fields; one with `metadata={"travels": False}` stays at its default."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.metadata.get("travels", True)}


def _take(stores: list[Store], unit: int, locks: ExitStack, wait: bool) -> list[Store]:
    """Lock a unit of every store, always in the same order; return the stores whose unit is ours to do.

    Where another process is at work on one, those after it are left to it: else both would compute the unit.
    """
    wanted = []
    with phases.phase("wait"):
        for store in sorted(stores, key=lambda store: str(store.product.path)):
            if locks.enter_context(store.product.lock(unit, wait)):
                wanted.append(store)
            elif not store.product.is_done(unit):
                break
    return wanted


def withdraw_skipped(stores: Iterable[Store]) -> None:
    """Withdraw the records that name skipped videos, so that their units are done again."""
    for store in stores:
        for unit in store.product.skips():
            if not store.product.withdraw(unit):
                log.warning("%s, unit %d: another process is at work on it", store.product.path, unit)


def skip(video_id: str, error: Exception) -> dict:
    """Return the entry of a commit record for a video that failed, and warn of it."""
    log.warning("%s left out: %s: %s", video_id, type(error).__name__, error)
    return {"video_id": video_id, "error": type(error).__name__, "detail": str(error)}


def skipped_videos(stores: Iterable[Store]) -> dict[str, str]:
    """Return the videos that the records of some stores name as failed: by id, the name of the error and its text."""
    found = (entries for store in stores for entries in store.product.skips().values())
    return {one["video_id"]: f"{one['error']}: {one['detail']}" for entries in found for one in entries}
