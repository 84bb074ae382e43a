"""The plan: order and units of rows, clips from rows, what may be written, and what is refused."""

import pickle

import pytest

from cache import plan_files
from cache.errors import CacheError, DamagedError, StaleCacheError
from cache.geometry import Clip, Theta
from cache.plan import Part
from cache.plan_files import read_plan, write_part
from cache.sealed import read_sealed, seal
from tests.helpers.small_plan import part, rows


def test_units_hold_whole_videos_and_the_last_may_be_short():
    plan = part()  # 5 videos of 2 rows, 2 videos a unit
    assert (plan.num_rows, plan.num_videos, plan.rows_per_unit, plan.num_units) == (10, 5, 4, 3)
    assert [plan.unit_rows(unit) for unit in range(3)] == [range(0, 4), range(4, 8), range(8, 10)]
    assert plan.input_size == (6, 10)
    for unit in (-1, 3):
        with pytest.raises(IndexError):
            plan.unit_rows(unit)


def test_clip_repeats_the_last_frame_and_keeps_axes():
    plan = part(num_frames=4)
    # video 1: 6 frames, second row starts at 2 * 1 + 1
    assert plan.clip(3) == Clip(
        video_id="00001",
        clip_index=0,
        aug_index=1,
        frame_indices=(3, 4, 5, 5),
        theta=Theta((25, 37), (8, 12), crop_top=1, crop_left=2, input_size=(6, 10), flip=True),
    )
    assert plan.clip(0).frame_indices == (0, 1, 2, 3)
    assert plan.clip(0).theta.flip is False
    with pytest.raises(IndexError):
        plan.clip(10)
    with pytest.raises(IndexError):
        plan.clip(-1)


def test_round_trip_sets_offsets(tmp_path):
    written = [part(), part(1, "eval", num_videos=0), part(2, "eval", 2, 3, 1, first_video=50), part(3)]
    for one in written:
        write_part(tmp_path, one)
    found = read_plan(tmp_path)
    assert [one.offset for one in found] == [0, 10, 10, 16]
    for old, new in zip(written, found, strict=True):
        assert old.rows.equals(new.rows) and old.rows_sha256 == new.rows_sha256
        assert (old.name, old.settings, old.num_units) == (new.name, new.settings, new.num_units)
    assert found[0].rows.video_id[0] == "00000"  # text stays text
    assert found[1].num_units == 0 and found[1].input_size == (0, 0)


def test_hash_of_rows_is_pinned():
    """A change of library or file format must not make every cache stale."""
    assert part().rows_sha256 == "181e827c318b43c9e3f1180838f0ed1294f6cf6cf4884b6e27b0080577151d1c"


@pytest.mark.parametrize("column", [name for name in rows().columns if name not in ("split", "theta_input_height")])
def test_every_column_counts(column):
    changed = rows(rows_per_video=1)
    before = Part("part-000-train", "train", changed.copy(), 1, 2, {"num_frames": 3}).rows_sha256
    values = changed[column].tolist()
    last = f"x{values[-1]}" if isinstance(values[-1], str) else values[-1] + 1 if column != "theta_flip" else True
    changed[column] = [*values[:-1], last] if column != "theta_input_width" else 9
    assert Part("part-000-train", "train", changed, 1, 2, {"num_frames": 3}).rows_sha256 != before


def test_text_cannot_move_between_rows():
    a, b = rows(2, 1), rows(2, 1)
    a["video_path"], b["video_path"] = ["ab", "c"], ["a", "bc"]
    one, other = (Part("part-000-train", "train", table, 1, 2, {"num_frames": 3}) for table in (a, b))
    assert one.rows_sha256 != other.rows_sha256


def test_same_part_again_changes_nothing(tmp_path):
    write_part(tmp_path, part())
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "plan").iterdir()}
    write_part(tmp_path, part())
    assert before == {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "plan").iterdir()}


def test_other_content_under_a_name_is_refused(tmp_path):
    write_part(tmp_path, part())
    changed = rows()
    changed.loc[7, "frame_start"] = 99
    other = Part("part-000-train", "train", changed, 2, 2, part().settings)
    cases = [
        (other, f"frame_start of row 7, {changed.video_id[7]}: 7 != 99"),
        (part(fps=24.0), "settings.fps: 8.0 != 24.0"),
        (part(videos_per_unit=3), "videos_per_unit: 2 != 3"),
        (part(num_videos=6), "num_rows: 10 != 12|num_videos: 5 != 6"),
    ]
    for other, message in cases:
        with pytest.raises(StaleCacheError, match=message):
            write_part(tmp_path, other)
    assert read_plan(tmp_path)[0].rows.equals(part().rows)


def test_killed_between_parquet_and_json_is_no_part(tmp_path):
    write_part(tmp_path, part(num_videos=4)).unlink()  # the json comes last
    with pytest.raises(CacheError, match="holds no plan"):
        read_plan(tmp_path)
    write_part(tmp_path, part())
    assert read_plan(tmp_path)[0].num_videos == 5


def test_damage_and_gaps_are_found(tmp_path):
    path = write_part(tmp_path, part())
    write_part(tmp_path, part(2))
    with pytest.raises(CacheError, match="expected part number 001"):
        read_plan(tmp_path)
    write_part(tmp_path, part(1))
    parquet, meta = path.with_suffix(".parquet"), path.read_bytes()
    good = parquet.read_bytes()
    parquet.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(DamagedError, match=r"part-000-train\.parquet"):
        read_plan(tmp_path)
    parquet.write_bytes(good)
    path.write_bytes(seal(read_sealed(path) | {"num_rows": 11}))
    with pytest.raises(DamagedError, match="num_rows: 11 != 10"):
        read_plan(tmp_path)
    path.write_bytes(meta[:50])
    with pytest.raises(DamagedError, match=r"part-000-train\.json"):
        read_plan(tmp_path)


def _swap(table):
    return table.iloc[[0, 2, 1, *range(3, 10)]].reset_index(drop=True)


def _with(**values):
    return lambda table: table.assign(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap, "row 1: video_id '00001' among"),
        (lambda table: table.iloc[:9], "9 rows are not a multiple"),
        (_with(aug_index=0), "row 1: .* occurs twice"),
        (_with(video_id=["0", "0", "1", "1", "2", "2", "3", "3", "0", "0"]), "more than 2 rows"),
        (_with(split="eval"), "row 0: split 'eval', not 'train'"),
        (_with(theta_input_width=[10] * 9 + [9]), "row 9: theta_input_width 9, not 10"),
        (lambda table: table.drop(columns="fps"), "fps"),
        (_with(extra=1), "does not have: extra"),
        (_with(video_id=range(10)), "video_id"),
        (_with(video_sha256=[None] + ["0"] * 9), "video_sha256 has missing values"),
        (_with(frame_start=0.5), "frame_start|truncated"),
    ],
)
def test_rows_that_break_the_rules_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Part("part-000-train", "train", change(rows()), 2, 2, {"num_frames": 3})


def test_settings_and_names_that_break_the_rules_are_refused(tmp_path):
    for name, k, settings in [("part-0-train", 2, 3), ("part-000-eval", 2, 3), ("part-000-train", 0, 3)]:
        with pytest.raises(ValueError):
            Part(name, "train", rows(), 2, k, {"num_frames": settings})
    with pytest.raises(ValueError, match="num_frames"):
        Part("part-000-train", "train", rows(), 2, 2, {})
    with pytest.raises(ValueError, match="leaves the resized frame"):
        write_part(tmp_path, Part("part-000-train", "train", rows().assign(theta_crop_top=3), 2, 2, part().settings))


def test_a_large_plan_is_read_part_by_part(tmp_path, monkeypatch):
    """Sizes are known without rows; these are read when they are asked for, checked then, and forgotten."""
    written = [part(), part(1, "eval", 2, 3, 1, first_video=50)]
    paths = [write_part(tmp_path, one).with_suffix(".parquet") for one in written]
    monkeypatch.setattr(plan_files, "READ_AT_ONCE", 0)
    read, whole = [], plan_files._read_part
    monkeypatch.setattr(plan_files, "_read_part", lambda path, offset: read.append(path.stem) or whole(path, offset))
    first, second = read_plan(tmp_path)
    for old, new in zip(written, (first, second), strict=True):
        sizes = ("name", "split", "settings", "num_rows", "num_videos", "num_units", "rows_per_unit", "rows_sha256")
        assert [getattr(old, name) for name in sizes] == [getattr(new, name) for name in sizes]
    assert (first.offset, second.offset, second.unit_rows(1)) == (0, 10, range(3, 6)) and read == []
    assert second.clip(4) == written[1].clip(4) and second.video_ids == written[1].video_ids
    assert second.rows.equals(written[1].rows) and second.fps == written[1].fps and read == ["part-001-eval"]
    second.release()
    assert second.input_size == (6, 10) and pickle.loads(pickle.dumps(second)).whole is None
    assert second.num_rows == 6 and read == ["part-001-eval"] * 2
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(DamagedError, match=r"part-000-train\.parquet is not the file"):
        first.clip(0)
    paths[0].unlink()
    with pytest.raises(DamagedError, match=r"part-000-train\.parquet is lost"):
        read_plan(tmp_path)
