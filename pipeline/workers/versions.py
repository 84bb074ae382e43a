"""Installed libraries against the oldest versions that setup.cfg declares. Imports none of them."""

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version


def missing_or_old(
    wanted: list[str] | None = None, version_of: Callable[[str], str] = version, extras: bool = False
) -> dict[str, str]:
    """Return what is wrong, such as "torch 2.9.1 is older than 2.10", by requirement, such as "torch>=2.10".

    Args:
        wanted: requirements as setup.cfg has them; None for those of the project.
        extras: judge those of extras instead, which may be missing; those for development are left out.
    Raises:
        PackageNotFoundError: the project is not installed, so its requirements are not known.
    """
    bad = {}
    for text in requires("focused-attention") or [] if wanted is None else wanted:
        one, (line, _, extra) = Requirement(text), text.partition(";")
        if (one.marker is not None and not one.marker.evaluate({"extra": ""})) != extras or "dev" in extra:
            continue
        oldest = next((bound.version for bound in one.specifier if bound.operator == ">="), "0")
        try:
            if Version(found := version_of(one.name)) < Version(oldest):
                bad[line.strip()] = f"{one.name} {found} is older than {oldest}"
        except PackageNotFoundError:
            if not extras:
                bad[line.strip()] = f"{one.name} is missing"
    return bad


def install_command(requirements: Iterable[str]) -> str:
    """Return the command that installs some requirements."""
    return "python -m pip install " + " ".join(f"'{line}'" for line in requirements)
