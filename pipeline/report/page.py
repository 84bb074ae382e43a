"""The command `report`: one page about a run, in one file that needs no other."""

import math
import shlex
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.commit import write_file
from cache.plan_files import read_plan
from pipeline.data.annotations import Annotations
from pipeline.metrics import RESAMPLES
from pipeline.report import box_maps, charts, gallery, scores
from pipeline.report.chosen_stores import all_boxes, open_sources, require_plan
from pipeline.report.pictures import CIVIDIS, data_uri, heat
from pipeline.report.scores import Result
from pipeline.run.folder import read_labels
from pipeline.run.outcome import Outcome
from pipeline.run.overwrite import check_overwrite, holds
from pipeline.run.summary import describe_run, videos_by_class

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass
class Page:
    """The values of the template, filled section by section; `missing`: what the run lacks, and the commands for it."""

    run_dir: Path
    missing: list[tuple[str, str]] = field(default_factory=list)
    values: dict = field(default_factory=dict)

    def lacks(self, what: str, *commands: str) -> None:
        """Note what is missing, and the commands that make it, without --config and --run."""
        options = shlex.join(["--config", str(self.run_dir / "config.toml"), "--run", str(self.run_dir)])
        lines = [f".venv/bin/python -m pipeline {command} {options}" for command in commands]
        self.missing.append((what, "\n".join(lines)))


def run(run_dir: Path, num_clips: int = 48, experiment: str | None = None, out: Path | None = None) -> Outcome:
    """Write the page of a run to report/index.html, or to `out`.

    Reads the plan, labels, results, metrics.csv and the caches, of the volumes only those of the clips that are shown;
    no video and no weights.

    Args:
        num_clips: clips in the gallery, at most.
        experiment: name or key of the result that is compared with Base; None for the highest that is no oracle.
    Raises:
        StageError: the run has no plan, or no result of that name; `out` is another file.
        CacheError: a file is damaged.
    """
    require_plan(run_dir)
    if out:
        check_overwrite(out, "report", holds(b": focused attention</title>"))
    annotations = read_labels(run_dir)
    page = Page(run_dir)
    results = scores.read_results(run_dir, annotations)
    chosen = scores.best(results, experiment)
    base = scores.base_of(chosen, results) if chosen else None
    _summary(page, annotations)
    _results(page, results, chosen, base)
    _classes(page, results, chosen, annotations)
    _costs(page, results)
    _curves(page)
    _gallery(page, chosen, base, annotations, num_clips)
    _boxes(page)
    path = out or run_dir / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _render(page).encode()
    write_file(path, content)
    shown = len(page.values["gallery"])
    lacks = "".join(f"\nmissing: {what}\n{commands}" for what, commands in page.missing)
    return Outcome(path, f"{len(results)} results, {shown} clips, {len(content) / 1e6:.1f} MB{lacks}")


def _summary(page: Page, annotations: Annotations) -> None:
    page.values |= {"data": describe_run(page.run_dir), "by_class": charts.histogram(videos_by_class(annotations))}
    parts = read_plan(page.run_dir)
    counts = {split: sum(part.num_videos for part in parts if part.split == split) for split in ("train", "test")}
    page.values |= {"title": page.run_dir.resolve().name, "counts": counts, "settings": parts[0].settings}
    page.values["num_rows"] = sum(part.num_rows for part in parts)
    page.values["size"] = next((part.input_size for part in parts if part.num_rows), (0, 0))


def _results(page: Page, results: list[Result], chosen: Result | None, base: Result | None) -> None:
    lines = []
    for one in results:
        other = scores.base_of(one, results)
        lines.append({"result": one, "value": one.value(), "gain": scores.gain(one, other) if other else None})
    protocols = list(dict.fromkeys(one.facts["protocol"] for one in results))
    page.values |= {"lines": lines, "protocols": protocols, "chosen": chosen, "base": base, "resamples": RESAMPLES}
    single = any(one.metric == "top1" for one in results)
    page.values |= {"single": single, "metric": "top-1" if single else "mAP"}
    page.values["headline"] = [line for line in lines if line["result"] in (chosen, base)]
    if not results:
        page.lacks("No model was evaluated: no results, no intervals, no scores beside the clips.", "evaluate")
    elif chosen is None:
        page.lacks("No fusion model was evaluated: nothing can be compared with Base.", "train-fusion", "evaluate")
    elif base is None:
        page.lacks(f"No result of Base on the videos of {chosen.name}: no differences.", "evaluate")


def _classes(page: Page, results: list[Result], chosen: Result | None, annotations: Annotations) -> None:
    """A table for every fusion result that can be compared with Base; the chosen one first."""
    tables = []
    for one in sorted(results, key=lambda one: one is not chosen):
        other = scores.base_of(one, results)
        if other and not one.is_base:
            gains = scores.class_gains(one, other, annotations.classes)
            ends = [0.0, *(end for gain in gains for end in (gain.gain.value, gain.gain.low, gain.gain.high))]
            tables.append({"result": one, "gains": gains, "span": (np.nanmin(ends), np.nanmax(ends))})
    page.values["class_tables"] = tables


def _costs(page: Page, results: list[Result]) -> None:
    """Accuracy against cost of the results whose cost was measured, and the gated look, where its table was made."""
    measured = [one for one in results if one.facts.get("cost") and one.stored == one.stored]
    points = [(one.facts["cost"]["gflop"], 100 * one.stored) for one in measured]
    gate = scores.read_gate(page.run_dir, "top1" if page.values["single"] else "map")
    metric = page.values["metric"]
    page.values["costed"] = measured
    page.values["cost_chart"] = points and charts.plane(points, False, f"{metric} against GFLOP a video")
    page.values["gate_chart"] = gate and charts.plane(gate, True, f"{metric} against per cent of clips looked at twice")


def _curves(page: Page) -> None:
    curves = []
    for name, epochs in scores.read_metrics(page.run_dir).items():
        numbers, lowered = epochs.epoch + 1, epochs.learning_rate.diff() < 0
        lowered &= 2 * lowered.sum() <= len(epochs)  # a rate that falls in every epoch has no steps to show
        chart = charts.curve(numbers.tolist(), epochs.loss.tolist(), numbers[lowered].tolist())
        seconds = epochs.seconds.sum()
        waiting = (epochs.seconds * epochs.waiting_share).sum() / seconds if seconds else 0
        curves.append({"name": name, "chart": chart, "epochs": len(epochs), "seconds": seconds, "waiting": waiting})
    page.values["curves"] = curves
    if not curves:
        page.lacks("No training has written metrics.csv: no learning curves.", "train-base")


def _gallery(page: Page, chosen: Result | None, base: Result | None, annotations: Annotations, num_clips: int) -> None:
    facts = chosen.facts if chosen else {"boxes_eval": "entropy", "pixels": "source"}
    repeat = facts["boxes_eval"] == "repeat"
    policy, pixels = ("entropy", "source") if repeat else (facts["boxes_eval"], facts["pixels"])
    sources = open_sources(page.run_dir, policy, pixels, chosen.base_weights if chosen else "")
    gains = scores.video_gains(chosen, base) if base else {}
    table = gallery.candidates(sources, "test", gains)
    split = "test" if len(table) else "train"
    table = table if len(table) else gallery.candidates(sources, "train", gains)
    picked = gallery.with_pictures(sources, table.loc[gallery.choose(table, num_clips)])
    labels = [gallery.labels_of(annotations, video_id) for video_id in picked.video_id]
    changes = [gallery.score_changes(chosen, base, annotations.classes, video_id) for video_id in picked.video_id]
    cards = list(picked.assign(labels=labels, changes=changes).itertuples())
    present, crops = sorted(set().union(*labels)), sources.stores.get("crops")
    page.values |= {"gallery": cards, "gallery_split": split, "num_candidates": len(table)}
    page.values |= {"present": present, "crops": crops}
    if chosen and not repeat and crops and crops.name != f"{policy}/{pixels}":
        what = f"The crops {policy}/{pixels} of {chosen.name} are not stored, shown are {crops.name}."
        page.lacks(what, f"crops --boxes {policy.partition('-')[0]} --pixels {pixels}")
    if not len(table):
        page.lacks("No clip has its context and focused volume stored: no pictures.", "saliency", "crops")
    elif split == "train":
        page.lacks("No evaluation clip has its volumes stored; training clips are shown.", "saliency", "crops")


def _boxes(page: Page) -> None:
    split, size = "test" if page.values["counts"]["test"] else "train", page.values["size"]
    stores = all_boxes(page.run_dir, split)
    maps = [box_maps.coverage(one.box_input, size) for one in stores]
    highest = max((float(density.max()) for density in maps), default=0)
    shown = []
    for one, density in zip(stores, maps, strict=True):
        sides = np.rint(np.sqrt(one.box_source.reshape(-1, 4)[:, 2:].astype(float).prod(1))).astype(int)
        values = {"sizes": box_maps.sizes(one, size), "histogram": charts.histogram(sides)}
        values["by_look"] = [] if one.looks is None else np.bincount(one.looks)[1:].tolist()
        values["picture"] = data_uri(heat(density, highest), lossless=True)
        shown.append({"name": one.name, "count": len(one.rows)} | values)
    overlaps = [[box_maps.overlap(a, b) for b in stores] for a in stores]
    scale = ", ".join(f"rgb({red:.0f} {green:.0f} {blue:.0f})" for red, green, blue in CIVIDIS)
    page.values |= {"boxes": shown, "overlaps": overlaps, "highest": highest, "scale": scale, "boxes_split": split}
    if not stores:
        page.lacks("No boxes are stored.", "saliency")


def _render(page: Page) -> str:
    """Fill the template, with everything escaped that comes from outside."""
    loader = PackageLoader("pipeline.report", "")
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, **options)
    environment.filters |= {"percent": _percent, "signed": _signed, "number": _number, "duration": _duration}
    environment.globals |= {"whisker": charts.whisker, "tone": charts.tone}
    css, js = (files("pipeline.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(page.values, missing=page.missing, css=css, js=js)


def _number(value: float, digits: int = 2, sign: str = "") -> str:
    return DASH if math.isnan(value) else f"{value:{sign}.{digits}f}".replace("-", MINUS)


def _percent(value: float | None, digits: int = 1, sign: str = "") -> str:
    return DASH if value is None else _number(100 * value, digits, sign)


_signed = partial(_percent, sign="+")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
