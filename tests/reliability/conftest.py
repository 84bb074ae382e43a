"""Counts: what passed, of how many, beside the same test on a plain baseline; printed as a table at the end."""

import pytest

COUNTS = []


@pytest.fixture
def count():
    """Note a line of the table, and fail where not all passed: count("T1", "saliency, ...", ok, of, "baseline")."""

    def note(test: str, what: str, ok: int, of: int, baseline: str = "") -> None:
        COUNTS.append((test, what, ok, of, baseline))
        assert ok == of and of > 0, f"{test}, {what}: {ok} of {of}"

    return note


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    write = terminalreporter.write_line
    write("")
    write("| test | what | held | baseline |")
    write("|---|---|---|---|")
    for test, what, ok, of, baseline in sorted(COUNTS, key=lambda line: (int(line[0][1:]), line[1])):
        write(f"| {test} | {what} | {ok:,} of {of:,} | {baseline} |")
