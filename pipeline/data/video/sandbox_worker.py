"""The process that decodes videos for the first time: `python -m pipeline.data.video.sandbox_worker BYTES`.

It may take BYTES of memory. Every line of its input is a JSON object {"path", "source_fps"}; every line of its output
is one with the fields of VideoInfo, or with "error", the name of a VideoError, and "detail".
"""

import json
import resource
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from pipeline.data.video.frames import VideoInfo, probe
from pipeline.errors import VideoError, VideoTooLarge, VideoUnreadable

FRACTIONS = ("duration_seconds", "source_fps")


def main() -> None:
    """Answer until the input ends."""
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        print(json.dumps(_answer(**json.loads(line), memory=memory)), flush=True)


def _answer(path: str, source_fps: float | None, memory: int) -> dict:
    try:
        return to_json(probe(Path(path), source_fps))
    except VideoError as error:
        return {"error": type(error).__name__, "detail": str(error)}
    except ValueError as error:  # a folder of frames, and no data.source_fps
        return {"error": VideoUnreadable.__name__, "detail": str(error)}
    except MemoryError:
        detail = f"{path}: decoding needs more than {memory >> 20} MiB (data.video_memory)"
        return {"error": VideoTooLarge.__name__, "detail": detail}


def to_json(info: VideoInfo) -> dict:
    """Exact: fractions as text."""
    return {name: str(value) if name in FRACTIONS else value for name, value in asdict(info).items()}


def from_json(answer: dict) -> VideoInfo:
    """What `to_json` was given."""
    return VideoInfo(**{name: Fraction(value) if name in FRACTIONS else value for name, value in answer.items()})


if __name__ == "__main__":
    main()
