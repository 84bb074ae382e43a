"""Networks from folders of transformers: equal to transformers' own, and every folder that does not fit refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from models.backbones import build, count_out_frames, head_names
from models.clip_length import check_clips, interpolate_positions
from models.frozen.fold import fold
from models.hf_network import load_folder, weights_files
from models.losses import negative_entropy
from models.own_network import NetworkError, check_contract, check_rebuilt
from models.saliency import input_saliency
from models.weights_file import WeightsError
from tests.helpers.tiny_folders import KINDS, save_folder, transformers

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return {kind: save_folder(root / kind, kind) for kind in KINDS}


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path / "mae")


def load(folder, classes=3, **options):
    network = build(f"hf:{folder}", classes, **options)
    load_folder(network, f"hf:{folder}")
    return network.eval()


def colours(kind, rgb):
    """What each family's processor makes of RGB in [0, 1]."""
    if kind == "vjepa2":
        return (rgb - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    return rgb if kind == "videoprism" else 2 * rgb - 1


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_maps_are_those_of_transformers_and_autograd(folders, kind):
    folder, name = folders[kind], KINDS[kind][0]
    network = load(folder)
    check_contract(network, 4, 28, 3)
    check_rebuilt(network, build(f"hf:{folder}", 3), 4, 28)
    plain = getattr(transformers, f"{name}ForVideoClassification").from_pretrained(folder).eval()
    video = torch.rand(2, 4, 28, 28, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits = plain(colours(kind, video).permute(0, 1, 4, 2, 3)).logits.reshape(2, 1, 3)
    (gradient,) = torch.autograd.grad(negative_entropy(logits).sum(), video, retain_graph=True)
    found, maps = input_saliency(fold(network), video, {"entropy": negative_entropy})
    torch.testing.assert_close(found, logits.detach(), rtol=1e-5, atol=1e-6)
    expected = gradient.square().sum(-1).sqrt().amax(1)
    assert expected.amax() > 1e-3
    torch.testing.assert_close(maps["entropy"], expected, rtol=1e-4, atol=1e-6)
    seen = []
    plain.get_submodule(network.patch_embedding).register_forward_hook(lambda *given: seen.append(given[2]))
    logits = plain(colours(kind, video).permute(0, 1, 4, 2, 3)).logits.reshape(2, 1, 3)
    (gradient,) = torch.autograd.grad(negative_entropy(logits).sum(), seen[0])
    _, maps = input_saliency(fold(network), video, {"entropy": negative_entropy}, gradient_at="patches")
    grid = gradient.norm(dim=1) if gradient.ndim == 5 else gradient.norm(dim=1).unflatten(0, (2, 4))
    assert grid.shape == (2, 4 // network.patch_size[0], 4, 4)
    wanted = torch.nn.functional.interpolate(grid.amax(1)[:, None], size=(28, 28), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps["entropy"], wanted, rtol=1e-4, atol=1e-6)


def test_what_the_folder_says(folders):
    network = load(folders["videomae"])
    assert (network.num_frames, network.input_side, network.patch_size) == (4, 28, (2, 7, 7))
    assert head_names(network) == ["classifier.weight", "classifier.bias"] or len(head_names(network)) == 2
    with pytest.raises(NetworkError, match=r"mae takes clips.num_frames = 4 alone, and it is 8"):
        check_clips(network, "mae", 8, 28)
    with pytest.raises(NetworkError, match=r"mae takes clips.input_side = 28 alone, and it is 56"):
        check_clips(network, "mae", 4, 56)
    free = load(folders["vjepa2"])  # rotary: any number of tubelets
    assert free.num_frames == 0 and count_out_frames(free, 8, 28) == 1
    assert load(folders["videomae"], hidden_dropout_prob=0.25).config.hidden_dropout_prob == 0.25
    with pytest.raises(NetworkError, match=r"base.options.depth: config.json .* has no such setting"):
        build(f"hf:{folders['videomae']}", 3, depth=3)


def change_weights(folder, change):
    state = safetensors.load_file(folder / "model.safetensors")
    change(state)
    safetensors.save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("fc_norm.weight"), r"fc_norm.weight +missing"),
        (lambda state: state.update(more=torch.zeros(2)), r"more +unexpected"),
        (lambda state: state.update({"classifier.weight": torch.zeros(5, 24)}), r"classifier.weight +has \(5, 24\)"),
        (lambda state: state["fc_norm.bias"].fill_(float("nan")), r"fc_norm.bias +holds NaN"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_listed(folder, change, words):
    change_weights(folder, change)
    network = build(f"hf:{folder}", 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=words):
        load_folder(network, f"hf:{folder}")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"num_hidden_layers": 1}, r"videomae.encoder.layer.1.\S+ +unexpected"),
        ({"num_hidden_layers": 3}, r"videomae.encoder.layer.2.\S+ +missing"),
        ({"tubelet_size": 1}, r"patch_embeddings.projection.weight +has \(24, 3, 2, 7, 7\), needs \(24, 3, 1, 7, 7\)"),
    ],
)
def test_options_never_drop_or_invent_weights(folder, option, words):
    with pytest.raises(WeightsError, match=words):
        load_folder(build(f"hf:{folder}", 3, **option), f"hf:{folder}")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"hidden_dropout_prob": "abc"}, "its config.json with base.options .*abc.* makes no network"),
        ({"model_type": "vivit"}, "base.options.model_type: .* or it is not yours"),
        ({"to_dict": 1}, "base.options.to_dict: .* has no such setting"),
    ],
)
def test_options_that_make_no_network(folder, option, words):
    with pytest.raises(NetworkError, match=words):
        build(f"hf:{folder}", 3, **option)


@pytest.mark.parametrize("colours", [{"image_mean": "abc", "image_std": [1, 1, 1]}, {"rescale_factor": None}])
def test_colours_that_are_no_numbers(folder, colours):
    (folder / "preprocessor_config.json").write_text(json.dumps(colours))
    with pytest.raises(NetworkError, match=r"preprocessor_config.json has colours that are no numbers"):
        build(f"hf:{folder}", 3)


def test_another_number_of_classes_needs_a_new_head(folder):
    network = build(f"hf:{folder}", 7)
    with pytest.raises(WeightsError, match=r"has 3 classes and the class list 7; base.new_head = true"):
        load_folder(network, f"hf:{folder}")
    before = network.classifier.weight.clone()
    assert load_folder(network, f"hf:{folder}", new_head=True) == ["classifier.bias", "classifier.weight"]
    assert torch.equal(network.classifier.weight, before) and len(before) == 7
    assert torch.equal(network.fc_norm.weight, load(folder).fc_norm.weight)
    proj = "videomae.embeddings.patch_embeddings.projection.weight"
    assert torch.equal(network.state_dict()[proj], load(folder).state_dict()[proj])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json, which says how"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{}"), "has no image_mean and no image_std"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "model_type 'bert' is none of"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1})), "weights cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pytorch_model.bin could run code and is not read",
        ),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(folder, break_it, words):
    break_it(folder)
    with pytest.raises((NetworkError, WeightsError), match=words):
        load(folder)


@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        ("VideoMAEImageProcessorPil", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
        ("VideoMAEImageProcessorPil", {"do_normalize": False}),
        ("VivitImageProcessor", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
        ("VivitImageProcessor", {"offset": False, "do_normalize": False}),
        ("VJEPA2VideoProcessor", {}),
        ("VivitVideoProcessor", {"image_mean": [0.1, 0.2, 0.3]}),  # its file does not name the offset
    ],
)
def test_colours_are_those_of_the_processor(tmp_path, processor, settings):
    """On bytes, as its preprocessor's file was saved by transformers."""
    kind = processor.partition("Image")[0].partition("Video")[0].lower() or "videomae"
    folder = save_folder(tmp_path / kind, kind)
    (folder / "preprocessor_config.json").unlink()
    given = getattr(transformers, processor)(do_resize=False, do_center_crop=False, **settings)
    given.save_pretrained(folder)
    clip = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
    if "Image" in processor:
        expected = given(list(clip), return_tensors="pt")["pixel_values"]
    else:
        (expected,) = given([clip], return_tensors="pt").values()
    network, seen = load(folder), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.from_numpy(clip).float()[None] / 255)
    assert expected.std() > 0.2
    torch.testing.assert_close(seen[0][0], expected.reshape(4, 3, 28, 28), rtol=1e-5, atol=1e-5)


def test_weights_in_shards(folder):
    whole = load(folder).state_dict()
    load(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    files = weights_files(f"hf:{folder}")
    assert len(files) > 3 and files[0].name == "model.safetensors.index.json" and all(map(Path.is_file, files))
    assert all(torch.equal(value, whole[name]) for name, value in load(folder).state_dict().items())


def test_no_folder_is_ever_fetched(tmp_path):
    with pytest.raises(NetworkError, match=r"no such folder; paths are relative to .* nothing is downloaded"):
        build("hf:MCG-NJU/videomae-base", 3)


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "videoprism"])
def test_positions_interpolated_along_time(folders, kind):
    """A ramp over time stays one, each place and class token keeps its own value; and the network runs."""
    network = load(folders[kind])
    owner, _, leaf = network.time_positions.rpartition(".")
    owner, tubelet = network.get_submodule(owner), network.patch_size[0]
    steps, tokens, places = 4 // tubelet, int(kind == "vivit"), 16 if kind in ("videomae", "vivit") else 1
    ramp = torch.arange(steps).float()[:, None] + 100 * torch.arange(places)  # T', places
    values = torch.cat([torch.full((tokens,), -7.0), ramp.flatten()])
    getattr(owner, leaf).data.copy_(values[None, :, None])
    interpolate_positions(network, 8)
    found = getattr(owner, leaf)[0, :, 3]
    assert found[:tokens].tolist() == [-7.0] * tokens
    times = ((torch.arange(2 * steps) + 0.5) / 2 - 0.5).clamp(0, steps - 1)  # by hand: centres, ends held
    torch.testing.assert_close(found[tokens:].detach(), (times[:, None] + 100 * torch.arange(places)).flatten())
    assert count_out_frames(network, 8, 28) == 1 and network.num_frames == 8
    assert network.state_dict().keys() == load(folders[kind]).state_dict().keys()


def test_positions_that_no_network_names(folders):
    network = load(folders["vjepa2"])
    with pytest.raises(NetworkError, match="time_positions"):
        interpolate_positions(network, 8)
