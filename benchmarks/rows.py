"""The rows of the table: the function that measures each."""

from benchmarks import (
    box_search,
    clip_saliency,
    epochs,
    frames_decoded,
    large_index,
    peak_memory,
    prediction,
    stage_one,
    stored_volumes,
    training_step,
)

ROWS = {
    1: clip_saliency.against_autograd,
    2: clip_saliency.against_captum,
    3: clip_saliency.against_matrix_product,
    4: clip_saliency.of_two_objectives,
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
    15: prediction.against_plain_script,
    16: prediction.against_stages,
}
