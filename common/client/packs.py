"""Submissions on their way: what waits to be published, what is published and unconfirmed, and until when.

Calls that meet while other publishes are in flight share a message. A message whose connection died is published again
with the same ids: the scheduler stores an id once, so that is safe. What has no confirm at its deadline is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import Raw, Struct

from common.errors import ClientClosed, SubmissionRefused, SubmissionUnknown, WarrenError
from common.wire import MAX_PACK_BYTES, MAX_PACK_ITEMS, RawSubmission, encode

IN_FLIGHT: Final = 8
"""Submissions published and unconfirmed at a time."""
WINDOW: Final = 16
"""Submissions of one `submit_many` that wait to be confirmed at a time."""


class Fault(Struct, frozen=True):
    """Why a submission was not confirmed.

    Attributes:
        reason: for people.
        refused: it did not happen; otherwise it may have.
        closed: the client was closed.
    """

    reason: str
    refused: bool = False
    closed: bool = False


class Ticket:
    """One call of `submit` or `submit_many` that waits for the confirms of its packs.

    Attributes:
        ids: the call's task ids, in order.
        left: packs of this call that are not settled.
        taken: packs of this call that were confirmed.
        faults: what went wrong with the others.
    """

    __slots__ = ("_notify", "faults", "ids", "left", "taken")

    def __init__(self, ids: list[str], notify: Callable[[Ticket], None]) -> None:
        self.ids = ids
        self.left = 0
        self.taken = 0
        self.faults: list[Fault] = []
        self._notify = notify

    def settle(self, fault: Fault | None) -> None:
        """Count one pack as confirmed, or as not."""
        self.left -= 1
        if fault is None:
            self.taken += 1
        else:
            self.faults.append(fault)
        self._notify(self)

    def check(self) -> None:
        """Raise what the faults so far amount to.

        Raises:
            ClientClosed: the client was closed meanwhile.
            SubmissionRefused: the broker took nothing of this call.
            SubmissionUnknown: all or a part of it may have been taken.
        """
        if not self.faults:
            return
        first = self.faults[0]
        if any(fault.closed for fault in self.faults):
            raise ClientClosed(f"{first.reason}; it may have been submitted: {_named(self.ids)}")
        raise self._error(first)

    def _error(self, first: Fault) -> WarrenError:
        if not self.taken and not self.left and all(fault.refused for fault in self.faults):
            return SubmissionRefused(f"not submitted: {first.reason} ({_named(self.ids)})", self.ids)
        return SubmissionUnknown(
            f"no confirm: {first.reason}; submit again with the same ids to be sure ({_named(self.ids)})", self.ids
        )


class Pack:
    """One submission message.

    Attributes:
        body: the encoded message.
        tickets: the calls that it belongs to.
        deadline: when it counts as unknown, in the core's time.
        doubtful: a connection ended under it, so that it may have been taken.
        settled: its outcome has been told to its tickets.
        tries: how often it was published.
    """

    __slots__ = ("body", "deadline", "doubtful", "settled", "tickets", "tries")

    def __init__(self, tasks: Sequence[bytes], tickets: list[Ticket], deadline: float = 0.0) -> None:
        self.body = encode(RawSubmission([Raw(task) for task in tasks]))
        self.tickets = tickets
        self.deadline = deadline
        self.doubtful = False
        self.settled = False
        self.tries = 0

    def settle(self, fault: Fault | None) -> None:
        """Tell the tickets, once."""
        if self.settled:
            return
        self.settled = True
        for ticket in self.tickets:
            ticket.settle(fault)


class Outbox:
    """Everything that waits for a confirm.

    Args:
        timeout: seconds from the call until a pack without a confirm is unknown.
        in_flight: packs published and unconfirmed at a time.
    """

    def __init__(self, timeout: float, in_flight: int = IN_FLIGHT) -> None:
        self._timeout = timeout
        self._limit = in_flight
        self._loose: deque[tuple[bytes, Ticket, float]] = deque()
        self._packs: deque[Pack] = deque()
        self._again: deque[Pack] = deque()
        self._in_flight: dict[Pack, None] = {}
        self._ever_confirmed = False
        self._suspects = 0
        """Packs one of which made the broker close the channel: they go out one at a time."""

    def add(self, task: bytes, ticket: Ticket, now: float) -> None:
        """Take one encoded task of a call of its own."""
        ticket.left += 1
        self._loose.append((task, ticket, now + self._timeout))

    def add_pack(self, pack: Pack, now: float) -> None:
        """Take one message with tasks of one call."""
        pack.tickets[0].left += 1
        pack.deadline = now + self._timeout
        self._packs.append(pack)

    def is_in_flight(self, pack: Pack) -> bool:
        """Whether it is published and unsettled."""
        return pack in self._in_flight

    @property
    def idle(self) -> bool:
        """True when nothing waits, neither to be published nor to be confirmed."""
        return not (self._loose or self._packs or self._again or self._in_flight)

    def take(self) -> list[Pack]:
        """The packs to publish now; each counts as in flight until it is settled or lost."""
        taken: list[Pack] = []
        limit = 1 if self._suspects else self._limit
        while len(self._in_flight) < limit:
            pack = self._next()
            if pack is None:
                break
            pack.tries += 1
            self._in_flight[pack] = None
            taken.append(pack)
        return taken

    def confirmed(self, pack: Pack) -> None:
        """The broker has taken `pack`."""
        self._ever_confirmed = True
        self._land(pack)
        pack.settle(None)

    def refused(self, pack: Pack, reason: str) -> None:
        """The broker has not taken `pack`, and will not."""
        self._land(pack)
        pack.settle(Fault(reason, refused=not pack.doubtful))

    def lost(self, pack: Pack) -> None:
        """Publish `pack` again: its connection ended before the confirm, so that it may have been taken."""
        if pack in self._in_flight:
            del self._in_flight[pack]
            pack.doubtful = True
            self._again.append(pack)

    def lost_all(self) -> None:
        """The connection of everything in flight ended; see `lost`."""
        for pack in list(self._in_flight):
            self.lost(pack)

    def exchange_missing(self) -> None:
        """The broker closed the channel because there is no submit exchange: publish everything in flight again.

        If there never was one, nothing can have been taken.
        """
        packs = list(self._in_flight)
        self._in_flight.clear()
        self._again.extend(packs)
        if self._ever_confirmed:
            for pack in packs:
                pack.doubtful = True

    def channel_closed(self, reason: str) -> None:
        """The broker closed the channel because of one of the packs in flight: find out which one."""
        packs = list(self._in_flight)
        if len(packs) == 1:
            self._suspects = 0
            self.refused(packs[0], reason)
            return
        self._suspects = len(packs)
        self.lost_all()

    def refuse_all(self, reason: str) -> None:
        """Nothing that is in flight or waits can be published."""
        self._settle_all(Fault(reason, refused=True))

    def close(self) -> None:
        """Settle everything as closed."""
        self._settle_all(Fault("the client was closed before the confirm", closed=True))

    def expire(self, now: float, trouble: str) -> None:
        """Settle as unknown what has no confirm by now.

        Args:
            now: the time.
            trouble: why there is no connection, or an empty string.
        """
        because = f", because there is no connection ({trouble})" if trouble else ""
        fault = Fault(f"none came within {self._timeout:g} s{because}")
        for pack in [pack for pack in self._in_flight if pack.deadline <= now]:
            self._land(pack)
            pack.settle(fault)
        for waiting in (self._again, self._packs):
            while waiting and waiting[0].deadline <= now:
                waiting.popleft().settle(fault)
        while self._loose and self._loose[0][2] <= now:
            self._loose.popleft()[1].settle(fault)

    def deadline(self) -> float | None:
        """When `expire` has to be called at the latest."""
        due = [pack.deadline for pack in self._in_flight]
        due += [waiting[0].deadline for waiting in (self._again, self._packs) if waiting]
        due += [self._loose[0][2]] if self._loose else []
        return min(due, default=None)

    def _land(self, pack: Pack) -> None:
        self._in_flight.pop(pack, None)
        self._suspects = max(0, self._suspects - 1)

    def _next(self) -> Pack | None:
        if self._again:
            return self._again.popleft()
        if self._loose:
            return self._collect()
        return self._packs.popleft() if self._packs else None

    def _collect(self) -> Pack:
        deadline = self._loose[0][2]
        count = _fitting(task for task, _, _ in self._loose)
        taken = [self._loose.popleft() for _ in range(count)]
        return Pack([task for task, _, _ in taken], [ticket for _, ticket, _ in taken], deadline)

    def _settle_all(self, fault: Fault) -> None:
        packs = [*self._in_flight, *self._again, *self._packs]
        loose = [ticket for _, ticket, _ in self._loose]
        for waiting in (self._again, self._packs, self._loose):
            waiting.clear()
        self._in_flight.clear()
        self._suspects = 0
        for pack in packs:
            pack.settle(Fault(fault.reason, fault.refused and not pack.doubtful, fault.closed))
        for ticket in loose:
            ticket.settle(fault)


def split(tasks: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """`tasks` in order, cut into what goes into one message each."""
    start = 0
    while start < len(tasks):
        count = _fitting(islice(tasks, start, None))
        yield tasks[start : start + count]
        start += count


def _fitting(tasks: Iterable[bytes]) -> int:
    """How many of `tasks` one message holds; at least one, since a larger one travels alone."""
    count, size = 0, len(b'{"tasks":[]}')
    for task in islice(tasks, MAX_PACK_ITEMS):
        size += len(task) + 1
        if count and size > MAX_PACK_BYTES:
            break
        count += 1
    return count


def _named(ids: Sequence[str]) -> str:
    return f"task {ids[0]}" if len(ids) == 1 else f"{len(ids)} tasks"
