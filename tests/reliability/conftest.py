"""Counts: what passed, of how many, beside the same test on a plain baseline; printed as a table at the end."""

from pathlib import Path

import pytest

TESTS = {
    "T1": "kill -9 at random, two processes at once, and trainings; finished: equal to the byte",
    "T2": "kill -9 before every write, fsync, rename and link; finished: equal to the byte",
    "T3": "every n-th write fails: exit code 5, no bad record; finished: equal to the byte",
    "T4": "full disk, quota, read-only folder: exit code 5; finished: equal to the byte",
    "T5": "two to four processes on one plan; a second one on one training",
    "T6": "a flipped bit, by kind of file: named by `verify`, never read as data",
    "T7": "every file deleted, emptied, cut, swapped: named, repaired to the byte",
    "T8": "every setting changed alone: refused by name, or kept apart",
    "T9": "hostile ids and tables refused by line and column; odd ids kept as text",
    "T10": "bad and damaged videos left out by name, nothing outside read",
    "T11": "malicious weights refused, no code run",
    "T12": "hostile stores refused, whose checksums fit",
    "T13": "DataLoader under fork, spawn, forkserver: the same batches",
    "T14": "power cuts: units reported as done are whole; finished: equal to the byte",
    "T15": "random mutations of tables and stored files end in our own errors",
    "T16": "a worker that dies: one retry, then a named skip",
    "T17": "exit codes, banned calls, ok + skipped + todo = plan",
    "T18": "after kills, gc leaves nothing over",
    "T19": "hostile listings and records of a store refused by name, nothing outside the mirror touched",
    "T20": "random mutations of a run's tables: named, never read as they are, written anew to the byte",
    "T21": "every loss within the plan, and gc beside a first prepare: made anew to the byte",
    "T22": "what others put into a run folder or the file cache survives gc, repair and eviction",
    "T23": "another class list on a run with trained networks: refused by name, nothing touched",
    "T24": "predict killed at random; finished: equal to the byte",
    "T25": "hostile variants of every table format, by a seeded rule: refused, or left out, in one line that names it",
    "T26": "every command on every harmed file of a run folder: named or made anew, no traceback",
    "T27": "records gathered in segments: killed, cut, full, flipped at every step: each unit as it was, or named",
}
BEGIN, END = "<!-- counts: make test-reliability -->\n", "<!-- end of counts -->\n"


def pytest_addoption(parser):
    parser.addoption("--counts", metavar="FILE", help="put the table of counts, a line a test, between a page's marks")


@pytest.fixture
def count(request):
    """Note a line of the table, and fail where not all passed: count("T1", "saliency, ...", ok, of, "baseline")."""

    def note(test: str, what: str, ok: int, of: int, baseline: str = "") -> None:
        request.node.user_properties.append(("count", [test, what, int(ok), int(of), baseline]))
        assert ok == of and of > 0, f"{test}, {what}: {ok} of {of}"

    return note


def pytest_terminal_summary(terminalreporter):
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, [])]
    lines = [value for report in reports for name, value in report.user_properties if name == "count"]
    if not lines:
        return
    terminalreporter.write_line("\n| test | what | held | baseline |\n|---|---|---|---|")
    for test, what, ok, of, baseline in sorted(lines, key=lambda line: (int(line[0][1:]), line[1])):
        terminalreporter.write_line(f"| {test} | {what} | {ok:,} of {of:,} | {baseline} |")
    if page := terminalreporter.config.getoption("counts", None):
        _write(Path(page), lines)


def _write(page: Path, lines: list) -> None:
    """A line a test, its counts added up, between the marks of a page; those of tests that did not run stay."""
    before, _, rest = page.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    stay = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| T")}
    table = ["| | what | held | the same on a plain baseline |", "|---|---|---|---|"]
    for test, what in TESTS.items():
        of_test = [line for line in lines if line[0] == test]
        ok, of = sum(line[2] for line in of_test), sum(line[3] for line in of_test)
        baselines = "; ".join(dict.fromkeys(line[4] for line in of_test if line[4]))
        new = f"| {test} | {what} | {ok:,} of {of:,} | {baselines} |" if of_test else stay.get(test)
        table += [new] if new else []
    page.write_text(before + BEGIN + "\n" + "\n".join(table) + "\n\n" + END + after)
