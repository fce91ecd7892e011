"""The questions about many tasks, without I/O: what is asked, in which pages, and again until it is answered."""

from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import pytest

from common.client.core import ClientCore
from common.client.filters import filters
from common.client.inquiries import Inquiry, cancel_inquiries
from common.client.pages import CancelPages, DeadPages, TaskPages, dead_pages
from common.client.requests import Request
from common.client.updates import Changes
from common.client.waiting import ANSWER, DOUBT
from common.errors import ClientClosed, InvalidFilter
from common.ids import new_task_id
from common.questions import (
    AttemptRecord,
    Cancel,
    Cancelled,
    Dead,
    DeadLetter,
    DeadLetters,
    DeadVerb,
    Filter,
    ListTasks,
    Progress,
    Statuses,
    TaskStatus,
)
from common.wire import encode

IDS = [new_task_id() for _ in range(1500)]


def test_filters_are_said_in_plain_words() -> None:
    assert filters({}) == [Filter()]
    assert filters({"state": "failed", "task": "add", "labels": {"a": "1"}, "queue": None}) == [
        Filter(states=["failed"], task="add", labels={"a": "1"})
    ]
    assert filters({"since": datetime(2030, 1, 1, tzinfo=UTC)}) == [Filter(since=1893456000.0)]
    (ago,) = filters({"since": timedelta(hours=1)})
    assert ago.since == pytest.approx(time() - 3600, abs=60)
    assert [len(where.ids or ()) for where in filters({"ids": IDS, "queue": "q"})] == [1000, 500]
    assert filters({"ids": []}) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"status": "failed"}, "no filter 'status'; there are state, task"),
        ({"state": "done"}, "no state 'done'; there are scheduled"),
        ({"state": "running"}, "does not know which tasks are running"),
        ({"labels": {"a": 1}}, "labels"),
        ({"queue": 5}, "queue"),
        ({"since": datetime(2030, 1, 1)}, "without a time zone"),  # noqa: DTZ001
        ({"ids": ["x"]}, "cannot be a task id"),
        ({"since": float("nan")}, "no point in time"),
        ({"until": float("inf")}, "no point in time"),
        ({"since": 10**400}, "no point in time"),
    ],
)
def test_what_no_task_can_be_is_refused(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidFilter, match=reason):
        filters(words)


def test_a_list_ends_at_its_limit_and_at_its_last_page() -> None:
    pages = TaskPages([Filter(queue="a"), Filter(queue="b")], 250)
    assert pages.question() == ListTasks(Filter(queue="a"), None, 200)
    assert len(pages.take(Statuses([TaskStatus("x", "queued")] * 200, next=17))) == 200
    assert pages.question() == ListTasks(Filter(queue="a"), 17, 50)
    assert len(pages.take(Statuses([TaskStatus("x", "queued")] * 20))) == 20
    assert pages.question() == ListTasks(Filter(queue="b"), None, 30)
    assert len(pages.take(Statuses([TaskStatus("x", "queued")] * 200, next=3))) == 30
    assert pages.question() is None
    for limit in (0, -1, 1.5):
        with pytest.raises(InvalidFilter):
            TaskPages([], limit)  # type: ignore[arg-type]


def test_what_is_to_be_cancelled_and_unknown_is_asked_for_once_more() -> None:
    pages = CancelPages([Filter(ids=["a", "b", "c"])])
    assert pages.question() == Cancel(Filter(ids=["a", "b", "c"]))
    assert pages.take(Cancelled({"a": "cancelled"}, ["b", "c"])) == [("a", "cancelled")]
    assert pages.question() == Cancel(Filter(ids=["b", "c"]))
    assert pages.pause == DOUBT
    assert pages.take(Cancelled({"b": "cancelled"}, ["c"])) == [("b", "cancelled"), ("c", "unknown")]
    assert pages.question() is None


def test_single_dead_letters_are_named_by_id_or_number() -> None:
    pages = dead_pages(DeadVerb.PURGE, [IDS[0], 5], {})
    assert pages.question() == Dead(DeadVerb.PURGE, Filter(ids=[IDS[0]]), limit=200)
    pages.take(DeadLetters([DeadLetter(IDS[0])]))
    assert pages.question() == Dead(DeadVerb.PURGE, parked=[5], limit=200)
    pages.take(DeadLetters([]))
    assert pages.question() is None
    assert dead_pages(DeadVerb.LIST, (), {}, reason="timeout").question() == Dead(
        DeadVerb.LIST, reason="timeout", limit=200
    )


@pytest.mark.parametrize(
    ("ones", "words", "reason"),
    [
        ([0], {}, "1 or more"),
        (["x"], {}, "task id"),
        ([5], {"queue": "q"}, "not both"),
        ([], {"state": "x"}, "no state"),
    ],
)
def test_what_no_dead_letter_can_be_is_refused(ones: list[Any], words: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidFilter, match=reason):
        dead_pages(DeadVerb.SHOW, ones, words)


def test_payloads_come_in_small_pages() -> None:
    question = DeadPages(DeadVerb.SHOW, [Filter()]).question()
    assert isinstance(question, Dead)
    assert question.limit == 10


def test_a_request_is_asked_again_until_its_answer_is_there() -> None:
    core, done = ClientCore(30), list[Request[Statuses]]()
    request = Request(ListTasks(Filter()), Statuses, done.append)
    core.requests.add(request, 0)
    assert list(core.asks(0)) == [], "there is no connection"
    core.connected(1)
    assert list(core.asks(1)) == [("q1", ListTasks(Filter()))]
    assert list(core.asks(1)) == []
    assert core.wake_at() == 1 + ANSWER
    assert list(core.asks(1 + ANSWER)) == [("q1", ListTasks(Filter()))]
    core.disconnected("gone")
    core.connected(2 + ANSWER)
    assert [key for key, _ in core.asks(2 + ANSWER)] == ["q1"], "what was asked on the last connection is asked at once"

    core.arrived(Cancelled.TYPE, encode(Cancelled({})), "q1", 21)
    core.arrived(Statuses.TYPE, b"{", "q1", 21)
    assert done == [], "neither is its answer"
    core.arrived(Statuses.TYPE, encode(Statuses([TaskStatus("t", "queued")])), "q1", 22)
    core.arrived(Statuses.TYPE, encode(Statuses([])), "q1", 22)
    assert done == [request]
    assert [status.id for status in request.result().statuses] == ["t"]
    assert core.wake_at() > 1e9


def test_closing_ends_requests() -> None:
    core, done = ClientCore(30), list[Request[Statuses]]()
    core.requests.add(request := Request(ListTasks(Filter()), Statuses, done.append), 0)
    core.close()
    assert done == [request]
    with pytest.raises(ClientClosed):
        request.result()


def test_cancelling_asks_for_the_rest_of_a_partial_answer_at_once() -> None:
    cancels, done = cancel_inquiries(), list[str]()
    for task_id in ("a", "b", "c"):
        cancels.add(Inquiry(task_id, ours=True, notify=lambda inquiry: done.append(inquiry.task_id)), 0)
    assert list(cancels.asks(0)) == [("c1", Cancel(Filter(ids=["a", "b", "c"])))]
    cancels.answered({"a": "cancelled"}, [], 1, more=True)
    assert list(cancels.asks(1)) == [("c2", Cancel(Filter(ids=["b", "c"])))]
    cancels.answered({}, [], 1, more=True)
    assert list(cancels.asks(1)) == [], "an answer that says nothing is no reason to ask at once"
    cancels.answered({"b": "failed", "c": "cancelled"}, [], 2)
    assert done == ["a", "b", "c"]


def test_only_what_has_changed_is_an_update() -> None:
    changes = Changes()

    def look(state: str, done: float | None = None) -> object:
        return changes.take(TaskStatus("t", state, progress=None if done is None else Progress(done, 3)))

    assert isinstance(look("queued"), TaskStatus)
    assert look("queued") is None
    assert isinstance(look("running", 1), TaskStatus)
    assert look("running", 1) is None
    assert look("running", 2) == Progress(2, 3)
    assert not changes.over
    assert isinstance(look("succeeded"), TaskStatus)
    assert changes.over


def test_attempts_that_are_told_or_not_are_no_update() -> None:
    changes = Changes()
    assert changes.take(TaskStatus("t", "scheduled", failures=1, attempts=[AttemptRecord(1, 5.0)])) is not None
    assert changes.take(TaskStatus("t", "scheduled", failures=1)) is None
    assert changes.take(TaskStatus("t", "scheduled", failures=2)) is not None


def test_a_question_that_would_end_the_connection_of_all_is_refused_to_its_caller() -> None:
    core = ClientCore(30.0)
    for where, reason in ((Filter(task="\ud800"), "UTF-8"), (Filter(labels={"a": "x" * 2_000_000}), "bytes")):
        with pytest.raises(InvalidFilter, match=reason):
            Request(ListTasks(where), Statuses, lambda _: None)
    assert not list(core.asks(0.0))


@pytest.mark.parametrize(
    ("question", "where"),
    [
        (dead_pages(DeadVerb.LIST, (), {}, reason=5), "reason"),  # type: ignore[arg-type]
        (dead_pages(DeadVerb.SHOW, [True], {}), "parked"),
        (dead_pages(DeadVerb.SHOW, [10**30], {}), "parked"),
        (dead_pages(DeadVerb.SHOW, [2**63], {}), "parked"),
    ],
)
def test_a_question_that_no_scheduler_would_take_is_refused_to_its_caller(question: DeadPages, where: str) -> None:
    asked = question.question()
    assert asked is not None
    with pytest.raises(InvalidFilter, match=where):
        Request(asked, DeadLetters, lambda _: None)
