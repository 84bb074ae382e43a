"""A network from a folder of transformers goes through every stage, and its folder belongs to what is made with it."""

import json
import re

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import cache
from models.losses import negative_entropy
from models.objectives import MapKind, saliency_maps
from models.own_network import NetworkError
from models.saliency import input_saliency
from models.weights_file import WeightsError
from pipeline.cli.main import main
from pipeline.config_file import to_toml
from pipeline.errors import StageError
from pipeline.predict import export
from pipeline.predict.model import Model, build_model
from pipeline.predict.settings import of_run
from pipeline.preflight.check_data import check_weights
from pipeline.preflight.check_network import examine
from pipeline.run.networks import build_base
from pipeline.run.stores import open_run
from pipeline.stages import evaluate, prepare, saliency, train_base, train_fusion, train_online
from tests.helpers.tiny_data import CLASSES, change, make_data, run_all, run_to_crops, tiny_config
from tests.helpers.tiny_folders import KINDS, save_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("few"), ("07E49", "150E6", "83654"))


@pytest.fixture
def config(data, tmp_path):
    """VideoMAE; one epoch."""
    save_folder(tmp_path / "mae")
    return tiny_config(data, base={"network": f"hf:{tmp_path / 'mae'}", "epochs": 1}, fusion={"epochs": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage(data, tmp_path, kind):
    """With concatenation by interpolated positions; stored maps are those of the trained network."""
    save_folder(tmp_path / kind, kind)
    config = tiny_config(
        data,
        base={"network": f"hf:{tmp_path / kind}", "epochs": 1},
        fusion={"epochs": 1, "concat_positions": "interpolate"},
        saliency={"gradient_at": "patches" if kind in ("vivit", "timesformer") else "pixels"},
    )
    run_all(config, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/results.csv")
    assert table.experiment.tolist() == ["base", "concat-entropy-source", "late-entropy-source"]
    assert table.protocol.str.contains("gradient at patches").all() == (config.saliency.gradient_at == "patches")
    opened = cache.open(tmp_path / "run")
    assert opened.index.crop_done.all() and opened.logits(0).shape == (1, 3)
    network = build_base(open_run(tmp_path / "run", config).base_weights).eval()
    video = torch.from_numpy(opened.context(0)).float()[None] / 255
    logits, maps = input_saliency(
        network, video, {"entropy": negative_entropy}, gradient_at=config.saliency.gradient_at
    )
    torch.testing.assert_close(torch.from_numpy(opened.logits(0)), logits[0], rtol=1e-4, atol=1e-5)
    found = torch.from_numpy(opened.saliency(0)).float()
    torch.testing.assert_close(found, maps["entropy"][0], rtol=1e-3, atol=2e-5 * maps["entropy"].amax().item())


def test_the_folder_is_part_of_its_identity(config, tmp_path):
    prepare.run(config, tmp_path / "run")
    first = train_base.run(config, tmp_path / "run").path
    for name in ("preprocessor_config.json", "config.json", "model.safetensors"):
        file = tmp_path / "mae" / name
        before = file.read_bytes()
        if name == "model.safetensors":
            file.write_bytes(before[:-1] + bytes([before[-1] ^ 128]))  # the sign of one weight
        else:
            file.write_text(json.dumps(json.loads(before) | {"note": 1}))
        with pytest.raises(StageError, match=r"no trained Base for this config \(.*mae/config.json.*belongs to it"):
            saliency.run(config, tmp_path / "run")
        file.write_bytes(before)
    assert train_base.run(config, tmp_path / "run").path == first


def test_as_it_is_its_classes_must_be_those_of_the_list(config, data, tmp_path, caplog):
    as_it_is = change(config, base={"epochs": 0})
    prepare.run(as_it_is, tmp_path / "run")
    base = train_base.run(as_it_is, tmp_path / "run").path
    stored = torch.load(base / "weights.pt", weights_only=True)
    from safetensors.torch import load_file

    given = load_file(tmp_path / "mae/model.safetensors")
    assert torch.equal(stored["classifier.weight"], given["classifier.weight"])
    file = tmp_path / "mae/config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"id2label": dict(enumerate((CLASSES[0], "cat", CLASSES[2])))}))
    with pytest.raises(StageError, match=r"calls class 1 'cat', the class list 'green thing'; with base.epochs = 0"):
        train_base.run(as_it_is, tmp_path / "run")
    train_base.run(config, tmp_path / "run")
    assert "calls class 1 'cat'" in caplog.text
    file.write_text(json.dumps(settings | {"id2label": dict(enumerate(CLASSES[::-1]))}))
    for one in (config, as_it_is):
        with pytest.raises(StageError, match="the class list in another order: blue thing, green thing, red thing"):
            train_base.run(one, tmp_path / "run")
    file.write_text(json.dumps(settings | {"id2label": {str(one): f"LABEL_{one}" for one in range(3)}}))
    train_base.run(as_it_is, tmp_path / "run")
    assert "does not name its classes" in caplog.text


def test_what_doctor_and_check_network_say(config, tmp_path):
    patches = change(config, saliency={"gradient_at": "patches"})
    found = {one.check: one for one in examine(patches)}
    assert all(one.level in ("ok", "note") for one in found.values()), found
    assert found["contract"].text.endswith("to logits (B, 1, 3)") and "head_name" not in found
    (last,) = (one for one in examine(change(config, clips={"num_frames": 8})) if one.level == "problem")
    assert "takes clips.num_frames = 4 alone, and it is 8" in last.text and "clips.num_frames" in last.fix
    (one,) = check_weights(config, tmp_path / "run", 3)
    assert one.level == "ok" and one.text.endswith("new: nothing")
    (one,) = check_weights(config, tmp_path / "run", 7)
    assert one.level == "problem" and "has 3 classes and the class list 7" in one.text
    (tmp_path / "mae/config.json").unlink()
    (one,) = check_weights(config, tmp_path / "run", 3)
    assert one.level == "problem" and "no config.json" in one.text


def test_other_classes_need_a_new_head(config, tmp_path):
    save_folder(tmp_path / "mae", id2label=dict(enumerate("abcde")), label2id={})
    prepare.run(config, tmp_path / "run")
    with pytest.raises(WeightsError, match=r"has 5 classes and the class list 3; base.new_head = true"):
        train_base.run(config, tmp_path / "run")
    outcome = train_base.run(change(config, base={"new_head": True}), tmp_path / "run")
    assert "new: classifier.bias, classifier.weight" in outcome.summary


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ({"num_frames": 8}, "takes clips.num_frames = 4 alone, and it is 8"),
        ({"input_side": 21}, "takes clips.input_side = 28 alone, and it is 21"),
    ],
)
def test_other_clips_are_refused_before_a_video_is_decoded(config, tmp_path, monkeypatch, clips, words):
    config = change(config, clips=clips)
    prepare.run(config, tmp_path / "run")
    monkeypatch.setattr("pipeline.training.base_clips.decode_frames", None)
    with pytest.raises(NetworkError, match=words):
        train_base.run(config, tmp_path / "run")


def test_concatenation_is_refused_before_anything_is_read(config, tmp_path, monkeypatch):
    prepare.run(config, tmp_path / "run")
    train_base.run(config, tmp_path / "run")
    words = r"takes 4 frames alone, and temporal concatenation gives it 8: take late fusion \(--fusion late\), or"
    for stage in (train_fusion, train_online):
        for name in ("CachedVolumes", "OnlineClips"):
            monkeypatch.setattr(stage, name, None, raising=False)
        with pytest.raises(StageError, match=words):
            stage.run(config, tmp_path / "run", "concat")
    (tmp_path / "run.toml").write_text(to_toml(config))
    command = ["train-fusion", "--config", str(tmp_path / "run.toml"), "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(main, command)  # both fusions: refused before late fusion is trained
    assert result.exit_code and re.search(words, result.output) and not list(tmp_path.glob("run/models/late-*"))
    interpolated = change(config, fusion={"concat_positions": "interpolate"})
    with pytest.raises(StageError, match="takes one number of frames, 8 where it is trained and 4 for its saliency"):
        train_online.run(interpolated, tmp_path / "run", "concat", saliency_from="current")


def test_late_fusion_on_the_fly(config, tmp_path):
    """Positions are no part of its key: late fusion has none to interpolate."""
    prepare.run(config, tmp_path / "run")
    train_base.run(config, tmp_path / "run")
    first = train_online.run(config, tmp_path / "run", "late", saliency_from="current").path
    again = change(config, fusion={"concat_positions": "interpolate"})
    assert train_online.run(again, tmp_path / "run", "late", saliency_from="current").path == first


def test_predict_and_export_with_positions_interpolated_and_maps_at_patches(config, tmp_path):
    """Both give the bits of evaluation; the export needs neither run nor folder."""
    config = change(config, fusion={"concat_positions": "interpolate"}, saliency={"gradient_at": "patches"})
    run_to_crops(config, tmp_path / "run")
    train_fusion.run(config, tmp_path / "run", "concat")
    evaluate.run(config, tmp_path / "run")
    settings, base, trained = of_run(tmp_path / "run", "concat-entropy-source", ())
    model = build_model(settings, base, trained, "cpu")
    export.run(tmp_path / "run", tmp_path / "out", "concat-entropy-source")
    (tmp_path / "mae").rename(tmp_path / "gone")
    again, base, second = export.load_exported(tmp_path / "out")
    video = torch.rand(1, 4, 28, 28, 3)
    _, expected = saliency_maps(model.base, video, ["entropy"], MapKind(gradient_at="patches"))
    _, pixels = saliency_maps(model.base, video, ["entropy"])
    assert (settings.saliency, again.saliency) == (config.saliency, config.saliency)
    for one in (model, Model(again, base, second, "cpu")):
        logits, maps = one._logits_and_maps(video)
        assert logits.shape == (1, 1, 3) and torch.equal(maps, expected["entropy"])
        assert not torch.allclose(maps, pixels["entropy"])
        assert one.second.num_frames == 8
        with torch.no_grad():
            both = torch.cat([video, video], 1)
            assert torch.equal(one.second(both), model.second(both))
