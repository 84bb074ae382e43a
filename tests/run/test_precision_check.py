"""bfloat16: its boxes against those of float32 on a sample, which stage 1 reports."""

import re

import torch

from models.backbones import build
from models.frozen.fold import fold
from pipeline.run import precision_check
from pipeline.run.precision_check import Agreement, box_agreement
from pipeline.stages import saliency
from tests.helpers.tiny_data import change, tiny_config


def _video() -> torch.Tensor:
    return torch.rand(3, 4, 28, 28, 3, generator=torch.Generator().manual_seed(0))


def test_bfloat16_is_compared_with_float32(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, config, asked = fold(build("small_i3d", 3)), tiny_config(tmp_path), []
    look = precision_check.saliency_maps

    def looked(network, video, names, method, precision, *others):
        asked.append(precision)
        return look(network, video, names, method, precision, *others)

    monkeypatch.setattr(precision_check, "saliency_maps", looked)
    found = box_agreement(network, _video(), config.saliency)
    assert asked == ["float32", "bfloat16"]
    assert found.num_boxes == 3 and 0 <= found.equal <= 3 and 0 < found.overlap <= 1


def test_boxes_that_move_are_counted(tmp_path, monkeypatch):
    """Maps with one bright pixel each: in bfloat16 that of the second clip lies 20 pixels further right."""
    config = tiny_config(tmp_path)

    def maps(network, video, names, method, precision, *others):
        values = torch.zeros(2, 28, 28)
        values[0, 20, 5] = values[1, 20, 25 if precision == "bfloat16" else 5] = 1
        return None, {"entropy": values}

    monkeypatch.setattr(precision_check, "saliency_maps", maps)
    # the first box that holds column 5 begins at 0, the first that holds column 25 at 10; sides of 16
    assert box_agreement(None, None, config.saliency) == Agreement(2, 1, (1 + 6 / 26) / 2)


def test_stage_1_says_what_bfloat16_costs(trained):
    config = change(trained.config, saliency={"precision": "bfloat16"})
    summary = saliency.run(config, trained.path).summary
    assert re.search(r"bfloat16: \d of 2 sampled boxes as in float32, mean overlap [01]\.\d{3}$", summary), summary
    assert "bfloat16" not in saliency.run(config, trained.path).summary  # nothing to do, nothing to say


def test_boxes_far_apart_are_a_warning(trained, monkeypatch, caplog):
    monkeypatch.setattr(saliency, "sample_agreement", lambda *_: Agreement(4, 0, 0.5))
    saliency.run(change(trained.config, saliency={"precision": "bfloat16"}), trained.path)
    assert "0 of 4 sampled boxes as in float32, mean overlap 0.500" in caplog.text
