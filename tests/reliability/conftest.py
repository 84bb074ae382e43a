"""Counts: what passed, of how many, beside the same test on a plain baseline; printed as a table at the end."""

import pytest


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
