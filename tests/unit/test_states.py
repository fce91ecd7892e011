"""The rules of a task's life: each alone, and together under any sequence of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw
from msgspec.structs import replace

from common.options import Backoff, BackoffKind
from common.states import (
    TERMINAL,
    Cancelled,
    Due,
    Event,
    Expired,
    Failed,
    Held,
    Lost,
    Returned,
    Rules,
    State,
    Succeeded,
    Task,
    UnknownFunction,
    Verdict,
    max_isolation,
    transition,
)
from common.wire import NULL, Advice, ErrorInfo, ErrorKind, Isolation

NOW = 1000.0
RULES = Rules(max_crashes=2, unknown_function_grace=60.0, unknown_function_wait=1.0)
BOOM = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", "boom")
CRASHED = ErrorInfo(ErrorKind.CRASHED, "Crashed", "killed by signal 9")
UNKNOWN = ErrorInfo(ErrorKind.UNKNOWN_FUNCTION, "UnknownFunction", "add")
ASKED = ErrorInfo(ErrorKind.RETRY, "Retry", "later")
STEADY = Backoff(BackoffKind.CONSTANT, 5.0, jitter=False)
OUT = Task(State.DISPATCHED, attempt=3, lease="now")
IN_A_CHILD = replace(OUT, isolation=Isolation.CHILD)
ALONE = replace(OUT, isolation=Isolation.ALONE)
TERMINALS = [
    Task(State.SUCCEEDED, 1, "now", result=Raw(b"5")),
    Task(State.FAILED, 1, "now", error=BOOM),
    Task(State.CANCELLED),
    Task(State.EXPIRED),
]
ABOUT_THE_LEASE: list[Event] = [
    Succeeded(3, "now", Raw(b"1")),
    Failed(3, "now", BOOM),
    Failed(3, "now", CRASHED),
    Returned("now"),
    UnknownFunction("now", UNKNOWN),
    Lost("now", holder_died=False),
    Lost("now", holder_died=True),
    Lost("now", holder_died=True, started=True),
    Held("now"),
    Expired("now"),
    Failed(3, "now", BOOM, Advice(retries=2, backoff=STEADY)),
    Failed(3, "now", ASKED, Advice(after=7.0)),
    Failed(3, "now", BOOM, Advice(retries=2, give_up=True)),
]


def moved(task: Task, event: Event, now: float = NOW, rules: Rules = RULES) -> Task:
    """The task after an event that changes it."""
    step = transition(task, event, now, rules)
    assert step.verdict is Verdict.CHANGED
    assert step.tell is (step.task.state in TERMINAL)
    return step.task


RULE_TABLE: list[tuple[str, Task, Event, dict[str, Any]]] = [
    ("a success ends it", OUT, Succeeded(3, "now", Raw(b"5")), {"state": State.SUCCEEDED, "result": Raw(b"5")}),
    ("an exception ends it", OUT, Failed(3, "now", BOOM), {"state": State.FAILED, "error": BOOM}),
    ("a return costs no attempt", OUT, Returned("now"), {"state": State.QUEUED, "attempt": 2, "lease": ""}),
    ("held goes on", OUT, Held("now"), {"held": True}),
    ("a return ends being held", replace(OUT, held=True), Returned("now"),
     {"state": State.QUEUED, "attempt": 2, "lease": "", "held": False}),
    ("lost without a death is not suspect", OUT, Lost("now", False), {"state": State.QUEUED, "lease": ""}),
    ("lost by a death is a suspect", OUT, Lost("now", True),
     {"state": State.QUEUED, "lease": "", "isolation": Isolation.CHILD}),
    ("lost by a death in a child is run alone", IN_A_CHILD, Lost("now", True),
     {"state": State.QUEUED, "lease": "", "isolation": Isolation.ALONE}),
    ("lost without a death stays as far apart", IN_A_CHILD, Lost("now", False), {"state": State.QUEUED, "lease": ""}),
    ("a death while it ran alone is a proved crash", ALONE, Lost("now", True, started=True),
     {"state": State.QUEUED, "lease": "", "crashes": 1}),
    ("a death before it ran alone proves nothing", ALONE, Lost("now", True), {"state": State.QUEUED, "lease": ""}),
    ("a crash is tried again in a child", OUT, Failed(3, "now", CRASHED),
     {"state": State.QUEUED, "lease": "", "crashes": 1, "isolation": Isolation.CHILD}),
    ("a crash does not loosen the isolation", ALONE, Failed(3, "now", CRASHED),
     {"state": State.QUEUED, "lease": "", "crashes": 1}),
    ("the last crash fails it", replace(IN_A_CHILD, crashes=1), Failed(3, "now", CRASHED),
     {"state": State.FAILED, "crashes": 2, "error": CRASHED}),
    ("an unknown function waits", OUT, UnknownFunction("now", UNKNOWN),
     {"state": State.SCHEDULED, "attempt": 2, "lease": "", "due_at": NOW + 1.0, "unknown_since": NOW}),
    ("the wait of an unknown function is over", replace(OUT, unknown_since=NOW - 60.0), UnknownFunction("now", UNKNOWN),
     {"state": State.FAILED, "error": UNKNOWN}),
    ("an unknown function is still in its grace", replace(OUT, unknown_since=NOW - 59.0),
     UnknownFunction("now", UNKNOWN), {"state": State.SCHEDULED, "attempt": 2, "lease": "", "due_at": NOW + 1.0}),
    ("a failure with retries left waits for its backoff", OUT,
     Failed(3, "now", BOOM, Advice(retries=1, backoff=STEADY)),
     {"state": State.SCHEDULED, "lease": "", "due_at": NOW + 5.0, "error": BOOM, "failures": 1}),
    ("the backoff grows, and the dice makes it shorter", replace(OUT, failures=2),
     Failed(3, "now", BOOM, Advice(retries=9, backoff=Backoff(base=2.0)), dice=0.5),
     {"state": State.SCHEDULED, "lease": "", "due_at": NOW + 4.0, "error": BOOM, "failures": 3}),
    ("no retry is left", replace(OUT, failures=2), Failed(3, "now", BOOM, Advice(retries=2)),
     {"state": State.FAILED, "error": BOOM}),
    ("an error that is not retried", OUT, Failed(3, "now", BOOM, Advice(retries=2, give_up=True)),
     {"state": State.FAILED, "error": BOOM}),
    ("the handler says when", OUT, Failed(3, "now", ASKED, Advice(after=7.0)),
     {"state": State.SCHEDULED, "lease": "", "due_at": NOW + 7.0, "error": ASKED, "failures": 1}),
    ("the handler asks again and again", replace(OUT, failures=10), Failed(3, "now", ASKED, Advice(after=7.0)),
     {"state": State.FAILED, "error": ASKED}),
    ("the handler asks, and no retries are allowed", OUT, Failed(3, "now", ASKED, Advice(after=7.0, retries=0)),
     {"state": State.FAILED, "error": ASKED}),
    ("a retry that succeeds forgets the error", replace(OUT, failures=1, error=BOOM), Succeeded(3, "now", Raw(b"5")),
     {"state": State.SUCCEEDED, "result": Raw(b"5"), "error": None}),
    ("the submission says how many crashes", replace(OUT, max_crashes=1), Failed(3, "now", CRASHED),
     {"state": State.FAILED, "crashes": 1, "error": CRASHED}),
    ("the worker says that it was too late", OUT, Expired("now"), {"state": State.EXPIRED}),
    ("a queued task expires", Task(State.QUEUED, expires_at=NOW), Expired(), {"state": State.EXPIRED}),
    ("a scheduled task expires", Task(State.SCHEDULED, due_at=NOW + 9, expires_at=NOW), Expired(),
     {"state": State.EXPIRED, "due_at": None}),
    ("a queued task is cancelled", Task(State.QUEUED, error=BOOM), Cancelled(),
     {"state": State.CANCELLED, "error": None}),
    ("a scheduled task is cancelled", Task(State.SCHEDULED, due_at=NOW), Cancelled(),
     {"state": State.CANCELLED, "due_at": None}),
    ("a dispatched task is cancelled", OUT, Cancelled(), {"state": State.CANCELLED}),
    ("due is queued", Task(State.SCHEDULED, 2, due_at=NOW), Due(), {"state": State.QUEUED, "due_at": None}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "event", "changes"), [row[1:] for row in RULE_TABLE], ids=[r[0] for r in RULE_TABLE]
)
def test_a_rule(before: Task, event: Event, changes: dict[str, Any]) -> None:
    assert moved(before, event) == replace(before, **changes)


def test_a_death_alone_fails_it_when_it_was_the_last_crash() -> None:
    after = moved(replace(ALONE, crashes=1), Lost("now", holder_died=True, started=True))
    assert (after.state, after.crashes) == (State.FAILED, 2)
    assert after.error is not None
    assert after.error.kind is ErrorKind.CRASHED


def test_no_grace_at_all_fails_an_unknown_function_at_once() -> None:
    rules = Rules(unknown_function_grace=0.0)
    assert moved(OUT, UnknownFunction("now", UNKNOWN), rules=rules).state is State.FAILED


def test_a_new_grace_begins_after_the_function_was_known() -> None:
    """Unknown during a deploy, then run at a worker that knows it: what a later deploy needs counts from there."""
    waited = replace(OUT, unknown_since=NOW)
    for event in (Held("now"), Lost("now", holder_died=True), Failed(3, "now", CRASHED)):
        assert moved(waited, event, NOW + 5.0).unknown_since is None, event


@pytest.mark.parametrize("event", ABOUT_THE_LEASE)
@pytest.mark.parametrize(
    "task",
    [
        Task(State.QUEUED, 3, ""),
        Task(State.SCHEDULED, 3, "", due_at=NOW),
        Task(State.DISPATCHED, 4, "another"),
        Task(State.DISPATCHED, 3, "another"),
    ],
    ids=["queued", "scheduled", "dispatched anew", "dispatched anew after a return"],
)
def test_an_event_about_another_lease_is_stale_and_changes_nothing(task: Task, event: Event) -> None:
    step = transition(task, event, NOW, RULES)
    assert (step.verdict, step.tell) == (Verdict.STALE, False)
    assert step.task is task


@pytest.mark.parametrize("event", [Succeeded(3, ""), Failed(3, "", BOOM), Returned(""), Held(""), Lost("", True)])
def test_an_empty_lease_fits_no_task(event: Event) -> None:
    """Tasks that are not dispatched have an empty lease: an event with one must not pass for theirs."""
    for state in State:
        task = Task(state, 3, "now" if state is State.DISPATCHED else "")
        assert transition(task, event, NOW, RULES).task is task


@pytest.mark.parametrize("event", [Succeeded(2, "now"), Failed(4, "now", BOOM), Failed(2, "now", CRASHED)])
def test_an_outcome_of_another_attempt_is_stale(event: Event) -> None:
    step = transition(OUT, event, NOW, RULES)
    assert step.verdict is Verdict.STALE
    assert step.task is OUT


@pytest.mark.parametrize(
    "task",
    [OUT, replace(OUT, expires_at=NOW - 1), Task(State.QUEUED), Task(State.QUEUED, expires_at=NOW + 1)],
    ids=["dispatched", "dispatched and late", "no time", "in time"],
)
def test_only_what_waits_here_expires_by_the_clock(task: Task) -> None:
    step = transition(task, Expired(), NOW, RULES)
    assert step.verdict is Verdict.STALE
    assert step.task is task


@pytest.mark.parametrize("state", [State.QUEUED, State.DISPATCHED])
def test_only_scheduled_tasks_become_due(state: State) -> None:
    task = Task(state, 1, "now")
    step = transition(task, Due(), NOW, RULES)
    assert step.verdict is Verdict.STALE
    assert step.task is task


@pytest.mark.parametrize("event", [*ABOUT_THE_LEASE, Due()])
@pytest.mark.parametrize("task", TERMINALS, ids=lambda task: task.state)
def test_a_terminal_task_never_changes_and_is_told_again(task: Task, event: Event) -> None:
    step = transition(task, event, NOW, RULES)
    assert (step.verdict, step.tell) == (Verdict.REPEATED, True)
    assert step.task is task


def test_the_stricter_isolation() -> None:
    steps = [Isolation.NONE, Isolation.CHILD, Isolation.ALONE]
    for number, one in enumerate(steps):
        for other in steps[number:]:
            assert max_isolation(one, other) is other
            assert max_isolation(other, one) is other


class TaskLife(RuleBasedStateMachine):
    """One task, dispatched again and again, and events about any lease that it ever had, in any order, doubled too."""

    @initialize(
        crashes=st.integers(1, 4),
        grace=st.floats(0, 100),
        first=st.sampled_from(
            [Task(State.QUEUED), Task(State.QUEUED, expires_at=NOW + 50), Task(State.SCHEDULED, due_at=NOW)]
        ),
    )
    def begin(self, crashes: int, grace: float, first: Task) -> None:
        self.limits = Rules(crashes, grace, 1.0)
        self.task = first
        self.now = NOW
        self.leases = ["", "forged"]
        self.ended: Task | None = None
        self.dispatches = self.returns = self.crashes = 0

    @precondition(lambda self: self.task.state is State.QUEUED)
    @rule()
    def dispatch(self) -> None:
        """As `operations.claim` does."""
        self.dispatches += 1
        lease = f"lease-{self.dispatches}"
        self.leases.append(lease)
        self.task = replace(self.task, state=State.DISPATCHED, attempt=self.task.attempt + 1, lease=lease)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def due(self) -> None:
        self.happens(Due())

    @rule(event=st.sampled_from([Cancelled(), Expired()]), often=st.integers(0, 3))
    def over(self, event: Event, often: int) -> None:
        """Rarely: a life that ends at once shows little."""
        if often == 0:
            self.happens(event)

    @precondition(lambda self: self.task.state is State.DISPATCHED)
    @rule(kind=st.sampled_from(ABOUT_THE_LEASE))
    def current(self, kind: Event) -> None:
        self.happens(self.about(kind, self.task.lease, self.task.attempt))

    @rule(kind=st.sampled_from(ABOUT_THE_LEASE), data=st.data(), attempt=st.integers(-1, 6))
    def any_lease(self, kind: Event, data: st.DataObject, attempt: int) -> None:
        self.happens(self.about(kind, data.draw(st.sampled_from(self.leases)), attempt))

    @staticmethod
    def about(kind: Event, lease: str, attempt: int) -> Event:
        return replace(kind, lease=lease, attempt=attempt) if hasattr(kind, "attempt") else replace(kind, lease=lease)

    def happens(self, event: Event) -> None:
        before = self.task
        step = transition(before, event, self.now, self.limits)
        after = self.task = step.task
        assert step.tell is (after.state in TERMINAL)
        if step.verdict is not Verdict.CHANGED:
            assert after is before
            return
        assert before.state not in TERMINAL
        if isinstance(event, Due):
            assert before.state is State.SCHEDULED
            return
        if isinstance(event, Cancelled) or (isinstance(event, Expired) and not event.lease):
            assert after.state is (State.CANCELLED if isinstance(event, Cancelled) else State.EXPIRED)
            assert isinstance(event, Cancelled) or before.state is not State.DISPATCHED
            self.ended = after
            return
        assert after.failures - before.failures == (isinstance(event, Failed) and after.state is State.SCHEDULED)
        assert before.state is State.DISPATCHED
        assert event.lease == before.lease
        assert after.attempt <= before.attempt
        assert after.crashes >= before.crashes
        assert max_isolation(before.isolation, after.isolation) is after.isolation
        voluntary = isinstance(event, Returned | UnknownFunction) and after.state not in TERMINAL
        assert after.attempt == before.attempt - voluntary
        self.returns += voluntary
        died = isinstance(event, Lost) and event.holder_died
        if isinstance(event, Lost) and before.isolation is Isolation.ALONE:
            died = died and event.started
        self.crashes += died or (isinstance(event, Failed) and event.error.kind is ErrorKind.CRASHED)
        if isinstance(event, UnknownFunction) and after.state is State.SCHEDULED:
            assert after.due_at is not None
            assert after.due_at > self.now
            assert after.unknown_since is not None
            assert self.now - after.unknown_since <= self.limits.unknown_function_grace
        if after.state in TERMINAL:
            self.ended = after

    @invariant()
    def a_terminal_task_stays_as_it_was(self) -> None:
        assert (self.task.state in TERMINAL) is (self.ended is not None)
        if self.ended is not None:
            assert self.task is self.ended

    @invariant()
    def an_attempt_is_a_dispatch_that_was_not_returned(self) -> None:
        assert self.task.attempt == self.dispatches - self.returns >= 0

    @invariant()
    def a_task_that_kills_is_bounded(self) -> None:
        """Two deaths around it to be put apart from its neighbours, and then as many of its own as are allowed."""
        assert self.crashes <= self.limits.max_crashes + 2
        assert self.task.crashes <= self.limits.max_crashes
        if self.task.crashes == self.limits.max_crashes:
            assert self.task.state is State.FAILED
            assert self.task.error is not None
            assert self.task.error.kind is ErrorKind.CRASHED

    @invariant()
    def state_and_fields_agree(self) -> None:
        task = self.task
        if task.state is State.DISPATCHED:
            assert task.lease
        elif task.state not in TERMINAL:
            assert (task.lease, task.held) == ("", False)
        assert (task.due_at is not None) is (task.state is State.SCHEDULED)
        if task.state in TERMINAL:
            assert (task.error is not None) is (task.state is State.FAILED)
        assert task.failures <= 10
        if task.state is not State.SUCCEEDED:
            assert task.result == NULL


TestTaskLife = TaskLife.TestCase
TestTaskLife.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
