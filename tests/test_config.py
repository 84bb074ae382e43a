"""Configs: the project's own files, round trip through TOML, overrides, and refusals that name file and field."""

from dataclasses import fields, is_dataclass, replace
from typing import get_args, get_type_hints

import pytest

from models.backbones import BACKBONES
from pipeline import config as settings
from pipeline.box_settings import as_trained, named, rule_settings
from pipeline.config import Base, Clips, Config, Data, FusionTraining, Saliency
from pipeline.config_file import CONFIGS, check, load, to_toml
from pipeline.config_keys import LATER, NO_NUMBERS, clip_settings, key_settings
from pipeline.errors import ConfigError
from tests.helpers.tiny_data import change

PINNED = """\
name = "pinned"
seed = 0
device = "auto"
workers = 1

[data]
format = "plain"
task = "multi_label"
annotations = []
classes = ""
videos = ""
follow_links = false
source_fps = 0.0
missing_videos = "refuse"
video_seconds = 600.0
video_memory = 4.0
max_skipped = 0.2
max_past_end = 0.1
train_splits = ["train"]
eval_splits = ["test"]
eval_ids = []
train_videos = 0
eval_videos = 0
data_seed = 0
world = "cards"
photos = ""
clutter = []

[clips]
num_frames = 64
fps = 8.0
resize = "square"
resized_side = 256
longer_side = "truncated"
input_side = 224
decoding = "player"
aug_seeds = 25
eval_clips = 10
plan_seed = 0
videos_per_unit = 4

[base]
epochs = 50
optimizer = "sgd"
learning_rate = 0.375
schedule = "steps"
warmup_epochs = 0
drop_epochs = [15, 40]
layer_decay = 1.0
freeze = []
batch_size = 12
accumulate = 1
clip_grad_norm = 0.0
momentum = 0.9
weight_decay = 1e-07
ema_decay = 0.0
label_smoothing = 0.0
video_loss_weight = 1.0
frame_interpolation = "aligned"
video_targets = "video"
drop_last = false
batchnorm = "synchronised"
autocast = false
tf32 = false
activation_checkpointing = false
loader_workers = 0
checkpoint_minutes = 15.0
tensorboard = false
network = "resnet50_i3d"
init = ""
new_head = false
inflate = false
compile = false
in_memory = false

[base.options]

[saliency]
objectives = ["entropy"]
method = "input_gradient"
gradient_at = "pixels"
box_side = 128
box_rule = "fixed"
num_boxes = 1
box_sides = []
time_segments = 1
looks = 1
box_margin = 0.0
box_jitter = 0
own_boxes = ""
batch_size = 8
threads = 1
precision = "float32"

[crops]
codec = "jpeg"
quality = 90

[fusion]
epochs = 25
optimizer = "sgd"
learning_rate = 0.02
schedule = "steps"
warmup_epochs = 0
drop_epochs = [15]
layer_decay = 1.0
freeze = []
batch_size = 8
accumulate = 1
clip_grad_norm = 0.0
momentum = 0.9
weight_decay = 1e-07
ema_decay = 0.0
label_smoothing = 0.0
video_loss_weight = 1.0
frame_interpolation = "aligned"
video_targets = "video"
drop_last = false
batchnorm = "synchronised"
autocast = false
tf32 = false
activation_checkpointing = false
loader_workers = 0
checkpoint_minutes = 15.0
tensorboard = false
fuse = "logits"
pool_boxes = "max"
concat_positions = "keep"

[evaluate]
pooling = "auto"
"""


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_the_files_of_the_project_load_by_name(name):
    config = load(name)
    assert config.name == name and config == load(str(CONFIGS / f"{name}.toml"))


def test_charades_is_the_paper():
    config = load("charades")
    clips, base, fusion = config.clips, config.base, config.fusion
    assert (clips.num_frames, clips.fps, clips.resized_side, clips.input_side) == (64, 8.0, 256, 224)
    assert (clips.resize, clips.eval_clips, clips.aug_seeds, config.saliency.box_side) == ("square", 10, 25, 128)
    assert (base.network, base.epochs, base.learning_rate, base.drop_epochs) == ("resnet50_i3d", 50, 0.375, (15, 40))
    assert (base.batch_size, base.momentum, base.weight_decay) == (12, 0.9, 1e-7)
    assert (fusion.epochs, fusion.learning_rate, fusion.drop_epochs, fusion.batch_size) == (25, 0.02, (15,), 8)
    assert (fusion.fuse, fusion.batchnorm, base.video_loss_weight) == ("logits", "synchronised", 1.0)
    assert (config.saliency.objectives, config.data.missing_videos) == (("entropy",), "skip")


def test_defaults_of_the_sections_are_the_paper_too():
    fields = ("num_frames", "fps", "resize", "resized_side", "input_side", "aug_seeds", "eval_clips")
    paper = load("charades")
    assert [getattr(Clips(), name) for name in fields] == [getattr(paper.clips, name) for name in fields]
    for fresh, read in ((Base(), paper.base), (FusionTraining(), paper.fusion)):
        assert (fresh.epochs, fresh.learning_rate, fresh.drop_epochs) == (
            read.epochs,
            read.learning_rate,
            read.drop_epochs,
        )


def test_keys_and_defaults_are_pinned():
    """Users' files name these keys, and runs keep this text as config.toml."""
    assert to_toml(Config("pinned")) == PINNED


def test_toml_round_trip(tmp_path):
    config = Config(
        "all sorts",
        Data(
            annotations=("a b.csv", 'quo"te\\.csv', "[\n    1,\n]", "é\x7f"),
            eval_ids=("07E49", "150E6"),
            max_skipped=0.5,
        ),
        base=Base(video_loss_weight="released", drop_epochs=(), batchnorm="frozen", weight_decay=1e-7),
        fusion=FusionTraining(video_loss_weight=0.25),
        seed=7,
    )
    (tmp_path / "other.toml").write_text(to_toml(config))
    assert load(str(tmp_path / "other.toml")) == config
    for name in ("miniature", "charades"):
        (tmp_path / "other.toml").write_text(to_toml(load(name)))
        assert load(str(tmp_path / "other.toml")) == load(name)


def test_a_file_without_a_name_is_called_after_itself(tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 3\n[clips]\nfps = 24\n")
    config = load(str(tmp_path / "mine.toml"))
    assert config == Config("mine", clips=Clips(fps=24.0), seed=3)
    assert type(config.clips.fps) is float


def test_overrides():
    config = load(
        "miniature",
        ("seed=5", "clips.fps = 12", "clips.resize=shorter_side", 'data.eval_ids=["07E49"]', "base.in_memory=false",
         "base.video_loss_weight=released", "data.videos=/some where", "crops.codec=png", "data.classes=007"),
    )  # fmt: skip
    expected = change(
        load("miniature"), seed=5, clips={"fps": 12.0, "resize": "shorter_side"}, crops={"codec": "png"},
        base={"in_memory": False, "video_loss_weight": "released", "video_targets": "clip"},
        data={"eval_ids": ("07E49",), "videos": "/some where", "classes": "007"},
    )  # fmt: skip
    assert config == expected
    assert load("miniature", ("seed=1", "seed=2")).seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("clips.num_frame=8", ["unknown setting clips.num_frame", "did you mean clips.num_frames?"]),
        ("clip.num_frames=8", ["unknown setting clip", "did you mean clips?"]),
        ("base.zzzzzz=8", ["unknown setting base.zzzzzz", "known are", "learning_rate"]),
        ("clips.num_frames=8.5", ["num_frames", "expected int", "8.5"]),
        ("clips.num_frames=true", ["num_frames", "expected int", "True"]),
        ("clips.fps=fast", ["fps", "expected float", "'fast'"]),
        ("clips.resize=longer_side", ["resize", "'longer_side'", "'square', 'shorter_side'"]),
        ("base.video_loss_weight=relaesed", ["video_loss_weight: expected float or 'released', got 'relaesed'"]),
        ("base.drop_epochs=3", ["drop_epochs", "expected a list", "3"]),
        ("base.drop_epochs=[3, 'x']", ["drop_epochs", "expected int", "'x'"]),
        ("data.videos=12", ["videos", "expected str", "12"]),
        ("clips=3", ["clips", "expected a section", "3"]),
        ("name.x=3", ["name.x", "name is not a section"]),
        ("seed.x=3", ["seed", "expected int", "{'x': 3}"]),
        ("seed", ["--set seed", "section.key=value"]),
        ("clips.input_side=65", ["clips.input_side", "at most clips.resized_side"]),
        ("saliency.box_side=57", ["saliency.box_side", "at most clips.input_side"]),
        ("saliency.box_side=0", ["saliency.box_side"]),
        ("saliency.objectives=['entropi']", ["saliency.objectives"]),
        ("crops.quality=101", ["crops.quality", "at most 100", "101"]),
        ("crops.quality=0", ["crops.quality", "at least 1", "0"]),
        ("data.max_skipped=1.5", ["data.max_skipped", "at most 1, got 1.5"]),
        ("data.video_seconds=0", ["data.video_seconds", "above 0"]),
        ("data.video_memory=0.25", ["data.video_memory", "at least 0.5"]),
        ("data.classes=2024-01-01", ["data.classes", "expected str", "2024-01-01"]),
        ("data.max_skipped=nan", ["data.max_skipped"]),
        ("fusion.epochs=0", ["fusion.epochs"]),
        ("fusion.accumulate=0", ["fusion.accumulate"]),
        ("base.learning_rate=0", ["base.learning_rate"]),
        ("base.learning_rate=nan", ["base.learning_rate", "nan"]),
        ("base.inflate=true", ["base.inflate", "resnet50_i3d", "small_i3d"]),
        ("base.options.num_classes=3", ["base.options.num_classes", "class list"]),
        ("base.optimizer=adam", ["base.optimizer", "'sgd', 'adamw'", "'adam'"]),
        ("fusion.schedule=linear", ["fusion.schedule", "'steps', 'cosine'", "'linear'"]),
        ("base.warmup_epochs=24", ["base.warmup_epochs", "fewer than base.epochs, 24, got 24"]),
        ("fusion.warmup_epochs=30", ["fusion.warmup_epochs", "fewer than fusion.epochs, 24, got 30"]),
        ("base.ema_decay=1", ["base.ema_decay", "below 1, got 1"]),
        ("base.layer_decay=0", ["base.layer_decay", "above 0, got 0"]),
        ("base.freeze=layer1", ["base.freeze", "expected a list", "'layer1'"]),
        ("device=gpu", ["device", "'auto', 'cpu', 'cuda'"]),
    ],
)
def test_what_cannot_work_is_refused_by_name(override, words):
    with pytest.raises(ConfigError) as caught:
        load("miniature", (override,))
    for word in words:
        assert word in str(caught.value)
    assert "miniature" in str(caught.value) or "--set" in str(caught.value)


def test_every_mistake_is_told_on_a_line_of_its_own():
    with pytest.raises(ConfigError) as caught:
        load("miniature", ("clips.fps=fast", "base.loss=1", "base.drop_epochs=['x', 3, 4.5]", "seed=true"))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(CONFIGS / "miniature.toml: ")) for line in lines)
    assert sorted(line.split("toml: ")[1] for line in lines) == [
        "base.drop_epochs: expected int, got 'x'",
        "base.drop_epochs: expected int, got 4.5",
        "clips.fps: expected float, got 'fast'",
        "seed: expected int, got True",
        f"unknown setting base.loss; known are {', '.join(one.name for one in fields(Base))}",
    ]


def test_base_may_be_taken_as_it_is():
    assert load("miniature", ("base.epochs=0", "base.init=weights.pt")).base.epochs == 0


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such config file; .*charades, .*miniature"):
        load("nowhere.toml")
    for content in (b"clips = {", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad.toml: not TOML"):
            load(str(tmp_path / "bad.toml"))


def test_configs_are_frozen_and_can_be_keys():
    config = load("miniature")
    assert hash(config) == hash(load("miniature")) and config != replace(config, seed=1)
    with pytest.raises(AttributeError):
        config.seed = 1


def test_a_setting_that_came_later_is_in_no_key_while_as_before(monkeypatch):
    """So runs made before it keep their folders; another value gets a folder of its own."""
    known = key_settings(Base())
    later = {
        "frame_interpolation": "centred",
        "video_targets": "video",
        "drop_last": False,
        "tf32": False,
        "options": (),
        "optimizer": "sgd",
        "schedule": "steps",
        "warmup_epochs": 0,
        "clip_grad_norm": 0.0,
        "label_smoothing": 0.0,
        "layer_decay": 1.0,
        "freeze": (),
        "ema_decay": 0.0,
        "compile": False,
    }
    assert {name: LATER[name] for name in later} == later
    names = {one.name for one in fields(Base)} - {*NO_NUMBERS, *later}
    assert known.keys() == names | {"frame_interpolation"} and known["frame_interpolation"] == "aligned"
    assert key_settings(Base(**later)).keys() == names
    assert key_settings(Base(drop_last=True))["drop_last"] is True
    assert key_settings(Base(options=(("width", 4),)))["options"] == (("width", 4),)
    assert "gradient_at" not in key_settings(Saliency())
    assert key_settings(Saliency(gradient_at="patches"))["gradient_at"] == "patches"


def test_clips_key_says_how_the_longer_side_is_cut_only_where_there_is_one():
    def key(**clips):
        return clip_settings(Config("x", clips=Clips(**clips)))

    assert "longer_side" not in key() and "longer_side" not in key(resize="shorter_side", longer_side="rounded")
    assert key(resize="shorter_side")["longer_side"] == "truncated"


def test_settings_that_a_config_leaves_out_follow_the_run(tmp_path):
    """A run that was prepared before they existed goes on as before; one that was prepared with them, too."""
    file, run = tmp_path / "mine.toml", tmp_path / "run"
    run.mkdir()
    file.write_text('[base]\nepochs = 3\n[fusion]\nframe_interpolation = "aligned"\n')
    assert load(str(file)).base.frame_interpolation == load(str(file), (), run).base.frame_interpolation == "aligned"
    (run / "config.toml").write_text('name = "mine"\n[base]\nepochs = 3\n[clips]\nfps = 4\n')
    older = load(str(file), (), run)
    assert older.base == replace(load(str(file)).base, frame_interpolation="centred")
    assert older.fusion.frame_interpolation == "aligned"  # the config says so
    assert (older.clips.longer_side, older.clips.fps) == ("rounded", 8.0)  # other settings do not follow
    assert load(str(file), ("base.frame_interpolation=aligned",), run).base.frame_interpolation == "aligned"
    (run / "config.toml").write_text(to_toml(replace(older, base=replace(older.base, drop_last=True))))
    assert load(str(file), (), run).base == replace(older.base, drop_last=True)


def test_the_released_loss_is_whole(tmp_path):
    """Its weight alone means its video targets, too, unless the config or the run says otherwise."""
    released = load("miniature", ("base.video_loss_weight=released",)).base
    assert (released.video_targets, released.frame_interpolation) == ("clip", "aligned")
    assert load("miniature", ("base.video_loss_weight=released",)).fusion.video_targets == "video"
    both = ("base.video_loss_weight=released", "base.video_targets=video")
    assert load("miniature", both).base.video_targets == "video"
    (tmp_path / "config.toml").write_text('[base]\nvideo_loss_weight = "released"\n')  # of a run made before
    before = load("miniature", ("base.video_loss_weight=released",), tmp_path).base
    assert (before.video_targets, before.frame_interpolation) == ("video", "centred")


def numbers() -> list[str]:
    """Every setting that is a number or a list of numbers."""
    sections = {f"{name}.": kind for name, kind in get_type_hints(Config).items() if is_dataclass(kind)} | {"": Config}
    return [
        prefix + name
        for prefix, section in sections.items()
        for name, kind in get_type_hints(section).items()
        if {int, float} & {kind, *get_args(kind)}
    ]


@pytest.mark.parametrize("value", ["1e23", "-1", "nan", "inf", "-inf", str(10**23), str(-(10**23))])
@pytest.mark.parametrize("name", numbers())
def test_every_number_has_bounds(name, value):
    assert len(numbers()) >= 35
    for text in (value, f"[{value}]"):
        with pytest.raises(ConfigError, match=rf"{name}: expected .*, got"):
            load("miniature", (f"{name}={text}",))


@pytest.mark.parametrize("rate", ["clips.fps", "data.source_fps"])
def test_a_rate_is_0_or_one_that_a_video_can_have(rate):
    with pytest.raises(ConfigError, match=rf"{rate}: expected 0 or at least 0.001, got 1e-300"):
        load("miniature", (f"{rate}=1e-300",))


def test_network_names_are_those_of_the_table():
    assert set(settings.NETWORKS) == set(BACKBONES)
    with pytest.raises(
        ConfigError, match=r"base.network: expected one of .*r2plus1d_18, .*FILE.py:function.*, got 'resnet50'"
    ):
        load("miniature", ("base.network=resnet50",))


@pytest.mark.parametrize("option", ["new_head", "inflate"])
def test_an_untrained_classifier_is_no_base(option):
    """Without epochs, a new classifier would stay random; in the file, by --set, and by an option of a command."""
    base = {"epochs": 0, "init": "weights.pt", "network": "resnet50_i3d", option: True}
    words = rf"base.epochs: expected at least 1 with base.{option}, .* got 0"
    with pytest.raises(ConfigError, match=words):
        load("charades", ("base.epochs=0", "base.new_head=false", f"base.{option}=true"))
    with pytest.raises(ConfigError, match=words):
        check(Config("mine", base=Base(**base)))
    assert check(Config("mine", base=Base(**base | {"epochs": 1}))).base.epochs == 1


NO_NAMES = (
    "../../x",
    "/x",
    "a/b",
    "",
    ".",
    "..",
    ".hidden",
    "a\nb",
    "a\0",
    "\x1b[31m",
    "a\\b",
    " a",
    "x" * 101,
    "\u202ea",
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_is_one_for_a_folder(name):
    with pytest.raises(ConfigError, match="name: expected a name for a folder"):
        check(Config(name))
    for good in ("mine", "Größe 2.5, é", "a-b_c.d (2)", "-x"):
        assert check(Config(good)).name == good


def test_any_text_comes_back_from_toml(tmp_path):
    """Every control character, quotes, and what could look like the end of a value."""
    text = "".join(map(chr, range(1, 160))) + "\u2028\u202e\ufeff'''" + '"""' + "\n]\n,\n"
    config = Config("text", Data(annotations=(text, text[::-1]), videos=text))
    (tmp_path / "text.toml").write_text(to_toml(config), encoding="utf-8", newline="")
    assert load(str(tmp_path / "text.toml")) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 20_000, "not TOML"),
        ("x = " + "[" * 20_000 + "]" * 20_000, "not TOML"),
        (f"seed = {'9' * 5000}", "not TOML"),
        (f"seed = 0x{'9' * 5000}", "too long a number"),
        ("a" + ".a" * 20_000 + " = 1", ""),
        ("# " + "x" * 1_000_000, "a config has at most"),
    ],
)
def test_deep_long_and_large_texts_are_refused(tmp_path, text, words):
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"odd.toml: .*{words}") as error:
        load(str(tmp_path / "odd.toml"))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "setting",
    ["a" + ".a" * 20_000 + "=1", "clips.fps=" + "[" * 20_000, "clips.fps=" + "x" * 10**6, "k" * 10**6 + "=1",
     "clips.fps=\udc80", "data.videos=\udc80", r'data.videos="a\u0000b"'],
)  # fmt: skip
def test_odd_overrides_are_refused_in_a_few_words(setting):
    with pytest.raises(ConfigError) as error:
        load("miniature", (setting,))
    assert len(str(error.value)) < 1000


def test_an_option_that_is_no_text_is_not_blamed_on_the_file():
    """As Python reads the command line in a C locale: "ü" is two bytes, each of which is no character."""
    words = r"^option '\\udcc3\\udcbcber/videos' is not UTF-8, .* with PYTHONUTF8=1"
    with pytest.raises(ConfigError, match=words):
        load("miniature", ("seed=3", "data.videos=\udcc3\udcbcber/videos"))
    with pytest.raises(ConfigError, match=words):
        check(Config("mine", Data(eval_ids=("a", "\udcc3\udcbcber/videos"))))
    assert load("miniature", ("data.videos=über/videos",)).data.videos == "über/videos"


def test_a_config_is_a_file_or_a_name(tmp_path, monkeypatch):
    """A folder of that name, a missing file that is called like one of the project's, a file without its ending."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"mine: is a folder; those of the project are .*charades"):
        load("mine")
    (tmp_path / "mine.toml").write_text("seed = 3\n")
    with pytest.raises(ConfigError, match=r"mine: is a folder; did you mean mine.toml\?"):
        load("mine")
    (tmp_path / "miniature").mkdir()
    assert load("miniature").name == "miniature"
    for missing in ("elsewhere/charades.toml", "charades.bak", str(tmp_path / "charades")):
        with pytest.raises(ConfigError, match=rf"no such config file; .* other paths start in {tmp_path}"):
            load(missing)


def test_home_folders_and_byte_order_marks(tmp_path, monkeypatch):
    """In a file, in --set, and in the name of the file itself."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text = (
        'name = "x"\n[data]\nvideos = "~/videos"\nannotations = ["~/a.csv", "b~.csv"]\n[base]\nnetwork = "hf:~/vit"\n'
    )
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    config = load("~/x.toml", ("base.init=~/w.pt", "data.classes=c/~/classes.txt"))
    assert config.data.annotations == (f"{tmp_path}/a.csv", "b~.csv") and config.data.videos == f"{tmp_path}/videos"
    assert config.base.network == f"hf:{tmp_path}/vit" and config.base.init == f"{tmp_path}/w.pt"
    assert config.data.classes == "c/~/classes.txt"


def test_options_of_a_network(tmp_path):
    """A table in the file, also by --set; written out and read back; only plain values."""
    file = tmp_path / "own.toml"
    file.write_text('[base]\nnetwork = "my net.py:small"\n[base.options]\nwidth = 8\nkind = "wide"\n')
    config = load(str(file), ("base.options.depth=2.5",))
    assert config.base.options == (("depth", 2.5), ("kind", "wide"), ("width", 8)) and hash(config)
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load(str(tmp_path / "again.toml")) == config
    with pytest.raises(ConfigError, match=r"base.options"):
        load(str(file), ("base.options.width=[1, 2]",))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"num_boxes": 2}, "saliency.num_boxes: expected 1 with box_rule fixed, got 2"),
        ({"box_rule": "top-k"}, "saliency.num_boxes: expected at least 2 with box_rule top-k, got 1"),
        ({"box_rule": "nested"}, "saliency.box_sides: expected sides with box_rule nested, got []"),
        ({"box_sides": (8,)}, "saliency.box_sides: expected none with box_rule fixed, got [8]"),
        (
            {"box_rule": "scale", "box_sides": (8, 225)},
            "at most clips.input_side, 224, and at most 64 of them, got [8, 225]",
        ),
        ({"box_rule": "scale", "box_sides": (8, 8)}, "expected different sides"),
    ],
)
def test_settings_of_boxes_fit_each_other(values, words):
    with pytest.raises(ConfigError) as error:
        check(Config("x", saliency=Saliency(**values)))
    assert words in str(error.value)


def test_the_rule_of_boxes_is_in_no_key_while_it_is_the_papers():
    assert rule_settings(Saliency(box_side=16)) == {"size": [16, 16]}
    top = Saliency(box_side=16, box_rule="top-k", num_boxes=2, box_margin=0.5)
    assert rule_settings(top) == {"size": [16, 16], "box_rule": "top-k", "num_boxes": 2, "box_margin": 0.5}
    nested = Saliency(box_rule="nested", box_sides=(32, 8))
    assert rule_settings(nested) == {"box_sides": [8, 32], "box_rule": "nested", "num_boxes": 2}
    tube, closer = Saliency(box_side=16, time_segments=4), Saliency(box_side=16, looks=3)
    assert rule_settings(tube, "motion") == {"size": [16, 16], "time_segments": 4}
    assert rule_settings(closer) == {"size": [16, 16], "looks": 3} and named("entropy", closer) == "entropy-looks3"
    for policy in ("random", "center", "cross_entropy"):
        assert rule_settings(closer, policy) == {"size": [16, 16]} and named(policy, closer) == policy
    assert rule_settings(tube, "random") == {"size": [16, 16]} and named("own", tube) == "own-tube4"
    for one in (Saliency(), top, nested, Saliency(box_rule="scale", box_sides=(8, 32), box_jitter=3), tube, closer):
        assert rule_settings(as_trained(Saliency(), rule_settings(one))) == rule_settings(one)
    assert named("entropy", top) == "entropy-top2" and named("repeat", top) == "repeat"
    assert not {"box_rule", "num_boxes", "own_boxes", "time_segments", "looks"} & key_settings(Saliency()).keys()
