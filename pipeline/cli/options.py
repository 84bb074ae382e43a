"""What commands share: options, what becomes of them, and errors as one line with an exit code."""

import errno
import functools
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click

from pipeline.cli.printing import echo
from pipeline.config import BACKENDS
from pipeline.errors import EXIT_REFUSED, EXIT_STOPPED, EXIT_STORAGE
from pipeline.workers.rank import is_first_process

# the disk, the network that it is on, or its permissions refuse; what is merely not there is a bug, or refused by name
STORAGE_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.EPERM),
    *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE),
}
LOADER_KILLED = "DataLoader worker "  # a process was; PyTorch raises it where the main thread happens to be
NO_TEMPORARY = "No usable temporary directory"  # of `tempfile`


class Commands(click.Group):
    """Turns errors that are raised on purpose into a line and their exit code; others are bugs and stay tracebacks."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            name, code = type(error).__name__, getattr(error, "exit_code", None)
            if isinstance(error, OSError) and (error.errno in STORAGE_ERRNOS or NO_TEMPORARY in str(error)):
                name, code = "StorageError", EXIT_STORAGE
                if NO_TEMPORARY in str(error):
                    error = f"{error.strerror}; set TMPDIR to a folder that may be written"
            if isinstance(error, RuntimeError) and str(error).startswith(LOADER_KILLED):
                name, code = "StageError", EXIT_REFUSED
                ended = str(error).strip().rstrip(".")
                error = f"{ended}; fewer of them need less memory, and the same command goes on where it stopped"
            if code is None:
                _refuse_old_libraries(error)
                raise
            echo(f" {name}: {error}", err=True, mark="error:", colour="red")
            sys.exit(code)
        except KeyboardInterrupt:
            echo("stopped; the same command goes on where it stopped", err=True)
            sys.exit(EXIT_STOPPED)


def _refuse_old_libraries(error: Exception) -> None:
    """Say which libraries are missing or too old, which is then the likely reason of an error that nobody expected."""
    from pipeline.workers.versions import PackageNotFoundError, install_command, missing_or_old

    with suppress(PackageNotFoundError):
        if bad := missing_or_old():
            what = f"{'; '.join(bad.values())}: {install_command(bad)}"
            echo(f" {type(error).__name__}: {error}; {what}", err=True, mark="error:", colour="red")
            sys.exit(EXIT_REFUSED)


config_option = click.option("--config", "config_name", default="miniature", help="TOML file or its name.")
FOLDER = "Run folder.  [default: runs/<name of the config>]"
FOLDER_OR_URL = "Run folder, or s3://bucket/run of a prepared run.  [default: runs/<name of the config>]"


def _run_folder(config_name: str, config, run_name: str | None) -> Path:
    """Return the folder that --run names, or else runs/<name of the config>; refuse where it may be an older one."""
    from cache.remote.fetch import is_url

    if is_url(run_name):
        takes = "only saliency and crops write to a URL, and status reads one"
        instead = f"name a local folder; trainings and evaluate then read the caches with --caches {run_name}"
        raise click.UsageError(f"--run {run_name}: {takes}; {instead}")
    found, by_file = Path(run_name or f"runs/{config.name}").expanduser(), Path("runs", Path(config_name).stem)
    if not run_name and by_file.exists() and not found.exists():
        raise click.UsageError(
            f"{by_file} is there, {found}, by the name in {config_name}, is not; say which with --run (make: RUN=)"
        )
    return found


def _working_folder(url: str, options: dict) -> Path:
    """Return the folder in which units of a run in object storage are computed; refuse options that it cannot serve."""
    from cache.remote.publish import working_folder

    if options["retry"]:
        how = "delete the records done/*.json that name the videos, and repeat the command without it"
        raise click.UsageError(f"--retry-skipped: no record is withdrawn at {url}; {how}")
    if options["backend"] != "loky":
        how = f"start the command on each machine, with --part I/N, in place of --backend {options['backend']}"
        raise click.UsageError(f"--run {url}: its units are computed in a folder of this machine; {how}")
    return working_folder(url)


def run_option(command: Callable, by_url: bool = False) -> Callable:
    """--run, and --config for its default, of commands that need no config; they become the run folder.

    With `by_url`, --run may be a URL: then the run folder is a mirror, see `cache.remote.mirror`.
    """

    @config_option
    @click.option("--run", "run_name", help=FOLDER_OR_URL if by_url else FOLDER)
    @functools.wraps(command)
    def wrapped(config_name: str, run_name: str | None, **options) -> None:
        from cache.remote.fetch import is_url
        from cache.remote.mirror import mirror
        from pipeline.config_file import load

        if by_url and is_url(run_name):
            return command(run_dir=mirror(run_name), **options)
        run_dir = _run_folder(config_name, None if run_name else load(config_name), run_name)
        command(run_dir=run_dir, **options)

    return wrapped


run_or_url_option = functools.partial(run_option, by_url=True)


def stage_options(command: Callable, to_url: bool = False) -> Callable:
    """--config, --run and --set, which become the config and the run folder; the folder is marked as in use.

    With `to_url`, --run may be a URL: then the run folder is a working folder, see `cache.remote.publish`.
    """

    @config_option
    @click.option("--run", "run_name", help=FOLDER_OR_URL if to_url else FOLDER)
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting.")
    @functools.wraps(command)
    def wrapped(config_name: str, run_name: str | None, overrides: tuple[str, ...], **options) -> None:
        from cache.commit import in_use
        from cache.remote.fetch import is_url
        from pipeline.config_file import load

        config, url = load(config_name, overrides), to_url and is_url(run_name)
        run_dir = _working_folder(run_name, options) if url else _run_folder(config_name, config, run_name)
        config = load(config_name, overrides, run_dir)
        with in_use(run_dir):
            command(config, run_dir, **options)

    return wrapped


unit_stage_options = functools.partial(stage_options, to_url=True)


class Boxes(click.Choice):
    """Whose boxes: a policy by name, or FILE.csv, a table of the user's; see `with_table`."""

    def convert(self, value, param, context):
        return value if str(value).endswith(".csv") else super().convert(value, param, context)


def boxes_option(*names: str, policies: tuple[str, ...], **options) -> Callable:
    """An option whose value is of `Boxes`."""
    return click.option(*names, type=Boxes(policies), metavar="|".join((*policies, "FILE.csv")), **options)


def with_table(config, *boxes: str | None):
    """Return the config with the table that some boxes name in `saliency.own_boxes`, and the boxes as policies."""
    tables = {one for one in boxes if one and one.endswith(".csv")}
    if len(tables) > 1:
        raise click.UsageError(f"boxes of one table at a time, got {', '.join(sorted(tables))}")
    if tables:
        config = replace(config, saliency=replace(config.saliency, own_boxes=tables.pop()))
    return config, tuple("own" if one and one.endswith(".csv") else one for one in boxes)


def profile_option(command: Callable) -> Callable:
    """--profile: where the time of a stage went, on standard error at the end."""

    @click.option("--profile", "profiled", is_flag=True, help="Print where the time went, by phase.")
    @functools.wraps(command)
    def wrapped(*args, profiled: bool, **options) -> None:
        if not profiled or not is_first_process():
            command(*args, **options)
            return
        from pipeline.workers import phases

        with phases.profile(functools.partial(echo, err=True), click.get_current_context().info_name):
            command(*args, **options)

    return wrapped


def parse_share(context, parameter, text: str):
    """Parse --part: "2/4" is the second of four shares of all units."""
    from pipeline.run.units import Share

    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= 10**6):
        raise click.BadParameter(f"{text!r} is not I/N with 1 <= I <= N, such as 2/4")
    return Share(int(number) - 1, int(of))


def unit_options(command: Callable) -> Callable:
    """--workers, --part and --retry-skipped, of the stages that work unit by unit."""
    part = {"default": "1/1", "callback": parse_share, "metavar": "I/N", "help": "Do only this share of all units."}

    @click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes of this machine (workers); of saliency beside a GPU, they decode.",
    )
    @click.option("--part", "share", **part)
    @click.option("--retry-skipped", "retry", is_flag=True, help="Do units again whose videos were left out.")
    @functools.wraps(command)
    def wrapped(config, run_dir: Path, workers: int | None, **options) -> None:
        from pipeline.config_file import check

        command(check(replace(config, workers=workers or config.workers)), run_dir, **options)

    return wrapped


def engine_options(command: Callable) -> Callable:
    """--backend and --scheduler, which become `engine`."""

    @click.option("--backend", type=click.Choice(BACKENDS), default="loky", help="This machine, or a cluster.")
    @click.option("--scheduler", metavar="ADDRESS", help="Of the cluster; for Dask also its scheduler file.")
    @functools.wraps(command)
    def wrapped(config, run_dir: Path, backend: str, scheduler: str | None, **options) -> None:
        from pipeline.workers.engines import Engine

        if backend == "dask" and not scheduler:
            raise click.UsageError("--backend dask needs --scheduler, an address such as tcp://host:8786 or a file")
        if backend == "loky" and scheduler:
            raise click.UsageError("--scheduler belongs to --backend dask or ray")
        command(config, run_dir, engine=Engine(backend, scheduler or ""), **options)

    return wrapped


def parse_devices(context, parameter, text: str | None) -> tuple[str, ...]:
    """Parse --devices; see `engines.parse_devices`."""
    from pipeline.workers import engines

    try:
        return engines.parse_devices(text or "")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def local_folder(place: str | None) -> Path | None:
    """Return the folder that --caches names: as it is, or the mirror of a URL, which is brought up to date now."""
    from cache.remote.fetch import is_url
    from cache.remote.mirror import mirror

    return place and (mirror(place) if is_url(place) else Path(place).expanduser())


caches_option = click.option("--caches", metavar="PLACE", help="Read another run: its folder, or s3://bucket/run.")


def split_list(text: str | None) -> tuple[str, ...]:
    """The items of a comma-separated list; () for None."""
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())
