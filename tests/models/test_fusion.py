"""Fusion: means of logits and of scores, volumes in a row."""

from math import log

import pytest
import torch

from models.fusion import (
    class_scores,
    clip_logits,
    concat_targets,
    concat_time,
    late_fusion,
    pool_boxes,
    video_scores,
)

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


def test_mean_of_softmax_scores():
    """Scores (1/4, 3/4) and (3/4, 1/4): their mean is (1/2, 1/2), not that of sigmoids."""
    fused = late_fusion(torch.tensor([[[0.0, log(3)]]]), torch.tensor([[[log(3), 0.0]]]), "scores", "single_label")
    assert fused.flatten().tolist() == pytest.approx([log(1 / 2)] * 2)
    torch.testing.assert_close(
        late_fusion(BASE, FOCUS, "scores", "single_label").softmax(-1), (BASE.softmax(-1) + FOCUS.softmax(-1)) / 2
    )
    assert torch.equal(late_fusion(BASE, FOCUS, task="single_label"), late_fusion(BASE, FOCUS))  # logits are logits


def test_class_scores():
    logits = torch.tensor([[0.0, log(3)], [log(3), -log(3)]])
    assert class_scores(logits).flatten().tolist() == pytest.approx([1 / 2, 3 / 4, 3 / 4, 1 / 4])
    assert class_scores(logits, "single_label").flatten().tolist() == pytest.approx([1 / 4, 3 / 4, 9 / 10, 1 / 10])
    assert class_scores(logits).dtype == torch.float64


CLIPS = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)) * 3


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_a_video_is_scored_by_the_log_odds_of_its_clips(task):
    p = class_scores(CLIPS, task)
    for pooling, expected in (("max", p.amax(0)), ("mean", p.mean(0))):
        scores = video_scores(CLIPS, task, pooling)
        assert scores.shape == (4,) and scores.dtype == torch.float64
        torch.testing.assert_close(scores, expected.logit(), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="'median'"):
        video_scores(CLIPS, task, "median")


def test_the_largest_of_many_labels_is_the_logit_itself():
    assert torch.equal(video_scores(CLIPS), CLIPS.amax(0).double())


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize(("task", "gaps"), [("single_label", (18, 25, 60, 900)), ("multi_label", (18, 25, 60, 900))])
def test_scores_keep_their_order_where_probabilities_are_one_or_zero(task, pooling, gaps):
    """From a gap of 17 on a float32 softmax is 1.0, from 37 on a float64 one, too."""
    clips = [torch.tensor([[gap + 0.5, 0.5, 0.25], [gap + 1.5, 1.5, 1.25]]) for gap in gaps]
    assert all((one.softmax(-1)[:, 0] == 1).all() for one in clips)
    for sign in (1, -1):
        scores = torch.stack([video_scores(sign * one, task, pooling) for one in clips])
        assert (scores[:, 0].diff() * sign > 0).all() and scores.isfinite().all()


def test_two_classes_that_share_all_of_the_probability():
    scores = video_scores(torch.tensor([[800.0, 800.0, 0.0, -700.0]]), "single_label")
    assert scores.tolist() == pytest.approx([0.0, 0.0, -800 - log(2), -1500 - log(2)])


def test_logits_of_boxes_are_pooled_class_by_class():
    logits = torch.tensor([[[[1.0, -4.0]], [[3.0, -5.0]], [[-1.0, 6.0]]]])  # one clip, three boxes, one time step
    assert pool_boxes(logits).tolist() == [[[3.0, 6.0]]]
    assert pool_boxes(logits, "mean").tolist() == [[[1.0, -1.0]]]
    with pytest.raises(ValueError, match="'sum'"):
        pool_boxes(logits, "sum")


def test_boxes_follow_the_context_in_time_one_by_one():
    context, focus = torch.rand(2, 3, 4, 6, 3), torch.rand(2, 2, 3, 4, 6, 3)
    joined = concat_time(context, focus)
    assert joined.shape == (2, 9, 4, 6, 3) and torch.equal(joined[:, :3], context)
    assert torch.equal(joined[:, 3:6], focus[:, 0]) and torch.equal(joined[:, 6:], focus[:, 1])
    with pytest.raises(ValueError, match="equal shapes"):
        concat_time(context, focus[:, :, :2])
    assert concat_targets(torch.tensor([[[1, 0], [0, 1]]]), 2).tolist() == [[[1, 0], [0, 1]] * 3]
