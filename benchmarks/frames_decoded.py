"""Row 6: frames that stages 1 and 2 decode and convert, counted, against those that a forward decoder must pass."""

from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from benchmarks.result import Result
from benchmarks.scene import FPS, Scene, make
from pipeline.data import pixels
from pipeline.data.video import container, frames
from pipeline.stages import crops, saliency


def measure() -> Result:
    with TemporaryDirectory() as folder:
        scene = make(Path(folder) / "scene", train=1, test=1, network="small_i3d", aug_seeds=4)
        distinct, passed = _needed(scene)
        counts = []
        for stage in (
            lambda: saliency.run(scene.config, scene.run),
            lambda: crops.run(scene.config, scene.run, ("entropy", "center")),
        ):
            with _counted() as count:
                stage()
            counts.append(count)
    decoded = max(count["decoded"] for count in counts)
    converted = {count["converted"] for count in counts}
    return Result(
        name="frames decoded by a stage, two videos, against those a forward decoder must pass",
        ours=decoded,
        theirs=passed,
        ratio=decoded / passed,
        goal="each once per stage (1)",
        met=decoded == passed and converted == {distinct} and counts[0]["resized"] == distinct,
        agreement=f"{distinct} distinct frames needed, {' and '.join(map(str, sorted(converted)))} converted to RGB",
        unit="frames",
        extra={"stage_1": counts[0], "stage_2": counts[1]},
    )


def _needed(scene: Scene) -> tuple[int, int]:
    """Distinct source frames that any clip shows; and all frames up to the last of them and the one that ends it."""
    distinct = passed = 0
    for part in scene.stores.run.parts:
        for first in range(0, part.num_rows, part.rows_per_video):
            rows = range(first, first + part.rows_per_video)
            slots = {index for row in rows for index in part.clip(row).frame_indices}
            frames = {int(slot * FPS / part.settings["fps"]) for slot in slots}
            distinct += len(frames)
            passed += max(frames) + 2
    return distinct, passed


@contextmanager
def _counted():
    """Counts frames that leave the decoder, become RGB, and are resized whole."""
    count = {"decoded": 0, "converted": 0, "resized": 0}

    def decoded(*arguments):
        for frame in container.decoded(*arguments):
            count["decoded"] += 1
            yield frame

    def converted(*arguments):
        count["converted"] += 1
        return container.to_rgb(*arguments)

    def resized(*arguments):
        count["resized"] += 1
        return pixels.resize(*arguments)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(frames, "decoded", decoded))
        stack.enter_context(mock.patch.object(frames, "to_rgb", converted))
        stack.enter_context(mock.patch("pipeline.data.clips.resize", resized))
        yield count
