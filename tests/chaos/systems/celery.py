"""Celery 5.7: prefork, late acks, requeued when a worker is lost, confirms, a quorum queue, delays in the broker."""

import contextlib
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from tests.chaos.plan import WORKERS
from tests.chaos.systems import Site, Unconfirmed, depths
from tests.chaos.systems.trees import ProcessTree
from tests.chaos.workload import Job
from tests.support.conditions import wait_until
from tests.support.effects import VARIABLE
from tests.support.services import ServiceProcess

_CONFIRM_TIMEOUT = 10  # seconds


class Celery:
    """See `tests.chaos.systems.System`.

    Args:
        site: where.
    """

    name = "celery"
    setup = "prefork, acks_late, reject_on_worker_lost, confirms, quorum queues, prefetch 1, native delayed delivery"
    lacks: tuple[str, ...] = (
        "a scheduler (its faults have no object)",
        "coroutines and threads beside processes (all tasks run in processes)",
        "priorities in quorum queues of this broker",
        "an answer to a cancel (revoke is told to the workers that listen, and kept in their memory)",
        "a stored state of each task (none is kept; the effect log counts)",
    )

    shelves: frozenset[str] = frozenset()

    def __init__(self, site: Site) -> None:
        self.label = f"Celery {metadata.version('celery')}"
        self._site = site
        # Without gossip and mingle: workers need not know of each other. Revokes need the remote control.
        command = [sys.executable, "-m", "celery", "-A", "tests.chaos.apps.celery_app", "worker"]
        command += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        command += ["--pool", "prefork", "--concurrency", str(site.slots)]
        self.parties: Mapping[str, ServiceProcess] = {
            name: ProcessTree(
                name,
                [*command, "--hostname", f"{name}@chaos"],
                os.environ | {"CHAOS_AMQP_URL": site.urls[name], VARIABLE: str(site.effects)},
                site.folder / f"{name}.log",
            )
            for name in WORKERS
        }
        self._app: Any = None
        self._task: Any = None
        self._connection: Any = None
        self._ids: dict[int, str] = {}
        self._confirmed: set[int] = set()

    def start(self) -> None:
        """Start it; returns when every worker consumes."""
        os.environ["CHAOS_AMQP_URL"] = self._site.urls["client"]
        from tests.chaos.apps.celery_app import app, chaos

        self._app, self._task = app, chaos
        for party in self.parties.values():
            party.start()
        wait_until(self._consuming, 60.0, "the workers consume", lambda: depths(self._site.node))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit one by one, each confirmed; one that is submitted again keeps its id, and may run again."""
        for job in jobs:
            if job.key in self._confirmed:
                continue
            try:
                self._task.apply_async(
                    (job.key, job.seconds, job.failures, job.doomed),
                    task_id=self._ids.setdefault(job.key, str(uuid.uuid4())),
                    countdown=job.delay or None,
                    priority=job.priority,
                    confirm_timeout=_CONFIRM_TIMEOUT,
                    connection=self._connected(),
                    retry=False,  # the driver does, and counts
                )
            except Exception as error:  # kombu, amqp, sockets: whatever it is, the task is not confirmed
                self._disconnect()
                raise Unconfirmed(repr(error)) from error
            self._confirmed.add(job.key)

    def cancel(self, job: Job) -> str | None:
        """Revoke; nobody answers."""
        with contextlib.suppress(Exception), self._app.connection_for_write() as connection:
            self._app.control.revoke(self._ids[job.key], connection=connection)
        return ""

    def verdict(self) -> list[str]:
        """It keeps no record that could be compared."""
        return []

    def stop(self) -> None:
        """End everything."""
        for party in self.parties.values():
            party.kill()
            party.stop()
        self._disconnect()
        if self._app is not None:
            self._app.close()

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = self._app.connection_for_write(connect_timeout=_CONFIRM_TIMEOUT)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collect(socket_timeout=1)

    def _consuming(self) -> bool:
        depth = depths(self._site.node).get("chaos")
        return depth is not None and depth.consumers == len(WORKERS)
