"""How a decoded frame is to be shown, as its file says, or as players guess where the file says nothing."""

import numpy as np

UNTAGGED = 2  # colour matrix, ITU-T H.273
HDR = {16: "HDR (PQ)", 18: "HDR (HLG)"}  # by transfer function, ITU-T H.273


def is_untagged_hd(frame) -> bool:
    """Say whether players take the frame for BT.709 though its file names no colour matrix: for its size.

    The rule of mpv (`mp_csp_guess_colorspace`): 1280 pixels wide, or more than 576 high, before it is turned. All else
    that is untagged is BT.601.
    """
    return frame.colorspace == UNTAGGED and not frame.format.is_rgb and (frame.width >= 1280 or frame.height > 576)


def is_mirrored(frame) -> bool:
    """Say whether the display matrix also flips the frame, across its x axis, whose angle is `frame.rotation`."""
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    return a * d < b * c


def picture_notes(frame) -> str:
    """Return what players change in such frames and we do not, such as "interlaced, HDR (PQ)"; "" for nothing."""
    return ", ".join(
        ["interlaced"] * frame.interlaced_frame + [name for tag, name in HDR.items() if frame.color_trc == tag]
    )
