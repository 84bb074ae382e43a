"""Runs the command of a make target: prints it, explains its exit code, and says at the end of a row what it left out.

`python -m pipeline.cli.make_target MAKE "GOALS" GOAL COMMAND [OPTION ...]`, where MAKE is the process of make. Make
itself ends with 2 whatever the code was. Code 3, some videos were left out, does not end a row of targets; the last one
says it again and fails.
"""

import shlex
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.cli.printing import echo
from pipeline.errors import EXIT_SKIPPED, explain_exit


def run(make: str, goals: str, goal: str, *command: str) -> int:
    """Run one target; return the exit code for make."""
    row = goals.split()
    note = Path(sys.prefix) / f".left-out-{make}"  # which targets of the row left videos out, a line each
    if goal == row[0]:
        note.unlink(missing_ok=True)
    echo(shlex.join(["python", "-m", "pipeline", *command]))
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the command, which says how to go on
    code = subprocess.call([sys.executable, "-m", "pipeline", *command])
    code = code if code >= 0 else 128 - code
    if code:
        echo(explain_exit(code), err=True)
    if code == EXIT_SKIPPED:
        with note.open("a") as file:
            file.write(f"{command[0]}\n")
    elif code:
        return code
    if goal != row[-1] or not note.exists():
        return 0
    names = " ".join(sorted(set(note.read_text().split())))
    note.unlink()
    echo(f"videos were left out by: {names} (what each of them printed says which and why)", err=True)
    return EXIT_SKIPPED


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
