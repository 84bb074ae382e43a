"""The recipe of a training by hand: groups and rates, schedules, clipping, frozen parts, the average of weights."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from models.backbones import build
from models.losses import LossTerms, charades_loss
from models.objectives import Labels, saliency_maps
from pipeline.config import Base, Training
from pipeline.config_keys import key_settings
from pipeline.errors import StageError
from pipeline.run.stores import Stores, open_run
from pipeline.training.checkpoints import newest_checkpoint
from pipeline.training.loader import Epoch, TrainingData
from pipeline.training.loop import fit
from pipeline.training.optimiser import (
    freeze,
    layer_scales,
    learning_rate,
    make_optimiser,
    set_rate,
    stored_copies,
    train_mode,
)
from tests.helpers.tiny_data import change

RNG = np.random.default_rng(0)
INPUTS, WANTED = (torch.from_numpy(RNG.normal(size=(10, 6)).astype(np.float32)) for _ in range(2))
ALL = {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1, "clip_grad_norm": 0.5, "ema_decay": 0.9}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(6), nn.ModuleDict({"query": nn.Linear(6, 6)})

    def forward(self, x):
        return x + self.attention["query"](self.norm(x))


class Transformer(nn.Module):
    """Names as in transformers: embeddings, encoder.layer.N.attention, classifier, which is registered first here."""

    head_name = "classifier"

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.classifier, self.cls_token = nn.Linear(6, 6), nn.Parameter(torch.zeros(1, 1, 6))
        self.embeddings, self.encoder = nn.Linear(6, 6), nn.Module()
        self.encoder.layer = nn.ModuleList(Block() for _ in range(11))
        self.fc_norm = nn.BatchNorm1d(6)

    def forward(self, x):
        x = self.embeddings(x) + self.cls_token[0]
        for block in self.encoder.layer:
            x = block(x)
        return self.classifier(self.fc_norm(x))


def load(epoch, numbers):
    return INPUTS[numbers] + epoch, WANTED[numbers]


def squared(network, batch):
    return (network(batch[0]) - batch[1]).square().mean()


def train(folder, network, loss=squared, until=None, **changes):
    recipe = Training(**{"epochs": 3, "learning_rate": 0.05, "drop_epochs": (2,), "batch_size": 4, **changes})
    fit(network, TrainingData(load, 10, loss, "test"), recipe, folder, 7, until)
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left) and left.keys() == right.keys()


def test_cosine_and_warm_up_by_hand():
    """Five steps an epoch, four epochs, one of warm-up: a fifth of the rate first, half of it in mid-cosine."""
    recipe = Training(epochs=4, learning_rate=0.4, schedule="cosine", warmup_epochs=1)
    rates = [learning_rate(recipe, step, 5) for step in range(20)]
    assert rates[:6] == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4, 0.4])
    assert rates[6] == pytest.approx(0.2 * (1 + math.cos(math.pi / 15)))
    assert rates[5 + 5] == pytest.approx(0.2 * 1.5) and rates[5 + 10] == pytest.approx(0.2 * 0.5)
    assert rates[19] == pytest.approx(0.2 * (1 + math.cos(math.pi * 14 / 15))) and rates[19] > 0
    stepped = Training(epochs=4, learning_rate=0.4, warmup_epochs=1, drop_epochs=(2, 3))
    assert [learning_rate(stepped, step, 2) for step in range(8)] == pytest.approx(
        [0.2, 0.4, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004]
    )


def test_metrics_say_the_rate_of_the_last_step(tmp_path):
    """Three batches in two steps of the optimiser; the third of them is a step of its own."""
    train(tmp_path, Transformer(), schedule="cosine", warmup_epochs=1, accumulate=2)
    half = [0.025 * (1 + math.cos(math.pi * step / 4)) for step in (1, 3)]
    assert pd.read_csv(tmp_path / "metrics.csv").learning_rate.tolist() == pytest.approx([0.05, *half])


def test_adamw_by_hand(tmp_path):
    """One matrix with decoupled decay, one bias without, betas 0.8 (momentum) and 0.999, the norm clipped to 0.3."""
    torch.manual_seed(0)
    network = nn.Linear(6, 6)
    values = [parameter.detach().numpy().astype(float).copy() for parameter in network.parameters()]
    recipe = {"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1, "clip_grad_norm": 0.3, "epochs": 1}
    train(tmp_path, network, **recipe)
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for step, numbers in enumerate(Epoch(load, 10, 4, 7, 0, 3).batches, 1):
        x, wanted = INPUTS.numpy()[numbers].astype(float), WANTED.numpy()[numbers].astype(float)
        error = 2 * (x @ values[0].T + values[1] - wanted) / wanted.size
        gradients = [error.T @ x, error.sum(0)]
        norm = math.sqrt(sum((one**2).sum() for one in gradients))
        assert norm > 0.3
        for index, (gradient, decay) in enumerate(zip(gradients, (0.1, 0.0), strict=True)):
            gradient = gradient * 0.3 / (norm + 1e-6)
            values[index] *= 1 - 0.05 * decay
            first[index] = 0.8 * first[index] + 0.2 * gradient
            second[index] = 0.999 * second[index] + 0.001 * gradient**2
            scaled = np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8
            values[index] -= 0.05 * first[index] / (1 - 0.8**step) / scaled
    for parameter, expected in zip(network.parameters(), values, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_weight_decay_of_adamw_spares_norms_biases_tokens_and_positions():
    network = Transformer()
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimiser(network, Training(optimizer="adamw", weight_decay=0.05)).param_groups
        for parameter in group["params"]
    }
    found = {name for name, parameter in network.named_parameters() if decays[id(parameter)]}
    layers = {f"encoder.layer.{number}.attention.query.weight" for number in range(11)}
    assert found == {"classifier.weight", "embeddings.weight", *layers} and len(decays) == 4 + 1 + 11 * 4 + 2
    (group,) = make_optimiser(network, Training(weight_decay=0.05)).param_groups  # sgd, as ever
    assert group["weight_decay"] == 0.05 and group["params"] == list(network.parameters())


@pytest.mark.parametrize(
    ("name", "blocks", "expected"),
    [
        (
            "swin3d_t",  # stages of 2, 2, 6 and 2 blocks, merging of patches between them
            12,
            {"patch_embed.proj.weight": 0, "features.0.0.attn.qkv.weight": 1, "features.0.1.mlp.0.bias": 2,
             "features.1.reduction.weight": 2, "features.4.3.norm1.weight": 8, "features.6.1.mlp.3.weight": 12,
             "norm.weight": 13, "head.bias": 13},
        ),
        (
            "mvit_v2_s",
            16,
            {"conv_proj.weight": 0, "pos_encoding.class_token": 0, "blocks.0.attn.rel_pos_h": 1,
             "blocks.1.mlp.0.weight": 2, "blocks.10.attn.project.0.weight": 11, "blocks.15.mlp.3.bias": 16,
             "norm.bias": 17, "head.1.weight": 17},
        ),
    ],
)  # fmt: skip
def test_layer_decay_of_torchvision(name, blocks, expected):
    with torch.device("meta"):
        scales = layer_scales(build(name, 3), 0.5)
    assert {name: scales[name] for name in expected} == {
        name: 0.5 ** (blocks + 1 - depth) for name, depth in expected.items()
    }
    assert set(scales.values()) == {0.5**power for power in range(blocks + 2)}


def test_layer_decay_of_transformers_names(tmp_path):
    """The block 1 is not 10; what comes after the blocks, and the head wherever it is, learns at the full rate."""
    network = Transformer()
    scales = layer_scales(network, 0.75)
    expected = {"cls_token": 0, "embeddings.weight": 0, "encoder.layer.0.norm.bias": 1, "fc_norm.weight": 12}
    expected |= {"encoder.layer.1.norm.weight": 2, "encoder.layer.10.attention.query.weight": 11, "classifier.bias": 12}
    assert {name: scales[name] for name in expected} == pytest.approx(
        {name: 0.75 ** (12 - depth) for name, depth in expected.items()}
    )
    optimiser = make_optimiser(network, Training(optimizer="adamw", layer_decay=0.75))
    set_rate(optimiser, 0.1)
    rates = {id(parameter): group["lr"] for group in optimiser.param_groups for parameter in group["params"]}
    assert all(rates[id(one)] == pytest.approx(0.1 * scales[name]) for name, one in network.named_parameters())
    predictor = nn.ModuleDict(
        {"encoder": Transformer(), "predictor": nn.ModuleDict({"layer": nn.ModuleList([Block()])})}
    )
    assert layer_scales(predictor, 0.5)["predictor.layer.0.norm.bias"] == 1  # the encoder has more blocks
    with pytest.raises(StageError, match=r"layer_decay: the network has no blocks .* set layer_decay = 1"):
        layer_scales(build("small_i3d", 3), 0.5)


def test_frozen_parts_stay_to_the_bit(tmp_path):
    """Weights, statistics of batch-norm within them, and the rest learns; also with weight decay and an average."""
    network = Transformer()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    names = ("encoder.layer.1", "fc_norm", "embeddings.bias", "cls_token")
    after = train(tmp_path, network, freeze=names, weight_decay=0.1, **ALL)
    still = {name for name in start if torch.equal(start[name], after[name])}
    expected = {name for name in start if name.startswith(("encoder.layer.1.", "fc_norm."))}
    assert still == expected | {"embeddings.bias", "cls_token"} and "fc_norm.running_mean" in still
    train_mode(network, Training(freeze=("fc_norm",)))
    assert network.training and network.classifier.training and not network.fc_norm.training
    train_mode(network, Training(freeze=("fc_nor",)))
    assert network.fc_norm.training


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("fc_norm", "enkoder.layer"), r"is 'enkoder.layer' or in it; near are .*encoder.layer"),
        (("encoder.lay",), r"is 'encoder.lay' or in it; near are encoder.layer"),
        (("zzz",), r"'zzz' or in it; near are classifier, cls_token, embeddings, encoder, fc_norm"),
        (("",), r"is '' or in it"),
        (("encoder", "embeddings", "classifier", "cls_token", "fc_norm."), "are all parameters; leave out"),
    ],
)
def test_names_to_freeze_that_fit_nothing_or_all_are_refused(names, words):
    with pytest.raises(StageError, match=words):
        freeze(Transformer(), names)


def test_the_average_by_hand(tmp_path):
    """Weights and buffers after each step, min(0.6, (1 + n) / (10 + n)) of the old; the checkpoint has both."""
    network, states = Transformer(), []
    old = {name: value.clone() for name, value in network.state_dict().items()}

    def watched(network, batch):
        states.append({name: value.clone() for name, value in network.state_dict().items()})
        return squared(network, batch)

    found = train(tmp_path, network, watched, ema_decay=0.25, epochs=1)
    checkpoint = newest_checkpoint(tmp_path)
    for number, new in enumerate([*states[1:], checkpoint["network"]], 1):  # statistics move within a step, before it
        decay = min(0.25, (1 + number) / (10 + number))
        old = {name: decay * value + (1 - decay) * new[name] for name, value in old.items()}
    assert found["fc_norm.num_batches_tracked"] == 3 and decay == 0.25
    for name in found.keys() - {"fc_norm.num_batches_tracked"}:
        torch.testing.assert_close(found[name], old[name], rtol=1e-5, atol=1e-6)
    assert equal(checkpoint["average"], found) and not equal(checkpoint["network"], found)
    assert equal(train(tmp_path, Transformer(), ema_decay=0.25, epochs=1), found)  # all done: the average again


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_recipe_goes_on_in_mid_epoch_as_if_nothing_had_been(tmp_path, steps, accumulate):
    """AdamW, cosine, warm-up, clipping, average, layer decay and frozen parts: the same bits and the same losses."""
    recipe = ALL | {"accumulate": accumulate, "layer_decay": 0.75, "freeze": ("embeddings",)}
    expected = train(tmp_path / "whole", Transformer(), **recipe)
    calls = []

    def failing(network, batch):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return squared(network, batch)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Transformer(), failing, checkpoint_minutes=0.0, **recipe)
    assert equal(train(tmp_path / "cut", Transformer(), **recipe), expected)
    for epoch in (1, 2):
        train(tmp_path / "halves", Transformer(), until=epoch, **recipe)
    assert equal(train(tmp_path / "halves", Transformer(), **recipe), expected)
    whole, *others = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "cut", "halves"))
    same = ["epoch", "learning_rate", "loss"]
    assert all(whole[same].equals(table[same]) for table in others)
    last = [newest_checkpoint(tmp_path / name) for name in ("whole", "cut", "halves")]
    assert all(equal(one["network"], last[0]["network"]) and equal(one["average"], expected) for one in last)
    assert not equal(last[0]["network"], expected)


def test_a_checkpoint_of_before_opens(tmp_path):
    """Its optimiser was SGD with one group, which knew no scale."""
    expected = train(tmp_path / "whole", Transformer())
    network, made = Transformer(), []

    def older(*arguments, **options):
        made.append(torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=1e-7))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.loop.make_optimiser", older)
        train(tmp_path / "cut", network, until=2)
    assert "lr_scale" not in newest_checkpoint(tmp_path / "cut")["optimiser"]["param_groups"][0]
    assert equal(train(tmp_path / "cut", Transformer()), expected)


def test_what_a_checkpoint_holds(tmp_path):
    """As many numbers as `check_space` is told, but for counters."""
    for number, recipe in enumerate(({}, {"optimizer": "adamw"}, {"ema_decay": 0.9}, ALL)):
        train(tmp_path / str(number), Transformer(), epochs=2, **recipe)
        content = newest_checkpoint(tmp_path / str(number))
        weights = sum(value.numel() for value in content["network"].values())
        moments = sum(v.numel() for one in content["optimiser"]["state"].values() for v in one.values() if v.ndim)
        total = weights + moments + sum(value.numel() for value in content.get("average", {}).values())
        assert total / weights == pytest.approx(stored_copies(Training(**recipe)), rel=0.05)


def test_smoothed_labels_by_hand():
    """With s = 0.2, a label counts 0.9 and its absence 0.1, in both terms; saliency takes the labels as they are."""
    logits = torch.tensor([[[0.0, 4.0], [2.0, -4.0]]])
    video, frames = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])

    def cross_entropy(z, y):
        return (np.logaddexp(0, z) - y * z).mean()

    z = logits[0].numpy().astype(float)
    expected = cross_entropy(z, np.array([[0.9, 0.1], [0.1, 0.9]])) + cross_entropy(z.mean(0), np.array([0.9, 0.1]))
    terms = LossTerms.of(Base(label_smoothing=0.2))
    assert charades_loss(logits, video, frames, terms).item() == pytest.approx(expected, rel=1e-6)
    network = build("small_i3d", 2).eval()
    clip = torch.rand(1, 4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    maps = [
        saliency_maps(network, clip, ["cross_entropy"], labels=Labels(video, frames, one))[1]["cross_entropy"]
        for one in (terms, LossTerms())
    ]
    assert torch.equal(*maps) and maps[0].any()


def test_the_recipe_is_in_the_key_where_it_is_used():
    assert not key_settings(Base()).keys() & {*ALL, "freeze", "layer_decay", "label_smoothing"}
    assert key_settings(Base(**ALL, freeze=("stem",))).items() >= {**ALL, "freeze": ("stem",)}.items()


def test_smoothing_is_in_no_key_of_a_map(tiny_run):
    """Maps of cross-entropy do not know it; another loss of Base has other maps."""
    stores = open_run(tiny_run.path, tiny_run.config)

    def key(**base):
        other = Stores(stores.run, change(tiny_run.config, base=base), stores.base_weights)
        return other.maps_settings(stores.run.parts[0], "cross_entropy")

    assert key(label_smoothing=0.1) == key() != key(video_loss_weight=0.5)
