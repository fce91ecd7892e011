"""What a run needs of a system under test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from deploy.local import BrokerError, RabbitNode
from deploy.local.administration import Depth
from tests.chaos.workload import Job
from tests.support.services import ServiceProcess


class Site(NamedTuple):
    """Where a system runs.

    Attributes:
        node: the broker, which is nobody else's.
        urls: the way to it for each party, through a proxy of its own.
        folder: for logs, databases and the effect log.
        slots: tasks that each worker may run at a time.
    """

    node: RabbitNode
    urls: Mapping[str, str]
    folder: Path
    slots: int

    @property
    def effects(self) -> Path:
        """The effect log."""
        return self.folder / "effects.log"


def depths(node: RabbitNode) -> Mapping[str, Depth]:
    """How full each queue is; nothing while queues come and go, when the node cannot say."""
    try:
        return node.queue_depths()
    except BrokerError:
        return {}


class Unconfirmed(Exception):
    """A publish failed, or nobody knows: it has to be done again."""


class System(Protocol):
    """One system, from its start to its stop.

    Attributes:
        name: on the command line.
        label: for people, with its version.
        setup: how it is set up, in a line.
        lacks: what of the load and the faults it has no notion of.
        parties: its processes by the names that faults call them.
        shelves: queues in which messages are meant to stay.
    """

    name: str
    label: str
    setup: str
    lacks: tuple[str, ...]
    parties: Mapping[str, ServiceProcess]
    shelves: frozenset[str]

    def start(self) -> None:
        """Start it; returns when it is ready."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit; returns when all are confirmed.

        Raises:
            Unconfirmed: not all are, as far as is known; the same call again goes on with the rest.
        """

    def cancel(self, job: Job) -> str | None:
        """Ask for a task to be cancelled.

        Returns:
            The state that is answered; empty if nobody answers; None if it was not even asked.
        """

    def verdict(self) -> list[str]:
        """What the system itself says that is wrong, once all has settled: nothing, for one that keeps no record."""

    def stop(self) -> None:
        """End everything."""
