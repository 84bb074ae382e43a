"""What all commands share: options, the config made of them, named errors with exit codes, the closing line."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

EXIT_SKIPPED, EXIT_REFUSED, EXIT_STORAGE, EXIT_STALE = 3, 4, 5, 6


def stage_options(command: Callable) -> Callable:
    """--config, --run, --set, and the errors that every stage can end with."""

    @click.option("--config", "config_name", default="miniature", show_default=True, help="TOML file or its name.")
    @click.option("--run", "run_name", default=None, help="Run folder.  [default: runs/<name of the config>]")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting.")
    @functools.wraps(command)
    def wrapped(config_name: str, run_name: str | None, overrides: tuple[str, ...], **options) -> None:
        with _named_errors():
            from pipeline.config import load

            config = load(config_name, overrides)
            command(config, Path(run_name or f"runs/{config.name}"), **options)

    return wrapped


class _named_errors:
    """Turn the errors we raise on purpose into one line and an exit code; others stay tracebacks, they are bugs."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if not isinstance(error, Exception) or isinstance(
            error, click.exceptions.ClickException | click.exceptions.Exit
        ):
            return
        from cache.errors import CacheError, StaleCacheError, StorageError
        from pipeline.annotations import AnnotationError
        from pipeline.config import ConfigError
        from pipeline.video_errors import VideoError
        from pipeline.workspace import StageError

        codes = {StaleCacheError: EXIT_STALE, StorageError: EXIT_STORAGE, CacheError: EXIT_REFUSED}
        codes |= dict.fromkeys((AnnotationError, ConfigError, StageError, VideoError), EXIT_REFUSED)
        if "models.checkpoint" in sys.modules:
            codes[sys.modules["models.checkpoint"].WeightsError] = EXIT_REFUSED
        for known, code in codes.items():
            if isinstance(error, known):
                click.echo(f"error: {type(error).__name__}: {error}", err=True)
                sys.exit(code)


def finish(*outcomes) -> None:
    """Say what was written, once where torchrun starts many; exit with 3 where videos were left out."""
    skipped = 0
    for outcome in outcomes:
        if os.environ.get("RANK", "0") == "0":
            click.echo(f"wrote {outcome.path}: {outcome.summary}")
        skipped = max(skipped, outcome.num_skipped)
    if skipped:
        click.echo(f"{skipped} video(s) left out; see skipped.csv and the messages above", err=True)
        sys.exit(EXIT_SKIPPED)


def split_ids(text: str) -> list[str]:
    """The ids of a comma-separated list."""
    return [video_id.strip() for video_id in text.split(",") if video_id.strip()]
