"""When a client asks about its tasks again: after a loss, after silence, little while results keep coming."""

import gc
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.backoff import reconnect_wait
from common.client.core import ClientCore
from common.client.handles import BaseHandle
from common.client.inquiries import Inquiries, Inquiry, status_inquiries
from common.client.waiting import ANSWER, DOUBT, LONGEST, OWN_DOUBT, PAGES, SILENCE, Waiting, _Line
from common.errors import ClientClosed, InvalidTask, UnknownTask
from common.ids import new_task_id
from common.questions import Ask, Cancelled, Statuses, TaskStatus
from common.wire import TaskResult, Told, encode

Handle = BaseHandle[object]


class Client:
    """`Waiting` with a clock, and a scheduler that answers at once or not at all."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.now = 100.0
        self.asked: list[tuple[float, list[str]]] = []
        self.answering = True
        self.known: dict[str, TaskResult] = {}
        self.unknown: set[str] = set()
        self.waiting.connected(self.now)

    def submit(self, count: int = 1, *, foreign: bool = False) -> list[Handle]:
        handles = [Handle(new_task_id(), object, foreign=foreign) for _ in range(count)]
        for handle in handles:
            self.waiting.register(handle, self.now)
        return handles

    def run(self, seconds: float) -> None:
        """Let time pass, as a shell would: it looks at the core when that asks for it."""
        end = self.now + seconds
        while True:
            self._ask()
            wake_at = self.waiting.wake_at()
            if wake_at is None or wake_at > end:
                break
            self.now = max(self.now, wake_at)
        self.now = end

    def _ask(self) -> None:
        for question, ask in list(self.waiting.asks(self.now)):
            self.asked.append((self.now, ask.ids))
            if self.answering:
                results = [self.known[task_id] for task_id in ask.ids if task_id in self.known]
                unknown = [task_id for task_id in ask.ids if task_id in self.unknown]
                self.waiting.told(Told(results, unknown), question, self.now)

    def finish(self, *handles: Handle) -> None:
        self.waiting.told(Told([succeeded(handle) for handle in handles]), None, self.now)

    def asked_at(self) -> list[float]:
        return [at - 100.0 for at, _ in self.asked]


def succeeded(handle: Handle) -> TaskResult:
    return TaskResult(handle.id, "succeeded", msgspec.Raw(b"1"))


def test_a_result_resolves_its_handle_and_nothing_more_is_asked() -> None:
    client = Client()
    (handle,) = client.submit()
    client.finish(handle)
    client.run(1000)

    assert handle.done()
    assert handle._value() == 1
    assert client.asked == []
    assert client.waiting.wake_at() is None


def test_the_first_outcome_counts_and_states_that_are_no_end_do_not() -> None:
    client = Client()
    (handle,) = client.submit()
    client.waiting.told(Told([TaskResult(handle.id, "running")]), None, client.now)
    assert not handle.done()

    client.finish(handle)
    client.waiting.told(Told([TaskResult(handle.id, "cancelled")]), None, client.now)
    assert handle._value() == 1


def test_silence_is_asked_about_after_5_s_then_ever_less_often() -> None:
    client = Client()
    (handle,) = client.submit()
    client.run(200)

    assert client.asked_at() == [5, 15, 35, 65, 95, 125, 155, 185]
    assert {tuple(ids) for _, ids in client.asked} == {(handle.id,)}


def test_without_answers_it_goes_on_asking() -> None:
    client = Client()
    client.answering = False
    handles = client.submit()
    client.run(60)

    gaps = [later - sooner for sooner, later in zip(client.asked_at(), client.asked_at()[1:], strict=False)]
    assert len(gaps) >= 8
    assert max(gaps) <= SILENCE + ANSWER
    assert not handles[0].done()


def test_news_makes_it_impatient_again() -> None:
    client = Client()
    first, second = client.submit(2)
    client.run(100)
    client.finish(first)
    client.known[second.id] = succeeded(second)
    client.run(SILENCE)

    assert second.done()


def test_after_a_loss_everything_is_asked_at_once_in_pages() -> None:
    client = Client()
    handles = client.submit(2500)
    client.run(1)
    client.waiting.disconnected()
    client.run(1)
    assert client.asked == []

    client.waiting.connected(client.now)
    client.run(0)
    assert [len(ids) for _, ids in client.asked] == [1000, 1000, 500]
    assert {task_id for _, ids in client.asked for task_id in ids} == {handle.id for handle in handles}


def test_only_so_many_pages_are_on_their_way() -> None:
    client = Client()
    client.answering = False
    handles = client.submit(5000)
    client.run(SILENCE)

    assert len(client.asked) == PAGES
    client.answering = True
    client.waiting.told(Told(), "w1", client.now)
    client.run(0)
    assert len(client.asked) >= PAGES + 1
    assert len(handles) == 5000


def test_while_results_keep_coming_little_is_asked() -> None:
    client = Client()
    handles = client.submit(20_000)
    for _ in range(60):
        client.finish(handles.pop())
        client.run(1)

    assert 8 <= len(client.asked) <= 13, "one page in 5 s"
    pages = [set(ids) for _, ids in client.asked]
    assert not set.intersection(*pages[:3]), "each page is about other tasks"


def test_a_result_that_was_missed_is_found_although_others_keep_coming() -> None:
    client = Client()
    (missed,) = client.submit()
    client.known[missed.id] = succeeded(missed)
    for _ in range(12):
        (other,) = client.submit()
        client.run(1)
        client.finish(other)

    assert missed.done()


def test_new_tasks_do_not_have_to_wait_for_old_ones_that_take_long() -> None:
    client = Client()
    (slow,) = client.submit()
    client.run(300)
    (missed,) = client.submit()
    client.known[missed.id] = succeeded(missed)
    client.run(SILENCE)

    assert missed.done()
    assert not slow.done()


def test_dropped_handles_are_not_asked_about_and_leave_nothing() -> None:
    client = Client()
    handles = client.submit(3000)
    del handles[1:]
    gc.collect()
    client.run(SILENCE)

    assert [ids for _, ids in client.asked] == [[handles[0].id]]
    assert len(client.waiting) == 1


def test_unknown_counts_when_it_is_said_twice_and_for_our_own_tasks_when_it_is_said_for_long() -> None:
    client = Client()
    (ours,), (foreign,) = client.submit(), client.submit(foreign=True)
    client.unknown = {ours.id, foreign.id}
    client.waiting.ask_now(foreign.id)
    client.run(DOUBT - 0.1)
    assert not foreign.done()

    client.run(0.2)
    with pytest.raises(UnknownTask):
        foreign._value()
    client.run(OWN_DOUBT)
    assert not ours.done(), "its submission may be in the queue"
    client.run(3 * LONGEST)
    with pytest.raises(UnknownTask):
        ours._value()
    client.asked.clear()
    client.run(300)
    assert client.asked == []


def test_an_own_task_is_not_unknown_because_nobody_answered() -> None:
    client = Client()
    (ours,) = client.submit()
    client.unknown = {ours.id}
    client.run(20)
    client.answering = False
    client.run(3600)
    client.answering = True
    client.run(LONGEST)
    assert not ours.done(), "an hour without a scheduler says nothing"
    client.known[ours.id] = succeeded(ours)
    client.unknown.clear()
    client.run(2 * LONGEST)
    assert ours._value() == 1


def test_two_answers_in_a_moment_are_one() -> None:
    client = Client()
    (foreign,) = client.submit(foreign=True)
    for _ in range(3):
        client.waiting.told(Told(unknown=[foreign.id]), None, client.now)
    assert not foreign.done()


def test_a_task_that_becomes_known_meanwhile_is_waited_for() -> None:
    client = Client()
    (foreign,) = client.submit(foreign=True)
    client.waiting.told(Told(unknown=[foreign.id]), None, client.now)
    client.known[foreign.id] = succeeded(foreign)
    client.run(DOUBT)

    assert foreign._value() == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("snfrda"), st.integers(0, 40)), max_size=40))
def test_no_wait_hangs_for_ever(events: list[tuple[str, int]]) -> None:
    """Whatever happened before: with a connection and a scheduler that answers, each outcome is known in time."""
    client = Client()
    handles: list[Handle] = []
    for kind, amount in events:
        match kind:
            case "s":
                handles += client.submit(amount * 50)
            case "n":
                client.finish(*[handle for handle in handles if not handle.done()][:amount])
            case "f":
                client.answering = not client.answering
            case "r":
                client.waiting.disconnected()
                client.run(amount)
                client.waiting.connected(client.now)
            case "d":
                del handles[:amount]
            case "a":
                client.run(amount / 4)
    client.answering = True
    client.known = {handle.id: succeeded(handle) for handle in handles}
    client.run(LONGEST + 2 * SILENCE + ANSWER)

    assert all(handle.done() for handle in handles)
    assert len(client.waiting) == 0


def test_a_watcher_is_called_once_and_then_forgotten() -> None:
    client = Client()
    (handle,) = client.submit()
    woken: list[BaseHandle[object]] = []
    handle._watch(woken.append)
    client.finish(handle)
    handle._wake()

    assert woken == [handle]


def test_closing_wakes_everybody_without_an_outcome() -> None:
    client = Client()
    (handle,) = client.submit()
    woken: list[BaseHandle[object]] = []
    handle._watch(woken.append)
    client.waiting.close()

    assert woken == [handle]
    assert not handle.done()


# Inquiries.


def ask(inquiries: Inquiries[TaskStatus], now: float) -> list[list[str]]:
    return [question.ids for _, question in inquiries.asks(now) if isinstance(question, Ask)]


def queued(*ids: str) -> dict[str, TaskStatus]:
    return {task_id: TaskStatus(task_id, "queued") for task_id in ids}


def test_inquiries_share_messages_and_are_asked_again_until_they_are_answered() -> None:
    inquiries, answered = status_inquiries(), list[Inquiry[TaskStatus]]()
    open_ones = [Inquiry(f"t{number}", ours=True, notify=answered.append) for number in range(1500)]
    for inquiry in [*open_ones, Inquiry("t0", ours=True, notify=answered.append)]:
        inquiries.add(inquiry, 0)
    assert [len(ids) for ids in ask(inquiries, 0)] == [1000, 500]
    assert ask(inquiries, ANSWER - 0.1) == []
    assert inquiries.wake_at() == ANSWER

    inquiries.answered(queued(*(f"t{number}" for number in range(1499))), [], 1)
    assert len(answered) == 1500
    assert ask(inquiries, ANSWER) == [["t1499"]]
    inquiries.connected(ANSWER + 1)
    assert ask(inquiries, ANSWER + 1) == [["t1499"]]
    inquiries.drop(open_ones[-1])
    assert inquiries.wake_at() is None


def test_an_unknown_task_of_ours_may_be_on_its_way_and_a_foreign_one_is_unknown_in_the_end() -> None:
    inquiries, answered = status_inquiries(), list[Inquiry[TaskStatus]]()
    ours = Inquiry("ours", ours=True, notify=answered.append)
    foreign = Inquiry("foreign", ours=False, notify=answered.append)
    for inquiry in (ours, foreign):
        inquiries.add(inquiry, 0)
    ask(inquiries, 0)
    inquiries.answered({}, ["ours", "foreign"], 0.1)
    assert answered == []

    assert ask(inquiries, 0.1 + DOUBT) == [["ours", "foreign"]]
    inquiries.answered({}, ["ours", "foreign"], 0.2 + DOUBT)
    assert answered == [foreign]
    with pytest.raises(UnknownTask):
        foreign.result()
    inquiries.answered(queued("ours"), [], 3)
    assert ours.result().state == "queued"


def test_closing_ends_inquiries() -> None:
    inquiries, answered = status_inquiries(), list[Inquiry[TaskStatus]]()
    inquiry = Inquiry("t", ours=True, notify=answered.append)
    inquiries.add(inquiry, 0)
    inquiries.close()

    assert answered == [inquiry]
    with pytest.raises(ClientClosed):
        inquiry.result()


# The core as a whole.


def test_what_arrives_goes_where_it_belongs() -> None:
    core = ClientCore(30)
    core.connected(0)
    handle = core.claim(Handle(new_task_id(), object, foreign=False), 0, content=None)
    answered: list[Inquiry[TaskStatus]] = []
    core.inquiries.add(Inquiry("t", ours=True, notify=answered.append), 0)

    core.arrived(Told.TYPE, encode(Told([succeeded(handle)])), None, 1)
    core.arrived(Statuses.TYPE, encode(Statuses([TaskStatus("t", "queued")])), "s1", 1)
    assert handle.done()
    assert len(answered) == 1


@pytest.mark.parametrize("kind", [Told.TYPE, Statuses.TYPE, Cancelled.TYPE, Ask.TYPE, "warren.told.v2", None])
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'{"results": [1]}', b"[" * 100_000])
def test_garbage_in_the_reply_queue_is_dropped(kind: str | None, body: bytes) -> None:
    core = ClientCore(30)
    core.connected(0)
    core.arrived(kind, body, None, 0)


def test_without_a_connection_nothing_is_asked() -> None:
    core = ClientCore(30)
    core.claim(handle := Handle(new_task_id(), object, foreign=False), 0, content=None)
    assert list(core.asks(100)) == []
    assert core.wake_at() == math.inf

    core.connected(100)
    assert len(list(core.asks(100))) == 1
    core.disconnected("gone")
    assert list(core.asks(200)) == []
    assert handle is not None


def test_a_named_id_finds_the_handle_that_is_there() -> None:
    core = ClientCore(30)
    foreign = Handle(new_task_id(), object, foreign=True)
    core.waiting.register(foreign, 0)

    assert core.claim(Handle(foreign.id, int, foreign=False), 1, content=1) is foreign
    assert core.claim(Handle(foreign.id, int, foreign=False), 1, content=1) is foreign
    with pytest.raises(InvalidTask, match="other content"):
        core.claim(Handle(foreign.id, int, foreign=False), 1, content=2)
    assert (foreign._foreign, foreign._result_type) == (False, int)


def test_a_handle_from_before_a_fork_is_asked_about_when_it_is_watched() -> None:
    core, handle = ClientCore(30), Handle(new_task_id(), object, foreign=False)
    core.connected(0)
    woken: list[BaseHandle[object]] = []
    core.watch(handle, woken.append, 0)
    other = Handle(handle.id, object, foreign=True)
    core.watch(other, woken.append, 0)
    assert [question.ids for _, question in core.asks(0) if isinstance(question, Ask)] == [[handle.id]]

    core.arrived(Told.TYPE, encode(Told([succeeded(handle)])), None, 1)
    assert woken == [other, handle] or woken == [handle, other]
    assert other._value() == 1


def test_watching_what_is_done_wakes_at_once() -> None:
    core, handle = ClientCore(30), Handle(new_task_id(), object, foreign=False)
    handle._resolve(succeeded(handle))
    woken: list[BaseHandle[object]] = []
    core.watch(handle, woken.append, 0)
    assert woken == [handle]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_reconnecting_waits_between_nothing_and_half_a_minute(failures: int, chance: float) -> None:
    wait = reconnect_wait(failures, lambda low, high: low + chance * (high - low))
    assert 0.05 <= wait <= min(30.0, 0.1 * 2 ** min(failures, 20)) + 1e-9


def test_a_herd_does_not_return_at_once() -> None:
    waits = [reconnect_wait(9) for _ in range(200)]
    assert max(waits) > 20
    assert min(waits) < 10


def test_what_is_put_behind_the_dead_is_asked_about() -> None:
    """The dead are counted for a moment after they have died: the collector runs other threads between the two."""
    line = _Line(SILENCE)
    first: Handle = Handle("a", None, foreign=False)
    first._since = 0.0
    line.put(first)
    line.since = math.inf  # as `look` finds it when every handle that is counted is dead
    second: Handle = Handle("b", None, foreign=False)
    second._since = 6.0
    line.put(second)
    assert line.since == 6.0
