"""Errors that are raised on purpose, and the exit codes of all commands."""

EXIT_STOPPED = 1  # by Ctrl-C
EXIT_SKIPPED = 3  # done, but some videos were left out
EXIT_REFUSED = 4  # the input was refused
EXIT_STORAGE = 5  # the file system refused
EXIT_STALE = 6  # the run was made with other settings
EXIT_DAMAGED = 7  # `verify` found damage
EXIT_CODES = {
    0: "all done",
    1: "stopped, or a fault of the program; the lines above say which",
    2: "wrong usage",
    3: "done, but some videos were left out",
    4: "input refused",
    5: "storage refused",
    6: "the run was made with other settings",
    7: "verify found damage",
}


class PipelineError(Exception):
    """Base of these errors; `exit_code` is what a command ends with. Those of `cache` and `models` have one too."""

    exit_code = EXIT_REFUSED


class StageError(PipelineError):
    """A stage cannot start, because what it reads is missing or does not fit the config."""


class ConfigError(PipelineError):
    """A setting does not exist, or its value is not allowed."""


class AnnotationError(PipelineError, ValueError):
    """A table is refused; the message names file, line, column, value and what was expected."""


class VideoError(PipelineError):
    """A video cannot be used; skipped.csv gives the name of the class as the reason."""


class VideoMissing(VideoError):
    """Nothing under the video root has this id."""


class VideoAmbiguous(VideoError):
    """Several files under the video root have this id."""


class UnsafePath(VideoError):
    """The id is no plain name, or its path leaves the video root."""


class VideoUnreadable(VideoError):
    """Not a video, or not one that can be decoded and timed."""


class VideoTruncated(VideoError):
    """Frames are missing: fewer can be decoded than the container announces, or a frame folder has gaps."""


class VideoEmpty(VideoError):
    """No bytes or no frames."""


class VideoAudioOnly(VideoError):
    """The container holds sound but no moving pictures."""


class VideoTooLarge(VideoError):
    """A frame has more pixels than MAX_PIXELS."""


class ClipOutOfRange(VideoError):
    """A frame past the end of the video was asked for."""


class SegmentOutside(VideoError):
    """The recording ends before the segment begins."""


class VideoChanged(VideoError):
    """The file or folder of frames is not the one that `prepare` decoded."""


class VideoTimeout(VideoError):
    """Decoding took longer than data.video_seconds."""


class DecoderCrashed(VideoError):
    """Every process that tried to decode the video died."""


def explain_exit(code: int) -> str:
    """Say what the exit code of a command means, for make, which ends with 2 whatever the code was."""
    return f"exit code {code}: {EXIT_CODES.get(code, f'ended by signal {code - 128}' if code > 128 else 'unknown')}"
