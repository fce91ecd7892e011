"""A worker and a stand-in for the scheduler on a real broker."""

from common.broker import ready_messages
from common.wire import OutcomeKind
from deploy.local import Broker
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, queue_of, worker_settings


async def test_a_bundle_is_run_and_answered(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        tasks = [assignment("add", number, 1) for number in range(20)]
        tasks += [assignment("plain_add", number, 1) for number in range(20)]
        await scheduler.send(*tasks)
        outcomes = [await scheduler.outcome(task) for task in tasks]
        assert all(outcome.kind is OutcomeKind.SUCCEEDED for outcome in outcomes), outcomes
        assert [int(bytes(outcome.result)) for outcome in outcomes] == [*range(1, 21), *range(1, 21)]
        await scheduler.until(lambda: not len(running.worker.leases), what="all leases answered")
        assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 0
    assert running.exit_code == 0
