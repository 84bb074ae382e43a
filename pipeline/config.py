"""The settings of a run: typed and frozen, each with its default and its bounds."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from annotated_types import Interval, Predicate

from cache.layout import MOST_BOXES, Codec
from pipeline.config_bounds import (
    Count,
    CountOrNone,
    GiB,
    Helpers,
    LearningRate,
    Processes,
    Rate,
    Seconds,
    Seed,
    Side,
    Text,
    is_name,
    is_text,
)

Objective = Literal["entropy", "cross_entropy", "max_logit", "softmax_entropy"]  # what saliency can differentiate
MapOf = Literal[Objective, "motion", "looker"]  # maps of stage 1; "motion": of frames' changes, "looker": predicted
# where to cut: where a map is highest, at random, in the middle, or where a table of the user's says
Policy = Literal[MapOf, "random", "center", "own"]
BoxRule = Literal["fixed", "top-k", "scale", "nested"]  # how many boxes a clip has, and of which sides
Focus = Literal[Policy, "repeat"]  # "repeat": no box, the second volume is V_in again
Pixels = Literal["source", "input"]  # cut the focused volume from the source video, or from V_in, enlarged
Fusion = Literal["late", "concat"]
SaliencyFrom = Literal["base", "current"]  # training on the fly: saliency of Base, or of the network being trained
Backend = Literal["loky", "dask", "ray"]  # who works on units
World = Literal["cards", "two-far", "sizes", "plain", "photos"]  # of the miniature, see pipeline/data/README.md
Decoding = Literal["player", "plain"]  # of untagged colours and mirrored frames, see pipeline/data/README.md
Task = Literal["multi_label", "single_label"]  # any number of labels a video, sigmoid; exactly one, softmax
OBJECTIVES, MAPS, POLICIES, FOCI = get_args(Objective), get_args(MapOf), get_args(Policy), get_args(Focus)
PIXELS, FUSIONS = get_args(Pixels), get_args(Fusion)
SALIENCY_FROM, BACKENDS, CODECS = get_args(SaliencyFrom), get_args(Backend), get_args(Codec)


def is_network(text: str) -> bool:
    """Say whether a text is one of NETWORKS, FILE.py:function, package.module:function or hf:FOLDER, see models/."""
    other = r"hf:.+|(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*"
    return text in NETWORKS or (is_text(text) and re.fullmatch(other, text) is not None)


NETWORKS = ("small_i3d", "resnet50_i3d", "r3d_18", "mc3_18", "r2plus1d_18", "s3d")  # those of models.backbones
NETWORKS += ("swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b", "mvit_v2_s")
Options = tuple[tuple[str, bool | int | float | str], ...]  # a table in the file; pairs, so that a config can be a key


@dataclass(frozen=True)
class Data:
    """Annotations and videos."""

    format: Literal["charades", "plain", "miniature"] = "plain"
    task: Task = "multi_label"
    annotations: tuple[Text, ...] = ()  # charades: train csv, test csv; plain: one csv
    classes: Text = ""  # class list, one a line
    videos: Text = ""  # folder of video files or of folders of frames
    follow_links: bool = False  # of `videos`, to files elsewhere
    source_fps: Rate = 0.0  # rate of frame folders (official Charades frames: 24); 0 = there are none
    missing_videos: Literal["skip", "refuse"] = "refuse"
    video_seconds: Seconds = 600.0  # prepare gives up on a video that takes longer to decode
    video_memory: GiB = 4.0  # GiB of address space for decoding a video in prepare
    # prepare plans nothing if a larger share of the videos that it finds cannot be decoded
    max_skipped: Annotated[float, Interval(ge=0, le=1)] = 0.2
    # ... or if a larger share of the labels begins after the end of its video, as milliseconds do
    max_past_end: Annotated[float, Interval(ge=0, le=1)] = 0.1
    train_splits: tuple[Text, ...] = ("train",)  # names in the annotations; videos of no split named here are left out
    eval_splits: tuple[Text, ...] = ("test",)
    eval_ids: tuple[Text, ...] = ()  # videos moved to the evaluation split, whatever the annotations say
    train_videos: CountOrNone = 0  # miniature only: videos to generate
    eval_videos: CountOrNone = 0
    data_seed: Seed = 0
    world: World = "cards"
    photos: Text = ""  # of the world of this name: a folder of PNG files with alpha, sub-folders are classes
    clutter: tuple[Text, ...] = ()  # ... videos for its background


@dataclass(frozen=True)
class Clips:
    """Which frames the network sees, at what size, and how many clips are stored of a video (paper 5.1 to 5.3)."""

    num_frames: Count = 64  # T_in
    fps: Rate = 8.0  # 0 = the video's own rate
    resize: Literal["square", "shorter_side"] = "square"
    resized_side: Side = 256
    longer_side: Literal["truncated", "rounded"] = "truncated"  # of "shorter_side": its length in whole pixels
    input_side: Side = 224  # H_in = W_in; at most resized_side
    decoding: Decoding = "player"  # untagged HD in BT.709, mirrored as files say; "plain": in BT.601, never mirrored
    aug_seeds: Count = 25  # S, stored augmentations per training video
    eval_clips: Count = 10
    plan_seed: Seed = 0
    videos_per_unit: Count = 4  # videos committed together


@dataclass(frozen=True)
class Training:
    """One training (paper 5.3). Formulae of the recipe: pipeline/training/README.md."""

    epochs: CountOrNone = 50
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: LearningRate = 0.375
    schedule: Literal["steps", "cosine"] = "steps"  # of the rate
    warmup_epochs: CountOrNone = 0  # in which the rate rises to learning_rate
    drop_epochs: tuple[CountOrNone, ...] = (15, 40)  # of "steps": the rate is divided by ten at these
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0  # of the rate, for each block of a transformer downwards
    freeze: tuple[Text, ...] = ()  # names of parameters and modules that are not trained, such as "layer1"
    batch_size: Count = 12  # of all processes of torchrun together
    accumulate: Count = 1  # steps whose gradients are added before the optimiser moves
    clip_grad_norm: Annotated[float, Interval(ge=0, le=1e6)] = 0.0  # largest norm of all gradients together; 0 = any
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9  # of "adamw": its first beta
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 1e-7
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # of the average of weights that is kept; 0 = the last ones
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # of the training loss, never of saliency
    # see models/losses.py; "released" makes video_targets "clip" where a config file leaves them out
    video_loss_weight: Annotated[float, Interval(ge=0, le=1e6)] | Literal["released"] = 1.0
    frame_interpolation: Literal["aligned", "centred"] = "aligned"
    video_targets: Literal["video", "clip"] = "video"
    drop_last: bool = False  # leave out the last batch of an epoch where it is not full
    # statistics of batch-norm: of the whole batch, of each process's share of it, or those of the loaded weights
    batchnorm: Literal["synchronised", "per_process", "frozen"] = "synchronised"
    autocast: bool = False  # bfloat16
    tf32: bool = False  # on a GPU: convolutions and matrix products in TensorFloat-32, with 10 bits behind the point
    activation_checkpointing: bool = False  # less memory for about a third more time; changes no number
    loader_workers: Helpers = 0  # processes that read batches ahead; 0 = a thread, one batch ahead
    checkpoint_minutes: Annotated[float, Interval(ge=0, le=1e6)] = 15.0
    tensorboard: bool = False  # curves for TensorBoard beside metrics.csv


@dataclass(frozen=True)
class Base(Training):
    """Training of Base (the paper's Charades-Base)."""

    network: Annotated[str, Predicate(is_network)] = "resnet50_i3d"  # or FILE.py:function, hf:FOLDER
    options: Options = ()  # [base.options], given to the network's builder by name
    init: Text = ""  # weights file to start from
    new_head: bool = False  # leave the classifier of `init` out
    inflate: bool = False  # `init` is torchvision's 2-D ResNet-50, to be inflated (resnet50_i3d only)
    compile: bool = False  # torch.compile, of training and of saliency at pixels
    in_memory: bool = False  # keep the resized frames of all training videos in memory


@dataclass(frozen=True)
class Saliency:
    """Stage 1: saliency maps and boxes."""

    objectives: tuple[MapOf, ...] = ("entropy",)  # none = Base's logits alone
    method: Literal["input_gradient", "grad_cam"] = "input_gradient"
    gradient_at: Literal["pixels", "patches"] = "pixels"  # "patches": of a transformer, enlarged to the input
    box_side: Side = 128  # B_h = B_w, pixels of the input frame; at most clips.input_side; of "fixed" and "top-k"
    box_rule: BoxRule = "fixed"  # see pipeline/data/box_policies.py; all in input pixels
    num_boxes: Annotated[int, Interval(ge=1, le=MOST_BOXES)] = 1  # of "top-k"
    box_sides: tuple[Side, ...] = ()  # of "scale", which chooses one, and "nested", which takes all
    time_segments: Annotated[int, Interval(ge=1, le=MOST_BOXES)] = 1  # of a clip, each with a map and a box of its own
    looks: Annotated[int, Interval(ge=1, le=16)] = 1  # at most, each at what the box before shows; closer_look.py
    box_margin: Annotated[float, Interval(ge=0, le=10)] = 0.0  # added on every side of a box, as a share of its side
    box_jitter: Annotated[int, Interval(ge=0, le=8192)] = 0  # pixels by which boxes of training clips move, at most
    own_boxes: Text = ""  # the table of the policy "own", see pipeline/data/own_boxes.py
    batch_size: Count = 8
    threads: Processes = 1  # torch threads of each worker
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Crops:
    """Stage 2: how volumes are stored."""

    codec: Codec = "jpeg"
    quality: Annotated[int, Interval(ge=1, le=100)] = 90


@dataclass(frozen=True)
class FusionTraining(Training):
    """Stage 3: training of the fusion models."""

    epochs: Count = 25
    learning_rate: LearningRate = 0.02
    drop_epochs: tuple[CountOrNone, ...] = (15,)
    batch_size: Count = 8
    fuse: Literal["logits", "scores"] = "logits"
    pool_boxes: Literal["max", "mean"] = "max"  # of late fusion, over the logits of several boxes
    # of a network with position embeddings for T_in frames, where concatenation gives it 2 T_in
    concat_positions: Literal["keep", "interpolate"] = "keep"


@dataclass(frozen=True)
class Evaluate:
    """How videos are scored."""

    # over a video's clips: the largest score, or the mean probability; "auto": "max" (the paper), single_label "mean"
    pooling: Literal["auto", "max", "mean"] = "auto"


@dataclass(frozen=True)
class Config:
    """All settings of a run; one section per field that is a class."""

    name: Annotated[str, Predicate(is_name)]  # runs/<name> is the run folder, where --run names no other
    data: Data = field(default_factory=Data)
    clips: Clips = field(default_factory=Clips)
    base: Base = field(default_factory=Base)
    saliency: Saliency = field(default_factory=Saliency)
    crops: Crops = field(default_factory=Crops)
    fusion: FusionTraining = field(default_factory=FusionTraining)
    evaluate: Evaluate = field(default_factory=Evaluate)
    seed: Seed = 0  # of everything that is trained, Base included
    device: Literal["auto", "cpu", "cuda"] = "auto"  # a worker with a GPU of its own replaces it, say by "cuda:1"
    workers: Processes = 1  # processes of prepare, saliency and crops; of saliency beside a GPU: they decode


def check_together(config: Config) -> Config:
    """Return the config if its values fit each other.

    Raises:
        ValueError: names the setting, what it must fit, and its value.
    """
    outer, inner, side, base = config.clips.resized_side, config.clips.input_side, config.saliency.box_side, config.base
    for name, rate in (("data.source_fps", config.data.source_fps), ("clips.fps", config.clips.fps)):
        if 0 < rate < 0.001:
            raise ValueError(f"{name}: expected 0 or at least 0.001, got {rate}")
    if both := set(config.data.train_splits) & set(config.data.eval_splits):
        expected = "expected other splits than data.train_splits, for videos that were trained on prove nothing"
        raise ValueError(f"data.eval_splits: {expected}, got {min(both)!r}")
    if inner > outer:
        raise ValueError(f"clips.input_side: expected at most clips.resized_side, {outer}, got {inner}")
    if side > inner:
        raise ValueError(f"saliency.box_side: expected at most clips.input_side, {inner}, got {side}")
    if config.saliency.gradient_at == "patches" and config.saliency.method == "grad_cam":
        raise ValueError("saliency.gradient_at: expected pixels with saliency.method grad_cam, got 'patches'")
    if not base.epochs and (base.new_head or base.inflate):
        option = "new_head" if base.new_head else "inflate"
        raise ValueError(f"base.epochs: expected at least 1 with base.{option}, whose classifier is untrained, got 0")
    for name, recipe in (("base", base), ("fusion", config.fusion)):
        if 0 < recipe.epochs <= recipe.warmup_epochs:
            expected = f"expected fewer than {name}.epochs, {recipe.epochs}"
            raise ValueError(f"{name}.warmup_epochs: {expected}, got {recipe.warmup_epochs}")
    if "num_classes" in dict(base.options):
        raise ValueError("base.options.num_classes: expected no such option, it is the length of the class list")
    if base.inflate and base.network != "resnet50_i3d":
        raise ValueError(f"base.inflate: expected base.network resnet50_i3d, got {base.network!r}")
    if (config.data.world == "photos") != bool(config.data.photos):
        raise ValueError("data.photos: expected a folder with data.world photos, and only there")
    if config.data.task == "single_label":
        single = "with data.task single_label"
        if config.data.world == "two-far":
            raise ValueError(f"data.world: expected another than two-far {single}, for it has two cards")
        for section in ("base", "fusion"):
            if (found := getattr(config, section).video_targets) != "video":
                raise ValueError(f"{section}.video_targets: expected 'video' {single}, got {found!r}")
        if "softmax_entropy" in config.saliency.objectives:  # of many labels, in the released code
            raise ValueError(f"saliency.objectives: expected 'entropy' of the softmax {single}, got 'softmax_entropy'")
    return config


def pooling_of(config: Config) -> Literal["max", "mean"]:
    """Return how the scores of a video's clips become one; see `Evaluate.pooling`."""
    by_task = "mean" if config.data.task == "single_label" else "max"
    return by_task if config.evaluate.pooling == "auto" else config.evaluate.pooling
