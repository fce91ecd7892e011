"""Slots, patience, suspects and drain, with runtimes that do nothing by themselves."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from common.lifecycle import loop_factory
from common.options import Policy
from common.tasks import TaskFunction
from common.telemetry import Telemetry
from common.wire import Advice, Assignment, ErrorKind, Isolation, Outcome, OutcomeKind, ReturnReason
from tests.support.waiting import eventually
from worker_service import executor
from worker_service.attempts import Attempt, DeliveredBundle
from worker_service.cancellations import REMEMBERED, Cancellations
from worker_service.executor import Executor
from worker_service.handlers import Handler
from worker_service.results import Limits, succeeded
from worker_service.runtimes import Done


class Deliverer:
    async def ack(self) -> bool:
        return True


class Runtime:
    """Notes what it is given; the test ends it."""

    def __init__(self) -> None:
        self.running: list[Attempt] = []
        self.interrupted: list[Attempt] = []
        self.cancelled: list[Attempt] = []
        self.ended: list[Attempt] = []
        self.abandoned: list[Attempt] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def interrupt(self, attempt: Attempt) -> None:
        self.interrupted.append(attempt)

    def cancel(self, attempt: Attempt) -> None:
        self.cancelled.append(attempt)

    def end(self, attempt: Attempt) -> None:
        self.ended.append(attempt)

    def abandon(self, attempt: Attempt) -> None:
        self.abandoned.append(attempt)

    def run(self, attempts: Sequence[Attempt]) -> None:
        self.running += attempts

    async def stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        return {attempt: ["a.py:1 in f"] for attempt in attempts}


class Bench:
    """An executor and everything around it."""

    def __init__(self, slots: int = 2, patience: float = 0.05, drain_timeout: float = 5.0) -> None:
        async def on_loop() -> None: ...
        def in_thread() -> None: ...
        def in_process() -> None: ...
        async def limited() -> None: ...

        functions: list[Any] = [on_loop, in_thread]
        handlers = {each.__name__: Handler(_task(each)) for each in functions}
        handlers["in_process"] = Handler(_task(in_process, runtime="process"))
        handlers["limited"] = Handler(_task(limited, policy=Policy(timeout=0.02, hard_timeout=0.05, retries=3)))
        self.coroutines, self.threads, self.processes, self.children = Runtime(), Runtime(), Runtime(), Runtime()
        self.answers: list[Outcome] = []
        self.worn_out: list[int] = []
        self.executor = Executor(
            handlers,
            coroutines=self.coroutines,
            threads=self.threads,
            processes=self.processes,
            children=self.children,
            answer=self._answer,
            announce=self._announce,
            look=lambda: self.look(),
            slots=slots,
            process_slots=1,
            patience=patience,
            grace=0.02,
            max_given_up=1,
            worn_out=lambda: self.worn_out.append(self.executor.given_up),
            drain_timeout=drain_timeout,
            telemetry=Telemetry(),
        )
        self._number = 0
        self.announced = 0
        self.look: Callable[[], None] = lambda: None

    async def _announce(self) -> None:
        self.announced += 1

    def _answer(self, done: Sequence[Done]) -> None:
        self.answers += [outcome for _, outcome in done]

    def arrive(self, *tasks: str, isolation: Isolation = Isolation.NONE, express: bool = False) -> list[Attempt]:
        now = asyncio.get_running_loop().time()
        attempts = []
        for task in tasks:
            self._number += 1
            work = Assignment(f"id{self._number}", task, f"lease{self._number}", 1, isolation=isolation)
            bundle = DeliveredBundle(Deliverer(), "default")
            bundle.express = express
            attempts.append(Attempt(work, bundle, now))
        self.executor.accept(attempts)
        return attempts

    def end(self, *attempts: Attempt) -> None:
        limits = Limits(1000, 32)
        self.executor.finished([(attempt, succeeded(attempt.assignment, None, 0.1, limits)) for attempt in attempts])

    def reasons(self) -> list[ReturnReason | None]:
        return [outcome.reason for outcome in self.answers if outcome.kind is OutcomeKind.RETURNED]


def _task(function: Any, **more: Any) -> TaskFunction[..., Any]:
    return TaskFunction(function, name=function.__name__, queue="default", priority=4, **more)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


async def test_no_more_run_than_there_are_slots_and_in_order() -> None:
    bench = Bench(slots=2)
    first, second, third, fourth = bench.arrive("on_loop", "on_loop", "on_loop", "in_thread")
    assert bench.coroutines.running == [first, second]
    assert (bench.executor.running, bench.executor.waiting) == (2, 2)
    bench.end(first)
    assert bench.coroutines.running[-1] is third
    bench.end(second)
    assert bench.threads.running == [fourth]
    assert [outcome.lease for outcome in bench.answers] == ["lease1", "lease2"]


async def test_what_waits_too_long_goes_back_as_busy() -> None:
    bench = Bench(slots=1)
    first, second = bench.arrive("on_loop", "on_loop")
    await until(lambda: bench.answers)
    assert bench.reasons() == [ReturnReason.BUSY]
    assert bench.answers[0].lease == second.assignment.lease
    assert second.started == 0.0
    bench.end(first)
    (third,) = bench.arrive("on_loop")
    assert third.started > 0.0


@pytest.mark.parametrize("fast_loop", [False, True])
def test_what_is_due_at_once_is_looked_at_in_either_loop(fast_loop: bool) -> None:
    """What is due at once has no time in uvloop: asking for it once stopped a worker's slots for ever."""

    async def main() -> None:
        bench = Bench(slots=1, patience=0.0)
        first, *_ = bench.arrive("on_loop", "on_loop", "on_loop")
        bench.end(first)
        await until(lambda: len(bench.answers) == 2)
        assert bench.reasons() == [ReturnReason.BUSY]
        policy = Policy(timeout=0.0001, hard_timeout=0.0002)
        bench.end(*bench.coroutines.running[1:])
        work = Assignment("timed", "on_loop", "timed", 1, policy=policy)
        bench.executor.accept([Attempt(work, DeliveredBundle(Deliverer(), "default"), 0.0)])
        assert (bench.executor.next_deadline() or 0.0) < 0.001
        await until(lambda: bench.executor.given_up)

    with asyncio.Runner(loop_factory=loop_factory(fast_loop)) as runner:
        assert runner.get_loop().__class__.__module__.startswith("uvloop") is fast_loop
        runner.run(main())


async def test_a_slot_that_becomes_free_in_time_is_used() -> None:
    bench = Bench(slots=1, patience=60.0)
    first, second = bench.arrive("on_loop", "on_loop")
    bench.end(first)
    assert second in bench.coroutines.running
    assert bench.reasons() == []


async def test_what_is_express_starts_before_what_came_otherwise_in_every_runtime() -> None:
    bench = Bench(slots=2, patience=60.0)
    running = bench.arrive("on_loop", "in_process")
    bench.arrive("on_loop", "in_thread", "in_process")
    first, second, third = bench.arrive("in_thread", "in_process", "on_loop", express=True)
    bench.end(running[0])
    assert bench.threads.running == [first]
    bench.end(running[1])
    assert bench.processes.running == [running[1], second]
    bench.end(first)
    assert bench.coroutines.running == [running[0], third]
    bench.end(third)
    assert len(bench.coroutines.running) == 3
    assert bench.reasons() == []


async def test_what_is_express_waits_no_longer_than_others_and_can_be_cancelled() -> None:
    bench = Bench(slots=1)
    bench.arrive("on_loop")
    shared = bench.arrive("on_loop")
    express = bench.arrive("on_loop", "on_loop", "on_loop", express=True)
    bench.executor.cancel([express[1].assignment.lease])
    assert bench.reasons() == [ReturnReason.CANCELLED]
    await until(lambda: len(bench.answers) == 4)
    assert bench.reasons() == [ReturnReason.CANCELLED] + [ReturnReason.BUSY] * 3
    assert not any(each.started for each in [*shared, *express])
    bench.arrive("on_loop", express=True)
    bench.executor.give_back(ReturnReason.AWAY)
    assert bench.reasons()[-1] is ReturnReason.AWAY


async def test_an_unknown_function_goes_back_and_its_neighbours_run() -> None:
    bench = Bench()
    bench.arrive("on_loop", "os.system", "in_thread")
    assert bench.reasons() == [ReturnReason.UNKNOWN_FUNCTION]
    assert len(bench.coroutines.running) == len(bench.threads.running) == 1


async def test_suspects_run_in_children_and_take_slots() -> None:
    bench = Bench(slots=2)
    bench.arrive("on_loop", "in_thread", isolation=Isolation.CHILD)
    assert len(bench.children.running) == 2
    bench.arrive("on_loop")
    assert bench.executor.waiting == 1


async def test_alone_waits_for_the_others_and_refuses_newcomers() -> None:
    bench = Bench(slots=2, patience=60.0)
    first, second, third = bench.arrive("on_loop", "on_loop", "on_loop")
    (alone,) = bench.arrive("in_thread", isolation=Isolation.ALONE)
    assert bench.reasons() == [ReturnReason.BUSY], "what had not started gives way"
    assert bench.answers[0].lease == third.assignment.lease
    bench.arrive("on_loop")
    bench.arrive("on_loop", isolation=Isolation.ALONE)
    assert bench.reasons() == [ReturnReason.BUSY] * 3
    bench.end(first)
    assert not bench.children.running
    bench.end(second)
    await until(lambda: bench.children.running == [alone])
    bench.arrive("on_loop")
    assert bench.reasons() == [ReturnReason.BUSY] * 4, "also while it runs"
    bench.end(alone)
    (last,) = bench.arrive("on_loop")
    assert last in bench.coroutines.running


async def test_alone_starts_at_once_when_nothing_runs() -> None:
    bench = Bench()
    (alone,) = bench.arrive("on_loop", isolation=Isolation.ALONE)
    await until(lambda: bench.children.running == [alone])


async def test_alone_gives_up_when_the_others_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_service.executor.ALONE_PATIENCE", 0.02)
    bench = Bench()
    bench.arrive("on_loop")
    bench.arrive("on_loop", isolation=Isolation.ALONE)
    await until(lambda: bench.answers)
    assert bench.reasons() == [ReturnReason.BUSY]
    bench.arrive("on_loop")
    assert bench.executor.running == 2


async def test_drain_returns_what_waits_and_finishes_what_runs() -> None:
    bench = Bench(slots=1, patience=60.0)
    first, _ = bench.arrive("on_loop", "on_loop")
    draining = asyncio.create_task(bench.executor.drain())
    await until(lambda: bench.answers)
    assert bench.reasons() == [ReturnReason.DRAIN]
    bench.arrive("on_loop")
    assert bench.reasons() == [ReturnReason.DRAIN] * 2, "a bundle that was on its way"
    assert not draining.done()
    bench.end(first)
    await draining
    assert bench.executor.running == 0


async def test_drain_ends_in_time_and_returns_a_waiting_alone() -> None:
    bench = Bench(drain_timeout=0.02)
    bench.arrive("on_loop")
    bench.arrive("on_loop", isolation=Isolation.ALONE)
    await bench.executor.drain()
    assert bench.reasons() == [ReturnReason.DRAIN]
    assert bench.executor.running == 1


async def test_the_first_start_is_told_once() -> None:
    bench = Bench()
    told: list[int] = []
    bench.executor.on_first_start = lambda: told.append(1)
    bench.arrive("on_loop")
    bench.arrive("on_loop")
    assert told == [1]


async def test_alone_is_announced_before_it_starts() -> None:
    bench = Bench()
    go = asyncio.Event()
    bench.executor._announce = go.wait  # type: ignore[assignment]
    (alone,) = bench.arrive("on_loop", isolation=Isolation.ALONE)
    await asyncio.sleep(0.01)
    assert alone.started > 0.0, "the beat lists it as running"
    assert not bench.children.running
    assert bench.executor.closed
    go.set()
    await until(lambda: bench.children.running == [alone])


async def test_a_drain_while_alone_is_announced_gives_it_back() -> None:
    bench = Bench()
    go = asyncio.Event()
    bench.executor._announce = go.wait  # type: ignore[assignment]
    bench.arrive("on_loop", isolation=Isolation.ALONE)
    await asyncio.sleep(0.01)
    await bench.executor.drain()
    assert bench.reasons() == [ReturnReason.DRAIN]
    go.set()
    await asyncio.sleep(0.01)
    assert not bench.children.running
    await bench.executor.stop()


async def test_a_hard_timeout_is_answered_whatever_the_task_says() -> None:
    bench = Bench(slots=1)
    (attempt,) = bench.arrive("limited")
    await until(lambda: bench.coroutines.ended == [attempt])
    assert bench.coroutines.interrupted == [attempt]
    bench.end(attempt)
    (outcome,) = bench.answers
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.kind) == (OutcomeKind.FAILED, ErrorKind.TIMEOUT)
    assert outcome.advice == Advice(retries=3)
    assert bench.coroutines.abandoned == []


async def test_what_ends_in_time_is_left_alone() -> None:
    bench = Bench(slots=1)
    (attempt,) = bench.arrive("limited")
    bench.end(attempt)
    await asyncio.sleep(0.1)  # longer than all of its timeouts
    assert bench.coroutines.interrupted == bench.coroutines.ended == bench.coroutines.abandoned == []
    assert [outcome.kind for outcome in bench.answers] == [OutcomeKind.SUCCEEDED]


async def test_what_is_given_up_is_answered_once_and_its_slot_is_free() -> None:
    bench = Bench(slots=1, patience=60.0)
    stuck, next_one = bench.arrive("limited", "on_loop")
    await until(lambda: bench.coroutines.abandoned == [stuck])
    assert bench.coroutines.running == [stuck, next_one]
    bench.end(stuck)
    bench.end(next_one)
    assert [outcome.lease for outcome in bench.answers] == ["lease1", "lease2"]
    assert [outcome.kind for outcome in bench.answers] == [OutcomeKind.FAILED, OutcomeKind.SUCCEEDED]


async def test_only_so_many_that_were_given_up_may_go_on() -> None:
    bench = Bench(slots=1, patience=60.0)
    (first,) = bench.arrive("limited")
    await until(lambda: bench.executor.given_up == 1)
    (second,) = bench.arrive("limited")
    await until(lambda: bench.worn_out == [2])
    bench.end(first)
    assert bench.executor.given_up == 1
    (third,) = bench.arrive("limited")
    await until(lambda: bench.worn_out == [2, 2])
    bench.end(second, third)
    assert bench.executor.given_up == 0
    assert len(bench.answers) == 3


async def test_one_that_ended_in_time_for_its_end_is_not_given_up() -> None:
    bench = Bench(slots=1, patience=60.0)
    for _ in range(3):
        (attempt,) = bench.arrive("limited")
        await until(lambda attempt=attempt: attempt in bench.coroutines.ended)
        bench.end(attempt)
    await asyncio.sleep(0.1)  # longer than the grace
    assert (bench.executor.given_up, bench.worn_out) == (0, [])


async def test_cancelling_reaches_what_runs_what_waits_and_what_comes() -> None:
    bench = Bench(slots=1, patience=60.0)
    (runs,) = bench.arrive("on_loop")
    waits, stays = bench.arrive("in_process", "on_loop")
    bench.executor.cancel(["lease1", "lease2", "lease4"])
    bench.executor.cancel(["lease1"])
    assert bench.coroutines.cancelled == [runs]
    assert [outcome.lease for outcome in bench.answers] == [waits.assignment.lease]
    bench.arrive("on_loop")
    bench.end(runs)
    bench.end(stays)
    assert [(outcome.lease, outcome.reason) for outcome in bench.answers] == [
        ("lease2", ReturnReason.CANCELLED),
        ("lease4", ReturnReason.CANCELLED),
        ("lease1", ReturnReason.CANCELLED),
        ("lease3", None),
    ]


async def test_a_suspect_that_waits_to_run_alone_can_be_cancelled() -> None:
    bench = Bench(slots=2)
    bench.arrive("on_loop")
    bench.arrive("on_loop", isolation=Isolation.ALONE)
    assert bench.executor.closed
    bench.executor.cancel(["lease2"])
    assert bench.executor.waiting == 0
    assert bench.reasons() == [ReturnReason.CANCELLED]


def test_only_so_many_cancelled_leases_are_remembered() -> None:
    cancellations = Cancellations()
    cancellations.add(str(number) for number in range(REMEMBERED + 10))
    assert len(cancellations) == REMEMBERED
    assert "9" not in cancellations
    assert "10" in cancellations
    cancellations.add(["10", "new"])
    assert "10" in cancellations
    assert "11" not in cancellations


async def test_processes_have_a_line_of_their_own() -> None:
    bench = Bench(slots=3, patience=0.01)
    first, second, third, quick = bench.arrive("in_process", "in_process", "in_process", "on_loop")
    assert bench.processes.running == [first]
    assert bench.coroutines.running == [quick]
    assert bench.executor.waiting == 2
    bench.end(first)
    assert bench.processes.running == [first, second]
    await until(lambda: bench.reasons() == [ReturnReason.BUSY])
    assert bench.answers[-1].lease == third.assignment.lease
    assert bench.executor.waiting == 0


async def test_what_may_not_start_any_more_goes_back() -> None:
    bench = Bench(slots=1, patience=60.0)
    blocker, late, in_time = bench.arrive("on_loop", "on_loop", "on_loop")
    late.assignment.starts_within = 0.01
    in_time.assignment.starts_within = 60.0
    await asyncio.sleep(0.03)  # its time passes
    bench.end(blocker)
    await until(lambda: bench.coroutines.running == [blocker, in_time])
    assert bench.reasons() == [ReturnReason.EXPIRED]


async def test_what_waits_behind_a_pause_goes_back_and_is_not_started() -> None:
    bench = Bench(slots=1, patience=60.0)
    (runs,) = bench.arrive("on_loop")
    bench.arrive("on_loop", "in_process")

    def woken() -> None:
        bench.look = lambda: None
        bench.executor.give_back(ReturnReason.AWAY)

    bench.look = woken
    bench.end(runs)
    assert bench.reasons() == [ReturnReason.AWAY] * 2
    assert bench.coroutines.running == [runs]
    assert bench.executor.waiting == 0
    (later,) = bench.arrive("on_loop")
    assert bench.coroutines.running == [runs, later]


async def test_what_arrives_first_after_a_pause_was_given_before_it() -> None:
    bench = Bench()
    bench.look = lambda: bench.executor.give_back(ReturnReason.AWAY)
    bench.arrive("on_loop", "in_thread")
    assert bench.reasons() == [ReturnReason.AWAY] * 2
    assert bench.coroutines.running == bench.threads.running == []


async def test_a_suspect_is_not_started_alone_behind_a_pause() -> None:
    bench = Bench()
    (suspect,) = bench.arrive("on_loop", isolation=Isolation.ALONE)
    bench.look = lambda: bench.executor.give_back(ReturnReason.AWAY)
    await until(lambda: bench.reasons() == [ReturnReason.AWAY])
    assert bench.announced == 1
    assert bench.children.running == []
    assert not bench.executor.closed
    assert suspect not in bench.executor.running_attempts()


async def test_a_suspect_that_comes_while_one_that_went_back_is_announced_runs_next() -> None:
    bench = Bench()
    go = asyncio.Event()
    bench.executor._announce = go.wait  # type: ignore[assignment]
    bench.arrive("on_loop", isolation=Isolation.ALONE)
    await asyncio.sleep(0.01)
    bench.executor.give_back(ReturnReason.AWAY)
    (second,) = bench.arrive("on_loop", isolation=Isolation.ALONE)
    go.set()
    await until(lambda: bench.children.running == [second])
    assert bench.reasons() == [ReturnReason.AWAY]


async def test_what_waits_for_a_process_does_not_prolong_the_patience_of_others() -> None:
    bench = Bench(slots=2, patience=0.05)
    bench.arrive("in_process", "in_process")  # the second one waits for a process, and longer than others
    bench.arrive("on_loop", "on_loop")
    began = time.monotonic()
    await eventually(bench.reasons, timeout=5.0)
    assert time.monotonic() - began < 0.6
    await bench.executor.stop()


async def test_what_has_run_alone_does_not_prolong_the_patience_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ALONE_PATIENCE", 4.0)
    bench = Bench(slots=1, patience=0.05)
    (first,) = bench.arrive("on_loop")
    (suspect,) = bench.arrive("on_loop", isolation=Isolation.ALONE)
    bench.end(first)
    await eventually(lambda: suspect in bench.executor.running_attempts())
    bench.end(suspect)
    bench.arrive("on_loop", "on_loop")
    began = time.monotonic()
    await eventually(bench.reasons, timeout=5.0)
    assert time.monotonic() - began < 1.0
    await bench.executor.stop()
