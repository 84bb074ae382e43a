"""Which settings are part of the keys of caches and models."""

from dataclasses import asdict

from pipeline.config import Config

# settings of Training that change no result; the keys of trained models leave them out
NO_NUMBERS = ("activation_checkpointing", "checkpoint_minutes", "loader_workers", "tensorboard")
# settings that came later, and what was done before: in no key at that value; a run that was made before keeps to it
LATER = {
    **{"longer_side": "rounded", "frame_interpolation": "centred", "video_targets": "video"},
    **{"drop_last": False, "tf32": False, "options": (), "task": "multi_label", "pooling": "auto"},
    **{"optimizer": "sgd", "schedule": "steps", "warmup_epochs": 0, "clip_grad_norm": 0.0, "label_smoothing": 0.0},
    **{"layer_decay": 1.0, "freeze": (), "ema_decay": 0.0, "world": "cards", "photos": "", "clutter": ()},
    **{"gradient_at": "pixels", "concat_positions": "keep", "compile": False, "pool_boxes": "max"},
    **{"time_segments": 1, "looks": 1, "decoding": "plain"},
    **{"box_rule": "fixed", "num_boxes": 1, "box_sides": (), "box_margin": 0.0, "box_jitter": 0, "own_boxes": ""},
}


def task_settings(config: Config) -> dict:
    """Return the task as part of a key; {} for multi_label, as before there was another."""
    return without_later({"task": config.data.task})


def key_settings(section: object, *without: str) -> dict:
    """Return the settings of a section that belong to a key; see NO_NUMBERS and LATER, and `without` by name."""
    settings = {name: value for name, value in asdict(section).items() if name not in (*NO_NUMBERS, *without)}
    return without_later(settings)


def without_later(settings: dict) -> dict:
    """Return the settings without those of LATER that are as before."""
    return {name: value for name, value in settings.items() if name not in LATER or LATER[name] != value}


def clip_settings(config: Config) -> dict:
    """The settings that decide the pixels of a clip, as plain values for the keys of caches."""
    names = ["num_frames", "fps", "resize", "resized_side", "input_side", "plan_seed", "decoding"]
    names += ["longer_side"] if config.clips.resize == "shorter_side" else []
    settings = {name: getattr(config.clips, name) for name in names} | {"source_fps": config.data.source_fps}
    return without_later(settings)
