"""The room that is left: windows, what is out, and queues that share workers."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from common.wire import Beat
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.rooms import Rooms
from tests.support.rooms import flights_and_rooms, launched

NOW = 1000.0


class Site(NamedTuple):
    """What is out, and the room that is left."""

    flights: Flights
    rooms: Rooms


def with_workers(*workers: tuple[list[str], int], runnable: int = 0) -> Site:
    """A site with workers of these queues and slots; so many tasks wait in each queue."""
    directory = Directory(15.0)
    for number, (queues, slots) in enumerate(workers):
        directory.hear(Beat(f"w{number}", 1, queues, slots, [], []), NOW)
    return Site(*flights_and_rooms(directory, runnable=lambda queue, now: runnable))


@pytest.fixture
def site() -> Site:
    return with_workers((["default"], 4), (["default"], 6))


def test_there_is_room_for_a_task_in_each_slot(site: Site) -> None:
    assert site.rooms.room("default", NOW) == 10
    assert site.rooms.room("email", NOW) == 0


def test_reserving_takes_room_and_releasing_gives_it_back(site: Site) -> None:
    placements = site.flights.reserve("default", 7)
    assert site.rooms.room("default", NOW) == 3
    site.flights.release("default", placements[2:])
    assert site.rooms.room("default", NOW) == 8


def test_a_paused_queue_has_no_room(site: Site) -> None:
    site.flights.paused.add("default")
    assert site.rooms.room("default", NOW) == 0


def test_completions_open_the_window(site: Site) -> None:
    for placement in launched(site.flights, 10, NOW, name="short"):
        site.flights.land(placement.lease, NOW, 0.001)
    assert site.rooms.room("default", NOW) == 10 + 10
    assert site.rooms.window("default", NOW).bundle == 5


def test_what_comes_back_unrun_is_no_completion(site: Site) -> None:
    for placement in launched(site.flights, 10, NOW):
        site.flights.land(placement.lease, NOW)
    assert site.rooms.room("default", NOW) == 10


def test_a_slow_path_widens_the_horizon(site: Site) -> None:
    assert site.rooms.room("default", NOW) == 10
    for placement in launched(site.flights, 2, NOW, name="short"):
        site.flights.land(placement.lease, NOW + 1.0, 0.05)
    assert site.rooms.window("default", NOW + 1.0).tasks == 10 + 38


def test_queues_that_share_workers_share_the_slots() -> None:
    site = with_workers((["default", "email"], 10), runnable=100)
    assert (site.rooms.room("default", NOW), site.rooms.room("email", NOW)) == (5, 5)
    placements = launched(site.flights, 10, NOW)
    assert site.rooms.room("email", NOW) == 1, "no slot is free, but the next is for this one"
    for placement in placements[:3]:
        site.flights.land(placement.lease, NOW)
    assert site.rooms.room("email", NOW) == 3
    assert site.rooms.room("default", NOW) == 0, "it has more than its half still"


def test_a_queue_never_starves_for_those_it_shares_with() -> None:
    site = with_workers((["a", "b", "c"], 1))
    launched(site.flights, 1, NOW, queue="a")
    launched(site.flights, 1, NOW, queue="b")
    assert site.rooms.room("c", NOW) == 1
