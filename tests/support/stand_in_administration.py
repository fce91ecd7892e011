"""What the stand-in for the scheduler answers to operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, Raw
from msgspec.structs import asdict, replace

from common.administration import (
    Change,
    Changes,
    Command,
    CommandAnswer,
    CommandAnswers,
    ListChanges,
    ListQueues,
    ListQuotas,
    ListWorkers,
    QueueReport,
    Queues,
    Quotas,
    Rearrange,
    Rearranged,
    SetQuota,
    WorkerReport,
    Workers,
)
from common.questions import Filter
from common.quotas import Quota, Scope
from common.wire import Message, decode

if TYPE_CHECKING:
    from tests.support.stand_in import StandIn

FORBIDDEN = "only operators may do this"


class Administered:
    """What operators see of a stand-in.

    Attributes:
        queues, workers, changes: as they are told.
        quotas: by scope and name.
        forbidden: the asker is no operator.
        unknown: queues that nothing names.
        commands: those that were given, by token.
        answers: what workers answer, by id; None: nothing. One of them comes with each question.
    """

    def __init__(self) -> None:
        self.queues: list[QueueReport] = []
        self.workers: list[WorkerReport] = []
        self.changes: list[Change] = []
        self.quotas: dict[tuple[Scope, str], Quota] = {}
        self.forbidden = False
        self.unknown: set[str] = set()
        self.commands: dict[str, Command] = {}
        self.asked: dict[str, int] = {}
        self.answers: dict[str, bytes | None] = {}


def administer(stand_in: StandIn, kind: str | None, body: bytes) -> Message | None:
    """The answer to an operator's question; None when it is another kind of question."""
    state = stand_in.administered
    match kind:
        case ListQueues.TYPE:
            names = decode(ListQueues, body).names
            return Queues([queue for queue in state.queues if names is None or queue.name in names])
        case ListWorkers.TYPE:
            return Workers(state.workers)
        case ListQuotas.TYPE:
            scope = decode(ListQuotas, body).scope
            return Quotas([quota for quota in state.quotas.values() if scope in (None, quota.scope)])
        case SetQuota.TYPE:
            return _set(state, decode(SetQuota, body))
        case Rearrange.TYPE:
            return _rearrange(stand_in, decode(Rearrange, body))
        case Command.TYPE:
            return _command(state, decode(Command, body))
        case ListChanges.TYPE:
            ask = decode(ListChanges, body)
            start, end = ask.after or 0, (ask.after or 0) + min(ask.limit, stand_in.page)
            return Changes(state.changes[start:end], end if end < len(state.changes) else None)
    return None


def _set(state: Administered, ask: SetQuota) -> Quotas:
    if state.forbidden:
        return Quotas(error=FORBIDDEN, forbidden=True)
    if ask.scope is Scope.TASK and ask.weight is not UNSET:
        return Quotas(error="a task function has no weight")
    before = state.quotas.get((ask.scope, ask.name), Quota(scope=ask.scope, name=ask.name))
    said = {name: value for name, value in asdict(ask).items() if value is not UNSET}
    quota = state.quotas[ask.scope, ask.name] = replace(before, **said)
    return Quotas([replace(quota, known=ask.name not in state.unknown)])


def _rearrange(stand_in: StandIn, ask: Rearrange) -> Rearranged:
    from tests.support.stand_in_questions import holds

    if ask.queue == "nowhere":
        return Rearranged(error="there is no room for one more queue")
    where = Filter(**{**asdict(ask.where), "states": ["queued", "scheduled"]})
    places = list(enumerate(stand_in.tasks))[ask.after or 0 :]
    found = [(place, task_id) for place, task_id in places if holds(stand_in, where, task_id)]
    after = found[stand_in.page - 1][0] + 1 if len(found) > stand_in.page else None
    for _, task_id in found[: stand_in.page]:
        task = stand_in.tasks[task_id]
        task.queue = ask.queue or task.queue
        task.priority = task.priority if ask.priority is None else ask.priority
    return Rearranged([task_id for _, task_id in found[: stand_in.page]], after)


def _command(state: Administered, ask: Command) -> CommandAnswers:
    if state.forbidden:
        return CommandAnswers(over=True, error=FORBIDDEN, forbidden=True)
    meant = sorted(
        name for name in state.answers if ask.workers is None or any(name.startswith(each) for each in ask.workers)
    )
    if not meant:
        return CommandAnswers(over=True, error="no live worker's id begins like this")
    state.commands.setdefault(ask.token, ask)
    state.asked[ask.token] = state.asked.get(ask.token, 0) + 1
    come = meant[: state.asked[ask.token]]
    answers = [
        CommandAnswer(name, Raw(data), "cannot" if data == b"{}" and ask.verb == "slots" else "", 0.002)
        for name in come
        if (data := state.answers[name]) is not None
    ]
    told = {answer.worker for answer in answers}
    return CommandAnswers(answers, [name for name in meant if name not in told], come == meant)
