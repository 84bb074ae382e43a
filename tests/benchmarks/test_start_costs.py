"""The generated records are those of a run that lacks one unit, before and after they are gathered."""

from benchmarks import large_index, start_costs
from cache.stores.unit_records import UnitRecords
from cache.upkeep.verify import product_paths


def test_a_start_sees_the_same_in_files_and_in_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(large_index, "ROWS", 500)
    with start_costs.waiting_for_no_disk():
        start_costs.make(tmp_path, 20)
        for gathered in (0, 19):
            start_costs.start(str(tmp_path), "saliency", "20")
            start_costs.start(str(tmp_path), "crops", "20")
            folded = [UnitRecords(path).fold(fewest=1) for path in product_paths(tmp_path)]
            assert folded == [0 if gathered else 19] * 5
