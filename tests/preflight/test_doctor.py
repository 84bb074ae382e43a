"""doctor: every finding is provoked, and a machine and data without fault have none."""

import errno
import json
import os
import shutil
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from click.testing import CliRunner

from cache.errors import StorageError
from models.backbones import build
from pipeline.cli.main import main
from pipeline.config_file import to_toml
from pipeline.data.annotations import judge
from pipeline.data.video.clock import traits
from pipeline.preflight import check_data, check_machine, other_decoders
from pipeline.preflight.counts import count
from pipeline.preflight.finding import Finding
from tests.helpers.make_video import numbered_frame, write_video
from tests.helpers.tiny_data import change, make_data, tiny_config


def _one(findings):
    (finding,) = [findings] if isinstance(findings, Finding) else list(findings)
    assert (finding.fix != "") == (finding.level != "ok")
    return finding


def test_python():
    assert _one(check_machine.check_python((3, 11, 0))).level == "ok"
    old = _one(check_machine.check_python((3, 10, 9)))
    assert old.level == "problem" and "3.10.9" in old.text and "python3.11" in old.fix


def test_libraries():
    installed = {"torch": "2.9.1+cu130", "zarr": "3.1.10", "numpy": "2.0"}

    def version_of(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    assert _one(check_machine.check_libraries(["zarr>=3.1.3", "numpy"], version_of)).level == "ok"
    wanted = ["torch>=2.10", "zarr>=3.1.3", "av>=14", "captum>=1; extra == 'bench'"]
    found = _one(check_machine.check_libraries(wanted, version_of))
    assert found.level == "problem" and found.text == "torch 2.9.1+cu130 is older than 2.10; av is missing"
    assert found.fix == "python -m pip install 'torch>=2.10' 'av>=14'"
    assert _one(check_machine.check_libraries()).level == "ok"  # those of this project, here
    wanted = ["zarr>=3.1.6", 'numpy>=2.1; extra == "hf"', 'torch>=3; extra == "dev"', 'captum>=1; extra == "bench"']
    fine, old = check_machine.check_libraries(wanted, version_of)  # an extra may be missing, and is not always used
    assert fine.level == "ok" and old.level == "note" and old.text == "of the extras: numpy 2.0 is older than 2.1"


def test_device_and_workers(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    assert _one(check_machine.check_device(config)).level == "ok"
    found = _one(check_machine.check_device(change(config, device="cuda")))
    assert found.level == "problem" and "sees no GPU" in found.text
    _, busy = check_machine.check_device(change(config, workers=2, saliency={"threads": 2}))
    assert busy.level == "note" and busy.fix == "--set workers=1"


def test_decoder(monkeypatch):
    assert _one(check_machine.check_decoder()).level == "ok"
    monkeypatch.setattr("pipeline.data.video.container.DECODERS", ("h264", "no_such_codec"))
    found = _one(check_machine.check_decoder())
    assert found.level == "problem" and found.text.endswith("cannot decode no_such_codec")


def test_disk_and_file_system(tmp_path, monkeypatch):
    levels = {one.check: one.level for one in check_machine.check_folder_of(tmp_path / "not/there/yet")}
    assert levels == {"disk": "ok", "file system": "ok"} and not list(tmp_path.iterdir())
    for free in ((10**6, None), (10**12, 500)):
        monkeypatch.setattr(check_machine, "free_space", lambda folder, free=free: free)
        disk, _ = check_machine.check_folder_of(tmp_path)
        assert disk.level == "problem" and "--run" in disk.fix

    def refuse(folder):
        raise StorageError(f"{folder}: its file system grants a lock twice")

    monkeypatch.setattr(check_machine, "check_folder", refuse)
    _, system = check_machine.check_folder_of(tmp_path)
    assert system.level == "problem" and "grants a lock twice" in system.text


def test_a_folder_that_cannot_be_written_is_a_finding(tmp_path, monkeypatch):
    """Where a disk is read-only, deleting what is not there fails as well; a file in place of a folder is another."""

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "file").touch()
    _, system = check_machine.check_folder_of(tmp_path / "file")
    assert system.level == "problem" and "/file: " in system.text
    for name in ("open", "unlink"):
        monkeypatch.setattr(os, name, read_only)
    _, system = check_machine.check_folder_of(tmp_path)
    assert system.level == "problem" and "Read-only file system" in system.text and "--run" in system.fix


def test_shared_memory(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, fusion={"loader_workers": 3, "batch_size": 5})
    need = 3 * 2 * 5 * 2 * (4 * 28 * 28 * 3)  # workers, read ahead, batch, two volumes, bytes of one
    for free, level in ((need, "ok"), (need - 1, "problem")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: type("Usage", (), {"free": free}))
        base, fusion = check_machine.check_shared_memory(config)
        assert (base.level, fusion.level) == ("ok", level)
    assert fusion.fix == "--set fusion.loader_workers=2, or docker run --shm-size=1g"
    assert _one(check_machine.check_shared_memory(config, tmp_path / "none")).level == "note"


def test_open_files(tmp_path):
    config = tiny_config(tmp_path, base={"loader_workers": 8})
    need = 100 + 2 * 64 + 8 * 2 * 4 + 10
    assert _one(check_machine.check_open_files(config, need)).level == "ok"
    assert _one(check_machine.check_open_files(config, -1)).level == "ok"  # no limit
    found = _one(check_machine.check_open_files(config, need - 1))
    assert found.level == "problem" and found.fix == "ulimit -n 4096"


def test_annotations_and_missing_files(tmp_path):
    config = tiny_config(make_data(tmp_path / "data"))
    assert _one(check_data.check_counts(config, count(config, tmp_path / "run"))).level == "ok"
    (tmp_path / "data/83654.mp4").unlink()
    found = _one(check_data.check_counts(config, count(config, tmp_path / "run")))
    assert found.level == "problem" and "1 annotated videos have no file" in found.text
    skipping = change(config, data={"missing_videos": "skip"})
    assert _one(check_data.check_counts(skipping, count(skipping, tmp_path / "run"))).level == "ok"
    for name in ("T0002", "T0003"):
        (tmp_path / f"data/{name}.mp4").unlink()
    found = _one(check_data.check_counts(skipping, count(skipping, tmp_path / "run")))
    assert found.level == "note" and "--eval-ids" in found.fix
    videos = list(check_data.check_videos(skipping, count(skipping, tmp_path / "run"), 4))
    assert all("4 sampled videos" in one.text for one in videos)  # of the split that there is
    (tmp_path / "data/table.csv").write_text("video_id,split\n")
    found = _one(check_data.check_data(config, tmp_path / "run", 1))
    assert found.level == "problem" and "table.csv, line 1" in found.text


def test_weights(tmp_path, tiny_copy):
    run = tiny_copy.path
    first, base = check_data.check_weights(tiny_copy.config, run, 3)
    assert (first.level, base.level) == ("note", "ok")
    (weights,) = run.glob("models/base-*/weights.pt")
    torch.save(build("small_i3d", 3).state_dict(), weights)
    _, base = check_data.check_weights(tiny_copy.config, run, 3)
    assert base.level == "problem" and "is not what base.json records" in base.text
    path = tmp_path / "kinetics.pth"
    torch.save(build("small_i3d", 7).state_dict(), path)
    config = change(tiny_copy.config, base={"init": str(path)})
    found = _one(check_data.check_weights(config, run, 3))
    assert found.level == "problem" and "new_head=true" in found.fix and "has (7," in found.text
    found = _one(check_data.check_weights(change(config, base={"new_head": True}), run, 3))
    assert found.level == "ok" and "(7," in found.text and "a new one is made for 3 classes" in found.text
    path.write_bytes(b"no weights")
    assert _one(check_data.check_weights(config, run, 3)).level == "problem"
    path.unlink()
    assert "no such file" in _one(check_data.check_weights(config, run, 3)).text


@pytest.mark.parametrize("content", ["", "[]", '{"weights": 3}'])
def test_a_harmed_record_of_base_is_a_finding(tiny_copy, content):
    (record,) = tiny_copy.path.glob("models/base-*/base.json")
    record.write_text(content)
    found = list(check_data.check_weights(tiny_copy.config, tiny_copy.path, 3))[-1]
    assert found.level == "problem" and str(record) in found.text


def test_a_table_of_boxes_is_read(tmp_path):
    """Line 3 leaves the frames by one pixel; a video that was not probed may only be known."""
    data = make_data(tmp_path / "data")
    table = tmp_path / "boxes.csv"
    config = change(tiny_config(data), saliency={"own_boxes": str(table)})
    counts = count(config, tmp_path / "run")
    rows = [{"video_id": "83654", "height": 48, "width": 80}]

    def finding(*lines):
        table.write_text("\n".join(["video_id,start,end,top,left,height,width", *lines]))
        return _one(check_data.check_own_boxes(table, counts, rows))

    found = finding("83654,0,1,8,40,40,40", "83654,1,2,0,0,48,80", "T0002,0,1,0,0,999,9")
    assert found.level == "ok" and "3 boxes in 2 of 7 videos, inside the frames of 1 sampled ones" in found.text
    found = finding("83654,0,1,8,40,40,40", "83654,0,1,9,40,40,40")
    assert found.level == "problem" and "boxes.csv, line 3" in found.text and "48 x 80" in found.text
    assert "line 2, column video_id: 'NOBODY'; expected a video" in finding("NOBODY,0,1,0,0,9,9").text
    assert "line 2" in finding("83654,1,1,0,0,9,9").text
    table.unlink()
    found = {one.check: one for one in check_data.check_data(config, tmp_path / "run", 1)}["own boxes"]
    assert found.level == "problem" and "boxes.csv" in found.text


def test_what_prepare_left_out(tmp_path):
    assert list(check_data.check_skipped(tmp_path)) == []
    lines = ["a,train,VideoMissing,x", "b,train,VideoTruncated,x", "NA,test,VideoTruncated,x"]
    (tmp_path / "skipped.csv").write_text("\n".join(["video_id,split,reason,detail", *lines]))
    found = _one(check_data.check_skipped(tmp_path))
    assert found.level == "note" and found.text == "2 VideoTruncated: b, NA"


FRAMES = [numbered_frame(number, (48, 80)) for number in range(16)]
ODD = {
    "plain": ({}, []),
    "turned": ({"rotation": 90}, ["turned"]),
    "uneven": ({"pts": [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]}, ["variable frame rate"]),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_video_is_said_to_be(tmp_path, kind):
    options, words = ODD[kind]
    write_video(tmp_path / "v.mp4", FRAMES, **options)
    row = {"zoom_y": 2.0, "zoom_x": 2.0, "timing": "pts"}
    texts = [text for text, _ in check_data._oddities(tmp_path / "v.mp4", row)]
    assert len(texts) == len(words) and all(word in text for word, text in zip(words, texts, strict=True))
    low = [text for text, _ in check_data._oddities(tmp_path / "v.mp4", row | {"zoom_x": 1.49})]
    assert len(low) == len(words) + 1 and "less than 1.5 times" in low[0]
    untimed = [text for text, _ in check_data._oddities(tmp_path / "v.mp4", row | {"timing": "rate"})]
    assert "no usable timestamps" in untimed[0]


def test_streams_clocks_and_labels_are_looked_at(tmp_path):
    row = {"video_id": "v", "zoom_y": 2.0, "zoom_x": 2.0, "timing": "pts", "source_fps": 30.0, "duration_seconds": 0.53}
    write_video(tmp_path / "v.mp4", FRAMES)
    told = {"video_stream": ("v:1 of 2", "several video streams"), "longest_gap": (1.1, "stand still for long")}
    told |= {"pictures": ("interlaced", "are interlaced")}
    for name, (value, words) in (told | {"first_frame": (0.6, "begin with sound")}).items():
        ((text, fix),) = check_data._oddities(tmp_path / "v.mp4", row | {name: value})
        assert words in text and name in text and fix
    for name, value in {"video_stream": "", "longest_gap": 0.99, "first_frame": 0.4, "pictures": ""}.items():
        assert list(check_data._oddities(tmp_path / "v.mp4", row | {name: value})) == []
    config = tiny_config(tmp_path)
    for times, level in (((0.1, 0.4), "ok"), ((100.0, 400.0), "problem")):
        annotations = judge([("t", 1, "v", "train", np.nan)], [("v", 0, *times)], ["wave"])
        found = _one(check_data.check_labels(config, SimpleNamespace(annotations=annotations), [row]))
        assert found.level == level and ("milliseconds" in found.text) == (level == "problem")


def test_traits_are_read(tmp_path):
    found = traits(write_video(tmp_path / "v.mp4", FRAMES, pts=[0, 1, 2, 6, *range(7, 19)], time_base=Fraction(1, 10)))
    assert (found.shortest, found.longest) == (pytest.approx(0.1), pytest.approx(0.4))
    assert (found.rotation, found.pixel_aspect, found.mirrored) == (0, 1, False)


def test_pixels_that_are_not_square_or_mirrored(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", FRAMES)
    plain = traits(tmp_path / "v.mp4")
    row = {"zoom_y": 2.0, "zoom_x": 2.0, "timing": "pts"}
    for change_, word in (({"pixel_aspect": Fraction(64, 51)}, "not square"), ({"mirrored": True}, "mirrored")):
        odd = type(plain)(**{**plain.__dict__, **change_})
        monkeypatch.setattr(check_data, "traits", lambda path, odd=odd: odd)
        ((text, _),) = check_data._oddities(tmp_path / "v.mp4", row)
        assert word in text


def _reader(shift: int = 0, scale: float = 1.0, count: int | None = None, swap: bool = False):
    """A decoder that gives our frames, but not quite."""

    def read(path, number, size):
        frames = np.stack([frame for _, frame in other_decoders.read_frames(path, range(16), None)])
        frames = np.roll(frames, -shift, 0)[: number if count is None else count]
        frames = (frames * scale).astype(np.uint8)
        return frames.transpose(0, 2, 1, 3) if swap else frames

    return read


def test_decoders_that_disagree_are_told_apart(tmp_path):
    path = write_video(tmp_path / "v.mp4", FRAMES)
    compare = lambda read: other_decoders.compare(path, "pts", (48, 80), read)  # noqa: E731
    assert compare(_reader()) == "" and compare(_reader(scale=0.99)) == ""
    assert "it looks like its frame" in compare(_reader(shift=1))
    assert "levels on average" in compare(_reader(scale=0.8))
    assert compare(_reader(count=5)) == "5 frames, ours 12"
    assert compare(_reader(swap=True)) == "frames of 80 x 48, ours 48 x 80 (height x width)"
    assert compare(lambda *_: 1 / 0) == "cannot read it: division by zero"


def test_colours_enlarged_in_another_way_are_no_difference(tmp_path):
    """Red lines on blue: decoders differ in every pixel beside one, as colours are stored at half the size."""
    frame = np.full((48, 80, 3), (20, 20, 220), np.uint8)
    frame[4:44:4, 4:76], frame[4:44, 4:76:6] = (220, 20, 20), (220, 20, 20)
    path = write_video(tmp_path / "v.mp4", [frame] * 12)

    def read(path, count, size):
        with av.open(str(path)) as container:
            point = Interpolation.POINT
            pictures = [one.to_ndarray(format="rgb24", interpolation=point) for one in container.decode(video=0)]
        return np.stack(pictures[:count])

    ours = np.stack([one for _, one in other_decoders.read_frames(path, range(12), None)]).astype(int)
    assert np.abs(ours - read(path, 12, None)).mean() > other_decoders.TOLERANCE
    assert other_decoders.compare(path, "pts", (48, 80), read) == ""
    for wrong in (lambda *given: read(*given)[..., ::-1], lambda *given: np.roll(read(*given), 2, 1)):
        assert "levels on average" in other_decoders.compare(path, "pts", (48, 80), wrong)


def test_decoders(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    write_video(tmp_path / "v.mp4", FRAMES)
    rows = [{"video_id": "v", "path": "v.mp4", "timing": "pts", "height": 48, "width": 80}]
    for found, level in (({}, "note"), ({"good": _reader()}, "ok"), ({"bad": _reader(shift=2)}, "problem")):
        monkeypatch.setattr(other_decoders, "available", lambda found=found: (found, ["opencv"]))
        finding = _one(check_data.check_decoders(config, rows))
        assert finding.level == level
    assert "bad and PyAV differ on 1 of 1 videos; v: frame" in finding.text
    found = _one(check_data.check_decoders(config, [rows[0] | {"video_stream": "v:1 of 2"}]))
    assert found.level == "ok" and "of 0 videos" in found.text  # which of them others take cannot be told


@pytest.mark.parametrize("rotation", [0, 90])
def test_real_other_decoders_agree_with_ours(tmp_path, rotation):
    found, _ = other_decoders.available()
    if not found:
        pytest.skip("neither torchcodec nor OpenCV nor ffmpeg is installed")
    path = write_video(tmp_path / "v.mp4", FRAMES, rotation=rotation)
    size = (80, 48) if rotation else (48, 80)
    for name, read in found.items():
        assert read(path, 12, size).shape == (12, *size, 3)
        assert other_decoders.compare(path, "pts", size, read) == "", name
        assert np.ptp(read(path, 12, size)[:, :, :, 0].astype(int) - read(path, 12, size)[:, :, :, 2]) > 100  # RGB


def _doctor(config, folder: Path, *more):
    (folder / "tiny.toml").write_text(to_toml(config))
    arguments = ["doctor", "--config", folder / "tiny.toml", "--run", folder / "run", *more]
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_the_command(tmp_path):
    config = tiny_config(make_data(tmp_path / "data"))
    result = _doctor(config, tmp_path)
    assert result.exit_code == 0 and " 0 problem(s), " in result.output and "\x1b[" not in result.output
    assert not (tmp_path / "run" / "plan").exists()
    (tmp_path / "data/T0002.mp4").write_bytes(b"no video")
    result = _doctor(config, tmp_path, "--json")
    assert result.exit_code == 4
    (problem,) = (one for one in json.loads(result.output) if one["level"] == "problem")
    assert problem["check"] == "videos" and "1 VideoUnreadable" in problem["text"] and "T0002" in problem["text"]
    result = _doctor(change(config, data={"videos": str(tmp_path / "nowhere")}), tmp_path)
    assert result.exit_code == 4 and "nowhere is not a folder" in result.output
