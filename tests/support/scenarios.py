"""The table of scenarios at the end of a run: what each did to its tasks.

A row travels in the report of its test, since tests may run in other processes than the one that prints.
"""

from typing import Any

import pytest

from tests.support.verdict import Verdict

_PROPERTY = "scenario"


def remember(item: pytest.Item, name: str, verdict: Verdict, seconds: float) -> None:
    """Take a verdict into the table.

    Args:
        item: the test that is running.
        name: of the scenario.
        verdict: what became of its tasks.
        seconds: how long it took.
    """
    item.user_properties.append((_PROPERTY, [name, verdict.tasks, verdict.twice, verdict.most_runs, seconds]))


def print_table(terminalreporter: Any) -> None:
    """Print what was remembered, if anything."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if not rows:
        return
    terminalreporter.section("nothing lost")
    width = max(len(row[0]) for row in rows)
    terminalreporter.write_line(f"{'scenario':{width}}  tasks  ran twice  most runs  seconds")
    for name, tasks, twice, most_runs, seconds in rows:
        terminalreporter.write_line(f"{name:{width}}  {tasks:5}  {twice:9}  {most_runs:9}  {seconds:7.1f}")
    terminalreporter.write_line(
        f"{len(rows)} scenarios, {sum(row[1] for row in rows)} tasks, {sum(row[2] for row in rows)} ran twice, 0 lost"
    )
