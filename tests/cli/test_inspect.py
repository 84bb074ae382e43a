"""inspect: every table on a run whose counts are known, printed and read back from both kinds of file."""

import pandas as pd
import pytest
from click.testing import CliRunner

import cache
from cache import tables
from pipeline.cli import inspect
from pipeline.cli.main import main
from pipeline.config_file import to_toml
from tests.helpers.tiny_data import CLASSES, VIDEOS


@pytest.fixture
def call(tiny_run, tmp_path):
    """(exit code, output) of `inspect` on the tiny run."""
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_run.config))
    common = ["inspect", "--config", str(tmp_path / "tiny.toml"), "--run", str(tiny_run.path)]

    def run(*arguments):
        result = CliRunner().invoke(main, [*common, *map(str, arguments)], env={"COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def test_classes_counts_videos_and_actions(tiny_run):
    found = tables.table(cache.open(tiny_run.path), "classes").set_index("label")
    assert found.index.tolist() == list(CLASSES)
    for index, label in enumerate(CLASSES):
        for split in ("train", "test"):
            expected = sum(index in classes for own, _, _, _, classes in VIDEOS.values() if own == split)
            assert found.loc[label, f"{split}_videos"] == expected, (label, split)
    assert found.train_videos.tolist() != found.test_videos.tolist()
    assert found.actions.sum() == sum(len(classes) for *_, classes in VIDEOS.values())
    assert found.mean_seconds.tolist() == pytest.approx([0.9] * 3)


def test_videos_counts_rows_and_averages_boxes(tiny_run):
    run = cache.open(tiny_run.path)
    found = tables.table(run, "videos").set_index("video_id")
    assert sorted(found.index) == sorted(VIDEOS)
    for video_id, (split, size, fps, count, classes) in VIDEOS.items():
        row = found.loc[video_id]
        assert (row.split, row.height, row.width, row.labels) == (split, *size, len(classes))
        assert (row.source_fps, row.num_source_frames) == (fps, count)
        assert row.rows == row.saliency_done == row.crop_done == 2
        own = run.index[run.index.video_id == video_id]
        assert row.box_source_height == own.box_source_height.mean()
        assert row.saliency_share == pytest.approx(own.saliency_share.mean()) != pytest.approx(own.entropy.mean())


def test_a_video_that_was_left_out_counts_for_no_class(tiny_copy):
    path = tiny_copy.path / "videos.csv"
    (tiny_copy.path / "tables.json").unlink()  # nothing vouches for the table that is written here
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("83654,")))
    found = tables.classes(cache.open(tiny_copy.path)).set_index("label")
    assert found.test_videos.to_dict() == {"red thing": 1, "green thing": 0, "blue thing": 1}


@pytest.mark.parametrize("name", tables.TABLES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_table_is_printed_and_written(call, tiny_run, tmp_path, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    code, output = call("--table", name, "--out", path)
    assert code == 0
    expected = tables.table(cache.open(tiny_run.path), name)
    found = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert found.columns.tolist() == expected.columns.tolist() and len(found) == len(expected)
    assert f"wrote {path}: {len(expected)} rows" in output
    assert set(inspect.SHOWN.get(name, [])) <= set(expected.columns)


def test_a_table_is_written_into_a_new_folder_or_the_reason_is_said(call, tmp_path):
    assert call("--out", tmp_path / "new/folder/index.csv")[0] == 0
    assert len(pd.read_csv(tmp_path / "new/folder/index.csv")) == 14
    for suffix in (".csv", ".parquet"):
        (tmp_path / f"taken{suffix}").mkdir()
        code, output = call("--out", tmp_path / f"taken{suffix}")
        assert code == 5 and f"error: StorageError: {tmp_path}/taken{suffix}: " in output


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_inspect_did_not_write_is_left_alone(call, tiny_copy, tmp_path, suffix):
    """Text, pictures, tables of others, and the run's own skipped.csv, whose columns are those of a table of ours."""
    path = tmp_path / f"table{suffix}"
    others = pd.DataFrame({"video_id": ["a"], "label": ["b"]})
    for theirs in (others.to_csv(index=False).encode(), others.to_parquet(), b"mine\n", b"\xff\xd8\xff\xe0", b"a\0b"):
        path.write_bytes(theirs)
        code, output = call("--out", path)
        assert code == 4 and f"{path} is there already, and inspect did not write it; use another --out" in output
        assert path.read_bytes() == theirs
    path.write_bytes(b"")
    for table in tables.TABLES:  # an empty file, and those that it wrote itself
        assert call("--table", table, "--out", path)[0] == 0
    for name in ("skipped.csv", "videos.csv"):
        before = (tiny_copy.path / name).read_bytes()
        code, output = call("--table", name.removesuffix(".csv"), "--out", tiny_copy.path / name)
        assert code == 4 and "inspect did not write it" in output and (tiny_copy.path / name).read_bytes() == before


def test_printing_stops_and_says_so(call):
    _, output = call("--table", "index", "--rows", "3")
    assert output.count("\n") == 6 and "... and 11 more rows; --rows prints more" in output  # 7 videos, 2 rows each


def test_wrong_arguments_are_named(call, tmp_path):
    code, output = call("--out", tmp_path / "index.xlsx")
    assert code == 2 and "written as .csv or .parquet" in output and not (tmp_path / "index.xlsx").exists()
    code, output = call("--use", "crop=entropy")
    assert code == 2 and "base, maps, boxes, context, crops" in output
    assert call("--use", "boxes=random")[0] == 4  # the run has none
    assert call("--use", "boxes=entropy")[0] == 0
