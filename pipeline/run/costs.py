"""What each experiment of a run costs a video, by the key of its result: the record costs.json. Needs no network."""

from collections.abc import Mapping
from pathlib import Path

from cache.commit import locked, write_file
from cache.errors import DamagedError
from cache.sealed import read_sealed, seal

PARTS = ("decode", "base", "look", "second")  # decode and resize; Base; its gradient, which finds the box; second pass
COST_COLUMNS = ("gflop", "seconds", *(f"seconds_{part}" for part in PARTS), "device")

Cost = dict[str, dict | str]  # "gflop" and "seconds": by part, of one video; "device"


def read_costs(run_dir: Path) -> dict[str, Cost]:
    """Read what was measured, by key of the result; {} where nothing was.

    Raises:
        DamagedError: the file is not what was written.
    """
    path = run_dir / "costs.json"
    if not path.exists():
        return {}
    try:
        return read_sealed(path, "costs")["costs"]
    except DamagedError as error:
        raise DamagedError(f"{error}; delete it, and `evaluate --cost` measures again") from error


def add_costs(run_dir: Path, costs: Mapping[str, Cost]) -> None:
    """Add what was measured."""
    with locked(run_dir / "results" / ".costs.lock", wait=True):
        write_file(run_dir / "costs.json", seal({"costs": read_costs(run_dir) | costs}))


def cost_cells(cost: Cost | None) -> dict[str, float | str]:
    """Return COST_COLUMNS of one result: sums over parts, and seconds of each; {} where nothing was measured."""
    if cost is None:
        return {}
    seconds = {f"seconds_{part}": cost["seconds"].get(part, "") for part in PARTS}
    known = [value for value in seconds.values() if value != ""]
    total = {"gflop": sum(cost["gflop"].values()), "seconds": sum(known) if "decode" in cost["seconds"] else ""}
    return total | seconds | {"device": cost["device"]}


def gated_gflop(cost: Cost, share: float) -> float:
    """Return GFLOP a video where only a share of the clips, in [0, 1], is looked at twice.

    Base goes over all clips, and once more over those that are looked at, for their gradient; where all are, only once.
    """
    gflop = cost["gflop"]
    again = gflop["base"] if share < 1 and "look" in gflop else 0.0
    return gflop["base"] + share * (gflop.get("look", 0.0) + gflop["second"] + again)
