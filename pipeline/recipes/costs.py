"""`evaluate --cost`: measure what every experiment of a run costs a video, once each."""

from collections.abc import Iterable
from pathlib import Path

from cache.layout import RESULTS
from cache.sealed import read_record
from pipeline.config import Config
from pipeline.run.costs import add_costs, read_costs
from pipeline.run.outcome import Outcome
from pipeline.run.results import protocol, rebuild
from pipeline.run.stores import open_run
from pipeline.training.cost import measure


def run(config: Config, run_dir: Path, paths: Iterable[Path] = ()) -> Outcome:
    """Measure results of this config's protocol that were not measured yet, into costs.json, and rebuild results.csv.

    Args:
        paths: of the result files; () for all of the run.
    """
    known, wanted = read_costs(run_dir), protocol(config)
    results = [read_record(path) for path in paths or sorted(run_dir.glob(RESULTS))]
    results = [one for one in results if one["key"] not in known and one["protocol"] == wanted]
    if results:
        stores = open_run(run_dir, config)
        add_costs(run_dir, measure(stores, results))
        rebuild(stores.run)
    return Outcome(run_dir / "costs.json", f"{len(results)} results measured now, {len(known)} before")
