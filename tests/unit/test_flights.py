"""What is out: its leases, the numbers of dispatches, and the mark of the confirmed ones."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.wire import Assignment, Isolation
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.express import Express
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.pace import Pace
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.tasks import Placement
from tests.support.rooms import claimed, launched

NOW = 1000.0


def new_flights() -> Flights:
    return Flights(Pace(), Express(Directory(15.0)))


@pytest.fixture
def flights() -> Flights:
    return new_flights()


def test_a_dispatch_that_lands_makes_room_once(flights: Flights) -> None:
    (placement,) = launched(flights, 1, NOW)
    flights.land(placement.lease, NOW, 0.1)
    flights.land(placement.lease, NOW, 0.1)
    flights.land("forged", NOW)
    assert (flights.out("default"), flights.by_lease) == (0, {})


def test_dispatches_are_numbered_from_the_mark(flights: Flights) -> None:
    flights.start_from(41)
    assert [placement.number for placement in flights.reserve("default", 2)] == [42, 43]
    assert len({placement.lease for placement in flights.reserve("default", 5)}) == 5


def test_the_mark_lies_below_the_first_dispatch_that_is_not_confirmed(flights: Flights) -> None:
    flights.start_from(10)
    assert flights.confirmed_up_to == 10
    first, second, third = launched(flights, 3, NOW)
    flights.confirm([second.lease, third.lease])
    assert flights.confirmed_up_to == 10
    flights.confirm([first.lease])
    assert flights.confirmed_up_to == 13


def test_a_dispatch_that_was_answered_or_never_used_does_not_hold_the_mark(flights: Flights) -> None:
    answered, unused = flights.reserve("default", 2)
    flights.launch([claimed(answered)], NOW)
    flights.land(answered.lease, NOW)
    assert flights.confirmed_up_to == 1
    flights.release("default", [unused])
    assert flights.confirmed_up_to == 2


def test_a_start_takes_over_what_is_out_and_names_what_may_not_be_in_the_broker(flights: Flights) -> None:
    found = [claimed(Placement(f"lease-{number}", number)) for number in (3, 5, 8)]
    flights.start_from(5)
    unsure = flights.adopt(found, 5, NOW)
    assert [task.number for task in unsure] == [8]
    assert [flight.confirmed for flight in flights.by_lease.values()] == [True, True, False]
    assert flights.out("default") == 3
    assert flights.confirmed_up_to == 7
    assert flights.reserve("default", 1)[0].number == 9


def test_what_is_known_is_not_taken_over_twice(flights: Flights) -> None:
    placements = launched(flights, 2, NOW)
    assert flights.adopt([claimed(placement) for placement in placements], -1, NOW) == []
    assert flights.out("default") == 2


def test_the_mark_does_not_pass_a_stray_with_a_lower_number(flights: Flights) -> None:
    """A commit whose answer was lost: its dispatches are found later, behind newer ones."""
    stray, *_ = flights.reserve("default", 1)
    flights.release("default", [stray])
    launched(flights, 2, NOW)
    assert flights.adopt([claimed(stray)], -1, NOW) != []
    assert flights.confirmed_up_to == stray.number - 1


class Bookkeeping(RuleBasedStateMachine):
    """Whatever happens in whatever order, the books agree with a plain model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.flights = new_flights()
        self.reserved: list[Placement] = []
        self.flying: dict[str, int] = {}
        self.confirmed: set[str] = set()

    @rule(count=st.integers(1, 5))
    def reserve(self, count: int) -> None:
        self.reserved += self.flights.reserve("default", count)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.flights.release("default", [self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1)))])

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def launch(self, data: st.DataObject) -> None:
        placement = self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1)))
        self.flights.launch([claimed(placement)], NOW)
        self.flying[placement.lease] = placement.number

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), known=st.booleans())
    def confirm(self, data: st.DataObject, known: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.flying))) if known else "gone"
        self.flights.confirm([lease])
        self.confirmed.add(lease)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), ran=st.booleans())
    def land(self, data: st.DataObject, ran: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.flying)))
        self.flights.land(lease, NOW, 0.01 if ran else None)
        del self.flying[lease]

    @invariant()
    def the_books_agree(self) -> None:
        assert set(self.flights.by_lease) == set(self.flying)
        assert self.flights.out("default") == len(self.flying) + len(self.reserved)
        unsure = [number for lease, number in self.flying.items() if lease not in self.confirmed]
        unsure += [placement.number for placement in self.reserved]
        assert self.flights.confirmed_up_to == min(unsure, default=self.flights._number + 1) - 1


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=100, deadline=None)


def test_how_a_suspect_is_run_is_known_of_its_flight(flights: Flights) -> None:
    (placement,) = flights.reserve("default", 1)
    assignment = Assignment("task", "add", placement.lease, 2, isolation=Isolation.CHILD)
    flights.launch([ClaimedTask(assignment, "default", 4, 0.0, placement.number)], NOW)
    flight = flights.by_lease[placement.lease]
    assert (flight.isolation, flight.attempt, flight.dispatched_at) == (Isolation.CHILD, 2, NOW)
