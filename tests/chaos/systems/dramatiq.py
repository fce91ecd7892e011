"""Dramatiq 2.2: threads, confirms, durable queues, delays and retries held by the workers."""

import os
import sys
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


class Dramatiq:
    """See `tests.chaos.systems.System`.

    Args:
        site: where.
    """

    name = "dramatiq"
    setup = "one process a worker with threads, confirm_delivery, durable classic queues (it has no quorum queues)"
    lacks: tuple[str, ...] = (
        "a scheduler (its faults have no object)",
        "coroutines and processes for single tasks (all tasks run in threads)",
        "cancelling (those tasks are run)",
        "a priority for a single task without a queue argument that quorum queues refuse",
        "a stored state of each task (none is kept; the effect log counts)",
    )

    shelves: frozenset[str] = frozenset({"chaos.XQ"})  # its dead letters: what failed for good

    def __init__(self, site: Site) -> None:
        self.label = f"Dramatiq {metadata.version('dramatiq')}"
        self._site = site
        size = ["--processes", "1", "--threads", str(site.slots)]
        self.parties: Mapping[str, ServiceProcess] = {
            name: ProcessTree(
                name,
                [sys.executable, "-m", "dramatiq", "tests.chaos.apps.dramatiq_app", *size],
                os.environ | {"CHAOS_AMQP_URL": site.urls[name], VARIABLE: str(site.effects)},
                site.folder / f"{name}.log",
            )
            for name in WORKERS
        }
        self._broker: Any = None
        self._actor: Any = None
        self._messages: dict[int, Any] = {}
        self._confirmed: set[int] = set()

    def start(self) -> None:
        """Start it; returns when every worker consumes."""
        os.environ["CHAOS_AMQP_URL"] = self._site.urls["client"]
        from tests.chaos.apps.dramatiq_app import broker, chaos

        self._broker, self._actor = broker, chaos
        for party in self.parties.values():
            party.start()
        wait_until(self._consuming, 60.0, "the workers consume", lambda: depths(self._site.node))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit one by one, each confirmed; one that is submitted again is the same message, and may run again."""
        for job in jobs:
            if job.key in self._confirmed:
                continue
            if job.key not in self._messages:
                arguments = (job.key, job.seconds, job.failures, job.doomed)
                self._messages[job.key] = self._actor.message_with_options(args=arguments)
            try:
                self._broker.enqueue(self._messages[job.key], delay=job.delay * 1000 or None)
            except Exception as error:  # pika, sockets, its own: whatever it is, the task is not confirmed
                raise Unconfirmed(repr(error)) from error
            self._confirmed.add(job.key)

    def cancel(self, job: Job) -> None:
        """There is nothing to ask."""

    def verdict(self) -> list[str]:
        """It keeps no record that could be compared."""
        return []

    def stop(self) -> None:
        """End everything."""
        for party in self.parties.values():
            party.kill()
            party.stop()
        if self._broker is not None:
            self._broker.close()

    def _consuming(self) -> bool:
        depth = depths(self._site.node).get("chaos")
        return depth is not None and depth.consumers == len(WORKERS)
