"""What the reader of photographs is shown, of a red card on black."""

import numpy as np
import pytest

from benchmarks.photo_reader import SIDE, _views
from cache.geometry import Box, Clip, Theta


def test_views_by_hand():
    """Source 100 x 200, input = source / 2 - (1, 10): the card lies at (9, 20) to (21, 40) of 48 x 80 pixels."""
    frame, card = np.zeros((100, 200, 3), np.uint8), Box(20, 60, 24, 40)
    frame[20:44, 60:100, 0] = 255
    clip = Clip("v", 0, 0, (0, 1), Theta((100, 200), (50, 100), 1, 10, (48, 80), False))
    views = dict(_views(frame, clip, card, np.array([9.0, 20, 21, 40]), 32))
    assert all(view.shape == (3, SIDE, SIDE) for view in views.values())
    red = {name: float(view[0].float().mean()) / 255 for name, view in views.items()}
    assert all(share == 1 for name, share in red.items() if name.startswith("card, from the source"))
    assert red["card, from the input"] > 0.9  # the resize mixes its edge with what is around it
    for place, columns in (("around the card", 20), ("in the centre", 16)):  # boxes at (0, 14) and (8, 24)
        for pixels in ("enlarged from the input", "cut from the source"):
            assert red[f"box of 32 {place}, {pixels}"] == pytest.approx(12 * columns / 32**2, abs=0.01)
    assert red["whole input"] == pytest.approx(12 * 20 / (48 * 80), abs=0.002)
    assert not any(view[1:].any() for view in views.values())
