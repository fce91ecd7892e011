"""What is out, and the room that is left: put together as the scheduler does it, without the parts around them."""

from __future__ import annotations

from collections.abc import Callable

from common.wire import Assignment
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.express import Express
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.pace import Pace
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.fleet.shares import Shares
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.tasks import Placement


def flights_and_rooms(
    directory: Directory, limit: int = 5000, *, runnable: Callable[[str, float], int] = lambda queue, now: 0
) -> tuple[Flights, Rooms]:
    """Flights, and the rooms made of them; all queues weigh the same, and have no fairness keys.

    Args:
        directory: the live workers.
        limit: the most tasks that one window may hold.
        runnable: how many queued tasks of a queue may go.
    """
    pace, shares, express = Pace(), Shares(lambda queue: 1.0), Express(directory)
    flights = Flights(pace, express, used=shares.used)
    rooms = Rooms(directory, flights, pace, shares, express, limit, runnable=runnable, keyed=lambda queue: False)
    return flights, rooms


def claimed(placement: Placement, queue: str = "default", name: str = "add") -> ClaimedTask:
    """A task that was claimed for a place."""
    assignment = Assignment(f"task-{placement.number}", name, placement.lease, 1)
    return ClaimedTask(assignment, queue, 4, 0.0, placement.number)


def launched(
    flights: Flights, count: int, now: float, *, queue: str = "default", name: str = "add"
) -> list[Placement]:  # fmt: skip
    """So many tasks go out at `now` (monotonic seconds); their places."""
    placements = flights.reserve(queue, count)
    flights.launch([claimed(placement, queue, name) for placement in placements], now)
    return placements
