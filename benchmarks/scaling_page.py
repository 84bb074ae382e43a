"""The page about scale, in Markdown: measured numbers, assumptions, and what follows from both."""

import math
from dataclasses import asdict

from benchmarks import scale
from benchmarks.networks import SIDE
from benchmarks.result import table
from benchmarks.row_costs import FRAMES, RowCost
from benchmarks.scale import DataSet, Site, Work
from benchmarks.unit_costs import Costs, UnitCost

WORKERS = (10, 100, 1000)


def page(costs: Costs, row: RowCost, site: Site, sets: list[DataSet], options: dict[str, str], machine: str) -> str:
    """The whole page.

    Args:
        options: help of the command's option for every assumption, by its name in `Site`.
        machine: what was measured on, in a line.
    """
    works = scale.works(costs, row, site)
    parts = (
        "# From a laptop to a cluster, worked out from measurements",
        "Written by `make scaling`; every number is measured, assumed in the table below, or follows from these.",
        _measured(costs, row, machine),
        _assumed(site, options),
        _sizes(costs, sets, works, site),
        _loads(works, site),
        _times(works, sets, site),
        _index(costs, works, sets, site),
    )
    return "\n\n".join(parts) + "\n"


def _measured(costs: Costs, row: RowCost, machine: str) -> str:
    columns = [_cost_cells(costs.saliency), _cost_cells(costs.crops)]
    rows = [(name, *(cells[name] for cells in columns)) for name in columns[0]]
    text = (
        f"## Measured\n\n{machine}. The miniature in {costs.units} units of {costs.videos_per_unit} videos; operations "
        "by strace, those below the data and run folders, of one process.\n\n"
    )
    text += table(("", "saliency", "crops"), rows)
    return text + (
        f"\n\nA row of the paper's size ({FRAMES} frames, {SIDE} x {SIDE}, ResNet50-I3D) takes "
        f"{row.saliency_seconds:.1f} s of one core to look at ({row.saliency_gflop:.0f} GFLOP) and "
        f"{row.crops_seconds:.2f} s of one core to decode, cut and encode. A row of the plan takes "
        f"{costs.plan_bytes:.0f} bytes on the disk, {costs.plan_memory:.0f} in memory."
    )


def _cost_cells(cost: UnitCost) -> dict[str, str]:
    """A column of the table of measurements, by the name of its line."""
    most = sorted(cost.calls.items(), key=lambda pair: -pair[1])[:4]
    return {
        "units a second, 1 process": f"{1 / cost.seconds[1]:.2f}",
        "units a second, 2 processes": f"{1 / cost.seconds[2]:.2f}",
        "times as fast with 2": f"{cost.seconds[1] / cost.seconds[2]:.2f}",
        "operations on metadata a unit": f"{cost.operations:.0f}",
        "most of them": ", ".join(f"{count:.0f} {name}" for name, count in most),
        "operations at a start, a unit that is done": f"{cost.at_start:.1f}",
        "files and folders a unit": f"{cost.files:.1f}",
        "bytes written a unit": f"{cost.num_bytes:,.0f}",
    }


def _assumed(site: Site, options: dict[str, str]) -> str:
    values = asdict(site)
    rows = [(f"`--{name.replace('_', '-')}`", help_, f"{values[name]:,.10g}") for name, help_ in options.items()]
    recipe = (
        f"Rows a video ({site.rows_per_video:.1f}) and videos a unit ({site.videos_per_unit}) are those of "
        "`charades.toml`; a unit is taken to need as many operations, however many rows it has or units lie beside it. "
        "A GPU is taken never to wait for decoding."
    )
    return f"## Assumed\n\n{table(('option', 'what', 'value'), rows)}\n\n{recipe}"


def _sizes(costs: Costs, sets: list[DataSet], works: list[Work], site: Site) -> str:
    rows = []
    for data in sets:
        units, frames = scale.units(data, site), data.rows * 2 * FRAMES
        files = units * (costs.saliency.files + costs.crops.files)
        stored = (data.videos * site.video_bytes, data.rows * site.map_bytes, frames * site.frame_bytes)
        cells = [data.name, f"{data.videos:,.0f}", f"{data.rows:,.0f}", f"{units:,}", f"{files:,.0f}"]
        cells += [f"{num_bytes / 1e12:.2f}" for num_bytes in stored]
        rows.append((*cells, *(f"{units * work.seconds / 3600:,.1f}" for work in works)))
    head = ("", "videos", "index rows", "units", "files", "videos TB", "maps TB", "volumes TB")
    head += ("saliency, GPU hours", "saliency, core hours", "crops, core hours")
    return f"## Sizes and costs\n\n{table(head, rows)}"


def _loads(works: list[Work], site: Site) -> str:
    rows, limits = [], []
    for work in works:
        metadata, num_bytes = scale.saturating_workers(work, site)
        first = "metadata" if metadata < num_bytes else "bytes"
        limits.append(f"{work.name}: {first}, from {min(metadata, num_bytes):,.0f} workers on")
        for workers in WORKERS:
            found = scale.load(work, workers, site)
            cells = (work.name, f"{workers:,}", f"{found.metadata:.0%}", f"{found.bandwidth:.0%}", found.first)
            rows.append((*cells, f"{metadata:,.0f}", f"{num_bytes:,.0f}"))
    head = ("", "workers", "metadata", "bytes", "too little of", "workers that use up metadata", "... bytes")
    text = f"{'; '.join(limits)}. Shares of what the file system has a second:"
    return f"## What saturates first\n\n{text}\n\n{table(head, rows)}"


def _times(works: list[Work], sets: list[DataSet], site: Site) -> str:
    rows = []
    for data in sets:
        for work in works:
            taken = [f"{scale.hours(work, data, workers, site):,.1f}" for workers in WORKERS]
            starts = [f"{scale.start_seconds(work, data, workers, site):,.0f}" for workers in WORKERS]
            rows.append((data.name, work.name, *taken, *starts))
    numbers = [f"{workers:,}" for workers in WORKERS]
    head = ("", "", *(f"hours, {number}" for number in numbers), *(f"start s, {number}" for number in numbers))
    return (
        "## How long it takes\n\nHours of 10, 100 and 1,000 workers, waiting for the file system included; and seconds "
        "until all of them, started again near the end with `--part i/N`, have seen which units are done.\n\n"
        + table(head, rows)
    )


def _index(costs: Costs, works: list[Work], sets: list[DataSet], site: Site) -> str:
    most = scale.plan_rows_a_worker(costs, site)
    rows = []
    for data in sets:
        worst = max(scale.start_seconds(work, data, WORKERS[-1], site) for work in works)
        cells = (data.name, f"{data.rows * costs.plan_memory / 1e9:.2f}", f"{math.ceil(data.rows / most):,}")
        rows.append((*cells, f"{scale.units(data, site):,}", f"{max(1, math.ceil(worst / site.start_seconds)):,}"))
    head = ("", "plan in memory, GB", "parts a worker can hold", "records in a folder", "units a record file")
    return (
        "## What the index must become\n\nEvery worker reads the whole plan, and every start reads the record of every "
        f"unit. In {site.worker_memory / 1e9:g} GB a worker holds {most:,} rows: a larger plan must be read in parts, "
        "each by those who work on it. A unit can keep a record file of its own as long as "
        f"{WORKERS[-1]:,} workers start within {site.start_seconds:g} s; else as many units as the last column "
        f"says must share one, and a folder of very many records must become many folders.\n\n{table(head, rows)}"
    )
