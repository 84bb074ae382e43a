"""Fusion: means of logits and of scores, volumes in a row."""

from math import log

import pytest
import torch

from models.fusion import clip_logits, concat_targets, concat_time, late_fusion

BASE = torch.tensor([[[0.0, log(3), -2.0]]])
FOCUS = torch.tensor([[[log(3), log(3), 6.0]]])


def test_mean_of_logits():
    assert late_fusion(BASE, FOCUS).flatten().tolist() == pytest.approx([log(3) / 2, log(3), 2.0])


def test_mean_of_scores_as_logits():
    """Scores 1/2 and 3/4 have the mean 5/8, whose logit is log(5/3)."""
    fused = late_fusion(BASE, FOCUS, fuse="scores")
    assert fused[0, 0, :2].tolist() == pytest.approx([log(5 / 3), log(3)])
    torch.testing.assert_close(fused.sigmoid(), (BASE.sigmoid() + FOCUS.sigmoid()) / 2)


def test_mean_of_scores_is_finite_at_the_ends():
    """Where both scores round to 1, or one is 1 and one 0, the logit is still right."""
    fused = late_fusion(torch.tensor([[[50.0, 200.0, -50.0]]]), torch.tensor([[[50.0, -200.0, -50.0]]]), fuse="scores")
    assert fused.flatten().tolist() == pytest.approx([50.0, 0.0, -50.0])


def test_gradient_reaches_the_focused_branch_only_by_half():
    focus = FOCUS.clone().requires_grad_()
    late_fusion(BASE, focus).sum().backward()
    assert focus.grad.flatten().tolist() == [0.5, 0.5, 0.5]


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(ValueError, match="equal shapes"):
        late_fusion(BASE, FOCUS[:, :, :1])
    with pytest.raises(ValueError, match="'max'"):
        late_fusion(BASE, FOCUS, fuse="max")
    with pytest.raises(ValueError, match="equal shapes"):
        concat_time(torch.zeros(1, 2, 4, 6, 3), torch.zeros(1, 2, 6, 4, 3))


def test_context_comes_before_focus_in_time():
    context, focus = torch.rand(2, 3, 4, 6, 3), torch.rand(2, 3, 4, 6, 3)
    joined = concat_time(context, focus)
    assert joined.shape == (2, 6, 4, 6, 3)
    assert torch.equal(joined[:, :3], context) and torch.equal(joined[:, 3:], focus)


def test_frame_targets_are_repeated_for_the_second_half():
    targets = torch.tensor([[[1, 0], [0, 1], [0, 0]]])
    assert concat_targets(targets).tolist() == [[[1, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0]]]


def test_clips_are_ranked_by_their_mean_logit():
    logits = torch.tensor([[[0.0, 4.0], [2 * log(3), -4.0]]])
    assert clip_logits(logits)[0].tolist() == pytest.approx([log(3), 0.0])


@pytest.mark.parametrize("fuse", ["logits", "scores"])
def test_fused_logits_still_rank_where_sigmoids_are_one(fuse):
    """Seventeen and above, float32 sigmoids are all 1.0."""
    base = torch.arange(17.0, 40.0)[:, None, None]
    fused = clip_logits(late_fusion(base, base + 1, fuse)).flatten()
    assert (base.sigmoid() == 1).all() and (fused.diff() > 0).all()
    assert (clip_logits(late_fusion(-base, -base - 1, fuse)).flatten().diff() < 0).all()
