"""Losses against values worked out by hand."""

from math import exp, log

import numpy as np
import pytest
import torch

from models.losses import (
    LossTerms,
    charades_loss,
    max_logit,
    max_mean_logit,
    negative_class_entropy,
    negative_entropy,
    negative_softmax_entropy,
)


def bce(logit, target):
    """-(y log p + (1 - y) log(1 - p)) = log(1 + e^x) - y x."""
    return log(1 + exp(logit)) - target * logit


# one clip, T_out = 2, T_in = 4, C = 2: frames at time steps 0, 1/3, 2/3, 1, or at -0.25, 0.25, 0.75, 1.25 (clamped)
LOGITS = torch.tensor([[[0.0, 4.0], [2.0, -4.0]]])
FRAME_LOGITS = {
    "aligned": [[0.0, 4.0], [2 / 3, 4 / 3], [4 / 3, -4 / 3], [2.0, -4.0]],
    "centred": [[0.0, 4.0], [0.5, 2.0], [1.5, -2.0], [2.0, -4.0]],
}
VIDEO_TARGETS = torch.tensor([[1.0, 0.0]])
FRAME_TARGETS = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
VIDEO = (bce(1, 1) + bce(0, 0)) / 2
CLIP = (bce(1, 1) + bce(0, 1)) / 2  # some frame has either class
FRAME = {
    name: sum(
        bce(x, y)
        for logits, targets in zip(by_frame, FRAME_TARGETS[0].tolist(), strict=True)
        for x, y in zip(logits, targets, strict=True)
    )
    / 8
    for name, by_frame in FRAME_LOGITS.items()
}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ((), FRAME["aligned"] + VIDEO),
        ((0.25,), FRAME["aligned"] + 0.25 * VIDEO),
        ((1.0, "centred"), FRAME["centred"] + VIDEO),
        ((0.25, "aligned", "clip"), FRAME["aligned"] + 0.25 * CLIP),
        (("released", "centred", "video"), (4 * FRAME["centred"] + VIDEO) / 5),
        (("released", "aligned", "clip"), (4 * FRAME["aligned"] + CLIP) / 5),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "clip_sum"])
def test_charades_loss_of_one_clip(terms, expected, reduction):
    found = charades_loss(LOGITS, VIDEO_TARGETS, FRAME_TARGETS, LossTerms(*terms), reduction)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize(("frames", "steps"), [(16, 1), (32, 3), (64, 7), (128, 15)])
def test_the_released_loss_and_its_gradient_are_their_formula(frames, steps):
    """The mean over T_in + 1 rows: logits interpolated with aligned corners, then their mean over time against the
    union of the frames' labels. Its gradient, through the matrix of the interpolation, by hand."""
    rng = np.random.default_rng(frames)
    logits, classes = rng.normal(0, 3, (2, steps, 157)), 157
    frame_targets = rng.random((2, frames, classes)) < 0.05
    matrix = np.stack([np.interp(np.linspace(0, steps - 1, frames), np.arange(steps), one) for one in np.eye(steps)], 1)
    rows = np.concatenate([matrix @ logits, logits.mean(1, keepdims=True)], 1)  # B, T_in + 1, C
    targets = np.concatenate([frame_targets, frame_targets.any(1, keepdims=True)], 1)
    expected = np.mean(np.logaddexp(0, rows) - targets * rows)
    of_rows = (1 / (1 + np.exp(-rows)) - targets) / rows.size
    gradient = np.einsum("ts,btc->bsc", matrix, of_rows[:, :-1]) + of_rows[:, -1:] / steps

    leaf = torch.tensor(logits, requires_grad=True)
    of_frames = torch.from_numpy(frame_targets.astype(float))
    whole_video = torch.ones(2, classes, dtype=torch.float64)  # must not count
    loss = charades_loss(leaf, whole_video, of_frames, LossTerms("released", "aligned", "clip"))
    (found,) = torch.autograd.grad(loss, leaf)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=0)
    np.testing.assert_allclose(found.numpy(), gradient, rtol=1e-12, atol=1e-12 * np.abs(gradient).max())


def test_mean_is_over_clips_and_clip_sum_adds_them():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 5, generator=generator)
    video, frame = (torch.randint(0, 2, shape, generator=generator).float() for shape in [(3, 5), (3, 7, 5)])
    clips = [charades_loss(logits[i : i + 1], video[i : i + 1], frame[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(charades_loss(logits, video, frame), sum(clips) / 3)
    torch.testing.assert_close(charades_loss(logits, video, frame, reduction="clip_sum"), sum(clips))


def test_one_time_step_is_held_for_all_frames():
    logits = torch.tensor([[[1.0, -2.0]]])
    expected = (bce(1, 1) + bce(-2, 0)) / 2 + (2 * bce(1, 1) + bce(1, 0) + 2 * bce(-2, 0) + bce(-2, 1)) / 6
    frames = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    assert charades_loss(logits, torch.tensor([[1.0, 0.0]]), frames).item() == pytest.approx(expected)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'sum'"):
        charades_loss(LOGITS, VIDEO_TARGETS, FRAME_TARGETS, reduction="sum")


def test_entropy_by_hand():
    """p = 1/2, 3/4 and 1/4: p log p summed over time steps and classes, per clip."""
    logits = torch.tensor([[[0.0, log(3)], [-log(3), 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = [log(1 / 2) + 3 / 4 * log(3 / 4) + 1 / 4 * log(1 / 4), 2 * log(1 / 2)]
    assert negative_entropy(logits).tolist() == pytest.approx(expected)


def test_entropy_and_its_gradient_are_finite_for_certain_logits():
    logits = torch.tensor([[[-200.0, 200.0]]], requires_grad=True)
    value = negative_entropy(logits)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()


def test_entropy_gradient_points_away_from_its_minimum():
    """p log p is least at p = 1/e, the logit -log(e - 1): its gradient changes sign there, and only there."""
    turn = -log(exp(1) - 1)
    logits = torch.tensor([[[turn - 0.1, turn, turn + 0.1]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(negative_entropy(logits).sum(), logits)
    low, zero, high = gradient.flatten().tolist()
    assert low < 0 < high and zero == pytest.approx(0, abs=1e-6)


def test_objectives_of_the_released_code():
    logits = torch.tensor([[[0.0, log(3)], [1.0, -5.0]], [[-2.0, -1.0], [-3.0, -1.5]]])
    assert max_logit(logits).tolist() == pytest.approx([-log(3), 1.0])
    q = exp(0.5) / (exp(0.5) + exp(0.75))
    one_step = negative_softmax_entropy(logits[:1, :1]).item()
    assert one_step == pytest.approx(q * log(q) + (1 - q) * log(1 - q))
    assert negative_softmax_entropy(logits)[0].item() == pytest.approx(
        one_step + negative_softmax_entropy(logits[:1, 1:]).item()
    )


def ce(logits, label):
    """-log softmax of two logits at the label."""
    return log(sum(exp(one) for one in logits)) - logits[label]


SINGLE = LossTerms(task="single_label")
OF_VIDEO = ce([1.0, 0.0], 0)


@pytest.mark.parametrize(
    ("weight", "shown", "expected"),
    [
        (1.0, [1, 1, 0, 0], lambda frames: OF_VIDEO + (frames[0] + frames[1]) / 2),
        (0.25, [0, 0, 0, 1], lambda frames: 0.25 * OF_VIDEO + frames[3]),
        (1.0, [0, 0, 0, 0], lambda frames: OF_VIDEO),  # no frame has a class: the video's label alone
        ("released", [0, 1, 1, 1], lambda frames: (OF_VIDEO + sum(frames[1:])) / 4),  # the labelled rows together
        ("released", [0, 0, 0, 0], lambda frames: OF_VIDEO),
    ],
)
@pytest.mark.parametrize("interpolation", ["aligned", "centred"])
def test_loss_of_a_single_label_leaves_out_frames_without_action(weight, shown, expected, interpolation):
    frames = torch.tensor(shown, dtype=torch.float32)[None, :, None] * torch.tensor([1.0, 0.0])
    terms = LossTerms(weight, interpolation, task="single_label")
    found = charades_loss(LOGITS, VIDEO_TARGETS, frames, terms)
    assert found.item() == pytest.approx(expected([ce(row, 0) for row in FRAME_LOGITS[interpolation]]))


def test_loss_of_a_single_label_is_pytorchs_cross_entropy_and_a_clip_does_not_depend_on_others():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(3, 2, 5, generator=generator), torch.tensor([4, 0, 2])
    video = torch.eye(5)[labels]
    frames = video[:, None] * torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, 1, 1]])[..., None]
    each = [charades_loss(*(one[i : i + 1] for one in (logits, video, frames)), SINGLE) for i in range(3)]
    torch.testing.assert_close(charades_loss(logits, video, frames, SINGLE), sum(each) / 3)
    torch.testing.assert_close(charades_loss(logits, video, frames, SINGLE, "clip_sum"), sum(each))
    torch.testing.assert_close(each[1], torch.nn.functional.cross_entropy(logits[1:2].mean(1), labels[1:2]))
    smooth = charades_loss(logits[1:2], video[1:2], frames[1:2], SINGLE._replace(label_smoothing=0.3))
    expected = torch.nn.functional.cross_entropy(logits[1:2].mean(1), labels[1:2], label_smoothing=0.3)
    torch.testing.assert_close(smooth, expected)
    assert LossTerms.of(SINGLE, "single_label") == SINGLE and LossTerms.of(SINGLE).task == "multi_label"


def test_objectives_of_a_single_label_by_hand():
    """Mean logits (log 3, 0) and (0, 0): p = (3/4, 1/4) and (1/2, 1/2). Softmax of each time step would differ."""
    logits = torch.tensor([[[2 * log(3), 1.0], [0.0, -1.0]], [[5.0, -5.0], [-5.0, 5.0]]], requires_grad=True)
    found = negative_class_entropy(logits)
    assert found.tolist() == pytest.approx([3 / 4 * log(3 / 4) + 1 / 4 * log(1 / 4), log(1 / 2)])
    assert max_mean_logit(logits).tolist() == pytest.approx([-log(3), 0.0])
    (gradient,) = torch.autograd.grad(negative_class_entropy(logits * 100).sum(), logits)
    assert gradient.isfinite().all()
