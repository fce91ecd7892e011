"""A worker and a stand-in for the scheduler on a real broker: what is run, and what goes back instead."""

import asyncio
import threading
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import Raw

from common.broker import ready_messages
from common.wire import Assignment, Bundle, ErrorKind, OutcomeKind, ReturnReason
from deploy.local import Broker
from tests.support import worker_tasks
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, queue_of, worker_settings
from worker_service.events import Received


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of a gate that waiting task functions wait for; open at the end in any case."""
    worker_tasks.gates["gate"] = threading.Event()
    yield "gate"
    worker_tasks.gates["gate"].set()


def open_gate() -> None:
    worker_tasks.gates["gate"].set()


async def settled(scheduler: StandInScheduler, running: RunningWorker) -> None:
    """Wait until the worker holds nothing, and look that nothing comes back after its end."""
    await scheduler.until(lambda: len(running.worker.leases) == 0, what="all leases answered")
    await running.__aexit__(None, None, None)
    assert running.exit_code == 0
    assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 0


async def test_a_bundle_is_run_answered_and_acked(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        tasks = [assignment("add", number, 1) for number in range(20)]
        tasks += [assignment("plain_add", number, y=1) for number in range(20)]
        await scheduler.send(*tasks)
        outcomes = [await scheduler.outcome(task) for task in tasks]
        assert all(outcome.kind is OutcomeKind.SUCCEEDED for outcome in outcomes), outcomes
        assert [int(bytes(outcome.result)) for outcome in outcomes] == [*range(1, 21), *range(1, 21)]
        assert {reply.worker for reply in scheduler.replies} == {running.worker.id}
        await settled(scheduler, running)


@pytest.mark.parametrize(
    ("work", "kind", "type_name", "says"),
    [
        (assignment("fail", "on purpose"), ErrorKind.EXCEPTION, "ValueError", "on purpose"),
        (assignment("raise_base", "SystemExit"), ErrorKind.EXCEPTION, "SystemExit", "on purpose"),
        (assignment("raise_base", "KeyboardInterrupt"), ErrorKind.EXCEPTION, "KeyboardInterrupt", "on purpose"),
        (assignment("raise_base", "CancelledError"), ErrorKind.EXCEPTION, "CancelledError", "on purpose"),
        (assignment("raise_base", "GeneratorExit"), ErrorKind.EXCEPTION, "GeneratorExit", "on purpose"),
        (assignment("plain_raise_base", "SystemExit"), ErrorKind.EXCEPTION, "SystemExit", "on purpose"),
        (assignment("add", 1, "2"), ErrorKind.BAD_ARGUMENTS, "BadArguments", "argument 'y'"),
        (assignment("add", 1), ErrorKind.BAD_ARGUMENTS, "BadArguments", "missing"),
        (assignment("give", "object"), ErrorKind.BAD_RESULT, "BadResult", "not JSON"),
        (assignment("give", "nan"), ErrorKind.BAD_RESULT, "BadResult", "not JSON"),
        (assignment("give", "infinity"), ErrorKind.BAD_RESULT, "BadResult", "not JSON"),
        (assignment("give", "surrogate"), ErrorKind.BAD_RESULT, "BadResult", "not JSON"),
        (assignment("give", "large"), ErrorKind.BAD_RESULT, "BadResult", "more than"),
    ],
    ids=lambda value: f"{value.task} {bytes(value.args).decode()}" if isinstance(value, Assignment) else "",
)
async def test_a_task_that_fails_harms_nothing_else(
    broker: Broker, namespace: str, work: Assignment, kind: ErrorKind, type_name: str, says: str
) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        good = [assignment("add", 1, 2), assignment("plain_add", 1, 2)]
        await scheduler.send(good[0], work, good[1])
        error = (await scheduler.outcome(work)).error
        assert error is not None
        assert (error.kind, error.type) == (kind, type_name)
        assert says in error.message
        assert ("in raise_base" in error.traceback) == (work.task == "raise_base")
        again = assignment("add", 3, 4)
        await scheduler.send(again)
        for each in (*good, again):
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
        await settled(scheduler, running)


async def test_a_bomb_that_a_function_leaves_behind_does_not_end_its_loop(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment("leave_bomb_behind")
        await scheduler.send(work)
        await scheduler.outcome(work)
        for number in range(5):
            again = assignment("add", number, 0)
            await scheduler.send(again)
            assert (await scheduler.outcome(again)).kind is OutcomeKind.SUCCEEDED


async def test_context_does_not_leak_between_plain_functions(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=1)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        for number in range(3):
            work = assignment("remember", str(number))
            await scheduler.send(work)
            assert bytes((await scheduler.outcome(work)).result) == b'""'


async def test_waiting_plain_functions_run_side_by_side(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=8)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        blocked = [assignment("plain_wait_for", gate) for _ in range(7)]
        await scheduler.send(*blocked)
        quick = assignment("plain_add", 1, 2)
        await scheduler.send(quick)
        await scheduler.outcome(quick)
        assert running.worker.executor.running == 7
        open_gate()
        for each in blocked:
            await scheduler.outcome(each)


async def test_a_blocked_loop_stops_neither_beats_nor_plain_functions(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, beat_interval=0.1)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        blocker = assignment("block_for", 4.0)
        await scheduler.send(blocker)
        await scheduler.until(lambda: running.worker.coroutines.lag > 0.3, what="the lag to show")
        before = len(scheduler.beats)
        plain = assignment("plain_add", 1, 2)
        await scheduler.send(plain)
        await scheduler.outcome(plain)
        await scheduler.until(lambda: len(scheduler.beats) >= before + 3, what="beats")
        assert not scheduler.final(blocker)
        await scheduler.outcome(blocker)


async def test_a_redelivered_bundle_is_never_run(broker: Broker, namespace: str, gate: str) -> None:
    async with StandInScheduler(broker.url, namespace) as scheduler:
        first = RunningWorker(worker_settings(broker.url, namespace))
        work = [assignment("plain_wait_for", gate), assignment("add", 1, 2)]
        async with first:
            await scheduler.send(*work)
            await scheduler.outcome(work[1])
            for consumer in first.worker.consumers:
                await consumer.stop()  # its channel ends with the bundle unacked, as a crash would do
            received: list[Received] = []
            second = RunningWorker(worker_settings(broker.url, namespace))
            second.worker.telemetry.on(Received, received.append)
            async with second:
                await scheduler.until(lambda: len(scheduler.outcomes.get(work[0].lease, [])) == 1)
                await scheduler.until(lambda: len(scheduler.outcomes[work[1].lease]) == 2)
                returned = [scheduler.outcomes[each.lease][-1] for each in work]
                assert [each.reason for each in returned] == [ReturnReason.REDELIVERED] * 2
                assert [event.redelivered for event in received] == [True]
                assert len(second.worker.leases) == 0
                open_gate()
                await scheduler.until(lambda: len(scheduler.outcomes[work[0].lease]) == 2)
                late = scheduler.outcomes[work[0].lease][-1]
                assert late.kind is OutcomeKind.SUCCEEDED, "what runs is replied although its channel is gone"
                await settled(scheduler, second)


async def test_an_unknown_function_goes_back(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        unknown, good = assignment("os.system", "true"), assignment("add", 1, 2)
        await scheduler.send(unknown, good)
        outcome = await scheduler.outcome(unknown)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETURNED, ReturnReason.UNKNOWN_FUNCTION)
        assert (await scheduler.outcome(good)).kind is OutcomeKind.SUCCEEDED
        await settled(scheduler, running)


async def test_what_finds_all_slots_full_goes_back_as_busy(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=2)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        work = [assignment("wait_for", gate) for _ in range(5)]
        await scheduler.send(*work)
        for each in work[2:]:
            outcome = await scheduler.outcome(each)
            assert (outcome.kind, outcome.reason) == (OutcomeKind.RETURNED, ReturnReason.BUSY)
        assert not scheduler.final(work[0])
        open_gate()
        for each in work[:2]:
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
        await settled(scheduler, running)


async def test_a_second_copy_of_a_lease_is_not_run(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=4)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        runs, answered = assignment("wait_for", gate), assignment("add", 1, 2)
        await scheduler.send(runs, answered)
        await scheduler.outcome(answered)
        await scheduler.until(lambda: len(running.worker.leases) == 1)
        last = assignment("add", 3, 4)
        await scheduler.send(runs, answered, last)
        await scheduler.send(runs, answered)
        await scheduler.outcome(last)
        open_gate()
        await scheduler.outcome(runs)
        await settled(scheduler, running)
        assert [len(scheduler.outcomes[each.lease]) for each in (runs, answered, last)] == [1, 1, 1]


async def test_a_long_task_is_held_and_answered_later(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, hold_after=0.2, beat_interval=0.1)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        long, short = assignment("wait_for", gate), assignment("add", 1, 2)
        await scheduler.send(long, short)
        await scheduler.until(lambda: bool(scheduler.outcomes.get(long.lease)), what="held")
        assert scheduler.outcomes[long.lease][0].kind is OutcomeKind.HELD
        # Its delivery is acked: when its channel ends, nothing comes back.
        await asyncio.sleep(0.1)
        for consumer in running.worker.consumers:
            await consumer.stop()
        assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 0
        before = len(scheduler.beats)
        await scheduler.until(lambda: len(scheduler.beats) > before + 1)
        assert scheduler.beats[-1].running == [long.lease]
        open_gate()
        assert (await scheduler.outcome(long)).kind is OutcomeKind.SUCCEEDED
        assert [each.kind for each in scheduler.outcomes[long.lease]] == [OutcomeKind.HELD, OutcomeKind.SUCCEEDED]
        await scheduler.until(lambda: not scheduler.beats[-1].running)


GARBAGE = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"[]",
    b'{"queue":"default"}',
    b'{"queue":"default","tasks":{}}',
    b'{"queue":"default","tasks":[1e999',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"queue":"default","tasks":[5]}',
    b'{"queue":"default","tasks":[{"task":"add"}]}',
    b'{"queue":"default","tasks":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
]


async def test_garbage_goes_to_the_dead_letters_and_the_next_task_runs(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=2)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        for body in GARBAGE:
            await scheduler.send_raw(body)
        good_body = msgspec.json.encode(Bundle("default", [assignment("add", 1, 2)]))
        for wrong_type in (None, "warren.bundle.v2", "warren.reply.v1"):
            await scheduler.send_raw(good_body, type=wrong_type)
        good = assignment("add", 1, 2)
        await scheduler.send(good)
        assert (await scheduler.outcome(good)).kind is OutcomeKind.SUCCEEDED
        await scheduler.until(lambda: len(scheduler.dead) == len(GARBAGE) + 3, what="the dead letters")
        assert all(letter.headers["reason"] and letter.headers["queue"] == "default" for letter in scheduler.dead)
        assert {letter.headers["worker"] for letter in scheduler.dead} == {running.worker.id}
        assert {letter.body for letter in scheduler.dead} >= set(GARBAGE[:8])
        await settled(scheduler, running)


async def test_the_good_tasks_of_a_bad_bundle_run(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        good, bad = assignment("add", 1, 2), assignment("add", 3, 4)
        raw_bad = msgspec.json.encode(bad).replace(b'"task":"add"', b'"task":5')
        raws = [Raw(b'{"id":7}'), Raw(raw_bad), Raw(msgspec.json.encode(good))]
        await scheduler.send_raw(msgspec.json.encode({"queue": "default", "tasks": raws}))
        assert (await scheduler.outcome(good)).kind is OutcomeKind.SUCCEEDED
        assert (await scheduler.outcome(bad)).reason is ReturnReason.UNDECODABLE
        await scheduler.until(lambda: len(scheduler.dead) == 1)
        assert scheduler.dead[0].body == b'{"queue":"default","tasks":[{"id":7}]}'
        await settled(scheduler, running)


async def test_several_queues_and_a_queue_that_does_not_exist_yet(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, queues=["default", "email"])
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        for queue in ("default", "email"):
            work = assignment("add", 1, 2)
            await scheduler.send(work, queue=queue)
            assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED


async def test_beats_tell_what_the_worker_holds(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, beat_interval=0.1, queue_patience=60.0, name="mine")
    async with StandInScheduler(broker.url, namespace) as scheduler:
        async with RunningWorker(settings) as running:
            work = [assignment("wait_for", gate), assignment("add", 1, 2)]
            await scheduler.send(*work)
            await scheduler.until(
                lambda: any(
                    beat.running == [work[0].lease] and beat.waiting == [work[1].lease] for beat in scheduler.beats
                ),
                what="a beat with both leases",
            )
            first = scheduler.beats[0]
            assert (first.number, first.worker, first.slots, first.queues) == (1, running.worker.id, 1, ["default"])
            assert "add" in (first.functions or ())
            assert first.worker.startswith("mine-")
            open_gate()
            for each in work:
                await scheduler.outcome(each)
            await scheduler.until(lambda: not scheduler.beats[-1].running and not scheduler.beats[-1].waiting)
            await scheduler.until(lambda: scheduler.beats[-1].number > 4)
            assert [beat.functions is not None for beat in scheduler.beats[:4]] == [True, True, True, False]
            await scheduler.probe("token")
            await scheduler.until(lambda: scheduler.beats[-1].probe == "token", 2.0, "the answer to a probe")
            answer = next(beat for beat in scheduler.beats if beat.probe == "token")
            assert answer.functions
        await scheduler.until(lambda: scheduler.beats[-1].leaving)
        assert [beat.draining for beat in scheduler.beats][-2:] == [True, True]
        numbers = [beat.number for beat in scheduler.beats]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_probe_is_answered_at_once(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, beat_interval=5.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await scheduler.until(lambda: bool(scheduler.beats) and running.worker.control.consuming)
        await scheduler.probe("now")
        await scheduler.until(lambda: scheduler.beats[-1].probe == "now", 2.0, "the answer to a probe")


async def test_drain_gives_back_and_finishes(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, queue_patience=60.0)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        running = RunningWorker(settings)
        await running.__aenter__()
        work = [assignment("wait_for", gate), assignment("add", 1, 2)]
        await scheduler.send(*work)
        await scheduler.until(lambda: running.worker.executor.waiting == 1)
        running.worker.service.drain()
        assert (await scheduler.outcome(work[1])).reason is ReturnReason.DRAIN
        assert not running.worker.consumers[0].consuming
        open_gate()
        assert (await scheduler.outcome(work[0])).kind is OutcomeKind.SUCCEEDED
        assert await running.ended() == 0
        assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 0


async def test_what_does_not_end_in_the_drain_is_left_to_others(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=0.2)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        running = RunningWorker(settings)
        await running.__aenter__()
        work = [assignment("stubborn", gate), assignment("plain_wait_for", gate)]
        for each in work:
            await scheduler.send(each)
        await scheduler.until(lambda: running.worker.executor.running == 2)
        running.worker.service.drain()
        assert await running.ended() == 0
        assert not any(scheduler.final(each) for each in work)
        assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 2
