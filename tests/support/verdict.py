"""The judge: three independent logs, one question. Was anything lost, done otherwise, or told otherwise?"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.support.effects import Effects
from tests.support.journal import Journal
from tests.support.store import TERMINAL, StoreFile

_SHOWN = 5
_TROUBLE = re.compile(r"Traceback|never retrieved|was never awaited|Unclosed|\"level\":\"critical\"")


class Verdict(NamedTuple):
    """What the judge found.

    Attributes:
        tasks: how many were confirmed.
        succeeded: how many of them succeeded.
        twice: how many were run more than once.
        most_runs: the most runs of one task.
        faults: what is wrong; empty when nothing was lost.
    """

    tasks: int
    succeeded: int
    twice: int
    most_runs: int
    faults: list[str]


def judge(
    journal: Journal,
    effects: Effects,
    store: StoreFile,
    logs: Mapping[str, str],
    *,
    allowed: Sequence[str] = (),
    faults: Sequence[str] = (),
) -> Verdict:
    """Compare what was confirmed, what was done and what is stored.

    Args:
        journal: the client's journal.
        effects: what the task functions did.
        store: the scheduler's database.
        logs: what each service has written.
        allowed: texts of log lines in which a traceback is what the test wants.
        faults: what is wrong already.
    """
    found = list(faults)
    stored = store.tasks()
    endings = store.endings()
    runs = effects.runs()
    expected = journal.confirmed

    def fault(what: str, items: Sequence[object]) -> None:
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            found.append(f"{len(items)} {what}: {', '.join(map(str, items[:_SHOWN]))}{more}")

    known = [(task_id, stored[task_id]) for task_id in expected if task_id in stored]
    fault("confirmed tasks are not in the store", [task_id for task_id in expected if task_id not in stored])
    fault("tasks are not terminal", [f"{id_} is {row.state}" for id_, row in known if row.state not in TERMINAL])
    fault(
        "tasks did not end exactly once",
        [f"{id_}: {endings.get(id_, [])}" for id_, _ in known if len(endings.get(id_, [])) != 1],
    )
    fault(
        "tasks ended otherwise than expected",
        [
            f"{id_} is {row.outcome!r} ({row.error}), not {_wanted(journal, id_)!r}"
            for id_, row in known
            if row.outcome != _wanted(journal, id_)
        ],
    )
    fault("clients were not told", [task_id for task_id in expected if task_id not in journal.told])
    fault(
        "clients were told otherwise than stored",
        [f"{id_}: {journal.told[id_]!r}" for id_, row in known if journal.told.get(id_, row.outcome) != row.outcome],
    )
    fault(
        "tasks succeeded without having been run",
        [id_ for id_, row in known if row.state == "succeeded" and not runs[expected[id_].key]],
    )
    fault("queues hold unfinished tasks", [f"{count} {state}" for state, count in store.unfinished().items()])
    for name, log in logs.items():
        fault(f"lines of trouble in the log of {name}", _trouble(log, allowed))
    counts = [runs[each.key] for each in expected.values()]
    return Verdict(
        tasks=len(expected),
        succeeded=sum(row.state == "succeeded" for _, row in known),
        twice=sum(count > 1 for count in counts),
        most_runs=max(counts, default=0),
        faults=found,
    )


def _wanted(journal: Journal, task_id: str) -> object:
    expected = journal.confirmed[task_id]
    return f"!{expected.error_kind}" if expected.error_kind else expected.value


def _trouble(log: str, allowed: Sequence[str]) -> list[str]:
    lines = []
    for line in log.splitlines():
        if not _TROUBLE.search(line) or any(text in line for text in allowed):
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            lines.append(line[:500])
            continue
        # aiormq logs a traceback of its own whenever a broker ends a connection.
        if not fields.get("logger", "").startswith("aiormq"):
            lines.append(f"{fields.get('event')}: {fields.get('exception', '')[-1500:]}")
    return lines
