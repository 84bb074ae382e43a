"""The process that decodes videos for the first time: `python -m pipeline.data.video.sandbox_worker BYTES`.

It may take BYTES of memory. Every line of its input is a JSON object {"path", "source_fps"}; every line of its output
is one with the fields of VideoInfo, or with "error", the name of a VideoError, and "detail".
"""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.data.video.probe import probe
from pipeline.errors import VideoError, VideoTooLarge, VideoUnreadable


def main() -> None:
    """Answer until the input ends."""
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        answer = _answer(**json.loads(line), memory=memory)
        print(json.dumps(answer, default=str), flush=True)  # a Fraction as text, which is exact


def _answer(path: str, source_fps: float | None, memory: int) -> dict:
    try:
        return asdict(probe(Path(path), source_fps))
    except VideoError as error:
        return {"error": type(error).__name__, "detail": str(error)}
    except ValueError as error:  # a folder of frames, and no data.source_fps
        return {"error": VideoUnreadable.__name__, "detail": str(error)}
    except MemoryError:
        detail = f"{path}: decoding needs more than {memory >> 20} MiB (data.video_memory)"
        return {"error": VideoTooLarge.__name__, "detail": detail}


if __name__ == "__main__":
    main()
