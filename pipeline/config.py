"""The settings of a run: typed, frozen, validated."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pipeline.errors import ConfigError

Objective = Literal["entropy", "cross_entropy", "max_logit", "softmax_entropy"]  # what saliency can differentiate
Policy = Literal[Objective, "random", "center"]  # where to cut; an objective reads its saliency map
Focus = Literal[Policy, "repeat"]  # "repeat": the second volume is V_in again
Pixels = Literal["source", "input"]
FusionKind = Literal["late", "concat"]
SaliencyFrom = Literal["base", "current"]  # whose gradient: Base's, or that of the network being trained
OBJECTIVES, POLICIES, FOCI = get_args(Objective), get_args(Policy), get_args(Focus)
PIXELS, FUSIONS = get_args(Pixels), get_args(FusionKind)

# of Training: these change no number, so no key holds them
NO_NUMBERS = ("activation_checkpointing", "checkpoint_minutes", "loader_workers", "tensorboard")


@dataclass(frozen=True)
class Data:
    """Where annotations and videos are."""

    format: Literal["charades", "plain", "miniature"] = "plain"
    annotations: tuple[str, ...] = ()  # charades: train csv, test csv; plain: one csv
    classes: str = ""  # class list, one a line
    videos: str = ""  # folder of video files or of folders of frames
    source_fps: float = 0.0  # rate of frame folders (official Charades frames: 24); 0 = there are none
    missing_videos: Literal["skip", "refuse"] = "refuse"
    video_seconds: float = 600.0  # prepare gives up on a video that takes longer to decode
    video_memory: float = 4.0  # GiB of address space that decoding a video may take in prepare
    max_skipped: float = 0.2  # prepare stops, planning nothing, where a larger share of the videos found fails
    eval_ids: tuple[str, ...] = ()  # videos moved to the evaluation split, whatever the annotations say
    train_videos: int = 0  # miniature only: videos to generate
    eval_videos: int = 0
    data_seed: int = 0


@dataclass(frozen=True)
class Clips:
    """Which frames and pixels the network sees: theta, windows, stored augmentations (paper 5.1 to 5.3)."""

    num_frames: int = 64  # T_in
    fps: float = 8.0  # 0 = the video's own rate
    resize: Literal["square", "shorter_side"] = "square"
    resized_side: int = 256
    input_side: int = 224  # H_in = W_in
    aug_seeds: int = 25  # S, stored augmentations per training video
    eval_clips: int = 10
    plan_seed: int = 0
    videos_per_unit: int = 4  # videos committed together


@dataclass(frozen=True)
class Training:
    """One training run: paper 5.3."""

    epochs: int = 50
    learning_rate: float = 0.375
    drop_epochs: tuple[int, ...] = (15, 40)  # the rate is divided by ten at these
    batch_size: int = 12  # of all processes of torchrun together
    accumulate: int = 1  # steps whose gradients are added before the optimiser moves
    momentum: float = 0.9
    weight_decay: float = 1e-7
    video_loss_weight: float | Literal["released"] = 1.0
    # statistics of batch-norm: of the whole batch, of each process's share of it, or kept as they were loaded
    batchnorm: Literal["synchronised", "per_process", "frozen"] = "synchronised"
    autocast: bool = False  # bfloat16
    activation_checkpointing: bool = False  # less memory for about a third more time; changes no number
    loader_workers: int = 0  # processes that read batches ahead; 0 = a thread, one batch ahead
    checkpoint_minutes: float = 15.0
    tensorboard: bool = False  # curves for TensorBoard beside metrics.csv


@dataclass(frozen=True)
class Base(Training):
    """Charades-Base: the network that is fine-tuned first and then says where to look."""

    network: str = "resnet50_i3d"
    init: str = ""  # weights file to start from
    new_head: bool = False  # leave the classifier of `init` out
    inflate: bool = False  # `init` is torchvision's 2-D ResNet-50, to be inflated (resnet50_i3d only)
    in_memory: bool = False  # keep the resized frames of all training videos in memory


@dataclass(frozen=True)
class Saliency:
    """Stage 1."""

    objectives: tuple[str, ...] = ("entropy",)  # of OBJECTIVES; none = Base's logits alone
    method: Literal["input_gradient", "grad_cam"] = "input_gradient"
    box_side: int = 128  # B_h = B_w, pixels of the input frame
    batch_size: int = 8
    threads: int = 1  # torch threads of each worker
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Crops:
    """Stage 2."""

    codec: Literal["jpeg", "png"] = "jpeg"
    quality: int = 90


@dataclass(frozen=True)
class Fusion(Training):
    """Stage 3."""

    epochs: int = 25
    learning_rate: float = 0.02
    drop_epochs: tuple[int, ...] = (15,)
    batch_size: int = 8
    fuse: Literal["logits", "scores"] = "logits"


@dataclass(frozen=True)
class Config:
    """Everything a run needs to know. `seed` governs all that is trained, Base included."""

    name: str
    data: Data = field(default_factory=Data)
    clips: Clips = field(default_factory=Clips)
    base: Base = field(default_factory=Base)
    saliency: Saliency = field(default_factory=Saliency)
    crops: Crops = field(default_factory=Crops)
    fusion: Fusion = field(default_factory=Fusion)
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda
    workers: int = 1  # processes of prepare, saliency (on the CPU) and crops


def check(config: Config) -> None:
    """Refuse values that no stage could use."""
    clips, box = config.clips, config.saliency.box_side
    rules = {
        "clips.num_frames": clips.num_frames >= 1,
        "clips.fps": clips.fps >= 0,
        "clips.input_side (at most clips.resized_side)": 1 <= clips.input_side <= clips.resized_side,
        "clips.aug_seeds": clips.aug_seeds >= 1,
        "clips.eval_clips": clips.eval_clips >= 1,
        "clips.videos_per_unit": clips.videos_per_unit >= 1,
        "saliency.box_side (at most clips.input_side)": 1 <= box <= clips.input_side,
        "saliency.batch_size": config.saliency.batch_size >= 1,
        "saliency.threads": config.saliency.threads >= 1,
        "saliency.objectives": set(config.saliency.objectives) <= set(OBJECTIVES),
        "crops.quality (1 to 100)": 1 <= config.crops.quality <= 100,
        "data.video_seconds": config.data.video_seconds > 0,
        "data.video_memory (at least 0.5)": config.data.video_memory >= 0.5,
        "data.max_skipped (0 to 1)": 0 <= config.data.max_skipped <= 1,
        "workers": config.workers >= 1,
        "device (auto, cpu, cuda)": config.device in ("auto", "cpu", "cuda"),
    }
    for section, training in (("base", config.base), ("fusion", config.fusion)):
        rules["base.inflate (resnet50_i3d only)"] = not config.base.inflate or config.base.network == "resnet50_i3d"
        rules[f"{section}.epochs"] = training.epochs >= (section == "fusion")  # Base may be taken as it is
        rules[f"{section}.batch_size"] = training.batch_size >= 1
        rules[f"{section}.accumulate"] = training.accumulate >= 1
        rules[f"{section}.learning_rate"] = training.learning_rate > 0
    for name, holds in rules.items():
        if not holds:
            raise ConfigError(f"{config.name}: {name} has a value that cannot work")


def clip_settings(config: Config) -> dict:
    """Everything about clips that can change their pixels; the rows themselves are hashed apart."""
    clips = config.clips
    return {
        "num_frames": clips.num_frames,
        "fps": clips.fps,
        "source_fps": config.data.source_fps,
        "resize": clips.resize,
        "resized_side": clips.resized_side,
        "input_side": clips.input_side,
        "plan_seed": clips.plan_seed,
    }
