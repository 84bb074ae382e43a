"""The miniature: generated, decoded, and the proof that only source pixels carry the print."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cache.errors import DamagedError
from cache.geometry import Box, Theta
from cache.plan import Part
from cache.sealed import write_record
from pipeline import config_file as configs
from pipeline.data.annotations import Annotations
from pipeline.data.clips import source_frames
from pipeline.data.label_files import read_annotations
from pipeline.data.miniature import draw, generate, script, worlds
from pipeline.data.miniature.truth import ceiling, frame_number, on_target, read_cards, read_print
from pipeline.errors import ConfigError, StageError
from pipeline.metrics import mean_average_precision
from pipeline.recipes import miniature_proof
from pipeline.run.folder import open_folder
from pipeline.stages import prepare
from tests.helpers.small_plan import rows as plan_rows
from tests.helpers.tiny_data import tree


def _config(folder, train_videos, eval_videos, **data):
    base = configs.load("miniature")
    files = {"annotations": (f"{folder}/train.csv", f"{folder}/test.csv"), "classes": f"{folder}/classes.txt"}
    counts = {"train_videos": train_videos, "eval_videos": eval_videos}
    return replace(base, data=replace(base.data, videos=str(folder), **files, **counts, **data))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Run folder and config: 250 evaluation videos, enough for 300 cards."""
    root = tmp_path_factory.mktemp("miniature")
    config = _config(root / "data", 2, 250)
    generate.generate(config.data, config.workers)
    prepare.run(config, root / "run")
    return open_folder(root / "run", config), config


def test_only_the_focused_volume_can_be_read(prepared):
    found = miniature_proof.prove(*prepared, 300)
    assert found["cards"] == 300
    assert found["input"] <= 0.60
    assert found["enlarged"] <= 0.60
    assert found["focused"] >= 0.95


def _world(folder, world, eval_videos=40):
    config = _config(folder / "data", 1, eval_videos, world=world)
    prepare.run(config, folder / "run")
    return open_folder(folder / "run", config), config


def test_no_box_holds_two_far_cards(tmp_path):
    """Each can be read from the source; no place of a box of the config's side holds both."""
    run, config = _world(tmp_path, "two-far", 12)
    found = miniature_proof.prove(run, config)
    assert found["cards"] >= 12 and found["input"] <= 0.8 and found["focused"] >= 0.9
    annotations = read_annotations(config.data)
    assert (annotations.actions.groupby("video_id").class_index.nunique() == 2).all()
    part, cards = run.parts_of("test")[0], read_cards(Path(config.data.videos))
    places = [(top, left, 32, 32) for top in range(25) for left in range(25)]
    for row in range(0, part.num_rows, part.rows_per_video):
        clip, own = part.clip(row), cards[part.rows.video_id.iat[row]]
        if all(len(own[card]) == max(map(len, own.values())) for card in (0, 1)):  # both all the time
            assert not any(on_target(cards, part, row, box) for box in places), clip.video_id
            by_card = ({clip.video_id: {0: one}} for one in own.values())
            assert all(any(on_target(one, part, row, box) for box in places) for one in by_card)


def test_the_plain_print_is_read_on_the_input(tmp_path):
    found = miniature_proof.prove(*_world(tmp_path, "plain", 12))
    assert min(found[view] for view in ("input", "enlarged", "focused")) == 1 and found["cards"] >= 12


@pytest.mark.slow
def test_no_side_of_a_box_shows_both_sizes(tmp_path):
    """A box of 16 reads the small cards and misses corners of the large ones; one of 32 is the other way round."""
    run, config = _world(tmp_path, "sizes")
    small, large = worlds.WORLDS["sizes"].kinds
    found = {
        (side, kind.edge): miniature_proof.prove(
            run, replace(config, saliency=replace(config.saliency, box_side=side)), 300, kind
        )
        for side in (16, 32)
        for kind in (small, large)
    }
    read = {place: one["focused"] for place, one in found.items()}
    assert read[16, small.edge] >= 0.95 and read[32, small.edge] <= 0.75
    assert read[16, large.edge] <= 0.85 and read[32, large.edge] >= 0.85
    assert max(one["input"] for one in found.values()) <= 0.75
    assert min(one["cards"] for one in found.values()) >= 10


def test_a_world_has_a_folder_of_its_own():
    config = configs.load("miniature", ("data.world=two-far",))
    assert (config.name, config.data.videos) == ("miniature-two-far", "runs/miniature-two-far-data")
    assert config.data.annotations[1] == "runs/miniature-two-far-data/test.csv"
    assert config.data.classes == "runs/miniature-two-far-data/classes.txt"
    assert configs.load("miniature", ("data.world=cards",)) == configs.load("miniature")
    named = configs.load("miniature", ("data.world=plain", "name=mine", "data.videos=here"))
    assert (named.name, named.data.videos) == ("mine", "here")
    with pytest.raises(ConfigError, match=r"two-far with data\.task single_label"):
        configs.load("miniature-single", ("data.world=two-far",))


def test_alias_by_hand():
    np.testing.assert_allclose(miniature_proof.alias(np.array([1.5, 0.75, 2.5, 4])), [3, 3, 2.5, 4])


def test_a_reader_with_rows_and_columns_swapped_is_always_wrong(prepared, monkeypatch):
    monkeypatch.setattr(miniature_proof, "read_print", lambda grey, period: read_print(grey, period)[::-1])
    assert miniature_proof.prove(*prepared, 60)["focused"] <= 0.05


def test_cards_lie_where_they_are_written_down(prepared):
    """The pair's colour fills the written box: its hue stands out from grey by far more than clutter does."""
    run, config = prepared
    part, videos = run.parts_of("test")[0], Path(config.data.videos)
    cards = read_cards(videos)
    saturation = []
    for row in range(0, 60, part.rows_per_video):
        index, frame, _ = next(source_frames(part, [row], videos))
        for places in cards[part.clip(row).video_id].values():
            fps = places[0][1]
            where = {number: box for number, _, box in places}
            box = where.get(frame_number(index, part.rows.fps.iat[row], fps))
            if box:
                colour = frame[box.top : box.bottom, box.left : box.right].mean((0, 1)) / 255
                saturation.append((colour.max() - colour.min()) / colour.max())
    assert len(saturation) > 20
    assert min(saturation) > 0.4


def test_sources_are_two_to_four_times_the_resized_frame(prepared):
    run, _ = prepared
    rows = run.parts_of("test")[0].rows
    zoom = rows[["source_height", "source_width"]].to_numpy() / script.RESIZED
    assert zoom.min() >= 2
    assert zoom.max() <= 4
    assert (rows.source_height != rows.source_width).mean() > 0.4


def test_evaluation_has_hues_of_its_own():
    rng = np.random.default_rng(0)
    train = np.concatenate([draw._hues("train", rng) for _ in range(50)]) * 36 // 1 % 2
    test = np.concatenate([draw._hues("test", rng) for _ in range(50)]) * 36 // 1 % 2
    assert set(train) == {0}
    assert set(test) == {1}


def test_a_single_label_is_one_card(tmp_path):
    config = _config(tmp_path / "data", 24, 6, task="single_label")
    generate.generate(config.data)
    annotations = read_annotations(config.data)
    assert len(annotations.classes) == 10 and annotations.actions.class_index.nunique() > 6
    assert (annotations.actions.groupby("video_id").size() == 1).all() and len(annotations.actions) == 30
    assert all(len(cards) == 1 for cards in read_cards(tmp_path / "data").values())
    assert annotations.actions.end.lt(annotations.videos.length_seconds).any()  # some cards go before their video ends
    with pytest.raises(StageError, match="other settings"):
        generate.generate(replace(config.data, task="multi_label"))


def test_best_top_1_without_reading_the_print(monkeypatch):
    """Of a pair with 3 and 1 videos and another with 2: the likelier class of each is right in 5 of 6."""
    videos = pd.DataFrame({"video_id": list("abcdefg"), "split": [*["test"] * 6, "train"]})
    actions = pd.DataFrame({"video_id": list("abcdefgf"), "class_index": [0, 0, 0, 1, 7, 7, 5, 7]})
    annotations = Annotations(videos, actions, [str(number) for number in range(10)], {})
    monkeypatch.setattr(miniature_proof, "read_annotations", lambda data: annotations)
    config = configs.load("miniature-single")
    assert miniature_proof.best_without_print(config) == pytest.approx(5 / 6)


def test_same_settings_same_files_and_others_are_refused(tmp_path):
    first, second = _config(tmp_path / "a", 2, 1), _config(tmp_path / "b", 2, 1)
    assert generate.generate(first.data, first.workers) is True
    generate.generate(second.data, 1)
    ours, theirs = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert [*ours.values()] == [*theirs.values()]
    assert generate.generate(first.data, first.workers) is False
    with pytest.raises(StageError, match="other settings"):
        generate.generate(_config(tmp_path / "a", 2, 1, data_seed=1).data)


def test_nothing_is_generated_over_the_files_of_somebody_else(tmp_path):
    """Whose train.csv and classes.txt have our names; what was interrupted before goes on."""
    theirs = {"train.csv": "mine", "classes.txt": "mine", "notes.md": "mine"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(StageError, match=f"holds {name}; the miniature is generated into an empty folder"):
            generate.generate(_config(tmp_path, 1, 1).data)
        assert (tmp_path / name).read_text() == text
        (tmp_path / name).unlink()
    (tmp_path / "TRAIN00000.mp4").write_bytes(b"by an older version, killed")
    assert generate.generate(_config(tmp_path, 1, 1).data) is True
    (tmp_path / "miniature.json").unlink()  # written last
    assert generate.generate(_config(tmp_path, 1, 1).data) is True


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", None])
def test_cards_that_are_not_those_generated_are_refused(text, tmp_path):
    """They say whether boxes are on target."""
    write_record(tmp_path / "cards.json", {}, {"cards.csv": b"video_id,card,frame,fps,top,left,height,width\n"})
    assert read_cards(tmp_path) == {}
    read_cards.cache_clear()
    path = tmp_path / "cards.csv"
    path.write_text(path.read_text() + "A,0,0,8,1,1,2,2\n" if text is None else text)
    with pytest.raises(DamagedError, match=r"cards\.csv.*delete its folder"):
        read_cards(tmp_path)
    (tmp_path / "cards.json").unlink()  # of an older version: nothing vouches for it, but it must be such a table
    if text is not None:
        with pytest.raises(DamagedError, match=r"cards\.csv"):
            read_cards(tmp_path)


def test_ceiling_by_hand():
    """Two videos, one pair. Only the first has cards: one of class 0. Scores (.5, .5) against (0, 0): class 0 is
    ranked first in every order, and class 1 has no positive."""
    assert ceiling(np.array([[1, 0], [0, 0]]), draws=10) == 1.0
    # one card of either class: the scores tie, so class 0 is first or second with equal chance: (1 + 1/2) / 2
    assert abs(ceiling(np.array([[1, 0], [0, 1]]), draws=4000) - 0.75) < 0.01
    # two cards of a pair hold each class with 3/4, so that video ranks above one with a single card
    counts = np.array([[1, 1], [1, 0], [0, 1]])
    scores = np.array([[0.75, 0.75], [0.5, 0.5], [0.5, 0.5]])
    one = [mean_average_precision(scores[o], counts[o] > 0).map for o in ([0, 1, 2], [0, 2, 1])]
    assert abs(ceiling(counts, draws=4000) - np.mean(one)) < 0.01


def _one_row(flip=False):
    rows = plan_rows(1, 1, "test")
    rows["theta_flip"] = flip
    return Part("part-000-test", "test", rows, 1, 1, {"num_frames": 2})


@pytest.mark.parametrize(
    ("flip", "box", "held"),
    [
        # source 24 x 36, resized 8 x 12 (a third), crop at (0, 1): the card covers rows 2 to 4, columns 2 to 4
        (False, (2, 2, 2, 2), True),
        (False, (2, 0, 2, 3), False),  # half of it
        (False, (2, 2, 1, 4), False),  # half of it, along the other axis
        (True, (2, 6, 2, 2), True),  # width 10: columns 2 to 4 become 6 to 8
        (True, (2, 2, 2, 2), False),
    ],
)
def test_on_target_by_hand(flip, box, held):
    cards = {"00000": {0: [(number, 8, Box(6, 9, 6, 6)) for number in range(4)]}}
    assert on_target(cards, _one_row(flip), 0, box) is held


def test_on_target_wants_every_card_and_the_mean_over_frames():
    near, far = Box(6, 9, 6, 6), Box(18, 30, 6, 6)
    both = {"00000": {0: [(n, 8, near) for n in range(4)], 1: [(n, 8, far) for n in range(4)]}}
    assert not on_target(both, _one_row(), 0, (2, 2, 2, 2))
    moving = {"00000": {0: [(0, 8, near), (1, 8, far)]}}  # in the box in one of two frames
    assert not on_target(moving, _one_row(), 0, (2, 2, 2, 2))
    gone = {"00000": {0: [(0, 8, near)]}}  # visible in the first frame only, and there inside
    assert on_target(gone, _one_row(), 0, (2, 2, 2, 2))


def test_read_print_by_hand():
    """A grating whose brightness changes from row to row has its energy along y."""
    rows = np.sin(2 * np.pi * np.arange(14) / 2.6)[:, None] * np.ones((14, 9))
    along_rows, along_columns = read_print(rows[None], (2.6, 2.6))
    assert along_rows > 100 * along_columns


def test_theta_of_the_hand_worked_rows():
    assert _one_row().clip(0).theta == Theta((24, 36), (8, 12), 0, 1, (6, 10), False)


def test_cards_that_are_gone_are_named_with_what_brings_them_back(tmp_path):
    with pytest.raises(StageError, match=r"cards\.csv: not there; `prepare` makes the miniature again"):
        read_cards(tmp_path)
