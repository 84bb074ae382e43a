"""`evaluate --thresholds`: from which score on a class counts, learnt on a part of the training videos."""

from pathlib import Path

import numpy as np
import pandas as pd

from cache.commit import write_file
from cache.sealed import seal
from pipeline.config import Config
from pipeline.data.clips import training_videos
from pipeline.data.video.find import video_folder
from pipeline.errors import StageError
from pipeline.predict.model import build_model
from pipeline.predict.passes import Job, WindowRule, groups, look_at
from pipeline.predict.settings import THRESHOLDS, of_config
from pipeline.predict.tables import DEFAULT
from pipeline.predict.windows import starts_as_evaluated
from pipeline.run.folder import holds_run, open_folder
from pipeline.run.fusion_models import read_model
from pipeline.run.networks import load_base
from pipeline.run.outcome import Outcome
from pipeline.workers.progress import progress

MOST = 300  # training videos, evenly spaced in the plan
AS_EVALUATED = WindowRule("as-evaluated")


@holds_run
def run(config: Config, run_dir: Path, precision: float | None = None) -> list[Outcome]:
    """Store thresholds with Base and every model of a run that finds its boxes without labels or a table of the user's.

    The networks have been trained on these videos, so their scores are surer there than on new ones.

    Args:
        precision: wanted of each class; None for the highest F1.
    Raises:
        StageError: the plan has no training video.
    """
    run = open_folder(run_dir, config)
    videos = training_videos(run.parts, video_folder(config.data))
    if not videos:
        raise StageError("the plan has no training video, from which thresholds could be learnt")
    videos = [
        videos[place]
        for place in np.unique(np.linspace(0, len(videos) - 1, min(MOST, len(videos))).round().astype(int))
    ]
    base, outcomes = load_base(run, config), []
    models = [read_model(path.parent) for path in sorted((run_dir / "models").glob("*/model.json"))]
    ours = [one for one in models if one.base == base.sha256 and one.variant.boxes not in ("cross_entropy", "own")]
    for name, folder in [("base", base.folder), *((one.folder.name, one.folder) for one in ours)]:
        model = build_model(*of_config(config, run_dir, name), config.device)
        jobs = [Job(one, str(one.path), tuple(starts_as_evaluated(one.num_frames, config.clips)), "") for one in videos]
        grouped, lost = list(groups(model.settings, jobs, AS_EVALUATED)), {}
        shown = progress(grouped, len(grouped), f"thresholds of {model.settings.experiment}", "groups of videos")
        found = {one.video_id: one.scores for group in shown for _, one in look_at(model, group, lost.__setitem__)}
        if not found:
            raise StageError(
                f"none of {len(videos)} training videos could be read; the first: {next(iter(lost.values()))}"
            )
        targets = run.annotations.video_targets(list(found))
        chosen = choose(pd.DataFrame(found).T, targets, precision)
        rule = f"precision {precision:g}" if precision else "highest F1"
        facts = {"thresholds": chosen, "rule": rule, "videos": len(found), "weights": model.settings.weights}
        write_file(folder / THRESHOLDS, seal(facts))
        outcomes.append(Outcome(folder / THRESHOLDS, f"{rule} on {len(found)} training videos"))
    return outcomes


def choose(scores: pd.DataFrame, targets: np.ndarray, precision: float | None) -> dict[str, float]:
    """Return a threshold by class; DEFAULT for a class that no video has.

    Args:
        scores: a row a video and a column a class, in [0, 1].
        targets: (V, C), 1 where the video has the class, else 0.
    """
    columns = zip(scores.columns, targets.T, strict=True)
    return {name: threshold(scores[name].to_numpy(), positives, precision) for name, positives in columns}


def threshold(scores: np.ndarray, positives: np.ndarray, precision: float | None = None) -> float:
    """Return the threshold of one class, with the highest F1 = 2 TP / (2 TP + FP + FN); of equals the highest.

    With `precision`, that with the highest recall among those that reach it; 1 where none does. A threshold lies in the
    middle between two scores.
    """
    if not positives.any():
        return DEFAULT
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positives[order].astype(int))
    taken = np.arange(1, len(ranked) + 1)
    allowed = np.append(ranked[:-1] != ranked[1:], True)  # equal scores are above together
    if precision is None:
        place = int(np.argmax(np.where(allowed, 2 * hits / (taken + hits[-1]), -1)))
    else:
        reached = np.flatnonzero(allowed & (hits / taken >= precision))
        if not len(reached):
            return 1.0
        place = int(reached[np.argmax(hits[reached])])
    below = ranked[place + 1] if place + 1 < len(ranked) else ranked[place]
    return float((ranked[place] + below) / 2)
