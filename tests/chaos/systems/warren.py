"""Warren: a scheduler and three workers, all settings as they come but for the crashes that a task may survive."""

from collections.abc import Mapping, Sequence
from importlib import metadata

from common import Client, Handle, TaskCancelled, TaskFailed
from common.errors import ResultTimeout, SubmissionError, UnknownTask
from common.ids import new_task_id
from common.tasks import Call
from deploy.local import Broker
from tests.chaos.plan import WORKERS
from tests.chaos.systems import Site, Unconfirmed
from tests.chaos.workload import Job, answer
from tests.support.cluster import Cluster
from tests.support.journal import Expected
from tests.support.services import ServiceProcess

# By default the second crash fails a task; here innocent ones are killed again and again.
_MAX_CRASHES = "100"
_PATIENCE = 30.0  # seconds for one answer
_EXPECTED_TRACEBACKS = ("tests.chaos.body",)


class Warren:
    """See `tests.chaos.systems.System`.

    Args:
        site: where.
    """

    name = "warren"
    setup = "a scheduler on SQLite (synchronous=FULL), three workers, confirms, quorum queues"
    lacks: tuple[str, ...] = ()

    shelves: frozenset[str] = frozenset()

    def __init__(self, site: Site) -> None:
        self.label = f"Warren {metadata.version('warren')}"
        self._cluster = Cluster(
            Broker(site.node.url(), "a private node", site.node),
            site.folder,
            workers=len(WORKERS),
            slots=site.slots,
            scheduler={"WARREN_AMQP_URL": site.urls["scheduler"], "WARREN_MAX_CRASHES": _MAX_CRASHES},
            worker=[{"WARREN_AMQP_URL": site.urls[name]} for name in WORKERS],
            client_url=site.urls["client"],
            tasks="tests.chaos.apps.warren_tasks",
        )
        self._client: Client | None = None
        self._ids: dict[int, str] = {}
        self._handles: dict[int, Handle[int]] = {}
        self._cancelled: set[int] = set()
        self._jobs: dict[int, Job] = {}
        self.parties: Mapping[str, ServiceProcess] = {service.name: service for service in self._cluster.services}

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self._cluster.launch()
        self._cluster.settle()
        self._client = self._cluster.client()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit in one call; a task keeps its id when it is submitted again, and is stored once."""
        assert self._client is not None
        try:
            handles = self._client.submit_many([self._call(job) for job in jobs])
        except SubmissionError as error:
            raise Unconfirmed(str(error)) from error
        for job, handle in zip(jobs, handles, strict=True):
            self._jobs[job.key] = job
            self._handles[job.key] = handle

    def cancel(self, job: Job) -> str | None:
        """Cancel; the state that is answered is for good."""
        try:
            state = self._handles[job.key].cancel(timeout=_PATIENCE)
        except (ResultTimeout, UnknownTask):
            return ""
        if state == "cancelled":
            self._cancelled.add(job.key)
        return state

    def verdict(self) -> list[str]:
        """Compare what the client was told, what is stored, and what was done."""
        stored = self._cluster.store.tasks()
        journal = self._cluster.journal
        for key, handle in self._handles.items():
            row = stored.get(handle.id)
            journal.confirmed[handle.id] = self._expected(key, row.state if row is not None else "")
            try:
                journal.told[handle.id] = handle.result(timeout=_PATIENCE)
            except TaskFailed as error:
                journal.told[handle.id] = f"!{error.kind}"
            except TaskCancelled:
                journal.told[handle.id] = "cancelled"
            except ResultTimeout:
                break  # the judge counts those that were not told
        return self._cluster.judge(allowed=_EXPECTED_TRACEBACKS, timeout=60.0).faults

    def stop(self) -> None:
        """End everything."""
        self._cluster.stop()

    def _call(self, job: Job) -> Call[int]:
        task_id = self._ids.setdefault(job.key, new_task_id())
        call: Call[int] = Call(f"chaos.{job.runtime}", (job.key, job.seconds, job.failures, job.doomed))
        return call.options(task_id=task_id, priority=job.priority, delay=job.delay or None)

    def _expected(self, key: int, state: str) -> Expected:
        # A cancel whose answer was lost may have counted; one that was answered has.
        if key in self._cancelled or (self._jobs[key].cancel and state == "cancelled"):
            return Expected(key, "cancelled")
        if self._jobs[key].doomed:
            return Expected(key, error_kind="exception")
        return Expected(key, answer(key))
