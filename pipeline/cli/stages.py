"""One command for each stage."""

from dataclasses import replace
from pathlib import Path

import click

from pipeline.cli.options import (
    boxes_option,
    caches_option,
    engine_options,
    local_folder,
    parse_devices,
    profile_option,
    split_list,
    stage_options,
    unit_options,
    unit_stage_options,
    with_table,
)
from pipeline.cli.printing import echo, finish, print_results
from pipeline.config import FOCI, FUSIONS, PIXELS, POLICIES, SALIENCY_FROM
from pipeline.workers.rank import is_first_process


@click.command()
@stage_options
@click.option("--extend", is_flag=True, help="Add new videos and augmentation seeds; what is there stays as it is.")
@click.option("--eval-ids", metavar="ID,ID", help="Move these videos to the evaluation split.")
@click.option("--max-skipped", type=float, help="Plan nothing where a larger share of videos fails.")
@engine_options
def prepare(config, run_dir: Path, extend: bool, eval_ids: str | None, max_skipped: float | None, engine) -> None:
    """Decode all videos once and plan every clip of the run.

    Writes videos.csv, skipped.csv, labels.csv and plan/. With the miniature config the videos are generated first.
    """
    from pipeline.config_file import check
    from pipeline.run.summary import describe_run
    from pipeline.stages import prepare as stage

    data = config.data
    if eval_ids:
        data = replace(data, eval_ids=split_list(eval_ids))
    if max_skipped is not None:
        data = replace(data, max_skipped=max_skipped)
    outcome = stage.run(check(replace(config, data=data)), run_dir, extend, engine)
    for name, text in describe_run(run_dir).items() if outcome.path.name == "plan" else ():
        echo(f"{name:8} {text}")
    finish(outcome)


@click.command("train-base")
@stage_options
@profile_option
@click.option("--init", metavar="FILE", help="Weights to start from, .pt, .pth or .safetensors (base.init).")
@click.option("--new-head", is_flag=True, help="Leave the classifier of these weights out (base.new_head).")
def train_base(config, run_dir: Path, init: str | None, new_head: bool) -> None:
    """Fine-tune Base, the network whose saliency says where to cut (the paper's Charades-Base)."""
    from pipeline.config_file import check
    from pipeline.stages import train_base as stage

    base = replace(config.base, init=init or config.base.init, new_head=new_head or config.base.new_head)
    finish(stage.run(check(replace(config, base=base)), run_dir))


@click.command()
@unit_stage_options
@profile_option
@click.option("--devices", callback=parse_devices, metavar="0,1|cpu", help="GPUs, one process each; or the CPU.")
@click.option("--use-labels", is_flag=True, help="Allow cross_entropy, which needs labels, on evaluation videos.")
@unit_options
@engine_options
def saliency(config, run_dir: Path, devices: tuple[str, ...], use_labels: bool, engine, **options) -> None:
    """Stage 1: Base's logits, saliency maps and boxes, to Zarr."""
    from pipeline.stages import saliency as stage

    if devices and engine.backend == "ray":
        raise click.UsageError("Ray gives every worker a GPU of its own; leave --devices out")
    if devices == ("cpu",):
        config = replace(config, device="cpu")
    else:
        engine = replace(engine, devices=devices)
    finish(stage.run(config, run_dir, use_labels, engine=engine, **options))


@click.command("train-looker")
@stage_options
def train_looker(config, run_dir: Path) -> None:
    """Teach a small head to predict the stored maps; boxes "looker" then take no gradient.

    After `saliency`. Then: saliency with `--set 'saliency.objectives=["looker"]'`, crops and train-fusion with
    `--boxes looker`.
    """
    from pipeline.stages import train_looker as stage

    finish(stage.run(config, run_dir))


@click.command()
@unit_stage_options
@profile_option
@boxes_option("--boxes", policies=POLICIES, multiple=True, default=("entropy",), help="Where to cut; repeatable.")
@click.option("--pixels", type=click.Choice(PIXELS), default="source", help="Cut, or enlarge V_in.")
@unit_options
@engine_options
def crops(config, run_dir: Path, boxes: tuple[str, ...], pixels: str, **options) -> None:
    """Stage 2: context and focused volumes, to HDF5."""
    from pipeline.stages import crops as stage

    config, boxes = with_table(config, *boxes)
    finish(stage.run(config, run_dir, boxes, pixels, **options))


@click.command("train-fusion")
@stage_options
@profile_option
@click.option("--fusion", type=click.Choice(FUSIONS), multiple=True, default=FUSIONS, help="What to train; repeatable.")
@boxes_option("--boxes", "focus", policies=FOCI, default="entropy", help="repeat = V_in again.")
@click.option("--pixels", type=click.Choice(PIXELS), default="source", help="As given to crops.")
@click.option("--refresh-every", "every", type=click.IntRange(1), help="Make the caches anew every so many epochs.")
@click.option("--online", is_flag=True, help="Decode, compute saliency and cut in every step; reads no cache.")
@click.option(
    "--saliency-from", type=click.Choice(SALIENCY_FROM), default="base", help="With --online: whose saliency."
)
@caches_option
def train_fusion(
    config, run_dir: Path, fusion: tuple[str, ...], every: int | None, online: bool, saliency_from: str, caches, **cut
) -> None:
    """Stage 3: late fusion and temporal concatenation, trained from the caches.

    With --online nothing is cached, as in the paper: saliency is that of Base, or of the "current" network. With
    --refresh-every the caches are made anew with the network as it is by then.
    """
    if saliency_from != "base" and not online:
        raise click.UsageError("--saliency-from chooses the network of --online; give both")
    if online and every:
        raise click.UsageError("--online reads no cache; --refresh-every is for training from the caches")
    if caches and (online or every):
        raise click.UsageError("--caches is for training from caches that stay as they are")
    config, (cut["focus"],) = with_table(config, cut["focus"])
    from pipeline.run.folder import open_folder
    from pipeline.run.fusion_models import Variant, build_fusion
    from pipeline.run.networks import load_base

    caches = local_folder(caches)
    base, current = load_base(open_folder(run_dir, config, caches), config), bool(every) or saliency_from == "current"
    for one in fusion:  # refuses what the network cannot take before the first of them is trained
        build_fusion(base, config, Variant(one, cut["focus"], cut["pixels"]), current)
    if online:
        from pipeline.recipes import online as recipe

        outcomes = recipe.run(config, run_dir, fusion, saliency_from=saliency_from, **cut)
    elif every:
        from pipeline.recipes import refresh as recipe

        outcomes = [recipe.run(config, run_dir, one, every=every, **cut) for one in fusion]
    else:
        from pipeline.stages import train_fusion as stage

        outcomes = [stage.run(config, run_dir, one, caches=caches, **cut) for one in fusion]
    finish(*outcomes)


@click.command()
@stage_options
@profile_option
@boxes_option("--boxes-eval", policies=POLICIES, help="Boxes at evaluation, by the config's rule.  [as at training]")
@click.option("--eval-ids", metavar="ID,ID", help="Only these evaluation videos.")
@click.option("--use-labels", is_flag=True, help="Allow boxes that come from labels; results are marked as oracle.")
@click.option("--thresholds", is_flag=True, help="Also store thresholds for `predict`, from training videos.")
@click.option("--precision", type=click.FloatRange(0, 1, min_open=True), help="Of --thresholds.  [default: best F1]")
@click.option("--cost", is_flag=True, help="Also measure GFLOP and seconds a video of each result, here.")
@caches_option
def evaluate(config, run_dir: Path, boxes_eval, eval_ids, use_labels: bool, caches, cost: bool, **learnt) -> None:
    """Score Base and all fusion models of the run."""
    from pipeline.stages import evaluate as stage

    thresholds, precision = learnt["thresholds"], learnt["precision"]
    if precision and not thresholds:
        raise click.UsageError("--precision says what --thresholds are to reach; give both")
    config, (boxes_eval,) = with_table(config, boxes_eval)
    outcome = stage.run(config, run_dir, boxes_eval, split_list(eval_ids), use_labels, local_folder(caches))
    measured = _costs(config, run_dir) if cost else []
    print_results(outcome.path)
    finish(outcome, *measured, *(_thresholds(config, run_dir, precision) if thresholds else ()))


def _costs(config, run_dir: Path) -> list:
    """Measure what every result costs; of several processes of torchrun only the first does."""
    from pipeline.recipes import costs

    return [costs.run(config, run_dir)] if is_first_process() else []


def _thresholds(config, run_dir: Path, precision: float | None) -> list:
    """Store thresholds with every model of the run; of several processes of torchrun only the first does."""
    from pipeline.predict import thresholds

    return thresholds.run(config, run_dir, precision) if is_first_process() else []


COMMANDS = (prepare, train_base, saliency, train_looker, crops, train_fusion, evaluate)
