"""Result files of an evaluation, read back."""

from pathlib import Path

import numpy as np

from cache.vouched import read_file, read_vouched


def read_result(path: Path) -> tuple[dict, list[str], np.ndarray]:
    """A result file's facts, the ids of its videos in the order of the annotations, their scores float64 (V, C).

    Raises:
        DamagedError: one of its files is not what was written.
    """
    lines = [line.split(" ") for line in read_file(path, f"{path.stem}.scores.txt").decode().splitlines()]
    return read_vouched(path), [line[0] for line in lines], np.array([line[1:] for line in lines], float)
