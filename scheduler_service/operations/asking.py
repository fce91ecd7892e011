"""What clients ask about their tasks. Other ids of a task are looked for only where an id is no task's own."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from common.questions import AttemptRecord
from common.states import TERMINAL, State
from common.wire import TaskResult
from scheduler_service.storage import aliases, attempts, results, tasks
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.tasks import StoredTask


class Found(Struct):
    """A task that was asked about.

    Attributes:
        id: the id that was asked about.
        stored: the task; its own id is another one when the one asked about is an alias.
        reply_to: where this id's owner is told.
        attempts: those that failed, when they were asked for.
    """

    id: str
    stored: StoredTask
    reply_to: str | None
    attempts: list[AttemptRecord] = []

    @property
    def is_alias(self) -> bool:
        """Whether the id stands for another task."""
        return self.id != self.stored.id


def find(connection: Connection, ids: Sequence[str], owner: str | None) -> tuple[dict[str, Found], list[str]]:
    """The tasks of `owner` (None: of anybody) behind `ids`, and the ids behind which there is none."""
    known = tasks.load(connection, ids)
    found = {id_: Found(id_, stored, stored.reply_to) for id_, stored in known.items()}
    missing = [id_ for id_ in ids if id_ not in known]
    if missing:
        others = aliases.load(connection, missing)
        firsts = tasks.load(connection, [alias.task for alias in others.values()]) if others else {}
        for id_, alias in others.items():
            if alias.task in firsts:
                found[id_] = Found(id_, firsts[alias.task], alias.reply_to)
    mine = {id_: each for id_, each in found.items() if owner is None or each.stored.owner == owner}
    return mine, [id_ for id_ in ids if id_ not in mine]


def wait_for(connection: Connection, ids: Sequence[str], owner: str, reply_to: str) -> tuple[list[str], list[str]]:
    """Which of these tasks are terminal; the others are told at `reply_to` from now on.

    Returns:
        The ids of the terminal ones, and those that are unknown or belong to somebody else.
    """
    found, unknown = find(connection, ids, owner)
    terminal: list[str] = []
    later: list[int] = []
    later_aliases: list[str] = []
    for id_ in ids:
        each = found.get(id_)
        if each is None:
            continue
        if each.stored.task.state in TERMINAL:
            terminal.append(id_)
        elif each.reply_to != reply_to and each.is_alias:
            later_aliases.append(id_)
        elif each.reply_to != reply_to:
            later.append(each.stored.seq)
    tasks.point(connection, later, reply_to)
    aliases.point(connection, later_aliases, reply_to)
    return terminal, unknown


PAGE_BYTES = 4 * 1024 * 1024
"""Results that are read at a time, about."""


def result_pages(connection: Connection, ids: Sequence[str]) -> list[list[str]]:
    """`ids` cut into pages whose results are few enough to be in memory at a time."""
    sizes = results.sizes(connection, ids)
    missing = [id_ for id_ in ids if id_ not in sizes]
    for id_, alias in aliases.load(connection, missing).items():
        sizes[id_] = results.sizes(connection, [alias.task]).get(alias.task, 0)
    pages: list[list[str]] = []
    room = 0
    for id_ in ids:
        room -= sizes.get(id_, 0)
        if room < 0 or not pages:
            pages.append([])
            room = PAGE_BYTES - sizes.get(id_, 0)
        pages[-1].append(id_)
    return pages


def results_of(connection: Connection, ids: Sequence[str]) -> list[TaskResult]:
    """What clients are told of those of these tasks that are terminal."""
    found, _ = find(connection, ids, None)
    values = results.read(connection, list({each.stored.id: None for each in found.values()}))
    told = []
    for id_, each in found.items():
        task = each.stored.task
        if task.state is State.SUCCEEDED:
            told.append(TaskResult(id_, task.state.value, values[each.stored.id]))
        elif task.state in TERMINAL:
            told.append(TaskResult(id_, task.state.value, error=task.error))
    return told


def look_up(connection: Connection, ids: Sequence[str], owner: str | None) -> tuple[list[Found], list[str]]:
    """The tasks of `owner` (None: of anybody) among `ids`, with its failed attempts if it is one, and unknown ids."""
    found, unknown = find(connection, ids, owner)
    mine = [found[id_] for id_ in dict.fromkeys(ids) if id_ in found]
    if len(ids) == 1:
        for each in mine:
            each.attempts = attempts.of(connection, each.stored.seq)
    return mine, unknown
