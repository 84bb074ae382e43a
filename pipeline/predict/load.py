"""An experiment by its place: a run, or a folder that `export` made."""

from pathlib import Path

from pipeline.errors import StageError
from pipeline.predict.export import load_exported, read_exported
from pipeline.predict.model import Model, build_model
from pipeline.predict.settings import EXPORTED, Settings, of_run


def read_settings(folder: Path, experiment: str | None = None, overrides: tuple[str, ...] = ()) -> Settings:
    """Return the settings of an experiment; see `load_model`."""
    if (folder / EXPORTED).is_file():
        return _checked(read_exported(folder), folder, experiment, overrides)
    return of_run(folder, experiment, overrides)[0]


def load_model(
    folder: Path, experiment: str | None = None, device: str = "auto", overrides: tuple[str, ...] = ()
) -> Model:
    """Load an experiment of a run, or an exported one; see `settings.of_run` for the arguments and errors.

    Raises:
        StageError: an exported experiment is another one than was asked for, or settings are to be changed.
    """
    if not (folder / EXPORTED).is_file():
        return build_model(*of_run(folder, experiment, overrides), device)
    settings, base, second = load_exported(folder)
    return Model(_checked(settings, folder, experiment, overrides), base, second, device)


def _checked(settings: Settings, folder: Path, experiment: str | None, overrides: tuple[str, ...]) -> Settings:
    if experiment not in (None, settings.experiment):
        raise StageError(f"{folder} is the experiment {settings.experiment}, not {experiment}; export that one, too")
    if overrides:
        raise StageError(f"{folder}: settings of an exported model stay as they are; leave --set {overrides[0]} out")
    return settings
