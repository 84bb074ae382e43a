"""The rows of the table: the function that measures each."""

from benchmarks import (
    box_search,
    captum_saliency,
    clip_saliency,
    epochs,
    frames_decoded,
    large_index,
    peak_memory,
    product_rate,
    stage_one,
    stored_volumes,
    training_step,
    two_objectives,
)

ROWS = {
    1: clip_saliency.measure,
    2: captum_saliency.measure,
    3: product_rate.measure,
    4: two_objectives.measure,
    5: stage_one.measure,
    6: frames_decoded.measure,
    7: epochs.measure_late,
    8: epochs.measure_concat,
    9: stored_volumes.measure_reading,
    10: stored_volumes.measure_bytes,
    11: box_search.measure,
    12: large_index.measure,
    13: peak_memory.measure,
    14: training_step.measure,
}
