"""Decode a video for the first time in a process of its own, with limits of time and memory; it may crash there."""

import json
import os
import selectors
import subprocess
import sys
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from pipeline import errors
from pipeline.data.video.probe import VideoInfo
from pipeline.errors import DecoderCrashed, VideoError, VideoTimeout

ATTEMPTS = 2
ROOT = Path(__file__).parents[3]


class Prober:
    """Probes videos that were not decoded before. Every thread has a process of its own, which it uses again.

    Args:
        seconds: a video may take.
        memory: bytes of address space a video may take.
    """

    def __init__(self, seconds: float, memory: int):
        self.seconds, self.memory = seconds, memory
        self._own, self._all = threading.local(), []

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, *_) -> None:
        for process in self._all:
            _end(process)

    def probe(self, path: Path, source_fps: float | None) -> VideoInfo:
        """Decode the whole video once, as `probe.probe` does; asked again at once, a thread gives the same answer.

        Raises:
            VideoTimeout: it takes longer than it may.
            DecoderCrashed: the process died, and so did a second one.
            VideoError: as `probe.probe`; VideoTooLarge also for too much memory.
        """
        version = None
        with suppress(OSError):
            stat = os.stat(path)
            version = (path, source_fps, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if version is None or getattr(self._own, "version", None) != version:
            try:
                self._own.answer = self._ask(path, source_fps)
            except VideoError as error:
                self._own.answer = error
            self._own.version = version
        if isinstance(self._own.answer, VideoError):
            raise self._own.answer
        return self._own.answer

    def _ask(self, path: Path, source_fps: float | None) -> VideoInfo:
        question = json.dumps({"path": str(path), "source_fps": source_fps}) + "\n"
        for _ in range(ATTEMPTS):
            process = self._process()
            try:
                process.stdin.write(question.encode())
                process.stdin.flush()
                line = self._line(process, path)
            except BrokenPipeError:
                line = b""
            if line.endswith(b"\n"):
                return _read(json.loads(line))
            self._drop(process)
        raise DecoderCrashed(f"{path}: the process that decodes it died, {ATTEMPTS} times, with {process.returncode}")

    def _line(self, process: subprocess.Popen, path: Path) -> bytes:
        """Return the answer; b"" where the process died."""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self.seconds):
                self._drop(process)
                raise VideoTimeout(f"{path}: decoding takes longer than {self.seconds:g} seconds (data.video_seconds)")
        return process.stdout.readline()

    def _process(self) -> subprocess.Popen:
        """Return this thread's process; start one where there is none."""
        if getattr(self._own, "process", None) is None:
            command = [sys.executable, "-m", "pipeline.data.video.sandbox_worker", str(self.memory)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            # in a group of its own: Ctrl-C is for this process, which ends it
            self._own.process = subprocess.Popen(command, cwd=ROOT, process_group=0, **pipes)
            self._all.append(self._own.process)
        return self._own.process

    def _drop(self, process: subprocess.Popen) -> None:
        _end(process)
        self._all.remove(process)
        self._own.process = None


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    with suppress(BrokenPipeError):  # a question that was never read
        process.stdin.close()


def _read(answer: dict) -> VideoInfo:
    if "error" in answer:
        kind = getattr(errors, answer["error"])
        assert issubclass(kind, VideoError)
        raise kind(answer["detail"])
    exact = {name: Fraction(answer[name]) for name in ("duration_seconds", "source_fps")}
    return VideoInfo(**answer | exact | {"times": tuple(answer["times"])})
