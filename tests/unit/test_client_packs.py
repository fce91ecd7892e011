"""Submissions on their way: shared, published again, refused, given up."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.client.packs import IN_FLIGHT, Outbox, Pack, Ticket, split
from common.errors import ClientClosed, SubmissionRefused, SubmissionUnknown
from common.wire import MAX_PACK_BYTES, RawSubmission, decode

TIMEOUT = 30.0


def ticket(*ids: str) -> Ticket:
    return Ticket(list(ids or ("id",)), lambda _: None)


def bodies(packs: list[Pack]) -> list[list[object]]:
    return [[msgspec.json.decode(raw) for raw in decode(RawSubmission, pack.body).tasks] for pack in packs]


def test_calls_that_meet_share_a_message() -> None:
    outbox, tickets = Outbox(TIMEOUT), [ticket() for _ in range(3)]
    for number, each in enumerate(tickets):
        outbox.add(str(number).encode(), each, 0)
    packs = outbox.take()
    assert bodies(packs) == [[0, 1, 2]]

    outbox.confirmed(packs[0])
    assert [each.left for each in tickets] == [0, 0, 0]
    assert outbox.idle


def test_a_message_closes_at_its_limits_and_a_larger_task_travels_alone() -> None:
    assert [len(part) for part in split([b"1"] * 2500)] == [1000, 1000, 500]
    large = b"x" * (MAX_PACK_BYTES // 2)
    assert [len(part) for part in split([large, b"1", large, b"1" * MAX_PACK_BYTES, b"1"])] == [2, 1, 1, 1]
    assert list(split([])) == []


def test_only_so_many_are_in_flight() -> None:
    outbox, mine = Outbox(TIMEOUT), ticket()
    for _ in range(IN_FLIGHT + 3):
        outbox.add_pack(Pack([b"1"], [mine]), 0)
    packs = outbox.take()
    assert len(packs) == IN_FLIGHT
    assert outbox.take() == []

    outbox.confirmed(packs[3])
    assert len(outbox.take()) == 1
    assert (mine.left, mine.taken) == (IN_FLIGHT + 2, 1)


def test_what_lost_its_connection_is_published_again_first() -> None:
    outbox, first, second = Outbox(TIMEOUT), ticket(), ticket()
    outbox.add(b"1", first, 0)
    (pack,) = outbox.take()
    outbox.add(b"2", second, 0)
    outbox.lost_all()

    packs = outbox.take()
    assert packs[0] is pack
    assert bodies(packs) == [[1], [2]]


def test_no_confirm_in_time_is_unknown_and_a_late_one_changes_nothing() -> None:
    outbox, mine = Outbox(TIMEOUT), ticket("a")
    outbox.add(b"1", mine, 5)
    (pack,) = outbox.take()
    outbox.expire(5 + TIMEOUT - 0.01, "")
    assert mine.left == 1
    assert outbox.deadline() == 5 + TIMEOUT

    outbox.expire(5 + TIMEOUT, "")
    outbox.confirmed(pack)
    assert outbox.deadline() is None
    assert (mine.left, mine.taken, len(mine.faults)) == (0, 0, 1)
    with pytest.raises(SubmissionUnknown, match=r"none came within 30 s.*same ids.*task a") as caught:
        mine.check()
    assert caught.value.ids == ("a",)


def test_what_waits_expires_as_well_with_the_trouble_as_the_reason() -> None:
    outbox, mine, loose = Outbox(TIMEOUT), ticket(), ticket()
    outbox.add_pack(Pack([b"1"], [mine]), 0)
    outbox.add(b"2", loose, 0)
    outbox.expire(TIMEOUT, "connection refused")

    for each in (mine, loose):
        with pytest.raises(SubmissionUnknown, match="connection refused"):
            each.check()
    assert outbox.idle


def test_a_refusal_after_a_loss_is_unknown() -> None:
    outbox, surely, perhaps = Outbox(TIMEOUT), ticket(), ticket()
    outbox.add(b"1", perhaps, 0)
    outbox.take()
    outbox.lost_all()
    outbox.add(b"2", surely, 0)
    for pack in outbox.take():
        outbox.refused(pack, "nacked")

    with pytest.raises(SubmissionRefused, match="nacked"):
        surely.check()
    with pytest.raises(SubmissionUnknown, match="nacked"):
        perhaps.check()


def test_of_many_packs_one_refused_is_unknown_for_the_whole_call() -> None:
    outbox, mine = Outbox(TIMEOUT), ticket("a", "b")
    for _ in range(2):
        outbox.add_pack(Pack([b"1"], [mine]), 0)
    first, second = outbox.take()
    outbox.confirmed(first)
    outbox.refused(second, "nacked")

    with pytest.raises(SubmissionUnknown) as caught:
        mine.check()
    assert caught.value.ids == ("a", "b")


def test_the_pack_for_which_the_broker_closes_the_channel_is_found() -> None:
    outbox, tickets = Outbox(TIMEOUT), [ticket(str(number)) for number in range(3)]
    for each in tickets:
        outbox.add_pack(Pack([each.ids[0].encode()], [each]), 0)
    packs = outbox.take()
    guilty = packs[1]
    outbox.channel_closed("406 too large")

    refused = []
    while not outbox.idle:
        (pack,) = outbox.take()
        if pack is guilty:
            refused.append(pack)
            outbox.channel_closed("406 too large")
        else:
            outbox.confirmed(pack)
    assert refused == [guilty]
    assert [len(each.faults) for each in tickets] == [0, 1, 0]

    for _ in range(3):
        outbox.add_pack(Pack([b"1"], [ticket()]), 0)
    assert len(outbox.take()) == 3, "afterwards several go out together again"


def test_a_missing_exchange_that_never_was_there_has_taken_nothing() -> None:
    outbox, mine = Outbox(TIMEOUT), ticket()
    outbox.add(b"1", mine, 0)
    outbox.take()
    outbox.exchange_missing()
    outbox.refuse_all("may not declare it")
    with pytest.raises(SubmissionRefused, match="may not declare it"):
        mine.check()

    outbox, mine, other = Outbox(TIMEOUT), ticket(), ticket()
    outbox.add(b"1", mine, 0)
    outbox.confirmed(outbox.take()[0])
    outbox.add(b"2", other, 0)
    outbox.take()
    outbox.exchange_missing()
    outbox.refuse_all("may not declare it")
    with pytest.raises(SubmissionUnknown):
        other.check()


def test_closing_settles_everything() -> None:
    outbox, tickets = Outbox(TIMEOUT), [ticket() for _ in range(3)]
    outbox.add(b"1", tickets[0], 0)
    outbox.take()
    outbox.add(b"2", tickets[1], 0)
    outbox.add_pack(Pack([b"3"], [tickets[2]]), 0)
    outbox.close()

    for each in tickets:
        with pytest.raises(ClientClosed):
            each.check()


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: each call is settled once, and nothing refused may have been taken."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(TIMEOUT)
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.notified: list[int] = []
        self.in_flight: list[Pack] = []
        self.taken_by_broker: set[Pack] = set()

    def _ticket(self) -> Ticket:
        number = len(self.tickets)
        self.notified.append(0)

        def count(_: Ticket) -> None:
            self.notified[number] += 1

        made = Ticket([str(number)], count)
        self.tickets.append(made)
        return made

    @rule()
    def submit(self) -> None:
        self.outbox.add(b"1", self._ticket(), self.now)

    @rule()
    def submit_many(self) -> None:
        self.outbox.add_pack(Pack([b"1", b"2"], [self._ticket()]), self.now)

    @rule()
    def take(self) -> None:
        self.in_flight += self.outbox.take()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def the_broker_takes_it_in_silence(self, data: st.DataObject) -> None:
        self.taken_by_broker.add(data.draw(st.sampled_from(self.in_flight)))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        pack = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(pack)
        self.outbox.confirmed(pack)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        pack = data.draw(st.sampled_from(self.in_flight))
        if pack in self.taken_by_broker and pack.tries == 1:
            return  # a broker does not nack what it has taken
        self.in_flight.remove(pack)
        self.outbox.refused(pack, "nacked")

    @rule()
    def lose_the_connection(self) -> None:
        self.in_flight.clear()
        self.outbox.lost_all()

    @rule()
    def close_the_channel(self) -> None:
        if len(self.in_flight) != 1 or self.in_flight[0] not in self.taken_by_broker:
            self.in_flight.clear()
            self.outbox.channel_closed("406")

    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.outbox.expire(self.now, "")
        self.in_flight = [pack for pack in self.in_flight if not pack.settled]

    @invariant()
    def each_call_is_settled_at_most_once(self) -> None:
        for mine, notified in zip(self.tickets, self.notified, strict=True):
            assert mine.left + notified == 1
            assert mine.taken + len(mine.faults) == notified

    @invariant()
    def the_window_holds(self) -> None:
        assert len(self.in_flight) <= IN_FLIGHT

    @invariant()
    def refused_means_that_it_did_not_happen(self) -> None:
        for pack in self.taken_by_broker:
            for mine in pack.tickets:
                assert not any(fault.refused for fault in mine.faults)

    def teardown(self) -> None:
        self.now += 2 * TIMEOUT
        self.outbox.expire(self.now, "")
        assert all(mine.left == 0 for mine in self.tickets), "nobody waits beyond the timeout"
        assert self.outbox.idle


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
