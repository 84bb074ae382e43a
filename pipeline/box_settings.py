"""How a clip is looked at again, by the settings of stage 1: how many boxes, their sides, what of it enters keys."""

from collections.abc import Mapping
from dataclasses import replace

from cache.layout import MOST_BOXES, boxes_name
from pipeline.config import MAPS, OBJECTIVES, Config, Focus, Saliency
from pipeline.config_keys import LATER, without_later

OF_SIDES = ("scale", "nested")  # rules that take box_sides in place of box_side
# how a model's boxes were chosen, beside their sides
KEPT = ("box_rule", "num_boxes", "time_segments", "looks", "box_margin", "box_jitter")


def check_boxes(config: Config) -> Config:
    """Return the config if its settings of boxes fit each other; ValueError names the setting that does not."""
    saliency, inner = config.saliency, config.clips.input_side
    rule, sides, count = saliency.box_rule, saliency.box_sides, saliency.num_boxes
    segments, frames = saliency.time_segments, config.clips.num_frames
    if frames % segments:
        raise ValueError(f"saliency.time_segments: expected a divisor of clips.num_frames, {frames}, got {segments}")
    if segments > 1 and rule != "fixed":
        what = f"expected 1 with box_rule {rule}, for a segment of time has one box of box_side"
        raise ValueError(f"saliency.time_segments: {what}, got {segments}")
    if (count > 1) != (rule == "top-k"):
        expected = "at least 2 with box_rule top-k" if rule == "top-k" else f"1 with box_rule {rule}"
        raise ValueError(f"saliency.num_boxes: expected {expected}, got {count}")
    others = {"box_rule": rule, "time_segments": segments, "box_margin": saliency.box_margin}
    others |= {"box_jitter": saliency.box_jitter}
    if saliency.looks > 1 and (unfit := [f"{name} {value}" for name, value in others.items() if value != LATER[name]]):
        raise ValueError(f"saliency.looks: expected 1 with {unfit[0]}, got {saliency.looks}")
    if bool(sides) != (rule in OF_SIDES):
        expected = f"sides with box_rule {rule}" if rule in OF_SIDES else f"none with box_rule {rule}"
        raise ValueError(f"saliency.box_sides: expected {expected}, got {list(sides)}")
    if len(set(sides)) < len(sides) or len(sides) > MOST_BOXES or any(side > inner for side in sides):
        expected = f"different sides of at most clips.input_side, {inner}, and at most {MOST_BOXES} of them"
        raise ValueError(f"saliency.box_sides: expected {expected}, got {list(sides)}")
    return config


def num_boxes(saliency: Saliency) -> int:
    """Return how many boxes a clip has."""
    return len(saliency.box_sides) if saliency.box_rule == "nested" else saliency.num_boxes


def num_segments(policy: Focus, saliency: Saliency) -> int:
    """Return how many segments of time have a box of their own; one at random, in the middle, and of the looker."""
    return saliency.time_segments if policy in (*MAPS, "own") and policy != "looker" else 1


def num_looks(policy: Focus, saliency: Saliency) -> int:
    """Return how often a clip is looked at, at most; once for boxes of no gradient, or of one that needs labels."""
    return saliency.looks if policy in OBJECTIVES and policy != "cross_entropy" else 1


def box_axis(policy: Focus, saliency: Saliency) -> dict[str, int]:
    """Return the axis that a clip's boxes have, by its name; {} where it has one box."""
    axes = {"segment": num_segments(policy, saliency), "box": num_boxes(saliency)}
    return {name: length for name, length in axes.items() if length > 1}


def rule_settings(saliency: Saliency, policy: Focus = "entropy") -> dict:
    """Return what of these settings can change a box, for keys: plain values; as before there were rules, the size."""
    side = saliency.box_side
    settings = {"box_sides": sorted(saliency.box_sides)} if saliency.box_rule in OF_SIDES else {"size": [side, side]}
    names = ("box_rule", "box_margin", "box_jitter")
    counts = {"num_boxes": num_boxes(saliency), "time_segments": num_segments(policy, saliency)}
    counts["looks"] = num_looks(policy, saliency)
    return settings | without_later({name: getattr(saliency, name) for name in names} | counts)


def as_trained(saliency: Saliency, boxes: Mapping) -> Saliency:
    """Return the settings with the maps, the rule and the sides of a trained model's boxes.

    Args:
        boxes: what its record says of them: `rule_settings`, and of maps that come from a gradient their settings.
    """
    found = {name: boxes.get(name, LATER[name]) for name in KEPT} | {"box_sides": tuple(boxes.get("box_sides", ()))}
    if found["box_rule"] == "nested":
        found["num_boxes"] = 1
    maps = boxes.get("maps", {})
    if maps.get("method") in ("input_gradient", "grad_cam"):
        found |= {"method": maps["method"], "gradient_at": maps.get("gradient_at", LATER["gradient_at"])}
    return replace(saliency, **found, box_side=boxes.get("size", [saliency.box_side])[0])


def is_same_rule(boxes: Mapping, others: Mapping) -> bool:
    """Whether the settings of two stores of boxes, of one policy, differ at most in the maps that they are found in."""
    return all(boxes.get(name) == others.get(name) for name in (*KEPT, "size", "box_sides", "own_boxes"))


def named(policy: Focus, saliency: Saliency) -> str:
    """Return how experiments and stores call the boxes of a policy, see `cache.layout.boxes_name`."""
    if policy == "repeat":
        return policy
    in_time = {"time_segments": num_segments(policy, saliency), "looks": num_looks(policy, saliency)}
    return boxes_name(policy, saliency.box_rule, saliency.num_boxes, **in_time)


def boxes_words(saliency: Saliency) -> str:
    """Return how boxes are chosen, for the protocol of a result: "box 32"."""
    sides = ", ".join(map(str, sorted(saliency.box_sides)))
    texts = {
        "fixed": f"box {saliency.box_side}",
        "top-k": f"{saliency.num_boxes} boxes of {saliency.box_side}",
        "scale": f"box of one of {sides}",
        "nested": f"nested boxes of {sides}",
    }
    more = {"margin": saliency.box_margin, "jitter": saliency.box_jitter}
    tube = f" in each of {saliency.time_segments} segments" if saliency.time_segments > 1 else ""
    tube += f", up to {saliency.looks} looks" if saliency.looks > 1 else ""
    return texts[saliency.box_rule] + tube + "".join(f", {name} {value:g}" for name, value in more.items() if value)
