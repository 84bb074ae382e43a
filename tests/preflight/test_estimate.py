"""plan: bytes and files within a tenth of what the stages then write, before `prepare` and after; the arithmetic."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.plan_outcome import PLACES, line, ran, written
from cache.stores.volume_store import build_unit, unit_bytes
from pipeline.cli import preflight
from pipeline.cli.main import main
from pipeline.config_file import load, to_toml
from pipeline.errors import StageError
from pipeline.preflight import training_steps
from pipeline.preflight.counts import PartSize, busiest_worker_rows, count, spread
from pipeline.preflight.estimate import estimate
from pipeline.preflight.rehearsal import first_readable, spare_config
from pipeline.preflight.stage_costs import rate_of
from pipeline.stages import crops
from pipeline.workers.peak_memory import run_measured
from tests.helpers.tiny_data import change, make_data, tiny_config


@pytest.fixture(scope="module")
def before(tiny_run, tmp_path_factory):
    """The estimate before anything ran: the same config, a run folder that is not there."""
    return estimate(tiny_run.config, tmp_path_factory.mktemp("before") / "run", seconds=10)


def test_every_stage_is_within_a_tenth_of_what_it_wrote(tiny_run, before):
    assert not before.counts.planned
    assert [stage.stage for stage in before.stages] == list(PLACES) == list(preflight.STAGES)
    for stage in before.stages:
        size, files = written(tiny_run.path, stage.stage)
        assert stage.files == files, stage.stage
        assert stage.bytes["png"] == pytest.approx(size, rel=0.1), stage.stage
        assert stage.seconds > 0 and stage.memory > 1e7
    rows = {stage.stage: stage.rows for stage in before.stages}
    assert (rows["prepare"], rows["saliency"], rows["crops"]) == (7, 14, 14)
    assert (rows["train-base"], rows["train-fusion"], rows["evaluate"]) == (2 * 4, 2 * 3 * 4, 3 * 6)


def test_the_other_codec_is_within_a_tenth_as_well(looked, before):
    crops.run(change(looked.config, crops={"codec": "jpeg"}), looked.path, ("entropy",))
    (stage,) = (stage for stage in before.stages if stage.stage == "crops")
    assert stage.bytes["jpeg"] == pytest.approx(written(looked.path, "crops")[0], rel=0.1)
    assert stage.bytes["jpeg"] < stage.bytes["png"]


def test_with_a_plan_it_counts_by_the_plan_and_looks_with_base(tiny_copy):
    files = {path: path.stat().st_size for path in tiny_copy.path.rglob("*") if path.is_file()}
    found = estimate(tiny_copy.config, tiny_copy.path, seconds=10)
    assert found.counts.planned and not any("not trained" in note for note in found.notes)
    (stage,) = (stage for stage in found.stages if stage.stage == "saliency")
    assert stage.bytes["png"] == pytest.approx(written(tiny_copy.path, "saliency")[0], rel=0.1)
    assert (found.held_files, found.held_bytes) == (len(files), sum(files.values()))
    assert files == {path: path.stat().st_size for path in tiny_copy.path.rglob("*") if path.is_file()}  # wrote nothing
    assert replace(found, free_bytes=0, free_inodes=0, held_bytes=found.total("png"), held_files=found.files).fits(
        "png"
    )


def test_what_does_not_fit_is_said_and_is_5(tiny_run, before, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.preflight.estimate.estimate", lambda *arguments: before)
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_run.config))
    arguments = ["plan", "--config", tmp_path / "tiny.toml", "--run", tmp_path / "run", "--seconds", "2"]
    arguments = [*map(str, arguments), "--rows-per-second", "saliency=0.5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0 and "png: fits (crops.codec of this config)" in result.output
    assert "28.0 s" in result.output  # 14 rows at the stated rate
    assert "4 train videos x 2, 3 test videos x 2" in result.output and "before prepare" in result.output
    assert not (tmp_path / "run" / "plan").exists()
    full = replace(before, free_bytes=1000)
    monkeypatch.setattr("pipeline.preflight.estimate.estimate", lambda *arguments: full)
    result = CliRunner().invoke(main, [*arguments, "--json"])
    facts = json.loads(result.output)
    assert result.exit_code == 5 and facts["fits"] is False
    (stage,) = (stage for stage in facts["stages"] if stage["stage"] == "saliency")
    assert stage["stated_seconds"] == 28 and stage["rows"] == 14


def test_the_miniature_is_planned_before_it_is_made(tmp_path):
    config = change(
        load("table2-tiny"),
        data={"videos": str(tmp_path / "data"), "annotations": (str(tmp_path / "a"), str(tmp_path / "b"))},
        workers=1,
    )
    found = estimate(config, tmp_path / "run", seconds=5)
    rows = {stage.stage: stage.rows for stage in found.stages}
    assert rows["prepare"] == 24 + 12 and rows["saliency"] == 24 * 2 + 12 * 2
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()


def test_missing_videos_are_counted_and_none_at_all_says_what_was_looked_for(tmp_path):
    config = tiny_config(make_data(tmp_path / "data"))
    (tmp_path / "data" / "NA.mp4").unlink()
    found = count(config, tmp_path / "run")
    assert found.missing == ["NA"] and found.videos("train") == 3 and found.rows("train", "test") == 12
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match=r"looked for 07E49\.<mp4\|mkv"):
        count(change(config, data={"videos": str(tmp_path / "empty")}), tmp_path / "run")
    with pytest.raises(StageError, match="is not a folder"):
        count(change(config, data={"videos": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_a_video_that_cannot_be_read_is_not_rehearsed_with(tmp_path):
    config = tiny_config(make_data(tmp_path / "data"))
    for name in ("83654", "T0003"):
        (tmp_path / "data" / f"{name}.mp4").write_bytes(b"no video")
    assert first_readable(config, ["83654", "T0002", "T0003"]) == "T0002"
    with pytest.raises(StageError, match=r"none of the sampled videos can be read: 83654, T0003"):
        first_readable(config, ["83654", "T0003"])


def test_a_spare_run_has_both_splits_and_its_share_of_missing_videos(tmp_path):
    config = tiny_config(make_data(tmp_path / "data"), workers=2)
    for name in ("NA", "T0003"):
        (tmp_path / "data" / f"{name}.mp4").unlink()
    counts, readable = count(config, tmp_path / "run"), {"train": "00007", "test": "T0002"}
    assert sorted(counts.missing) == ["NA", "T0003"]
    everything = {"07E49", "150E6", "00007", "83654", "T0002", "NA", "T0003"}
    for number, ids in ((2, {"00007", "T0002", "T0003"}), (5, everything)):
        folder = tmp_path / f"spare{number}"
        spare = spare_config(config, counts, readable, number, folder)
        lines = (folder / "labels.csv").read_text().splitlines()[1:]
        assert {one.split(",")[0] for one in lines} == ids
        assert spare.clips.videos_per_unit == (1 if number == 2 else 2) and spare.data.missing_videos == "skip"
        assert (spare.base.epochs, spare.fusion.epochs, spare.data.videos) == (1, 1, config.data.videos)


@pytest.mark.parametrize("rows, frames, size", [(1, 4, 100), (4, 4, 1000), (10, 16, 6000), (50, 16, 13000)])
def test_unit_bytes_are_those_of_a_unit(rows, frames, size):
    content = [[b"x" * size] * frames] * rows
    attrs = {"T": frames, "size": [28, 28], "codec": "jpeg", "quality": 90, "first_row": 0}
    assert unit_bytes(rows * frames * size, rows, frames) == pytest.approx(len(build_unit(content, attrs)), rel=0.02)


def test_units_of_a_part_and_the_rows_of_the_worker_that_ends_last():
    parts = [PartSize("train", 5, 3, 2), PartSize("test", 1, 9, 2)]
    assert [part.units for part in parts] == [[6, 6, 3], [9]] and parts[0].num_rows == 15
    assert busiest_worker_rows(parts, 1) == 15 + 9
    assert busiest_worker_rows(parts, 2) == 6 + 9  # 6 and 3 | 6 and 9
    assert busiest_worker_rows(parts, 8) == 9


def test_a_row_costs_what_is_not_the_stages_own():
    # 7 s for workers and the stage, 0.5 s a row of the worker that ends last
    assert rate_of([7 + 1, 7 + 3, 7 + 10], [2, 6, 20]) == (0.5, 7.0)
    assert rate_of([100.0], [20]) == (5.0, 0.0)  # nothing to tell them apart by
    assert rate_of([1.0, 0.5], [2, 20]) == (0.0, 1.0)  # noise makes no row give time back
    assert rate_of([0.0, 9.0], [3, 6]) == (1.5, 0.0)  # nor cost more than all that it was in


def test_plan_and_outcome_side_by_side():
    planned = {"stage": "crops", "seconds": 12.0, "bytes": {"png": 5e6, "jpeg": 1e6}, "files": 8, "memory": 3_000_000}
    cells = line(planned, "jpeg", 10.0, 2_000_000, 10, 3_000_000)
    assert cells[:2] == ("crops", "12.0 s; 10.0 s (+20%)") and cells[2:4] == ("1 MB; 2 MB (-50%)", "8; 10 (-20%)")
    assert cells[4] == "3 MB; 3 MB (+0%)"
    assert line(planned, "png", 10.0, 0, 0, 1)[2:4] == ("5 MB; 0 B (-)", "8; 0 (-)")  # a stage that failed
    seconds, memory, code = ran(["no-such-stage"])
    assert code == 2 and seconds > 0 and 1e7 < memory < 1e9


def test_a_process_is_measured_in_itself_and_not_in_who_starts_it():
    held = np.ones(1 << 26)  # 512 MB
    _, peak, code = run_measured(["-c", "import json"])
    assert code == 0 and 1e6 < peak < 1e8 < held.nbytes


def test_a_batch_that_is_too_much_is_extrapolated_from_smaller_ones():
    assert training_steps.batch_sizes(12) == [1, 2, 4, 8, 12]
    assert training_steps.batch_sizes(8) == [1, 2, 4, 8] and training_steps.batch_sizes(1) == [1]
    assert training_steps.extended([(1, 5.0), (2, 7.0), (4, 11.0)], 12) == 27.0  # 3 and 2 a clip
    assert training_steps.extended([(1, 5.0), (2, 4.0)], 8) == 4.0  # noise makes nothing cheaper
    assert training_steps.extended([(1, 5.0)], 3) == 15.0
    assert training_steps.extended([(1, 5.0), (2, 90.0)], 3) == 135.0  # nor steeper than proportion
    assert training_steps.extended([(1, 5.0), (3, 9.0)], 3) == 9.0


def test_a_sample_is_spread_over_small_and_large_files():
    ids = [f"{number:03d}" for number in range(100)]
    for number in (1, 4, 7, 16, 100):
        chosen = spread(ids, number)
        assert len(set(chosen)) == number
        assert max(np.diff([0, *map(int, chosen), 100])) <= 100 / number + 1
    assert spread(ids, 500) == ids and spread([], 3) == []


@pytest.mark.parametrize("text", ["0", "-1", "fast", "salience=3", "saliency=", "nan", "inf"])
def test_a_rate_that_is_none_is_wrong_usage(text):
    result = CliRunner().invoke(main, ["plan", "--rows-per-second", text])
    assert result.exit_code == 2 and "STAGE=NUMBER" in result.output


def test_numbers_for_people():
    assert [preflight.size(n) for n in (7, 999, 1000, 1.5e6, 999.9e6, 2.34e13)] == [
        "7 B", "999 B", "1 kB", "1.5 MB", "1 GB", "23.4 TB"
    ]  # fmt: skip
    assert [preflight.duration(s) for s in (0.04, 59, 61, 7000, 7300, 200000)] == [
        "0.0 s", "59.0 s", "1.0 min", "116.7 min", "2.0 h", "2.3 d"
    ]  # fmt: skip
