"""show: the strip and the film hold the volumes of the cache, the outline is where the box is."""

from dataclasses import replace

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cache
from cache.geometry import Box
from pipeline.cli.main import main
from pipeline.errors import StageError
from pipeline.report import show
from pipeline.report.chosen_stores import open_sources
from pipeline.report.gallery import labels_of
from pipeline.run.folder import read_labels
from pipeline.stages import crops

SIDE = 224  # eight times the input of 28


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def enlarged(pixels):
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(int)


def test_the_film_shows_input_box_and_focus_of_every_frame(tiny_copy):
    done = CliRunner().invoke(main, ["show", "T0002", "--run", str(tiny_copy.path)])
    assert done.exit_code == 0 and "T0002.png: 2 of its clips; and T0002.mp4 beside it" in done.output
    run, folder = cache.open(tiny_copy.path), tiny_copy.path / "report/show"
    assert sorted(path.name for path in folder.iterdir()) == ["T0002.mp4", "T0002.png"]
    film = frames_of(folder / "T0002.mp4")
    rows = run.index[run.index.video_id == "T0002"].sort_values("clip_index")
    assert len(film) == 2 * 4  # clips, frames
    for clip, (_, row) in enumerate(rows.iterrows()):
        context, focus = run.context(row.row), run.focus(row.row)
        top, left = row.box_input_top, row.box_input_left
        for t in range(4):
            picture = film[4 * clip + t]
            views = [picture[26 : 26 + SIDE, at * 232 : at * 232 + SIDE] for at in range(3)]
            cut = context[t, top : top + 16, left : left + 16]
            assert np.abs(views[1] - enlarged(cut)).mean() < 4
            assert np.abs(views[2] - enlarged(focus[t])).mean() < 4
            assert np.abs(views[2] - enlarged(focus[t][:, ::-1])).mean() > 6  # else the line before says little
            # the outline is white at its box and nowhere else
            white = (views[0] > 180).all(-1)
            inner = np.zeros((SIDE, SIDE), bool)
            inner[8 * top : 8 * top + 128, 8 * left : 8 * left + 128] = True
            inner[8 * top + 5 : 8 * top + 123, 8 * left + 5 : 8 * left + 123] = False
            assert white[inner].mean() > 0.2 and not white[~inner].any()


def test_the_strip_holds_the_same_volumes(tiny_copy):
    show.run(tiny_copy.path, "T0003", (1,))
    strip = np.asarray(Image.open(tiny_copy.path / "report/show/T0003.png")).astype(int)
    assert strip.shape == (26 + 3 * 232 + 8, 88 + 4 * 232, 3)
    run = cache.open(tiny_copy.path)
    row = run.index[(run.index.video_id == "T0003") & (run.index.clip_index == 1)].row.item()
    for t, frame in enumerate(run.focus(row)):
        assert (strip[26 + 2 * 232 :, 88 + t * 232 :][:SIDE, :SIDE] == enlarged(frame)).all()


def test_outline_by_hand():
    drawn = show.outlined(np.full((40, 60, 3), 9, np.uint8), Box(1, 2, 4, 6), 6)  # [6, 30) x [12, 48)
    white = np.argwhere((drawn == 255).all(-1))
    assert white.min(0).tolist() == [7, 13] and white.max(0).tolist() == [28, 46]
    assert (drawn[6, 12:48] == 0).all() and (drawn[29, 12:48] == 0).all() and (drawn[10:26, 16:44] == 9).all()
    assert (
        (drawn[:6] == 9).all() and (drawn[:, :12] == 9).all() and (drawn[30:] == 9).all() and (drawn[:, 48:] == 9).all()
    )


def test_other_boxes_without_saliency(tiny_copy, tmp_path):
    crops.run(tiny_copy.config, tiny_copy.path, ("center",))
    show.run(tiny_copy.path, "150E6", (), "center", tmp_path)
    assert (tmp_path / "150E6.mp4").exists()
    sources = open_sources(tiny_copy.path, "center")
    (row,) = show._rows(sources, "150E6", (1,), "center")
    part = sources.run.parts[0]
    assert (part.rows.video_id[row], part.rows.aug_index[row]) == ("150E6", 1)
    annotations = read_labels(tiny_copy.path)
    shown, labels = show.panels(sources, row, annotations), ", ".join(labels_of(annotations, "150E6"))
    first = part.rows.frame_start[row]
    assert shown.heading.startswith(f"150E6, augmentation 1, from {first / part.rows.fps[row]:.1f} s; ")
    assert labels and shown.heading.endswith(f"source pixels; {labels}")
    uneven = replace(annotations, frame_times={"150E6": 100 + np.arange(200) ** 2 / 2})  # as with clips.fps = 0
    assert f"from {100 + first**2 / 2:.1f} s; " in show.panels(sources, row, uneven).heading
    assert list(shown.volumes) == ["input", "enlarged", "focused"]
    context = sources.run.context(row)
    inside = shown.volumes["input"][0, 70:150, 70:150].astype(int)  # no veil: boxes without saliency
    assert (inside == enlarged(context[0])[70:150, 70:150]).all()


def test_without_crops_two_panels(tiny_copy):
    sources = open_sources(tiny_copy.path)
    del sources.stores["crops"]
    assert list(show.panels(sources, 0, read_labels(tiny_copy.path)).volumes) == ["input", "enlarged"]


def test_a_video_that_show_did_not_write_is_left_alone(tiny_copy, tmp_path):
    """Such as the video itself, in whose folder the film would stand."""
    film, strip = tmp_path / "T0002.mp4", tmp_path / "T0002.png"
    for theirs in (film, strip):
        theirs.write_bytes(b"theirs")
        with pytest.raises(StageError, match=rf"{theirs} is there already, and show did not write it; use another"):
            show.run(tiny_copy.path, "T0002", (0,), out=tmp_path)
        assert [path.read_bytes() for path in tmp_path.glob("T0002.*")] == [b"theirs"]
        theirs.unlink()
    show.run(tiny_copy.path, "T0002", (0,), out=tmp_path)
    before = film.read_bytes(), strip.read_bytes()
    show.run(tiny_copy.path, "T0002", (1,), out=tmp_path)  # its own are replaced
    assert film.read_bytes() != before[0] and strip.read_bytes() != before[1]


@pytest.mark.parametrize(
    ("video_id", "clips", "policy", "words"),
    [
        ("T00002", (), "entropy", "the plan has no video 'T00002'; it has 7, such as T0002"),
        ("T0002", (0, 5), "entropy", "T0002 has no clip 5; it has 0 to 1"),
        ("T0002", (), "random", "has no boxes 'random'; it has entropy"),
    ],
)
def test_what_is_not_there_is_named(tiny_copy, video_id, clips, policy, words):
    with pytest.raises(StageError, match=words):
        show.run(tiny_copy.path, video_id, clips, policy)
    assert not (tiny_copy.path / "report").exists()


def test_nothing_is_stored_yet(trained):
    with pytest.raises(StageError, match="no volume of T0002 is stored; `saliency`, then `crops` make them"):
        show.run(trained.path, "T0002")


def test_long_headings_end_inside():
    picture = Image.new("RGB", (120, 30), (255, 255, 255))
    show.write(picture, (4, 4), "a very long heading that never ends, or nearly so", (0, 0, 0))
    dark = np.argwhere(np.asarray(picture).min(-1) < 128)
    assert dark[:, 1].max() < 118 and dark[:, 1].max() > 90
