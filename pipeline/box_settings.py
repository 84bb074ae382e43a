"""How a clip is looked at again, by the settings of stage 1: how many boxes, their sides, what of it enters keys."""

from collections.abc import Mapping
from dataclasses import replace

from cache.layout import MOST_BOXES, boxes_name
from pipeline.config import LATER, Config, Focus, Saliency, without_later

OF_SIDES = ("scale", "nested")  # rules that take box_sides in place of box_side
KEPT = ("box_rule", "num_boxes", "box_margin", "box_jitter")  # how a model's boxes were chosen, beside their sides


def check_boxes(config: Config) -> Config:
    """Return the config if its settings of boxes fit each other; ValueError names the setting that does not."""
    saliency, inner = config.saliency, config.clips.input_side
    rule, sides, count = saliency.box_rule, saliency.box_sides, saliency.num_boxes
    if (count > 1) != (rule == "top-k"):
        expected = "at least 2 with box_rule top-k" if rule == "top-k" else f"1 with box_rule {rule}"
        raise ValueError(f"saliency.num_boxes: expected {expected}, got {count}")
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


def rule_settings(saliency: Saliency) -> dict:
    """Return what of these settings can change a box, for keys: plain values; as before there were rules, the size."""
    side = saliency.box_side
    settings = {"box_sides": sorted(saliency.box_sides)} if saliency.box_rule in OF_SIDES else {"size": [side, side]}
    names = ("box_rule", "box_margin", "box_jitter")
    return settings | without_later(
        {name: getattr(saliency, name) for name in names} | {"num_boxes": num_boxes(saliency)}
    )


def as_trained(saliency: Saliency, boxes: Mapping) -> Saliency:
    """Return the settings with the maps, the rule and the sides of a trained model's boxes.

    Args:
        boxes: what its record says of them: `rule_settings`, and of maps that come from a gradient their settings.
    """
    found = {name: boxes.get(name, LATER[name]) for name in KEPT} | {"box_sides": tuple(boxes.get("box_sides", ()))}
    if found["box_rule"] == "nested":
        found["num_boxes"] = 1
    maps = boxes.get("maps", {})
    if maps.get("method") not in (None, "frame_difference"):  # which is of the clips alone
        found |= {"method": maps["method"], "gradient_at": maps.get("gradient_at", LATER["gradient_at"])}
    return replace(saliency, **found, box_side=boxes.get("size", [saliency.box_side])[0])


def is_same_rule(boxes: Mapping, others: Mapping) -> bool:
    """Whether the settings of two stores of boxes, of one policy, differ at most in the maps that they are found in."""
    return all(boxes.get(name) == others.get(name) for name in (*KEPT, "size", "box_sides", "own_boxes"))


def named(policy: Focus, saliency: Saliency) -> str:
    """Return how experiments and stores call the boxes of a policy, see `cache.layout.boxes_name`."""
    return policy if policy == "repeat" else boxes_name(policy, saliency.box_rule, saliency.num_boxes)


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
    return texts[saliency.box_rule] + "".join(f", {name} {value:g}" for name, value in more.items() if value)
