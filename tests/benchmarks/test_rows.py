"""The benchmarks of stages: key frames give the frames of the forward decoder, and the table finds its place."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import (
    busy_machine,
    decoders,
    engines,
    experiment,
    gpu_networks,
    paper_step,
    result,
    saliency_box,
    scaling,
)
from benchmarks.__main__ import main
from benchmarks.key_frame import clip_frames
from benchmarks.networks import clip
from benchmarks.result import BEGIN, END, Result, placed
from benchmarks.rows import ROWS
from benchmarks.scene import make
from cache.geometry import Clip, Theta
from pipeline.config_file import load
from pipeline.data.video import container
from pipeline.data.video.frames import read_frames
from tests.helpers.make_video import numbered_frame, write_video


def test_rows_are_numbered_without_a_gap():
    assert list(ROWS) == list(range(1, 1 + len(ROWS)))


@pytest.mark.parametrize(("other", "met", "words"), [(3.0, True, "equal maps"), (4.0, False, "other maps")])
def test_a_map_beside_a_busy_program_worked_by_hand(monkeypatch, other, met, words):
    """Ours takes 2 s busy and 4 s alone, OpenMP's own 6 and 3."""
    seconds = {("10000", False): 4, ("300000", False): 3, ("10000", True): 2, ("300000", True): 6}

    def printed(command, env):
        looks = env["GOMP_SPINCOUNT"]
        return json.dumps({"seconds": seconds[looks, bool(busy)], "map": 3.0 if looks == "10000" else other})

    busy, program = [], SimpleNamespace(kill=lambda: busy.clear(), wait=lambda: None)
    monkeypatch.setattr(busy_machine.subprocess, "check_output", printed)
    monkeypatch.setattr(busy_machine.subprocess, "Popen", lambda command: busy.append(command) or program)
    found = busy_machine.measure()
    assert (found.ours, found.theirs, found.ratio, found.met) == (2, 6, 3, met) and not busy
    assert found.agreement == f"{words}; without the busy program 0.75 x as fast"


def test_a_row_whose_package_is_missing_is_skipped_by_name(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'openvino'")

    monkeypatch.setitem(ROWS, 21, missing)
    done = CliRunner().invoke(main, ["--rows", "21"])
    assert done.exit_code == 0 and "row 21 skipped: No module named 'openvino'; pip install" in done.output
    monkeypatch.setitem(ROWS, 21, lambda: 1 / 0)
    assert CliRunner().invoke(main, ["--rows", "21"]).exit_code == 1


def test_a_file_of_somebody_else_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS, 21, lambda: Result("a", 1.0, 2.0, 0.5, "at most 1", True, "equal"))
    for command, name in ((main, "table.md"), (scaling.main, "page.md"), (scaling.main, "page.json")):
        theirs = tmp_path / name
        theirs.write_text("my notes")
        arguments = ["--rows", "21"] if command is main else ["--again"]
        done = CliRunner().invoke(command, [*arguments, "--out", str(theirs.with_suffix(".md"))])
        assert done.exit_code == 2 and f"{theirs} is there already" in done.output
        assert theirs.read_text() == "my notes"
        theirs.unlink()
    for _ in range(2):
        assert CliRunner().invoke(main, ["--rows", "21", "--out", str(tmp_path / "table.md")]).exit_code == 0


@pytest.mark.parametrize("shift", [0, 1])
def test_decoding_compares_the_frames_on_screen(monkeypatch, shift):
    """A stand-in for torchcodec that numbers frames as they are shown; one that is a frame late is found out."""

    class Decoder:
        def __init__(self, path, dimension_order, num_ffmpeg_threads):
            with container.opened(path) as (opened, stream):
                self.frames = [container.to_rgb(path, frame) for frame in opened.decode(stream)]

        def get_frames_at(self, indices):
            frames = [self.frames[min(index + shift, len(self.frames) - 1)] for index in indices]
            return SimpleNamespace(data=torch.from_numpy(np.stack(frames)))

    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=Decoder))
    found = decoders.measure(seconds=2.0, size=(48, 64), repeats=1)
    assert (found.agreement == "equal frames") == (shift == 0)
    assert shift == 0 or ("frames differ" in found.agreement and found.met)
    assert found.name == "16 frames of ten clips of a 64 x 48 video of 2 s, against torchcodec"


def test_a_forward_pass_against_another_engine(monkeypatch):
    networks = gpu_networks.both(gpu_networks.Subject("small_i3d", 4, 28, 1))
    monkeypatch.setattr(engines, "both_networks", lambda: networks)
    monkeypatch.setattr(engines, "clip", lambda frames: clip(4, 28))
    monkeypatch.setattr(saliency_box, "BOX", 16)
    monkeypatch.setattr(torch.onnx, "export", lambda network, inputs, path, **options: path.write_bytes(b"network"))

    def prepare(path):
        assert path.read_bytes() == b"network"
        return lambda video: networks[1](torch.from_numpy(video)).detach().numpy()

    found = engines.forward("itself", prepare)
    assert found.name.endswith("against itself") and found.ratio == pytest.approx(found.theirs / found.ours)
    assert float(found.agreement.split()[2].rstrip(";")) < 1e-4 and "of its forward pass" in found.agreement


def test_the_whole_table_worked_by_hand():
    """Twelve trainings of 25 epochs. The paper looks in six of them; two repeat V_in and four have fixed boxes.

    Late, in a second of both videos: 1 ours, 4 the paper's, 3 in the centre, 2 again; concatenation twice that.
    25 x (3 x 4 + 2 x 3 + 2) = 500 and twice that, against 25 x 6 x (1 + 2) + 25 x 10 of filling.
    """
    paper = {"entropy": 4.0, "center": 3.0, "repeat": 2.0}
    late = Result("late", 1.0, 4.0, 4.0, "", True, "", extra={"by_boxes": paper, "filling": 1.0})
    twice = {boxes: 2 * seconds for boxes, seconds in paper.items()}
    concat = Result("concat", 2.0, 8.0, 4.0, "", True, "", extra={"by_boxes": twice, "filling": 2.0})
    found = experiment.worked_out({"late": late, "concat": concat}, 10.0, load("charades"))
    assert (found.ours, found.theirs, found.ratio) == (700, 1500, pytest.approx(15 / 7)) and not found.met
    assert found.name.startswith("Table 2, 18 cells: 25 augmentations") and "12 trainings of 25 epochs" in found.name
    assert found.agreement.count("one such training alone 2.00x") == 2 and "stages 1 and 2 10 an" in found.agreement
    few = replace(load("charades"), clips=replace(load("charades").clips, aug_seeds=5))
    assert experiment.worked_out({"late": late, "concat": concat}, 10.0, few).ours == 500


@pytest.mark.parametrize(("boxes", "decodes", "looks"), [("entropy", 2, 1), ("center", 1, 0), ("repeat", 1, 0)])
@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_what_the_papers_step_does_for_each_kind_of_box(monkeypatch, boxes, decodes, looks, fusion):
    """Boxes that look at nothing decode once and ask no gradient; a repeated volume is V_in itself."""
    done, seen = {"decodes": 0, "looks": 0}, []

    def frames(path, slots, fps):
        done["decodes"] += 1
        return [(slot, numbered_frame(slot)) for slot in slots]

    def looked(network, video):
        done["looks"] += 1
        return SimpleNamespace(box=(3, 5))

    class Network(torch.nn.Linear):
        def forward(self, video):
            seen.append(video)
            return super().forward(video.mean((2, 3)))

    monkeypatch.setattr(paper_step, "clip_frames", frames)
    monkeypatch.setattr(paper_step, "plainly", looked)
    monkeypatch.setattr(paper_step, "BOX", 16)
    height, width = numbered_frame(0).shape[:2]
    shown = Clip("a", 0, 0, (1, 2, 3, 3), Theta((height, width), (32, 32), 2, 2, (28, 28), False))
    network, base = Network(3, 5), Network(3, 5)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    step = paper_step.PaperStep(network, base, optimiser, fusion, 8.0, boxes)
    assert step(Path("a"), shown, torch.zeros(1, 5), torch.zeros(1, 4, 5)) > 0
    assert done == {"decodes": decodes, "looks": looks}
    context, focus = seen if fusion == "late" else seen[0].chunk(2, dim=1)
    assert focus.shape == context.shape == (1, 4, 28, 28, 3) and torch.equal(context, focus) == (boxes == "repeat")


@pytest.mark.parametrize("slots", [[0, 1], [9, 10, 11, 14], [3, 17], [23, 24]])
def test_from_a_key_frame_come_the_frames_of_the_forward_decoder(tmp_path, slots):
    frames = [numbered_frame(number) for number in range(63)]
    path = write_video(tmp_path / "a.mp4", frames, 20, options={"g": "10", "bf": "2"})
    found = dict(clip_frames(path, slots, 8.0))
    wanted = dict(read_frames(path, slots, 8.0))
    assert list(found) == slots == list(wanted)
    assert all(np.array_equal(found[slot], wanted[slot]) for slot in slots)


def test_the_table_replaces_what_stood_between_the_markers():
    page = f"before\n{BEGIN}\nold | table\n{END}\nafter {{}}\n"
    assert placed(page, "| new |\n") == f"before\n{BEGIN}\n| new |\n{END}\nafter {{}}\n"
    assert placed(placed(page, "| new |\n"), "| new |\n") == placed(page, "| new |\n")


def test_the_readme_has_a_place_for_the_table():
    page = (Path(result.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert "| new |" in placed(page, "| new |\n")


@pytest.mark.parametrize("page", ["nothing", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", BEGIN])
def test_a_page_without_its_markers_is_refused(page):
    with pytest.raises(ValueError, match="each once"):
        placed(page, "| new |\n")


def test_the_run_that_rows_are_measured_on(tmp_path):
    scene = make(tmp_path, test=1, seconds=2.0, size=(48, 64), network="small_i3d", input_side=56, resized_side=64)
    (part,) = scene.stores.run.parts_of("test")
    assert (part.num_rows, part.num_frames) == (10, 16) and set(part.video_ids) == {"V00"}
    assert scene.stores.run.classes[3] == "c3" and (scene.videos / "V00.mp4").is_file()
