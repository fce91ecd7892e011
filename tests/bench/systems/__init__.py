"""The systems under measurement, one file each, all behind the same small interface."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from tests.bench.site import Site


class Burst(msgspec.Struct, frozen=True):
    """How long `n` tasks took: until the last was accepted by the broker, and until the last result was here."""

    n: int
    seconds: float
    accepted_seconds: float


class Doomed(msgspec.Struct, frozen=True):
    """What became of tasks beside one that kills its process: how many were done, and how the killer ended."""

    done: int
    killer: str = ""


class Command(msgspec.Struct, frozen=True):
    """One service to start: the word it has in the report, its arguments, and what to add to its environment."""

    name: str
    argv: list[str]
    environment: dict[str, str] = {}


class Leftovers(msgspec.Struct, frozen=True):
    """The durable queues and exchanges that a run leaves on the broker."""

    queues: list[str]
    exchanges: list[str]


class Session(Protocol):
    """A connected client, used by one thread, in a process of its own."""

    @property
    def bursts(self) -> Mapping[str, Callable[[int], Burst]]:
        """Return the ways to submit `n` no-op tasks and wait for all results, by the workload's name."""

    def round_trip(self, n: int) -> list[float]:
        """Submit `n` tasks, each after the result of the one before, and return the seconds each took."""

    def close(self) -> None:
        """Leave the broker."""


class System(Protocol):
    """A task system in the quickest configuration that keeps the promised durability."""

    name: str
    label: str
    note: str  # how it is configured, for the report
    needs_redis: bool
    distributions: tuple[str, ...]  # whose versions are reported
    workloads: tuple[str, ...]

    def site(self, site: Site) -> Site:
        """Return the site with this system's own settings."""

    def commands(self, site: Site) -> list[Command]:
        """Return the services to start, in order."""

    def connect(self, site: Site) -> Session:
        """Connect a client; services may still be on their way up."""

    def leftovers(self, site: Site) -> Leftovers:
        """Return what to delete from a broker that is not ours to throw away."""
