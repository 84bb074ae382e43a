"""Errors that are raised on purpose, each one sentence for the user."""


class StageError(Exception):
    """A stage cannot start: something it reads is not there, or does not fit the config. Says what to do."""


class ConfigError(Exception):
    """A setting that does not exist, has the wrong type or a value that is not allowed."""


class AnnotationError(ValueError):
    """A table that is refused; the message names file, line, column, value and what was expected."""


class VideoError(Exception):
    """A video that cannot be used; the name of the class is the reason in skipped.csv."""


class VideoMissing(VideoError):
    """Nothing under the video root has this id."""


class VideoAmbiguous(VideoError):
    """Several files under the video root have this id."""


class UnsafePath(VideoError):
    """The id is no plain name, or its path leaves the video root."""


class VideoUnreadable(VideoError):
    """Not a video, or not one that can be decoded and timed."""


class VideoTruncated(VideoError):
    """Decoding ends, or frames fall out, before the container's promise is met."""


class VideoEmpty(VideoError):
    """No bytes or no frames."""


class VideoAudioOnly(VideoError):
    """The container holds sound but no moving pictures."""


class VideoTooLarge(VideoError):
    """A frame has more pixels than MAX_PIXELS."""


class ClipOutOfRange(VideoError):
    """A slot past the end of the video was asked for."""


class VideoChanged(VideoError):
    """The file is not the one that `prepare` decoded."""


class VideoTimeout(VideoError):
    """Decoding took longer than a video may."""


class DecoderCrashed(VideoError):
    """The process that decoded the video died, twice where it was one of many."""
