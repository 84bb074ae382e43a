"""Small charts as SVG, of numbers alone, so that nothing needs escaping."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 240, 96  # of the area with the line or the bars
LEFT, ABOVE, BELOW = 44, 8, 20  # room for the numbers of the axes
LANE, TALL = 640, 36  # width of a lane of a timeline, height of its scores
BOTTOM = ABOVE + HEIGHT
AXIS = f'<line class="axis" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{BOTTOM}" y2="{BOTTOM}"/>'


def curve(epochs: Sequence[float], values: Sequence[float], drops: Sequence[float] = ()) -> Markup:
    """A line over epochs, with its highest and lowest value; dashed lines where the rate was lowered, at `drops`."""
    low, high = min(values), max(values)
    first, last = epochs[0], max(epochs[-1], epochs[0] + 1)

    def x(epoch: float) -> float:
        return LEFT + WIDTH * (epoch - first) / (last - first)

    def y(value: float) -> float:
        return ABOVE + HEIGHT * (1 - (value - low) / ((high - low) or 1))

    line = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in zip(epochs, values, strict=True))
    parts = [f'<line class="drop" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{ABOVE}" y2="{BOTTOM}"/>' for at in drops]
    parts += [AXIS, f'<polyline class="line" points="{line}"/>']
    parts.append(f'<circle class="end" cx="{x(epochs[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3"/>')
    for value in dict.fromkeys((high, low)):
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y(value) + 4:.1f}">{value:.3g}</text>')
    for epoch in dict.fromkeys((epochs[0], epochs[-1])):
        parts.append(f'<text class="x" x="{x(epoch):.1f}" y="{BOTTOM + 15}">{epoch:g}</text>')
    label = f"loss from {values[0]:.3g} to {values[-1]:.3g}"
    return _svg(LEFT + WIDTH + 8, BOTTOM + BELOW, "curve", parts, label)


def plane(points: Sequence[tuple[float, float]], joined: bool, what: str) -> Markup:
    """Points (x, y) over an axis that begins at 0, with the lowest and highest y; joined by a line, or numbered from 1.

    Args:
        what: what they are, for who cannot see it; none of its characters is special in HTML.
    """
    ys = [y for _, y in points]
    low, high, last = min(ys), max(ys), max(x for x, _ in points) or 1
    places = [
        (LEFT + WIDTH * 0.94 * x / last, ABOVE + HEIGHT * (1 - (y - low) / ((high - low) or 1)) * 0.9)
        for x, y in points
    ]
    parts = [AXIS]
    if joined:
        parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
    parts += [f'<circle class="end" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    if not joined:
        parts += [f'<text x="{x + 5:.1f}" y="{y + 4:.1f}">{number}</text>' for number, (x, y) in enumerate(places, 1)]
    for value, (_, y) in {y: place for (_, y), place in zip(points, places, strict=True) if y in (low, high)}.items():
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.1f}">{value:.1f}</text>')
    for value, x in ((0, LEFT), (last, LEFT + WIDTH * 0.94)):
        parts.append(f'<text class="x" x="{x:.1f}" y="{BOTTOM + 15}">{value:.3g}</text>')
    return _svg(LEFT + WIDTH + 8, BOTTOM + BELOW, "plane", parts, f"{what}, {len(points)} points")


def whisker(value: float, low: float, high: float, span: tuple[float, float]) -> Markup:
    """A difference with its interval, on an axis over `span` with a line at zero."""

    def x(at: float) -> float:
        return 4 + 112 * (at - span[0]) / ((span[1] - span[0]) or 1)

    kind = tone(value)
    parts = [f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="18"/>']
    if not math.isnan(low):
        parts.append(f'<line class="range {kind}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="9" y2="9"/>')
    parts.append(f'<circle class="dot {kind}" cx="{x(value):.1f}" cy="9" r="3.5"/>')
    return _svg(120, 18, "whisker", parts, "")


def histogram(values: np.ndarray, bins: int = 24) -> Markup:
    """How often whole numbers (N,) occur, in bins of equal width; with both ends and the share of the highest bar."""
    low, high = int(values.min()), int(values.max()) + 1
    step = max(1, math.ceil((high - low) / bins))
    edges = np.arange(low, high + step, step)
    counts, _ = np.histogram(values, edges)
    bar, parts = WIDTH / len(counts), []
    for number, tall in enumerate(HEIGHT * counts / counts.max()):
        place = f'x="{LEFT + number * bar + 0.5:.1f}" y="{BOTTOM - tall:.1f}"'
        parts.append(f'<rect class="bar" {place} width="{max(bar - 1, 1):.1f}" height="{tall:.1f}"/>')
    parts += [AXIS, f'<text class="y" x="{LEFT - 6}" y="12">{counts.max() / len(values):.0%}</text>']
    for at, place in ((edges[0], LEFT), (edges[-1], LEFT + WIDTH)):
        parts.append(f'<text class="x" x="{place}" y="{BOTTOM + 15}">{at}</text>')
    label = f"{len(values)} values from {low} to {high - 1}, most often {edges[counts.argmax()]}"
    return _svg(LEFT + WIDTH + 12, BOTTOM + BELOW, "histogram", parts, label)


def lane(
    edges: np.ndarray, scores: np.ndarray, segments: Sequence[tuple[float, float]], threshold: float, seconds: float
) -> Markup:
    """Scores in [0, 1] of one class over time, as an area with a line at the threshold; segments as bars below.

    Args:
        edges: seconds, (E + 1,); a score holds from one edge to the next.
        scores: (E,); NaN where there is none.
        segments: start and end, seconds.
        seconds: length of the axis.
    """

    def x(at: float) -> float:
        return LANE * at / seconds

    points = [f"0,{TALL}"]
    for start, end, score in zip(edges[:-1], edges[1:], np.nan_to_num(scores), strict=True):
        points += [f"{x(at):.1f},{TALL * (1 - score):.1f}" for at in (start, end)]
    parts = [f'<polygon class="scores" points="{" ".join([*points, f"{LANE},{TALL}"])}"/>']
    parts.append(
        f'<line class="drop" x1="0" x2="{LANE}" y1="{TALL * (1 - threshold):.1f}" y2="{TALL * (1 - threshold):.1f}"/>'
    )
    for start, end in segments:
        place = f'x="{x(start):.1f}" width="{max(x(end) - x(start), 1):.1f}"'
        what = f"<title>{start:.2f} to {end:.2f} s</title>"
        parts.append(f'<rect class="segment" {place} y="{TALL + 2}" height="6" data-start="{start:.3f}">{what}</rect>')
    return _svg(LANE, TALL + 10, "lane", parts, f"{len(segments)} segments in {seconds:.1f} seconds")


def boxes_over_time(boxes: np.ndarray, size: tuple[int, int]) -> Markup:
    """Boxes, int (W, 4): top, left, height, width, outlined in a frame of (height, width) pixels; later ones bolder."""
    scale, parts = WIDTH / size[1], []
    for number, box in enumerate(boxes):
        top, left, height, width = (scale * float(side) for side in box)
        place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
        parts.append(f'<rect class="box" {place} opacity="{0.15 + 0.85 * (number + 1) / len(boxes):.2f}"/>')
    return _svg(WIDTH, round(scale * size[0]), "boxes", parts, f"{len(boxes)} boxes")


def tone(value: float) -> str:
    """The CSS class of a difference: "up", "down", or "even" where it rounds to 0."""
    return "even" if abs(value) < 5e-4 else "up" if value > 0 else "down"


def _svg(width: float, height: float, kind: str, parts: Sequence[str], label: str) -> Markup:
    role = f'role="img" aria-label="{label}"' if label else 'aria-hidden="true"'
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return Markup(f'<svg class="{kind}" {size} {role}>{"".join(parts)}</svg>')
